"""Base classes of the estimators: parameters are options of `tstk train`, and the pipeline is trained on arrays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from tstk.config.resolve import Config, parse_overrides, resolve_config
from tstk.core.arrays import fill_masked
from tstk.core.frames import frames_to_array, is_frame
from tstk.core.pipeline import Pipeline
from tstk.core.prediction import predict_batches
from tstk.core.task import Prediction
from tstk.core.types import Spec, Split
from tstk.data.catalog import DEFAULT_VAL_FRACTION
from tstk.data.data_module import DataModule, compute_mean_std
from tstk.data.datasets import SeriesDataset
from tstk.data.lazy_array import LazyArray
from tstk.data.precision import compute_offset, subtract_offset, to_float32
from tstk.data.splits import stratified_split
from tstk.data.targets import get_strata
from tstk.errors import OptionError
from tstk.evaluation.evaluate import iter_batches
from tstk.evaluation.probabilities import calibrate
from tstk.nn.devices import default_device
from tstk.runs.build import validate_on_meta
from tstk.runs.checkpoint import initialize_for_training
from tstk.training.config import TrainConfig
from tstk.training.initialization import init_pipeline_from_data
from tstk.training.loop import fit
from tstk.training.lora import add_lora
from tstk.training.small_data import resolve_val_fraction

Array = NDArray[Any]
BATCH_SIZE = 256
FLOATS = [np.float64, np.float32]  # scikit-learn converts other types to the first


class OptionsEstimator(BaseEstimator):
    """Estimator with the parameters of its constructor plus any option of `tstk train`."""

    def _get_extra_options(self) -> dict[str, Any]:
        """Return the options that are not explicit constructor parameters."""
        return self.__dict__.setdefault("_options", {})

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor parameters and all other options that are set."""
        return {**{name: getattr(self, name) for name in self._get_param_names()}, **self._get_extra_options()}

    def set_params(self, **params: Any) -> OptionsEstimator:
        """Set parameters; any option of `tstk train` is accepted.

        Raises:
            OptionError: there is no option of this name
        """
        constructor_params, extra_options = self._get_param_names(), self._get_extra_options()
        for name, value in params.items():
            if name in constructor_params:
                setattr(self, name, value)
                continue
            if name not in extra_options:
                parse_overrides({name: value})
            extra_options[name] = value
        return self


class PipelineEstimator(OptionsEstimator):
    """Estimator that trains a pipeline on arrays."""

    _task: str | None
    """Name of the task; None for pretraining."""
    _own_params: tuple[str, ...] = ()
    """Parameters that are not options of `tstk train`."""
    _data_options: tuple[str, ...] = ("use", "val_fraction", "split_seed", "standardize", "length")
    """Data options that apply to arrays."""
    n_features_in_: int
    offset_: NDArray[np.float64] | None
    pipeline_: Pipeline

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "pipeline_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.three_d_array = True
        return tags

    def _build_config(self) -> Config:
        params = {k: v for k, v in self.get_params().items() if k not in self._own_params and v is not None}
        data = {"data": "arrays", "data__task": self._task}
        fixed = {"data": "arrays", "data__use": "arrays", "task": self._task, "data__task": self._task}
        for name, value in fixed.items():
            if params.get(name, value) != value:
                raise OptionError(f"{name}={params[name]!r} has no effect: arrays are given to fit; remove it")
        config = resolve_config(("argument", parse_overrides({**params, **data})))
        defaults = resolve_config(("default", parse_overrides(data)))
        for name, value in config.values["data"].items():
            if name not in self._data_options and value != defaults.values["data"][name]:
                raise OptionError(f"{name}={value!r} has no effect, as the data are arrays; remove it")
        validate_on_meta(config)
        return config

    def _fit_pipeline(
        self, config: Config, spec: Spec, train: Split, val: Split, scaling_samples: Tensor | LazyArray
    ) -> None:
        """Train as `tstk train` does; `scaling_samples` [N, C, T] determine the mean and standard deviation."""
        mean, std = compute_mean_std(scaling_samples)
        if config.values["data"]["standardize"] == "none":
            mean, std = torch.zeros_like(mean), torch.ones_like(std)
        names = tuple(str(c) for c in range(spec.channels))
        data = DataModule("arrays", (), spec, train, val, None, (), names, mean, std)
        train_config = TrainConfig.from_config(config)
        with torch.random.fork_rng():
            torch.manual_seed(train_config.seed)
            pipeline, self.notes_ = initialize_for_training(config, spec)
            pipeline.set_standardization(mean, std, train.y)
            pipeline.set_input_schema({"offset": self.offset_})
            self.notes_ += init_pipeline_from_data(pipeline, config, data)
            self.notes_ += add_lora(pipeline, config)
            result = fit(pipeline, data, train_config)
            if train_config.calibrate != "none" and (note := calibrate(pipeline, val).note):
                self.notes_.append(note)
        self.history_, self.pipeline_ = result.history, pipeline.cpu().eval()

    def _split_validation(self, x: Tensor, y: Tensor | None, config: Config) -> tuple[SeriesDataset, SeriesDataset]:
        """Split into training and validation series, stratified by class."""
        options = config.values["data"]
        labels = get_strata(y, len(x))
        val_fraction = options["val_fraction"]
        if val_fraction is None:
            has_classes = y is not None and y.ndim == 1
            val_fraction = resolve_val_fraction(config, len(x)) if has_classes or y is None else DEFAULT_VAL_FRACTION
        dataset = SeriesDataset(x, y)
        if not val_fraction:
            return dataset, dataset.select(torch.arange(0))
        rows = stratified_split(labels, val_fraction, options["split_seed"])
        if not len(rows[1]):
            raise ValueError(
                f"n_samples = {len(x)}: too few for a validation split; give at least two series of a class"
            )
        train, val = (dataset.select(torch.from_numpy(r)) for r in rows)
        return train, val

    def _validate_series(self, X: Any, reset: bool) -> Tensor:
        """Validate series and return them as [N, C, T] float32, NaN where missing or after the end.

        A list of data frames holds a series in each, with a row per time and a column per channel.
        """
        if isinstance(X, list | tuple) and len(X) and all(map(is_frame, X)):
            array = frames_to_array(X, () if reset else getattr(self, "channel_names_", ()))
            if reset:
                self.channel_names_ = tuple(map(str, X[0].columns))
            return self._pad_ragged(list(array), reset)
        if isinstance(X, list | tuple) and len(X) and all(getattr(series, "ndim", 0) == 2 for series in X):
            return self._pad_ragged([np.asarray(fill_masked(series), np.float64) for series in X], reset)
        X = fill_masked(X)
        if getattr(getattr(X, "dtype", None), "kind", "f") in "mM":
            raise ValueError(f"X holds {X.dtype}; expected numbers")
        X = validate_data(self, X, reset=reset, dtype=FLOATS, ensure_all_finite="allow-nan", allow_nd=True, copy=True)
        if X.ndim > 3:
            raise ValueError(f"X has shape {X.shape}; expected [series, samples] or [series, channels, samples]")
        return self._to_samples(X if X.ndim == 3 else X[:, None], reset)

    def _pad_ragged(self, X: list[Array], reset: bool) -> Tensor:
        """Return series [C, T_i] as [N, C, T], padded at the end with NaN."""
        counts = sorted({len(series) for series in X})
        if len(counts) > 1 or (not reset and counts != [self.n_features_in_]):
            expected = "the same number in all series" if reset else str(self.n_features_in_)
            raise ValueError(f"X has series of {' and '.join(map(str, counts))} channels; expected {expected}")
        if reset:
            self.n_features_in_ = counts[0]
        x = np.full((len(X), counts[0], max(series.shape[1] for series in X)), np.nan)
        for row, series in zip(x, X, strict=True):
            row[:, : series.shape[1]] = series
        return self._to_samples(x, reset)

    def _to_samples(self, X: Array, reset: bool) -> Tensor:
        """Return series [N, C, T] as float32, less the offset of those in `fit` if float32 cannot tell them apart."""
        samples, _ = to_float32(X)
        if reset:
            self.offset_ = None if self.get_params().get("standardize") == "none" else compute_offset(samples)
        x = torch.as_tensor(subtract_offset(samples, self.offset_))
        if x.isinf().any():
            raise ValueError("Input X contains infinity or a value too large for float32; a missing sample is NaN")
        empty = x.isnan().all(1).all(1).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"series {empty[0]} of X is entirely missing; remove it, or give it at least one sample")
        return x

    def _validate_new_series(self, X: Any) -> SeriesDataset:
        """Validate series that are to be predicted or transformed."""
        check_is_fitted(self)
        dataset, max_length = SeriesDataset(self._validate_series(X, False)), self.pipeline_.spec.length
        if int(dataset.lengths.max()) > max_length:
            raise ValueError(
                f"a series of X has {int(dataset.lengths.max())} samples, but the longest in fit had {max_length}; "
                "set length= to accept longer ones"
            )
        return dataset

    @contextmanager
    def _pipeline_on_device(self) -> Iterator[Pipeline]:
        """Move the pipeline to the training device, and back to the CPU afterwards."""
        requested = self._build_config().options("train")["device"]
        try:
            yield self.pipeline_.to("cpu" if requested == "cpu" else default_device())
        finally:
            self.pipeline_.cpu()

    def _predict(self, split: Split) -> Prediction:
        with self._pipeline_on_device() as pipeline:
            return predict_batches(pipeline, iter_batches(split, BATCH_SIZE, "cpu"))
