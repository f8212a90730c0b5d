from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.grids import slow_after
from tstk.errors import IncompatibleError, UnknownNameError
from tstk.kernels import nearest_code, use_backend
from tstk.kernels.nearest_code import count_codes, sum_by_code
from tstk.kernels.nearest_code.duplicates import find_first_duplicates
from tstk.kernels.threads import _get_thread_pool
from tstk.kernels.vector_quantize import LossOptions, vector_quantize

torch_backend = import_module("tstk.kernels.nearest_code.torch")

SHAPES = [  # N, K, d
    (0, 5, 3), (1, 2, 1), (1, 16384, 5), (3, 2, 512), (37, 16384, 8), (300, 320, 8), (1025, 7, 64), (611, 512, 33),
    (2049, 193, 16), (64, 1000, 512),
]  # fmt: skip


def vectors(n, k, d, seed=0, spread=0.5, offset=0.0):
    """Codes, and vectors around them."""
    draw = torch.Generator().manual_seed(seed)
    codes = torch.randn(k, d, generator=draw) + offset
    z = codes[torch.randint(k, (n,), generator=draw)] + spread * torch.randn(n, d, generator=draw)
    return z, codes


def find_wrong_ids(z, codes, ids):
    """Count ids that are neither that of float64 nor within 8 ulps of |z|^2 + |c|^2 of it, about the mean code."""
    middle = codes.double().mean(0)
    x, c = z.double() - middle, codes.double() - middle
    worst = 0
    for rows, actual in zip(x.split(512), ids.split(512), strict=True):
        squares = (rows.square().sum(1, keepdim=True) + c.square().sum(1)) - 2 * rows @ c.T
        best = squares.min(1)
        size = (rows.square().sum(1) + torch.maximum(c[actual].square().sum(1), c[best[1]].square().sum(1))).float()
        ulps = 8 * (torch.nextafter(size, size.new_tensor(torch.inf)) - size)
        gap = squares.gather(1, actual[:, None])[:, 0] - best[0]
        worst += int((gap > ulps).sum())
    return worst


class Largest(TorchDispatchMode):
    """Record the size of the largest output of any operation."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, tuple | list) else (out,):
            if isinstance(t, torch.Tensor):
                self.numel = max(self.numel, t.numel())
        return out


@pytest.mark.parametrize(("n", "k", "d"), SHAPES)
def test_ids_are_those_of_float64(n, k, d, threads):
    z, codes = vectors(n, k, d, seed=n + k + d)
    ids, squares = nearest_code(z, codes)
    assert ids.shape == squares.shape == (n,)
    assert ids.dtype == torch.int64
    assert squares.dtype == torch.float32
    assert find_wrong_ids(z, codes, ids) == 0
    exact = (z.double() - codes.double()[ids]).square().sum(1)
    # the size of the terms that the distance is a difference of
    scale = (z.double().square().sum(1) + codes.double().square().sum(1).max()).clamp(min=1e-9)
    assert n == 0 or ((squares - exact).abs() / scale).max() < 1e-6
    assert (squares >= 0).all()


@pytest.mark.parametrize("seed", range(12))
def test_ids_are_those_of_float64_at_random_sizes(seed):
    draw = torch.Generator().manual_seed(seed)
    n, k, d = (int(torch.randint(1, top, (), generator=draw)) for top in (3000, 700, 90))
    z, codes = vectors(n, k + 1, d, seed, spread=float(torch.rand((), generator=draw)) * 2)
    assert find_wrong_ids(z, codes, nearest_code(z, codes)[0]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("d", [1, 3, 8, 33, 64, 200])
@pytest.mark.parametrize("k", [2, 67, 1041])
def test_of_identical_codes_the_first_is_returned(k, d, threads):
    z, codes = with_repeats(1100, k, d)  # more rows than a thread takes, and than a piece of them has
    first = first_of(codes)
    for vector in (z, codes):
        for backend in ("torch", "reference") if len(vector) * k * d < 1e7 else ("torch",):
            ids, _ = nearest_code(vector, codes, backend=backend)
            assert torch.equal(first[ids], ids)
    if d > 1:  # with one channel, different codes are so close that rounding decides
        assert torch.equal(nearest_code(codes, codes)[0], first)


def with_repeats(n, k, d, seed=0):
    """Vectors, and codes of which the first, the last and those around multiples of 8 to 512 are repeated elsewhere."""
    z, codes = vectors(n, k, d, seed)
    draw = torch.Generator().manual_seed(seed)
    ends = {at for size in (8, 16, 32, 64, 128, 256, 512) for edge in range(0, k + 1, size) for at in (edge - 1, edge)}
    ends = torch.tensor(sorted(at for at in ends | {0, 1, k - 2, k - 1} if 0 <= at < k))
    codes[ends] = codes[ends[torch.randint(len(ends), (len(ends),), generator=draw)]]
    z[: len(codes) // 2] = codes[:n][: len(codes) // 2]
    return z, codes


def first_of(codes):
    """For each code the first that equals it in float32, by comparing all with all."""
    seen = {}
    return torch.tensor([seen.setdefault(tuple(row), i) for i, row in enumerate(codes.float().tolist())])


def perturb(search, seed=0):
    """Return `search` with each id replaced by that of a random identical code, as other rounding might."""

    def perturbed_search(z, codes):
        ids, squares = search(z, codes)
        same = first_of(codes)[ids][:, None] == first_of(codes)
        draw = torch.rand(same.shape, generator=torch.Generator().manual_seed(seed))
        return (draw * same).argmax(1), squares

    return perturbed_search


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("traced", [False, True])
def test_of_identical_codes_the_first_is_chosen_whatever_the_rounding(monkeypatch, kind, traced):
    z, codes = with_repeats(200, 67, 8)
    codes[5], codes[9] = 0.0, -0.0
    codes = codes.to(kind)
    if kind == torch.float64:
        codes[20] = codes[3] * (1 + 1e-12)  # the same in float32
    z[:67] = codes.float()
    search = perturb(torch_backend.nearest_code)
    monkeypatch.setattr(torch_backend, "nearest_code", search)
    assert not torch.equal(first_of(codes)[search(z, codes)[0]], search(z, codes)[0])
    if traced:
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    ids, _ = nearest_code(z, codes)
    assert torch.equal(first_of(codes)[ids], ids)
    assert torch.equal(ids[:67], first_of(codes))


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("values", [(-1.0, 1.0), (0.0, 1.0, 2.0, 4.0), (1e-45, -1e-45, 3e38, -3e38, 0.0, -0.0)])
def test_identical_rows_are_found_among_few_different_numbers(monkeypatch, values, traced):
    draw = torch.Generator().manual_seed(0)
    if traced:
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for d in (1, 2, 7):
        rows = torch.tensor(values)[torch.randint(len(values), (700, d), generator=draw)]
        assert torch.equal(find_first_duplicates(rows), first_of(rows))


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("seed", slow_after(3, range(10)))
def test_the_promise_holds_at_extreme_magnitudes(backend, seed, threads):
    z, codes = draw_extreme(seed)
    assert_documented(z, codes, *nearest_code(z, codes, backend=backend))


def draw_extreme(seed):
    """Vectors and codes between subnormal numbers and the largest of float32, of both signs, some with an offset."""
    draw = torch.Generator().manual_seed(seed)
    k, d = ((855, 1), (33, 8), (12, 65))[seed % 3]
    low, high = ((-45, 38), (-45, 18), (-38, 0), (15, 20), (0, 38))[seed % 5]

    def numbers(*shape):
        size = 10 ** (low + (high - low) * torch.rand(*shape, generator=draw, dtype=torch.float64))
        return (size * torch.randn(*shape, generator=draw).sign()).clamp(-3e38, 3e38).float()

    codes = numbers(k, d) if seed % 2 else numbers(k, 1) * torch.randn(k, d, generator=draw).clamp(-1, 1)
    near = codes[torch.randint(k, (100,), generator=draw)]
    odd = torch.tensor([3e38, -3e38, 1e-45, -1e-45, 0.0])[:, None].expand(5, d)
    z = torch.cat([odd, near, near * 1.001, 10 ** (40 * torch.rand(100, 1, generator=draw)) * near, numbers(100, d)])
    offset = (0.0, 1e4, -1e30)[seed // 2 % 3]
    return (z + offset).clamp(-3e38, 3e38), (codes + offset).clamp(-3e38, 3e38)


def assert_documented(z, codes, ids, squares):
    """Check what the docstring of `nearest_code` says against float64."""
    middle = codes.float().mean(0).double()
    x, c = z.double() - middle, codes.double() - middle
    far, length = x.square().sum(1), c.square().sum(1)
    served = (far <= 2.0**125) & bool((length <= 2.0**125).all())
    close = ((far / 2.0**125 - 1).abs() < 1e-5) | (length / 2.0**125 - 1).abs().lt(1e-5).any()
    served, ids, squares, x, far = (t[~close] for t in (served, ids, squares, x, far))
    assert (ids[~served] == 0).all()
    assert squares[~served].isnan().all()
    ids, x, far = ids[served], x[served], far[served]
    exact = (x[:, None] - c).square().sum(-1)
    best, right = exact.min(1)
    size = (far + torch.maximum(length[ids], length[right])).float()
    unit = (torch.nextafter(size, size.new_tensor(torch.inf)) - size).double()
    chosen = exact.gather(1, ids[:, None])[:, 0]
    assert (chosen - best <= 8 * unit + 1e-37 * z.shape[1]).all()
    assert ((squares[served] - chosen).abs() <= 8 * unit + 1e-37 * z.shape[1]).all()


def test_a_vector_whose_square_overflows_gets_code_0_and_distance_nan():
    codes = torch.randn(855, 1, generator=torch.Generator().manual_seed(0))
    for backend in ("torch", "reference"):
        for far in (-3e38, 3e38, 1.9e19):
            ids, squares = nearest_code(torch.tensor([[far], [0.1]]), codes, backend=backend)
            assert ids[0] == 0
            assert squares[0].isnan()
            assert squares[1] < 1e-2
        ids, squares = nearest_code(
            torch.tensor([[0.1]]), torch.cat([codes, codes.new_tensor([[1e25]])]), backend=backend
        )
        assert ids == 0
        assert squares.isnan()


@pytest.mark.parametrize("offset", [30.0, 1e4, -3e5])
def test_a_common_offset_costs_no_digits(offset):
    z, codes = vectors(900, 130, 8, offset=offset)
    ids, squares = nearest_code(z, codes)
    assert find_wrong_ids(z, codes, ids) == 0
    exact = (z.double() - codes.double()[ids]).square().sum(1)
    assert (squares - exact).abs().max() < 1e-4


def test_two_runs_give_the_same_bits(threads):
    z, codes = vectors(5000, 512, 8)
    (i, a), (j, b) = nearest_code(z, codes), nearest_code(z, codes)
    assert (i == j).all()
    assert (a == b).all()


def test_autocast_changes_nothing():
    z, codes = vectors(2000, 512, 8, spread=1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = nearest_code(z, codes)
    for a, b in zip(under, nearest_code(z, codes), strict=True):
        assert torch.equal(a, b)


def test_what_is_not_finite_gets_code_0_and_distance_nan(threads):
    z, codes = vectors(700, 40, 8)
    codes[0] = 99.0
    before, _ = nearest_code(z, codes)
    z[3, 2], z[5, 0], z[600, 7], z[601] = torch.nan, torch.inf, -torch.inf, 1e30
    odd = torch.tensor([3, 5, 600, 601])
    for backend in ("torch", "reference"):
        ids, squares = nearest_code(z, codes, backend=backend)
        assert (ids[odd] == 0).all()
        assert squares[odd].isnan().all()
        rest = torch.ones(700, dtype=torch.bool).index_fill(0, odd, False)
        assert (ids[rest] == before[rest]).all()
        assert squares[rest].isfinite().all()
    for bad in (torch.nan, torch.inf):
        codes[7, 1] = bad
        ids, squares = nearest_code(z, codes)
        assert (ids == 0).all()
        assert squares.isnan().all()


def test_any_leading_dimensions_strides_and_types_are_taken():
    z, codes = vectors(60, 30, 8)
    _, squares = nearest_code(z, codes)
    shaped = nearest_code(z.reshape(3, 4, 5, 8), codes)
    assert find_wrong_ids(z, codes, shaped[0].flatten()) == 0
    assert nearest_code(z[0], codes)[0].shape == ()
    strided = torch.stack([z, z], 2)[..., 0]
    turned = codes.T.contiguous().T
    assert not strided.is_contiguous()
    again = nearest_code(strided, turned)
    assert find_wrong_ids(z, codes, again[0]) == 0
    torch.testing.assert_close(again[1], squares)
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        low = nearest_code(z.to(kind), codes)
        assert low[1].dtype == torch.float32
        assert find_wrong_ids(z.to(kind).float(), codes, low[0]) == 0


def test_widths_that_differ_are_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r"\[3, 8\].*\[5, 7\]"):
        nearest_code(torch.zeros(3, 8), torch.zeros(5, 7))
    with pytest.raises(ValueError, match=r"\[0, 8\].*not empty"):
        nearest_code(torch.zeros(3, 8), torch.zeros(0, 8))
    with pytest.raises(ValueError, match=r"\[5, 0\].*not empty"):
        nearest_code(torch.zeros(3, 0), torch.zeros(5, 0))


def test_an_unsupported_call_raises_the_reason():
    z, codes = vectors(5, 4, 3)
    with pytest.raises(IncompatibleError, match="backend 'triton' does not support"):
        nearest_code(z.double(), codes, backend="triton")
    with pytest.raises(UnknownNameError, match="Did you mean 'triton'"):
        nearest_code(z, codes, backend="trition")


def test_the_reference_can_be_had_for_everything():
    z, codes = vectors(200, 30, 5)
    options = LossOptions(entropy=0.1, temperature=0.5)
    with use_backend("reference"):
        ids, _ = nearest_code(z, codes)
        out = vector_quantize(z, codes, options)
    assert find_wrong_ids(z, codes, ids) == 0
    torch.testing.assert_close(out, vector_quantize(z, codes, options))


@pytest.mark.slow
def test_no_matrix_of_vectors_by_codes_is_held():
    n, k = 16384, 512
    z, codes = vectors(n, k, 4)
    z.requires_grad_()
    codes.requires_grad_()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # what other threads put out is not seen
    with Largest() as largest:
        nearest_code(z, codes)
        vector_quantize(z, codes, LossOptions(entropy=0.1, temperature=0.1)).entropy.backward()
    torch.set_num_threads(threads)
    assert largest.numel <= n * k / 16


# ---------------------------------------------------------------- statistics


@pytest.mark.parametrize(("n", "k", "d"), [(0, 3, 2), (1, 3, 1), (500, 17, 5), (4000, 256, 64)])
def test_sums_and_counts_are_those_of_a_loop(n, k, d):
    z, codes = vectors(n, k, d)
    ids, _ = nearest_code(z, codes)
    valid = torch.rand(n, generator=torch.Generator().manual_seed(2)) < 0.8
    z[~valid] = torch.nan
    sums, counts = sum_by_code(z, ids, k, valid)
    want = torch.zeros(k, d, dtype=torch.float64)
    many = [0] * k
    for x, i, ok in zip(z.double(), ids.tolist(), valid.tolist(), strict=True):
        if ok:
            want[i] += x
            many[i] += 1
    torch.testing.assert_close(sums, want.float(), rtol=1e-6, atol=1e-5)
    assert counts.tolist() == count_codes(ids, k, valid).tolist() == many
    assert count_codes(ids.reshape(1, -1), k).tolist() == ids.bincount(minlength=k).tolist()


# ---------------------------------------------------------------- compile and export


class Nearest(torch.nn.Module):
    def __init__(self, codes):
        super().__init__()
        self.register_buffer("codes", codes)

    def forward(self, z):
        out = vector_quantize(z, self.codes, LossOptions())
        return out.values, out.ids


@pytest.mark.slow
def test_a_compiler_takes_the_whole_graph():
    z, codes = vectors(300, 33, 8)
    codes[20:] = codes[:13]
    values, ids = torch.compile(Nearest(codes), fullgraph=True)(z)
    assert find_wrong_ids(z, codes, ids) == 0
    assert torch.equal(first_of(codes)[ids], ids)
    torch.testing.assert_close(values, codes[ids], rtol=0, atol=0)


@pytest.mark.slow
def test_an_exported_graph_serves_any_batch():
    z, codes = vectors(300, 33, 8)
    program = torch.export.export(Nearest(codes), (z[:7],), dynamic_shapes={"z": {0: torch.export.Dim("batch")}})
    values, ids = program.module()(z)
    assert find_wrong_ids(z, codes, ids) == 0
    assert torch.equal(first_of(codes)[ids], ids)
    torch.testing.assert_close(values, codes[ids], rtol=0, atol=0)


def test_rows_divided_over_threads_give_what_one_thread_gives(threads):
    z, codes = vectors(5003, 512, 8)
    with torch.inference_mode():
        ids, squares = nearest_code(z, codes)
    assert find_wrong_ids(z, codes, ids) == 0
    torch.set_num_threads(1)
    assert (
        (squares - nearest_code(z, codes)[1]).abs() < 1e-6 * (1 + z.square().sum(1) + codes.square().sum(1).max())
    ).all()


def test_dividing_rows_leaves_the_number_of_threads_as_it_was(threads):
    nearest_code(*vectors(5003, 512, 8))
    assert torch.get_num_threads() == threads
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == threads


def test_each_thread_of_the_kernels_computes_by_itself(threads):
    def count_threads(_):
        return torch.ones(4).sum() and torch.get_num_threads()

    assert set(_get_thread_pool(threads).map(count_threads, range(8))) == {1}
