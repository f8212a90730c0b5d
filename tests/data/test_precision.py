"""Samples whose level is large beside their variation are kept apart."""

import numpy as np
import pytest
import torch

from tstk.config.resolve import resolve_config
from tstk.data import lazy_array
from tstk.data.config import DataConfig
from tstk.data.load import load_data, load_split
from tstk.data.precision import compute_offset, to_float32
from tstk.inference.predict import predict, score
from tstk.runs.checkpoint import load
from tstk.training.runs import train

LEVEL = 1e8


def waves(count=24, length=20):
    """Return series of two classes that differ in frequency, and their labels."""
    rng, y = np.random.default_rng(0), np.arange(count) % 2
    phase = np.arange(length) * (0.4 + 0.6 * y[:, None])
    return np.sin(phase)[:, None] + 0.1 * rng.normal(size=(count, 1, length)), y


def save(path, level, dtype=np.float64):
    x, y = waves()
    x = (np.rint(1000 * x) if np.issubdtype(dtype, np.integer) else x) + level
    np.savez(path, X_train=x.astype(dtype), y_train=y, X_test=x[::2].astype(dtype), y_test=y[::2])
    return str(path)


@pytest.mark.parametrize("dtype", [np.float64, np.int64])
@pytest.mark.parametrize("max_in_memory", [2**27, 0], ids=["in memory", "in its file"])
def test_a_level_changes_nothing_but_the_offset(tmp_path, monkeypatch, dtype, max_in_memory):
    monkeypatch.setattr(lazy_array, "MAX_IN_MEMORY_BYTES", max_in_memory)
    level = LEVEL if dtype == np.float64 else 1_700_000_000_000
    low, high = (load_data(save(tmp_path / f"{i}.npz", value, dtype)) for i, value in enumerate((0, level)))
    assert low.offset is None
    assert high.offset[0] == pytest.approx(level, rel=1e-6)
    for one, other in ((low.train, high.train), (low.test, high.test)):
        rows = torch.arange(len(one))
        z, z_high = ((s.batch(rows).x - d.mean[:, None]) / d.std[:, None] for s, d in ((one, low), (other, high)))
        torch.testing.assert_close(z_high, z, rtol=0, atol=1e-5)
    assert any("this offset is subtracted first" in note for note in high.notes)


def test_ordinary_samples_become_float32_as_they_are():
    x = np.random.default_rng(0).normal(size=(5, 2, 30)) * [[3.0], [1e-9]] + [[100.0], [0.0]]
    assert np.array_equal(to_float32(x)[0], x.astype(np.float32))
    assert compute_offset(to_float32(x)[0]) is None


@pytest.mark.parametrize("x", [np.full((3, 1, 9), LEVEL), np.full((3, 1, 9), LEVEL) + 1e-8], ids=["constant", "noise"])
def test_a_constant_channel_is_not_noise_to_be_enlarged(x):
    assert to_float32(x)[0].dtype == np.float32


def test_only_the_channel_that_needs_it_gets_an_offset():
    x = np.random.default_rng(0).normal(size=(5, 2, 30)) + [[LEVEL], [1.0]]
    offset = compute_offset(to_float32(x)[0])
    assert offset[0] == pytest.approx(LEVEL)
    assert offset[1] == 0


def test_levels_that_differ_from_series_to_series_are_said(tmp_path):
    rng, y = np.random.default_rng(0), np.arange(20) % 2
    x = rng.normal(size=(20, 1, 30))
    for name, levels in (("a", LEVEL * np.arange(20)), ("b", np.zeros(20)), ("c", np.full(20, LEVEL))):
        np.savez(tmp_path / f"{name}.npz", X_train=x + levels[:, None, None], y_train=y, X_test=x, y_test=y)
    notes = [" ".join(load_data(str(tmp_path / f"{name}.npz")).notes) for name in "abc"]
    assert "in 19 of 20 series float32 cannot tell samples apart, whose level differs" in notes[0]
    assert not any("differs" in note for note in notes[1:])


def test_values_that_are_to_be_kept_are_kept_with_a_note(tmp_path):
    data = load_data(save(tmp_path / "a.npz", LEVEL), DataConfig(standardize="none"))
    assert data.offset is None
    assert any("float32 cannot tell samples around 1e+08 apart; subtract a constant" in note for note in data.notes)


@pytest.mark.slow
def test_a_classifier_of_levelled_series_scores_as_one_of_the_series_themselves(tmp_path):
    runs = []
    for i, level in enumerate((0, LEVEL)):
        tables = {
            "tokenizer": {"use": "patch", "window": 5, "dim": 16},
            "encoder": {"use": "transformer", "dim": 16, "depth": 1, "heads": 2},
            "head": "linear",
            "data": save(tmp_path / f"{i}.npz", level),
            "train": {"steps": 40, "device": "cpu"},
        }
        runs.append(train(resolve_config(("flag", tables)), tmp_path / f"run{i}").run_dir)
    low, high = (score(run)["scores"] for run in runs)
    assert low["accuracy"] == high["accuracy"] == 1
    assert high["cross_entropy"] == pytest.approx(low["cross_entropy"], rel=1e-3)
    x, _ = waves()
    from_array = load(runs[1]).predict(x + LEVEL).probabilities
    np.testing.assert_allclose(from_array[::2], predict(runs[1])["probability"], rtol=1e-4)
    split = load_split(str(tmp_path / "1.npz"), input_schema=load_data(str(tmp_path / "1.npz")).input_schema())
    np.testing.assert_allclose(
        load(runs[1]).predict(split.batch(torch.arange(12))).probabilities, from_array[::2], rtol=1e-4
    )


@pytest.mark.slow
def test_forecasts_of_a_counter_are_in_its_units(tmp_path):
    t = np.arange(160)
    values = np.sin(t / 3) + 0.05 * np.random.default_rng(0).normal(size=160)
    forecasts = []
    for i, level in enumerate((0, LEVEL)):
        path = tmp_path / f"{i}.csv"
        rows = [f"2020-01-01 {k // 60:02}:{k % 60:02}:00,{v!r}" for k, v in enumerate((values + level).tolist())]
        path.write_text("\n".join(["date,a", *rows]))
        tables = {
            "tokenizer": {"use": "patch", "window": 5, "dim": 16},
            "encoder": {"use": "transformer", "dim": 16, "depth": 1, "heads": 2},
            "head": "forecast",
            "data": {"use": str(path), "context": 20, "horizon": 5},
            "train": {"steps": 10, "device": "cpu"},
        }
        run = train(resolve_config(("flag", tables)), tmp_path / f"run{i}").run_dir
        forecasts.append(predict(run))
    low, high = forecasts
    np.testing.assert_allclose(high["truth"] - LEVEL, low["truth"], atol=1e-5)
    np.testing.assert_allclose(high["forecast"] - LEVEL, low["forecast"], atol=1e-3)
