"""Predictions and embeddings of arrays: conversion to batches, eval mode, and conversion to class names and units.

`Pipeline.predict`, `tstk predict` and the estimators share this code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from tstk.core.arrays import to_numbers
from tstk.core.batches import limit_batch_size
from tstk.core.finite import check_rows, find_bad_rows, name_by_number
from tstk.core.frames import frames_to_array, is_frame
from tstk.core.interfaces import BasePipeline
from tstk.core.task import Prediction
from tstk.core.types import Series
from tstk.errors import DataError, OptionError

SeriesLike: TypeAlias = Series | Tensor | ArrayLike


def predict_batches(
    pipeline: BasePipeline,
    batches: Iterable[Series],
    horizon: int | None = None,
    num_samples: int | None = None,
    *,
    source: str = "x",
    name_series: Callable[[int], str] = name_by_number,
) -> Prediction:
    """Predict batch by batch on the device of the pipeline, in eval mode, which is undone afterwards.

    Args:
        pipeline: with a task
        batches: in the units of the data
        horizon: samples to forecast, that of the run if None
        num_samples: sample paths to draw and return; None returns their mean alone
        source: where the series come from, for messages
        name_series: returns how messages name the series at an index

    Raises:
        DataError: the prediction of a series is not finite
    """
    outputs, sample_paths, bad_rows, length = [], [], [], 0
    with eval_mode(pipeline):
        for series in batches:
            step_output = pipeline.predict_step(series.to(pipeline.mean.device), horizon, num_samples)
            assert step_output.head_output is not None
            outputs.append(step_output.head_output.cpu())
            length = max(length, series.x.shape[-1])
            paths = None if step_output.forecast_samples is None else step_output.forecast_samples.cpu()
            computed = [outputs[-1], None if paths is None else paths.transpose(0, 1)]
            bad_rows.append(find_bad_rows(series.to("cpu"), computed, pipeline.mean.cpu(), pipeline.std.cpu()))
            if num_samples is not None and paths is not None:
                sample_paths.append(paths)
    check_rows(bad_rows, pipeline, source, "predictions", name_series)
    if pipeline.task is None:
        raise OptionError("this pipeline was built for no task; set `Spec.task`, such as task='classification'")
    if pipeline.spec.horizon is not None:  # a loss that forecasts may return more than was asked for
        outputs, sample_paths = ([part[..., :horizon] for part in parts] for parts in (outputs, sample_paths))
    if pipeline.task.target_type == "sample-class":  # heads predict all samples that the model accepts
        outputs = [part[..., :length] for part in outputs]
    return pipeline.task.decode(pipeline, torch.cat(outputs), torch.cat(sample_paths, 1) if sample_paths else None)


def map_batches(
    pipeline: BasePipeline,
    batches: Iterable[Series],
    function: Callable[[Series], Tensor],
    *,
    source: str = "x",
    name_series: Callable[[int], str] = name_by_number,
    quantity: str = "embeddings",
) -> Tensor:
    """Apply a function to batches on the device of the pipeline, in eval mode; return the rows of all on the CPU.

    Args:
        pipeline: its mode is restored afterwards
        batches: in the units of the data
        function: returns one embedding, or other output, per series
        source: where the series come from, for messages
        name_series: returns how messages name the series at an index
        quantity: what is computed, for messages

    Raises:
        DataError: the output of a series is not finite
    """
    vectors, bad_rows = [], []
    with eval_mode(pipeline):
        for series in batches:
            vectors.append(function(series.to(pipeline.mean.device)).cpu())
            bad_rows.append(find_bad_rows(series.to("cpu"), [vectors[-1]], pipeline.mean.cpu(), pipeline.std.cpu()))
    check_rows(bad_rows, pipeline, source, quantity, name_series)
    return torch.cat(vectors)


@contextmanager
def eval_mode(pipeline: BasePipeline) -> Iterator[None]:
    """Disable gradients and dropout; the mode of every module is restored afterwards."""
    modes = [(module, module.training) for module in pipeline.modules()]
    pipeline.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def iter_series(x: SeriesLike, pipeline: BasePipeline, batch_size: int) -> Iterator[Series]:
    """Validate series as the readers of files do and yield them in batches, without labels.

    Args:
        x: see `prepare_series`
        pipeline: for which channels and lengths are checked
        batch_size: series at a time; fewer where they are long

    Raises:
        DataError: the shape does not fit, or a series is entirely missing or infinite
        OptionError: `batch_size` is not positive
    """
    if batch_size < 1:
        raise OptionError(f"batch_size is {batch_size}; expected 1 or more")
    series = prepare_series(x, pipeline)
    has_fixed_length = pipeline.task is not None and pipeline.task.target_type in ("future", "sample-class")
    crop = not has_fixed_length and not isinstance(x, Series)
    batch_size = limit_batch_size(batch_size, series.x[0].numel())
    for start in range(0, len(series.x), batch_size):
        yield _make_batch(series, slice(start, start + batch_size), crop)


def prepare_series(x: SeriesLike, pipeline: BasePipeline) -> Series:
    """Return series of any kind as one batch [N, C, T] without labels, less the offset of the pipeline.

    Args:
        x: [N, C, T], [C, T], or [T] if the pipeline has one channel; NaN where a sample is missing or beyond the end.
            Or a data frame [T, C], or a list of N of them, whose columns are the channels.
            From a `Series`, which is a batch of a data set, `pipeline.offset` has been subtracted already
        pipeline: for which channels are checked

    Raises:
        DataError: the shape does not fit
    """
    offset = None if isinstance(x, Series) else pipeline.offset
    frames = [x] if is_frame(x) else x
    if isinstance(frames, list | tuple) and frames and all(map(is_frame, frames)):
        x = frames_to_array(frames, pipeline.channel_names)
    series = x if isinstance(x, Series) else Series(_to_tensor(x, torch.float32 if offset is None else torch.float64))
    series = series.replace(x=_add_axes(series.x, pipeline), y=None)
    if offset is not None:
        series = series.replace(x=series.x.cpu().double() - offset[:, None])
    if series.sample_id is None:
        series = series.replace(sample_id=torch.arange(len(series.x), device=series.x.device))
    return series


def _to_tensor(x: Tensor | ArrayLike, dtype: torch.dtype) -> Tensor:
    if isinstance(x, Tensor):
        if x.is_complex():
            raise DataError("x is complex; make the real and the imaginary part channels of their own")
        return x.detach()
    return torch.tensor(to_numbers(x), dtype=dtype)


def _add_axes(x: Tensor, pipeline: BasePipeline) -> Tensor:
    """Return [B, C, T], or raise an error that says which shape the pipeline takes."""
    channels, shape = pipeline.spec.channels, list(x.shape)
    if x.ndim == 1 and channels == 1:
        x = x[None]
    if x.ndim == 2:
        x = x[None]
    hint = ""
    if x.ndim == 3:
        if 0 in shape:
            raise DataError(f"x has shape {shape}; expected at least one series with at least one sample")
        if x.shape[1] == channels:
            if pipeline.resize not in (None, x.shape[2]):
                raise DataError(
                    f"x has shape {shape}, but this pipeline was trained on series resampled to {pipeline.resize} "
                    "samples; resample x to that length"
                )
            return x
        if channels == 1 and len(shape) == 2:
            hint = "; for a batch of series with one channel, use x[:, None]"
        elif x.shape[2] == channels:
            hint = "; x looks transposed"
        elif pipeline.channel_independent and pipeline.head is None:
            hint = "; to use it on other channels, call pipeline.set_channels(mean, std) with their mean and deviation"
    one = ", or [samples]" if channels == 1 else ""
    raise DataError(f"x has shape {shape}; expected [series, {channels}, samples] or [{channels}, samples]{one}{hint}")


def _make_batch(series: Series, rows: slice, crop: bool) -> Series:
    """Return some rows with missing samples set to zero; `crop` removes samples at the end that all rows lack."""
    x = series.x[rows].float()
    observed = ~x.isnan() if series.observed is None else series.observed[rows] & ~x.isnan()
    for is_bad, reason in (
        (~observed.flatten(1).any(1), "is entirely missing; remove it, or give it at least one sample"),
        ((x.isinf() & observed).flatten(1).any(1), "holds an infinite value; write missing samples as NaN"),
    ):
        if is_bad.any():
            raise DataError(f"x[{rows.start + int(is_bad.nonzero()[0])}] {reason}")
    if crop:
        length = int(observed.any(1).any(0).nonzero().max()) + 1
        x, observed = x[..., :length], observed[..., :length]
    return Series(
        x.masked_fill(~observed, 0.0),
        None if observed.all() else observed,
        sample_id=None if series.sample_id is None else series.sample_id[rows],
        conditioning={k: (v[rows], ok[rows]) for k, (v, ok) in series.conditioning.items()},
    )
