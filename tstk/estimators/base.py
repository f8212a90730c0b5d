"""What the estimators of `tstk.sklearn` share: parameters that are options of the command line, and a pipeline that is
fitted on arrays in place of files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from tstk.config.resolve import Config, chosen, resolve
from tstk.core.types import Series, Spec
from tstk.data.data_module import Dataset, statistics
from tstk.data.datasets import Labelled, Part
from tstk.data.lazy_array import Stored
from tstk.data.splits import stratified
from tstk.errors import OptionError
from tstk.evaluation.evaluate import in_order
from tstk.runs.build import rehearse
from tstk.runs.checkpoint import launch
from tstk.training.initialization import start
from tstk.training.loop import fit
from tstk.training.small_data import validation_share

Array = NDArray[Any]
BATCH = 256


class Options(BaseEstimator):
    """An estimator whose parameters are those of its constructor and any option of the command line."""

    def _further(self) -> dict[str, Any]:
        """Options beyond those that the constructor names."""
        return self.__dict__.setdefault("_options", {})

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """All options that were given or have a default here."""
        return {**{name: getattr(self, name) for name in self._get_param_names()}, **self._further()}

    def set_params(self, **params: Any) -> Options:
        """Change options, also ones that were not given before.

        Raises:
            OptionError: nothing has an option of this name
        """
        named, further = self._get_param_names(), self._further()
        for name, value in params.items():
            if name in named:
                setattr(self, name, value)
                continue
            if name not in further:
                chosen({name: value})
            further[name] = value
        return self


class Fitted(Options):
    """What the three estimators share: a pipeline, fitted on arrays."""

    _task: Literal["classification", "forecasting", "unlabelled"]
    _own: tuple[str, ...] = ()
    """Parameters that are no options of the command line."""
    _data: tuple[str, ...] = ("use", "val_fraction", "split_seed", "scale", "length")
    """Options of data that mean something where the data are arrays."""
    n_features_in_: int

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "pipeline_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.three_d_array = True
        return tags

    def _config(self) -> Config:
        given = {k: v for k, v in self.get_params().items() if k not in self._own and v is not None}
        config = resolve(("argument", chosen({**given, "data": "arrays"})))
        plain = resolve(("default", chosen({"data": "arrays"})))
        for name, value in config.values["data"].items():
            if name not in self._data and value != plain.values["data"][name]:
                raise OptionError(f"{name}={value!r} has no meaning here, as the data are arrays")
        rehearse(config)
        return config

    def _train(self, config: Config, spec: Spec, train: Part, val: Part, held: Tensor | Stored) -> None:
        """Train as `tstk train` does; `held` [N, C, T] are the samples that scale the data."""
        mean, std = statistics(held)
        if config.values["data"]["scale"] == "none":
            mean, std = torch.zeros_like(mean), torch.ones_like(std)
        names = tuple(str(c) for c in range(spec.channels))
        data = Dataset("arrays", (), self._task, spec, train, val, None, (), names, mean, std)
        options = config.options("train")
        with torch.random.fork_rng():
            torch.manual_seed(options["seed"])
            pipeline, self.notes_ = launch(config, spec)
            pipeline.mean.copy_(mean[:, None])
            pipeline.std.copy_(std[:, None])
            self.notes_ += start(pipeline, config, data)
            fitted = fit(pipeline, data, None, **options)
        self.history_, self.pipeline_ = fitted.history, pipeline.cpu().eval()

    def _split(self, x: Tensor, y: Tensor | None, config: Config) -> tuple[Labelled, Labelled]:
        """Training and validation series, class by class."""
        options = config.values["data"]
        keys = np.zeros(len(x), np.int64) if y is None else y.numpy()
        share = options["val_fraction"]
        if share is None:
            share = validation_share(config, len(x))
        whole = Labelled(x, y)
        if not share:
            return whole, whole.take(torch.arange(0))
        rows = stratified(keys, share, options["split_seed"])
        if not len(rows[1]):
            raise ValueError(
                f"n_samples = {len(x)}: too few to split off validation data; give two of a class at least"
            )
        train, val = (whole.take(torch.from_numpy(r)) for r in rows)
        return train, val

    def _series(self, X: Any, reset: bool) -> Tensor:
        """[N, C, T] float32, NaN where missing or beyond the end."""
        if isinstance(X, list | tuple) and len(X) and all(getattr(one, "ndim", 0) == 2 for one in X):
            return self._ragged([np.asarray(one, np.float32) for one in X], reset)
        X = validate_data(
            self, X, reset=reset, dtype=np.float32, ensure_all_finite="allow-nan", allow_nd=True, copy=True
        )
        if X.ndim > 3:
            raise ValueError(f"X has shape {X.shape}; expected [series, samples] or [series, channels, samples]")
        return self._seen(torch.from_numpy(X if X.ndim == 3 else X[:, None]))

    def _ragged(self, X: list[Array], reset: bool) -> Tensor:
        counts = sorted({len(one) for one in X})
        if len(counts) > 1 or (not reset and counts != [self.n_features_in_]):
            want = "the same in all series" if reset else str(self.n_features_in_)
            raise ValueError(f"X has series of {' and '.join(map(str, counts))} channels; expected {want}")
        if reset:
            self.n_features_in_ = counts[0]
        x = torch.full((len(X), counts[0], max(one.shape[1] for one in X)), torch.nan)
        for row, one in zip(x, X, strict=True):
            row[:, : one.shape[1]] = torch.from_numpy(one)
        if x.isinf().any():
            raise ValueError("Input X contains infinity; write a missing sample as NaN")
        return self._seen(x)

    def _seen(self, x: Tensor) -> Tensor:
        empty = x.isnan().all(1).all(1).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"series {empty[0]} of X is entirely missing; remove it, or give it at least one sample")
        return x

    def _answers(self, X: Any, answer: Callable[[Series], Tensor]) -> Tensor:
        """`answer` for every series, on the device that trained."""
        check_is_fitted(self)
        part, longest = Labelled(self._series(X, False)), self.pipeline_.spec.length
        if int(part.lengths.max()) > longest:
            raise ValueError(
                f"a series of X has {int(part.lengths.max())} samples, but the longest in fit had {longest}; "
                "fit with length= to take longer ones"
            )
        return self._each(part, answer)

    def _each(self, part: Part, answer: Callable[[Series], Tensor]) -> Tensor:
        wanted = self._config().options("train")["device"]
        device = "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"
        self.pipeline_.to(device)
        with torch.no_grad():
            rows = torch.cat([answer(series).cpu() for series in in_order(part, BATCH, device)])
        self.pipeline_.cpu()
        return rows
