"""Convolutions: all backends against the reference in float64, and what the kernel in C++ promises beyond that."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tstk.errors import IncompatibleError
from tstk.kernels import convolve, use_backend
from tstk.kernels.convolution import convolution_op
from tstk.kernels.convolution.cpp import LIBRARY

WIDE = [
    (16, 32, 3, 1, 1, 37),
    (16, 16, 3, 1, 0, 9),
    (16, 16, 3, 1, 2, 3),
    (32, 16, 4, 2, 1, 37),
    (16, 16, 4, 2, 3, 8),
    (16, 48, 6, 2, 2, 33),
    (16, 16, 6, 3, 5, 31),
    (16, 16, 2, 1, 0, 50),
    (32, 16, 3, 1, 1, 1),
]
"""Channels in and out, kernel size, stride, padding and samples."""
NARROW = [(1, 5, 4, 2, 1, 20), (5, 1, 4, 2, 1, 20), (7, 3, 5, 3, 1, 20), (16, 16, 1, 1, 0, 9)]


@pytest.fixture
def compiled():
    """Skip where the kernel cannot be compiled."""
    if reason := LIBRARY.why_unavailable() or LIBRARY.why_not_loaded():
        pytest.skip(reason)


def make_inputs(shape, transposed, seed=0):
    channels, outputs, size, _, _, samples = shape
    draw = torch.Generator().manual_seed(seed)
    weight = (channels, outputs, size) if transposed else (outputs, channels, size)
    x = torch.randn(3, samples, channels, generator=draw)
    return [t.requires_grad_() for t in (x, torch.randn(weight, generator=draw), torch.randn(outputs, generator=draw))]


def compute(backend, inputs, shape, **options):
    """Return the output and the gradients of x, weight and bias."""
    y = convolve(*inputs, stride=shape[3], padding=shape[4], backend=backend, **options)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return y, *torch.autograd.grad(y, inputs, grad)


def check(backend, inputs, shape, **options):
    exact = [t.detach().double().requires_grad_() for t in inputs]
    results = compute(backend, inputs, shape, **options), compute("reference", exact, shape, **options)
    for actual, expected in zip(*results, strict=True):
        scale = max(1.0, float(expected.detach().abs().max()))
        torch.testing.assert_close(actual.double() / scale, expected / scale, rtol=0, atol=3e-6)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", WIDE + NARROW)
def test_the_reference_is_torchs_own(shape, transposed):
    x, weight, bias = (t.double() for t in make_inputs(shape, transposed))
    apply = torch.nn.functional.conv_transpose1d if transposed else torch.nn.functional.conv1d
    expected = apply(x.transpose(1, 2), weight, bias, shape[3], shape[4]).transpose(1, 2)
    y = convolve(x, weight, bias, stride=shape[3], padding=shape[4], transposed=transposed, backend="reference")
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", WIDE + NARROW)
def test_torch_gives_outputs_and_gradients_of_the_reference(shape, transposed, relu):
    check("torch", make_inputs(shape, transposed), shape, transposed=transposed, relu=relu)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", WIDE)
def test_cpp_gives_outputs_and_gradients_of_the_reference(shape, transposed, relu, threads):
    check("cpp", make_inputs(shape, transposed), shape, transposed=transposed, relu=relu)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(("size", "stride", "factor"), [(3, 1, 2.0), (4, 2, 1.5)])
def test_the_error_is_a_small_multiple_of_that_of_torch(size, stride, factor):
    draw = torch.Generator().manual_seed(0)
    x, weight = torch.randn(4, 96, 128, generator=draw), torch.randn(128, 128, size, generator=draw)
    exact = convolve(x.double(), weight.double(), stride=stride, padding=1, backend="reference")
    cpp, plain = (
        (convolve(x, weight, stride=stride, padding=1, backend=name) - exact).square().mean().sqrt()
        for name in ("cpp", "torch")
    )
    assert cpp < factor * plain


@pytest.mark.usefixtures("compiled")
def test_series_divided_among_threads_have_the_same_outputs():
    shape, before = (32, 32, 3, 1, 1, 512), torch.get_num_threads()
    inputs, results = make_inputs(shape, transposed=False), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(compute("cpp", inputs, shape, relu=True))
    torch.set_num_threads(before)
    assert all(torch.equal(*pair) for pair in list(zip(*results, strict=True))[:2])
    for pair in zip(*results, strict=True):
        torch.testing.assert_close(*pair, rtol=1e-5, atol=1e-3)


@pytest.mark.usefixtures("compiled")
def test_what_is_not_a_number_stays_near_its_sample_and_passes_relu():
    shape = (16, 16, 3, 1, 1, 40)
    x, weight, bias = (t.detach() for t in make_inputs(shape, transposed=False))
    clean = convolve(x, weight, bias, padding=1, relu=True, backend="cpp")
    x[1, 20] = torch.nan
    y = convolve(x, weight, bias, padding=1, relu=True, backend="cpp")
    assert y[1, 19:22].isnan().all()
    far = torch.ones(40, dtype=torch.bool)
    far[16:24] = False
    assert torch.equal(y[1, far], clean[1, far])
    assert torch.equal(y[::2], clean[::2])


@pytest.mark.usefixtures("compiled")
def test_the_end_of_a_series_does_not_depend_on_zeros_after_it():
    shape = (16, 16, 3, 1, 1, 37)
    x, weight, _ = (t.detach() for t in make_inputs(shape, transposed=False))
    longer = torch.nn.functional.pad(x, (0, 0, 0, 30))
    y, padded = (convolve(t, weight, padding=1, backend="cpp") for t in (x, longer))
    assert torch.equal(y, padded[:, :37])


@pytest.mark.usefixtures("compiled")
def test_strides_do_not_matter():
    shape = (16, 32, 3, 1, 1, 20)
    x, weight, bias = (t.detach() for t in make_inputs(shape, transposed=False))
    expected = convolve(x, weight, bias, padding=1, backend="cpp")
    views = x.transpose(1, 2).contiguous().transpose(1, 2), weight.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert torch.equal(convolve(*views, bias, padding=1, backend="cpp"), expected)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_may_be_differentiated_and_taken_several_at_once(transposed):
    shape = (16, 16, 4, 2, 1, 8)
    inputs = make_inputs(shape, transposed)

    def apply(x, weight, backend):
        return convolve(x, weight, stride=2, padding=1, transposed=transposed, relu=True, backend=backend)

    penalties = []
    for backend in ("cpp", "torch"):
        y = apply(*inputs[:2], backend)
        grads = torch.autograd.grad(y.square().sum(), inputs[:2], create_graph=True)
        penalties.append(torch.autograd.grad(sum(g.square().mean() for g in grads), inputs[0])[0])
    torch.testing.assert_close(*penalties, rtol=1e-4, atol=1e-3)
    y = apply(*inputs[:2], "cpp")
    several = torch.stack([torch.ones_like(y), y.detach()])
    (grads,) = torch.autograd.grad(y, inputs[0], several, is_grads_batched=True, retain_graph=True)
    (one,) = torch.autograd.grad(y, inputs[0], several[1])
    torch.testing.assert_close(grads[1], one, rtol=1e-4, atol=1e-3)


@pytest.mark.usefixtures("compiled")
@pytest.mark.slow
def test_both_instruction_sets_give_the_same_to_rounding(tmp_path):
    program = (
        "import sys, torch; from tstk.kernels import convolve; torch.manual_seed(0); x = torch.randn(2, 30, 32)\n"
        "w = torch.randn(16, 32, 3); y = convolve(x, w, padding=1, backend='cpp'); torch.save(y, sys.argv[1])"
    )
    for kind in ("default", "avx2"):
        environment = os.environ | ({"ATEN_CPU_CAPABILITY": "avx2"} if kind == "avx2" else {})
        command = [sys.executable, "-c", program, str(tmp_path / kind)]
        subprocess.run(command, check=True, env=environment, cwd=Path(__file__).parents[2])
    torch.testing.assert_close(torch.load(tmp_path / "default"), torch.load(tmp_path / "avx2"), rtol=1e-5, atol=1e-4)


def call(channels=64, outputs=64, size=3, stride=1, padding=1, samples=128, dtype=torch.float32, transposed=False):
    x, weight = torch.zeros(86, samples, channels, dtype=dtype), torch.zeros(outputs, channels, size, dtype=dtype)
    options = {"stride": stride, "padding": padding, "transposed": transposed, "relu": False}
    return (x, weight, None), options


@pytest.mark.usefixtures("compiled")
def test_it_is_selected_for_calls_that_are_worth_it():
    def select(**sizes):
        inputs, options = call(**sizes)
        return convolution_op.select(None, *inputs, **options).name

    assert select(samples=16) == select(samples=32, size=4, stride=2) == "cpp"
    assert select(samples=15) == select(samples=128, outputs=16) == select(samples=7, channels=512) == "torch"
    with use_backend("torch"):
        assert select() == "torch"


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dtype": torch.float64}, "float32 throughout"),
        ({"channels": 24}, "multiples of 16 channels"),
        ({"outputs": 1}, "multiples of 16 channels"),
        ({"size": 1, "padding": 0}, "two or three times as long as the stride"),
        ({"size": 5, "stride": 3}, "two or three times as long as the stride"),
        ({"padding": 3}, "padding smaller than the kernel"),
    ],
)
def test_other_calls_are_left_to_torch_and_refused_by_name(change, reason):
    inputs, options = call(**change)
    assert convolution_op.select(None, *inputs, **options).name == "torch"
    with pytest.raises(IncompatibleError, match=reason):
        convolution_op(*inputs, backend="cpp", **options)


@pytest.mark.usefixtures("compiled")
def test_autocast_and_transforms_are_left_to_torch():
    (x, weight, _), _ = call()
    with torch.autocast("cpu", torch.bfloat16):
        assert convolve(x, weight, padding=1).dtype == torch.bfloat16
        with pytest.raises(IncompatibleError, match="autocast changes dtypes"):
            convolve(x, weight, padding=1, backend="cpp")
    per_series = torch.vmap(lambda series: convolve(series[None], weight, padding=1)[0])(x)
    assert per_series.shape == (86, 128, 64)


@pytest.mark.parametrize(
    ("x", "weight", "padding", "message"),
    [
        ((2, 9, 4), (8, 5, 3), 1, r"x \[2, 9, 4\], weight \[8, 5, 3\]; expected \[B, L, C\] and \[D, C, K\]"),
        ((9, 4), (8, 4, 3), 1, r"expected \[B, L, C\]"),
        ((2, 1, 4), (8, 4, 4), 1, "no output of 1 samples with a kernel of 4 and a padding of 1"),
    ],
)
def test_shapes_that_do_not_match_are_refused(x, weight, padding, message):
    with pytest.raises(ValueError, match=message):
        convolve(torch.zeros(x), torch.zeros(weight), padding=padding)
