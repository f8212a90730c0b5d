"""A callback that logs the norm of the weights."""

from typing import Any

from tstk import Callback, Pipeline


class Sketch(Callback):
    """Log the norm of the weights after each epoch, under `callbacks` in metrics.jsonl."""

    def on_validation_end(self, metrics: dict[str, Any], pipeline: Pipeline) -> dict[str, float]:
        """Return the Euclidean norm of all parameters."""
        squares = [float(p.detach().square().sum()) for p in pipeline.parameters()]
        return {"weight_norm": sum(squares) ** 0.5}
