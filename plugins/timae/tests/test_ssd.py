"""The chunked scan equals a step-by-step recurrence."""

import pytest
import torch
from tstk_plugins_timae.ssd import load_fused_scan, scan

from tests.support.grids import slow_after
from tstk.errors import OptionError


def scan_by_loop(x, dt, rate, b, c, initial_state):
    h, ys = initial_state, []
    for t in range(x.shape[1]):
        decay = (dt[:, t] * rate).exp()[..., None, None]
        h = decay * h + (dt[:, t, :, None] * x[:, t])[..., None] * b[:, t, None, None]
        ys.append((h * c[:, t, None, None]).sum(-1))
    return torch.stack(ys, 1), h


def inputs(tokens, dtype, heads=3, width=2, states=5, batch=2, steps=1.0):
    generator = torch.Generator().manual_seed(tokens)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    arguments = (
        normal(batch, tokens, heads, width),
        normal(batch, tokens, heads).exp() * steps,
        -normal(heads).exp(),
        normal(batch, tokens, states),
        normal(batch, tokens, states),
        normal(batch, heads, width, states),
    )
    return [t.to(dtype).requires_grad_() for t in arguments]


@pytest.mark.parametrize(("dtype", "tolerance"), slow_after(1, [(torch.float64, 1e-9), (torch.float32, 1e-4)]))
@pytest.mark.parametrize("chunk", [1, 4, 7, 64])
@pytest.mark.parametrize("tokens", [1, 7, 20, 33])
def test_outputs_state_and_gradients_equal_the_recurrence(tokens, chunk, dtype, tolerance):
    arguments, exact = inputs(tokens, dtype), inputs(tokens, torch.float64)
    pairs = list(zip(scan(*arguments, chunk=chunk), scan_by_loop(*exact), strict=True))
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(b.shape, generator=generator, dtype=torch.float64) for _, b in pairs]
    for side, leaves in ((0, arguments), (1, exact)):
        sum((pair[side] * w).sum() for pair, w in zip(pairs, weights, strict=True)).backward()
        assert all(t.grad is not None for t in leaves)
    for a, b in pairs + [(x.grad, y.grad) for x, y in zip(arguments, exact, strict=True)]:
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance)


def test_fast_decay_neither_overflows_nor_becomes_nan():
    arguments = inputs(40, torch.float32, steps=200.0)
    y, state = scan(*arguments, chunk=16)
    (y.sum() + state.sum()).backward()
    assert y.isfinite().all()
    assert all(t.grad.isfinite().all() for t in arguments)
    exact, _ = scan_by_loop(*(t.detach().double() for t in arguments))
    torch.testing.assert_close(y.double(), exact, rtol=1e-4, atol=1e-2)


def test_a_step_of_zero_leaves_the_state_unchanged():
    x, dt, rate, b, c, initial_state = (t.detach() for t in inputs(6, torch.float64))
    dt[:, 2:] = 0
    final_state = scan(x, dt, rate, b, c, initial_state, chunk=4)[1]
    early_state = scan(*(t[:, :2] for t in (x, dt)), rate, *(t[:, :2] for t in (b, c)), initial_state, chunk=4)[1]
    torch.testing.assert_close(final_state, early_state)


def test_half_precision_inputs_are_scanned_in_float32():
    arguments = [t.detach().bfloat16() for t in inputs(20, torch.float32)]
    with torch.autocast("cpu", torch.bfloat16):
        y, state = scan(*arguments, chunk=8)
    exact, exact_state = scan(*(t.float() for t in arguments), chunk=8)
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(y, exact.bfloat16())
    torch.testing.assert_close(state, exact_state)


def test_missing_kernels_raise_an_error_with_the_remedy(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mamba_ssm", None)
    with pytest.raises(OptionError, match=r"mamba-ssm.*backend=torch"):
        load_fused_scan()
