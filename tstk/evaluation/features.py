"""Fixed-size feature vectors of series, for classifiers, files and plots."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from tstk.core.pipeline import Pipeline
from tstk.core.types import Series
from tstk.errors import IncompatibleError

Features = Literal["pooled", "tokens", "codes", "counts"]
Pool = Literal["mean", "max", "cls", "statistics"]


def feature_extractor(pipeline: Pipeline, features: Features, pool: Pool = "mean") -> Callable[[Series], Tensor]:
    """Return a function that maps a batch to features [B, W].

    Args:
        pipeline: trained, in eval mode
        features: pooled (one vector, see `pool`), tokens (all tokens concatenated), codes (relative frequency of each
            code) or counts (occurrences of each code)
        pool: how pooled features reduce the tokens

    Raises:
        IncompatibleError: the tokenizer has no codes
    """
    if features == "pooled":
        return lambda series: pipeline.embed_batch(series, pool)
    if features == "tokens":
        return lambda series: concat_tokens(pipeline, series)
    if pipeline.tokenizer.out.vocab_size is None:
        raise IncompatibleError(f"{pipeline.tokenizer.display_name()} makes no codes; use --features pooled or tokens")
    if features == "counts":
        return lambda series: code_counts(pipeline, series)
    return lambda series: code_frequencies(pipeline, series)


def concat_tokens(pipeline: Pipeline, series: Series) -> Tensor:
    """Concatenate the tokens in grid order, [B, grid slots * D]; slots without a valid token are zero."""
    tokens = pipeline.encode(series)
    num_slots = pipeline.tokenizer.out.num_tokens * (pipeline.spec.channels if pipeline.channel_independent else 1)
    values = tokens.values.masked_fill(~tokens.valid[..., None], 0)
    grid = values.new_zeros(len(values), num_slots, values.shape[-1])
    return grid.scatter_add(1, tokens.grid_index[..., None].expand_as(values), values).flatten(1)


def code_counts(pipeline: Pipeline, series: Series) -> Tensor:
    """Count each code among the valid tokens, [B, vocab_size], or [B, C * vocab_size] with independent channels."""
    tokens, vocab_size = pipeline.encode(series), pipeline.tokenizer.out.vocab_size
    assert tokens.ids is not None
    assert vocab_size is not None
    channels = pipeline.spec.channels if pipeline.channel_independent else 1
    channel_ids = tokens.ids + tokens.grid_index % channels * vocab_size
    return (F.one_hot(channel_ids, channels * vocab_size) * tokens.valid[..., None]).sum(1)


def code_frequencies(pipeline: Pipeline, series: Series) -> Tensor:
    """Return `code_counts` normalized to sum to 1."""
    counts = code_counts(pipeline, series)
    return counts / counts.sum(1, keepdim=True).clamp(min=1)
