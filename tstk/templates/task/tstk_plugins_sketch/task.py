"""A task: numbers whose errors are relative to their size."""

from collections.abc import Sequence

from torch import Tensor

import tstk
from tstk.core.standardization import StandardizedModel


class Sketch(tstk.Task):
    """Predict numbers, scored by the mean absolute error in percent of the true ones."""

    target_type = "numbers"  # how targets are read: class, labels, numbers, future or sample-class
    default_head = "linear"
    default_loss = "mae"
    main_metric = "mape"
    higher_is_better = False
    requirement = "numbers to predict"
    remedy = "name their columns with --target-columns"

    def decode(
        self, pipeline: StandardizedModel, outputs: Tensor, sample_paths: Tensor | None = None
    ) -> tstk.Prediction:
        """Return the prediction of N series in the units of the data, from outputs [N, K] of the head."""
        values = pipeline.to_data_units(outputs.to(pipeline.mean.device)).double().cpu().numpy()
        return tstk.Prediction(values=values, target_names=pipeline.target_names)

    def score(
        self, outputs: Tensor, targets: Tensor, names: Sequence[str], groups: list[str] | None = None
    ) -> dict[str, float]:
        """Compute the metrics of a split; targets [N, K] are NaN where unknown."""
        known = targets.isfinite() & (targets != 0)
        if not known.any():
            return {}
        errors = (outputs - targets).abs() / targets.abs()
        return {"mape": 100 * float(errors[known].mean())}
