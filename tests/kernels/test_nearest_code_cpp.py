"""The search in C++ returns the ids of the torch backend, to the last near tie, and is selected only where it does."""

import os
import subprocess
import sys
from importlib import import_module

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.kernels.test_nearest_code import assert_documented, draw_extreme, find_wrong_ids, first_of, with_repeats
from tests.support.grids import slow_after
from tstk.kernels import cpp, nearest_code, use_backend
from tstk.kernels.nearest_code import nearest_code_op

SIZES = [  # N, K, d
    (0, 16, 8), (1, 16, 1), (5, 17, 3), (700, 16, 128), (1025, 193, 24), (3000, 512, 8), (2049, 256, 64),
    (4097, 100, 2), (4460, 590, 3), (706, 761, 24), (501, 532, 118), (700, 9001, 8), (1025, 193, 129), (601, 100, 256),
    (502, 700, 257), (510, 333, 300), (505, 200, 512), (503, 100, 2049),
]  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def library():
    """Return the module of the backend, compiled once for all tests of this file."""
    module = import_module("tstk.kernels.nearest_code.cpp")
    if reason := module.LIBRARY.why_unavailable() or module.LIBRARY.why_not_loaded():
        pytest.skip(reason)
    return module


def draw_near_ties(n, k, d, seed=0):
    """Return vectors in the middle between two codes, so that rounding alone decides, and the codes."""
    draw = torch.Generator().manual_seed(seed)
    codes = torch.randn(k, d, generator=draw)
    half = k // 2
    codes[half : 2 * half] = codes[:half] + 1e-3 * torch.randn(half, d, generator=draw)
    first = torch.randint(max(half, 1), (n,), generator=draw)
    return (codes[first] + codes[first + half]) / 2, codes


@pytest.mark.parametrize(("n", "k", "d"), slow_after(6, SIZES))
def test_ids_of_near_ties_are_those_of_the_torch_backend(n, k, d, threads, library):
    z, codes = draw_near_ties(n, k, d)
    if n and (reason := library.why_rounding_differs(n, k, d)):
        pytest.skip(reason)
    (ids, squares), (torch_ids, torch_squares) = (nearest_code(z, codes, backend=b) for b in ("cpp", "torch"))
    assert torch.equal(ids, torch_ids)
    torch.testing.assert_close(squares, torch_squares, rtol=0, atol=2**-20 * (100 + d))
    if n > 500:  # either code of a pair is chosen for many vectors
        assert 0.1 < (ids >= k // 2).float().mean() < 0.9


@pytest.mark.parametrize("d", [127, 128, 129, 257, 300, 512])
def test_blocks_of_128_channels_are_summed_up_in_order(d, library):
    start = torch.arange(1, d - 1)
    x = torch.zeros(d - 2, d)
    x[:, 0], x[start - 1, start], x[start - 1, start + 1] = 1, 2.0**-24, 2.0**-24  # 1 + 2^-24 is 1
    codes = torch.full((16, d), -0.5)
    is_exact = (start >= 128) & (start // 128 == (start + 1) // 128)
    inputs, norms = (x, torch.zeros(d)), torch.zeros(16)
    scores = [library.search(*inputs, codes, norms)[0]]
    if torch.backends.mkl.is_available():
        scores.append(library.search_by_products(*inputs, library.make_table(codes, norms))[0])
    for score in scores:
        assert torch.equal(score, torch.where(is_exact, 1 + 2.0**-23, 1.0))


@pytest.mark.parametrize(("n", "k", "d"), [(1, 1, 1), (3, 1, 7), (7, 2, 128), (50, 33, 5), (7, 1, 1024), (50, 33, 130)])
def test_ids_are_those_of_float64_for_few_vectors_and_codes_too(n, k, d):
    z, codes = draw_near_ties(n, k, d)
    ids, squares = nearest_code(z, codes, backend="cpp")
    assert find_wrong_ids(z, codes, ids) == 0
    torch.testing.assert_close(squares, (z - codes[ids]).square().sum(1), rtol=1e-4, atol=1e-4)


def test_an_id_depends_neither_on_the_threads_nor_on_the_place_of_a_vector(threads):
    z, codes = draw_near_ties(3000, 256, 8)
    alone = torch.stack([nearest_code(row, codes, backend="cpp")[0] for row in z[:100]])
    for backend in ("cpp", "torch"):
        assert torch.equal(nearest_code(z, codes, backend=backend)[0][:100], alone)
        assert torch.equal(nearest_code(z[:, None].flip(0), codes, backend=backend)[0].flip(0)[:100, 0], alone)


@pytest.mark.parametrize("d", [1, 8, 33, 300])
def test_of_identical_codes_the_first_is_returned(d, threads):
    z, codes = with_repeats(1100, 321, d)
    first = first_of(codes)
    ids, _ = nearest_code(z, codes, backend="cpp")
    assert torch.equal(first[ids], ids)
    codes[5], codes[9] = 0.0, -0.0
    assert torch.equal(nearest_code(codes * 0, codes, backend="cpp")[0], torch.full((321,), int(first_of(codes)[9])))


@pytest.mark.parametrize("seed", slow_after(3, range(10)))
def test_the_promise_holds_at_extreme_magnitudes(seed):
    z, codes = draw_extreme(seed)
    assert_documented(z, codes, *nearest_code(z, codes, backend="cpp"))


@pytest.mark.parametrize("d", [8, 300])
def test_what_is_not_finite_gets_code_0_and_distance_nan(d):
    z, codes = draw_near_ties(700, 40, d)
    z[3, 2], z[5, 0], z[600, 7], z[601] = torch.nan, torch.inf, -torch.inf, 1e30
    for bad_code in (0.0, torch.nan, torch.inf):
        codes[7, 1] += bad_code
        for got, want in zip(*(nearest_code(z, codes, backend=b) for b in ("cpp", "torch")), strict=True):
            torch.testing.assert_close(got, want, equal_nan=True, rtol=0, atol=1e-4)


def test_any_leading_dimensions_strides_and_types_are_taken():
    z, codes = draw_near_ties(60, 30, 8)
    want, _ = nearest_code(z, codes, backend="cpp")
    assert torch.equal(nearest_code(z.reshape(3, 4, 5, 8), codes, backend="cpp")[0].flatten(), want)
    strided = torch.stack([z, z], 2)[..., 0]
    assert torch.equal(nearest_code(strided, codes, backend="cpp")[0], want)
    turned = codes.T.contiguous().T  # whose mean is summed in another order
    assert torch.equal(*(nearest_code(z, turned, backend=b)[0] for b in ("cpp", "torch")))
    assert torch.equal(nearest_code(torch._neg_view(-z), codes, backend="cpp")[0], want)
    assert torch.equal(nearest_code(z.double().requires_grad_(), codes, backend="cpp")[0], want)


def test_a_search_is_selected_by_its_size_and_by_what_is_compiled(monkeypatch, library):
    small, medium, large = ((torch.zeros(n, 8), torch.zeros(512, 8)) for n in (64, 4096, 65536))
    monkeypatch.setattr(library, "why_rounding_differs", lambda *size: "")
    assert [nearest_code_op.select(None, *call).name for call in (small, medium, large)] == ["torch", "cpp", "cpp"]
    monkeypatch.setattr(library, "LIBRARY", cpp.Library(library.LIBRARY.source, library.LIBRARY.functions))
    monkeypatch.setattr(cpp.Library, "is_built", lambda self: self._loaded is not None)
    assert nearest_code_op.select(None, *medium).name == "torch"
    monkeypatch.setattr(cpp.Library, "why_not_loaded", lambda self: "the compiler failed")
    assert nearest_code_op.select(None, *large).name == "torch"
    monkeypatch.undo()
    with use_backend("cpp"):
        assert nearest_code_op.select(None, *small).name == "cpp"


def test_where_products_round_otherwise_torch_is_selected(monkeypatch, library):
    search = library.search_by_products

    def round_otherwise(x, code_mean, table):
        scores, squares, ids = search(x.flip(1), code_mean.flip(0), torch.cat([table[:-1].flip(0), table[-1:]]))
        return scores, squares, ids

    monkeypatch.setattr(library, "search_by_products", round_otherwise)
    library._compare_rounding.cache_clear()
    try:
        assert "ids of near ties would differ" in library.why_rounding_differs(4096, 512, 8)
        assert nearest_code_op.select(None, torch.zeros(4096, 8), torch.zeros(512, 8)).name == "torch"
    finally:
        library._compare_rounding.cache_clear()


def test_tensors_without_memory_are_left_to_torch(library):
    z, codes = torch.randn(4096, 8), torch.randn(512, 8)
    selected = []

    def select(z):
        selected.append(nearest_code_op.explain_unsupported(z, codes)["cpp"])
        return z

    torch.func.vmap(select)(z[None])
    torch.func.grad(lambda z: select(z).sum())(z)
    torch.jit.trace(select, (z,), check_trace=False)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        select(z)
        fake = mode.from_tensor(z)
    select(fake)
    assert selected == ["a compiler or transform of torch cannot trace it"] * 5
    select(z)
    assert not selected[-1]


@pytest.mark.slow
def test_both_instruction_sets_return_the_same_bits(tmp_path):
    script = (
        "import sys, torch; sys.path.insert(0, '.')\n"
        "from tests.kernels.test_nearest_code_cpp import draw_near_ties\n"
        "from tstk.kernels import nearest_code\n"
        "sizes = (2000, 300, 24), (500, 700, 300)\n"
        "torch.save([t for s in sizes for t in nearest_code(*draw_near_ties(*s), backend='cpp')], sys.argv[1])"
    )
    results = []
    for capability in ("avx2", "default"):
        env = os.environ | {"TSTK_CACHE": str(tmp_path)}
        env |= {"ATEN_CPU_CAPABILITY": capability} if capability == "avx2" else {}
        subprocess.run([sys.executable, "-c", script, str(tmp_path / capability)], env=env, check=True)
        results.append(torch.load(tmp_path / capability))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
