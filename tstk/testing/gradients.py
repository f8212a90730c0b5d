"""One check for all slots: analytic gradients agree with finite differences, in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tstk.records import Series
from tstk.testing.expect import NotApplicable, expect
from tstk.testing.subject import Subject


def differentiates(it: Subject) -> None:
    """The gradient with respect to the input is that of finite differences, in float64 on a tiny size."""
    pipeline = it.pipeline().double()
    given = it.series
    y = given.y if it.spec.horizon is None or given.y is None else given.y.double()
    flow = it.flow(pipeline, Series(given.x.double(), given.observed, y, given.key))
    part = it.part(pipeline)
    if it.kind == "tokenizer":
        if part.out.vocab:
            raise NotApplicable("discrete tokens have no true gradient")
        answer, at = _tokens_of(part, flow.series), flow.series.x
    elif it.kind == "encoder":
        answer, at = (lambda v: part(flow.seen.but(values=v)).values * flow.seen.valid[..., None]), flow.seen.values
    elif it.kind == "decoder":
        assert flow.encoded is not None
        given_to = pipeline.loss.reveal(flow.encoded, flow.asked)
        answer, at = (lambda v: part(given_to.but(values=v), flow.asked, pipeline.encoder.place)), given_to.values
    elif it.kind == "head":
        assert flow.encoded is not None
        tokens = flow.encoded if part.per_channel else pipeline._unfolded(flow.encoded)
        answer, at = (lambda v: part(tokens.but(values=v))), tokens.values
    else:
        name = "decoded" if flow.decoded is not None else "output"

        def marked(v: Tensor) -> Tensor:
            setattr(flow, name, v)
            return torch.stack([t.double() for t in part(flow).values()])

        answer, at = marked, getattr(flow, name)
    _agree(it.entry.name, answer, at.detach().clone().requires_grad_())


def _tokens_of(part: torch.nn.Module, series: Series) -> Callable[[Tensor], Tensor]:
    return lambda x: (out := part(series.but(x=x))).values * out.valid[..., None]


def _agree(name: str, answer: Callable[[Tensor], Tensor], at: Tensor) -> None:
    with torch.no_grad():
        found = answer(at)
    expect(found.dtype == torch.float64, f"{name}: float64 in, {found.dtype} out; keep the type of the input")
    try:
        torch.autograd.gradcheck(answer, (at,), fast_mode=True, eps=1e-6, atol=1e-4, rtol=1e-3)
    except RuntimeError as e:
        told = " ".join(" ".join(str(e).splitlines()[:3]).split())
        raise AssertionError(f"{name}: its gradient is not that of finite differences: {told}") from None
