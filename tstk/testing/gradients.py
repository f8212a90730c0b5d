"""One check for all slots: analytic gradients agree with finite differences, in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tstk.core.pipeline import Pipeline
from tstk.core.types import Flow, Tokens
from tstk.testing.expect import NotApplicable, expect
from tstk.testing.subject import Subject

Answer = Callable[[Tensor], Tensor]


def differentiates(it: Subject) -> None:
    """The gradient with respect to the input is that of finite differences, in float64 on a tiny size."""
    pipeline = it.pipeline()
    if it.kind == "tokenizer" and pipeline.tokenizer.out.vocab:
        raise NotApplicable("discrete tokens have no true gradient")
    with torch.no_grad():
        flow = it.flow(pipeline)  # as usual: the other parts may know no float64
    answer, at = _asked(it, pipeline, flow)
    found = answer(at)
    expect(found.dtype == torch.float64, f"{it.entry.name}: float64 in, {found.dtype} out; keep the type of the input")
    try:
        at = at.detach().clone().requires_grad_()
        torch.autograd.gradcheck(answer, (at,), fast_mode=True, eps=1e-6, atol=1e-4, rtol=1e-3)
    except RuntimeError as e:
        told = " ".join(" ".join(str(e).splitlines()[:3]).split())
        raise AssertionError(f"{it.entry.name}: its gradient is not that of finite differences: {told}") from None


def _asked(it: Subject, pipeline: Pipeline, flow: Flow) -> tuple[Answer, Tensor]:
    """The part as a function of its input, and an input, both in float64."""
    part = it.part(pipeline).double()
    if it.kind == "tokenizer":
        series = flow.series.but(x=flow.series.x.double())

        def tokens_of(x: Tensor) -> Tensor:
            out: Tokens = part(series.but(x=x))
            return out.values * out.valid[..., None]

        return tokens_of, series.x
    seen, asked = _doubled(flow.seen), _doubled(flow.asked)
    if it.kind == "encoder":
        return (lambda v: part(seen.but(values=v)).values * seen.valid[..., None]), seen.values
    if it.kind == "decoder":
        assert flow.encoded is not None
        given = _doubled(pipeline.loss.reveal(flow.encoded, flow.asked))
        pipeline.tokenizer.double()  # which some decoders decode with
        place = pipeline.encoder.place
        return (
            lambda v: part(given.but(values=v), asked, lambda tokens: place(_single(tokens)).double())
        ), given.values
    if it.kind == "head":
        assert flow.encoded is not None
        tokens = _doubled(flow.encoded if part.per_channel else pipeline._unfolded(flow.encoded))
        return (lambda v: part(tokens.but(values=v))), tokens.values
    name = {"decoder": "decoded", "head": "output", "encoder": "encoded"}[part.reads]
    flow.seen, flow.asked, flow.tokens = seen, asked, _doubled(flow.tokens)
    flow.encoded = None if flow.encoded is None else _doubled(flow.encoded)
    flow.series = flow.series.but(x=flow.series.x.double())

    def marked(v: Tensor) -> Tensor:
        setattr(flow, name, flow.encoded.but(values=v) if name == "encoded" and flow.encoded is not None else v)
        return torch.stack([t.double() for t in part(flow).values()])

    start = getattr(flow, name)
    return marked, (start.values if name == "encoded" else start).double()


def _doubled(tokens: Tokens) -> Tokens:
    """The same tokens in float64."""
    prefix = None if tokens.prefix is None else tokens.prefix.double()
    return tokens.map(lambda t: t.double() if t.is_floating_point() else t).but(prefix=prefix)


def _single(tokens: Tokens) -> Tokens:
    """The same tokens in float32."""
    return tokens.map(lambda t: t.float() if t.is_floating_point() else t)
