import copy
import math
import subprocess
import sys

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from tstk.errors import OptionError
from tstk.nn.codebook import Codebook, code_usage


def make_codebook(codes=6, dim=3, seed=0, **options):
    """A codebook whose codes lie about as far apart as vectors of deviation 1."""
    torch.manual_seed(seed)
    book = Codebook(codes, dim, **options)
    with torch.no_grad():
        book.codes.copy_(torch.randn(codes, dim))
    return book


def vectors(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def nearest(z, codes):
    return (z.detach().double()[..., None, :] - codes.detach().double()).square().sum(-1).argmin(-1)


def state(book):
    return {k: v.clone() for k, v in book.state_dict().items()}


def equal_states(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.values(), other.values(), strict=True))


# ---------------------------------------------------------------- forward


def test_vectors_become_their_nearest_codes_and_gradients_pass_through():
    book, z = make_codebook(), vectors(4, 5, 3).requires_grad_()
    out = book(z)
    assert torch.equal(out.ids, nearest(z, book.codes))
    assert torch.equal(out.values, book.codes[out.ids])
    assert torch.equal(book.embed(out.ids), out.values)
    pull = vectors(4, 5, 3, seed=2)
    (dz,) = torch.autograd.grad((out.values * pull).sum(), z)
    assert torch.equal(dz, pull)


def test_each_side_is_drawn_by_its_own_weight():
    book, z = make_codebook(commitment=0.25, codebook=2.0), vectors(4, 5, 3).requires_grad_()
    out = book(z)
    gap = (book.codes[nearest(z, book.codes)] - z).detach()
    torch.testing.assert_close(out.aux_losses["commitment"], 0.25 * gap.square().mean())
    torch.testing.assert_close(out.aux_losses["codebook"], 2.0 * gap.square().mean())
    dz, dc = torch.autograd.grad(sum(out.aux_losses.values()), (z, book.codes))
    torch.testing.assert_close(dz, -0.25 * 2 * gap / gap.numel())
    want = torch.zeros(6, 3).index_add(0, out.ids.flatten(), 2.0 * 2 * gap.reshape(-1, 3) / gap.numel())
    torch.testing.assert_close(dc, want)


def test_the_entropy_term_is_that_of_vqshape():
    book = make_codebook(codes=40, dim=8, entropy=0.1, gamma=0.7, temperature=0.5, log_floor=1e-5)
    z = vectors(3, 20, 8).requires_grad_()
    p = (-torch.cdist(z.double(), book.codes.double()).square() / 0.5).softmax(-1).flatten(0, 1)

    def entropy_of(q):
        return -(q * q.clamp(min=1e-5).log()).sum(-1)

    want = 0.1 * (entropy_of(p).mean() - 0.7 * entropy_of(p.mean(0)))
    got = book(z).aux_losses["entropy"]
    torch.testing.assert_close(got, want.float(), rtol=1e-4, atol=1e-6)
    leaves = (z, book.codes)
    for a, b in zip(torch.autograd.grad(got, leaves), torch.autograd.grad(want, leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_a_weight_of_nothing_is_no_penalty():
    assert set(make_codebook(commitment=0, codebook=1)(vectors(2, 3)).aux_losses) == {"codebook"}
    assert set(make_codebook(update="ema", entropy=1)(vectors(2, 3)).aux_losses) == {"commitment", "entropy"}


def test_codes_that_are_frozen_by_a_flag_still_draw_vectors():
    book = make_codebook(entropy=0.1, temperature=1.0)
    book.codes.requires_grad_(False)
    z = vectors(10, 3).requires_grad_()
    out = book(z)
    assert set(out.aux_losses) == {"commitment", "entropy"}
    sum(out.aux_losses.values()).backward()
    assert z.grad.norm() > 0
    assert book.codes.grad is None


def test_invalid_vectors_do_not_influence_valid_ones():
    book = make_codebook(entropy=0.1, temperature=1.0)
    z, valid = vectors(4, 5, 3), torch.rand(4, 5, generator=torch.Generator().manual_seed(3)) < 0.6
    other = z.masked_fill(~valid[..., None], 77.0).requires_grad_()
    z.requires_grad_()
    one, two, three = book(z, valid).aux_losses, book(other, valid).aux_losses, book(z[valid]).aux_losses
    for name in one:
        torch.testing.assert_close(one[name], two[name])
        torch.testing.assert_close(one[name], three[name])
    (dz,) = torch.autograd.grad(sum(two.values()), other)
    assert (dz[~valid] == 0).all()
    assert sum(book(z, torch.zeros(4, 5, dtype=torch.bool)).aux_losses.values()) == 0


def test_autocast_changes_nothing():
    book, z = make_codebook(codes=64, dim=8, entropy=0.1, temperature=0.3), vectors(300, 8)

    def run(under):
        leaf = z.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=under):
            out = book(leaf)
            gradients = torch.autograd.grad(sum(out.aux_losses.values()), (leaf, book.codes))
        return out.values, out.ids, *out.aux_losses.values(), *gradients

    for a, b in zip(run(True), run(False), strict=True):
        assert torch.equal(a, b)
    assert book(z.bfloat16()).values.dtype == torch.bfloat16
    assert book(z.bfloat16()).aux_losses["commitment"].dtype == torch.float32


def test_forward_moves_nothing_and_can_be_run_again():
    book = make_codebook(update="ema", kmeans_iters=3, dead_code_threshold=0.2, entropy=0.1, temperature=1.0)
    before, z = state(book), vectors(20, 3)
    gradients = []
    for again in (False, True):
        leaf = z.clone().requires_grad_()
        out = checkpoint(book, leaf, use_reentrant=False) if again else book(leaf)
        (out.values.sum() + sum(out.aux_losses.values())).backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)
    assert equal_states(before, state(book))


def test_training_by_gradient_brings_codes_to_vectors():
    book, z = make_codebook(codes=8), vectors(200, 3)
    optimizer = torch.optim.Adam(book.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        aux = book(z).aux_losses
        optimizer.zero_grad()
        sum(aux.values()).backward()
        optimizer.step()
        losses.append(float(aux["codebook"].detach()))
    assert losses[-1] < 0.7 * losses[0]


# ---------------------------------------------------------------- after a step


def test_codes_follow_the_running_average_of_their_vectors():
    book, rest = make_codebook(update="ema", decay=0.9), 0.9
    count, total = torch.zeros(6), torch.zeros(6, 3)
    assert not list(book.parameters())
    for step in range(4):
        z = vectors(7, 4, 3, seed=step)
        before = book.codes.clone()
        ids = book(z).ids
        book.after_step([(z, ids, None)])
        for k in range(6):
            mine = z[ids == k]
            count[k] = rest * count[k] + (1 - rest) * len(mine)
            total[k] = rest * total[k] + (1 - rest) * mine.sum(0)
            want = total[k] / count[k] if count[k] else before[k]
            torch.testing.assert_close(book.codes[k], want)
    torch.testing.assert_close(book.counts, count)


def test_micro_batches_make_one_step():
    whole, parts = (make_codebook(update="ema", kmeans_iters=2, dead_code_threshold=0.1) for _ in range(2))
    for step in range(3):
        z = vectors(8, 5, 3, seed=step)
        valid = torch.rand(8, 5, generator=torch.Generator().manual_seed(step)) < 0.7
        ids = whole(z).ids
        a = whole.after_step([(z, ids, valid)])
        b = parts.after_step([(z[:3], ids[:3], valid[:3]), (z[3:], ids[3:], valid[3:])])
        assert equal_states(a, b)
        assert equal_states(state(whole), state(parts))


def test_invalid_or_non_finite_vectors_do_not_update_the_codebook():
    first, second = (make_codebook(update="ema", kmeans_iters=0, dead_code_threshold=0.3) for _ in range(2))
    z, valid = vectors(30, 3), torch.arange(30) < 20
    ids = first(z).ids
    first.after_step([(z[:18], ids[:18], None)])
    z[18], z[19, 1], z[25] = torch.nan, torch.inf, 1e9
    second.after_step([(z, ids, valid)])
    assert equal_states(state(first), state(second))


def test_a_step_may_be_of_one_vector_without_a_batch():
    single, batch = (make_codebook(update="ema") for _ in range(2))
    z = torch.ones(single.codes.shape[1])
    single.after_step([(z, single(z).ids, None)])
    batch.after_step([(z[None], batch(z[None]).ids, None)])
    assert torch.equal(single.codes, batch.codes)


def test_a_step_without_vectors_changes_no_code():
    book = make_codebook(update="ema", kmeans_iters=3, dead_code_threshold=0.2)
    before = book.codes.clone()
    z = vectors(4, 3)
    logs = book.after_step([(z, book(z).ids, torch.zeros(4, dtype=torch.bool))])
    assert torch.equal(book.codes, before)
    assert logs["usage"] == 0
    book.after_step([(z, book(z).ids, None)])
    assert not torch.equal(book.codes, before)  # only now does k-means start


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_k_means_places_codes_on_clusters_once(update):
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0], [20.0, 20.0]])
    z = (centres[:, None] + 0.1 * vectors(5, 40, 2)).flatten(0, 1)
    torch.manual_seed(4)
    book = Codebook(5, 2, update=update, kmeans_iters=20)
    again = copy.deepcopy(book)
    for b in (book, again):
        b.after_step([(z, b(z).ids, None)])
    assert equal_states(state(book), state(again))
    squares = (z[:, None] - book.codes).square().sum(-1)
    assert squares.min(1)[0].mean() < 30  # each code is a mean of clusters
    assert torch.equal(book.counts, book(z).ids.bincount(minlength=5).float())
    placed = book.codes.detach().clone()
    book.after_step([(z + 3, book(z).ids, None)])
    if update == "gradient":
        assert torch.equal(book.codes, placed)


def test_k_means_finds_what_lloyd_finds():
    book = make_codebook(codes=4, dim=2, kmeans_iters=7)
    z = vectors(60, 2)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(int(book.next_seed)))
    book.after_step([(z, book(z).ids, None)])
    centres = z[order[:4]].double()
    for _ in range(7):
        ids = nearest(z, centres)
        centres = torch.stack([z[ids == k].double().mean(0) for k in range(4)])
    torch.testing.assert_close(book.codes.double(), centres, rtol=1e-5, atol=1e-5)


def test_with_fewer_vectors_than_codes_the_others_stay():
    book, z = make_codebook(codes=9, kmeans_iters=5), vectors(4, 3)
    before = book.codes.detach().clone()
    book.after_step([(z, book(z).ids, None)])
    assert sorted(book.codes[:4].tolist()) == sorted(z.tolist())
    assert torch.equal(book.codes[4:], before[4:])


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_dead_codes_move_to_vectors_and_living_ones_do_not(update):
    book = make_codebook(codes=6, update=update, dead_code_threshold=0.2, decay=0.5)
    with torch.no_grad():
        book.codes[2], book.codes[5] = 50.0, -50.0
    z = vectors(80, 3)
    before, ids = book.codes.detach().clone(), book(z).ids
    assert set(ids.tolist()) == {0, 1, 3, 4}
    logs = book.after_step([(z, ids, None)])
    assert logs["revived"] == 2
    for k in (2, 5):
        assert (book.codes[k] == z).all(-1).any()
        assert book.counts[k] == pytest.approx(80 * 0.5 / 6)
    if update == "gradient":
        assert torch.equal(book.codes[[0, 1, 3, 4]], before[[0, 1, 3, 4]])
    assert book.after_step([(z, book(z).ids, None)])["revived"] == 0


def test_nothing_of_a_frozen_codebook_moves():
    book = make_codebook(update="ema", kmeans_iters=3, dead_code_threshold=0.5).eval()
    before, z = state(book), vectors(30, 3)
    logs = book.after_step([(z, book(z).ids, None)])
    assert equal_states(before, state(book))
    assert logs["usage"] > 0


def test_a_restored_codebook_continues_like_the_original():
    book = make_codebook(update="ema", kmeans_iters=3, dead_code_threshold=0.5)

    def steps(b, numbers):
        for step in numbers:
            z = vectors(30, 3, seed=step)
            b.after_step([(z, b(z).ids, None)])

    steps(book, range(2))
    restored = make_codebook(update="ema", kmeans_iters=3, dead_code_threshold=0.5, seed=9)
    restored.load_state_dict(state(book))
    steps(book, range(2, 6))
    steps(restored, range(2, 6))
    assert equal_states(state(book), state(restored))


def test_usage_and_perplexity_are_reported():
    logs = code_usage(torch.tensor([4, 4, 4, 4, 0, 0, 0, 0]))
    assert logs["usage"] == 0.5
    assert logs["perplexity"] == pytest.approx(4)
    uneven = code_usage(torch.tensor([9, 1]))
    assert uneven["perplexity"] == pytest.approx(math.exp(-0.9 * math.log(0.9) - 0.1 * math.log(0.1)))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"codes": 1}, "num_codes=1"), ({"update": "sgd"}, "update='sgd'"), ({"commitment": -1}, "commitment"),
        ({"temperature": 0}, "temperature=0"), ({"decay": 1}, "decay=1"), ({"kmeans_iters": -1}, "kmeans_iters=-1"),
        ({"dead_code_threshold": 1.5}, "dead_code_threshold=1.5"), ({"log_floor": 1}, "log_floor=1"),
    ],
)  # fmt: skip
def test_options_that_cannot_work_are_refused(options, named):
    with pytest.raises(OptionError, match=named):
        make_codebook(**options)


# ---------------------------------------------------------------- several processes


def one_of_two(rank, folder):
    """Update codebooks in one of two processes, on an unequal share of the vectors."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    results = {}
    for name, options in EQUAL.items():
        book = make_codebook(**options)
        for step in range(4):
            z, valid = draw_share(step, rank)
            results[name, "logs"] = book.after_step([(z, book(z).ids, valid)])
        results[name] = state(book)
    book = make_codebook(**TERM)
    z, valid = draw_share(0, rank)
    z.requires_grad_()
    out = book(z, valid)
    results["term"] = out.aux_losses["entropy"].detach()
    sum(out.aux_losses.values()).backward()
    results["gradients"] = z.grad, book.codes.grad
    torch.save(results, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


EQUAL = {
    "average": {"update": "ema"},
    "all": {"codes": 9, "update": "ema", "kmeans_iters": 4, "dead_code_threshold": 0.5, "seed": 3},
    "gradient": {"codes": 9, "kmeans_iters": 4, "dead_code_threshold": 0.5},
}
TERM = {"entropy": 0.5, "temperature": 1.0}


def draw_share(step, rank):
    """The vectors of a process: the first has 11, the second 5, and not all are valid."""
    z = vectors(16, 3, seed=step)
    valid = torch.rand(16, generator=torch.Generator().manual_seed(step)) < 0.8
    cut = slice(11) if rank == 0 else slice(11, None)
    return (z, valid) if rank is None else (z[cut].clone(), valid[cut])


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """The results of both processes."""
    folder = tmp_path_factory.mktemp("ranks")
    started = [
        subprocess.Popen([sys.executable, __file__, str(rank), folder], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        for process in started:
            _, told = process.communicate(timeout=600)
            assert process.returncode == 0, told
    finally:
        for process in started:
            process.kill()
    return [torch.load(folder / f"{r}.pt") for r in range(2)]


@pytest.mark.slow
def test_codebooks_of_two_processes_are_equal(ranks):
    for name in EQUAL:
        assert equal_states(ranks[0][name], ranks[1][name])
        assert equal_states(ranks[0][name, "logs"], ranks[1][name, "logs"])


@pytest.mark.slow
def test_two_processes_average_as_one_does(ranks):
    book = make_codebook(**EQUAL["average"])
    for step in range(4):
        z, valid = draw_share(step, None)
        logs = book.after_step([(z, book(z).ids, valid)])
    for name, value in book.state_dict().items():
        torch.testing.assert_close(ranks[0]["average"][name], value)
    torch.testing.assert_close(ranks[0]["average", "logs"], logs)


@pytest.mark.slow
def test_penalties_of_two_processes_are_those_of_one(ranks):
    book = make_codebook(**TERM)
    z, valid = draw_share(0, None)
    z.requires_grad_()
    out = book(z, valid)
    sum(out.aux_losses.values()).backward()
    torch.testing.assert_close(ranks[0]["term"], out.aux_losses["entropy"].detach())
    torch.testing.assert_close(ranks[1]["term"], ranks[0]["term"])
    # what averaging over processes makes of the gradients
    torch.testing.assert_close(sum(r["gradients"][1] for r in ranks) / 2, book.codes.grad)
    torch.testing.assert_close(torch.cat([r["gradients"][0] for r in ranks]) / 2, z.grad)


if __name__ == "__main__":
    one_of_two(int(sys.argv[1]), sys.argv[2])
