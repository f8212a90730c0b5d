"""What training defaults to where there are few labelled series, and where there are not.

A classifier of tens or hundreds of series learns from many small steps over changed copies, and every series counts: a
validation part is too small a sample to choose an epoch, and is missed in training. How these values were chosen is in
docs/results.md ("Defaults for few series").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tstk.config.resolve import Config
from tstk.data.catalog import VAL_FRACTION

if TYPE_CHECKING:
    from tstk.core.pipeline import Pipeline
    from tstk.data.data_module import Dataset

FEW = 500
"""Most training series that are few."""

PLAIN = {"batch_size": 64, "augment": (), "select": "score"}
SMALL = {
    "batch_size": 16,
    "augment": ("scaling=0.1", "jitter=0.05", "time-warp=0.2"),
    "select": "last",
    "steps": 1500,
    "validate_every": 50,
}


def read_data(config: Config, data_root: str | None = None) -> Dataset:
    """The data of a config, in the parts that its training sees.

    Args:
        config: resolved
        data_root: folder with data sets to be found by name, if not the config's
    """
    from tstk.data.load import load

    options = config.options("data")
    options["data_root"] = data_root or options["data_root"]
    data = load(config.values["data"]["use"], **options)
    undecided = options["val_fraction"] is None and data.val_from_train and data.task == "classification"
    if undecided and not validation_share(config, sum(map(len, data.training_parts))):
        data = load(config.values["data"]["use"], **{**options, "val_fraction": 0.0})
    return data


def validation_share(config: Config, count: int) -> float:
    """The share of `count` series that validates if nothing was said: none where they are few and train a classifier,
    unless an option asks to judge by validation."""
    train = config.options("train")
    judged = train["select"] not in ("auto", "last") or train["patience"] is not None or train["probe"] is not None
    few = "head" in config.values and _few(train, count)
    return 0.0 if few and not judged else VAL_FRACTION


def settle(options: Mapping[str, Any], pipeline: Pipeline, data: Dataset) -> tuple[dict[str, Any], str]:
    """Replace what an option leaves open (none, auto, off) by a value.

    Args:
        options: of `tstk.training.loop.fit`
        pipeline: to be trained
        data: to train on

    Returns:
        options without anything open, and a sentence for the user; empty where nothing depends on the size of the data
    """
    classifies = pipeline.head is not None and data.task == "classification"
    count = sum(map(len, data.training_parts))
    few = classifies and _few(options, count)
    fitting = {**PLAIN, **SMALL} if few else PLAIN
    if not len(data.val):
        fitting = {**fitting, "select": "last"}
    settled = {**options, "augment": tuple(options["augment"])}
    left_open = [name for name in fitting if settled[name] in (None, "auto", ("auto",))]
    settled.update({name: fitting[name] for name in left_open})
    if settled["augment"] == ("off",):
        settled["augment"] = ()
    if not few or not left_open:
        return settled, ""
    values = {name: ",".join(v) if isinstance(v := settled[name], tuple) else v for name in left_open}
    words = [f"--{name.replace('_', '-')} {value}" for name, value in values.items()]
    return settled, f"{count} series to train on are few, hence {' '.join(words)}"


def _few(options: Mapping[str, Any], count: int) -> bool:
    return count <= FEW and options["epochs"] is None and options["steps"] is None
