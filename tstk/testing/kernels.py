"""Checks of kernel backends: outputs and gradients must match the reference implementation.

`SAMPLE_CALLS` has the calls to compare for each operation: single rows, odd sizes, rows without valid elements,
non-contiguous strides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from tstk.errors import IncompatibleError
from tstk.kernels import nearest_code, ricker_cwt, rope_attention
from tstk.kernels.dispatch import OPERATIONS
from tstk.kernels.vector_quantize import LossOptions, vector_quantize
from tstk.nn.positions import rotary_angles
from tstk.plugins.hooks import Entry
from tstk.testing.assertions import NotApplicable, assert_close, expect

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


def _randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def _sample_rope_calls() -> Iterator[Call]:
    for batch, heads, tokens, width in ((1, 1, 1, 16), (2, 3, 17, 32)):
        pos = torch.arange(tokens)[None, :, None].float().expand(batch, -1, -1)
        angles = rotary_angles(pos, width)
        q, k, v = (_randn(batch, tokens, heads, width).transpose(1, 2) + i for i in range(3))
        valid = torch.arange(tokens) < torch.tensor([tokens, 0][:batch])[:, None]
        yield rope_attention, (q, k, v, angles), {}
        yield rope_attention, (q, k, v, angles), {"valid": valid}
        yield rope_attention, (q, k, v, angles), {"causal": True}


def _sample_nearest_code_calls() -> Iterator[Call]:
    for rows, width, codes in ((1, 8, 1), (37, 24, 13)):
        yield nearest_code, (_randn(rows, width), _randn(codes, width)), {}
        yield nearest_code, (_randn(width, rows).T, _randn(codes, width)), {}


def _sample_vector_quantize_calls() -> Iterator[Call]:
    for rows, width, codes in ((1, 8, 2), (37, 24, 13)):
        for options in (LossOptions(), LossOptions(entropy=0.1, temperature=0.7)):
            valid = torch.arange(rows) % 3 != 1
            yield vector_quantize, (_randn(rows, width), _randn(codes, width), options), {}
            yield vector_quantize, (_randn(rows, width), _randn(codes, width), options), {"valid": valid}


def _sample_cwt_calls() -> Iterator[Call]:
    for batch, length in ((1, 8), (3, 45)):
        yield ricker_cwt, (_randn(batch, length), (1.0, 2.5, 4.0)), {}
        yield ricker_cwt, (_randn(batch, length), (3.0,)), {"padding": "reflect"}


SAMPLE_CALLS = {
    "rope_attention": _sample_rope_calls,
    "nearest_code": _sample_nearest_code_calls,
    "vector_quantize": _sample_vector_quantize_calls,
    "ricker_cwt": _sample_cwt_calls,
}


def matches_the_reference(entry: Entry) -> None:
    """Check that outputs and gradients match the reference for every call that the backend supports."""
    name, _, backend_name = entry.name.partition("/")
    expect(
        name in SAMPLE_CALLS and bool(backend_name),
        f"{entry.name!r}: expected OPERATION/NAME, with OPERATION one of {list(SAMPLE_CALLS)}",
    )
    backend = OPERATIONS[name].backends[backend_name]
    if reason := backend.why_unavailable():
        raise NotApplicable(reason)
    supported = [compare_with_reference(backend_name, *call) for call in SAMPLE_CALLS[name]()]
    if not any(supported):
        raise NotApplicable("it supports none of the sample calls")


def compare_with_reference(
    backend: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> bool:
    """Compare outputs and gradients of one call with the reference.

    Returns:
        False if the backend does not support the call

    Raises:
        AssertionError: outputs or gradients differ
    """
    results = []
    for name in ("reference", backend):
        leaves = [g.detach().clone().requires_grad_() if isinstance(g, Tensor) else g for g in args]
        try:
            out = function(*leaves, backend=name, **kwargs)
        except IncompatibleError:
            return False
        outs = list(out) if isinstance(out, tuple) else [out]
        differentiable = [o for o in outs if o.requires_grad]
        if differentiable:
            torch.autograd.backward([o.sum() for o in differentiable])
        grads = [g.grad for g in leaves if isinstance(g, Tensor) and g.grad is not None]
        results.append(([o.detach() for o in outs], grads))
    call = f"of {[list(g.shape) for g in args if isinstance(g, Tensor)]}, {kwargs}"
    for kind, tolerance, expected, actual in zip(("output", "gradient"), (1e-4, 1e-3), *results, strict=True):
        expect(len(actual) == len(expected), f"{len(actual)} {kind}s {call}; the reference has {len(expected)}")
        for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
            assert_close(a, b, f"{kind} {i} {call}", tolerance)
    return True
