"""The results of a search: a record per trial, the best config as TOML, and a table of all trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from tstk.evaluation.formatting import format_number
from tstk.files import format_csv, write_text

STUDY_FILE = "study.jsonl"
BEST_FILE = "best.toml"
TRIALS_FILE = "trials.csv"


TrialState = Literal["finished", "pruned", "refused", "failed", "running"]


@dataclass(frozen=True)
class TrialRecord:
    """One trial.

    Args:
        number: from 1, in the order in which trials were started
        state: finished; pruned, stopped early as it was worse than others at that epoch; refused, if its options do not
            fit together; failed; running
        options: option -> the value that was drawn
        score: on the validation split; of a pruned trial, the last one before it was stopped
        standard_error: of the score, where it is known
        epoch: whose score it is
        seconds: of reading the data, building, training and validation
        val_series: number of series that the score is of
        error: why it was refused or failed
        config: its config as TOML
    """

    number: int
    state: TrialState
    options: Mapping[str, Any]
    score: float | None = None
    standard_error: float | None = None
    epoch: int | None = None
    seconds: float | None = None
    val_series: int | None = None
    error: str = ""
    config: str = ""

    def format_score(self) -> str:
        """Return the score with its standard error, where it is known."""
        if self.score is None:
            return ""
        error = "" if self.standard_error is None else f" ± {format_number(self.standard_error)}"
        return format_number(self.score) + error


@dataclass(frozen=True)
class TuneResult:
    """The result of a search, or of what it has found so far.

    Args:
        out: folder of the study, with best.toml and trials.csv
        metric: by which trials are compared, on the validation split
        lower_is_better: whether the metric is an error
        trials: all of them, in the order in which they were started
        importance: option -> share of the variance of the scores that it explains; empty if there are too few trials
        notes: lines for the user
    """

    out: Path
    metric: str
    lower_is_better: bool
    trials: list[TrialRecord]
    importance: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def ranking(self) -> list[TrialRecord]:
        """The finished trials, best first; of equal ones the earlier first."""
        finished = [t for t in self.trials if t.state == "finished" and t.score is not None]
        return sorted(finished, key=lambda t: (t.score or 0.0) * (1 if self.lower_is_better else -1))

    @property
    def best(self) -> TrialRecord | None:
        """The best finished trial; None if none has finished."""
        return next(iter(self.ranking), None)

    @property
    def config_file(self) -> Path:
        """The config of the best trial, for `tstk train --config` and `tstk.fit`."""
        return self.out / BEST_FILE

    def count_states(self) -> dict[str, int]:
        """Return the number of trials in each state, without those of none."""
        counts = {state: sum(t.state == state for t in self.trials) for state in get_args(TrialState)}
        return {state: count for state, count in counts.items() if count}

    def count_within_error(self) -> int:
        """Return how many other finished trials are as good as the best, or within its standard error."""
        if self.best is None or self.best.score is None:
            return 0
        score, error = self.best.score, self.best.standard_error or 0.0
        return sum(abs((t.score or 0.0) - score) <= error for t in self.ranking[1:])

    def format_trial(self, trial: TrialRecord) -> str:
        """Return the outcome of a trial in one line."""
        options = " ".join(f"{name}={format_value(value)}" for name, value in trial.options.items())
        options = options or "the config itself"
        if trial.state in ("refused", "failed"):
            return f"{trial.state}: {trial.error} ({options})"
        best = "  best so far" if self.best is not None and self.best.number == trial.number else ""
        score = f"{self.metric} {trial.format_score()}"
        if trial.state == "pruned":
            score = f"pruned in epoch {trial.epoch} with {score}"
        return f"{score}  {options}  {trial.seconds or 0:.3g} s{best}"

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON types."""
        trials = [{k: v for k, v in asdict(t).items() if k != "config"} for t in self.trials]
        best = None if self.best is None else self.best.number
        return {
            "out": str(self.out),
            "metric": self.metric,
            "lower_is_better": self.lower_is_better,
            "best": best,
            "trials": trials,
            "importance": self.importance,
            "notes": self.notes,
        }


def format_value(value: Any) -> str:
    """Return the value of an option, numbers with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_results(result: TuneResult) -> None:
    """Write trials.csv, and best.toml if a trial has finished."""
    columns = dict.fromkeys(name for trial in result.trials for name in trial.options)
    facts = ("number", "state", "score", "standard_error", "epoch", "seconds", "val_series")
    rows = [
        [*(getattr(trial, name) for name in facts), *(trial.options.get(name) for name in columns), trial.error]
        for trial in result.trials
    ]
    write_text(result.out / TRIALS_FILE, format_csv([[*facts, *columns, "error"], *rows]))
    if (best := result.best) is not None:
        head = f"# Trial {best.number} of {len(result.trials)}: {result.metric} {best.score:.6g} on validation\n"
        write_text(result.config_file, head + best.config)
