"""Reference classifiers and forecasters as benchmark methods: `--method m=peer:minirocket`.

Classifiers are fitted on the whole training split as stored, including series that tstk would hold out for validation,
and predict the test split once. Forecasters are the forecasting baselines. Classifiers of aeon
(https://www.aeon-toolkit.org) are imported on first use: `pip install 'tstk-core[aeon]'`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.benchmarking.suite import CellRunner, ConfigFactory
from tstk.config.resolve import Config
from tstk.core.linear_map import get_last_value
from tstk.data.config import DataConfig
from tstk.data.data_module import DataModule
from tstk.data.datasets import WindowDataset
from tstk.data.load import load_data
from tstk.errors import DataError, OptionError, UnknownNameError, did_you_mean
from tstk.evaluation.baselines import Forecaster, estimate_period, score_forecaster, seasonal_naive
from tstk.evaluation.classification import accuracy_standard_error, classification_metrics
from tstk.evaluation.linear_forecast import fit_linear_map
from tstk.evaluation.simple_classifiers import (
    Classifier,
    LabelledArrays,
    NearestNeighbor,
    SummaryLogisticRegression,
    gather_labelled_arrays,
)
from tstk.plugins.distribution import format_install_command
from tstk.training.devices import limit_threads

PEER_PREFIX = "peer:"


@dataclass(frozen=True)
class PeerClassifier:
    """A reference classifier.

    Args:
        build: maps (seed, threads) to a classifier
        package: the distribution that provides it
    """

    build: Callable[[int, int], Classifier]
    package: str = "tstk-core"


class AeonClassifier:
    """A classifier of aeon with default options, fed with series that are imputed and padded to equal length.

    Args:
        path: "module:Class"
        seed: random state of the classifier
        threads: number of CPU threads
        min_length: shortest series that the classifier accepts
    """

    def __init__(self, path: str, seed: int, threads: int, min_length: int) -> None:
        module, _, name = path.partition(":")
        self.classifier = getattr(import_module(module), name)(random_state=seed, n_jobs=threads)
        self.min_length = min_length

    def fit(self, train: LabelledArrays) -> AeonClassifier:
        """Fit on labelled series."""
        self.classifier.fit(self._fill_and_pad(train), train.y.numpy())
        return self

    def predict(self, test: LabelledArrays) -> Tensor:
        """Predict the class index [N]."""
        return torch.as_tensor(self.classifier.predict(self._fill_and_pad(test)))

    def _fill_and_pad(self, data: LabelledArrays) -> Any:
        num_missing = max(0, self.min_length - data.x.shape[2])
        return F.pad(fill_forward(data), (0, num_missing), mode="replicate").float().numpy()

    def describe_preprocessing(self, data: LabelledArrays) -> list[str]:
        """Return one sentence per preprocessing step that changes these series."""
        sentences = []
        length = data.x.shape[2]
        if num_short := int((data.lengths < length).sum()):
            sentences.append(f"{num_short} series are shorter than {length} samples and padded with their last value")
        is_within_series = torch.arange(length) < data.lengths[:, None, None]
        if data.observed is not None and (num_gaps := int((is_within_series & ~data.observed).sum())):
            sentences.append(
                f"{num_gaps} missing values are filled with the last one observed before them, else the next"
            )
        if length < self.min_length:
            sentences.append(f"series of {length} samples are padded to {self.min_length} with their last value")
        return sentences


def fill_forward(data: LabelledArrays) -> Tensor:
    """Forward-fill missing samples [N, C, T]; leading ones take the first observed value, empty channels are 0."""
    if data.observed is None:
        return data.x
    time = torch.arange(data.x.shape[2])
    last_observed = torch.where(data.observed, time, -1).cummax(-1).values
    first_observed = data.observed.int().argmax(-1, keepdim=True)
    return data.x.gather(-1, torch.where(last_observed < 0, first_observed, last_observed))


def _make_aeon_peer(name: str, min_length: int) -> PeerClassifier:
    path = f"aeon.classification.convolution_based:{name}"
    return PeerClassifier(lambda seed, threads: AeonClassifier(path, seed, threads, min_length), "aeon")


PEER_CLASSIFIERS = {
    "1nn": PeerClassifier(lambda seed, threads: NearestNeighbor()),
    "logistic": PeerClassifier(lambda seed, threads: SummaryLogisticRegression()),
    "minirocket": _make_aeon_peer("MiniRocketClassifier", 9),
    "multirocket-hydra": _make_aeon_peer("MultiRocketHydraClassifier", 10),
}


def _build_seasonal_naive(data: DataModule) -> tuple[Forecaster, str]:
    assert isinstance(data.train, WindowDataset)
    period = estimate_period(data.train)
    return (lambda series: seasonal_naive(series, period)), f"the last {period} values"


def _fit_linear_map(data: DataModule) -> tuple[Forecaster, str]:
    assert isinstance(data.train, WindowDataset)
    assert isinstance(data.val, WindowDataset)
    if data.val is data.test:
        raise DataError(
            f"{data.name}: {PEER_PREFIX}linear selects its hyperparameters on the validation split, "
            "which is the test split here"
        )
    fit = fit_linear_map(data.train, data.val, data.std[:, None])
    return fit.forecaster, fit.description


PEER_FORECASTERS: dict[str, Callable[[DataModule], tuple[Forecaster, str]]] = {
    "last-value": lambda data: (get_last_value, ""),
    "season": _build_seasonal_naive,
    "linear": _fit_linear_map,
}
"""Name -> function that fits a forecaster on a data module and returns it with a description of what it selected."""


def make_peer_runner(name: str, build_config: ConfigFactory) -> CellRunner:
    """Return a runner that fits and scores a peer.

    Args:
        name: a key of `PEER_CLASSIFIERS` or `PEER_FORECASTERS`
        build_config: returns a config, of which the data options and the number of threads are used

    Raises:
        UnknownNameError: there is no such peer
        OptionError: its package is not installed, or an option does not apply to peers
    """
    if name not in (names := (*PEER_CLASSIFIERS, *PEER_FORECASTERS)):
        raise UnknownNameError(f"No peer is called {name!r}.{did_you_mean(name, names)} There are: {', '.join(names)}.")
    if name in PEER_FORECASTERS:
        _refuse_options(build_config("har-demo", 0, {}))
        return _make_forecaster_runner(name, build_config)
    peer = PEER_CLASSIFIERS[name]
    if peer.package == "aeon" and find_spec("aeon") is None:
        raise OptionError(f"{PEER_PREFIX}{name} needs aeon: {format_install_command('aeon')}")
    _refuse_options(build_config("har-demo", 0, {}))

    def run(data: str, seed: int, folder: Path, fold_options: Mapping[str, int]) -> dict[str, Any]:
        config = build_config(data, seed, fold_options)
        dataset = load_data(data, DataConfig.from_config(config))
        if not dataset.has_classes or dataset.test is None or dataset.test.y is None:
            raise DataError(f"{dataset.name}: a peer needs series with classes, and a training and a test split")
        train = gather_labelled_arrays(dataset.training_splits, dataset.spec.length)
        test = gather_labelled_arrays([dataset.test], dataset.spec.length)
        with limit_threads(config.options("train")["threads"]):
            classifier = peer.build(seed, torch.get_num_threads())
            start = time.perf_counter()
            classifier.fit(train)
            fitted = time.perf_counter()
            predicted = classifier.predict(test)
            end = time.perf_counter()
        folder.mkdir(parents=True, exist_ok=True)
        return {
            "scores": classification_metrics(test.y, predicted)
            | {"accuracy_se": accuracy_standard_error(test.y, predicted, dataset.test.groups)},
            "by": "peer",
            "package": f"{peer.package} {version(peer.package)}",
            "fit_seconds": round(fitted - start, 3),
            "predict_seconds": round(end - fitted, 3),
            "notes": [
                f"{part}: {sentence}"
                for part, arrays in (("train", train), ("test", test))
                if isinstance(classifier, AeonClassifier)
                for sentence in classifier.describe_preprocessing(arrays)
            ],
        }

    return run


def _make_forecaster_runner(name: str, build_config: ConfigFactory) -> CellRunner:
    """Return a runner that fits and scores a forecaster of `PEER_FORECASTERS`."""

    def run(data: str, seed: int, folder: Path, fold_options: Mapping[str, int]) -> dict[str, Any]:
        config = build_config(data, seed, fold_options)
        dataset = load_data(data, DataConfig.from_config(config))
        if dataset.spec.horizon is None or dataset.test is None:
            raise DataError(f"{dataset.name}: {PEER_PREFIX}{name} forecasts, and this is not a table with a test split")
        with limit_threads(config.options("train")["threads"]):
            start = time.perf_counter()
            forecaster, description = PEER_FORECASTERS[name](dataset)
            fitted = time.perf_counter()
            scores = score_forecaster(
                forecaster, dataset.test, dataset.mean[:, None], dataset.std[:, None], offset=dataset.offset
            )
            end = time.perf_counter()
        folder.mkdir(parents=True, exist_ok=True)
        return {
            "scores": scores,
            "by": "peer",
            "fit_seconds": round(fitted - start, 3),
            "predict_seconds": round(end - fitted, 3),
            "notes": [description] if description else [],
        }

    return run


def _refuse_options(config: Config) -> None:
    """Raise if the command line or a config file has options that do not apply to peers."""
    keys = [key for key, source in config.sources.items() if source != "default"]
    unsupported = [key for key in keys if not key.startswith("data.") and key not in ("train.threads", "train.seed")]
    if config.options("train")["device"] in ("auto", "cpu"):
        unsupported = [key for key in unsupported if key != "train.device"]
    if unsupported:
        names = ", ".join("--" + key.removeprefix("train.").replace("_", "-") for key in unsupported)
        raise OptionError(
            f"{names}: does not apply to peers, which take data options and --threads; "
            "restrict it to the methods that are trained"
        )
