"""The segments of predicted classes per sample, as rows of a table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tstk.evaluation.segments import find_segments

Arrays = dict[str, NDArray[Any]]


def list_segments(predictions: Arrays) -> tuple[list[str], list[list[Any]]]:
    """Return the header and a row per segment; windows of a recording that follow each other are joined.

    Args:
        predictions: of a class per sample, from `predict`
    """
    classes = predictions["classes"]
    identity = [name for name in ("id", "group") if name in predictions]
    codes = np.full(predictions["predicted"].shape, -1)
    for k, name in enumerate(classes.tolist()):
        codes[predictions["predicted"] == name] = k
    rows: list[list[Any]] = []
    edges = np.flatnonzero(np.diff(predictions["recording"])) + 1  # the windows of a recording follow each other
    for windows in np.split(np.arange(len(codes)), edges):
        first, offset = windows[0], int(predictions["start"][windows[0]])
        probability = np.concatenate(list(predictions["probability"][windows]), 1)
        for label, start, end in find_segments(codes[windows].ravel()).tolist():
            mean = probability[label, start:end].mean()
            names = [predictions[name][first] for name in identity]
            rows.append([*names, offset + start, offset + end, classes[label], f"{mean:.6g}"])
    return [*identity, "start", "end", "predicted", "probability"], rows
