"""Estimators as run directories: what `save` writes, and the parameters that `load` reads from any run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tstk.config.records import RunConfig, RunResult, SelectedEpoch
from tstk.config.resolve import SECTIONS, Config
from tstk.config.run_directory import METRICS_FILE, WEIGHTS_FILE, create_run_dir
from tstk.core.pipeline import Pipeline
from tstk.files import write_text
from tstk.runs.checkpoint import collect_versions, save_run_config, save_weights
from tstk.training.config import TrainConfig
from tstk.training.devices import describe_hardware


@dataclass(frozen=True)
class FitRecord:
    """What a run records of training.

    Args:
        epoch: whose weights were kept
        val: its scores on the validation series
        trainable: number of parameters that were trained
        seconds: duration of training
    """

    epoch: int
    val: dict[str, float]
    trainable: int
    seconds: float


def save_run(
    run_dir: str | Path,
    config: Config,
    pipeline: Pipeline,
    schema: dict[str, Any],
    history: Sequence[dict[str, Any]],
    record: FitRecord,
) -> None:
    """Write the run of an estimator, whose training data it does not hold.

    Args:
        run_dir: a new directory
        config: resolved
        pipeline: trained
        schema: `DataModule.input_schema`, with the record of the estimator
        history: metrics of each epoch
        record: of training

    Raises:
        OptionError: the directory exists and is not empty
    """
    options, command = config.options("train"), f"{schema['estimator']['class']}.fit"
    temperature = {} if pipeline.temperature is None else {"temperature": pipeline.temperature}
    with create_run_dir(run_dir, "estimator") as folder:
        hardware = describe_hardware(options["device"], options["threads"])
        save_run_config(folder, config, pipeline, schema, command, hardware)
        write_text(folder / METRICS_FILE, "".join(json.dumps(row) + "\n" for row in history))
        save_weights(pipeline, folder / WEIGHTS_FILE, pipeline.state_dict() | temperature)
        RunResult(
            run_dir=folder,
            task=schema["task"] or "pretraining",
            data=config.values["data"]["use"],
            test={},
            val=record.val,
            baselines={},
            baselines_skipped={},
            selected=SelectedEpoch(record.epoch, len(history), TrainConfig.from_config(config).select_by),
            parameters=sum(p.numel() for p in pipeline.parameters()),
            trainable=record.trainable,
            seconds=record.seconds,
            training_seconds=record.seconds,
            split="",
            command=command,
            versions=collect_versions(config),
        ).write()


def list_params(run_config: RunConfig, data_options: Sequence[str]) -> dict[str, Any]:
    """Return the parameters of an estimator that trains as a run was trained: the options that are not defaults.

    Args:
        run_config: of the run
        data_options: options of data that apply to arrays
    """
    params = {}
    for dotted, source in run_config.sources.items():
        table, _, option = dotted.partition(".")
        if source == "default" or option not in run_config.given.get(table, {}):
            continue
        if table == "data" and option not in set(data_options) - {"use"}:
            continue
        name = table if option == "use" else option if table in SECTIONS else f"{table}__{option}"
        params[name] = run_config.given[table][option]
    return params
