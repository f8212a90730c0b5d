"""Figures of codebooks: the shape of every code, and how often each is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tstk.core.pipeline import Pipeline
from tstk.core.prediction import eval_mode
from tstk.errors import IncompatibleError, OptionError
from tstk.nn.codebook import code_usage
from tstk.plot.plot_data import DataLike, PlotData, RunLike, open_data
from tstk.plot.style import BLUE, DIM, INK, add_legend, open_axes, set_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_CODES = 64
"""Number of codes drawn at most, the most frequent ones."""
MAX_SERIES = 200
"""Number of series or windows used for the statistics of codes."""
MARGIN_TOKENS = 2
"""Neighbouring tokens on each side whose samples are drawn with a code."""
NUM_COLUMNS = 8
"""Codes per row of a figure."""


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


@dataclass
class Codebook:
    """The codes of a tokenizer, as a split uses them.

    Args:
        counts: [K] occurrences of each code
        shapes: [K, T] samples that each code stands for
        center: the samples of the code itself; the others are those of its neighbours
        description: what the shapes are
    """

    counts: Tensor
    shapes: Tensor
    center: slice
    description: str

    def list_codes(self, tolerance: float = 0.0) -> list[CodeGroup]:
        """Return the codes in use, the most frequent first, see `merge_similar_codes`."""
        return merge_similar_codes(self.shapes, self.counts, tolerance)

    @property
    def frequencies(self) -> NDArray[Any]:
        """Fraction of the tokens that have each code [K], in decreasing order."""
        return np.asarray((self.counts / self.counts.sum().clamp(min=1)).sort(descending=True).values)


def compute_codebook(data: PlotData) -> Codebook:
    """Count the codes of a split, and compute the shape of each.

    Where each code replaces a fixed number of samples, its shape is their mean, with their neighbours; else it is what
    the tokenizer decodes it to.

    Raises:
        IncompatibleError: the tokenizer makes no codes, or none that it can decode
    """
    spec = data.pipeline.tokenizer.out
    if spec.vocab_size is None or spec.stride is None or not float(spec.stride).is_integer():
        shapes = decode_codebook(data.pipeline)
        return Codebook(count_codes(data), shapes, slice(None), "A shape is what the tokenizer decodes a code to.")
    stride = int(spec.stride)
    margin = MARGIN_TOKENS if spec.num_tokens > 4 * MARGIN_TOKENS else 0
    sums, num_samples = torch.zeros(2, spec.vocab_size, (2 * margin + 1) * stride)
    for rows in data.sample_rows(MAX_SERIES).split(16):
        ids, segments = _extract_segments(data, rows, stride, margin)
        sums.index_add_(0, ids, segments.nan_to_num(0.0))
        num_samples.index_add_(0, ids, (~segments.isnan()).float())
    shapes, counts = sums / num_samples, count_codes(data)  # NaN beyond the ends of a series
    text = f"A shape is the mean of the {stride} samples that a code replaces, as the tokenizer receives them"
    text += "; pale: the neighbouring samples." if margin else "."
    return Codebook(counts, shapes, slice(margin * stride, (margin + 1) * stride), text)


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
    with eval_mode(pipeline):
        return tokenizer.decode(tokenizer.embed(ids[:, None]), length).mean(1).cpu()


def count_codes(data: PlotData) -> Tensor:
    """Count the codes [K] of at most `MAX_SERIES` series of the split."""
    vocab_size = data.pipeline.tokenizer.out.vocab_size or 0
    counts = torch.zeros(vocab_size)
    for rows in data.sample_rows(MAX_SERIES).split(16):
        with eval_mode(data.pipeline):
            tokens = data.pipeline.tokenize(data.batch(rows)).tokens
        assert tokens.ids is not None
        counts += torch.bincount(tokens.ids[tokens.valid].cpu(), minlength=vocab_size)
    return counts


def _extract_segments(data: PlotData, rows: Tensor, stride: int, margin: int) -> tuple[Tensor, Tensor]:
    """Extract the segments that belong to codes, averaged over channels.

    Args:
        data: with the series
        rows: rows of the split
        stride: samples per token
        margin: neighbouring tokens to include on each side

    Returns:
        codes [M], and segments [M, (2 margin + 1) * stride], NaN beyond the ends of a series
    """
    with eval_mode(data.pipeline):
        tokenized = data.pipeline.tokenize(data.batch(rows))
    tokens = tokenized.tokens
    assert tokens.ids is not None
    x = tokenized.series.x.mean(1)
    after = (tokens.ids.shape[1] + margin) * stride - x.shape[-1]
    x = F.pad(x, (margin * stride, after), value=torch.nan)
    x = x.unfold(-1, (2 * margin + 1) * stride, stride)
    return tokens.ids[tokens.valid].cpu(), x[tokens.valid].cpu()


def merge_similar_codes(shapes: Tensor, counts: Tensor, tolerance: float = 0.0) -> list[CodeGroup]:
    """Return the codes in use, the most frequent first; similar codes join the most frequent one of their kind.

    Args:
        shapes: [K, T] decoded codes
        counts: [K] occurrences
        tolerance: largest RMS difference of similar shapes, relative to the standard deviation of all; 0 merges none
    """
    total, deviation = float(counts.sum().clamp(min=1)), float(shapes[~shapes.isnan()].std().clamp(min=1e-8))
    groups: list[CodeGroup] = []
    for k in counts.argsort(descending=True, stable=True).tolist():
        if not counts[k]:
            break
        similar = (
            other for other in groups if (other.shape - shapes[k]).square().nanmean().sqrt() <= tolerance * deviation
        )
        group = next(similar, None) if tolerance else None
        if group is None:
            groups.append(CodeGroup([k], shapes[k], float(counts[k]) / total))
        else:
            group.ids.append(k)
            group.frequency += float(counts[k]) / total
    return sorted(groups, key=lambda group: -group.frequency)


def describe_usage(data: PlotData, counts: Tensor) -> str:
    """Return a sentence on how many codes are in use, and the perplexity of their distribution."""
    usage = {name: float(value) for name, value in code_usage(counts).items()}
    return (
        f"{usage['usage']:.0%} of {len(counts)} codes are in use, with a perplexity of {usage['perplexity']:.0f} "
        f"(the number of equally frequent codes with the same entropy), on "
        f"{len(data.sample_rows(MAX_SERIES)):,} of {len(data.split):,} series."
    )


def codes_figure_size(num_codes: int) -> tuple[float, float]:
    """Return the figure size for `draw_codes`, in inches."""
    return 1.3 * NUM_COLUMNS, 1.15 * max(1, -(-num_codes // NUM_COLUMNS))


def draw_codes(axes: Axes, codes: list[CodeGroup], center: slice = slice(None)) -> None:
    """Draw the shape of each code with its number and its fraction of the tokens, in rows of 8.

    Args:
        axes: to draw on
        codes: in the order in which they are drawn
        center: samples of the code itself; the others, of its neighbours, are pale
    """
    shapes = np.stack([code.shape.numpy() for code in codes]) if codes else np.zeros((0, 1))
    # a single outlier must not flatten all others
    scale = float(np.quantile(np.nanmax(np.abs(shapes), 1), 0.9)) if codes else 1.0
    font_size = min(8.0, 1.3 * axes.figure.get_figwidth())  # type: ignore[union-attr]
    is_center = np.zeros(shapes.shape[1], dtype=bool)
    is_center[center] = True
    for position, (code, shape) in enumerate(zip(codes, shapes, strict=True)):
        row, column = divmod(position, NUM_COLUMNS)
        time = column + 0.1 + 0.8 * np.linspace(0, 1, len(shape))
        line = 0.3 * (shape / (scale or 1.0)).clip(-1.1, 1.1) - row
        axes.plot([column + 0.1, column + 0.9], [-row, -row], color="#e2e6ec", linewidth=0.8, zorder=0)
        if not is_center.all():
            axes.plot(time, line, color=BLUE, alpha=0.35, linewidth=1)
        axes.plot(time[is_center], line[is_center], color=BLUE, linewidth=1.6)
        merged = f" +{len(code.ids) - 1}" if len(code.ids) > 1 else ""
        text = f"{code.ids[0]}{merged}  {code.frequency:.1%}"
        axes.text(column + 0.5, 0.36 - row, text, ha="center", va="bottom", fontsize=font_size, color=INK)
    axes.set(xlim=(0, NUM_COLUMNS), ylim=(-max(1, -(-len(codes) // NUM_COLUMNS)) + 0.55, 0.62))
    axes.set_axis_off()


def draw_usage(axes: Axes, frequencies: NDArray[Any]) -> None:
    """Draw the fraction of the tokens that have each code, the most frequent first.

    Args:
        axes: to draw on
        frequencies: [K] in decreasing order
    """
    axes.bar(np.arange(1, len(frequencies) + 1), 100 * frequencies, color=BLUE, width=1.0, label="codes")
    axes.axhline(100 / len(frequencies), color=DIM, linestyle=":", label="if all were equally frequent")
    axes.set_xlabel("code, by rank")
    axes.set_ylabel("% of tokens")
    add_legend(axes)


def codebook(
    run: RunLike,
    data: DataLike | None = None,
    *,
    split: str | None = None,
    show: Literal["shapes", "usage"] = "shapes",
    merge: float = 0.0,
    ax: Axes | None = None,
) -> Axes:
    """Draw the codes of a run: the shapes that they stand for, or how often each is chosen.

    At most 64 codes are drawn, the most frequent first.

    Args:
        run: run directory, hf://owner/name, pipeline, or what `open_data` returned
        data: other data, see `open_data`
        split: train, val or test; test if None
        show: shapes, or usage
        merge: draw codes as one if their shapes differ by less than this, in standard deviations
        ax: to draw on; None makes a figure

    Raises:
        IncompatibleError: the tokenizer makes no codes
        OptionError: `show` is something else, or `merge` is negative or has no effect
    """
    if show not in ("shapes", "usage"):
        raise OptionError(f"--show {show}: expected shapes or usage")
    if merge < 0:
        raise OptionError(f"--merge {merge}: expected 0 or more")
    if merge and show == "usage":
        raise OptionError("--merge has no effect with --show usage, which counts each code; remove it")
    source = open_data(run, data, split=split)
    codes = compute_codebook(source)
    title = f"{source.name}, {int((codes.counts > 0).sum())} of {len(codes.counts)} codes in use"
    groups = codes.list_codes(merge)[:MAX_CODES]
    with open_axes(ax, codes_figure_size(len(groups)) if show == "shapes" else (7.0, 2.8)) as axes:
        if show == "shapes":
            draw_codes(axes, groups, codes.center)
        else:
            draw_usage(axes, codes.frequencies)
        set_title(axes, title)
    return axes
