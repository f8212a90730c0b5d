"""Figures of confusion matrices: how often each class was predicted as each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from tstk.core.prediction import eval_mode
from tstk.errors import DataError, IncompatibleError
from tstk.evaluation.evaluate import iter_predictions
from tstk.plot.plot_data import DataLike, PlotData, RunLike, open_data
from tstk.plot.style import open_axes, set_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[Any]
MAX_WRITTEN = 25
"""Classes of which counts are written into the cells; those of more would not fit."""
BATCH_SIZE = 256


def compute_confusion(data: PlotData) -> Array:
    """Count the series, or the samples of series, by true and predicted class, [K, K]; unknown ones are left out.

    Raises:
        IncompatibleError: the run does not predict one of several classes
        DataError: no class of the series is known, or a prediction is not finite
    """
    pipeline, split = data.pipeline, data.split
    kind = None if pipeline.task is None or pipeline.head is None else pipeline.task.target_type
    if kind not in ("class", "sample-class"):
        raise IncompatibleError(
            "this run predicts no classes; a confusion matrix needs a classifier, as --head linear trains"
        )
    if split.y is None or not (split.y >= 0).any():
        raise DataError(f"{data.name}: the classes of the series are not known, so there is nothing to compare")
    counts = np.zeros((pipeline.spec.num_outputs or 0,) * 2, dtype=np.int64)
    with eval_mode(pipeline):
        targets = iter(split.y)
        for outputs in iter_predictions(pipeline, split, data.name, BATCH_SIZE):
            predicted, true = outputs.argmax(1), torch.stack(list(islice(targets, len(outputs))))
            predicted = predicted[:, : true.shape[1]] if true.ndim == 2 else predicted
            true = true[:, : predicted.shape[1]] if true.ndim == 2 else true
            known = true >= 0
            np.add.at(counts, (true[known].numpy(), predicted[known].numpy()), 1)
    return counts


def draw_confusion(axes: Axes, counts: Array, classes: Sequence[str]) -> None:
    """Draw a confusion matrix, with cells shaded by their fraction of the row.

    Args:
        axes: to draw on
        counts: [K, K], rows are true classes
        classes: K names
    """
    fractions = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    drawn = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    numbers = range(len(classes))
    is_long = max(map(len, classes), default=0) > 4
    alignment: Any = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if is_long else {}
    axes.set_xticks(numbers, classes, **alignment)
    axes.set_yticks(numbers, classes)
    if len(classes) <= MAX_WRITTEN:
        for i, j in np.ndindex(*counts.shape):
            color = "white" if fractions[i, j] > 0.55 else "black"
            axes.text(j, i, f"{counts[i, j]:,}", ha="center", va="center", color=color, fontsize=8)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.grid(False)
    bar = axes.figure.colorbar(drawn, ax=axes, fraction=0.05, pad=0.02)
    bar.set_label("fraction of the true class", fontsize=8)
    bar.outline.set_visible(False)


def confusion(run: RunLike, data: DataLike | None = None, *, split: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw the confusion matrix of a classifier: a row per true class, a column per predicted one.

    With a class per sample, samples are counted instead of series.

    Args:
        run: run directory, hf://owner/name, pipeline, or what `open_data` returned
        data: other data with their classes, see `open_data`
        split: train, val or test; test if None
        ax: to draw on; None makes a figure

    Raises:
        IncompatibleError: the run is no classifier
        DataError: no class of the series is known
    """
    source = open_data(run, data, split=split)
    counts = compute_confusion(source)
    classes = source.pipeline.classes or tuple(map(str, range(len(counts))))
    side = min(12.0, 3.0 + 0.35 * len(classes))
    with open_axes(ax, (side + 0.8, side)) as axes:
        draw_confusion(axes, counts, classes)
        set_title(axes, f"{source.name}, {np.trace(counts) / max(counts.sum(), 1):.1%} of {counts.sum():,} correct")
    return axes
