"""Metrics of a pipeline on a split; every row counts once, whatever the batch size."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tstk.core.batches import split_rows
from tstk.core.finite import check_rows, find_bad_rows
from tstk.core.rng import SampleRNG
from tstk.core.types import Series
from tstk.data.datasets import name_series
from tstk.nn.codebook import code_usage

if TYPE_CHECKING:
    from tstk.core.pipeline import Pipeline
    from tstk.core.types import Split


def iter_batches(split: Split, batch_size: int, device: torch.device | str) -> Iterator[Series]:
    """Iterate over a split in order, in batches on `device`, which are smaller where series are long."""
    for index in split_rows(split, batch_size):
        yield split.batch(index).to(device)


@torch.no_grad()
def evaluate(
    pipeline: Pipeline,
    split: Split,
    *,
    seed: int = 0,
    batch_size: int = 256,
    source: str | None = None,
    head_outputs: list[Tensor] | None = None,
) -> dict[str, float]:
    """Compute the losses and, for a supervised task, its metrics.

    The metrics are those of the task (`Task.create_metrics`). Discrete tokens: `usage` and `perplexity` of the codes.
    Masks are the same at every call. Losses are batch means weighted by the number of rows, so they depend slightly on
    the batch size if rows have different numbers of targets.

    Args:
        pipeline: its mode is restored afterwards
        split: the split to evaluate on
        seed: of the masks
        batch_size: series at a time, fewer where they are long; with independent channels every channel counts as one
        source: where the series come from, for messages; None returns metrics that are not finite, for training to stop
        head_outputs: a list to which the output of the head for each batch is added, on the CPU, for other scores

    Raises:
        DataError: the loss or the prediction of a series is not finite
        CheckpointError: a weight is not finite
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
        if source is not None:
            bad_rows.append(find_bad_rows(series, output.head_output, pipeline.mean, pipeline.std))
            if not output.loss.isfinite() and not bad_rows[-1].any():
                bad_rows[-1] = _find_bad_losses(pipeline, split, series.sample_id, seed)
        for name, value in {**output.losses, **output.metrics, "loss": output.loss}.items():
            sums[name] = sums.get(name, torch.zeros((), device=device)) + value * len(series.x)
        if vocab_size and output.tokens.ids is not None and not pipeline.loss.masks_future:
            code_counts += torch.bincount(output.tokens.ids[output.tokens.valid], minlength=vocab_size)
        if pipeline.can_forecast and output.head_output is None:
            output = pipeline.predict_step(series)
        if metrics is not None:
            metrics.update(series, output)
        if head_outputs is not None and output.head_output is not None:
            head_outputs.append(output.head_output.float().cpu())
    pipeline.train(was_training)
    if source is not None:
        check_rows(bad_rows, pipeline, source, "losses or predictions", partial(name_series, split))
    scores = {name: float(total) / len(split) for name, total in sums.items()}
    if code_counts.any():
        scores |= {name: float(value) for name, value in code_usage(code_counts).items()}
    return scores if metrics is None else scores | metrics.compute(split)


def _find_bad_losses(pipeline: Pipeline, split: Split, sample_id: Tensor, seed: int) -> Tensor:
    """Return [B] bool, True for series whose loss is not finite by itself."""
    losses = [
        pipeline(split.batch(row).to(pipeline.mean.device), SampleRNG(seed, 0, row.to(sample_id.device))).loss.cpu()
        for row in sample_id.cpu().split(1)
    ]
    return ~torch.stack(losses).isfinite()
