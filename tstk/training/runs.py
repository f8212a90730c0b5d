"""Train a config into a run directory, and resume such a run; used by the command line and by `tstk.fit`."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from shlex import quote
from types import MappingProxyType
from typing import Any

import torch

from tstk.config.hub import is_hub_run
from tstk.config.memory import limit_allocations
from tstk.config.records import Calibration, ClassificationScores, RunConfig, RunResult, SelectedEpoch
from tstk.config.resolve import Config
from tstk.config.run_directory import (
    WEIGHTS_FILE,
    check_no_links,
    create_run_dir,
    has_saved_state,
    is_unfinished,
    resolve_run_dir,
    run_lock,
    suggest_run_dirs,
)
from tstk.core.contract import check_outputs
from tstk.core.pipeline import Pipeline
from tstk.core.task import Baselines
from tstk.core.types import Spec
from tstk.data.data_module import DataModule
from tstk.data.frames import name_frames, refuse_frames, store_frames
from tstk.data.identity import find_run_data, identify_files, refuse_changed_data, resolve_paths
from tstk.data.targets import count_classes
from tstk.errors import CheckpointError, DataError, FileError, NotFiniteError, TrainingError
from tstk.evaluation.baselines import score_baselines
from tstk.evaluation.evaluate import evaluate
from tstk.evaluation.probabilities import (
    calibrate,
    compare_calibration,
    evaluate_classifier,
    is_classifier,
    score_classifier,
)
from tstk.plugins.hooks import SLOTS
from tstk.runs.build import validate_on_meta
from tstk.runs.checkpoint import (
    check_plugins,
    collect_versions,
    initialize_for_training,
    rebuild_for_resume,
    save_run_config,
    save_weights,
)
from tstk.training.callbacks import Callback, create_callbacks
from tstk.training.config import TrainConfig
from tstk.training.devices import describe_hardware, use_deterministic_algorithms
from tstk.training.initialization import check_queries, describe_other_sources, init_pipeline_from_data
from tstk.training.interrupt import TrainingInterrupted
from tstk.training.loader import describe_warm_up
from tstk.training.loop import FitResult, fit
from tstk.training.lora import add_lora, import_peft
from tstk.training.memory import check_memory
from tstk.training.resume_store import ResumeStore
from tstk.training.small_data import read_data, resolve_defaults


def prepare_training(
    config: Config, print_fn: Callable[[str], None] = lambda line: None, resume_from: Path | None = None
) -> tuple[Pipeline, DataModule]:
    """Validate a config, load its data and build the pipeline on them.

    Args:
        config: resolved
        print_fn: called with each note for the user
        resume_from: directory of the run to resume; its weights are loaded later

    Raises:
        DataError: the data are not those with which the run was started
    """
    if resume_from is None:
        validate_on_meta(config)
    if rank := config.options("train")["lora"]:
        import_peft(rank)  # refuse before data are read
    data = read_data(config)
    spec = data.spec
    spec = spec.replace(class_counts=count_classes(data.train.y, spec))
    torch.manual_seed(config.options("train")["seed"])
    pipeline, notes = (
        initialize_for_training(config, spec) if resume_from is None else (rebuild_for_resume(resume_from), [])
    )
    if changes := _describe_spec_changes(pipeline.spec, spec):
        raise DataError(f"{data.name} has changed since this run was started: {changes}")
    pipeline.set_standardization(data.mean, data.std, data.train.y)
    pipeline.set_input_schema(data.input_schema())
    if resume_from is None:
        with limit_allocations():
            check_outputs(pipeline, data.train.batch(data.train.lengths.argsort(stable=True)[:2]))
        notes += describe_other_sources(config, data)
        notes += init_pipeline_from_data(pipeline, config, data)
        notes += check_queries(pipeline, data)
    lora_notes = add_lora(pipeline, config)
    notes += lora_notes if resume_from is None else []
    train_config, small_data_note = resolve_defaults(TrainConfig.from_config(config), pipeline, data)
    warm_up_note = describe_warm_up(train_config, len(data.train))
    for note in filter(None, (*config.notes, *data.notes, *notes, small_data_note, warm_up_note)):
        print_fn(note)
    return pipeline, data


def train(
    config: Config,
    out: str | Path | None,
    *,
    command: str = "",
    callbacks: Sequence[Callback] = (),
    print_fn: Callable[[str], None] = lambda line: None,
    on_ready: Callable[[Pipeline, DataModule], None] | None = None,
    frames: Mapping[str, Any] = MappingProxyType({}),
) -> RunResult:
    """Train a pipeline, select an epoch by validation, score it once on test, and write the run directory.

    If training fails before anything was saved, its files and the new directory are removed; otherwise `resume_run`
    continues it. Of several processes, only the first writes and prints.

    Args:
        config: resolved
        out: the run directory to create; None creates one under `runs/`, named after the components and the data
        command: the command line that repeats this run, for the record
        callbacks: in addition to those that the options select
        print_fn: called with each note for the user
        on_ready: called with the pipeline and its data before the first step
        frames: option of the data -> the data frame in its place, which is stored in the run directory

    Raises:
        OptionError: `out` holds a run or other files
        TrainingInterrupted: a signal was received, and the state is saved
    """
    start_time = time.time()
    create_callbacks(config.options("train")["callbacks"])  # to refuse unknown names before data are read
    name = _name_run(config)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        refuse_frames(frames, "which only one process has, and there are several")
    if not _is_main_process():
        resume_store = ResumeStore(next(suggest_run_dirs(name)) if out is None else Path(out), is_writer=False)
        pipeline, data = prepare_training(config)
        return _fit_and_evaluate(config, resume_store, pipeline, data, command, (), start_time)
    with create_run_dir(out, name) as run_dir, _report_interrupt(run_dir), name_frames(frames, run_dir):
        config = store_frames(config, frames, run_dir)
        pipeline, data = prepare_training(config, print_fn)
        data_files = identify_files(config.values["data"])
        if on_ready:
            on_ready(pipeline, data)
        options = config.options("train")
        hardware = describe_hardware(options["device"], options["threads"])
        schema, data_table = data.input_schema(), resolve_paths(config.values["data"])
        save_run_config(run_dir, config, pipeline, schema, command, hardware, data_files, data_table)
        return _fit_and_evaluate(config, ResumeStore(run_dir), pipeline, data, command, callbacks, start_time)


def train_or_resume(config: Config, out: str | Path, *, command: str = "", **reporters: Any) -> RunResult:
    """Train into a run directory, or resume the unfinished run in it.

    Args:
        config: resolved
        out: the run directory
        command: see `train`
        reporters: `callbacks`, `print_fn` and `on_ready` of `train`
    """
    if is_unfinished(Path(out)):
        return resume_run(out, **reporters)
    return train(config, out, command=command, **reporters)


def resume_run(
    out: str | Path,
    *,
    callbacks: Sequence[Callback] = (),
    print_fn: Callable[[str], None] = lambda line: None,
    on_ready: Callable[[Pipeline, DataModule], None] | None = None,
) -> RunResult:
    """Resume an interrupted run with the options with which it was started.

    On a CPU it ends as it would have without the interruption, bit for bit.

    Args:
        out: the run directory
        callbacks: see `train`
        print_fn: see `train`
        on_ready: see `train`

    Raises:
        CheckpointError: the run is finished or damaged, or another process is training it
        DataError: the data have changed
    """
    start_time = time.time()
    if is_hub_run(out):
        raise CheckpointError(
            f"--resume {out}: a run on the hub is finished; start from it: tstk train --init-from {out}"
        )
    run_dir, is_main = resolve_run_dir(out), _is_main_process()
    if not is_main:
        print_fn, on_ready = lambda line: None, None
    RunConfig.read(run_dir)  # to refuse a path without a run
    with run_lock(run_dir) if is_main else nullcontext(), _report_interrupt(run_dir):
        check_no_links(run_dir)
        resume_store = ResumeStore(run_dir, is_writer=is_main)
        if not is_unfinished(run_dir):
            resume_store.remove()  # the training may have been killed between writing its result and this
            raise CheckpointError(
                f"--resume {out}: this run is finished; start another from its weights: tstk train --init-from {out}"
            )
        if resume_store.exists():
            resume_store.read_state()  # before anything reads values of a config.json that may have changed
        run_config = RunConfig.read(run_dir)
        data_table, notes = find_run_data(run_config)
        refuse_changed_data(run_config, data_table)
        for note in (*check_plugins(run_config), *notes):
            print_fn(note)
        config = _get_resumed_config(run_config, data_table, resume_store.exists())
        if note := _describe_environment_changes(run_config, config):
            print_fn(note)
        if not resume_store.exists():
            print_fn(f"{run_dir} was interrupted before anything was saved, so it starts again")
        pipeline, data = prepare_training(config, print_fn, run_dir if resume_store.exists() else None)
        if on_ready:
            on_ready(pipeline, data)
        return _fit_and_evaluate(config, resume_store, pipeline, data, run_config.command, callbacks, start_time)


def _get_resumed_config(run_config: RunConfig, data_table: dict[str, Any], has_state: bool) -> Config:
    """Return the config of a run, with the data where they are now; a saved state needs no pretrained weights."""
    tables = run_config.given | {"data": data_table}
    if has_state:
        trained = RunConfig.read(run_config.run_dir, keep_source_folders=True).values
        tables |= {slot: trained[slot] for slot in SLOTS if slot in trained}
    return Config(tables, run_config.sources, run_config.init_from)


@contextmanager
def _report_interrupt(run_dir: Path) -> Iterator[None]:
    """Turn a KeyboardInterrupt, which has stopped training at once, into one that says what was saved before.

    Raises:
        TrainingInterrupted: weights or a training state were saved
    """
    try:
        yield
    except TrainingInterrupted:
        raise
    except KeyboardInterrupt:
        if not has_saved_state(run_dir):
            raise
        saved = "stopped before the state was saved again"
        if (run_dir / WEIGHTS_FILE).is_file():
            saved = f"{run_dir} keeps the best weights so far; score them: tstk eval {quote(str(run_dir))}"
        raise TrainingInterrupted(saved, run_dir, signal.SIGINT) from None


def _describe_environment_changes(run_config: RunConfig, config: Config) -> str:
    """Return a note on versions and hardware that differ from those of the run, an empty string if none do."""
    options = config.options("train")
    before = run_config.versions | run_config.hardware
    now = collect_versions(config) | describe_hardware(options["device"], options["threads"])
    changes = [f"{name} was {value} and is {now.get(name)}" for name, value in before.items() if now.get(name) != value]
    if not changes:
        return ""
    threads = run_config.hardware.get("threads")
    remedy = "" if threads in (None, now["threads"]) else f"; OMP_NUM_THREADS={threads} restores the number of threads"
    return f"{'; '.join(changes)}: results may differ in the last digits from those of an uninterrupted run{remedy}"


def _describe_spec_changes(before: Spec, after: Spec) -> str:
    old, new = asdict(before), asdict(after)
    return ", ".join(f"{name} was {old[name]} and is {new[name]}" for name in old if old[name] != new[name])


def _is_main_process() -> bool:
    """Return whether this process, if one of several, is the one that writes and prints."""
    return not int(os.environ.get("RANK", 0))


def _fit_and_evaluate(
    config: Config,
    resume_store: ResumeStore,
    pipeline: Pipeline,
    data: DataModule,
    command: str,
    callbacks: Sequence[Callback],
    start_time: float,
) -> RunResult:
    """Fit the pipeline, score it on test, write the weights and result.json, and return the result."""
    run_dir = resume_store.run_dir
    seconds_before = time.time() - start_time
    try:
        check_memory(pipeline, data, TrainConfig.from_config(config))
        fit_result = fit(pipeline, data, TrainConfig.from_config(config), callbacks, resume_store)
        fit_end_time = time.time()
        with use_deterministic_algorithms(config.options("train").get("deterministic", False)):
            result = _build_result(run_dir, config, pipeline, data, fit_result, command)
        seconds = seconds_before + fit_result.seconds + time.time() - fit_end_time
        result = replace(result, seconds=round(seconds, 2))
        if resume_store.is_writer:
            temperature = {} if pipeline.temperature is None else {"temperature": pipeline.temperature}
            save_weights(pipeline, run_dir / WEIGHTS_FILE, fit_result.weights | temperature)
            result.write()
            resume_store.remove()
    except (TrainingError, NotFiniteError) as e:  # of training, or of testing the trained weights
        kept = f". {run_dir} keeps the best weights so far" if (run_dir / WEIGHTS_FILE).is_file() else ""
        raise type(e)(f"{e}{kept}") from None
    except FileError as e:
        remedy = f", then continue with: tstk train --resume {quote(str(run_dir))}" if resume_store.exists() else ""
        raise FileError(f"{e}{remedy}") from None
    return result


def _build_result(
    run_dir: Path, config: Config, pipeline: Pipeline, data: DataModule, fit_result: FitResult, command: str
) -> RunResult:
    """Score the pipeline and the baselines on test."""
    train_config, _ = resolve_defaults(TrainConfig.from_config(config), pipeline, data)
    baselines = score_baselines(pipeline, data, data.test) if data.test is not None else Baselines()
    if is_classifier(pipeline):
        test, classification, calibration = _score_classes(pipeline, data, train_config)
    else:
        test, classification, calibration = {}, None, None
        if data.test is not None:
            test = evaluate(pipeline, data.test, seed=train_config.seed, source=_name_test_split(data))
    return RunResult(
        run_dir=run_dir,
        task=data.task if data.task is not None and pipeline.makes_predictions else "pretraining",
        data=data.name,
        test=test,
        val=fit_result.best_metrics["val"],
        **baselines.to_dict(),
        selected=SelectedEpoch(fit_result.best_metrics["epoch"], len(fit_result.history), train_config.select_by),
        parameters=sum(p.numel() for p in pipeline.parameters()),
        trainable=fit_result.trainable,
        seconds=0.0,
        training_seconds=round(fit_result.seconds, 2),
        split=data.split_description,
        command=command,
        versions=collect_versions(config),
        classification=classification,
        calibration=calibration,
    )


def _score_classes(
    pipeline: Pipeline, data: DataModule, config: TrainConfig
) -> tuple[dict[str, float], ClassificationScores | None, Calibration | None]:
    """Calibrate a classifier if requested, and score its classes and probabilities on test in one pass."""
    calibration = None if config.calibrate == "none" else calibrate(pipeline, data.val)
    if data.test is None:
        return {}, None, calibration
    test, logits = evaluate_classifier(pipeline, data.test, seed=config.seed, source=_name_test_split(data))
    if calibration is not None:
        calibration = compare_calibration(calibration, "test", data.test, logits)
    return test, score_classifier(pipeline, data.test, logits, seed=config.seed), calibration


def _name_test_split(data: DataModule) -> str:
    return f"{data.name}, test split"


def _name_run(config: Config) -> str:
    """Return a name for a run, of its components and data."""
    slots = ("encoder", "head" if "head" in config.values else "loss")
    component_names = [str(config.component(slot)).rpartition("/")[2] for slot in slots]
    return "-".join([*component_names, Path(str(config.component("data"))).stem])
