"""Linear layers by oneDNN: they agree with torch's, whatever the layout, and leave to torch what oneDNN cannot do."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import tstk.nn.linear
from tstk.nn.linear import MIN_PRODUCTS, Linear, linear

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"),
    reason="this torch has no oneDNN",
)


@pytest.fixture
def calls(monkeypatch):
    """Use oneDNN on any processor, and list the shapes that it computes."""
    shapes, apply = [], tstk.nn.linear._OneDNNLinear.apply
    monkeypatch.setattr(tstk.nn.linear, "_has_slow_mkl", lambda: True)
    monkeypatch.setattr(
        tstk.nn.linear._OneDNNLinear, "apply", lambda *args: shapes.append(args[0].shape) or apply(*args)
    )
    return shapes


def compute(function, x, weight, bias, seed=1):
    """Return the output and the gradients of all that need one."""
    y = function(x, weight, bias)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed))
    leaves = [t for t in (x, weight, bias) if t is not None and t.requires_grad]
    return [y, *torch.autograd.grad(y, leaves, grad)]


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("shape", "outputs"), [((4096, 8), 64), ((16, 64, 24), 96), ((2, 4, 128, 96), 24), ((1, 4096), 64)]
)
def test_outputs_and_gradients_are_those_of_torch(calls, shape, outputs, bias):
    torch.manual_seed(0)
    layer = Linear(shape[-1], outputs, bias=bias)
    x = torch.randn(shape, requires_grad=True)
    found = compute(linear, x, layer.weight, layer.bias)
    assert calls == [x.shape]
    for ours, torchs in zip(found, compute(F.linear, x, layer.weight, layer.bias), strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-3 if ours.shape == layer.weight.shape else 1e-5)


@needs_onednn
def test_inputs_of_any_layout_and_constant_gradients_are_accepted(calls):
    torch.manual_seed(0)
    layer = Linear(64, 64)
    for x in (torch.randn(64, 512).t(), torch.randn(8, 64, 64).transpose(1, 2), torch.randn(1, 64).expand(512, 64)):
        x = x.detach().requires_grad_()
        ours, theirs = (
            torch.autograd.grad(function(x, layer.weight, layer.bias).sum(), (x, layer.weight))
            for function in (linear, F.linear)
        )
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)
    assert len(calls) == 3


@needs_onednn
def test_windows_that_overlap_in_memory_and_biases_with_gaps_are_read_right(calls):
    torch.manual_seed(0)
    weight = torch.randn(64, 64, requires_grad=True)
    series, wide = torch.randn(1, 4096), torch.randn(512, 64)
    cases = (
        (series.unfold(1, 64, 8), None),
        (series.unfold(1, 64, 1)[0], None),
        (wide, torch.randn(128)[::2]),
        (wide, torch.randn(1).expand(64)),
    )
    for x, bias in cases:
        x = x.detach().requires_grad_()
        for ours, torchs in zip(compute(linear, x, weight, bias), compute(F.linear, x, weight, bias), strict=True):
            torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-3)
    assert len(calls) == len(cases)


@needs_onednn
def test_onednn_gets_no_weight_with_gaps_in_memory(calls, monkeypatch):
    """Which it multiplies by its reference implementation."""
    weights, multiply = [], torch.ops.mkldnn._linear_pointwise

    def record(a, b, *args):
        weights.append(b)
        return multiply(a, b, *args)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", record)
    tokens, matrix = torch.randn(256, 11, 64), torch.randn(96, 80)
    for x in (tokens[:, 0], torch.randn(80, 256)[:64].t()):
        for weight in (matrix[:, 3:67], matrix.t()[:64, :].t()):
            x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
            expected = compute(F.linear, x, weight, None)
            for ours, torchs in zip(compute(linear, x, weight, None), expected, strict=True):
                torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-3)
    assert len(calls) == 4
    assert len(weights) == 12
    assert all(w.is_contiguous() or w.t().is_contiguous() for w in weights)


@needs_onednn
def test_a_gradient_may_be_differentiated_again(calls):
    torch.manual_seed(0)
    results = []
    x, weight, bias = torch.randn(512, 64), torch.randn(64, 64), torch.randn(64)
    for function in (linear, F.linear):
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        gradients = torch.autograd.grad(function(*leaves).tanh().sum(), leaves, create_graph=True)
        results.append(torch.autograd.grad(sum(g.square().mean() for g in gradients), leaves))
    assert calls
    for ours, torchs in zip(*results, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-3, atol=1e-3)


@needs_onednn
def test_inputs_that_do_not_fit_are_refused_by_torch(calls):
    for x, bias in ((torch.randn(512, 63), None), (torch.randn(512, 64), torch.randn(63))):
        with pytest.raises(RuntimeError):
            linear(x, torch.randn(64, 64), bias)
    assert not calls


@needs_onednn
def test_the_output_may_be_changed_in_place(calls):
    layer = Linear(64, 64)
    x = torch.randn(8, 64, 64)
    layer(x).relu_().sum().backward()
    assert calls
    expected = torch.autograd.grad(F.linear(x, layer.weight, layer.bias).relu().sum(), layer.weight)[0]
    torch.testing.assert_close(layer.weight.grad, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.slow
@needs_onednn
def test_other_types_small_products_and_transforms_are_left_to_torch(calls):
    layer = Linear(64, 64)
    x = torch.randn(MIN_PRODUCTS // 64 // 64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer.double()(x.double()).dtype == torch.float64
    layer.float()
    layer(x[:-1])
    torch.func.jvp(layer, (x,), (x,))
    torch.func.vmap(layer)(x[None])
    with forward_ad.dual_level():
        assert forward_ad.unpack_dual(layer(forward_ad.make_dual(x, x))).tangent is not None
    with FlopCounterMode(display=False) as counter:
        layer(x)
    assert counter.get_total_flops() == 2 * x.numel() * 64
    assert not calls
    layer(x)
    assert len(calls) == 1


def test_the_initial_values_are_those_of_torch():
    layers = []
    for layer_class in (Linear, torch.nn.Linear):
        torch.manual_seed(0)
        layers.append(layer_class(5, 3))
    for ours, torchs in zip(*(layer.parameters() for layer in layers), strict=True):
        assert torch.equal(ours, torchs)
