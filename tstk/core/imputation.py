"""Samples that a pipeline predicts: those of masked tokens, those of a reconstruction, and missing ones (imputation).

A masked model predicts the samples of tokens that it does not see. A token without an observed sample is never seen;
a token that is observed in part is hidden in one of a few complementary masks, and seen, with its missing samples at
zero as in training, in the others. A reconstructing model sees all tokens, with gaps filled by linear interpolation.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tstk.core.interfaces import BasePipeline
from tstk.core.prediction import SeriesLike, prepare_series
from tstk.core.types import Series, StepOutput, Tokens
from tstk.core.windows import average_windows, count_samples, split_sample_id
from tstk.errors import OptionError
from tstk.nn.resample import fill_gaps

NUM_MASKS = 4
"""Complementary masks: a token is hidden in one of them, and predicted from the tokens that are visible there."""


def find_sample_predictor(pipeline: BasePipeline) -> Literal["masked", "reconstruction"] | None:
    """Return how a pipeline predicts samples of its input: of masked tokens, by reconstruction, or None: not at all."""
    if predicts_masked_samples(pipeline):
        return "masked"
    return "reconstruction" if reconstructs_samples(pipeline) else None


def predicts_masked_samples(pipeline: BasePipeline) -> bool:
    """Return whether the decoder predicts the samples of tokens that the encoder does not see."""
    loss, decoder = pipeline.loss, pipeline.decoder
    if decoder is None or loss.out.predicts_in_place or pipeline.tokenizer.out.stride is None:
        return False
    return loss.reconstructs_series or (not decoder.predicts_series and _predicts_targets(pipeline))


def reconstructs_samples(pipeline: BasePipeline) -> bool:
    """Return whether the pipeline was trained to reconstruct its input, or its tokenizer has a decoder."""
    return pipeline.tokenizer.has_decoder or _reconstructs_by_decoder(pipeline)


def _predicts_targets(pipeline: BasePipeline) -> bool:
    width = pipeline.tokenizer.out.target_dim
    return pipeline.tokenizer.invertible and width is not None and pipeline.loss.out.target_dim == width


def _reconstructs_by_decoder(pipeline: BasePipeline) -> bool:
    if pipeline.decoder is None or not pipeline.loss.out.predicts_in_place:
        return False
    return pipeline.decoder.predicts_series or _predicts_targets(pipeline)


# -------------------------------------------------------------------- predictions of samples


def predict_masked(pipeline: BasePipeline, series: Series, missing: Tensor | None = None) -> Tensor:
    """Predict samples from the tokens around them, with a masked model.

    Args:
        pipeline: for which `predicts_masked_samples`
        series: windows [B, C, T] in the units of the data
        missing: [B, C, T] bool, the samples to predict; None for every token that was observed

    Returns:
        [B, C, T] in the units of the data; NaN where nothing is predicted
    """
    step_output = pipeline.preprocess(series.replace(y=None), mask_future=False)
    tokens, spec = step_output.tokens, pipeline.tokenizer.out
    starts = tokens.end_positions(spec) - (spec.patch_len or 1)
    in_context = starts < _context_end(pipeline, series)
    group = _assign_masks(pipeline, tokens)
    if missing is None:
        absent, partial = torch.zeros_like(tokens.valid), tokens.valid & in_context
    else:
        wanted = _find_tokens(pipeline, tokens, missing) & in_context
        absent, partial = wanted & ~tokens.valid, wanted & tokens.valid
    total = count = torch.zeros((), device=series.x.device)
    for mask in range(NUM_MASKS if partial.any() else 1):
        hidden = absent | (partial & (group == mask))
        if missing is None:
            hidden = _include_overlapping(pipeline, tokens, hidden) & tokens.valid
        samples, is_hidden = _predict_hidden(pipeline, step_output, hidden, require_all=missing is None)
        total, count = total + torch.where(is_hidden, samples, 0), count + is_hidden
    samples = torch.where(count > 0, total / count.clamp(min=1), torch.nan)
    return _to_units(pipeline, samples, step_output, series)


def reconstruct(pipeline: BasePipeline, series: Series, missing: Tensor | None = None) -> Tensor:
    """Reconstruct a series from all of its tokens.

    Args:
        pipeline: for which `reconstructs_samples`
        series: windows [B, C, T] in the units of the data
        missing: [B, C, T] bool, gaps that are filled by linear interpolation before

    Returns:
        [B, C, T] in the units of the data
    """
    if missing is not None and series.observed is not None:
        x = torch.where(missing, fill_gaps(series.x, series.observed), series.x)
        series = series.replace(x=x, observed=series.observed | (missing & series.observed.any(2, keepdim=True)))
    step_output = pipeline.preprocess(series.replace(y=None), mask_future=False)
    length = step_output.series.x.shape[2]
    if not _reconstructs_by_decoder(pipeline):
        samples = pipeline.tokenizer.decode(step_output.tokens.values, length)
    else:
        tokens = step_output.tokens
        pipeline.compute_predictions(step_output)
        assert step_output.predictions is not None
        samples = step_output.predictions
        if pipeline.decoder is not None and not pipeline.decoder.predicts_series:
            samples = _scatter(pipeline, tokens, samples, length)[0]
    return _to_units(pipeline, samples, step_output, series)


def _predict_hidden(
    pipeline: BasePipeline, step_output: StepOutput, hidden: Tensor, *, require_all: bool
) -> tuple[Tensor, Tensor]:
    """Predict the samples of hidden tokens, and return them with where there are any, [B', C', T'] each.

    Args:
        pipeline: with a masked loss
        step_output: from `preprocess`
        hidden: [B', N] bool
        require_all: whether a sample counts as hidden only if all tokens that contain it are
    """
    tokens, length = step_output.tokens, step_output.series.x.shape[2]
    step_output.visible = tokens.select(tokens.valid & ~hidden)
    by_loss = pipeline.loss.reconstructs_series
    everywhere = torch.ones_like(hidden) if by_loss else hidden
    step_output.queries = tokens.replace(valid=everywhere).select(everywhere)
    pipeline.compute_predictions(step_output)
    assert step_output.predictions is not None
    if by_loss:
        samples = pipeline.loss.reconstruct_series(step_output)[..., :length]
        time = torch.arange(length, device=hidden.device)
        column = tokens.pos[..., 0].round().long()
        num_hidden = torch.zeros(len(hidden), length, device=hidden.device).scatter_add(1, column, hidden.float())
        share = num_hidden[:, (time / (pipeline.tokenizer.out.stride or 1)).long()][:, None]
    else:
        samples, share = _scatter(pipeline, step_output.queries, step_output.predictions, length)
    return samples, (share > 1 - 1e-4) if require_all else (share > 1e-4)


def _scatter(pipeline: BasePipeline, queries: Tokens, predictions: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Convert the predicted targets of some tokens to samples, and return the share of a sample's tokens among them."""
    tokenizer = pipeline.tokenizer
    size = (tokenizer.out.num_tokens,)
    # the samples of a token may be averaged with those of others, which were not queried
    grid = queries.replace(values=predictions).to_grid(size).mT
    ones = queries.replace(values=torch.ones_like(predictions)).to_grid(size).mT
    samples, share = tokenizer.targets_to_series(grid, length), tokenizer.targets_to_series(ones, length)
    return samples / share.clamp(min=1e-4), share


def _to_units(pipeline: BasePipeline, samples: Tensor, step_output: StepOutput, series: Series) -> Tensor:
    """Convert samples [B', C', T'] to the units of the data, and cut what was padded: [B, C, T]."""
    end = _context_end(pipeline, series)
    samples = pipeline.postprocess(samples, step_output)[..., end - series.x.shape[2] : end]
    return samples * pipeline.std + pipeline.mean


def _context_end(pipeline: BasePipeline, series: Series) -> int:
    """Return the sample of the preprocessed series at which the context ends: contexts of forecasters are padded."""
    return series.x.shape[2] if pipeline.spec.horizon is None else pipeline.spec.length


def _find_tokens(pipeline: BasePipeline, tokens: Tokens, missing: Tensor) -> Tensor:
    """Return [B', N] bool, True for tokens that contain a missing sample."""
    spec = pipeline.tokenizer.out
    padding = _context_end(pipeline, Series(missing)) - missing.shape[2]
    is_missing = missing.flatten(0, 1) if pipeline.channel_independent else missing.any(1)
    counts = torch.nn.functional.pad(is_missing.long().cumsum(1), (padding + 1, 0))
    end = tokens.end_positions(spec)
    begin = (end - (spec.patch_len or 1)).long().clamp(0, counts.shape[1] - 1)
    return counts.gather(1, end.long().clamp(0, counts.shape[1] - 1)) > counts.gather(1, begin)


def _assign_masks(pipeline: BasePipeline, tokens: Tokens) -> Tensor:
    """Return [B', N] long, the mask that hides each token; tokens of one time, and overlapping ones, share theirs."""
    return (tokens.pos[..., 0].round().long() // _count_overlapping(pipeline)) % NUM_MASKS


def _count_overlapping(pipeline: BasePipeline) -> int:
    spec = pipeline.tokenizer.out
    return max(1, -int(-(spec.patch_len or 1) // (spec.stride or 1)))


def _include_overlapping(pipeline: BasePipeline, tokens: Tokens, hidden: Tensor) -> Tensor:
    """Return `hidden` [B', N] with the tokens that share a sample with a hidden one."""
    reach = _count_overlapping(pipeline) - 1
    if not reach:
        return hidden
    time = tokens.pos[..., 0]
    near = (time[:, :, None] - time[:, None]).abs() <= reach
    return (near & hidden[:, None]).any(2)


# -------------------------------------------------------------------- imputation


def impute(
    pipeline: BasePipeline, x: SeriesLike, *, stride: int | None = None, batch_size: int = 256
) -> NDArray[np.floating]:
    """Return a copy of the series with missing samples predicted, see `Pipeline.impute`."""
    values = x.x if isinstance(x, Series) else x
    original = np.array(values.detach().cpu().numpy() if isinstance(values, Tensor) else values)
    series = prepare_series(x, pipeline)
    samples = torch.where(series.observed_mask, series.x, torch.nan) if series.observed is not None else series.x
    filled = impute_samples(pipeline, samples.cpu(), stride=stride, batch_size=batch_size)
    if original.dtype.kind != "f":
        return original
    missing = np.isnan(original)
    if isinstance(x, Series) and x.observed is not None:
        missing |= ~x.observed_mask.cpu().numpy()
        original[missing] = np.nan
    if not isinstance(x, Series):
        filled = pipeline.add_offset(torch.from_numpy(filled)).numpy()
    original[missing] = filled.reshape(original.shape)[missing]
    return original


def impute_samples(
    pipeline: BasePipeline,
    x: Tensor,
    *,
    ends: Tensor | None = None,
    stride: int | None = None,
    batch_size: int = 256,
    source: str = "x",
) -> NDArray[np.float64]:
    """Predict the missing samples of series of any length.

    Args:
        pipeline: with a decoder or tokenizer that predicts samples
        x: [N, C, T] in the units of the data less its offset, NaN where missing
        ends: [N] long, samples of each series; up to the last observed one if None
        stride: samples from one window to the next; half a window if None
        batch_size: windows at a time
        source: where the series come from, for messages

    Returns:
        [N, C, T], finite at the missing samples that were predicted, NaN elsewhere

    Raises:
        OptionError: the pipeline predicts no samples
    """
    method = find_sample_predictor(pipeline)
    if method is None:
        raise OptionError(
            "this run predicts no samples of its input, so it cannot impute; train one with --loss masked or "
            "--loss reconstruct"
        )
    predict = predict_masked if method == "masked" else reconstruct
    if ends is None:
        ends = count_samples(x)

    def fill(series: Series) -> Tensor:
        observed = series.observed_mask
        assert series.sample_id is not None
        rows, starts = split_sample_id(series.sample_id)
        time = torch.arange(observed.shape[2], device=observed.device)
        in_series = time < (ends.to(observed.device)[rows] - starts)[:, None]
        # a channel without any sample has no level that could be known
        missing = ~observed & in_series[:, None] & observed.any(2, keepdim=True)
        if not missing.any():
            return torch.full_like(series.x, torch.nan)
        return predict(pipeline, series, missing).masked_fill(~missing, torch.nan)

    return average_windows(pipeline, x, fill, ends=ends, stride=stride, batch_size=batch_size, source=source)
