"""Metrics of a pipeline on a split; every row counts once, whatever the batch size."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tstk.core.batches import split_rows
from tstk.core.finite import NOT_FINITE, check_rows, find_bad_rows
from tstk.core.rng import SampleRNG
from tstk.core.types import Series
from tstk.data.datasets import name_series
from tstk.nn.codebook import code_usage

if TYPE_CHECKING:
    from tstk.core.pipeline import Pipeline
    from tstk.core.types import Split, StepOutput


def iter_batches(split: Split, batch_size: int, device: torch.device | str) -> Iterator[Series]:
    """Iterate over a split in order, in batches on `device`, which are smaller where series are long."""
    for index in split_rows(split, batch_size):
        yield split.batch(index).to(device)


def iter_predictions(pipeline: Pipeline, split: Split, source: str, batch_size: int = 256) -> Iterator[Tensor]:
    """Iterate over what `Pipeline.predict_batch` returns for the batches of a split, on the CPU.

    Args:
        pipeline: in eval mode
        split: whose targets are not seen
        source: where the series come from, for messages
        batch_size: series at a time; fewer where they are long

    Raises:
        DataError: after the last batch, if the prediction of a series is not finite
    """
    bad_rows = []
    for series in iter_batches(split, batch_size, pipeline.mean.device):
        outputs = pipeline.predict_batch(series.replace(y=None))
        bad_rows.append(find_bad_rows(series, [outputs], pipeline.mean, pipeline.std))
        yield outputs.cpu()
    check_rows(bad_rows, pipeline, source, "predictions", partial(name_series, split))


@torch.no_grad()
def evaluate(
    pipeline: Pipeline,
    split: Split,
    *,
    seed: int = 0,
    batch_size: int = 256,
    source: str = "x",
    head_outputs: list[Tensor] | None = None,
) -> dict[str, float]:
    """Compute the losses and, for a supervised task, its metrics.

    The metrics are those of the task (`Task.create_metrics`). Discrete tokens: `usage` and `perplexity` of the codes.
    Masks are the same at every call. Losses are batch means weighted by the number of rows, so they depend slightly on
    the batch size if rows have different numbers of targets. Outputs that are not finite are not scored, since the
    class of the largest of them, or a mean over the others, would look like a result.

    Args:
        pipeline: its mode is restored afterwards
        split: the split to evaluate on
        seed: of the masks
        batch_size: series at a time, fewer where they are long; with independent channels every channel counts as one
        source: where the series come from, for messages
        head_outputs: a list to which the output of the head for each batch is added, on the CPU, for other scores

    Raises:
        DataError: the loss or the prediction of a series is not finite
    """
    was_training = pipeline.training
    pipeline.eval()
    device = pipeline.mean.device
    sums: dict[str, Tensor] = {}
    bad_rows = []
    metrics = None if pipeline.task is None else pipeline.task.create_metrics(pipeline)
    vocab_size = pipeline.tokenizer.out.vocab_size
    code_counts = torch.zeros(vocab_size or 0, device=device)
    rows_per_batch = max(1, batch_size // pipeline.spec.channels) if pipeline.channel_independent else batch_size
    for series in iter_batches(split, rows_per_batch, device):
        assert series.sample_id is not None
        output = pipeline(series, SampleRNG(seed, 0, series.sample_id))
        for name, value in {**output.losses, **output.metrics, "loss": output.loss}.items():
            sums[name] = sums.get(name, torch.zeros((), device=device)) + value * len(series.x)
        if vocab_size and output.tokens.ids is not None and not pipeline.loss.masks_future:
            code_counts += torch.bincount(output.tokens.ids[output.tokens.valid], minlength=vocab_size)
        is_finite = bool(output.loss.isfinite())
        if pipeline.can_forecast and output.head_output is None:
            output = pipeline.predict_step(series)
        bad_rows.append(_find_bad_rows(pipeline, split, series, output, None if is_finite else seed))
        if metrics is not None:
            metrics.update(series, output)
        if head_outputs is not None and output.head_output is not None:
            head_outputs.append(output.head_output.float().cpu())
    pipeline.train(was_training)
    check_rows(bad_rows, pipeline, source, "losses or predictions", partial(name_series, split))
    scores = {name: float(total) / len(split) for name, total in sums.items()}
    if code_counts.any():
        scores |= {name: float(value) for name, value in code_usage(code_counts).items()}
    return scores if metrics is None else scores | metrics.compute(split)


def _find_bad_rows(
    pipeline: Pipeline, split: Split, series: Series, output: StepOutput, loss_seed: int | None
) -> Tensor:
    """Return why rows [B] are bad, as `find_bad_rows` does.

    Args:
        pipeline: that computed the output
        split: of the series
        series: the batch
        output: its predictions
        loss_seed: of the masks, if the loss of the batch is not finite; None if it is
    """
    samples = output.forecast_samples
    outputs = [output.head_output, None if samples is None else samples.transpose(0, 1)]
    code = find_bad_rows(series, outputs, pipeline.mean, pipeline.std)
    if loss_seed is None or code.any():
        return code
    assert series.sample_id is not None
    losses = [
        pipeline(split.batch(row).to(series.x.device), SampleRNG(loss_seed, 0, row.to(series.x.device))).loss
        for row in series.sample_id.cpu().split(1)
    ]
    is_bad = ~torch.stack(losses).isfinite().cpu()
    return (is_bad if is_bad.any() else ~is_bad).to(torch.uint8) * NOT_FINITE  # all of them together, if none alone
