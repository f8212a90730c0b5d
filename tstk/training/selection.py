"""Selection of the epoch whose weights are kept, early stopping, and the linear probe during training."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from tstk.evaluation.probe import linear_probe_accuracy
from tstk.training.callbacks import Callback
from tstk.training.distributed import full_state_dict
from tstk.training.lora import merge_lora

if TYPE_CHECKING:
    from tstk.core.task import Task
    from tstk.training.state import TrainState


class BestEpoch(Callback):
    """Keeps the metrics and weights of the best epoch so far.

    A validation split is a small sample. Among the epochs whose accuracy is within one standard error of the best, the
    latest is kept, since its learning rate has decayed furthest (the one-standard-error rule of Breiman et al. 1984,
    with later epochs in place of simpler models).

    Args:
        select_by: score, loss or last; see `TrainConfig`
    """

    def __init__(self, select_by: str) -> None:
        self.select_by = select_by
        self.best_score: float | None = None
        self.tolerance = 0.0

    def on_validation_end(self, state: TrainState, metrics: dict[str, Any]) -> None:
        """Compare the epoch with the best so far, and keep its metrics and weights if it is as good."""
        score, tolerance = score_epoch(metrics, self.select_by, state.pipeline.task)
        if self.best_score is None or score > self.best_score:
            self.best_score, self.tolerance = score, tolerance
        elif score < self.best_score - self.tolerance:
            return
        state.best_metrics = metrics
        weights = merge_lora(state.pipeline, full_state_dict(state.pipeline))
        state.best_weights = {k: v.cpu().clone() for k, v in weights.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the best score and its tolerance."""
        return {"best_score": self.best_score, "tolerance": self.tolerance}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.best_score, self.tolerance = state_dict["best_score"], state_dict["tolerance"]


class EarlyStopping(Callback):
    """Stops training when the score has not improved for some epochs.

    Args:
        select_by: the score, as for `BestEpoch`
        patience: epochs without improvement
    """

    def __init__(self, select_by: str, patience: int) -> None:
        self.select_by, self.patience = select_by, patience
        self.best_score: float | None = None
        self.wait_count = 0

    def on_validation_end(self, state: TrainState, metrics: dict[str, Any]) -> None:
        """Count the epochs without improvement."""
        score, _ = score_epoch(metrics, self.select_by, state.pipeline.task)
        self.wait_count += 1
        if self.best_score is None or score > self.best_score:
            self.best_score, self.wait_count = score, 0
        if self.wait_count >= self.patience:
            state.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """Return the best score and the number of epochs since."""
        return {"best_score": self.best_score, "wait_count": self.wait_count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.best_score, self.wait_count = state_dict["best_score"], state_dict["wait_count"]


class LinearProbe(Callback):
    """Adds the validation accuracy of a linear probe to the metrics of every n-th epoch and of the last.

    Args:
        every: epochs from one probe to the next
        autocast: function that returns a context in which activations have the precision of training
    """

    def __init__(self, every: int, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        self.every, self.autocast = every, autocast

    def on_validation_end(self, state: TrainState, metrics: dict[str, Any]) -> None:
        """Fit the probe; labels never reach the weights."""
        if state.epoch % self.every == 0 or state.epoch == state.epochs:
            with self.autocast():
                metrics["val"]["probe"] = linear_probe_accuracy(state.pipeline, state.data.train, state.data.val)


def score_epoch(metrics: dict[str, Any], select_by: str, task: Task | None) -> tuple[float, float]:
    """Return an epoch's score, higher is better, and the tolerance within which a later epoch is as good."""
    val = metrics["val"]
    if select_by == "last":
        return metrics["epoch"], 0.0
    if select_by == "score" and task is not None and task.main_metric in val:
        value = val[task.main_metric]
        return (value if task.higher_is_better else -value), val.get(f"{task.main_metric}_se", 0.0)
    return -val["loss"], 0.0
