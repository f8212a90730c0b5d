"""Run the trials of a search with Optuna: draw options, train, compare validation scores. Test is never scored.

A study is a folder with a journal, to which every trial is added as it proceeds: a killed search loses the trials that
were running, and the next call with the same arguments goes on. Several processes may work on one folder. The random
numbers of a trial depend on the seed and on its place alone, so one process with one seed repeats its trials, also if
it was killed in between.
"""

from __future__ import annotations

import json
import os
import secrets
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tstk.errors import OptionError, TrainingError, TstkError
from tstk.files import is_leftover, write_text
from tstk.files.lock import file_lock, is_locked
from tstk.training.callbacks import Callback
from tstk.tuning.algorithms import PrunerName, compute_importance, make_pruner, make_sampler, quiet_optuna
from tstk.tuning.objective import Objective, TrialCallback
from tstk.tuning.results import BEST_FILE, STUDY_FILE, TRIALS_FILE, TrialRecord, TrialState, TuneResult, write_results
from tstk.tuning.space import SearchSpace

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

MAX_REPEATED_DRAWS = 20
"""Draws in a row of options that were tried before, after which the space counts as exhausted."""
WORKER_FOLDER = "workers"
LOCK_FILE = "study.lock"


@dataclass(frozen=True)
class TuneSettings:
    """How a space is searched.

    Args:
        trials: number of trials of the study, those of earlier calls included
        time_limit: seconds of this call
        pruner: median stops a trial that is worse than the median of the others at the same epoch; hyperband gives
            many trials few epochs and the better ones more; none trains each to its end
        metric: of the validation split; None for the main metric of the task, such as accuracy; for pretraining, the
            accuracy of a linear probe with --probe-every, else the loss
    """

    trials: int = 30
    time_limit: float | None = None
    pruner: PrunerName = "median"
    metric: str | None = None


@dataclass(frozen=True)
class Reporters:
    """Who is told of the trials.

    Args:
        on_trial: called with the result so far and each trial that has ended
        make_callbacks: returns callbacks for a trial, such as a progress bar
        print_fn: called with each note for the user
    """

    on_trial: Callable[[TuneResult, TrialRecord], None] = lambda result, trial: None
    make_callbacks: Callable[[], Sequence[Callback]] = tuple
    print_fn: Callable[[str], None] = lambda line: None


def run_study(space: SearchSpace, out: str | Path, settings: TuneSettings, reporters: Reporters) -> TuneResult:
    """Search a space for the options with the best validation score.

    Args:
        space: the configs to compare
        out: folder of the study; new, or that of an earlier call with the same space
        settings: number of trials, time, pruner and metric
        reporters: who is told of the trials

    Raises:
        OptionError: Optuna is not installed, `out` has other files or another study, or there is no validation split
        TuningInterrupted: Ctrl-C; it has the result so far
    """
    with quiet_optuna():
        tuner = Tuner(space, Path(out), settings, reporters)
        try:
            with file_lock(tuner.folder / WORKER_FOLDER / tuner.worker):
                return tuner.run()
        finally:
            with suppress(OSError):  # another process is at work
                (tuner.folder / WORKER_FOLDER).rmdir()


class TuningInterrupted(KeyboardInterrupt):
    """Ctrl-C stopped a search, which the same call continues.

    Args:
        result: of the trials that have ended
    """

    def __init__(self, result: TuneResult) -> None:
        super().__init__(f"{result.out}: stopped after {len(result.trials)} trials")
        self.result = result


class Tuner:
    """Runs the trials of one process.

    Args:
        space: see `run_study`
        folder: see `run_study`
        settings: see `run_study`
        reporters: see `run_study`
    """

    def __init__(self, space: SearchSpace, folder: Path, settings: TuneSettings, reporters: Reporters) -> None:
        _check_folder(folder)
        self.space, self.folder, self.settings, self.reporters = space, folder, settings, reporters
        self.worker = secrets.token_hex(8)
        limit = settings.time_limit
        self.deadline = None if limit is None else time.monotonic() + limit
        self.notes: list[str] = []
        self.printed_notes: set[str] = set()
        self.objective = Objective(space, settings.metric, folder / BEST_FILE, self._note)
        self.seed = int(space.base.options("train")["seed"])
        self.study = self._open_study()

    def run(self) -> TuneResult:
        """Run trials until there are enough of them, or the time is over."""
        try:
            while self.deadline is None or time.monotonic() < self.deadline:
                trial = self._ask()
                if trial is None:
                    break
                if self._run_trial(trial):
                    self._note("the time limit has ended the last trial before its end; the next call starts it again")
                    break
        except KeyboardInterrupt:
            self._abandon_own_trials()
            raise TuningInterrupted(self._finish()) from None
        return self._finish()

    def _open_study(self) -> Study:
        """Create the study, or open that of an earlier call or another process."""
        import optuna

        from tstk.tuning.storage import StudyFile

        definition = json.dumps(
            {
                "metric": self.objective.metric,
                "search": {d.path: d.text for d in sorted(self.space.dimensions, key=lambda d: d.path)},
                "config": self.space.base.values,
            },
            sort_keys=True,
        )
        self.base_values, self.base_outside = self.space.describe_base()
        if self.base_outside:
            self._note(f"trial 1 has the options of the config itself: {'; '.join(self.base_outside)}")
        self.folder.mkdir(parents=True, exist_ok=True)
        with file_lock(self.folder / LOCK_FILE):
            study = optuna.create_study(
                storage=optuna.storages.JournalStorage(StudyFile(self.folder / STUDY_FILE)),
                study_name="tune",
                direction="minimize" if self.objective.lower_is_better else "maximize",
                pruner=make_pruner(self.settings.pruner),
                load_if_exists=True,
            )
            stored = study.user_attrs.get("definition")
            if stored is not None and stored != definition:
                raise OptionError(f"--out {self.folder} has another search: {_describe_change(stored, definition)}")
            if stored is None:
                study.set_user_attr("definition", definition)
            self._abandon_dead_trials(study)
        return study

    def _abandon_dead_trials(self, study: Study) -> None:
        """End the running trials of processes that are no more, so that others take their places."""
        for trial in study.get_trials(deepcopy=False):
            worker = trial.user_attrs.get("worker", "")
            if trial.state.name == "RUNNING" and not (worker and is_locked(self.folder / WORKER_FOLDER / worker)):
                study.tell(trial.number, state=type(trial.state).FAIL)
        for path in (self.folder / WORKER_FOLDER).glob("*"):
            if not is_locked(path):
                path.unlink(missing_ok=True)  # left by a process that was killed

    def _ask(self) -> Trial | None:
        """Start a trial and draw its options; None if there are enough, or no other options are left."""
        attempt = 0
        while attempt < MAX_REPEATED_DRAWS:
            with file_lock(self.folder / LOCK_FILE):
                trial, outcome = self._draw(attempt)
            if outcome == "refused":
                self._report(trial)
                attempt = 0
            elif outcome == "repeated":
                attempt += 1
            else:
                return trial
        self._note(f"no new options in {MAX_REPEATED_DRAWS} draws: all or nearly all of this space has been tried")
        return None

    def _draw(self, attempt: int) -> tuple[Any, str]:
        """Draw the options of a new trial while no other process does.

        Returns:
            the trial, None if there are enough; and new, repeated, or refused if its components do not fit
        """
        trials = self.study.get_trials(deepcopy=False)
        others = [t for t in trials if _is_counted(t)]
        if len(others) >= self.settings.trials:
            return None, "enough"
        if not (others or self.base_outside or any(t.state.name == "WAITING" for t in trials)):
            self.study.enqueue_trial(self.base_values)
        trial = self.study.ask()
        trial.set_user_attr("worker", self.worker)
        self.study.sampler = make_sampler(self.seed, len(others), attempt)
        try:
            is_base = not others and self.base_outside  # which Optuna knows as a trial without options
            trial.set_user_attr("options", {} if is_base else self.space.suggest(trial))
        except TstkError as e:
            self._refuse(trial, "refused", " ".join(str(e).split()), 0.0)
            return trial, "refused"
        if any(t.params == trial.params for t in others):
            self._abandon(trial)
            return trial, "repeated"
        return trial, "new"

    def _run_trial(self, trial: Trial) -> bool:
        """Train with the options of a trial and record its score; return whether the time is over."""
        start = time.time()
        callback = TrialCallback(trial, self.objective.metric, self.deadline)
        try:
            callbacks = [callback, *self.reporters.make_callbacks()]
            config, val_series, result = self.objective.train(trial.user_attrs["options"], callbacks)
            if callback.is_out_of_time:
                self._abandon(trial)
                return True
            score, epoch = self.objective.read_score(result)
        except Exception as e:
            if os.environ.get("TSTK_STRICT") == "1" and not isinstance(e, TstkError):
                raise
            self._refuse(trial, *self._explain(trial, e), time.time() - start)
        else:
            error = result.best_metrics["val"].get(f"{self.objective.metric}_se")
            facts = {"standard_error": error, "epoch": epoch, "seconds": round(time.time() - start, 2)}
            text = self.objective.format_config(config)
            for name, value in {**facts, "val_series": val_series, "config": text}.items():
                trial.set_user_attr(name, value)
            self._tell(trial, "PRUNED" if callback.is_pruned else "COMPLETE", score)
        self._report(trial)
        return False

    def _explain(self, trial: Trial, error: Exception) -> tuple[str, str]:
        """Return the state and the message of a trial that cannot be trained; a bug's traceback goes to a file."""
        message = f"{' '.join(str(error).split())}"
        if isinstance(error, TstkError):
            return ("failed" if isinstance(error, TrainingError) else "refused"), message
        path = self.folder / f"trial-{trial.number}.error.txt"
        write_text(path, "".join(traceback.format_exception(error)))
        return "failed", f"{type(error).__name__}: {message} ({path} has the traceback)"

    def _refuse(self, trial: Trial, state: str, error: str, seconds: float) -> None:
        for name, value in {"outcome": state, "error": error, "seconds": round(seconds, 2)}.items():
            trial.set_user_attr(name, value)
        self._tell(trial, "FAIL")

    def _abandon(self, trial: Trial) -> None:
        """Leave a trial out that did not come to its end; another takes its place."""
        self._tell(trial, "FAIL")

    def _abandon_own_trials(self) -> None:
        """Leave out what this process was at when Ctrl-C stopped it: drawing a trial, running it, or nothing at all."""
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state.name == "RUNNING" and trial.user_attrs.get("worker") in (self.worker, None):
                self.study.tell(trial.number, state=type(trial.state).FAIL)

    def _tell(self, trial: Trial, state: str, score: float | None = None) -> None:
        from optuna.trial import TrialState

        self.study.tell(trial, score if state == "COMPLETE" else None, state=TrialState[state])

    def _report(self, trial: Trial) -> None:
        """Write the results so far, and tell of a trial that has ended."""
        with file_lock(self.folder / LOCK_FILE):
            trials = self._list_trials()
            result = self._collect(trials)
            write_results(result)
        self.reporters.on_trial(result, result.trials[[t.number for t in trials].index(trial.number)])

    def _list_trials(self) -> list[FrozenTrial]:
        return [t for t in self.study.get_trials(deepcopy=False) if _is_counted(t)]

    def _collect(self, trials: Sequence[FrozenTrial]) -> TuneResult:
        records = [_make_record(trial, number) for number, trial in enumerate(trials, 1)]
        return TuneResult(self.folder, self.objective.metric, self.objective.lower_is_better, records)

    def _finish(self) -> TuneResult:
        """Write the results and return them with the importance of the options."""
        with file_lock(self.folder / LOCK_FILE):
            result = self._collect(self._list_trials())
            write_results(result)
        return replace(result, importance=compute_importance(self.study, result, self.seed), notes=self.notes)

    def _note(self, line: str) -> None:
        """Print a note once, however many trials it holds for."""
        if line not in self.printed_notes:
            self.printed_notes.add(line)
            self.notes.append(line)
            self.reporters.print_fn(line)


def _check_folder(folder: Path) -> None:
    others = (STUDY_FILE, TRIALS_FILE, BEST_FILE)
    if folder.is_dir():
        known = {LOCK_FILE, WORKER_FOLDER, f"{STUDY_FILE}.lock", *others}
        is_new = all(p.name in known or any(is_leftover(p, name) for name in others) for p in folder.iterdir())
        if is_new or (folder / STUDY_FILE).is_file():
            return
    elif not os.path.lexists(folder):
        return
    raise OptionError(f"--out {folder}: there are other files and no {STUDY_FILE}; choose another folder")


def _describe_change(stored: str, definition: str) -> str:
    """Return the first difference of two definitions of a study, and the remedy."""
    before, after = _flatten(json.loads(stored)), _flatten(json.loads(definition))
    name = next(key for key in {**before, **after} if before.get(key, "absent") != after.get(key, "absent"))
    label = name.partition(".")[2] or name
    return f"{label} was {before.get(name, 'absent')}, now {after.get(name, 'absent')}; choose another --out"


def _flatten(values: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {path: values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{path}.{key}" if path else key)
    return flat


def _is_counted(trial: FrozenTrial) -> bool:
    """Return whether a trial is one of the study's: it has begun, and was neither interrupted nor drawn before."""
    return trial.state.name in ("COMPLETE", "PRUNED", "RUNNING") or "outcome" in trial.user_attrs


def _make_record(trial: FrozenTrial, number: int) -> TrialRecord:
    attrs = trial.user_attrs
    states: dict[str, TrialState] = {"COMPLETE": "finished", "PRUNED": "pruned", "RUNNING": "running"}
    state: TrialState = states.get(trial.state.name) or attrs.get("outcome", "failed")
    score = trial.value if state == "finished" else trial.intermediate_values.get(trial.last_step or 0)
    names = ("standard_error", "seconds", "val_series")
    epoch = trial.last_step if state == "pruned" else attrs.get("epoch")
    return TrialRecord(
        number,
        state,
        attrs.get("options", {}),
        score,
        epoch=epoch,
        error=attrs.get("error", ""),
        config=attrs.get("config", ""),
        **{name: attrs.get(name) for name in names},
    )
