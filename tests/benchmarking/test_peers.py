"""Peers of a bench: their training data, the preparation of series, and refusals."""

import sys
from functools import partial
from types import ModuleType

import numpy as np
import pytest
import torch

from tstk.benchmarking import peers
from tstk.benchmarking.peers import PEER_FORECASTERS, AeonClassifier, fill_forward, make_peer_runner
from tstk.benchmarking.suite import Method, run_benchmark
from tstk.config.records import read_record
from tstk.config.resolve import parse_overrides, resolve_config
from tstk.data.config import DataConfig
from tstk.data.datasets import SeriesDataset
from tstk.data.load import load_data
from tstk.errors import DataError
from tstk.evaluation.baselines import score_forecast_baselines
from tstk.evaluation.simple_classifiers import gather_labelled_arrays


def ragged_part():
    x = torch.arange(24.0).reshape(2, 2, 6)
    x[0, 0, 0], x[0, 0, 3], x[1, 1], x[1, 0, 4:] = torch.nan, torch.nan, torch.nan, torch.nan
    return gather_labelled_arrays([SeriesDataset(x, torch.tensor([0, 1]))], 6)


def test_unobserved_samples_take_the_last_value_observed_before_them_else_the_next():
    nan = np.nan
    rows = [[nan, 1, 2, nan, 4, 5], [6, 7, 8, 9, 10, 11], [12, 13, 14, 15, nan, nan], [nan] * 6]
    expected = []
    for row in rows:
        filled, last = [], next((v for v in row if np.isfinite(v)), 0.0)
        for value in row:
            last = value if np.isfinite(value) else last
            filled.append(last)
        expected.append(filled)
    assert fill_forward(ragged_part()).flatten(0, 1).tolist() == expected


@pytest.fixture
def recording(monkeypatch):
    """The import path of a classifier that records its inputs, and the record."""
    kept = {}

    class Recording:
        def __init__(self, **options):
            kept["options"] = options

        def fit(self, x, y):
            kept["x"], kept["y"] = x, y

        def predict(self, x):
            return np.zeros(len(x), int)

    module = ModuleType("recording_classifier")
    module.Recording = Recording
    monkeypatch.setitem(sys.modules, "recording_classifier", module)
    return "recording_classifier:Recording", kept


def test_a_classifier_of_aeon_gets_complete_series_the_seed_and_the_threads_and_says_what_was_changed(recording):
    path, kept = recording
    data = ragged_part()
    peer = AeonClassifier(path, 7, 2, min_length=9).fit(data)
    assert kept["options"] == {"random_state": 7, "n_jobs": 2}
    assert kept["x"].shape == (2, 2, 9)
    assert kept["x"].dtype == np.float32
    assert np.isfinite(kept["x"]).all()
    assert kept["x"][0, 1].tolist() == [6, 7, 8, 9, 10, 11, 11, 11, 11]
    assert peer.predict(data).tolist() == [0, 0]
    assert peer.describe_preprocessing(data) == [
        "1 series are shorter than 6 samples and padded with their last value",
        "6 missing values are filled with the last one observed before them, else the next",
        "series of 6 samples are padded to 9 with their last value",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["minirocket", "multirocket-hydra"])
def test_the_classifiers_of_aeon_take_the_embedded_set(tstk_config, tmp_path, name):
    pytest.importorskip("aeon", reason="pip install 'tstk-core[aeon]'")
    result = make_peer_runner(name, tstk_config)("har-demo", 0, tmp_path / "cell", {})
    assert result["scores"]["accuracy"] > 0.8
    assert result["package"].startswith("aeon ")


@pytest.fixture
def tstk_config():
    from tstk.config.resolve import parse_overrides, resolve_config

    return lambda data, seed, fold_options, **more: resolve_config(
        ("argument", parse_overrides({"data": data, "seed": seed, "threads": 1, **fold_options, **more}))
    )


def test_a_peer_learns_from_the_whole_training_part_and_a_finished_cell_is_kept(tstk_config, tmp_path, monkeypatch):
    method = Method("peer:1nn", make_peer_runner("1nn", tstk_config))
    result = run_benchmark({"near": method}, {"har-demo": "har-demo"}, (0,), tmp_path / "out")
    (cell,) = result.cells
    assert round(cell.result["scores"]["accuracy"], 4) == 0.4537
    assert cell.result.keys() >= {"fit_seconds", "predict_seconds", "notes", "package"}
    assert read_record(cell.run_dir / "score.json") == cell.result
    monkeypatch.setattr(peers, "load_data", None)  # would be called to run it again
    assert run_benchmark({"near": method}, {"har-demo": "har-demo"}, (0,), tmp_path / "out").cells == result.cells


def test_a_peer_refuses_a_table_to_forecast(tstk_config, csv, tmp_path):
    method = Method("peer:1nn", make_peer_runner("1nn", partial(tstk_config, context=20, horizon=5)))
    (cell,) = run_benchmark({"near": method}, {"table": csv}, (0,), tmp_path / "out").failed_cells
    assert "a peer needs series with classes" in cell.error


@pytest.mark.slow
def test_forecasters_score_as_the_baselines_of_a_trained_run(tmp_path):
    time = np.arange(400)
    rows = np.stack([np.sin(time * np.pi / 6), time % 12 / 6], 1) + 0.1 * np.random.default_rng(0).normal(size=(400, 2))
    path = tmp_path / "waves.csv"
    lines = [
        f"2020-01-01 {i // 60:02d}:{i % 60:02d}," + ",".join(f"{v:.5f}" for v in row) for i, row in enumerate(rows)
    ]
    path.write_text("\n".join(["date,a,b", *lines]) + "\n")

    def make(data, seed, fold_options):
        return resolve_config(("flag", parse_overrides({"data": data, "context": 30, "horizon": 6, "threads": 1})))

    data = load_data(str(path), DataConfig(context=30, horizon=6))
    want = score_forecast_baselines(data, data.test, data.mean[:, None], data.std[:, None])
    result = {name: make_peer_runner(name, make)(str(path), 0, tmp_path / name, {}) for name in PEER_FORECASTERS}
    assert result["last-value"]["scores"] == want.scores["last value"]
    assert result["linear"]["scores"] == want.scores["linear"]
    assert result["linear"]["notes"] == [want.details["linear"]]
    (season,) = want.scores.keys() - {"last value", "linear"}
    assert result["season"]["scores"] == want.scores[season]
    with pytest.raises(DataError, match="peer:linear forecasts"):
        make_peer_runner(
            "linear", lambda data, seed, fold_options: resolve_config(("flag", parse_overrides({"data": data})))
        )("har-demo", 0, tmp_path / "no", {})
