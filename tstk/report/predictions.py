"""What a trained pipeline answers, in pictures: right and wrong classes, futures, hidden samples, embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tstk.core.rng import Draws
from tstk.core.types import Flow, Series
from tstk.evaluation.evaluate import class_scores
from tstk.evaluation.token_order import no_order, order
from tstk.nn.linear_map import last_value
from tstk.report.context import MOST, Known
from tstk.report.page import BLUE, DIM, INK, ORANGE, Section, panel, panels, paragraph, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[Any]
PANELS = 6
DRAWN = 50
"""Futures that are drawn for an interval."""


def confusion(known: Known) -> Section | None:
    """Which class is taken for which, and how well each is recognised."""
    if known.pipeline.head is None or known.pipeline.spec.horizon is not None or known.part.y is None:
        return None
    guess = torch.cat([known.pipeline.predict(series).argmax(1).cpu() for series in _batches(known, None)])
    classes = known.found["data"]["classes"]
    truth = known.part.y
    counts = torch.zeros(len(classes), len(classes), dtype=torch.long)
    counts.index_put_((truth[truth >= 0], guess[truth >= 0]), torch.tensor(1), accumulate=True)
    each = class_scores(truth, guess, len(classes))
    head = ["class", "F1", "precision", "recall", "series"]
    rows = []
    for i, name in enumerate(classes):
        f1, precision, recall = (f"{each[score][i]:.3f}" for score in ("f1", "precision", "recall"))
        rows.append([name, f1, precision, recall, f"{counts[i].sum():,}"])
    html = _matrix(counts.numpy(), classes) + table(head, rows, numbers=head[1:]) + _order(known)
    return Section(f"Classes, {known.part_name} part", html)


def _order(known: Known) -> str:
    """Whether the model uses the order of time, if that can be asked."""
    rows = known.some()
    assert known.part.y is not None
    if no_order(known.pipeline) is not None or not (known.part.y[rows] >= 0).any():
        return ""
    groups = None if known.part.groups is None else [known.part.groups[i] for i in rows.tolist()]
    seed = known.found["config"]["train"]["seed"]
    reading = order(known.pipeline, _batches(known, rows), seed=seed, groups=groups).reading
    return paragraph(f"Order of time, {len(rows):,} series: {reading}.")


def _matrix(counts: Array, classes: list[str]) -> str:
    """Rows are true classes, columns answers; a cell is as dark as its share of the row."""
    names = [escape(name).replace("_", "_<wbr>") for name in classes]
    top = "".join(f"<th>{name}</th>" for name in names)
    body = ""
    for name, row in zip(names, counts, strict=True):
        cells = ""
        for count in row:
            share = count / max(row.sum(), 1)
            ink = "#fff" if share > 0.55 else "inherit"
            cells += f'<td style="background:rgba(37,99,168,{share:.2f});color:{ink}">{count}</td>'
        body += f"<tr><th>{name}</th>{cells}</tr>"
    return (
        '<div class="scroll"><table class="matrix"><caption>rows: true class; columns: answer</caption>'
        f"<thead><tr><th></th>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def futures(known: Known) -> Section | None:
    """Forecasts over what happened, and the error by how far ahead it looks."""
    pipeline = known.pipeline
    if pipeline.spec.horizon is None or (pipeline.head is None and not pipeline.foretells):
        return None
    names = known.found["data"]["channels"]
    channels = range(len(names))[-2:]
    figures = []
    rows = known.some(PANELS // len(channels))
    series = known.part.batch(rows)
    guess, paths = _guessed(known, series)
    for c in channels:
        for i, window in enumerate(rows.tolist()):
            what = f"{names[c]}, window {window + 1:,} of {len(known.part):,}"
            figures.append(_future(what, series, guess[i, c], None if paths is None else paths[:, i, c], i, c))
    text = "Dark: what was seen and what followed; orange: the forecast."
    if paths is not None:
        text += f" Shaded: where the middle 50 and 80 % of {len(paths)} drawn futures are; the forecast is their mean."
    steps, rest = _by_step(known)
    return Section(f"Forecasts, {known.part_name} part", paragraph(text) + panels([*figures, steps]) + paragraph(rest))


@torch.no_grad()
def _guessed(known: Known, series: Series) -> tuple[Tensor, Tensor | None]:
    """Forecasts [B, C, H] and, from a run that can draw, its draws [S, B, C, H]."""
    pipeline = known.pipeline
    drawn = None if pipeline.loss.samples is None else max(pipeline.loss.samples, DRAWN)
    flow = pipeline.answer(series.to(pipeline.mean.device), samples=drawn)
    found = [None if t is None else (t * pipeline.std + pipeline.mean).cpu() for t in (flow.output, flow.futures)]
    assert found[0] is not None
    return found[0], found[1]


def _future(what: str, series: Series, guess: Tensor, paths: Tensor | None, row: int, channel: int) -> str:
    assert series.y is not None
    horizon = series.y.shape[-1]
    # a long past would leave no room for what matters
    past = _seen(series)[row, channel][-3 * horizon :]
    future = series.y[row, channel]

    def draw(axes: Axes) -> None:
        ahead = np.arange(1, horizon + 1)
        axes.plot(np.arange(1 - len(past), 1), past, color=INK, linewidth=1)
        axes.plot(ahead, future, color=INK, linewidth=1)
        if paths is not None:
            for low, high in ((0.1, 0.9), (0.25, 0.75)):
                band = paths.quantile(torch.tensor([low, high]), 0)
                axes.fill_between(ahead, *band, color=ORANGE, alpha=0.18, linewidth=0)
        axes.plot(ahead, guess, color=ORANGE)
        axes.axvline(0.5, color=DIM, linestyle=":", zorder=0)
        axes.set_xlabel("steps ahead")

    return panel(what, f"The past, the future and the forecast of {what}", draw)


def _by_step(known: Known) -> tuple[str, str]:
    """Mean square error at each step ahead, in deviations of the training data, beside the last value repeated."""
    std = known.pipeline.std.cpu()
    rows = known.some(MOST // max(1, known.pipeline.loss.samples or 0))
    model, naive = [], []
    for series in _batches(known, rows):
        guess, cpu = known.pipeline.predict(series).cpu(), series.to("cpu")
        assert cpu.y is not None
        model.append(((guess - cpu.y) / std).square())
        naive.append(((last_value(cpu) - cpu.y) / std).square())
    errors = [torch.cat(each).nanmean((0, 1)) for each in (model, naive)]
    ahead = np.arange(1, len(errors[0]) + 1)

    def draw(axes: Axes) -> None:
        mark = "o" if len(ahead) < 3 else ""
        for error, color, name in zip(errors, (ORANGE, DIM), ("forecast", "last value"), strict=True):
            axes.plot(ahead, error, color=color, label=name, marker=mark)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("steps ahead")
        axes.legend()

    alt = f"Mean square error from {errors[0][0]:.3f} one step ahead to {errors[0][-1]:.3f} {len(ahead)} steps ahead"
    title = "mean square error by step ahead"
    return panel(title, alt, draw), f"Errors are means over {len(rows):,} windows, in deviations of the training data."


def reconstructions(known: Known) -> Section | None:
    """What a masked model says of samples that it did not see."""
    pipeline = known.pipeline
    decoder, tokenizer, asks = pipeline.decoder, pipeline.tokenizer, pipeline.loss.out
    samples = tokenizer.invertible and asks.target is not None and not asks.aligned
    if decoder is None or decoder.whole or pipeline.loss.blanks or not samples:
        return None
    names = known.found["data"]["channels"]
    channels = range(len(names))[:2]
    rows = known.some(PANELS // len(channels))
    series = known.part.batch(rows).to(pipeline.mean.device)
    assert series.key is not None
    with torch.no_grad():
        flow = pipeline(series, Draws(known.found["config"]["train"]["seed"], 0, series.key))
        told = _told(known, flow)
    truth, hidden = _seen(flow.series).cpu(), _hidden(known, flow).cpu()
    figures = []
    for c in channels:
        for i, row in enumerate(rows.tolist()):
            at, lane = (i * len(names) + c, 0) if pipeline.independent else (i, c)
            what = f"channel {names[c]} of series {row + 1:,}"
            figures.append(_filled(what, truth[at, lane], told[at, lane].cpu(), hidden[at]))
    text = "Dark: the series; shaded: hidden from the model; orange: what it says was there."
    return Section(f"Hidden samples, {known.part_name} part", paragraph(text) + panels(figures))


def _told(known: Known, flow: Flow) -> Tensor:
    """[B*, C*, T] the series with the decoder's answers in place of what was asked."""
    target, count = flow.tokens.target, len(flow.series.x)
    assert flow.decoded is not None
    assert target is not None
    grid = target.new_zeros(count, known.pipeline.tokenizer.out.tokens, target.shape[-1])
    for at, values in ((flow.tokens, target), (flow.asked, flow.decoded)):
        # a loss with several draws repeats the batch; the first draw is shown
        for row, slot, ok, value in zip(range(count), at.index, at.valid, values, strict=False):
            grid[row, slot[ok]] = value[ok].to(grid.dtype)
    return known.pipeline.tokenizer.invert(grid, flow.series.x.shape[-1])


def _hidden(known: Known, flow: Flow) -> Tensor:
    """[B*, T] bool: samples that lie under a hidden token and under none that was seen."""
    spec, (count, _, length) = known.pipeline.tokenizer.out, flow.series.x.shape
    time = torch.arange(length, device=flow.series.x.device)

    def under(tokens: Any, where: Tensor) -> Tensor:
        ends = tokens.ends(spec)[:count, :, None]
        return ((time < ends) & (time >= ends - (spec.span or 1)) & where[:count, :, None]).any(1)

    return under(flow.asked, flow.hidden) & ~under(flow.seen, flow.seen.valid)


def _filled(what: str, truth: Tensor, told: Tensor, hidden: Tensor) -> str:
    # a token may reach beyond the end of a series, and nobody marks what is said there
    end = max(int((~truth.isnan() * torch.arange(1, len(truth) + 1)).max()), 1)
    truth, told, hidden = truth[:end], told[:end], hidden[:end]
    edges = np.flatnonzero(np.diff(np.pad(hidden.numpy().astype(int), 1))).reshape(-1, 2)

    def draw(axes: Axes) -> None:
        for begin, end in edges:
            axes.axvspan(begin - 0.5, end - 0.5, color="#eef1f5", linewidth=0)
        axes.plot(truth, color=INK, linewidth=1)
        # an answer is joined to the samples on both sides of it
        near = np.convolve(hidden, [1, 1, 1], "same") > 0
        line = torch.where(hidden, told, truth).masked_fill(~torch.from_numpy(near), torch.nan)
        axes.plot(line, color=ORANGE)
        axes.set_xlabel("sample")
        axes.grid(False)

    share = f"{hidden.float().mean():.0%} hidden"
    return panel(f"{what}, {share}", f"The series and its reconstruction: {what}, {share}", draw)


def embeddings(known: Known) -> Section | None:
    """The part's embeddings in two dimensions, coloured by class."""
    rows = known.some()
    if known.pipeline.spec.horizon is not None or len(rows) < 3:
        return None
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    vectors = torch.cat([known.pipeline.embed(series.but(y=None)).cpu() for series in _batches(known, rows)]).numpy()
    y = None if known.part.y is None else known.part.y[rows].numpy()
    title = f"Embeddings, {known.part_name} part"
    if not np.isfinite(vectors).all() or vectors.shape[1] < 2:
        return Section(title, paragraph("These cannot be drawn: not finite, or of a single number."))
    centred = PCA(2, random_state=0).fit(vectors)
    shares = centred.explained_variance_ratio_
    names = known.data.classes if y is not None else ()
    figures = [
        _scatter(f"principal components ({shares.sum():.0%} of the variance)", centred.transform(vectors), y, names)
    ]
    if 10 <= len(rows) <= 500:
        places = TSNE(2, perplexity=min(30.0, (len(rows) - 1) / 3), random_state=0, init="pca").fit_transform(vectors)
        figures.append(_scatter("t-SNE", places, y, names))
    text = f"{len(rows):,} of {len(known.part):,} series, tokens pooled by their mean."
    return Section(title, paragraph(text) + panels(figures))


def _scatter(what: str, places: Array, y: Array | None, names: tuple[str, ...]) -> str:
    across, up = places.T

    def draw(axes: Axes) -> None:
        if 0 < len(names) <= 20:
            from matplotlib import colormaps

            colors = colormaps["tab10" if len(names) <= 10 else "tab20"]
            for c, name in enumerate(names):
                here = y == c
                axes.scatter(across[here], up[here], s=12, color=colors(c), linewidths=0, alpha=0.8, label=name)
            axes.figure.legend(loc="outside lower center", ncols=3, handletextpad=0.1, columnspacing=1)
        elif y is not None:
            axes.scatter(across, up, s=12, c=y, cmap="turbo", linewidths=0, alpha=0.8)
        else:
            axes.scatter(across, up, s=12, color=BLUE, linewidths=0, alpha=0.8)
        axes.set_xticks([])
        axes.set_yticks([])

    return panel(what, f"{len(places)} embeddings, {what}" + (", coloured by class" if names else ""), draw, height=4.0)


def _batches(known: Known, rows: Tensor | None, size: int = 256) -> Iterator[Series]:
    """The given rows of the part, or all, on the pipeline's device."""
    for index in (torch.arange(len(known.part)) if rows is None else rows).split(size):
        yield known.part.batch(index).to(known.pipeline.mean.device)


def _seen(series: Series) -> Tensor:
    """[B, C, T] samples, NaN where missing."""
    return series.x.masked_fill(~series.mask, torch.nan)
