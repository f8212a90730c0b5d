"""Random numbers keyed by sample: independent of the batch, and statistically random."""

import torch

from tstk.core.rng import SampleRNG


def draw(key, *shape, seed=3, step=5, nth=1, **options):
    draws = SampleRNG(seed, step, torch.as_tensor(key))
    for _ in range(nth):
        numbers = draws.uniform(*shape, **options)
    return numbers


def test_a_sample_gets_the_same_numbers_whatever_its_batch():
    whole = draw(range(50), 7)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(draw(order, 7), whole[order])
    assert torch.equal(draw([31], 7)[0], whole[31])
    assert torch.equal(draw([31, 2, 31], 7), whole[[31, 2, 31]])


def test_a_longer_draw_begins_with_the_shorter_one():
    assert torch.equal(draw(range(9), 20)[:, :6], draw(range(9), 6))


def test_seed_step_sample_and_draw_each_change_the_numbers():
    reference = draw([4], 100)
    for other in (draw([4], 100, seed=4), draw([4], 100, step=6), draw([5], 100), draw([4], 100, nth=2)):
        assert (other == reference).float().mean() < 0.05


def test_shared_numbers_are_equal_for_all_rows_and_whatever_the_batch():
    numbers = draw([8, 1, 30], 12, shared=True)
    assert torch.equal(numbers[0], numbers[1])
    assert torch.equal(draw([2], 12, shared=True)[0], numbers[0])


def test_shapes_follow_the_request():
    assert draw([1, 2, 3]).shape == (3,)
    assert draw([1, 2, 3], 4, 5).shape == (3, 4, 5)


def test_numbers_are_uniform_on_the_unit_interval():
    numbers = draw(range(1000), 100).flatten()
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.005
    assert abs(numbers.var() - 1 / 12) < 0.001
    counts = numbers.mul(100).long().bincount(minlength=100)
    # chi-square with 99 degrees of freedom: mean 99, deviation 14
    assert ((counts - 1000).square() / 1000).sum() < 99 + 6 * 14


def test_neighbouring_samples_steps_draws_and_slots_are_uncorrelated():
    base = draw(range(2000), 20)
    pairs = {
        "samples": (base[:-1], base[1:]),
        "slots": (base[:, :-1], base[:, 1:]),
        "steps": (base, draw(range(2000), 20, step=6)),
        "seeds": (base, draw(range(2000), 20, seed=4)),
        "draws": (base, draw(range(2000), 20, nth=2)),
        "diagonal": (base[:-1, 1:], base[1:, :-1]),
    }
    for name, (a, b) in pairs.items():
        # deviation of the correlation of 38,000 independent pairs: 0.005
        assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.03, name


def test_fresh_draws_follow_torchs_own_seed():
    key = torch.arange(3)
    torch.manual_seed(1)
    first = SampleRNG.from_global_seed(key).uniform(4)
    second = SampleRNG.from_global_seed(key).uniform(4)
    torch.manual_seed(1)
    assert torch.equal(SampleRNG.from_global_seed(key).uniform(4), first)
    assert not torch.equal(first, second)
