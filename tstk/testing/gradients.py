"""Check of the components of all slots: analytic gradients match finite differences in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tstk.core.pipeline import Pipeline
from tstk.core.types import StepOutput, Tokens
from tstk.testing.assertions import NotApplicable, expect
from tstk.testing.fixture import ComponentFixture

TensorFunction = Callable[[Tensor], Tensor]


def passes_gradcheck(fixture: ComponentFixture) -> None:
    """Check the gradient with respect to the input with `torch.autograd.gradcheck` in float64."""
    pipeline = fixture.build_pipeline()
    if fixture.kind == "tokenizer" and pipeline.tokenizer.out.vocab_size:
        raise NotApplicable("discrete tokens are not differentiable")
    with torch.no_grad():
        step_output = fixture.run_step(pipeline)  # in float32: the other components may not support float64
    function, inputs = _as_tensor_function(fixture, pipeline, step_output)
    outputs = function(inputs)
    expect(
        outputs.dtype == torch.float64,
        f"{fixture.entry.name}: float64 in, {outputs.dtype} out; keep the dtype of the input",
    )
    try:
        inputs = inputs.detach().clone().requires_grad_()
        torch.autograd.gradcheck(function, (inputs,), fast_mode=True, eps=1e-6, atol=1e-4, rtol=1e-3)
    except RuntimeError as e:
        reason = " ".join(" ".join(str(e).splitlines()[:3]).split())
        raise AssertionError(f"{fixture.entry.name}: its gradient differs from finite differences: {reason}") from None


def _as_tensor_function(
    fixture: ComponentFixture, pipeline: Pipeline, step_output: StepOutput
) -> tuple[TensorFunction, Tensor]:
    """Return the component as a function of one tensor, and an input for it, both in float64."""
    component = fixture.get_component(pipeline).double()
    if fixture.kind == "tokenizer":
        series = step_output.series.replace(x=step_output.series.x.double())

        def tokenize(x: Tensor) -> Tensor:
            out: Tokens = component(series.replace(x=x))
            return out.values * out.valid[..., None]

        return tokenize, series.x
    visible, queries = _to_float64(step_output.visible), _to_float64(step_output.queries)
    if fixture.kind == "encoder":
        return (lambda v: component(visible.replace(values=v)).values * visible.valid[..., None]), visible.values
    if fixture.kind == "decoder":
        assert step_output.encoded is not None
        context = _to_float64(pipeline.loss.decoder_context(step_output.encoded, step_output.queries))
        pipeline.tokenizer.double()  # some decoders call it
        pos_embed = pipeline.encoder.pos_embed
        return (
            lambda v: component(
                context.replace(values=v), queries, lambda tokens: pos_embed(_to_float32(tokens)).double()
            )
        ), context.values
    if fixture.kind == "head":
        assert step_output.encoded is not None
        tokens = _to_float64(
            step_output.encoded if component.per_channel else pipeline.unfold_channels(step_output.encoded)
        )
        return (lambda v: component(tokens.replace(values=v))), tokens.values
    name = {"decoder": "predictions", "head": "head_output", "encoder": "encoded"}[component.consumes]
    step_output.visible, step_output.queries, step_output.tokens = visible, queries, _to_float64(step_output.tokens)
    step_output.encoded = None if step_output.encoded is None else _to_float64(step_output.encoded)
    step_output.series = step_output.series.replace(x=step_output.series.x.double())

    def compute_losses(v: Tensor) -> Tensor:
        setattr(
            step_output,
            name,
            step_output.encoded.replace(values=v) if name == "encoded" and step_output.encoded is not None else v,
        )
        return torch.stack([t.double() for t in component(step_output).values()])

    inputs = getattr(step_output, name)
    return compute_losses, (inputs.values if name == "encoded" else inputs).double()


def _to_float64(tokens: Tokens) -> Tokens:
    """Convert floating-point fields to float64."""
    prefix = None if tokens.prefix is None else tokens.prefix.double()
    return tokens.map(lambda t: t.double() if t.is_floating_point() else t).replace(prefix=prefix)


def _to_float32(tokens: Tokens) -> Tokens:
    """Convert floating-point fields to float32."""
    return tokens.map(lambda t: t.float() if t.is_floating_point() else t)
