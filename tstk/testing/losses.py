"""Checks of losses."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.core.rng import SampleRNG
from tstk.core.types import StepOutput, Tokens
from tstk.testing.assertions import NotApplicable, assert_close, expect
from tstk.testing.fixture import ComponentFixture, randn_like


def splits_valid_tokens(fixture: ComponentFixture) -> None:
    """Check that `split` returns valid tokens of the series, with unchanged values."""
    pipeline = fixture.build_pipeline()
    for train in (True, False):
        pipeline.train(train)
        tokens = fixture.tokenize(pipeline)
        with torch.no_grad():
            visible, queries = pipeline.loss.split(tokens, SampleRNG(0, 1, torch.arange(len(tokens.grid_index))))
        for name, subset in (("visible", visible), ("query", queries)):
            _expect_tokens_of_series(fixture, name, subset, tokens)


def _expect_tokens_of_series(fixture: ComponentFixture, name: str, subset: Tokens, tokens: Tokens) -> None:
    tokens = tokens.repeat(len(subset.grid_index) // len(tokens.grid_index))  # losses may return several views
    grid_length = int(tokens.grid_index.max()) + 1
    valid_grid = tokens.grid_mask((grid_length,))
    is_foreign = subset.valid & ~valid_grid.gather(1, subset.grid_index.clamp(max=grid_length - 1))
    expect(
        not is_foreign.any(),
        f"{fixture.entry.name}: {int(is_foreign.sum())} {name} tokens are not valid tokens of the series",
    )
    expected = subset.from_grid(tokens.to_grid((grid_length,)))
    assert_close(
        subset.values[subset.valid],
        expected.values[subset.valid],
        f"{fixture.entry.name}: {name} tokens differ from those of the series",
    )


def prefers_perfect_predictions(fixture: ComponentFixture) -> None:
    """Check that the loss of perfect predictions is not above that of noise."""
    pipeline = fixture.build_pipeline()
    step_output = fixture.run_step(pipeline)
    name, targets = _find_perfect_prediction(step_output, pipeline.loss.out.target_dim)
    if targets is None:
        raise NotApplicable("it compares predictions with targets of its own")
    losses = []
    for predictions in (targets, randn_like(targets)):
        setattr(step_output, name, predictions)
        with torch.no_grad():
            losses.append(float(sum(pipeline.loss(step_output).values())))
    perfect, noise = losses
    expect(
        perfect <= noise,
        f"{fixture.entry.name}: the loss of perfect predictions is {perfect:.4g}, that of noise {noise:.4g}",
    )


def _find_perfect_prediction(step_output: StepOutput, target_dim: int | None) -> tuple[str, Tensor | None]:
    """Return the field of the step output that the loss reads, and its perfect value (None if unknown)."""
    if step_output.head_output is not None:
        has_classes = step_output.targets is not None and step_output.targets.ndim == step_output.head_output.ndim - 1
        if step_output.targets is not None and has_classes:
            one_hot = F.one_hot(step_output.targets.clamp(min=0), step_output.head_output.shape[1]).float()
            return "head_output", 20.0 * one_hot.movedim(-1, 1)
        if step_output.targets is not None and not step_output.targets.is_floating_point():
            return "head_output", 40.0 * step_output.targets.clamp(min=0) - 20.0
        return "head_output", step_output.targets
    predictions, queries = step_output.predictions, step_output.queries
    if predictions is None:
        return "predictions", None
    if predictions.shape == step_output.series.x.shape and predictions.ndim == 3 and target_dim is None:
        return "predictions", step_output.series.x
    if target_dim is None:
        return "predictions", None
    if queries.ids is not None and predictions.shape[-1] != (
        -1 if queries.target is None else queries.target.shape[-1]
    ):
        return "predictions", 20.0 * F.one_hot(queries.ids, predictions.shape[-1]).float()
    target = queries.target
    return "predictions", target if target is not None and target.shape == predictions.shape else None
