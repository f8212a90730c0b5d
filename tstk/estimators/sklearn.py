"""Estimators for scikit-learn; parameters are the options of `tstk train`, with two underscores for a dot.

    from tstk.sklearn import SeriesClassifier
    SeriesClassifier(encoder="bert", encoder__depth=2, head="cot", epochs=20).fit(X, y).predict(X)

`fit` resolves a config from the parameters and trains as `tstk train` does, on arrays instead of files. All options of
training, pipeline and components are accepted; `fit` raises an error for invalid ones. Series are X [N, T], or
[N, C, T] with channels, or a list of [C, T_i] if lengths differ; NaN marks a missing sample.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin, RegressorMixin, TransformerMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, column_or_1d, validate_data
from torch import Tensor

from tstk.core.prediction import map_batches
from tstk.core.types import Spec
from tstk.data.catalog import DEFAULT_VAL_FRACTION
from tstk.data.datasets import WindowDataset
from tstk.estimators.base import BATCH_SIZE, FLOATS, Array, PipelineEstimator
from tstk.evaluation.evaluate import iter_batches
from tstk.evaluation.features import feature_extractor

__all__ = ["SeriesClassifier", "SeriesForecaster", "SeriesRegressor", "TokenEncoder"]


class SeriesClassifier(ClassifierMixin, PipelineEstimator):
    """Classifier of time series.

    Args:
        tokenizer: name, or a run directory to initialize it from; inception if None
        encoder: name, or a run directory to initialize it from; transformer if None
        head: name of the head; linear if None
        epochs: passes over the training data; as many as 1500 steps take if None
        seed: seed of weights and batches
        options: any other option of `tstk train`: encoder__depth=2, lr=1e-4, steps=100, init_from="runs/pretrained"

    Attributes:
        classes_: class labels, in the order of the columns of `predict_proba`
        pipeline_: the trained pipeline
        history_: one row of losses and scores per epoch
    """

    _task = "classification"

    def __init__(
        self,
        tokenizer: str | None = None,
        encoder: str | None = None,
        head: str | None = "linear",
        epochs: int | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        self.tokenizer, self.encoder, self.head, self.epochs, self.seed = tokenizer, encoder, head, epochs, seed
        self._options = options

    def fit(self, X: Any, y: Any) -> SeriesClassifier:
        """Train on labelled series; a fraction (val_fraction), if not 0, is held out to select the best weights."""
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        x = self._validate_series(X, True)
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        if len(y) != len(x):
            raise ValueError(
                f"Found input variables with inconsistent numbers of samples: {len(x)} series, {len(y)} labels"
            )
        self.classes_, class_ids = np.unique(y, return_inverse=True)
        config = self._build_config()
        train, val = self._split_validation(x, torch.from_numpy(class_ids.astype(np.int64)), config)
        assert train.y is not None
        counts = tuple(torch.bincount(train.y, minlength=len(self.classes_)).tolist())
        length = max(x.shape[2], config.values["data"]["length"] or 0)
        self._fit_pipeline(
            config,
            Spec(x.shape[1], length, self._task, len(self.classes_), class_counts=counts),
            train,
            val,
            train.x,
        )
        self.pipeline_.set_input_schema({"classes": self.classes_, "offset": self.offset_})
        return self

    def predict_proba(self, X: Any) -> Array:
        """Return class probabilities [N, K]."""
        probabilities = self._predict(self._validate_new_series(X)).probabilities
        assert probabilities is not None
        return probabilities

    def predict(self, X: Any) -> Array:
        """Return class labels [N]."""
        best = self.predict_proba(X).argmax(1)  # raises NotFittedError before `classes_` is looked up
        return self.classes_[best]


class SeriesRegressor(RegressorMixin, PipelineEstimator):
    """Regressor of time series: one or several numbers per series.

    Args:
        tokenizer: name, or a run directory to initialize it from; inception if None
        encoder: name, or a run directory to initialize it from; transformer if None
        head: name of the head; linear if None
        loss: name of the loss: mse, mae or huber
        epochs: passes over the training data; as many as 1500 steps take if None
        seed: seed of weights and batches
        options: any other option of `tstk train`: encoder__depth=2, lr=1e-4, steps=100, init_from="runs/pretrained"

    Attributes:
        pipeline_: the trained pipeline
        history_: one row of losses and scores per epoch
    """

    _task = "regression"

    def __init__(
        self,
        tokenizer: str | None = None,
        encoder: str | None = None,
        head: str | None = "linear",
        loss: str | None = "mse",
        epochs: int | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        self.tokenizer, self.encoder, self.head, self.loss = tokenizer, encoder, head, loss
        self.epochs, self.seed = epochs, seed
        self._options = options

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any) -> SeriesRegressor:
        """Train on series and y [N] or [N, K], NaN where unknown; a fraction (val_fraction) selects the weights."""
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        x = self._validate_series(X, True)
        y = check_array(y, ensure_2d=False, dtype=np.float64, ensure_all_finite="allow-nan", input_name="y")
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if len(y) != len(x):
            raise ValueError(
                f"Found input variables with inconsistent numbers of samples: {len(x)} series, {len(y)} targets"
            )
        self._has_one_target = y.ndim == 1
        targets = torch.tensor(y.reshape(len(y), -1))
        if bool(targets.isnan().all(0).any()):
            raise ValueError("Input y contains only NaN for a target; give at least one number for each")
        config = self._build_config()
        train, val = self._split_validation(x, targets, config)
        length = max(x.shape[2], config.values["data"]["length"] or 0)
        self._fit_pipeline(config, Spec(x.shape[1], length, self._task, targets.shape[1]), train, val, train.x)
        return self

    def predict(self, X: Any) -> Array:
        """Return the predicted numbers, [N] or [N, K] as `y` of `fit`."""
        values = self._predict(self._validate_new_series(X)).values
        assert values is not None
        return values[:, 0] if self._has_one_target else values


class TokenEncoder(TransformerMixin, PipelineEstimator):
    """Self-supervised features of time series.

    Args:
        tokenizer: name, or a run directory to initialize it from; patch if None
        encoder: name, or a run directory to initialize it from; transformer if None
        loss: name of the loss
        features: pooled, tokens (concatenated), codes (frequency of each code) or counts (count of each code)
        pool: pooling of tokens to one vector: mean, max, cls or statistics
        epochs: passes over the training data; as many as 1500 steps take if None
        seed: seed of weights, masks and batches
        options: any other option of `tstk train`: loss__ratio=0.75, encoder__depth=2, steps=100

    Attributes:
        pipeline_: the trained pipeline
        history_: one row of losses and scores per epoch
    """

    _task = None
    _own_params = ("features", "pool")

    def __init__(
        self,
        tokenizer: str | None = None,
        encoder: str | None = None,
        loss: str | None = "masked",
        features: str = "pooled",
        pool: str = "mean",
        epochs: int | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        self.tokenizer, self.encoder, self.loss, self.features, self.pool = tokenizer, encoder, loss, features, pool
        self.epochs, self.seed = epochs, seed
        self._options = options

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def fit(self, X: Any, y: Any = None) -> TokenEncoder:
        """Train on series; `y` is ignored."""
        x = self._validate_series(X, True)
        config = self._build_config()
        train, val = self._split_validation(x, None, config)
        length = max(x.shape[2], config.values["data"]["length"] or 0)
        self._fit_pipeline(config, Spec(x.shape[1], length), train, val, train.x)
        return self

    def transform(self, X: Any) -> Array:
        """Return one feature vector per series, [N, W]."""
        batches = iter_batches(self._validate_new_series(X), BATCH_SIZE, "cpu")
        extract = feature_extractor(self.pipeline_, self.features, self.pool)  # type: ignore[arg-type]
        with self._pipeline_on_device() as pipeline:
            return map_batches(pipeline, batches, extract).numpy()


class SeriesForecaster(PipelineEstimator):
    """Forecaster of tables: rows are time steps, columns are channels.

    Args:
        context: rows that the model sees before the first forecast row
        horizon: rows to forecast
        tokenizer: name, or a run directory to initialize it from; patch if None
        encoder: name, or a run directory to initialize it from; transformer if None
        epochs: passes over the training data; as many as 1500 steps take if None
        seed: seed of weights and batches
        options: any other option of `tstk train`: head="forecast", stride=4, encoder__depth=2, steps=100

    Attributes:
        pipeline_: the trained pipeline
        history_: one row of losses and scores per epoch
    """

    _task = "forecasting"
    _data_options = ("use", "val_fraction", "standardize", "context", "horizon", "stride")

    def __init__(
        self,
        context: int = 96,
        horizon: int = 24,
        tokenizer: str | None = None,
        encoder: str | None = None,
        epochs: int | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        self.context, self.horizon, self.tokenizer, self.encoder = context, horizon, tokenizer, encoder
        self.epochs, self.seed = epochs, seed
        self._options = options

    def fit(self, X: Any, y: Any = None) -> SeriesForecaster:
        """Train on a table X [T, C]; its last rows (val_fraction) are held out to select the best weights."""
        table, config = self._validate_table(X, True), self._build_config()
        data = config.values["data"]
        rows, min_rows = table.shape[1], self.context + self.horizon
        val_fraction = DEFAULT_VAL_FRACTION if data["val_fraction"] is None else data["val_fraction"]
        cut = round(rows * (1 - val_fraction))
        if min(cut, rows - cut + self.context) < min_rows:
            raise ValueError(
                f"n_samples = {rows}: context={self.context} and horizon={self.horizon} take {min_rows} rows, both in "
                "training and in validation; give more rows or shorten one of them"
            )
        train = WindowDataset(table[:, :cut], self.context, self.horizon, data["stride"] or 1)
        val = WindowDataset(table[:, cut - self.context :], self.context, self.horizon, data["stride"] or 1)
        spec = Spec(len(table), self.context, self._task, horizon=self.horizon)
        self._fit_pipeline(config, spec, train, val, table[None, :, :cut])
        self.last_context_ = table[:, -self.context :]
        return self

    def forecast(self, X: Any = None) -> Array:
        """Forecast the rows [horizon, C] after the last row of X [T, C], or of the table in `fit`, in its units."""
        check_is_fitted(self)
        table = self.last_context_ if X is None else self._validate_table(X, False)
        if table.shape[1] < self.context:
            raise ValueError(f"X has {table.shape[1]} rows; expected at least context={self.context}")
        last = WindowDataset(table[:, -self.context :], self.context, 0)
        forecast = self._predict(last).forecast
        assert forecast is not None
        return forecast[0, :, : self.horizon].T

    def _validate_table(self, X: Any, reset: bool) -> Tensor:
        """Validate a table X [T, C] and return it as [C, T] float32."""
        X = validate_data(self, X, reset=reset, dtype=FLOATS, ensure_all_finite="allow-nan", copy=True)
        return self._to_samples(X.T.copy()[None], reset)[0]
