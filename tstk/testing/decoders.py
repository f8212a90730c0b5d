"""Checks of decoders."""

from __future__ import annotations

import torch

from tstk.testing.assertions import NotApplicable, assert_close, expect
from tstk.testing.fixture import ComponentFixture, randn_like


def ignores_query_contents(fixture: ComponentFixture) -> None:
    """Check that predictions depend on the positions of the queries, not on their contents."""
    pipeline = fixture.build_pipeline()
    step_output = fixture.run_step(pipeline)
    assert step_output.encoded is not None
    queries = step_output.queries
    noisy_queries = queries.replace(
        values=randn_like(queries.values),
        target=None if queries.target is None else randn_like(queries.target, 2),
        target_mask=None,
        ids=None if queries.ids is None else torch.zeros_like(queries.ids),
        attrs={},
    )
    context = pipeline.loss.decoder_context(step_output.encoded, queries)
    with torch.no_grad():
        expected, actual = (
            pipeline.decoder(context, q, pipeline.encoder.pos_embed)  # type: ignore[misc]
            for q in (queries, noisy_queries)
        )
    assert_close(
        actual,
        expected,
        f"{fixture.entry.name}: predictions change with queries.values, target, ids or attrs, which leak the targets",
    )


def attends_across_as_declared(fixture: ComponentFixture) -> None:
    """Check that a prediction depends on tokens at other positions if and only if `attends_across` is set."""
    pipeline = fixture.build_pipeline()
    decoder = pipeline.decoder
    assert decoder is not None
    if decoder.predicts_series:
        raise NotApplicable("it predicts whole series")
    tokens = fixture.tokenize(pipeline)
    with torch.no_grad():
        encoded = pipeline.encoder(tokens)
        is_other = encoded.grid_index != tokens.grid_index[:, :1]
        perturbed = encoded.replace(values=torch.where(is_other[..., None], randn_like(encoded.values), encoded.values))
        expected, actual = (decoder(e, tokens, pipeline.encoder.pos_embed)[:, 0] for e in (encoded, perturbed))
    if decoder.attends_across:
        differs = float((expected - actual).abs().max()) > 1e-7
        # residual branches with a scale near zero pass almost nothing at initialization
        expect(
            differs or _has_zero_scale(decoder),
            f"{fixture.entry.name}: attends_across = True, but no prediction depends on other positions",
        )
    else:
        assert_close(
            actual,
            expected,
            f"{fixture.entry.name}: attends_across = False, but a prediction changes with other positions",
        )


def _has_zero_scale(component: torch.nn.Module) -> bool:
    return any("scale" in name and bool((p.abs() < 1e-6).all()) for name, p in component.named_parameters())
