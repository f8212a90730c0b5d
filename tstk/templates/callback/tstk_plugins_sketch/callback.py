"""A callback that logs the norm of the weights."""

from typing import Any

from tstk import Callback, PositiveInt
from tstk.training.state import TrainState


class Sketch(Callback):
    """Log the norm of the weights, under `callbacks` in metrics.jsonl.

    Args:
        every: epochs from one entry to the next
    """

    # Options are keyword-only, with a literal default and a line in the docstring: --callbacks sketch:every=5
    def __init__(self, *, every: PositiveInt = 1) -> None:
        self.every = every

    def on_validation_end(self, state: TrainState, metrics: dict[str, Any]) -> dict[str, float] | None:
        """Return the Euclidean norm of all parameters."""
        if state.epoch % self.every:
            return None
        squares = [float(p.detach().square().sum()) for p in state.pipeline.parameters()]
        return {"weight_norm": sum(squares) ** 0.5}
