"""Attention of narrow heads by torch on a CPU equals the formula, however it is computed."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tstk.kernels.attention import attend
from tstk.kernels.attention import torch as by_torch


def make_inputs(d, n=20, m=37, dtype=torch.float32):
    generator = torch.Generator().manual_seed(d)
    shapes = (2, n, 3, d), (2, m, 3, d), (2, m, 3, d)
    q, k, v = (torch.randn(shape, generator=generator, dtype=dtype).transpose(1, 2) for shape in shapes)
    return [t.requires_grad_() for t in (q, k, v)]


def compute_gradients(y, inputs):
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    return torch.autograd.grad((y * weights).sum(), inputs)


def attend_by_formula(q, k, v, scale):
    return (scale * q @ k.mT).softmax(-1) @ v


@pytest.mark.parametrize("d", [1, 4, 8, 15, 16])
@pytest.mark.parametrize("scale", [None, 0.3, -1.0])
@pytest.mark.parametrize("max_cached", [1, 2 * 20 * 37, 1 << 19])
def test_outputs_and_gradients_are_those_of_the_formula(monkeypatch, d, scale, max_cached):
    monkeypatch.setattr(by_torch, "MAX_CACHED_SCORES", max_cached)
    inputs = make_inputs(d)
    y = attend(*inputs, scale=scale)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    expected = attend_by_formula(*exact, d**-0.5 if scale is None else scale)
    assert torch.allclose(y.double(), expected, atol=1e-5)
    for grad, expected_grad in zip(compute_gradients(y, inputs), compute_gradients(expected, exact), strict=True):
        assert torch.allclose(grad.double(), expected_grad, atol=1e-5)


def is_computed_in_parts(y):
    return "NarrowAttention" in type(y.grad_fn).__name__


def test_scores_of_narrow_heads_that_exceed_the_cache_are_computed_in_parts(monkeypatch):
    assert not is_computed_in_parts(attend(*make_inputs(8)))
    monkeypatch.setattr(by_torch, "MAX_CACHED_SCORES", 1000)
    assert is_computed_in_parts(attend(*make_inputs(8)))
    assert not is_computed_in_parts(attend(*make_inputs(16)))
    assert not is_computed_in_parts(attend(*make_inputs(8, n=37), causal=True))
    assert not is_computed_in_parts(attend(*make_inputs(8), torch.ones(2, 1, 1, 37, dtype=torch.bool)))
    assert not is_computed_in_parts(attend(*make_inputs(8, dtype=torch.float64)))


class Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.__name__)
        return func(*args, **kwargs or {})


def test_transforms_and_recorders_of_operations_see_operations_of_torch(monkeypatch):
    monkeypatch.setattr(by_torch, "MAX_CACHED_SCORES", 1000)
    inputs = make_inputs(8)
    y = attend(*inputs)
    with Recorder() as recorder:
        assert torch.allclose(attend(*inputs), y, atol=1e-6)
    assert any("scaled_dot_product" in name for name in recorder.names)
    with torch.no_grad():
        stacked = torch.vmap(attend)(*(t[:, None] for t in inputs))[:, 0]
    assert torch.allclose(stacked, y, atol=1e-6)


def test_values_may_be_wider_than_queries(monkeypatch):
    monkeypatch.setattr(by_torch, "MAX_CACHED_SCORES", 1000)
    q, k, _ = make_inputs(8)
    v = make_inputs(12)[2]
    y = attend(q, k, v)
    assert is_computed_in_parts(y)
    expected = attend_by_formula(q, k, v, 8**-0.5)
    torch.testing.assert_close(y, expected)
    for actual, grad in zip(compute_gradients(y, (q, k, v)), compute_gradients(expected, (q, k, v)), strict=True):
        torch.testing.assert_close(actual, grad, rtol=1e-4, atol=1e-5)


def test_gradients_in_parts_may_be_differentiated_and_taken_several_at_once(monkeypatch):
    monkeypatch.setattr(by_torch, "MAX_CACHED_SCORES", 1000)
    inputs = make_inputs(8)
    inputs[1].requires_grad_(False)
    sources = inputs[::2]
    second, together = [], []
    for y in (attend(*inputs), attend_by_formula(*inputs, 8**-0.5)):
        grads = torch.stack([y.detach(), y.detach().square()])
        together.append(torch.autograd.grad(y, sources, grads, is_grads_batched=True, retain_graph=True))
        (grad,) = torch.autograd.grad(y.square().sum(), sources[:1], create_graph=True)
        second.append(torch.autograd.grad(grad.square().sum(), sources))
    for actual, expected in (*zip(*second, strict=True), *zip(*together, strict=True)):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_gradients_under_autocast_are_those_without(monkeypatch):
    monkeypatch.setattr(by_torch, "MAX_CACHED_SCORES", 1000)
    inputs = make_inputs(8)
    y = attend(*inputs)
    expected = compute_gradients(y, inputs)
    y = attend(*inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        grads = compute_gradients(y, inputs)
    assert all(map(torch.equal, grads, expected))
