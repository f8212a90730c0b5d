"""Base classes of the estimators: parameters are options of `tstk train`, and the pipeline is trained on arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor

from tstk.config.records import RunConfig, RunResult, read_history
from tstk.config.resolve import Config, parse_overrides, resolve_config
from tstk.config.run_directory import CONFIG_FILE, WEIGHTS_FILE
from tstk.core.arrays import fill_masked
from tstk.core.frames import frames_to_array, is_frame, is_pandas
from tstk.core.pipeline import Pipeline
from tstk.core.prediction import predict_batches
from tstk.core.task import Prediction
from tstk.core.types import Spec, Split
from tstk.data.catalog import ARRAYS, DEFAULT_VAL_FRACTION
from tstk.data.data_module import DataModule, compute_mean_std
from tstk.data.datasets import SeriesDataset
from tstk.data.lazy_array import LazyArray
from tstk.data.precision import compute_offset, subtract_offset, to_float32
from tstk.data.splits import group_split, stratified_split
from tstk.data.targets import get_strata
from tstk.errors import OptionError
from tstk.estimators.frames import check_columns, split_panel
from tstk.estimators.runs import FitRecord, list_params, save_run
from tstk.evaluation.evaluate import iter_batches
from tstk.evaluation.probabilities import calibrate
from tstk.files import write_bytes
from tstk.nn.devices import default_device
from tstk.runs import checkpoint
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
    channel_names_: tuple[str, ...]
    _target_names: tuple[str, ...] = ()
    history_: list[dict[str, Any]]
    _config: Config
    _schema: dict[str, Any]
    _fit_record: FitRecord
    offset_: NDArray[np.float64] | None
    pipeline_: Pipeline

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "pipeline_")

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes, with the pipeline as the files of a run, for pickle and skops."""
        state = dict(super().__getstate__())
        if state.pop("pipeline_", None) is not None:
            with TemporaryDirectory() as folder:
                self.save(Path(folder, "run"))
                files = (CONFIG_FILE, WEIGHTS_FILE)
                state["_run"] = {name: Path(folder, "run", name).read_bytes() for name in files}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({name: value for name, value in state.items() if name != "_run"})
        if "_run" in state:
            classes = {slot: value for slot, value in self.get_params().items() if isinstance(value, type)}
            with TemporaryDirectory() as folder:
                for name, content in state["_run"].items():
                    write_bytes(Path(folder, Path(name).name), content)
                self.pipeline_ = checkpoint.load(folder, **classes)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.three_d_array = True
        return tags

    def _build_config(self) -> Config:
        params = {k: v for k, v in self.get_params().items() if k not in self._own_params and v is not None}
        data = {"data": ARRAYS, "data__task": self._task}
        fixed = {"data": ARRAYS, "data__use": ARRAYS, "task": self._task, "data__task": self._task}
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

    def save(self, run_dir: str | Path) -> None:
        """Write the fitted estimator as a run, which every command reads, and `load` of this class.

        Args:
            run_dir: a new directory

        Raises:
            OptionError: it exists and is not empty
        """
        check_is_fitted(self)
        schema = {**self._schema, "estimator": {"class": type(self).__name__, **self._get_record()}}
        save_run(run_dir, self._config, self.pipeline_, schema, self.history_, self._fit_record)

    @classmethod
    def load(cls, run_dir: str | Path, **components: type | str) -> Self:
        """Return a run as a fitted estimator: one that was saved, or that of `tstk train` for the same task.

        Args:
            run_dir: of the run
            components: the classes of components that belong to no plugin, as for `tstk.load`

        Raises:
            CheckpointError: the run is damaged, or not there
            OptionError: it was trained for another task
        """
        pipeline, run_config = checkpoint.load(run_dir, **components), RunConfig.read(run_dir)
        task = run_config.input_schema["task"]
        if task != cls._task:
            expected = cls._task or "pretraining"
            raise OptionError(
                f"{run_dir} was trained for {task or 'pretraining'}, and {cls.__name__} is for {expected}"
            )
        estimator = cls()
        estimator.set_params(**list_params(run_config, cls._data_options))
        estimator.pipeline_, estimator.offset_ = pipeline, None if pipeline.offset is None else pipeline.offset.numpy()
        estimator._read_run(run_config)
        return estimator

    def _get_record(self) -> dict[str, Any]:
        """Return what a run stores of the estimator beside its pipeline, as JSON types."""
        names = getattr(self, "feature_names_in_", None)
        own_params = {name: getattr(self, name) for name in self._own_params}
        return {
            "features": self.n_features_in_,
            "feature_names": None if names is None else list(names),
            "params": own_params,
        }

    def _read_run(self, run_config: RunConfig) -> None:
        """Set the attributes that `fit` sets, beside the pipeline."""
        schema, self._config = run_config.input_schema, Config(run_config.given, run_config.sources)
        self._schema = {name: value for name, value in schema.items() if name != "estimator"}
        self.history_, result = read_history(run_config.run_dir), RunResult.read(run_config.run_dir)
        self._fit_record = FitRecord(result.selected.epoch, result.val, result.trainable, result.training_seconds)
        self.notes_: list[str] = []
        record = schema.get("estimator", {})
        channels, length = self.pipeline_.spec.channels, self.pipeline_.spec.length
        one_channel = length if self.pipeline_.spec.horizon is None else 1
        self.n_features_in_ = record.get("features", channels if channels > 1 else one_channel)
        if record.get("feature_names"):
            self.feature_names_in_ = np.array(record["feature_names"], object)
        if self.pipeline_.channel_names != tuple(map(str, range(channels))):
            self.channel_names_ = self.pipeline_.channel_names
        for name, value in record.get("params", {}).items():
            if name in self._own_params:
                setattr(self, name, value)

    def _fit_pipeline(
        self,
        config: Config,
        spec: Spec,
        train: Split,
        val: Split,
        scaling_samples: Tensor | LazyArray,
        classes: Sequence[str] = (),
    ) -> None:
        """Train as `tstk train` does; `scaling_samples` [N, C, T] determine the mean and standard deviation."""
        mean, std = compute_mean_std(scaling_samples)
        if config.values["data"]["standardize"] == "none":
            mean, std = torch.zeros_like(mean), torch.ones_like(std)
        names = getattr(self, "channel_names_", tuple(str(c) for c in range(spec.channels)))
        data = DataModule(
            *(ARRAYS, (), spec, train, val, None, tuple(classes), names, mean, std),
            offset=self.offset_,
            target_names=self._target_names,
        )
        train_config = TrainConfig.from_config(config)
        with torch.random.fork_rng():
            torch.manual_seed(train_config.seed)
            pipeline, self.notes_ = initialize_for_training(config, spec)
            _check_weights(pipeline, train, train_config)
            pipeline.set_standardization(mean, std, train.y)
            pipeline.set_input_schema(data.input_schema())
            self.notes_ += init_pipeline_from_data(pipeline, config, data)
            self.notes_ += add_lora(pipeline, config)
            result = fit(pipeline, data, train_config)
            if train_config.calibrate != "none" and (note := calibrate(pipeline, val).note):
                self.notes_.append(note)
        self._config, self._schema, best = config, data.input_schema(), result.best_metrics
        self._fit_record = FitRecord(best["epoch"], best.get("val", {}), result.trainable, round(result.seconds, 2))
        self.history_, self.pipeline_ = result.history, pipeline.cpu().eval()

    def _split_validation(
        self,
        dataset: SeriesDataset,
        config: Config,
        groups: Any = None,
        validation: SeriesDataset | None = None,
    ) -> tuple[SeriesDataset, SeriesDataset]:
        """Return training and validation series: those given, or some held out by class or by group."""
        options, count = config.values["data"], len(dataset)
        val_fraction = options["val_fraction"]
        if validation is not None:
            if val_fraction is not None or groups is not None:
                given = "groups" if val_fraction is None else f"val_fraction={val_fraction}"
                raise ValueError(f"{given} has no effect with validation=(X, y), as nothing is held out; remove one")
            return dataset, validation
        if groups is not None:
            if len(groups) != count:
                raise ValueError(f"{len(groups)} groups for {count} series; give one for each")
            dataset.groups = list(map(str, groups))
            if val_fraction == 0 or len(set(dataset.groups)) < 2:
                reason = "val_fraction=0 holds nothing out" if val_fraction == 0 else "there is only one"
                raise ValueError(f"groups has no effect: {reason}; leave it out")
            val_fraction = val_fraction or DEFAULT_VAL_FRACTION
        elif val_fraction is None:
            has_classes = dataset.y is not None and dataset.y.ndim == 1
            is_default = has_classes or dataset.y is None
            val_fraction = resolve_val_fraction(config, count) if is_default else DEFAULT_VAL_FRACTION
        if not val_fraction:
            return dataset, dataset.select(torch.arange(0))
        strata, seed = get_strata(dataset.y, count), options["split_seed"]
        if dataset.groups is None:
            rows = stratified_split(strata, val_fraction, seed)
        else:
            rows = group_split(strata, dataset.groups, val_fraction, seed)
        if not len(rows[1]):
            raise ValueError(
                f"n_samples = {count}: too few for a validation split; give at least two series of a class"
            )
        train, val = (dataset.select(torch.from_numpy(r)) for r in rows)
        return train, val

    def _make_dataset(self, x: Tensor, y: Tensor | None, sample_weight: Any = None) -> SeriesDataset:
        """Return series with their weights, which are 1 on average."""
        if sample_weight is None:
            return SeriesDataset(x, y)
        weight = _check_sample_weight(sample_weight, x, dtype=np.float64, ensure_non_negative=True)
        return SeriesDataset(x, y, weight=torch.from_numpy(weight / weight.mean()).float())

    def _validate_series(self, X: Any, reset: bool) -> Tensor:
        """Validate series and return them as [N, C, T] float32, NaN where missing or after the end.

        A list of data frames holds a series in each, with a row per time and a column per channel; so does a data frame
        of pandas whose index has two levels, a series and a time.
        """
        if is_pandas(X) and X.index.nlevels > 1:
            X = list(split_panel(X).values())
        if isinstance(X, list | tuple) and len(X) and all(map(is_frame, X)):
            array = frames_to_array(X, () if reset else getattr(self, "channel_names_", ()))
            if reset:
                self.channel_names_ = tuple(map(str, X[0].columns))
            return self._pad_ragged(list(array), reset)
        if isinstance(X, list | tuple) and len(X) and all(getattr(series, "ndim", 0) == 2 for series in X):
            return self._pad_ragged([np.asarray(fill_masked(series), np.float64) for series in X], reset)
        if is_pandas(X):
            check_columns(X, "make it the index of the series", warn=reset)
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
        requested = self.get_params().get("device", "auto")
        try:
            yield self.pipeline_.to("cpu" if requested == "cpu" else default_device())
        finally:
            self.pipeline_.cpu()

    def _predict(self, split: Split) -> Prediction:
        with self._pipeline_on_device() as pipeline:
            return predict_batches(pipeline, iter_batches(split, BATCH_SIZE, "cpu"))


def _check_weights(pipeline: Pipeline, train: Split, config: TrainConfig) -> None:
    """Refuse weights of series that the loss, or mixup, does not use."""
    if getattr(train, "weight", None) is None:
        return
    if not pipeline.loss.weights_series:
        raise OptionError(
            f"sample_weight has no effect on {pipeline.loss.display_name()}; cross-entropy, mse, mae and huber weight "
            "series"
        )
    if config.mixup:
        raise OptionError(f"mixup={config.mixup} mixes series, which then have no sample_weight; leave one out")
