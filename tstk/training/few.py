"""What training defaults to where there are few labelled series, and where there are not.

A classifier of tens or hundreds of series learns from many small steps over changed copies, and its validation part is
too small a sample to choose an epoch. How these values were chosen is in docs/results.md ("Defaults for few series").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tstk.data.dataset import Dataset
    from tstk.pipeline import Pipeline

FEW = 500
"""Training series below which these are few."""

PLAIN = {"batch_size": 64, "augment": (), "select": "score"}
SMALL = {
    "batch_size": 16,
    "augment": ("scaling=0.1", "jitter=0.05", "time-warp=0.2"),
    "select": "last",
    "steps": 1500,
    "validate_every": 50,
}


def settle(options: Mapping[str, Any], pipeline: Pipeline, data: Dataset) -> tuple[dict[str, Any], str]:
    """Replace what an option leaves open (none, auto, off) by a value.

    Args:
        options: of `tstk.training.engine.fit`
        pipeline: to be trained
        data: to train on

    Returns:
        options without anything open, and a sentence for the user; empty where nothing depends on the size of the data
    """
    classifies = pipeline.head is not None and data.task == "classification"
    few = classifies and len(data.train) < FEW and options["epochs"] is None and options["steps"] is None
    fitting = {**PLAIN, **SMALL} if few else PLAIN
    settled = {**options, "augment": tuple(options["augment"])}
    left_open = [name for name in fitting if settled[name] in (None, "auto", ("auto",))]
    settled.update({name: fitting[name] for name in left_open})
    if settled["augment"] == ("off",):
        settled["augment"] = ()
    if not few or not left_open:
        return settled, ""
    values = {name: ",".join(v) if isinstance(v := settled[name], tuple) else v for name in left_open}
    words = [f"--{name.replace('_', '-')} {value}" for name, value in values.items()]
    return settled, f"{len(data.train)} series to train on are few, hence {' '.join(words)}"
