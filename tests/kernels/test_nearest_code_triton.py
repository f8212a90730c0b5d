"""The Triton kernels, on a GPU if there is one and in Triton's interpreter if not."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton")

from tstk.kernels import nearest_code

pytestmark = pytest.mark.slow  # Triton's interpreter

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def vectors(n, k, d, seed=0, spread=0.5, offset=0.0):
    """Codes, and vectors around them."""
    draw = torch.Generator().manual_seed(seed)
    codes = torch.randn(k, d, generator=draw) + offset
    z = codes[torch.randint(k, (n,), generator=draw)] + spread * torch.randn(n, d, generator=draw)
    return z.to(DEVICE), codes.to(DEVICE)


def search(z, codes):
    return nearest_code(z, codes, backend="triton")


def count_wrong_ids(z, codes, ids):
    """Count ids that are neither that of float64 nor within 8 ulps of |z|^2 + |c|^2 of it, about the mean code."""
    middle = codes.double().mean(0)
    x, c = z.double() - middle, codes.double() - middle
    squares = (x[:, None] - c).square().sum(-1)
    best, right = squares.min(1)
    size = (x.square().sum(1) + torch.maximum(c[ids].square().sum(1), c[right].square().sum(1))).float()
    ulps = 8 * (torch.nextafter(size, size.new_tensor(torch.inf)) - size)
    return int((squares.gather(1, ids[:, None])[:, 0] - best > ulps).sum())


@pytest.mark.parametrize(
    ("n", "k", "d"),
    [(0, 5, 3), (1, 2, 1), (3, 2, 512), (130, 320, 8), (257, 67, 17), (40, 1000, 64), (33, 130, 65), (20, 70, 200)],
)
def test_ids_are_those_of_float64(n, k, d):
    z, codes = vectors(n, k, d, seed=n + k + d)
    ids, squares = search(z, codes)
    assert ids.shape == squares.shape == (n,)
    assert ids.dtype == torch.int64
    assert squares.dtype == torch.float32
    assert count_wrong_ids(z, codes, ids) == 0
    exact = (z.double() - codes.double()[ids]).square().sum(1)
    scale = (z.double().square().sum(1) + codes.double().square().sum(1).max()).clamp(min=1e-9)
    assert n == 0 or ((squares - exact).abs() / scale).max() < 1e-6
    assert (squares >= 0).all()


@pytest.mark.parametrize(("n", "k", "d"), [(5, 200, 8), (20, 130, 12), (3, 200, 70)])
def test_a_codebook_divided_among_programs_gives_the_same_ids(monkeypatch, n, k, d):
    from tstk.kernels.nearest_code import triton

    monkeypatch.setattr(triton, "MIN_TILES_PER_SPLIT", 1)
    z, codes = vectors(n, k, d, seed=k)
    z[n - 1, 0] = torch.nan
    merged = []
    merge = triton._merge_splits_kernel
    monkeypatch.setattr(triton, "_merge_splits_kernel", {(1,): lambda *args, **options: merged.append(args[6])})
    search(z, codes)
    assert merged[0] > 1  # this many splits
    monkeypatch.setattr(triton, "_merge_splits_kernel", merge)
    divided = search(z, codes)
    monkeypatch.setattr(triton, "MIN_TILES_PER_SPLIT", 10**6)
    whole = search(z, codes)
    assert count_wrong_ids(z[:-1], codes, divided[0][:-1]) == 0
    for a, b in zip(divided, whole, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)
    codes[k - 1, 0] = torch.inf
    assert search(z, codes)[1].isnan().all()


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("d", [8, 20, 21, 64, 65])
def test_large_and_small_tiles_give_the_ids_of_float64(monkeypatch, d, few):
    from tstk.kernels.nearest_code import triton

    monkeypatch.setattr(triton, "MIN_PROGRAMS", 10**6 if few else 0)
    monkeypatch.setattr(triton, "MIN_TILES_PER_SPLIT", 10**6)
    z, codes = vectors(90, 100, d, seed=d)
    assert count_wrong_ids(z, codes, search(z, codes)[0]) == 0


@pytest.mark.parametrize("seed", range(6))
def test_ids_are_those_of_float64_at_random_sizes(seed):
    draw = torch.Generator().manual_seed(seed)
    n, k, d = (int(torch.randint(1, top, (), generator=draw)) for top in (300, 300, 90))
    z, codes = vectors(n, k + 1, d, seed, spread=float(torch.rand((), generator=draw)) * 2)
    assert count_wrong_ids(z, codes, search(z, codes)[0]) == 0


@pytest.mark.parametrize(("k", "d"), [(2, 1), (67, 8), (320, 33), (200, 100)])
def test_the_first_of_equal_codes_wins(k, d):
    z, codes = vectors(150, k, d)
    codes = codes[torch.randint(k, (k,), generator=torch.Generator().manual_seed(k))]
    same = codes.unique(dim=0, return_inverse=True)[1]
    first = (same[:, None] == same).to(torch.uint8).argmax(1)
    for vector in (z, codes):
        ids, _ = search(vector, codes)
        assert (first[ids] == ids).all()


@pytest.mark.parametrize("offset", [1e4, -3e5])
def test_a_common_offset_costs_no_digits(offset):
    z, codes = vectors(200, 130, 8, offset=offset)
    assert count_wrong_ids(z, codes, search(z, codes)[0]) == 0


def test_what_is_not_finite_gets_code_0_and_distance_nan():
    z, codes = vectors(140, 40, 8)
    before, _ = search(z, codes)
    z[3, 2], z[5, 0], z[130, 7], z[131] = torch.nan, torch.inf, -torch.inf, 1e30
    odd = torch.tensor([3, 5, 130, 131], device=DEVICE)
    ids, squares = search(z, codes)
    assert (ids[odd] == 0).all()
    assert squares[odd].isnan().all()
    rest = torch.ones(140, dtype=torch.bool, device=DEVICE).index_fill(0, odd, False)
    assert (ids[rest] == before[rest]).all()
    assert squares[rest].isfinite().all()
    z[3, 2] = -3e38
    assert search(z, codes)[1][3].isnan()
    for bad in (torch.nan, 1e25):
        codes[7, 1] = bad
        ids, squares = search(z, codes)
        assert (ids == 0).all()
        assert squares.isnan().all()


def test_any_leading_dimensions_strides_and_types_are_taken():
    z, codes = vectors(60, 30, 8)
    ids, _ = search(z, codes)
    assert search(z.reshape(3, 4, 5, 8), codes)[0].shape == (3, 4, 5)
    assert count_wrong_ids(z, codes, search(z.reshape(3, 4, 5, 8), codes)[0].flatten()) == 0
    strided = torch.stack([z, z], 2)[..., 0]
    assert count_wrong_ids(z, codes, search(strided, codes.T.contiguous().T)[0]) == count_wrong_ids(z, codes, ids) == 0
    for kind in (torch.float16, torch.bfloat16):
        low, far = search(z.to(kind), codes)
        assert far.dtype == torch.float32
        assert count_wrong_ids(z.to(kind).float(), codes, low) == 0


def test_two_runs_give_the_same_bits():
    z, codes = vectors(200, 100, 8)
    for first, second in zip(search(z, codes), search(z, codes), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize(("n", "kernel"), [(8128, "few rows"), (8129, "search")])
def test_a_search_looks_up_only_the_sizes_it_uses(n, kernel):
    from benchmarks.tune import record_lookups
    from tstk.kernels.nearest_code import triton

    with record_lookups(triton) as (_, lookups):
        triton._choose_search_tiles(n, 64)
    assert list(lookups) == [("CONFIGS", (kernel, 64))]


@pytest.mark.slow
def test_the_operators_are_registered_soundly():
    z, codes = vectors(20, 9, 3)
    search(z, codes)
    torch.library.opcheck(torch.ops.tstk.nearest_code.default, (z, codes))


@pytest.mark.slow
def test_a_compiler_takes_the_whole_graph():
    z, codes = vectors(40, 9, 3)
    compiled = torch.compile(search, fullgraph=True, backend="aot_eager")
    for a, b in zip(compiled(z, codes), search(z, codes), strict=True):
        torch.testing.assert_close(a, b)
