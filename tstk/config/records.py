"""The records of a run, with a type for every field: `RunConfig` (config.json) and `RunResult` (result.json).

RunConfig.read("runs/a").component("encoder")   # "tstk/bert"
RunResult.read("runs/a").test["accuracy"]

A record ends with the SHA-256 of its other values, and result.json has that of metrics.jsonl; both are checked on
reading. A record without a hash is read unchecked. Nothing here imports torch; `tstk.runs.checkpoint.parse_spec` builds
the Spec of a run.
"""

from __future__ import annotations

import hashlib
import json
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from shlex import quote
from typing import Any, Self

from tstk.config.run_directory import CONFIG_FILE, METRICS_FILE, RESULT_FILE, list_shipped_runs, resolve_run_dir
from tstk.errors import CheckpointError, TstkError
from tstk.files import explain_os_error, write_json
from tstk.plugins.distribution import CORE_DISTRIBUTION
from tstk.plugins.hooks import SLOTS
from tstk.plugins.registry import get_registry
from tstk.plugins.signature import read_signature

FORMAT_VERSION = 1
"""Version of the format of run directories; later ones are refused."""

_KEYS = {"values": "config", "input_schema": "data"}
"""Field of `RunConfig` -> its key in config.json, where they differ."""

HASH_KEY = "sha256"
_REMEDY = "train the run again, or fetch it again"


@dataclass(frozen=True, kw_only=True, repr=False)
class RunConfig:
    """What is needed to rebuild the pipeline of a run and to repeat its training.

    Args:
        run_dir: run directory, or the name of a run in the package
        interface_version: version of the slot interfaces
        values: table -> options; components by their qualified names, with `Slot.config_overrides` applied
        given: table -> options, as resolved from flags and files
        sources: dotted option -> `default`, `flag`, or the name of a config or run
        init_from: slot -> run directory whose trained weights it started from
        spec: fields of the `Spec` of the data
        input_schema: how the data were read, see `DataModule.input_schema`
        versions: package -> version
        hardware: device, kind of processor and number of threads, on which the last digits of results depend
        command: command that repeats the run
        local: dotted table -> where the class of a component that belongs to no plugin came from
        data_files: path, size and hash of each file of the data, see `tstk.data.identity`
        origin: of imported weights: importer, name of the file, its SHA-256 and the options; empty if they were trained
    """

    run_dir: Path
    interface_version: int
    values: dict[str, dict[str, Any]]
    given: dict[str, dict[str, Any]]
    sources: dict[str, str]
    init_from: dict[str, str]
    spec: dict[str, Any]
    input_schema: dict[str, Any]
    versions: dict[str, str]
    hardware: dict[str, str]
    command: str
    local: dict[str, dict[str, str]] = field(default_factory=dict)
    data_files: list[dict[str, Any]] = field(default_factory=list)
    origin: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        components = ", ".join(f"{table}={use!r}" for table in self.values if (use := self.component(table)))
        return f"RunConfig({str(self.run_dir)!r}, {components})"

    def options(self, section: str) -> dict[str, Any]:
        """Return the options of one table, without `use`."""
        return {k: v for k, v in self.values[section].items() if k != "use"}

    def component(self, section: str) -> str | None:
        """Return the name of the component (or data set) that a table selects."""
        return self.values.get(section, {}).get("use")

    @property
    def horizon(self) -> int | None:
        """Number of samples to forecast; None unless the run forecasts."""
        return self.spec.get("horizon")

    @property
    def classes(self) -> list[str]:
        """Names of the classes."""
        return list(self.input_schema["classes"])

    @property
    def channels(self) -> list[str]:
        """Names of the channels."""
        return list(self.input_schema["channels"])

    @property
    def split_channels(self) -> bool:
        """Whether each channel was a series of its own, so that data with any channels are accepted."""
        return bool(self.input_schema.get("split_channels"))

    def write(self) -> None:
        """Write config.json."""
        content = {_KEYS.get(f.name, f.name): getattr(self, f.name) for f in fields(self) if f.name != "run_dir"}
        write_record(self.run_dir / CONFIG_FILE, {"format": FORMAT_VERSION, **content})

    @classmethod
    def read(cls, run_dir: str | Path, *, keep_source_folders: bool = False) -> Self:
        """Read config.json, without the options of components that name sources of weights (`Slot.source_options`).

        A trained run does not need them, and nothing in a run may lead to a request or to files outside it.

        Args:
            run_dir: run directory, or a run in the package (pretrained/small) or on the hub (hf://owner/name)
            keep_source_folders: keep sources that are existing folders, such as the teacher of an unfinished training

        Raises:
            CheckpointError: it is missing, damaged, or was not written by tstk
        """
        path = resolve_run_dir(run_dir) / CONFIG_FILE
        if not path.is_file():
            raise CheckpointError(
                f"{run_dir} is not a run directory: it has no {CONFIG_FILE}. Runs in the package: "
                + ", ".join(list_shipped_runs())
            )
        content = read_record(path)
        if not isinstance(content, dict) or not isinstance(content.get("format"), int):
            raise CheckpointError(f"{path} was not written by tstk")
        refuse_later_format(content, FORMAT_VERSION, str(run_dir))
        values: dict[str, Any] = {f.name: content.get(_KEYS.get(f.name, f.name)) for f in fields(cls)}
        values |= {"local": content.get("local", {}), "data_files": content.get("data_files", [])}
        values |= {"origin": content.get("origin", {})}
        record = cls(**{**values, "run_dir": Path(run_dir)})
        if not _has_declared_types(record) or not all(
            isinstance(t, dict) and isinstance(t.get("use", ""), str) for t in record.values.values()
        ):
            raise CheckpointError(f"{path} was not written by tstk, or was changed by hand; train the run again")
        for slot in SLOTS:
            if slot in record.values:
                _strip_sources(slot, record.values[slot], keep_source_folders)
        return record


@dataclass(frozen=True)
class SelectedEpoch:
    """The epoch whose weights were kept.

    Args:
        epoch: its number, from 1; 0 if no epoch improved on the linear map
        num_epochs: number of epochs trained
        by: what selected it, see `--select-by`
    """

    epoch: int
    num_epochs: int
    by: str


@dataclass(frozen=True, kw_only=True)
class ClassificationScores:
    """How well classes are told apart on a split, in total and per class; a score that is undefined is left out.

    Args:
        classes: names of the classes; of two, the second is the positive one
        scores: score -> value, see docs/metrics.md
        intervals: score -> lower and upper end of its 95 % bootstrap interval
        per_class: class -> score of that class against all others -> value
        per_class_intervals: class -> score -> lower and upper end
        confusion: [K][K] number of series, by true class and predicted class
        resampling: what the intervals are over, or why there are none, in words
        notes: a sentence for each score that is undefined
    """

    classes: list[str]
    scores: dict[str, float]
    intervals: dict[str, list[float]]
    per_class: dict[str, dict[str, float]]
    per_class_intervals: dict[str, dict[str, list[float]]]
    confusion: list[list[int]]
    resampling: str
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What temperature scaling did to probabilities (Guo et al. 2017).

    Args:
        temperature: that logits are divided by
        before: split -> `log_loss`, `brier` and `ece` of the uncalibrated probabilities
        after: split -> the same of the calibrated ones
        note: why there is no calibration although it was requested; empty if there is
    """

    temperature: float
    before: dict[str, dict[str, float]] = field(default_factory=dict)
    after: dict[str, dict[str, float]] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, kw_only=True, repr=False)
class RunResult:
    """Scores of a finished run beside those of the baselines.

    Args:
        run_dir: run directory
        task: name of the task, or pretraining
        data: name of the data set
        test: metric -> score on the test split; empty if there is none
        val: metric -> score on the validation split, of the selected epoch
        baselines: baseline -> metric -> score on the test split
        baselines_skipped: baseline -> why it was not computed
        baselines_details: baseline -> the hyperparameters selected on validation, in words
        selected: the epoch whose weights were kept
        parameters: number of parameters
        trainable: number of parameters that were trained
        seconds: duration of the whole run: reading the data, training, validation, testing, baselines
        training_seconds: duration of training with its validation
        split: how validation and test were split off, in words
        command: command that repeats the run
        versions: package -> version
        classification: scores of classes and probabilities on the test split; None for other tasks, or without labels
        calibration: of the probabilities (`--calibrate`); None if it was not requested
    """

    run_dir: Path
    task: str
    data: str
    test: dict[str, float]
    val: dict[str, float]
    baselines: dict[str, dict[str, float]]
    baselines_skipped: dict[str, str]
    baselines_details: dict[str, str] = field(default_factory=dict)
    selected: SelectedEpoch
    parameters: int
    trainable: int
    seconds: float
    training_seconds: float
    split: str
    command: str
    versions: dict[str, str]
    classification: ClassificationScores | None = None
    calibration: Calibration | None = None

    def __repr__(self) -> str:
        scores = {"test": self.test, "val": self.val, **self.baselines}
        width = max(map(len, scores))
        lines = [
            f"  {name:{width}}  " + ", ".join(f"{metric} {score:.4g}" for metric, score in values.items())
            for name, values in scores.items()
            if values
        ]
        return "\n".join([f"RunResult({str(self.run_dir)!r}), {self.task} of {self.data}:", *lines])

    def get_use_command(self, run: str) -> str:
        """Return the command that applies the run, as the shell names it, to a file."""
        verb, out = ("embed", "embeddings.npz") if self.task == "pretraining" else ("predict", "predictions.csv")
        return f"tstk {verb} {run} --data FILE --out {out}"

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of result.json."""
        content = asdict(self)
        del content["run_dir"]
        content["selected"] = {"epoch": self.selected.epoch, "of": self.selected.num_epochs, "by": self.selected.by}
        return content

    @classmethod
    def from_dict(cls, run_dir: str | Path, content: Mapping[str, Any]) -> Self:
        """Return the result of a run from the contents of result.json.

        Raises:
            CheckpointError: they were not written by tstk
        """
        try:
            selected = content["selected"]
            values = {
                **{f.name: content[f.name] for f in fields(cls) if f.name in content},
                "run_dir": Path(run_dir),
                "selected": SelectedEpoch(selected["epoch"], selected["of"], selected["by"]),
            }
            for name, record_class in (("classification", ClassificationScores), ("calibration", Calibration)):
                if values.get(name) is not None:
                    values[name] = record_class(**values[name])
            result = cls(**values)
        except (KeyError, TypeError):
            result = None
        if result is None or not _has_declared_types(result):
            raise CheckpointError(
                f"{run_dir}: {RESULT_FILE} was not written by tstk, or was changed by hand; train the run again"
            )
        return result

    def write(self) -> None:
        """Write result.json, with the hash of metrics.jsonl."""
        path = self.run_dir / METRICS_FILE
        metrics = {"metrics_sha256": hashlib.sha256(path.read_bytes()).hexdigest()} if path.is_file() else {}
        write_record(self.run_dir / RESULT_FILE, self.to_dict() | metrics)

    @classmethod
    def read(cls, run_dir: str | Path) -> Self:
        """Read result.json.

        Args:
            run_dir: run directory, or a run in the package (pretrained/small) or on the hub (hf://owner/name)

        Raises:
            CheckpointError: the run is not finished, or the file is damaged
        """
        path = resolve_run_dir(run_dir) / RESULT_FILE
        if not path.is_file():
            raise CheckpointError(
                f"{run_dir} has no {RESULT_FILE}: the run is not finished; continue with: "
                f"tstk train --resume {quote(str(run_dir))}"
            )
        return cls.from_dict(run_dir, read_record(path))


def read_history(run_dir: str | Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl: one row per epoch, empty if there is no such file.

    Raises:
        CheckpointError: it is damaged, or does not match its hash in result.json
    """
    folder = resolve_run_dir(run_dir)
    path, result_path = folder / METRICS_FILE, folder / RESULT_FILE
    if not path.is_file():
        return []
    content = path.read_bytes()
    result = read_record(result_path) if result_path.is_file() else {}
    expected = result.get("metrics_sha256") if isinstance(result, dict) else None
    if expected not in (None, hashlib.sha256(content).hexdigest()):
        raise CheckpointError(f"{path} is damaged: it does not match its SHA-256 in {RESULT_FILE}; {_REMEDY}")
    try:
        rows = [json.loads(line) for line in content.decode().splitlines()]
    except (ValueError, RecursionError) as e:
        raise CheckpointError(f"{path} is damaged: {e}; {_REMEDY}") from None
    for number, row in enumerate(rows, 1):
        if not has_type(row, dict[str, Any]) or not all(
            has_type(row.get(key), hint)
            for key, hint in {"epoch": int, "lr": float, "train": dict[str, float], "val": dict[str, float]}.items()
        ):
            raise CheckpointError(f"{path}, line {number}: not the metrics of an epoch; {_REMEDY}")
    return rows


def refuse_later_format(content: Mapping[str, Any], version: int, name: str) -> None:
    """Raise a CheckpointError if the `format` of a record is later than a version."""
    if content["format"] > version:
        versions = content.get("versions")
        writer = versions.get("tstk", "a later version") if isinstance(versions, dict) else "a later version"
        raise CheckpointError(
            f"{name} was written by tstk {writer}, in a format this version cannot read: "
            f"pip install --upgrade {CORE_DISTRIBUTION}"
        )


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with its hash, atomically."""
    write_json(path, {**content, HASH_KEY: hash_record(content)})


def read_record(path: Path, remedy: str = _REMEDY) -> Any:
    """Read JSON, without its hash.

    Args:
        path: of the file
        remedy: the end of the message

    Raises:
        CheckpointError: it is damaged, or does not match its hash, or has none
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            return content
        expected = content.pop(HASH_KEY, None)
        if expected == hash_record(content):
            return content
    except OSError as e:
        raise explain_os_error(path, e, "read") from None
    except (ValueError, RecursionError) as e:
        raise CheckpointError(f"{path} is damaged: {e}; {remedy}") from None
    if expected is None:
        raise CheckpointError(f"{path} was not written by tstk, or was changed by hand: it has no SHA-256; {remedy}")
    raise CheckpointError(f"{path} is damaged or was changed by hand: it does not match its SHA-256; {remedy}")


def hash_record(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a JSON object."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _strip_sources(kind: str, table: dict[str, Any], keep_folders: bool) -> None:
    """Set the options of a component, and of those inside it, that name sources of weights to what replaces them."""
    try:
        signature = read_signature(get_registry().find(kind, table["use"]).target)
    except (TstkError, KeyError):
        return  # refused by whoever builds it
    for name, replacement in signature.class_attrs.get("source_options", {}).items():
        if not (keep_folders and isinstance(table.get(name), str) and Path(table[name]).is_dir()) and name in table:
            table[name] = replacement
    for option in signature.options.values():
        inner = table.get(option.name)
        if option.is_component and isinstance(inner, dict) and isinstance(inner.get("use"), str):
            _strip_sources(option.type, inner, keep_folders)


@cache
def _get_hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _has_declared_types(record: Any) -> bool:
    """Return whether the fields of a dataclass have the types that it declares."""
    hints: dict[str, Any] = _get_hints(type(record))  # type: ignore[arg-type]
    values = {f.name: getattr(record, f.name) for f in fields(record)}
    return all(
        has_type(value, hints[name]) and (not is_dataclass(value) or _has_declared_types(value))
        for name, value in values.items()
    )


def has_type(value: Any, hint: Any) -> bool:
    """Return whether a JSON value has a type such as `dict[str, float]`; an int is a float, a bool is not an int."""
    if hint is Any:
        return True
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is dict:
        return isinstance(value, dict) and all(has_type(v, arguments[1]) for v in value.values())
    if origin is list:
        return isinstance(value, list) and all(has_type(v, arguments[0]) for v in value)
    if hint in (int, float):
        return isinstance(value, int | hint) and not isinstance(value, bool)
    return isinstance(value, hint)
