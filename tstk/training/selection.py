"""Selection of the epoch whose weights are kept, and early stopping."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tstk.training.distributed import full_state_dict


class BestEpoch:
    """The best epoch so far, with its weights.

    A validation split is a small sample. Among the epochs whose accuracy is within one standard error of the best, the
    latest is kept, since its learning rate has decayed furthest (the one-standard-error rule of Breiman et al. 1984,
    with later epochs in place of simpler models).

    Args:
        select_by: score, loss or last; see `tstk.training.loop.fit`
        patience: epochs without improvement before `should_stop`; None never stops
    """

    def __init__(self, select_by: str, patience: int | None) -> None:
        self.select_by, self.patience = select_by, patience
        self.best_metrics: dict[str, Any] = {}
        self.best_weights: dict[str, Tensor] = {}
        self.best_score: float | None = None
        self.tolerance = 0.0
        self.wait_count = 0

    @property
    def should_stop(self) -> bool:
        """Whether the score has not improved for `patience` epochs."""
        return self.patience is not None and self.wait_count >= self.patience

    def update(self, metrics: dict[str, Any], pipeline: nn.Module) -> bool:
        """Compare an epoch with the best so far, and store its weights if they are to be kept.

        Returns:
            whether they are
        """
        score, tolerance = self._score(metrics)
        improved = self.best_score is None or score > self.best_score
        self.wait_count = 0 if improved else self.wait_count + 1
        if improved:
            self.best_score, self.tolerance = score, tolerance
        elif self.best_score is None or score < self.best_score - self.tolerance:
            return False
        self.best_metrics = metrics
        self.best_weights = {k: v.cpu().clone() for k, v in full_state_dict(pipeline).items()}
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the state without `best_weights`, JSON-able."""
        return {"best": self.best_metrics, "score": self.best_score, "slack": self.tolerance, "idle": self.wait_count}

    def load_state_dict(self, state_dict: dict[str, Any], best_weights: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned, and the best weights."""
        self.best_metrics = dict(state_dict["best"])
        self.best_score, self.tolerance, self.wait_count = state_dict["score"], state_dict["slack"], state_dict["idle"]
        self.best_weights = best_weights

    def _score(self, metrics: dict[str, Any]) -> tuple[float, float]:
        """Return an epoch's score, higher is better, and the tolerance within which a later epoch is as good."""
        val = metrics["val"]
        if self.select_by == "last":
            return metrics["epoch"], 0.0
        if self.select_by == "score" and "accuracy" in val:
            return val["accuracy"], val["accuracy_se"]
        if self.select_by == "score" and "mse" in val:
            return -val["mse"], 0.0
        return -val["loss"], 0.0
