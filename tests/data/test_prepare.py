"""Notes on data from which nothing can be learned."""

import numpy as np
import pytest

from tstk.data.config import DataConfig
from tstk.data.load import load_data


def notes(path, x, y, **options):
    np.savez(path, X_train=x, y_train=y, X_test=x, y_test=y)
    return " ".join(load_data(str(path), DataConfig(**options)).notes)


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(20, 2, 8))


def test_one_class_is_said(tmp_path, x):
    assert "all training series are of class 7" in notes(tmp_path / "a.npz", x, np.full(20, 7))
    assert "of class" not in notes(tmp_path / "b.npz", x, np.arange(20) % 2)


def test_one_series_is_said(tmp_path, x):
    assert "has one series" in notes(tmp_path / "a.npz", x[:1], np.zeros(1, int), val_fraction=0)


def test_constant_and_missing_channels_and_constant_series_are_said(tmp_path, x):
    x = np.concatenate([x, np.full((20, 1, 8), 5.0), np.full((20, 1, 8), np.nan)], 1)
    x[3, :2] = 1.0
    text = notes(tmp_path / "a.npz", x, np.arange(20) % 2, val_fraction=0)
    assert "channel 2 is constant in training, 5 everywhere" in text
    assert "channel 3 has no sample in training" in text
    assert "1 of 20 training series are constant in every channel" in text
