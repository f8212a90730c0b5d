"""Report sections on discrete tokens: the shape and frequency of every code, and reconstructions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tstk.core.pipeline import Pipeline
from tstk.errors import IncompatibleError
from tstk.nn.codebook import code_usage
from tstk.report.context import RunContext, to_data_units
from tstk.report.page import (
    BLUE,
    DIM,
    INK,
    ORANGE,
    Section,
    render_figure,
    render_panel,
    render_panels,
    render_paragraph,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tstk.core.types import StepOutput

MAX_CODES = 64
"""Number of codes drawn at most, the most frequent ones."""
MAX_SERIES = 200
"""Number of series or windows used for the statistics of codes."""
MARGIN_TOKENS = 2
"""Neighbouring tokens on each side whose samples are drawn with a code."""
NUM_COLUMNS = 8
"""Codes per row of a figure."""


def render_codebook(context: RunContext) -> Section | None:
    """Render the mean segment of samples of each code, and code frequencies."""
    spec = context.pipeline.tokenizer.out
    if spec.vocab_size is None or spec.stride is None or not float(spec.stride).is_integer():
        return _render_decoded_codes(context)
    stride = int(spec.stride)
    margin = MARGIN_TOKENS if spec.num_tokens > 4 * MARGIN_TOKENS else 0
    counts, sums = torch.zeros(spec.vocab_size), torch.zeros(spec.vocab_size, (2 * margin + 1) * stride)
    for rows in context.sample_rows(MAX_SERIES).split(16):
        ids, segments = _extract_segments(context, rows, stride, margin)
        counts += torch.bincount(ids, minlength=spec.vocab_size)
        sums.index_add_(0, ids, segments)
    order = counts.argsort(descending=True)
    used_ids = [int(k) for k in order[:MAX_CODES] if counts[k]]
    shapes = (sums / counts.clamp(min=1)[:, None]).numpy()
    frequencies = (counts / counts.sum().clamp(min=1))[order].numpy()
    figures = [_plot_shapes(used_ids, shapes, stride, margin), _plot_usage(frequencies)]
    text = (
        f"{_describe_usage(context, counts)} A shape is the mean of the {stride} samples that a code replaces, as the "
        "tokenizer receives them; pale: the neighbouring samples."
    )
    return Section(f"Codes, {context.split_name} split", render_paragraph(text) + render_panels(figures))


def _render_decoded_codes(context: RunContext) -> Section | None:
    """Render codes that have no fixed place in time, as decoded by the tokenizer."""
    if context.pipeline.tokenizer.out.vocab_size is None or not context.pipeline.tokenizer.has_decoder:
        return None
    counts = count_codes(context)
    codes = merge_similar_codes(decode_codebook(context.pipeline), counts)[:MAX_CODES]
    label = f"the {len(codes)} most frequent codes, decoded, with their share of the tokens"
    grid = render_figure(label, label, lambda figure: draw_codes(figure, codes), codes_figure_size(len(codes)))
    text = _describe_usage(context, counts)
    return Section(f"Codes, {context.split_name} split", render_paragraph(text) + grid)


def _describe_usage(context: RunContext, counts: Tensor) -> str:
    usage = {name: float(value) for name, value in code_usage(counts).items()}
    return (
        f"{usage['usage']:.0%} of {len(counts)} codes are in use, with a perplexity of {usage['perplexity']:.0f} "
        f"(the number of equally frequent codes with the same entropy), on "
        f"{len(context.sample_rows(MAX_SERIES)):,} of {len(context.split):,} series."
    )


@dataclass
class CodeGroup:
    """A code together with similar, less frequent codes.

    Args:
        ids: its code index first, then those of the similar codes
        shape: [T] decoded samples of the first
        frequency: fraction of all tokens that have one of these codes
    """

    ids: list[int]
    shape: Tensor
    frequency: float


@torch.no_grad()
def decode_codebook(pipeline: Pipeline) -> Tensor:
    """Decode every code by itself, [K, T]; with several channels, their mean.

    Raises:
        IncompatibleError: the tokenizer has no codes, or no decoder
    """
    tokenizer = pipeline.tokenizer
    if tokenizer.out.vocab_size is None or not tokenizer.has_decoder:
        problem = "makes no codes" if tokenizer.out.vocab_size is None else "cannot turn codes into samples"
        raise IncompatibleError(f"{tokenizer.display_name()} {problem}, so there is no codebook to draw")
    ids = torch.arange(tokenizer.out.vocab_size, device=pipeline.mean.device)
    length = int(tokenizer.out.patch_len) if tokenizer.out.patch_len else min(tokenizer.out.length, 128)
    return tokenizer.decode(tokenizer.embed(ids[:, None]), length).mean(1).cpu()


@torch.no_grad()
def count_codes(context: RunContext) -> Tensor:
    """Count the codes [K] of at most `MAX_SERIES` series of the split."""
    vocab_size = context.pipeline.tokenizer.out.vocab_size or 0
    counts = torch.zeros(vocab_size)
    for rows in context.sample_rows(MAX_SERIES).split(16):
        tokens = context.pipeline.tokenize(context.split.batch(rows).to(context.pipeline.mean.device)).tokens
        assert tokens.ids is not None
        counts += torch.bincount(tokens.ids[tokens.valid].cpu(), minlength=vocab_size)
    return counts


def merge_similar_codes(shapes: Tensor, counts: Tensor, tolerance: float = 0.0) -> list[CodeGroup]:
    """Return the codes in use, the most frequent first; similar codes join the most frequent one of their kind.

    Args:
        shapes: [K, T] decoded codes
        counts: [K] occurrences
        tolerance: largest RMS difference of similar shapes, relative to the standard deviation of all; 0 merges none
    """
    total, deviation = float(counts.sum().clamp(min=1)), float(shapes.std().clamp(min=1e-8))
    groups: list[CodeGroup] = []
    for k in counts.argsort(descending=True, stable=True).tolist():
        if not counts[k]:
            break
        similar = (
            other for other in groups if (other.shape - shapes[k]).square().mean().sqrt() <= tolerance * deviation
        )
        group = next(similar, None) if tolerance else None
        if group is None:
            groups.append(CodeGroup([k], shapes[k], float(counts[k]) / total))
        else:
            group.ids.append(k)
            group.frequency += float(counts[k]) / total
    return sorted(groups, key=lambda group: -group.frequency)


def codes_figure_size(num_codes: int) -> tuple[float, float]:
    """Return the figure size for `draw_codes`, in inches."""
    return 1.3 * NUM_COLUMNS, 1.15 * max(1, -(-num_codes // NUM_COLUMNS))


def draw_codes(figure: Figure, codes: list[CodeGroup]) -> None:
    """Draw the shape of each code with its index and frequency."""
    rows = max(1, -(-len(codes) // NUM_COLUMNS))
    axes_grid = figure.subplots(rows, NUM_COLUMNS, sharex=True, sharey=True, squeeze=False).flatten()
    for axes in axes_grid:
        axes.set_axis_off()
    for axes, code in zip(axes_grid, codes, strict=False):
        axes.axhline(0, color="#e2e6ec", linewidth=0.8, zorder=0)
        axes.plot(code.shape, color=BLUE, linewidth=1.6)
        merged = f" +{len(code.ids) - 1}" if len(code.ids) > 1 else ""
        axes.set_title(f"{code.ids[0]}{merged}  {code.frequency:.1%}", fontsize=8, color=INK, pad=2)


@torch.no_grad()
def _extract_segments(context: RunContext, rows: Tensor, stride: int, margin: int) -> tuple[Tensor, Tensor]:
    """Extract the segments that belong to codes, averaged over channels.

    Args:
        context: the run
        rows: rows of the split
        stride: samples per token
        margin: neighbouring tokens to include on each side

    Returns:
        codes [M], and segments [M, (2 margin + 1) * stride]
    """
    pipeline = context.pipeline
    tokenized = pipeline.tokenize(context.split.batch(rows).to(pipeline.mean.device))
    tokens = tokenized.tokens
    assert tokens.ids is not None
    x = tokenized.series.x.mean(1)
    x = F.pad(x, (0, tokens.ids.shape[1] * stride - x.shape[-1]))
    x = x.unfold(-1, (2 * margin + 1) * stride, stride)
    ids, valid = (t[:, margin : margin + x.shape[1]] for t in (tokens.ids, tokens.valid))
    return ids[valid].cpu(), x[valid].cpu()


def _plot_shapes(code_ids: list[int], shapes: NDArray[np.float32], stride: int, margin: int) -> str:
    # a single outlier must not flatten all others
    scale = np.quantile(np.abs(shapes[code_ids]).max(1), 0.9) if code_ids else 1.0

    def draw(axes: Axes) -> None:
        for position, k in enumerate(code_ids):
            row, column = divmod(position, NUM_COLUMNS)
            time = column + 0.1 + 0.8 * np.linspace(0, 1, shapes.shape[1])
            line = 0.42 * (shapes[k] / scale).clip(-1.1, 1.1) - row
            center = slice(margin * stride, (margin + 1) * stride)
            axes.plot([column + 0.1, column + 0.9], [-row, -row], color="#eceff3", linewidth=0.8, zorder=0)
            axes.plot(time, line, color=BLUE, alpha=0.35, linewidth=1)
            axes.plot(time[center], line[center], color=BLUE, linewidth=2)
        axes.set_axis_off()

    label = f"the {len(code_ids)} most frequent codes, as shapes"
    return render_panel(label, label, draw, height=4.2)


def _plot_usage(frequencies: NDArray[np.float32]) -> str:
    def draw(axes: Axes) -> None:
        axes.bar(np.arange(1, len(frequencies) + 1), 100 * frequencies, color=BLUE, width=1.0)
        axes.axhline(100 / len(frequencies), color=DIM, linestyle=":")
        axes.set_xlabel("code, by rank")
        axes.set_ylabel("% of tokens")

    return render_panel(
        "how often each code is chosen", f"The most frequent code is {frequencies[0]:.1%} of tokens", draw, height=4.2
    )


def render_reconstructions(context: RunContext) -> Section | None:
    """Render series with their reconstructions by an autoencoder."""
    pipeline = context.pipeline
    if pipeline.decoder is None or not pipeline.decoder.predicts_series:
        return None
    names = context.run_config.channels
    channels = range(len(names))[-2:]
    rows = context.sample_rows(6 // len(channels))
    with torch.no_grad():
        output: StepOutput = pipeline(context.split.batch(rows).to(pipeline.mean.device))
    assert output.predictions is not None
    inputs = output.series.x.masked_fill(~output.series.observed_mask, torch.nan)
    errors = (output.predictions - inputs).square().flatten(0, 1).nanmean(-1).cpu()  # one per series and channel
    targets, reconstruction = (to_data_units(pipeline, values, output) for values in (inputs, output.predictions))
    figures = []
    for channel in channels:
        for i, row in enumerate(rows.tolist()):
            error = f"normalized mean square error {errors[i * len(names) + channel]:.3f}"
            label = f"channel {names[channel]} of series {row + 1:,}, {error}"
            figures.append(_plot_reconstruction(label, targets[i, channel], reconstruction[i, channel]))
    text = "Dark: the input of the tokenizer; orange: the reconstruction from its codes."
    return Section(f"Reconstructions, {context.split_name} split", render_paragraph(text) + render_panels(figures))


def _plot_reconstruction(label: str, targets: Tensor, reconstruction: Tensor) -> str:
    end = max(int((~targets.isnan() * torch.arange(1, len(targets) + 1)).max()), 1)

    def draw(axes: Axes) -> None:
        axes.plot(targets[:end], color=INK, linewidth=1)
        axes.plot(reconstruction[:end], color=ORANGE, linewidth=1)
        axes.set_xlabel("sample")

    return render_panel(label, f"The series and its reconstruction: {label}", draw)
