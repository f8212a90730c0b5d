"""Checks of encoders."""

from __future__ import annotations

import torch

from tstk.core.interfaces import Encoder
from tstk.core.pipeline import Pipeline
from tstk.testing.assertions import NotApplicable, assert_close, expect
from tstk.testing.fixture import ComponentFixture, randn_like
from tstk.training.dry_run import compute_pos_embed_ratio


def preserves_tokens(fixture: ComponentFixture) -> None:
    """Check that the encoder returns the same tokens in the same order."""
    pipeline = fixture.build_pipeline()
    tokens = fixture.tokenize(pipeline)
    with torch.no_grad():
        out = pipeline.encoder(tokens)
    expect(
        bool(torch.equal(out.grid_index, tokens.grid_index)) and bool(torch.equal(out.valid, tokens.valid)),
        f"{fixture.entry.name}: grid_index or valid changed; "
        f"expected the same {tokens.grid_index.shape[1]} tokens in the same order",
    )


def ignores_invalid_tokens(fixture: ComponentFixture) -> None:
    """Check that neither the contents of invalid tokens nor dropping them changes valid tokens."""
    pipeline = fixture.build_pipeline()
    tokens = fixture.tokenize(pipeline)
    tokens = tokens.replace(valid=tokens.valid & (tokens.grid_index % 3 != 1))
    noisy = torch.where(tokens.valid[..., None], tokens.values, randn_like(tokens.values))
    with torch.no_grad():
        expected, from_noisy, from_selected = (
            pipeline.encoder(t) for t in (tokens, tokens.replace(values=noisy), tokens.select(tokens.valid))
        )
    for i, (valid, selected) in enumerate(zip(tokens.valid, from_selected.valid, strict=True)):
        prefix = f"{fixture.entry.name}: a valid token changes with"
        assert_close(from_noisy.values[i][valid], expected.values[i][valid], f"{prefix} the contents of an invalid one")
        assert_close(
            from_selected.values[i][selected],
            expected.values[i][valid],
            f"{prefix} dropping invalid ones; use pos and grid_index, not the order",
        )


def is_causal_as_declared(fixture: ComponentFixture) -> None:
    """Check that with `out.causal` later tokens do not change earlier ones."""
    pipeline = _build_causal_pipeline(fixture)
    tokens = fixture.tokenize(pipeline)
    half = tokens.grid_index.shape[1] // 2
    later = torch.arange(tokens.grid_index.shape[1]) >= half
    with torch.no_grad():
        expected = pipeline.encoder(tokens).values[:, :half]
        perturbed = pipeline.encoder(
            tokens.replace(values=torch.where(later[:, None], randn_like(tokens.values), tokens.values))
        )
    where = tokens.valid[:, :half]
    assert_close(
        perturbed.values[:, :half][where],
        expected[where],
        f"{fixture.entry.name}: earlier tokens change with later ones",
    )


def _build_causal_pipeline(fixture: ComponentFixture) -> Pipeline:
    """Build the pipeline with a causal encoder."""
    pipeline = fixture.build_pipeline()
    if pipeline.encoder.out.causal:
        return pipeline
    if "causal" in fixture.entry.provides:
        return fixture.build_pipeline(causal=True)
    raise NotApplicable("it is not causal")


def is_consistent_incrementally(fixture: ComponentFixture) -> None:
    """Check that `forward_incremental` in two chunks equals `forward`."""
    if _get_class(fixture).forward_incremental is Encoder.forward_incremental:
        raise NotApplicable("it has no forward_incremental")
    pipeline = _build_causal_pipeline(fixture)
    tokens = fixture.tokenize(pipeline)
    is_complete = tokens.valid.all(1)
    half = tokens.grid_index.shape[1] // 2
    with torch.no_grad():
        expected = pipeline.encoder(tokens).values
        state, outputs = None, []
        for chunk in (tokens.map(lambda t: t[:, :half]), tokens.map(lambda t: t[:, half:])):
            out, state = pipeline.encoder.forward_incremental(chunk, state)
            outputs.append(out.values)
    assert_close(
        torch.cat(outputs, 1)[is_complete],
        expected[is_complete],
        f"{fixture.entry.name}: forward_incremental in two chunks differs from forward",
    )


def is_permutation_equivariant(fixture: ComponentFixture) -> None:
    """Check that permuting the tokens together with their positions permutes the output; causal encoders are exempt."""
    pipeline = fixture.build_pipeline()
    if pipeline.encoder.out.causal:
        raise NotApplicable("it is causal")
    if "ordered" in _get_class(fixture).needs:
        raise NotApplicable("it needs ordered tokens")
    tokens = fixture.tokenize(pipeline)
    order = torch.randperm(tokens.grid_index.shape[1], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out, permuted = pipeline.encoder(tokens), pipeline.encoder(tokens.map(lambda t: t[:, order]))
    where = tokens.valid[:, order]
    assert_close(
        permuted.values[where],
        out.values[:, order][where],
        f"{fixture.entry.name}: tokens depend on their order, not on pos; if intended, declare needs = ('ordered',)",
    )


def has_noticeable_positions(fixture: ComponentFixture) -> None:
    """Check that the RMS of added position embeddings is at least a tenth of that of the token contents."""
    pipeline = fixture.build_pipeline()
    tokens = fixture.tokenize(pipeline)
    with torch.no_grad():
        contents, positions = pipeline.encoder.embed_inputs(tokens)
    expect(
        contents.shape == positions.shape,
        f"{fixture.entry.name}: embed_inputs returns contents {list(contents.shape)} and "
        f"positions {list(positions.shape)}; "
        "expected two summands of the same shape",
    )
    ratio = compute_pos_embed_ratio(pipeline.encoder, tokens)
    if ratio is None:
        raise NotApplicable("it adds no position embeddings")
    expect(
        ratio >= 0.1,
        f"{fixture.entry.name}: the RMS of its position embeddings is {ratio:.2g} of that of the "
        "tokens; expected at least 0.1. "
        "tstk.nn.positions.init_pos_embed draws a table of the right scale",
    )


def _get_class(fixture: ComponentFixture) -> type[Encoder]:
    return type(fixture.get_component(fixture.build_pipeline()))
