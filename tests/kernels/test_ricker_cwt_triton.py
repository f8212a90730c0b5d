"""The Triton kernels, on a GPU if there is one and in Triton's interpreter if not."""

import os

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton")

from tstk.errors import IncompatibleError
from tstk.kernels import ricker_cwt

pytestmark = pytest.mark.slow  # Triton's interpreter

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def assert_agrees(x, scales, **options):
    """Check outputs and gradients against the reference in float64."""
    x = x.to(DEVICE)
    leaf, exact = x.detach().requires_grad_(), x.detach().double().requires_grad_()
    got = ricker_cwt(leaf, scales, **options, backend="triton")
    want = ricker_cwt(exact, scales, **options, backend="reference")
    assert got.shape == want.shape
    assert got.dtype == torch.float32
    assert got.is_contiguous()
    size = exact.abs().max() * (1 + max(scales)) ** 0.5
    assert (got - want).abs().max() < 3e-6 * size
    weight = torch.randn(want.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    (back,) = torch.autograd.grad((got * weight).sum(), leaf)
    (true,) = torch.autograd.grad((want * weight.double()).sum(), exact)
    assert back.shape == x.shape
    assert (back - true).abs().max() < 3e-6 * (1 + true.abs().max())


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["zero", "reflect", "replicate"])
@pytest.mark.parametrize("kernel", ["odd", "published"])
@pytest.mark.parametrize(
    ("shape", "scales", "patch"),
    [
        ((2, 96), [0.1 + i for i in range(8)], None),
        ((3, 100), [2.0, 6.0, 13.0, 20.0], (2, 50)),
        ((2, 1, 65), [1.0, 30.0, 2.0], None),
        ((1,), [2.0, 9.0], None),
        ((2, 35), [3.0, 20.0], (1, 7)),
    ],
)
def test_outputs_and_gradients_are_those_of_the_reference(shape, scales, patch, kernel, padding):
    assert_agrees(noise(*shape), scales, patch=patch, kernel=kernel, padding=padding)


@pytest.mark.parametrize("seed", range(5))
def test_outputs_and_gradients_are_right_at_random_sizes(seed):
    draw = np.random.default_rng(seed)
    scales = np.exp(draw.uniform(-2, 4, int(draw.integers(1, 7)))).tolist()
    x = noise(int(draw.integers(1, 4)), int(draw.integers(1, 150)), seed=seed)
    assert_agrees(x, scales, padding=str(draw.choice(["zero", "reflect"])))


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["reflect", "replicate"])
def test_an_offset_costs_no_digits(padding):
    x, scales = noise(2, 35) + 1e4, [0.5, 3.0, 20.0, 40.0]
    for patch in (None, (2, 7)):
        options = {"padding": padding, "patch": patch}
        got = ricker_cwt(x.to(DEVICE), scales, **options, backend="triton")
        want = ricker_cwt(x.to(DEVICE).double(), scales, **options, backend="reference")
        assert (got - want).abs().max() < 3e-5 * (1 + max(scales)) ** 0.5 + 3e-7 * want.abs().max()


def test_rows_may_have_any_strides():
    assert_agrees(noise(40, 2).T, [2.0, 12.0])
    assert_agrees(noise(2, 80)[:, ::2], [2.0, 12.0])


def test_an_empty_batch_stays_empty():
    assert ricker_cwt(noise(0, 40).to(DEVICE), [2.0], backend="triton").shape == (0, 1, 40)


def test_half_precision_is_computed_in_float32():
    x = noise(2, 40).to(DEVICE, torch.bfloat16)
    torch.testing.assert_close(
        ricker_cwt(x, [2.0, 9.0], backend="triton"), ricker_cwt(x.float(), [2.0, 9.0], backend="triton")
    )
    with pytest.raises(IncompatibleError, match="float64"):
        ricker_cwt(x.double(), [2.0], backend="triton")


def test_operators_are_what_the_compiler_expects():
    x = noise(2, 40).to(DEVICE)
    chosen = [2.0, 9.0], "reflect", "odd", [1, 32]
    checks = "test_schema", "test_faketensor"
    torch.library.opcheck(torch.ops.tstk.ricker_cwt.default, (x, *chosen), test_utils=checks)
    grad = noise(2, 2, 40).to(DEVICE)
    torch.library.opcheck(torch.ops.tstk.ricker_cwt_backward.default, (grad, 40, *chosen), test_utils=checks)


@pytest.mark.skipif(DEVICE == "cpu", reason="torch.compile cannot trace Triton's interpreter")
def test_compiled_calls_are_whole_graphs_and_agree():
    torch._dynamo.reset()

    def transform(x):
        return ricker_cwt(x, [2.0, 9.0], padding="reflect", patch=(1, 20), backend="triton").tanh()

    x = noise(2, 40).to(DEVICE).requires_grad_()
    compiled = torch.compile(transform, fullgraph=True, backend="aot_eager")
    for got, want in zip(
        *((out := f(x), *torch.autograd.grad(out.sum(), x)) for f in (compiled, transform)), strict=True
    ):
        torch.testing.assert_close(got, want)


@pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter is not chosen by itself")
def test_a_gpu_is_served_by_triton_and_in_captured_graphs():
    from tstk.kernels.ricker_cwt import ricker_cwt_op

    x = noise(4, 300).cuda()
    scales = tuple(1.0 + i for i in range(16))
    assert ricker_cwt_op.select(None, x, scales).name == "triton"
    want = ricker_cwt(x, scales)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = ricker_cwt(x, scales)
    graph.replay()
    torch.testing.assert_close(got, want, atol=0, rtol=0)
