"""Self-tests of the Triton backends: a tiny call of each operation, compared with the reference on the same device.

`auto` selects Triton on a device only if these return an empty string there; see `tstk.kernels.dispatch`. Inputs are
computed, not drawn, so the state of torch's generators does not change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tstk.kernels import nearest_code, ricker_cwt, rope_attention
from tstk.kernels.dispatch import is_triton_interpreted
from tstk.kernels.vector_quantize import LossOptions, vector_quantize


def check_nearest_code(device: torch.device) -> str:
    """Return what is wrong with a search of many vectors and one of few, with the codebook divided among programs.

    Two codes are equal, in the second search in different programs.
    """
    for n, k, d in ((8192, 40, 8), (20, 600, 72)):
        codes = _fill(device, k, d)
        codes[-9] = codes[4]
        z = codes[torch.arange(n, device=device) % k] + 0.1 * _fill(device, n, d)
        (ids, squares), (true_ids, true_squares) = (
            nearest_code(z, codes, backend=name) for name in ("triton", "reference")
        )
        if wrong := int((ids != true_ids).sum()):
            return f"{wrong} of {n} indices are wrong at width {d}"
        if fault := _compare([squares], [true_squares], 1e-4):
            return fault
    return ""


def check_vector_quantize(device: torch.device) -> str:
    """Return what is wrong with a quantizer, forward and backward: of packed vectors and of wide ones.

    On a GPU there are more vectors than the programs of the backward take at once; an interpreter would need a minute.
    """
    for n, k, d in ((160 if is_triton_interpreted() else 20000, 40, 8), (150, 70, 40)):
        options = LossOptions(entropy=0.5, temperature=d / 16, log_floor=1e-3)
        valid = torch.arange(n, device=device) % 3 > 0
        fault = _compare_gradients(
            lambda z, codes, backend, options=options, valid=valid: vector_quantize(
                z, codes, options, valid=valid, backend=backend
            ),
            [_fill(device, n, d), _fill(device, k, d)],
            1e-3,
        )
        if fault:
            return f"width {d}: {fault}"
    return ""


def check_rope_attention(device: torch.device) -> str:
    """Return what is wrong with attention, forward and backward: of one tile, of two, and of long rows.

    Long rows are in bfloat16 as well, since torch may compute attention in float32 with TF32 products.
    """
    for n, dtype, tolerance in ((20, torch.float32, 1e-4), (70, torch.bfloat16, 5e-2), (300, torch.bfloat16, 5e-2)):
        angle = _fill(device, 1, 1, n, 8)
        angles = angle.cos(), angle.sin()
        valid = torch.arange(n, device=device) < torch.tensor([[n], [13]], device=device)
        fault = _compare_gradients(
            lambda q, k, v, backend, angles=angles, valid=valid: rope_attention(
                q, k, v, angles, valid=valid, backend=backend
            ),
            [_fill(device, 2, 2, n, 16, start=i).to(dtype) for i in range(3)],
            tolerance,
        )
        if fault:
            return f"{n} tokens, {dtype}: {fault}"
    return ""


def check_ricker_cwt(device: torch.device) -> str:
    """Return what is wrong with wavelets of three widths, forward and backward."""
    return _compare_gradients(
        lambda x, backend: ricker_cwt(x, (0.5, 3.0, 9.0), padding="reflect", backend=backend),
        [_fill(device, 2, 100)],
        1e-4,
    )


def _fill(device: torch.device, *shape: int, start: int = 0) -> Tensor:
    """Return numbers between -1 and 1 without a pattern, [*shape] float32."""
    count = torch.Size(shape).numel()
    steps = torch.arange(count, dtype=torch.float64, device="cpu") + 1 + start * count
    return (steps * steps * 0.61803398875).sin().float().reshape(shape).to(device)


def _compare_gradients(call: Callable[..., Tensor | tuple[Tensor, ...]], inputs: Sequence[Tensor], tol: float) -> str:
    """Return where outputs or gradients of the Triton backend differ from the reference in float64."""
    results = []
    for backend, dtype in (("triton", None), ("reference", torch.float64)):
        with torch.enable_grad():
            leaves = [x.to(dtype or x.dtype).detach().requires_grad_() for x in inputs]
            out = call(*leaves, backend=backend)
            outputs = out if isinstance(out, tuple) else (out,)
            weights = [_fill(x.device, *x.shape, start=7) for x in outputs]
            loss = sum((x.double() * w).sum() for x, w in zip(outputs, weights, strict=True))
            results.append([x.detach() for x in outputs] + list(torch.autograd.grad(loss, leaves)))  # type: ignore[arg-type]
    actual, expected = results
    return _compare(actual, expected, tol)


def _compare(actual: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float) -> str:
    """Return which tensor differs by more than `tolerance` of its largest value."""
    for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
        error = ((a.double() - b.double()).abs().max() / b.abs().max().clamp(min=1e-6)).item()
        if not error <= tolerance:
            return f"result {i} of {len(actual)} is off by {error:.1e} of its largest value"
    return ""
