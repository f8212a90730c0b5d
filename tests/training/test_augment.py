"""Augmentations preserve missing samples, lengths and independence of the batch."""

import pytest
import torch

from tstk.core.rng import SampleRNG
from tstk.core.types import Series
from tstk.errors import OptionError
from tstk.training.augment import (
    add_jitter,
    apply_mixup,
    parse_augmentations,
    permute_segments,
    random_crop,
    scale_channels,
    warp_time,
)


def batch(lengths=(20, 20, 9)):
    x = torch.arange(20.0).expand(len(lengths), 2, -1).clone()
    observed = torch.arange(20) < torch.tensor(lengths)[:, None, None].expand(-1, 2, -1)
    return Series(x.masked_fill(~observed, 0), observed, sample_id=torch.arange(len(lengths)))


def test_a_crop_is_a_run_of_samples_inside_the_series():
    starts = set()
    for step in range(60):
        cut = random_crop(batch(), 6, SampleRNG(0, step, torch.arange(3)))
        assert cut.x.shape == (3, 2, 6)
        assert (cut.x.diff(dim=2) == 1).all()
        assert cut.observed.all()
        starts |= {(row, int(first)) for row, first in enumerate(cut.x[:, 0, 0])}
    assert {first for row, first in starts if row == 0} == set(range(15))
    assert {first for row, first in starts if row == 2} == set(range(4))


def test_what_is_missing_stays_missing_and_short_series_keep_their_end():
    series = batch()
    series.observed[0, 1, 3:15] = False
    cut = random_crop(series, 12, SampleRNG(0, 1, torch.arange(3)))
    start = int(cut.x[0, 0, 0])
    assert cut.observed[0, 1].tolist() == series.observed[0, 1, start : start + 12].tolist()
    assert cut.observed[2, 0].tolist() == [True] * 9 + [False] * 3


def test_a_crop_as_long_as_the_series_changes_nothing():
    series = batch()
    assert random_crop(series, 20, SampleRNG(0, 1, torch.arange(3))) is series
    assert random_crop(series, 30, SampleRNG(0, 1, torch.arange(3))) is series


def make_labelled(count=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 2, 5, generator=generator)
    return Series(x, None, torch.arange(count) % 3, torch.arange(count))


@pytest.mark.slow
def test_a_mixture_is_two_series_of_the_batch_and_their_labels_in_the_same_shares():
    series = make_labelled()
    mixed = apply_mixup(series, 0.4, 3, SampleRNG(0, 1, series.sample_id))
    assert torch.allclose(mixed.y.sum(1), torch.ones(64))
    partners = set()
    for x, y, original, label in zip(mixed.x, mixed.y, series.x, series.y, strict=True):
        # x = mine + (1 - share) (other - mine): the difference points at one of the others
        fits = []
        for i, other in enumerate(series.x):
            way = (other - original).flatten()
            part = float((x - original).flatten() @ way / (way @ way).clamp(min=1e-9))
            if torch.allclose(original + part * (other - original), x, atol=1e-5) and -1e-4 < part < 1.0001:
                fits.append((i, part))
        assert fits
        want = [torch.eye(3)[label] * (1 - p) + torch.eye(3)[series.y[i]] * p for i, p in fits]
        assert any(torch.allclose(w, y, atol=1e-4) for w in want)
        partners.add(fits[0][0])
    assert len(partners) > 20


def test_shares_follow_the_beta_distribution_and_belong_to_the_series():
    series = make_labelled(4000)
    series.y = torch.arange(4000) % 2
    shares = apply_mixup(series, 0.2, 2, SampleRNG(0, 1, series.sample_id)).y
    own = shares.gather(1, series.y[:, None])[:, 0]
    crossed = own[own < 0.999999]
    # Beta(0.2, 0.2) has variance 1 / (4 (2 * 0.2 + 1)); series of equal classes do not show their shares
    assert abs(crossed.var() - 1 / (4 * 1.4)) < 0.03
    assert abs(crossed.mean() - 0.5) < 0.05
    few = series.replace(x=series.x[:9], y=series.y[:9], sample_id=series.sample_id[:9])
    again = apply_mixup(few, 0.2, 2, SampleRNG(0, 1, few.sample_id)).y.gather(1, few.y[:, None])[:, 0]
    is_mixed = (own[:9] < 0.999999) & (again < 0.999999)
    assert is_mixed.any()
    assert torch.allclose(own[:9][is_mixed], again[is_mixed])


def test_what_only_one_of_two_series_has_stands_alone_and_unknown_labels_count_for_nothing():
    series = make_labelled(2)
    series.y = torch.tensor([1, -1])
    series.observed = torch.ones_like(series.x, dtype=torch.bool)
    series.observed[0, 0, 2:] = series.observed[1, 0, 4:] = False
    series.x = series.x * series.observed
    mixed = apply_mixup(series, 1.0, 3, SampleRNG(0, 3, series.sample_id))
    assert torch.equal(mixed.x[:, 0, 2:4], series.x[1:, 0, 2:4].expand(2, -1))
    assert not mixed.observed[:, 0, 4].any()
    assert mixed.observed[:, 0, :4].all()
    assert (mixed.y[:, [0, 2]] == 0).all()
    assert (mixed.y[:, 1] > 0).all()
    assert (mixed.y[:, 1] < 1).all()


# ------------------------------------------------------------------ transforms by name


CHANGES = [(add_jitter, 0.1), (scale_channels, 0.2), (permute_segments, 4), (warp_time, 0.3)]


@pytest.mark.parametrize(("change", "strength"), CHANGES)
def test_the_augmentation_of_a_series_does_not_depend_on_the_batch(change, strength):
    """Independent of the batch, its longest series and the number of processes."""
    series = batch((20, 20, 9))
    alone = Series(series.x[2:, :, :9], series.observed[2:, :, :9], sample_id=series.sample_id[2:])
    together = change(series, SampleRNG(0, 5, series.sample_id), strength=strength)
    apart = change(alone, SampleRNG(0, 5, alone.sample_id), strength=strength)
    torch.testing.assert_close(together.x[2:, :, :9], apart.x)
    assert torch.equal(together.observed[2:, :, :9], apart.observed)
    assert not torch.equal(together.x, series.x)
    assert not torch.equal(together.x, change(series, SampleRNG(0, 6, series.sample_id), strength=strength).x)


@pytest.mark.parametrize(("change", "strength"), CHANGES)
def test_padding_stays_padding_and_what_is_missing_teaches_nothing(change, strength):
    series = batch((20, 20, 9))
    series.observed[0, 1, 7] = False
    clean, soiled = (series.replace(x=series.x.masked_fill(~series.observed, value)) for value in (0.0, 1e6))
    clean_output, soiled_output = (change(s, SampleRNG(0, 3, s.sample_id), strength=strength) for s in (clean, soiled))
    assert torch.equal(clean_output.observed, soiled_output.observed)
    assert torch.equal(clean_output.observed.any(1).sum(1), series.observed.any(1).sum(1))
    assert torch.equal(clean_output.x[clean_output.observed], soiled_output.x[soiled_output.observed])
    assert not clean_output.observed[2, :, 9:].any()
    assert clean_output.observed[2, :, :9].all()


def test_noise_and_factors_have_the_deviation_that_was_asked_for():
    series = Series(torch.ones(400, 3, 50), sample_id=torch.arange(400))
    noise = add_jitter(series, SampleRNG(0, 1, series.sample_id), strength=0.2).x - 1
    assert abs(float(noise.mean())) < 0.01
    assert float(noise.std()) == pytest.approx(0.2, rel=0.03)
    factors = scale_channels(series, SampleRNG(0, 1, series.sample_id), strength=0.2).x
    assert (factors == factors[..., :1]).all()
    assert float(factors[..., 0].std()) == pytest.approx(0.2, rel=0.1)


def test_a_permutation_is_the_same_samples_in_pieces():
    series = batch((20, 20, 9))
    moved = permute_segments(series, SampleRNG(0, 2, series.sample_id), strength=4)
    for row, length in enumerate((20, 20, 9)):
        assert sorted(moved.x[row, 0, :length].tolist()) == list(range(length))
        assert (moved.x[row, 0, :length].diff() != 1).sum() <= 3
    assert torch.equal(moved.x[:, 0], moved.x[:, 1])


def test_warped_time_runs_from_the_first_sample_to_the_last_and_never_back():
    series = batch((20, 20, 9))
    warped = warp_time(series, SampleRNG(0, 2, series.sample_id), strength=0.5).x
    for row, length in enumerate((20, 20, 9)):
        positions = warped[row, 0, :length]
        assert float(positions[0]) == 0
        assert float(positions[-1]) == pytest.approx(length - 1, abs=1e-3)
        assert (positions.diff() > 0).all()
        assert not torch.allclose(positions.diff(), torch.ones(length - 1), atol=0.02)


def test_strengths_are_in_deviations_of_the_data_and_changes_follow_each_other():
    series = Series(
        5000 + 100 * torch.randn(200, 1, 30, generator=torch.Generator().manual_seed(0)), sample_id=torch.arange(200)
    )
    mean, std = torch.tensor([[5000.0]]), torch.tensor([[100.0]])
    changed = parse_augmentations(["scaling=0.0001", "jitter=0.1"])(
        series, mean, std, SampleRNG(0, 1, series.sample_id)
    )
    assert float((changed.x - series.x).std()) == pytest.approx(10, rel=0.1)
    holes = series.replace(observed=torch.ones_like(series.x, dtype=torch.bool))
    holes.observed[:, :, 3] = False
    assert (parse_augmentations(["jitter"])(holes, mean, std, SampleRNG(0, 1, series.sample_id)).x[:, :, 3] == 0).all()


@pytest.mark.parametrize("text", ["permutation=1e9", "jitter=1e30", "time-warp=0", "scaling=nan"])
def test_a_strength_without_sense_is_refused(text):
    with pytest.raises(OptionError, match=f"--augment {text.partition('=')[0]} is .*expected "):
        parse_augmentations([text])
