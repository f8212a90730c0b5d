"""Pictures for reports: wavelet images, what of them was hidden, and what the model says was there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tstk.core.rng import Draws
from tstk.report.context import Known
from tstk.report.page import INK, ORANGE, Section, panel, panels, paragraph
from tstk_plugins_cwtmae.tokenizer import CWT, VIEWS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tstk_plugins_cwtmae.loss import SpectrumTime

SHOWN = 2
"""Series to show."""
BRIGHT = 2.5
"""Deviations from the mean at which colours end."""


def scalograms(known: Known, tokenizer: CWT) -> Section | None:
    """Some series and the three views of their images.

    Args:
        known: the run
        tokenizer: its tokenizer
    """
    rows = known.some(SHOWN)
    series = known.part.batch(rows)
    with torch.no_grad():
        tokens = known.pipeline.encode(series.to(known.pipeline.mean.device))
    if tokens.target is None:
        return None
    # of independent channels the tokens lie side by side, those of the first in front
    first = tokens.target.shape[1] // (series.x.shape[1] if known.pipeline.independent else 1)
    images = tokenizer.joined(tokens.target[:, :first])[:, 0].cpu()
    channel = known.found["data"]["channels"][0]
    figures = []
    for x, image, row in zip(series.x.masked_fill(~series.mask, torch.nan)[:, 0], images, rows.tolist(), strict=True):
        what = f"channel {channel} of series {row + 1:,}"
        figures.append(_line(what, x))
        figures += [_image(f"{what}: {view}", tokenizer, part) for view, part in zip(VIEWS, image, strict=True)]
    text = (
        "A series and its wavelet images, of itself and of its differences: across, time; upwards, larger scales; red "
        "above the image's mean, blue below."
    )
    return Section(f"Wavelet images, {known.part_name} part", paragraph(text) + panels(figures))


def answers(known: Known, loss: SpectrumTime) -> Section | None:
    """What a masked model was shown of some images, what it says of the rest, and what it says of the series.

    Args:
        known: the run
        loss: its loss
    """
    pipeline, tokenizer = known.pipeline, known.pipeline.tokenizer
    if not isinstance(tokenizer, CWT):
        return None
    rows = known.some(SHOWN)
    series = known.part.batch(rows).to(pipeline.mean.device)
    assert series.key is not None
    with torch.no_grad():
        flow = pipeline(series, Draws(known.found["config"]["train"]["seed"], 0, series.key))
        patches, samples = loss.answers(flow)
    assert flow.asked.target is not None
    hidden = flow.hidden[..., None].expand_as(patches)
    shown = flow.asked.target.masked_fill(hidden, torch.nan)
    told = torch.where(hidden, patches.to(shown.dtype), flow.asked.target)
    channel = known.found["data"]["channels"][0]
    figures = []
    every = series.x.shape[1] if pipeline.independent else 1
    for i, row in enumerate(rows.tolist()):
        what, at = f"channel {channel} of series {row + 1:,}", i * every
        whole, part, said = (
            tokenizer.joined(picture[at : at + 1])[0, 0, 0].cpu() for picture in (flow.asked.target, shown, told)
        )
        figures.append(_image(f"{what}: the image", tokenizer, whole))
        figures.append(_image(f"{what}: what is shown, {part.isnan().float().mean():.0%} hidden", tokenizer, part))
        figures.append(_image(f"{what}: the answer", tokenizer, said))
        x = flow.series.x.masked_fill(~flow.series.mask, torch.nan)[at, 0].cpu()
        figures.append(_line(f"{what}: the series and the answer", x, samples[at, 0, : len(x)].cpu()))
    text = (
        "The first view of an image, the patches of it that the encoder was shown (it was not shown grey ones), and "
        "the image with the model's answers in place of the hidden patches. Dark: the series, normalised; orange: the "
        "model's answer, read off whole columns."
    )
    return Section(f"Hidden patches, {known.part_name} part", paragraph(text) + panels(figures))


def _line(what: str, x: Tensor, told: Tensor | None = None) -> str:
    def draw(axes: Axes) -> None:
        axes.plot(x, color=INK, linewidth=1)
        if told is not None:
            axes.plot(told, color=ORANGE)
        axes.margins(x=0)
        axes.set_xlabel("sample")

    return panel(what, f"Samples of {what}", draw)


def _image(what: str, tokenizer: CWT, image: Tensor) -> str:
    """A picture of [scales, T], NaN in grey, with the scales on its side."""
    scales = tokenizer.scales
    marks = sorted(set(np.linspace(0, len(scales) - 1, 5).round().astype(int).tolist()))

    def draw(axes: Axes) -> None:
        axes.set_facecolor("#d5dae1")
        axes.imshow(image.numpy(), cmap="RdBu_r", vmin=-BRIGHT, vmax=BRIGHT, aspect="auto", origin="lower", zorder=1)
        axes.set_yticks(marks, [f"{scales[mark]:.3g}" for mark in marks])
        axes.set_ylabel("scale")
        axes.set_xlabel("sample")
        axes.grid(False)

    return panel(what, f"Wavelet image of {what}", draw)
