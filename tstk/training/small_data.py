"""Default options of training, with their own values for classifiers of few series.

A classifier of at most a few hundred series takes many small steps over augmented series, and trains on all of them: a
validation split would be too small a sample to select an epoch by. docs/results.md ("Defaults for few series") says how
the values were chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from shlex import quote
from typing import TYPE_CHECKING, Any

from tstk.config.resolve import ROLE_OPTIONS, Config
from tstk.data.catalog import DEFAULT_VAL_FRACTION
from tstk.data.columns import LABEL_NAMES
from tstk.data.config import DataConfig
from tstk.errors import DataError, OptionError
from tstk.training.config import TrainConfig

if TYPE_CHECKING:
    from tstk.core.pipeline import Pipeline
    from tstk.data.data_module import DataModule

SMALL_DATA_MAX_SERIES = 500
"""The largest number of training series for which `SMALL_DATA_DEFAULTS` apply."""

DEFAULTS: dict[str, Any] = {"batch_size": 64, "augment": (), "select_by": "score"}
SMALL_DATA_DEFAULTS: dict[str, Any] = {
    "batch_size": 16,
    "augment": ("scaling=0.1", "jitter=0.05", "time-warp=0.2"),
    "select_by": "last",
    "steps": 1500,
    "validate_every": 50,
}


def read_data(config: Config, data_root: str | None = None) -> DataModule:
    """Load the data of a config, split as its training splits them.

    Roles of columns that a run passes on (`--init-from`) and these data do not have are removed from the config.

    Args:
        config: resolved
        data_root: folder in which data sets are found by name; None for the config's
    """
    from tstk.data.load import load_data

    name, data_config = config.values["data"]["use"], DataConfig.from_config(config)
    if data_root is not None:
        data_config = replace(data_config, data_root=data_root)
    data, data_config = _load_with_roles_of_run(name, data_config, config)
    # without a test split, validation scores are the only ones
    is_default = data_config.val_fraction is None and data.val_from_train and data.test is not None
    is_default = is_default and data.has_classes
    if is_default and not resolve_val_fraction(config, sum(map(len, data.training_splits))):
        data = load_data(name, replace(data_config, val_fraction=0.0))
    return data


def _load_with_roles_of_run(name: str, data_config: DataConfig, config: Config) -> tuple[DataModule, DataConfig]:
    """Load data by the roles of columns that a run passes on, without those that they do not have; notes say which.

    Args:
        name: of the data
        data_config: their options
        config: resolved; its table `data` and notes are updated

    Returns:
        the data, and the options that they were loaded with
    """
    from tstk.data.load import load_data

    source = f"run {config.options('pipeline').get('init_from')}"
    sources = {o: config.sources.get(f"data.{o}.use" if o == "reader" else f"data.{o}") for o in ROLE_OPTIONS}
    options = [option for option in ROLE_OPTIONS if sources[option] == source and getattr(data_config, option)]
    if not options or config.sources["data.use"] == source:
        return load_data(name, data_config), data_config
    if "drop_columns" in options:  # pretraining may have left out the labels
        kept = tuple(column for column in data_config.drop_columns if column.lower() not in LABEL_NAMES)
        data_config = replace(data_config, drop_columns=kept)
    run_roles = {option: getattr(data_config, option) for option in options}
    while True:
        flags = _format_flags({option: getattr(data_config, option) for option in options})
        note = f"columns are read as in {source}: {flags}" if flags else ""
        try:
            data = load_data(name, data_config)
            break
        except (DataError, OptionError) as e:
            option = e.option.lstrip("-").replace("-", "_")
            if option not in options or not getattr(data_config, option):
                e.args = ("; ".join(filter(None, (str(e), note))),)
                raise
            change: dict[str, Any] = {option: getattr(DataConfig(), option)}
            if isinstance(e, DataError) and e.column in data_config.drop_columns:  # others are left out all the same
                change[option] = tuple(column for column in data_config.drop_columns if column != e.column)
            data_config = replace(data_config, **change)
    used = {option: getattr(data_config, option) for option in options}
    if lost := _format_flags({o: value for o, value in run_roles.items() if used[o] != value}):
        note = "; ".join(filter(None, (note, f"these data have no column or use for {lost} of {source}")))
    config.notes += [note] * (note not in config.notes and bool(note))
    config.values["data"] |= used
    config.sources |= {f"data.{option}": "default" for option in options if not used[option]}
    return data, data_config


def _format_flags(options: Mapping[str, Any]) -> str:
    """Return options of the data that are set as they are given on the command line."""
    texts = {
        option: value["use"] if isinstance(value, Mapping) else ",".join(value) if isinstance(value, tuple) else value
        for option, value in options.items()
        if value
    }
    return " ".join(f"--{option.replace('_', '-')} {quote(text)}" for option, text in texts.items())


def resolve_val_fraction(config: Config, num_series: int) -> float:
    """Return the default fraction of series for validation.

    It is 0 for a classifier of few series, unless an option requires validation.

    Args:
        config: resolved
        num_series: number of series for training and validation
    """
    train = TrainConfig.from_config(config)
    requires_validation = (
        train.select_by not in ("auto", "last")
        or train.patience is not None
        or train.probe_every is not None
        or train.calibrate != "none"
    )
    is_small = "head" in config.values and _is_small_data(train, num_series)
    return 0.0 if is_small and not requires_validation else DEFAULT_VAL_FRACTION


def resolve_defaults(config: TrainConfig, pipeline: Pipeline, data: DataModule) -> tuple[TrainConfig, str]:
    """Replace options that are unset (none, auto, off) by their defaults.

    Args:
        config: the options of training
        pipeline: the pipeline to train
        data: the data to train on

    Returns:
        the resolved options, and a note for the user if `SMALL_DATA_DEFAULTS` were used, else an empty string
    """
    is_classifier = pipeline.head is not None and data.has_classes
    num_series = sum(map(len, data.training_splits))
    is_small = is_classifier and _is_small_data(config, num_series)
    defaults = {**DEFAULTS, **SMALL_DATA_DEFAULTS} if is_small else DEFAULTS
    if not len(data.val):
        defaults = {**defaults, "select_by": "last"}
    unset = {name: value for name, value in defaults.items() if getattr(config, name) in (None, "auto", ("auto",))}
    augment = unset.get("augment", config.augment)
    resolved = replace(config, **{**unset, "augment": () if augment == ("off",) else augment})
    if not is_small or not unset:
        return resolved, ""
    values = {name: ",".join(v) if isinstance(v, tuple) else v for name, v in unset.items()}
    flags = [f"--{name.replace('_', '-')} {value}" for name, value in values.items()]
    return resolved, f"only {num_series} training series: using the defaults for few series, {' '.join(flags)}"


def _is_small_data(config: TrainConfig, num_series: int) -> bool:
    return num_series <= SMALL_DATA_MAX_SERIES and config.epochs is None and config.steps is None
