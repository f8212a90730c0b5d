"""Estimators for scikit-learn; parameters are the options of `tstk train`, with two underscores for a dot.

    from tstk.sklearn import SeriesClassifier
    SeriesClassifier(encoder="bert", encoder__depth=2, head="cot", epochs=20).fit(X, y).predict(X)

`fit` resolves a config from the parameters and trains as `tstk train` does, on arrays instead of files. All options of
training, pipeline and components are accepted; `fit` raises an error for invalid ones. Series are X [N, T], or
[N, C, T] with channels, or a list of [C, T_i] if lengths differ; NaN marks a missing sample. Data frames of pandas are
series too: a row each, or a list of frames or a MultiIndex of series and times, with a row per time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin, ClassNamePrefixFeaturesOutMixin, RegressorMixin, TransformerMixin
from sklearn.metrics import r2_score
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, column_or_1d, validate_data
from torch import Tensor

from tstk.config.records import RunConfig
from tstk.core.frames import is_pandas
from tstk.core.prediction import map_batches
from tstk.core.types import Spec
from tstk.data.catalog import DEFAULT_VAL_FRACTION
from tstk.data.containers import to_text
from tstk.data.datasets import Segment, SeriesDataset, WindowDataset
from tstk.data.frames import is_temporal
from tstk.errors import DataNoteWarning, warn_user
from tstk.estimators.base import BATCH_SIZE, FLOATS, Array, PipelineEstimator
from tstk.estimators.frames import check_alignment, check_columns, check_order, is_missing, split_panel
from tstk.evaluation.evaluate import iter_batches
from tstk.evaluation.features import feature_extractor
from tstk.inference.frames import continue_index, parse_index

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

    def fit(
        self,
        X: Any,
        y: Any,
        *,
        groups: Any = None,
        sample_weight: Any = None,
        validation: tuple[Any, Any] | None = None,
    ) -> SeriesClassifier:
        """Train on labelled series; a fraction (val_fraction), if not 0, is held out to select the best weights.

        Args:
            X: N series
            y: [N] labels
            groups: [N] names, such as persons; no group is both trained on and held out
            sample_weight: [N] by which the loss of each series is multiplied; their level does not matter
            validation: series and labels to select the weights by, instead of holding some out
        """
        check_alignment(X, y=y, groups=groups, sample_weight=sample_weight)
        x = self._validate_series(X, True)
        y = self._validate_labels(y, len(x))
        self.classes_, class_ids = np.unique(y, return_inverse=True)
        config = self._build_config()
        dataset = self._make_dataset(x, torch.from_numpy(class_ids.astype(np.int64)), sample_weight)
        held_out = None if validation is None else self._validate_validation(validation)
        train, val = self._split_validation(dataset, config, groups, held_out)
        assert train.y is not None
        counts = tuple(torch.bincount(train.y, minlength=len(self.classes_)).tolist())
        length = max(x.shape[2], config.values["data"]["length"] or 0, val.x.shape[2])
        self._fit_pipeline(
            config,
            Spec(x.shape[1], length, self._task, len(self.classes_), class_counts=counts),
            train,
            val,
            train.x,
            list(map(to_text, self.classes_)),
        )
        return self

    def _validate_labels(self, y: Any, count: int) -> Array:
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        y = column_or_1d(y, warn=True)
        if y.dtype == object and (unknown := [i for i, label in enumerate(y) if is_missing(label)]):
            raise ValueError(f"Input y contains NaN: series {unknown[0]} has no label; leave it out of X and y")
        check_classification_targets(y)
        if len(y) != count:
            raise ValueError(
                f"Found input variables with inconsistent numbers of samples: {count} series, {len(y)} labels; a label "
                "per sample is learned by tstk.fit(data=frame, task='segmentation')"
            )
        return y

    def _validate_validation(self, validation: tuple[Any, Any]) -> SeriesDataset:
        check_alignment(validation[0], y=validation[1])
        x = self._validate_series(validation[0], False)
        y = self._validate_labels(validation[1], len(x))
        if unknown := sorted(set(y.tolist()) - set(self.classes_.tolist()), key=str):
            raise ValueError(f"validation has class {unknown[0]!r}, which does not occur in y")
        return SeriesDataset(x, torch.from_numpy(np.searchsorted(self.classes_, y).astype(np.int64)))

    def _get_record(self) -> dict[str, Any]:
        return {**super()._get_record(), "classes": self.classes_.dtype.str}

    def _read_run(self, run_config: RunConfig) -> None:
        super()._read_run(run_config)
        dtype = np.dtype(run_config.input_schema.get("estimator", {}).get("classes", "<U"))
        names = list(self.pipeline_.classes)
        if dtype.kind == "b":
            self.classes_ = np.array([name == "True" for name in names])
        else:
            self.classes_ = np.array(names, object if dtype.kind == "O" else np.str_).astype(dtype)

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

    def fit(
        self,
        X: Any,
        y: Any,
        *,
        groups: Any = None,
        sample_weight: Any = None,
        validation: tuple[Any, Any] | None = None,
    ) -> SeriesRegressor:
        """Train on series and numbers; a fraction (val_fraction) is held out to select the best weights.

        Args:
            X: N series
            y: [N] or [N, K] numbers, NaN where unknown
            groups: [N] names, such as persons; no group is both trained on and held out
            sample_weight: [N] by which the loss of each series is multiplied; their level does not matter
            validation: series and numbers to select the weights by, instead of holding some out
        """
        check_alignment(X, y=y, groups=groups, sample_weight=sample_weight)
        x = self._validate_series(X, True)
        names = getattr(y, "columns", None) if getattr(y, "ndim", 1) == 2 else [getattr(y, "name", None)]
        targets, self._has_one_target = self._validate_targets(y, len(x))
        if bool(targets.isnan().all(0).any()):
            raise ValueError("Input y contains only NaN for a target; give at least one number for each")
        names = [None] * targets.shape[1] if names is None else names
        self._target_names = tuple(str(i if name is None else name) for i, name in enumerate(names))
        config = self._build_config()
        held_out = None
        if validation is not None:
            check_alignment(validation[0], y=validation[1])
            x_val = self._validate_series(validation[0], False)
            y_val, _ = self._validate_targets(validation[1], len(x_val))
            if y_val.shape[1] != targets.shape[1]:
                raise ValueError(f"validation has {y_val.shape[1]} targets, and y has {targets.shape[1]}")
            held_out = SeriesDataset(x_val, y_val)
        train, val = self._split_validation(self._make_dataset(x, targets, sample_weight), config, groups, held_out)
        length = max(x.shape[2], config.values["data"]["length"] or 0, val.x.shape[2])
        self._fit_pipeline(config, Spec(x.shape[1], length, self._task, targets.shape[1]), train, val, train.x)
        return self

    def _validate_targets(self, y: Any, count: int) -> tuple[Tensor, bool]:
        """Return targets [N, K] float64, and whether they were [N]."""
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        y = check_array(y, ensure_2d=False, dtype=np.float64, ensure_all_finite="allow-nan", input_name="y")
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if len(y) != count:
            raise ValueError(
                f"Found input variables with inconsistent numbers of samples: {count} series, {len(y)} targets"
            )
        return torch.tensor(y.reshape(len(y), -1)), y.ndim == 1

    def _get_record(self) -> dict[str, Any]:
        return {**super()._get_record(), "one_target": self._has_one_target}

    def _read_run(self, run_config: RunConfig) -> None:
        super()._read_run(run_config)
        self._target_names = self.pipeline_.target_names
        record = run_config.input_schema.get("estimator", {})
        self._has_one_target = bool(record.get("one_target", self.pipeline_.spec.num_outputs == 1))

    def predict(self, X: Any) -> Array:
        """Return the predicted numbers, [N] or [N, K] as `y` of `fit`."""
        values = self._predict(self._validate_new_series(X)).values
        assert values is not None
        return values[:, 0] if self._has_one_target else values


class TokenEncoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, PipelineEstimator):
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

    def fit(self, X: Any, y: Any = None, *, groups: Any = None, validation: Any = None) -> TokenEncoder:
        """Train on series; a fraction (val_fraction) is held out to select the best weights.

        Args:
            X: N series
            y: ignored
            groups: [N] names, such as persons; no group is both trained on and held out
            validation: series to select the weights by, instead of holding some out
        """
        check_alignment(X, groups=groups)
        x = self._validate_series(X, True)
        config = self._build_config()
        held_out = None if validation is None else SeriesDataset(self._validate_series(validation, False))
        train, val = self._split_validation(SeriesDataset(x), config, groups, held_out)
        length = max(x.shape[2], config.values["data"]["length"] or 0, val.x.shape[2])
        self._fit_pipeline(config, Spec(x.shape[1], length), train, val, train.x)
        return self

    def transform(self, X: Any) -> Array:
        """Return one feature vector per series, [N, W]; of a data frame with a MultiIndex, a frame with its ids."""
        features = self._extract(self._validate_new_series(X))
        if not (is_pandas(X) and X.index.nlevels > 1):
            return features
        import pandas

        return pandas.DataFrame(features, X.index.get_level_values(0).unique(), self.get_feature_names_out())

    def _extract(self, dataset: SeriesDataset) -> Array:
        batches = iter_batches(dataset, BATCH_SIZE, "cpu")
        extract = feature_extractor(self.pipeline_, self.features, self.pool)  # type: ignore[arg-type]
        with self._pipeline_on_device() as pipeline:
            return map_batches(pipeline, batches, extract).numpy()

    @property
    def _n_features_out(self) -> int:
        """Width of the features, which `get_feature_names_out` numbers."""
        spec = self.pipeline_.spec
        return self._extract(SeriesDataset(torch.zeros(1, spec.channels, spec.length))).shape[1]


class SeriesForecaster(PipelineEstimator):
    """Forecaster of a table, or of several series: rows are time steps, columns are channels.

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

    def fit(self, X: Any, y: Any = None, *, validation: Any = None) -> SeriesForecaster:
        """Train on a table, or on several series; the last rows of each (val_fraction) select the best weights.

        Args:
            X: [T, C], rows are times; a data frame of pandas may have dates as its index, or a MultiIndex of the names
                of series and times
            y: ignored
            validation: rows of another table, or other series, to select the weights by, instead of the last rows
        """
        (table, segments), config = self._validate_table(X, True), self._build_config()
        data = config.values["data"]
        stride, context, horizon = data["stride"] or 1, self.context, self.horizon
        val_fraction = DEFAULT_VAL_FRACTION if data["val_fraction"] is None else data["val_fraction"]
        if validation is not None and data["val_fraction"] is not None:
            raise ValueError(f"val_fraction={val_fraction} has no effect with validation, which is given; remove one")
        if validation is not None:
            train = WindowDataset(table, context, horizon, stride, segments=segments)
            val_table, val_segments = self._validate_table(validation, False)
            val = WindowDataset(val_table, context, horizon, stride, segments=val_segments)
        else:
            cuts = [round(segment.num_rows * (1 - val_fraction)) for segment in segments]
            train = _take_rows(table, segments, [(0, cut) for cut in cuts], context, horizon, stride)
            ends = [(max(cut - context, 0), segment.num_rows) for cut, segment in zip(cuts, segments, strict=True)]
            val = _take_rows(table, segments, ends, context, horizon, stride)
        if not (len(train) and len(val)):
            rows = max(segment.num_rows for segment in segments)
            raise ValueError(
                f"n_samples = {rows}: context={context} and horizon={horizon} take {context + horizon} rows, both in "
                "training and in validation; give more rows or shorten one of them"
            )
        for purpose, part in (("training", train), ("validation", val)):
            _warn_of_short_series(part, purpose)
        spec = Spec(len(table), context, self._task, horizon=horizon)
        self._fit_pipeline(config, spec, train, val, train.table[None])
        self._last_contexts = self._take_last_contexts(table, segments)
        self._frame: Any = X.iloc[:, :0] if is_pandas(X) else None
        self._columns: Any = X.columns if is_pandas(X) else None
        return self

    def predict(self, X: Any = None) -> Any:
        """Forecast the rows [horizon, C] that follow the last row of a table, or of each of several series.

        Args:
            X: [T, C], or a data frame as of `fit`; that of `fit` if None

        Returns:
            an array in the units of the data; of a data frame, one with its columns, whose index continues that of the
            frame, with the names of the series if there are several
        """
        check_is_fitted(self)
        if X is None and not hasattr(self, "_last_contexts"):
            raise ValueError("X is None, and an estimator that was loaded does not hold the table of fit; give X")
        if X is None:
            frame, columns, windows = self._frame, self._columns, self._last_contexts
        else:
            frame, columns = (X.iloc[:, :0], X.columns) if is_pandas(X) else (None, None)
            windows = self._take_last_contexts(*self._validate_table(X, False))
        forecast = self._predict(windows).forecast
        assert forecast is not None
        values = [series[:, : self._get_window()[1]].T for series in forecast]
        if frame is None:
            return values[0]
        import pandas

        if frame.index.nlevels == 1:
            return pandas.DataFrame(values[0], continue_index(frame, parse_index(frame), len(values[0])), columns)
        panel = {name: rows for name, rows in split_panel(frame).items() if len(rows) >= windows.context}
        parts = {
            name: pandas.DataFrame(series, continue_index(rows, parse_index(rows), len(series)), columns)
            for (name, rows), series in zip(panel.items(), values, strict=True)
        }
        return pandas.concat(parts, names=frame.index.names)

    def _take_last_contexts(self, table: Tensor, segments: list[Segment]) -> WindowDataset:
        """Return the last context of each series, but for those that are shorter, which a warning names."""
        context, _ = self._get_window()
        ends = [(max(segment.num_rows - context, 0), segment.num_rows) for segment in segments]
        windows = _take_rows(table, segments, ends, context, 0)
        if not len(windows):
            rows = max(segment.num_rows for segment in segments)
            raise ValueError(f"X has {rows} rows; expected at least context={context}")
        _warn_of_short_series(windows, "the forecast")
        return windows

    def _get_window(self) -> tuple[int, int]:
        """Return the context and the horizon that the pipeline was trained with, whatever the parameters are now."""
        spec = self.pipeline_.spec
        assert spec.horizon is not None
        return spec.length, spec.horizon

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return R2 of the forecasts from all windows of a table or of several series, as `GridSearchCV` maximizes.

        Args:
            X: [T, C], at least context + horizon rows, or a data frame as of `fit`
            y: ignored: the rows to forecast are in X
            sample_weight: refused

        Returns:
            1 is perfect, and 0 as good as the mean of the rows to forecast; the mean over channels
        """
        check_is_fitted(self)
        if sample_weight is not None:
            raise ValueError("sample_weight has no effect on the score of forecasts; leave it out")
        (context, horizon), (table, segments) = self._get_window(), self._validate_table(X, False)
        windows = WindowDataset(table, context, horizon, segments=segments)
        if not len(windows):
            rows = max(segment.num_rows for segment in segments)
            raise ValueError(
                f"X has {rows} rows; context={context} and horizon={horizon} take {context + horizon}: give "
                "more rows, such as by TimeSeriesSplit(test_size=...)"
            )
        _warn_of_short_series(windows, "the score")
        forecast = self._predict(windows).forecast
        assert forecast is not None
        targets = windows.batch(torch.arange(len(windows))).y
        assert targets is not None
        truth = self.pipeline_.add_offset(targets).numpy()
        pairs = [(truth[:, c].ravel(), forecast[:, c, :horizon].ravel()) for c in range(len(table))]
        known = [np.isfinite(values) for values, _ in pairs]
        return float(np.mean([r2_score(t[k], f[k]) for (t, f), k in zip(pairs, known, strict=True)]))

    def _read_run(self, run_config: RunConfig) -> None:
        super()._read_run(run_config)
        self.context, self.horizon = self.pipeline_.spec.length, self.pipeline_.spec.horizon or 0

    def _validate_table(self, X: Any, reset: bool) -> tuple[Tensor, list[Segment]]:
        """Validate a table X [T, C] or a frame of several series; return [C, T] float32 and its series."""
        counts: list[int] | None = None
        names: list[Any] = [None]
        if is_pandas(X) and X.index.nlevels > 1:
            import pandas

            series = split_panel(X)
            names, counts, X = list(series), [len(rows) for rows in series.values()], pandas.concat(series.values())
        elif is_pandas(X) and is_temporal(X.index):
            check_order(X.index, "X")
        if is_pandas(X):
            check_columns(X, "set_index makes times the index")
        X = validate_data(self, X, reset=reset, dtype=FLOATS, ensure_all_finite="allow-nan", copy=True)
        if reset:
            columns = getattr(self, "feature_names_in_", range(X.shape[1]))
            self.channel_names_ = tuple(map(str, columns))
        segments = [
            Segment(count, name=None if name is None else str(name))
            for count, name in zip([len(X)] if counts is None else counts, names, strict=True)
        ]
        return self._to_samples(X.T.copy()[None], reset)[0], segments


def _take_rows(
    table: Tensor,
    segments: list[Segment],
    ends: list[tuple[int, int]],
    context: int,
    horizon: int,
    stride: int = 1,
) -> WindowDataset:
    """Return the windows over rows of each series, from the first to before the last of `ends`."""
    series = table.split([segment.num_rows for segment in segments], 1)
    parts = [rows[:, start:stop] for rows, (start, stop) in zip(series, ends, strict=True)]
    taken = [Segment(stop - start, start, None, s.name) for s, (start, stop) in zip(segments, ends, strict=True)]
    return WindowDataset(torch.cat(parts, 1), context, horizon, stride, segments=taken)


def _warn_of_short_series(windows: WindowDataset, purpose: str) -> None:
    """Name the series that are left out, as they are shorter than a window."""
    length = windows.context + windows.horizon
    if short := [segment.name for segment in windows.segments if segment.num_rows < length]:
        names = ", ".join(map(str, short[:3])) + ", ..." * (len(short) > 3)
        count = f"{len(short)} of {len(windows.segments)} series"
        warn_user(f"{count} are left out of {purpose}, as they have fewer than {length} rows: {names}", DataNoteWarning)
