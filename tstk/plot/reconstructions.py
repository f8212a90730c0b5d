"""Figures of reconstructions: masked samples beside their predictions, or a series beside its reconstruction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tstk.core.imputation import reconstruct, reconstructs_samples
from tstk.core.pipeline import Pipeline
from tstk.core.prediction import eval_mode
from tstk.core.rng import SampleRNG
from tstk.core.types import StepOutput
from tstk.errors import IncompatibleError
from tstk.plot.plot_data import DataLike, PlotData, RunLike, crop_window, find_end, get_samples, open_data
from tstk.plot.style import INK, ORANGE, PALE, SampleAxis, add_legend, open_axes, set_title
from tstk.plot.units import to_data_units

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass
class ReconstructedSeries:
    """One channel of a series and its reconstruction, in the units of the data.

    Args:
        samples: [T], NaN where missing
        reconstruction: [T]
        masked: [T] bool, True at samples that the encoder did not see; None if it saw all
        error: normalized mean square error; None for masked samples
    """

    samples: Tensor
    reconstruction: Tensor
    masked: Tensor | None = None
    error: float | None = None

    def describe(self) -> str:
        """Return the masked fraction, or the error."""
        if self.masked is None:
            return "" if self.error is None else f"normalized mean square error {self.error:.3f}"
        return f"{self.masked[: find_end(self.samples)].float().mean():.0%} masked"


def predicts_masked_targets(pipeline: Pipeline) -> bool:
    """Return whether the predictions of the decoder at masked tokens are samples."""
    decoder, loss_spec = pipeline.decoder, pipeline.loss.out
    if decoder is None or decoder.predicts_series or pipeline.loss.masks_future:
        return False
    return pipeline.tokenizer.invertible and loss_spec.target_dim is not None and not loss_spec.predicts_in_place


def compute_reconstructions(data: PlotData, rows: Tensor) -> list[list[ReconstructedSeries]]:
    """Reconstruct some series; return a list of channels for each.

    Masks are those of the first training step, with the seed of the run.

    Raises:
        IncompatibleError: the pipeline predicts no samples of its input
    """
    pipeline = data.pipeline
    loss, decoder = pipeline.loss, pipeline.decoder
    by_loss = loss.reconstructs_series and decoder is not None and pipeline.tokenizer.out.stride is not None
    with eval_mode(pipeline):
        if predicts_masked_targets(pipeline) or by_loss:
            return _reconstruct_masked(data, rows)
        if decoder is not None and decoder.predicts_series:
            return _reconstruct_all(data, rows)
        if reconstructs_samples(pipeline):
            series = data.batch(rows)
            samples, values = get_samples(pipeline, series), reconstruct(pipeline, series)
            values = pipeline.add_offset(values.cpu())
            return [
                [ReconstructedSeries(x, y) for x, y in zip(*channels, strict=True)]
                for channels in zip(samples, values, strict=True)
            ]
    raise IncompatibleError(
        "this run predicts no samples of its input; a reconstruction needs a decoder of samples, as --loss masked "
        "trains, or a tokenizer that decodes its tokens, such as vqvae"
    )


def _reconstruct_masked(data: PlotData, rows: Tensor) -> list[list[ReconstructedSeries]]:
    """Predict masked samples, with the mask of a training step."""
    pipeline, series = data.pipeline, data.batch(rows)
    assert series.sample_id is not None
    output = pipeline(series, SampleRNG(data.seed, 0, series.sample_id))
    if predicts_masked_targets(pipeline):
        values = reconstruct_masked_tokens(pipeline, output)
    else:
        values = pipeline.loss.reconstruct_series(output)[: len(output.series.x)]
    targets, values = _convert(pipeline, output, values)
    masked = find_masked_samples(pipeline, output).cpu()
    if not masked.any():  # patches of other axes than time are masked, and the loss predicts all samples
        return [
            [ReconstructedSeries(*pair) for pair in zip(*row, strict=True)] for row in zip(targets, values, strict=True)
        ]
    channels = targets.shape[1]
    # independent channels are folded into the batch
    places = [
        [i * channels + c if pipeline.channel_independent else i for c in range(channels)] for i in range(len(rows))
    ]
    return [
        [ReconstructedSeries(targets[i, c], values[i, c], masked[place]) for c, place in enumerate(row)]
        for i, row in enumerate(places)
    ]


def _reconstruct_all(data: PlotData, rows: Tensor) -> list[list[ReconstructedSeries]]:
    """Reconstruct series by the decoder of an autoencoder."""
    pipeline = data.pipeline
    output: StepOutput = pipeline(data.batch(rows))
    assert output.predictions is not None
    inputs = output.series.x.masked_fill(~output.series.observed_mask, torch.nan)
    errors = (output.predictions - inputs).square().flatten(0, 1).nanmean(-1).cpu()  # one per series and channel
    targets, values = _convert(pipeline, output, output.predictions)
    channels = targets.shape[1]
    return [
        [
            ReconstructedSeries(targets[i, c], values[i, c], None, float(errors[i * channels + c]))
            for c in range(channels)
        ]
        for i in range(len(rows))
    ]


def _convert(pipeline: Pipeline, output: StepOutput, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the input, NaN where missing, and predicted samples, [B, C, T] each in the units of the data."""
    inputs = output.series.x.masked_fill(~output.series.observed_mask, torch.nan)
    targets, reconstruction = (to_data_units(pipeline, t, output) for t in (inputs, values[..., : inputs.shape[-1]]))
    return targets, reconstruction


def reconstruct_masked_tokens(pipeline: Pipeline, step_output: StepOutput) -> Tensor:
    """Return the series [B*, C*, T] with the targets of the queries replaced by predictions."""
    target, count = step_output.tokens.target, len(step_output.series.x)
    assert step_output.predictions is not None
    assert target is not None
    grid = target.new_zeros(count, pipeline.tokenizer.out.num_tokens, target.shape[-1])
    for tokens, values in ((step_output.tokens, target), (step_output.queries, step_output.predictions)):
        # a loss with several masks repeats the batch; the first mask is shown
        for row, slots, valid, value in zip(range(count), tokens.grid_index, tokens.valid, values, strict=False):
            grid[row, slots[valid]] = value[valid].to(grid.dtype)
    return pipeline.tokenizer.targets_to_series(grid, step_output.series.x.shape[-1])


def find_masked_samples(pipeline: Pipeline, step_output: StepOutput) -> Tensor:
    """Return [B*, T] bool: samples covered by a masked token and by no visible one."""
    spec, (count, _, length) = pipeline.tokenizer.out, step_output.series.x.shape
    time = torch.arange(length, device=step_output.series.x.device)

    def is_covered(tokens: Any, mask: Tensor) -> Tensor:
        ends = tokens.end_positions(spec)[:count, :, None]
        return ((time < ends) & (time >= ends - (spec.patch_len or 1)) & mask[:count, :, None]).any(1)

    return is_covered(step_output.queries, step_output.masked) & ~is_covered(
        step_output.visible, step_output.visible.valid
    )


def draw_reconstruction(
    axes: Axes,
    series: ReconstructedSeries,
    axis: SampleAxis,
    window: tuple[int, int] | None = None,
    name: str = "observed",
) -> None:
    """Draw a series and its reconstruction; masked samples are shaded, and only they are predicted.

    Args:
        axes: to draw on
        series: with its reconstruction
        axis: of its samples
        window: samples to draw, counted from 0; None for all
        name: of the channel, for the legend
    """
    # a token may reach beyond the end of a series, where predictions have no target
    start, stop = crop_window(window, find_end(series.samples))
    coordinates = axis.coordinates[start:stop]
    samples, line = series.samples[start:stop], series.reconstruction[start:stop]
    axes.plot(coordinates, samples, color=INK, linewidth=1, label=name)
    if series.masked is None:
        axes.plot(coordinates, line, color=ORANGE, linewidth=1, label="reconstruction")
    else:
        masked = series.masked[start:stop]
        edges = np.flatnonzero(np.diff(np.pad(masked.numpy().astype(int), 1))).reshape(-1, 2)
        for number, (begin, end) in enumerate(axis.locate(start + edges - 0.5)):
            axes.axvspan(begin, end, color=PALE, linewidth=0, zorder=0, label="masked" if number == 0 else None)
        # connect each reconstructed segment to the samples on both sides
        is_drawn = np.convolve(masked, [1, 1, 1], "same") > 0
        line = torch.where(masked, line, samples).masked_fill(~torch.from_numpy(is_drawn), torch.nan)
        axes.plot(coordinates, line, color=ORANGE, label="reconstruction")
        axes.grid(False)
    axes.margins(x=0.01)
    axis.apply(axes)
    add_legend(axes)


def reconstruction(
    run: RunLike,
    data: DataLike | None = None,
    *,
    split: str | None = None,
    sample: int | str = 0,
    channel: int | str | None = None,
    window: tuple[int, int] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a series and its reconstruction: of masked samples, which are shaded, or of all by an autoencoder.

    Args:
        run: run directory, hf://owner/name, pipeline, or what `open_data` returned
        data: other data, see `open_data`
        split: train, val or test; test if None
        sample: number of the series in the split, from 0, or its id
        channel: name or number; the first one if None
        window: samples to draw, from 0, such as (100, 200); None for all
        ax: to draw on; None makes a figure

    Raises:
        IncompatibleError: the run predicts no samples of its input
        OptionError: there is no such sample, channel or window
    """
    source = open_data(run, data, split=split)
    row, c = source.find_sample(sample), source.find_channel(channel)
    series = compute_reconstructions(source, torch.tensor([row]))[0][c]
    crop_window(window, find_end(series.samples))
    with open_axes(ax) as axes:
        draw_reconstruction(axes, series, source.get_axis(row, len(series.samples)), window, source.channels[c])
        set_title(axes, ", ".join(filter(None, (source.name, source.describe(row), series.describe()))))
    return axes
