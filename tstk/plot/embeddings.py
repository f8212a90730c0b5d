"""Figures of embeddings: two-dimensional projections of the pooled tokens of series, coloured by class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tstk.core.batches import split_rows
from tstk.core.prediction import eval_mode
from tstk.errors import DataError, OptionError
from tstk.plot.plot_data import MAX_ROWS, DataLike, PlotData, RunLike, open_data
from tstk.plot.style import BLUE, MAX_COLORS, add_legend, get_colors, open_axes, set_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[Any]
BATCH_SIZE = 256


@dataclass
class Embeddings:
    """Embeddings of series and what they are coloured by.

    Args:
        values: [N, D]
        rows: [N] rows of the split
        y: [N] classes (-1 where unknown) or numbers; None without targets
        classes: names of the classes; empty if `y` holds numbers
        target: what the colour is, such as "most frequent class"
    """

    values: Array
    rows: Tensor
    y: Array | None
    classes: tuple[str, ...]
    target: str


def compute_embeddings(data: PlotData, max_rows: int = MAX_ROWS) -> Embeddings:
    """Compute the mean-pooled tokens of evenly spaced series of a split.

    Args:
        data: with the series
        max_rows: number of series at most
    """
    pipeline, split, rows = data.pipeline, data.split, data.sample_rows(max_rows)
    with eval_mode(pipeline):
        batches = [data.batch(index).replace(y=None) for index in split_rows(split, BATCH_SIZE, rows)]
        values = torch.cat([pipeline.embed_batch(series).cpu() for series in batches]).numpy()
    # the targets of a forecast are samples, not properties of a series
    y = None if split.y is None or pipeline.spec.horizon is not None else split.y[rows].numpy()
    has_classes = y is not None and y.dtype.kind in "iu" and bool(pipeline.classes)
    has_classes &= pipeline.task is None or "class" in pipeline.task.target_type
    target = ""
    if y is not None and has_classes and y.ndim == 2:
        y = np.array([np.bincount(row[row >= 0]).argmax() if (row >= 0).any() else -1 for row in y])
        target = "the most frequent class of the samples of a series"
    elif y is not None and not has_classes:
        target = next(iter((*pipeline.classes, *pipeline.target_names)), "target")
    y = y[:, 0] if y is not None and y.ndim == 2 else y
    return Embeddings(values, rows, y, pipeline.classes if has_classes else (), target)


def project(values: Array, method: Literal["pca", "tsne"], seed: int = 0) -> tuple[Array, str]:
    """Project embeddings to two dimensions; return them and what the axes are.

    Args:
        values: [N, D]
        method: principal components, or t-SNE
        seed: of both

    Raises:
        DataError: there are fewer than three series, or fewer than two dimensions, or values are not finite
    """
    if len(values) < 3 or values.shape[1] < 2 or not np.isfinite(values).all():
        raise DataError("embeddings cannot be drawn: they are not finite, of fewer than 3 series, or of one dimension")
    if method == "pca":
        from sklearn.decomposition import PCA

        pca = PCA(2, random_state=seed).fit(values)
        return pca.transform(
            values
        ), f"principal components ({pca.explained_variance_ratio_.sum():.0%} of the variance)"
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(values) - 1) / 3)
    return TSNE(2, perplexity=perplexity, random_state=seed, init="pca").fit_transform(values), "t-SNE"


def draw_embeddings(axes: Axes, points: Array, embeddings: Embeddings) -> None:
    """Draw projected embeddings, coloured by class or by a number.

    Args:
        axes: to draw on
        points: [N, 2]
        embeddings: whose classes or numbers are the colours
    """
    x_values, y_values = points.T
    y, names = embeddings.y, embeddings.classes
    size: dict[str, Any] = {"s": 12, "linewidths": 0}
    if y is not None and 0 < len(names) <= MAX_COLORS:
        for c, (name, color) in enumerate(zip(names, get_colors(len(names)), strict=True)):
            axes.scatter(x_values[y == c], y_values[y == c], color=color, alpha=0.8, label=name, **size)
        if len(unknown := points[y == -1]):
            axes.scatter(unknown[:, 0], unknown[:, 1], color="lightgrey", label="unknown", **size)
    elif y is not None:
        is_known = y != -1 if names else np.isfinite(y)
        axes.scatter(*points[~is_known].T, color="lightgrey", label=None if is_known.all() else "unknown", **size)
        known_x, known_y = points[is_known].T
        drawn = axes.scatter(known_x, known_y, c=y[is_known], cmap="viridis", alpha=0.8, **size)
        bar = axes.figure.colorbar(drawn, ax=axes, fraction=0.05, pad=0.02)
        bar.set_label("number of the class" if names else embeddings.target, fontsize=8)
        bar.outline.set_visible(False)
    else:
        axes.scatter(x_values, y_values, color=BLUE, alpha=0.8, label="series", **size)
    axes.set_xticks([])
    axes.set_yticks([])
    add_legend(axes)


def embedding(
    run: RunLike,
    data: DataLike | None = None,
    *,
    split: str | None = None,
    method: Literal["pca", "tsne"] = "pca",
    max_series: int = MAX_ROWS,
    ax: Axes | None = None,
) -> Axes:
    """Draw the embeddings of series in two dimensions, coloured by class or number if these are known.

    Args:
        run: run directory, hf://owner/name, pipeline, or what `open_data` returned
        data: other data, see `open_data`
        split: train, val or test; test if None
        method: `pca`, the first two principal components, or `tsne`, t-SNE of scikit-learn
        max_series: number of series at most, evenly spaced in the split
        ax: to draw on; None makes a figure

    Raises:
        DataError: embeddings are not finite, of fewer than three series, or of one dimension
        OptionError: there is no such method
    """
    if method not in ("pca", "tsne"):
        raise OptionError(f"--method {method}: expected pca or tsne")
    if max_series < 3:
        raise OptionError(f"--max-series {max_series}: expected 3 or more")
    source = open_data(run, data, split=split)
    embeddings = compute_embeddings(source, max_series)
    points, label = project(embeddings.values, method)
    with open_axes(ax, (5.5, 4.5)) as axes:
        draw_embeddings(axes, points, embeddings)
        axes.set_xlabel(label)
        set_title(axes, f"{source.name}, {len(points):,} of {len(source.split):,} series")
    return axes
