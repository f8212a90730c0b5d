"""Estimators for scikit-learn: the command line's options, with two underscores for a dot.

    from tstk.sklearn import SeriesClassifier
    SeriesClassifier(encoder="bert", encoder__depth=2, head="cot", epochs=20).fit(X, y).predict(X)

They are a thin shell: `fit` makes a config of its options and calls what `tstk train` calls, on arrays in place of
files. Every option of training, pipeline and parts may be given; a slip is told by `fit`. Series are X [N, T], or
[N, C, T] with channels, or a list of [C, T_i] where lengths differ; NaN marks a missing sample.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin, TransformerMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
from torch import Tensor

from tstk.core.types import Spec
from tstk.data.catalog import VAL_FRACTION
from tstk.data.datasets import Windows
from tstk.estimators.base import Array, Fitted
from tstk.evaluation.features import vectors

__all__ = ["SeriesClassifier", "SeriesForecaster", "TokenEncoder"]


class SeriesClassifier(ClassifierMixin, Fitted):
    """A classifier of time series.

    Args:
        tokenizer: name, or the directory of a run whose trained part is mounted; patch if None
        encoder: likewise; transformer if None
        head: what answers; linear if None
        epochs: passes over the data; enough for 1500 steps if None
        seed: of weights and batches
        options: any other option of `tstk train`: encoder__depth=2, lr=1e-4, steps=100, from_="runs/pretrained"

    Attributes:
        classes_: labels, in the order of the columns of `predict_proba`
        pipeline_: the trained pipeline
        history_: a row per epoch
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
        """Train on series and their labels; a share of them (val_fraction), if they are many, chooses the weights."""
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        x = self._series(X, True)
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        if len(y) != len(x):
            raise ValueError(
                f"Found input variables with inconsistent numbers of samples: {len(x)} series, {len(y)} labels"
            )
        self.classes_, at = np.unique(y, return_inverse=True)
        config = self._config()
        train, val = self._split(x, torch.from_numpy(at.astype(np.int64)), config)
        assert train.y is not None
        counts = tuple(torch.bincount(train.y, minlength=len(self.classes_)).tolist())
        length = max(x.shape[2], config.values["data"]["length"] or 0)
        self._train(config, Spec(x.shape[1], length, len(self.classes_), counts=counts), train, val, train.x)
        return self

    def predict_proba(self, X: Any) -> Array:
        """[N, classes] probabilities."""
        check_is_fitted(self)
        return self._answers(X, lambda series: self.pipeline_.predict(series).double().softmax(1)).numpy()

    def predict(self, X: Any) -> Array:
        """[N] labels."""
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]


class TokenEncoder(TransformerMixin, Fitted):
    """Features of time series, learnt without labels.

    Args:
        tokenizer: name, or the directory of a run whose trained part is mounted; patch if None
        encoder: likewise; transformer if None
        loss: what is learnt from
        features: pooled, tokens side by side, codes (the share of each) or counts (how often each occurs)
        pool: how pooled tokens become one vector: mean, max or cls
        epochs: passes over the data; enough for 1500 steps if None
        seed: of weights, masks and batches
        options: any other option of `tstk train`: loss__ratio=0.75, encoder__depth=2, steps=100

    Attributes:
        pipeline_: the trained pipeline
        history_: a row per epoch
    """

    _task = "unlabelled"
    _own = ("features", "pool")

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
        """Train on series; `y` is not looked at."""
        x = self._series(X, True)
        config = self._config()
        train, val = self._split(x, None, config)
        length = max(x.shape[2], config.values["data"]["length"] or 0)
        self._train(config, Spec(x.shape[1], length), train, val, train.x)
        return self

    def transform(self, X: Any) -> Array:
        """[N, W] a vector per series."""
        check_is_fitted(self)
        return self._answers(X, vectors(self.pipeline_, self.features, self.pool)).numpy()  # type: ignore[arg-type]


class SeriesForecaster(Fitted):
    """A forecaster of tables: rows are times, columns are channels.

    Args:
        context: rows that are seen before the first that is forecast
        horizon: rows to forecast
        tokenizer: name, or the directory of a run whose trained part is mounted; patch if None
        encoder: likewise; transformer if None
        epochs: passes over the data; enough for 1500 steps if None
        seed: of weights and batches
        options: any other option of `tstk train`: head="forecast", stride=4, encoder__depth=2, steps=100

    Attributes:
        pipeline_: the trained pipeline
        history_: a row per epoch
    """

    _task = "forecasting"
    _data = ("use", "val_fraction", "scale", "context", "horizon", "stride")

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
        """Train on a table X [T, C]; its last rows (val_fraction) choose the weights that are kept."""
        table, config = self._table(X, True), self._config()
        data = config.values["data"]
        rows, need = table.shape[1], self.context + self.horizon
        share = VAL_FRACTION if data["val_fraction"] is None else data["val_fraction"]
        cut = round(rows * (1 - share))
        if min(cut, rows - cut + self.context) < need:
            raise ValueError(
                f"n_samples = {rows}: context={self.context} and horizon={self.horizon} take {need} rows, in training "
                "and once more for validation; give more rows or shorten one of them"
            )
        train = Windows(table[:, :cut], self.context, self.horizon, data["stride"] or 1)
        val = Windows(table[:, cut - self.context :], self.context, self.horizon, data["stride"] or 1)
        spec = Spec(len(table), self.context, horizon=self.horizon)
        self._train(config, spec, train, val, table[None, :, :cut])
        self.table_ = table[:, -self.context :]
        return self

    def forecast(self, X: Any = None) -> Array:
        """[horizon, C] what follows the last row of X [T, C], or of the table in `fit`, in its units."""
        check_is_fitted(self)
        table = self.table_ if X is None else self._table(X, False)
        if table.shape[1] < self.context:
            raise ValueError(f"X has {table.shape[1]} rows; context={self.context} of them are needed")
        last = Windows(table[:, -self.context :], self.context, 0)
        return self._each(last, self.pipeline_.predict)[0, :, : self.horizon].T.numpy()

    def _table(self, X: Any, reset: bool) -> Tensor:
        """[C, T] float32."""
        X = validate_data(self, X, reset=reset, dtype=np.float32, ensure_all_finite="allow-nan", copy=True)
        return self._seen(torch.from_numpy(X.T.copy())[None])[0]
