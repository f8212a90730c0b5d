"""Figures for reports: wavelet images, their masked patches, and the model's reconstructions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tstk.core.rng import SampleRNG
from tstk.plot.plot_data import get_samples
from tstk.plot.style import INK, ORANGE
from tstk.report.context import RunContext
from tstk.report.page import Section, render_panel, render_panels, render_paragraph
from tstk_plugins_cwtmae.loss import SpectrumTime
from tstk_plugins_cwtmae.tokenizer import CWT, VIEWS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NUM_SERIES = 2
"""Series to show."""
COLOR_LIMIT = 2.5
"""Limit of the colour scale, in standard deviations from the mean."""


def render_wavelet_images(context: RunContext) -> Section | None:
    """Render some series and the three views of their wavelet images."""
    tokenizer = context.pipeline.tokenizer
    if not isinstance(tokenizer, CWT):
        return None
    rows = context.select_rows(NUM_SERIES)
    series = context.split.batch(rows)
    with torch.no_grad():
        tokens = context.pipeline.encode(series.to(context.pipeline.mean.device))
    if tokens.target is None:
        return None
    # tokens of independent channels are concatenated, those of the first channel first
    count = tokens.target.shape[1] // (series.x.shape[1] if context.pipeline.channel_independent else 1)
    images = tokenizer.unpatchify(tokens.target[:, :count])[:, 0].cpu()
    channel = context.run_config.channels[0]
    figures = []
    for x, image, row in zip(get_samples(context.pipeline, series)[:, 0], images, rows.tolist(), strict=True):
        title = f"channel {channel} of {context.describe(row)}"
        figures.append(_draw_series(title, x))
        figures += [_draw_image(f"{title}: {name}", tokenizer, view) for name, view in zip(VIEWS, image, strict=True)]
    text = (
        "A series and the wavelet images of the series and its differences. Horizontal axis: time; vertical axis: "
        "scale; red: above the mean of the image; blue: below."
    )
    return Section(f"Wavelet images, {context.split_name} split", render_paragraph(text) + render_panels(figures))


def render_masked_patches(context: RunContext) -> Section | None:
    """Render some images, their visible patches, and the reconstructions of image and series."""
    pipeline, tokenizer, loss = context.pipeline, context.pipeline.tokenizer, context.pipeline.loss
    if not isinstance(tokenizer, CWT) or not isinstance(loss, SpectrumTime):
        return None
    rows = context.select_rows(NUM_SERIES)
    series = context.split.batch(rows).to(pipeline.mean.device)
    assert series.sample_id is not None
    with torch.no_grad():
        step_output = pipeline(series, SampleRNG(context.run_config.options("train")["seed"], 0, series.sample_id))
        patches, samples = loss.reconstruct(step_output)[0], loss.reconstruct_series(step_output)
    target = step_output.queries.target
    assert target is not None
    masked = step_output.masked[..., None].expand_as(patches)
    visible = target.masked_fill(masked, torch.nan)
    reconstruction = torch.where(masked, patches.to(visible.dtype), target)
    channel = context.run_config.channels[0]
    figures = []
    step = series.x.shape[1] if pipeline.channel_independent else 1  # only the first channel of a series is drawn
    for i, row in enumerate(rows.tolist()):
        title, k = f"channel {channel} of {context.describe(row)}", i * step
        images = (tokenizer.unpatchify(t[k : k + 1])[0, 0, 0].cpu() for t in (target, visible, reconstruction))
        image, visible_image, reconstructed_image = images
        share = visible_image.isnan().float().mean()
        figures.append(_draw_image(f"{title}: image", tokenizer, image))
        figures.append(_draw_image(f"{title}: visible patches, {share:.0%} masked", tokenizer, visible_image))
        figures.append(_draw_image(f"{title}: reconstruction", tokenizer, reconstructed_image))
        x = step_output.series.x.masked_fill(~step_output.series.observed_mask, torch.nan)[k, 0].cpu()
        figures.append(_draw_series(f"{title}: series and reconstruction", x, samples[k, 0, : len(x)].cpu()))
    text = (
        "The first view of an image, its patches that the encoder received (masked ones are grey), and the image with "
        "the model's reconstructions in place of the masked patches. Dark: the series, normalized; orange: the model's "
        "reconstruction from whole columns."
    )
    return Section(f"Masked patches, {context.split_name} split", render_paragraph(text) + render_panels(figures))


def _draw_series(title: str, x: Tensor, prediction: Tensor | None = None) -> str:
    def draw(axes: Axes) -> None:
        axes.plot(x, color=INK, linewidth=1)
        if prediction is not None:
            axes.plot(prediction, color=ORANGE)
        axes.margins(x=0)
        axes.set_xlabel("sample")

    return render_panel(title, f"Samples of {title}", draw)


def _draw_image(title: str, tokenizer: CWT, image: Tensor) -> str:
    """Draw an image [scales, T], NaN in grey, with labelled scales."""
    scales = tokenizer.scales
    ticks = sorted(set(np.linspace(0, len(scales) - 1, 5).round().astype(int).tolist()))

    def draw(axes: Axes) -> None:
        axes.set_facecolor("#d5dae1")
        axes.imshow(
            image.numpy(), cmap="RdBu_r", vmin=-COLOR_LIMIT, vmax=COLOR_LIMIT, aspect="auto", origin="lower", zorder=1
        )
        axes.set_yticks(ticks, [f"{scales[tick]:.3g}" for tick in ticks])
        axes.set_ylabel("scale")
        axes.set_xlabel("sample")
        axes.grid(False)

    return render_panel(title, f"Wavelet image of {title}", draw)
