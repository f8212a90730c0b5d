"""Checks of kernel backends: a third party's must answer as the reference does, gradients and all.

`agrees` is one call compared; `SAMPLES` are the calls of each operation: one row, odd sizes, rows without a valid
element, strides that are not contiguous.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from tstk.errors import NeedsError
from tstk.kernels import nearest_code, ricker_cwt, rope_attention
from tstk.kernels.dispatch import OPERATIONS
from tstk.kernels.nearest_code import soft_assignment
from tstk.nn.positions import angles
from tstk.plugins.registry import Entry
from tstk.testing.expect import NotApplicable, close, expect

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


def _draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def _rope() -> Iterator[Call]:
    for batch, heads, tokens, width in ((1, 1, 1, 16), (2, 3, 17, 32)):
        pos = torch.arange(tokens)[None, :, None].float().expand(batch, -1, -1)
        turn = angles(pos, width)
        q, k, v = (_draw(batch, tokens, heads, width).transpose(1, 2) + i for i in range(3))
        valid = torch.arange(tokens) < torch.tensor([tokens, 0][:batch])[:, None]
        yield rope_attention, (q, k, v, turn), {}
        yield rope_attention, (q, k, v, turn), {"valid": valid}
        yield rope_attention, (q, k, v, turn), {"causal": True}


def _codes() -> Iterator[Call]:
    for rows, width, codes in ((1, 8, 1), (37, 24, 13)):
        yield nearest_code, (_draw(rows, width), _draw(codes, width)), {}
        yield nearest_code, (_draw(width, rows).T, _draw(codes, width)), {}


def _soft() -> Iterator[Call]:
    for rows, width, codes in ((1, 8, 2), (37, 24, 13)):
        yield soft_assignment, (_draw(rows, width), _draw(codes, width)), {"temperature": 0.7}


def _wavelets() -> Iterator[Call]:
    for batch, length in ((1, 8), (3, 45)):
        yield ricker_cwt, (_draw(batch, length), (1.0, 2.5, 4.0)), {}
        yield ricker_cwt, (_draw(batch, length), (3.0,)), {"padding": "reflect"}


SAMPLES = {"rope_attention": _rope, "nearest_code": _codes, "soft_assignment": _soft, "ricker_cwt": _wavelets}


def answers_as_the_reference(entry: Entry) -> None:
    """Outputs and gradients are those of the reference wherever the backend supports the call."""
    name, _, backend = entry.name.partition("/")
    expect(name in SAMPLES and bool(backend), f"{entry.name!r}: expected OPERATION/NAME, with one of {list(SAMPLES)}")
    found = OPERATIONS[name].backends[backend]
    if reason := found.absent():
        raise NotApplicable(reason)
    served = [agrees(backend, *call) for call in SAMPLES[name]()]
    if not any(served):
        raise NotApplicable("it supports none of the calls that the kit makes")


def agrees(backend: str, function: Callable[..., Any], given: tuple[Any, ...], options: dict[str, Any]) -> bool:
    """Compare one call with the reference.

    Returns:
        whether the backend supports the call

    Raises:
        AssertionError: outputs or gradients differ
    """
    results = []
    for who in ("reference", backend):
        free = [g.detach().clone().requires_grad_() if isinstance(g, Tensor) else g for g in given]
        try:
            out = function(*free, backend=who, **options)
        except NeedsError:
            return False
        outs = list(out) if isinstance(out, tuple) else [out]
        soft = [o for o in outs if o.requires_grad]
        if soft:
            torch.autograd.backward([o.sum() for o in soft])
        grads = [g.grad for g in free if isinstance(g, Tensor) and g.grad is not None]
        results.append(([o.detach() for o in outs], grads))
    call = f"of {[list(g.shape) for g in given if isinstance(g, Tensor)]}, {options}"
    for what, tolerance, wanted, found in zip(("output", "gradient"), (1e-4, 1e-3), *results, strict=True):
        expect(len(found) == len(wanted), f"{len(found)} {what}s {call}; the reference has {len(wanted)}")
        for i, (want, mine) in enumerate(zip(wanted, found, strict=True)):
            close(mine, want, f"{what} {i} {call}", tolerance)
    return True
