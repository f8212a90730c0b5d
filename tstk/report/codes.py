"""What discrete tokens are: the stretches of samples that each code stands for, and how well series come back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tstk.core.pipeline import Pipeline
from tstk.errors import NeedsError
from tstk.nn.codebook import spread
from tstk.report.context import Known
from tstk.report.page import BLUE, DIM, INK, ORANGE, Section, framed, panel, panels, paragraph

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tstk.core.types import Flow

SHOWN = 64
"""Codes that are drawn at most, the most frequent ones."""
WINDOWS = 200
"""Series or windows that are looked at."""
AROUND = 2
"""Tokens before and after its own whose samples a shape shows too."""


def codebook(known: Known) -> Section | None:
    """Codes as the mean of the samples that they stand for, and how often each is chosen."""
    spec = known.pipeline.tokenizer.out
    if spec.vocab is None or spec.step is None or not float(spec.step).is_integer():
        return _drawn_codes(known)
    span = int(spec.step)
    around = AROUND if spec.tokens > 4 * AROUND else 0
    counts, sums = torch.zeros(spec.vocab), torch.zeros(spec.vocab, (2 * around + 1) * span)
    for index in known.some(WINDOWS).split(16):
        ids, stretches = _stretches(known, index, span, around)
        counts += torch.bincount(ids, minlength=spec.vocab)
        sums.index_add_(0, ids, stretches)
    told = {name: float(value) for name, value in spread(counts).items()}
    order = counts.argsort(descending=True)
    used = [int(k) for k in order[:SHOWN] if counts[k]]
    shapes = (sums / counts.clamp(min=1)[:, None]).numpy()
    share = (counts / counts.sum().clamp(min=1))[order].numpy()
    figures = [_shapes(used, shapes, span, around), _usage(share)]
    text = (
        f"{told['usage']:.0%} of {spec.vocab} codes are in use, as evenly as {told['perplexity']:.0f} equally frequent "
        f"ones would be (perplexity), on {len(known.some(WINDOWS)):,} of {len(known.part):,} series. A shape is the "
        f"mean of the {span} samples that a code stands for, as the tokenizer sees them; pale: what is around them."
    )
    return Section(f"Codes, {known.part_name} part", paragraph(text) + panels(figures))


def _drawn_codes(known: Known) -> Section | None:
    """Codes that do not lie on a grid in time, as the tokenizer draws them."""
    if known.pipeline.tokenizer.out.vocab is None or not known.pipeline.tokenizer.synthesises:
        return None
    counts = counted(known)
    found = merged(shapes_of(known.pipeline), counts)
    told = {name: float(value) for name, value in spread(counts).items()}
    text = (
        f"{told['usage']:.0%} of {len(counts)} codes are in use, as evenly as {told['perplexity']:.0f} equally "
        f"frequent ones would be (perplexity), on {len(known.some(WINDOWS)):,} of {len(known.part):,} series."
    )
    what = (
        f"the {min(len(found), SHOWN)} most frequent codes, as the tokenizer draws them, with their share of the tokens"
    )
    grid = framed(what, what, lambda figure: draw_codes(figure, found[:SHOWN]), codes_size(min(len(found), SHOWN)))
    return Section(f"Codes, {known.part_name} part", paragraph(text) + grid)


@dataclass
class Code:
    """A code and those that look like it.

    Args:
        ids: its number, and theirs
        shape: [T] as the tokenizer draws it
        share: of all tokens, theirs included
    """

    ids: list[int]
    shape: Tensor
    share: float


@torch.no_grad()
def shapes_of(pipeline: Pipeline) -> Tensor:
    """[K, T] every code as the tokenizer draws it alone; of several channels the mean.

    Raises:
        NeedsError: it has no codes, or cannot draw them
    """
    tokenizer = pipeline.tokenizer
    if tokenizer.out.vocab is None or not tokenizer.synthesises:
        lack = "makes no codes" if tokenizer.out.vocab is None else "cannot turn codes into samples"
        raise NeedsError(f"{tokenizer.called()} {lack}, so there is no codebook to draw")
    ids = torch.arange(tokenizer.out.vocab, device=pipeline.mean.device)
    length = int(tokenizer.out.span) if tokenizer.out.span else min(tokenizer.out.length, 128)
    return tokenizer.decode(tokenizer.embed(ids[:, None]), length).mean(1).cpu()


@torch.no_grad()
def counted(known: Known) -> Tensor:
    """[K] how often each code is chosen for some series of the part."""
    vocab = known.pipeline.tokenizer.out.vocab or 0
    found = torch.zeros(vocab)
    for index in known.some(WINDOWS).split(16):
        tokens = known.pipeline.tokenize(known.part.batch(index).to(known.pipeline.mean.device)).tokens
        assert tokens.ids is not None
        found += torch.bincount(tokens.ids[tokens.valid].cpu(), minlength=vocab)
    return found


def merged(shapes: Tensor, counts: Tensor, within: float = 0.0) -> list[Code]:
    """Codes that are in use, the most frequent first; those that look like a more frequent one join it.

    Args:
        shapes: [K, T]
        counts: [K]
        within: root mean square between shapes, as a share of their common deviation, up to which they look alike
    """
    total, deviation = float(counts.sum().clamp(min=1)), float(shapes.std().clamp(min=1e-8))
    found: list[Code] = []
    for k in counts.argsort(descending=True, stable=True).tolist():
        if not counts[k]:
            break
        alike = (c for c in found if (c.shape - shapes[k]).square().mean().sqrt() <= within * deviation)
        code = next(alike, None) if within else None
        if code is None:
            found.append(Code([k], shapes[k], float(counts[k]) / total))
        else:
            code.ids.append(k)
            code.share += float(counts[k]) / total
    return sorted(found, key=lambda code: -code.share)


ACROSS = 8


def codes_size(count: int) -> tuple[float, float]:
    """Inches for so many codes."""
    return 1.3 * ACROSS, 1.15 * max(1, -(-count // ACROSS))


def draw_codes(figure: Figure, codes: list[Code]) -> None:
    """A small picture for each code, with its number and share."""
    rows = max(1, -(-len(codes) // ACROSS))
    places = figure.subplots(rows, ACROSS, sharex=True, sharey=True, squeeze=False).flatten()
    for axes in places:
        axes.set_axis_off()
    for axes, code in zip(places, codes, strict=False):
        axes.axhline(0, color="#e2e6ec", linewidth=0.8, zorder=0)
        axes.plot(code.shape, color=BLUE, linewidth=1.6)
        more = f" +{len(code.ids) - 1}" if len(code.ids) > 1 else ""
        axes.set_title(f"{code.ids[0]}{more}  {code.share:.1%}", fontsize=8, color=INK, pad=2)


@torch.no_grad()
def _stretches(known: Known, index: Tensor, span: int, around: int) -> tuple[Tensor, Tensor]:
    """Codes [M] of some series, and the samples [M, (2 around + 1) span] of and around each, all channels' mean."""
    pipeline = known.pipeline
    flow = pipeline.tokenize(known.part.batch(index).to(pipeline.mean.device))
    tokens = flow.tokens
    assert tokens.ids is not None
    x = flow.series.x.mean(1)
    x = F.pad(x, (0, tokens.ids.shape[1] * span - x.shape[-1]))
    x = x.unfold(-1, (2 * around + 1) * span, span)
    ids, valid = (t[:, around : around + x.shape[1]] for t in (tokens.ids, tokens.valid))
    return ids[valid].cpu(), x[valid].cpu()


def _shapes(used: list[int], shapes: NDArray[np.float32], span: int, around: int) -> str:
    across = 8
    # one odd code must not flatten all others
    most = np.quantile(np.abs(shapes[used]).max(1), 0.9) if used else 1.0

    def draw(axes: Axes) -> None:
        for place, k in enumerate(used):
            row, column = divmod(place, across)
            at = column + 0.1 + 0.8 * np.linspace(0, 1, shapes.shape[1])
            line = 0.42 * (shapes[k] / most).clip(-1.1, 1.1) - row
            own = slice(around * span, (around + 1) * span)
            axes.plot([column + 0.1, column + 0.9], [-row, -row], color="#eceff3", linewidth=0.8, zorder=0)
            axes.plot(at, line, color=BLUE, alpha=0.35, linewidth=1)
            axes.plot(at[own], line[own], color=BLUE, linewidth=2)
        axes.set_axis_off()

    what = f"the {len(used)} most frequent codes, as shapes"
    return panel(what, what, draw, height=4.2)


def _usage(share: NDArray[np.float32]) -> str:
    def draw(axes: Axes) -> None:
        axes.bar(np.arange(1, len(share) + 1), 100 * share, color=BLUE, width=1.0)
        axes.axhline(100 / len(share), color=DIM, linestyle=":")
        axes.set_xlabel("code, by rank")
        axes.set_ylabel("% of tokens")

    return panel(
        "how often each code is chosen", f"The most frequent code is {share[0]:.1%} of tokens", draw, height=4.2
    )


def rebuilt(known: Known) -> Section | None:
    """Series beside what an autoencoder makes of them."""
    pipeline = known.pipeline
    if pipeline.decoder is None or not pipeline.decoder.whole:
        return None
    names = known.found["data"]["channels"]
    channels = range(len(names))[-2:]
    rows = known.some(6 // len(channels))
    with torch.no_grad():
        flow: Flow = pipeline(known.part.batch(rows).to(pipeline.mean.device))
    assert flow.decoded is not None
    truth = flow.series.x.masked_fill(~flow.series.mask, torch.nan).cpu()
    told = flow.decoded.cpu()
    figures = []
    for c in channels:
        for i, row in enumerate(rows.tolist()):
            at, lane = (i * len(names) + c, 0) if pipeline.independent else (i, c)
            figures.append(_beside(f"channel {names[c]} of series {row + 1:,}", truth[at, lane], told[at, lane]))
    text = "Dark: the series as the tokenizer sees it; orange: what its codes say."
    return Section(f"Reconstructions, {known.part_name} part", paragraph(text) + panels(figures))


def _beside(what: str, truth: Tensor, told: Tensor) -> str:
    end = max(int((~truth.isnan() * torch.arange(1, len(truth) + 1)).max()), 1)
    error = float((told - truth)[:end].square().nanmean())

    def draw(axes: Axes) -> None:
        axes.plot(truth[:end], color=INK, linewidth=1)
        axes.plot(told[:end], color=ORANGE, linewidth=1)
        axes.set_xlabel("sample")

    return panel(f"{what}, mean square error {error:.3f}", f"The series and its reconstruction: {what}", draw)
