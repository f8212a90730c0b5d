"""Classifiers and forecasters that this toolkit does not train, as methods of a bench: `--method m=peer:minirocket`.

A classifier learns from the training part as the files have it, validation series included, and predicts the test part
once. A forecaster is one of the baselines of forecasts.
Those of aeon (https://www.aeon-toolkit.org) are imported when they are built: `pip install 'tstk-core[aeon]'`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.benchmarking.suite import Run
from tstk.config.resolve import Config
from tstk.data.data_module import Dataset
from tstk.data.datasets import Windows
from tstk.data.load import load
from tstk.errors import DataError, NameUnknown, OptionError, did_you_mean
from tstk.evaluation.baselines import Answer, forecast_errors, last_season, period
from tstk.evaluation.evaluate import classified, standard_error
from tstk.evaluation.linear_forecast import fit_linear_map
from tstk.evaluation.simple_classifiers import (
    Classifier,
    LabelledArrays,
    NearestNeighbor,
    SummaryLogistic,
    labelled_arrays,
)
from tstk.nn.linear_map import last_value
from tstk.plugins.distribution import install_command
from tstk.training.devices import threads as cpu_threads

PREFIX = "peer:"


@dataclass(frozen=True)
class Peer:
    """A classifier to compare with.

    Args:
        build: (seed, threads) -> the classifier
        package: the distribution that it comes from
    """

    build: Callable[[int, int], Classifier]
    package: str = "tstk-core"


class AeonPeer:
    """A classifier of aeon with its default options; its series are made complete and equally long first.

    Args:
        path: "module:Class"
        seed: of its random kernels
        threads: of the CPU
        min_length: samples that it needs at least
    """

    def __init__(self, path: str, seed: int, threads: int, min_length: int) -> None:
        module, _, name = path.partition(":")
        self.classifier = getattr(import_module(module), name)(random_state=seed, n_jobs=threads)
        self.min_length = min_length

    def fit(self, train: LabelledArrays) -> AeonPeer:
        """Learn from series with their classes."""
        self.classifier.fit(self._complete(train), train.y.numpy())
        return self

    def predict(self, test: LabelledArrays) -> Tensor:
        """[N] class index."""
        return torch.as_tensor(self.classifier.predict(self._complete(test)))

    def _complete(self, data: LabelledArrays) -> Any:
        short = max(0, self.min_length - data.x.shape[2])
        return F.pad(fill_forward(data), (0, short), mode="replicate").float().numpy()

    def changes(self, data: LabelledArrays) -> list[str]:
        """Say what is done to series before this classifier sees them, a sentence each."""
        sentences = []
        length = data.x.shape[2]
        if shorter := int((data.lengths < length).sum()):
            sentences.append(f"{shorter} series are shorter than {length} samples and padded with their last value")
        within = torch.arange(length) < data.lengths[:, None, None]
        if data.observed is not None and (gaps := int((within & ~data.observed).sum())):
            sentences.append(f"{gaps} missing values are filled with the last one observed before them, else the next")
        if length < self.min_length:
            sentences.append(f"series of {length} samples are padded to {self.min_length} with their last value")
        return sentences


def fill_forward(data: LabelledArrays) -> Tensor:
    """[N, C, T] with the last observed value in place of each unobserved one; before the first, the first; else 0."""
    if data.observed is None:
        return data.x
    steps = torch.arange(data.x.shape[2])
    last = torch.where(data.observed, steps, -1).cummax(-1).values
    first = data.observed.int().argmax(-1, keepdim=True)
    return data.x.gather(-1, torch.where(last < 0, first, last))


def _aeon(name: str, min_length: int) -> Peer:
    path = f"aeon.classification.convolution_based:{name}"
    return Peer(lambda seed, threads: AeonPeer(path, seed, threads, min_length), "aeon")


PEERS = {
    "1nn": Peer(lambda seed, threads: NearestNeighbor()),
    "logistic": Peer(lambda seed, threads: SummaryLogistic()),
    "minirocket": _aeon("MiniRocketClassifier", 9),
    "multirocket-hydra": _aeon("MultiRocketHydraClassifier", 10),
}


def _seasonal(data: Dataset) -> tuple[Answer, str]:
    assert isinstance(data.train, Windows)
    lag = period(data.train)
    return (lambda series: last_season(series, lag)), f"the last {lag} values"


def _linear(data: Dataset) -> tuple[Answer, str]:
    assert isinstance(data.train, Windows)
    assert isinstance(data.val, Windows)
    if data.val is data.test:
        raise DataError(f"{data.name}: {PREFIX}linear is chosen by the validation part, which is the test part here")
    fit = fit_linear_map(data.train, data.val, data.std[:, None])
    return fit.forecaster, fit.choice


FORECASTERS: dict[str, Callable[[Dataset], tuple[Answer, str]]] = {
    "last-value": lambda data: (last_value, ""),
    "season": _seasonal,
    "linear": _linear,
}
"""By name: a function of the data that returns a forecaster, and in words what was chosen for it."""


def by_peer(name: str, make: Callable[[str, int], Config]) -> Run:
    """A method that is a peer.

    Args:
        name: of `PEERS` or `FORECASTERS`
        make: (data, seed) -> config, of which the options of the data and the number of threads hold

    Raises:
        NameUnknown: there is no such peer
        OptionError: its package is not installed, or an option has no meaning for a peer
    """
    if name not in (names := (*PEERS, *FORECASTERS)):
        raise NameUnknown(f"No peer is called {name!r}.{did_you_mean(name, names)} There are: {', '.join(names)}.")
    if name in FORECASTERS:
        _refuse_options(make("har-demo", 0))
        return _forecasting(name, make)
    peer = PEERS[name]
    if peer.package == "aeon" and find_spec("aeon") is None:
        raise OptionError(f"{PREFIX}{name} needs aeon: {install_command('aeon')}")
    _refuse_options(make("har-demo", 0))

    def run(data: str, seed: int, folder: Path) -> dict[str, Any]:
        config = make(data, seed)
        held = load(data, **config.options("data"))
        if held.task != "classification" or held.test is None or held.test.y is None:
            raise DataError(f"{held.name}: a peer needs labelled series with a training and a test part")
        train = labelled_arrays(held.training_parts, held.spec.length)
        test = labelled_arrays([held.test], held.spec.length)
        with cpu_threads(config.options("train")["threads"]):
            classifier = peer.build(seed, torch.get_num_threads())
            begin = time.perf_counter()
            classifier.fit(train)
            fitted = time.perf_counter()
            predicted = classifier.predict(test)
            end = time.perf_counter()
        folder.mkdir(parents=True, exist_ok=True)
        return {
            "scores": classified(test.y, predicted)
            | {"accuracy_se": standard_error(test.y, predicted, held.test.groups)},
            "by": "peer",
            "package": f"{peer.package} {version(peer.package)}",
            "fit_seconds": round(fitted - begin, 3),
            "predict_seconds": round(end - fitted, 3),
            "notes": [
                f"{part}: {sentence}"
                for part, arrays in (("train", train), ("test", test))
                if isinstance(classifier, AeonPeer)
                for sentence in classifier.changes(arrays)
            ],
        }

    return run


def _forecasting(name: str, make: Callable[[str, int], Config]) -> Run:
    """A method that is a forecaster."""

    def run(data: str, seed: int, folder: Path) -> dict[str, Any]:
        config = make(data, seed)
        held = load(data, **config.options("data"))
        if held.task != "forecasting" or held.test is None:
            raise DataError(f"{held.name}: {PREFIX}{name} forecasts, and these are not tables with a test part")
        with cpu_threads(config.options("train")["threads"]):
            begin = time.perf_counter()
            answer, choice = FORECASTERS[name](held)
            fitted = time.perf_counter()
            scores = forecast_errors(answer, held.test, held.mean[:, None], held.std[:, None])
            end = time.perf_counter()
        folder.mkdir(parents=True, exist_ok=True)
        return {
            "scores": scores,
            "by": "peer",
            "fit_seconds": round(fitted - begin, 3),
            "predict_seconds": round(end - fitted, 3),
            "notes": [choice] if choice else [],
        }

    return run


def _refuse_options(config: Config) -> None:
    """Refuse what was typed and has no meaning for a peer."""
    typed = [key for key, source in config.sources.items() if source == "flag"]
    kept = [key for key in typed if not key.startswith("data.") and key not in ("train.threads", "train.seed")]
    if config.options("train")["device"] in ("auto", "cpu"):
        kept = [key for key in kept if key != "train.device"]
    if kept:
        names = ", ".join("--" + key.removeprefix("train.").replace("_", "-") for key in kept)
        raise OptionError(
            f"{names}: has no meaning for a peer, which takes options of the data and --threads; "
            "give it to the methods that train"
        )
