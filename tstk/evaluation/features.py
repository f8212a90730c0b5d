"""One vector per series, for what has no use for tokens: classifiers, files, pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from tstk.core.pipeline import Pipeline
from tstk.core.types import Series
from tstk.errors import NeedsError

Features = Literal["pooled", "tokens", "codes", "counts"]
Pool = Literal["mean", "max", "cls", "statistics"]


def vectors(pipeline: Pipeline, features: Features, pool: Pool = "mean") -> Callable[[Series], Tensor]:
    """What makes [B, W] of a batch.

    Args:
        features: pooled, one token's worth by `pool`; tokens, all side by side; codes, the share of each code; counts,
            how often each occurs

    Raises:
        NeedsError: there are no codes
    """
    if features == "pooled":
        return lambda series: pipeline.embed(series, pool)
    if features == "tokens":
        return lambda series: side_by_side(pipeline, series)
    if pipeline.tokenizer.out.vocab is None:
        raise NeedsError(f"{pipeline.tokenizer.called()} makes no codes; use --features pooled or tokens")
    if features == "counts":
        return lambda series: counts(pipeline, series)
    return lambda series: shares(pipeline, series)


def side_by_side(pipeline: Pipeline, series: Series) -> Tensor:
    """[B, slots * D]: every valid token in its slot of the grid, zeros where there is none."""
    tokens = pipeline.encode(series)
    slots = pipeline.tokenizer.out.tokens * (pipeline.spec.channels if pipeline.independent else 1)
    values = tokens.values.masked_fill(~tokens.valid[..., None], 0)
    grid = values.new_zeros(len(values), slots, values.shape[-1])
    return grid.scatter_add(1, tokens.index[..., None].expand_as(values), values).flatten(1)


def counts(pipeline: Pipeline, series: Series) -> Tensor:
    """[B, vocab], or [B, C * vocab] with independent channels: how often each code occurs among the valid ones."""
    tokens, vocab = pipeline.encode(series), pipeline.tokenizer.out.vocab
    assert tokens.ids is not None
    assert vocab is not None
    channels = pipeline.spec.channels if pipeline.independent else 1
    kinds = tokens.ids + tokens.index % channels * vocab
    return (F.one_hot(kinds, channels * vocab) * tokens.valid[..., None]).sum(1)


def shares(pipeline: Pipeline, series: Series) -> Tensor:
    """As `counts`, divided by their sum."""
    found = counts(pipeline, series)
    return found / found.sum(1, keepdim=True).clamp(min=1)
