"""Results that are not finite are refused, and the first bad series or weight is named."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tstk.errors import CheckpointError, DataError, NotFiniteError, TstkError
from tstk.inference.export import export
from tstk.inference.predict import embed, predict, score
from tstk.inference.tokenize import tokenize
from tstk.runs.checkpoint import load, write_tensors


@pytest.fixture
def huge(npz, tmp_path):
    """A file whose sixth test series holds a sample of 1e25."""
    with np.load(npz) as arrays:
        x, y = arrays["X_test"].copy(), arrays["y_test"]
    x[5, 0, 3] = 1e25
    np.savez(tmp_path / "huge.npz", X=x, y=y)
    return str(tmp_path / "huge.npz")


@pytest.mark.parametrize("function", [predict, score, embed])
def test_a_series_too_large_for_float32_is_named(run, huge, function):
    with pytest.raises(DataError, match=r"huge\.npz: .* of 1 of 12 series are not finite, series 6 first"):
        function(run, huge)


def test_a_series_too_large_for_float32_has_no_codes(syllables, npz, huge, tmp_path):
    from tstk.config.resolve import resolve_config
    from tstk.training.runs import train

    tables = {"tokenizer": syllables, "encoder": "identity", "head": "linear", "data": npz}
    run = train(resolve_config(("flag", {**tables, "train": {"steps": 1, "device": "cpu"}})), tmp_path / "run").run_dir
    with pytest.raises(DataError, match="codes of 1 of 12 series are not finite, series 6 first"):
        tokenize(run, huge)


def test_arrays_are_refused_like_files(run):
    x = np.ones((4, 2, 20))
    x[2, 1, 7] = -1e30
    for method in (load(run).predict, load(run).embed):
        with pytest.raises(DataError, match=r"x: .* of 1 of 4 series are not finite, series 3 first"):
            method(x, batch_size=2)


def test_test_series_too_large_for_float32_are_refused_before_training(npz, tmp_path):
    from tstk.data.load import load_data

    with np.load(npz) as arrays:
        parts = dict(arrays)
    parts["X_test"][4, 1, 2] = 1e25
    np.savez(tmp_path / "a.npz", **parts)
    with pytest.raises(DataError, match=r"a\.npz: series 5 holds a sample of 1e\+25, too large for float32"):
        load_data(str(tmp_path / "a.npz"))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_named_when_a_run_is_loaded(run, tmp_path, value):
    copy = shutil.copytree(run, tmp_path / "copy")
    state = load_file(copy / "model.safetensors")
    name = next(k for k in state if k.startswith("encoder") and state[k].ndim == 2)
    state[name][0, 0] = value
    write_tensors(copy / "model.safetensors", state)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors holds values that are not finite: {name};"):
        load(copy)


@pytest.mark.slow
def test_weights_that_become_nan_in_memory_are_named_when_they_predict(run):
    pipeline = load(run)
    with torch.no_grad():
        pipeline.head.classify.weight.fill_(torch.nan)
    with pytest.raises(NotFiniteError, match=r"values that are not finite: head\.classify\.weight; train"):
        pipeline.predict(np.ones((1, 2, 20)))
    with pytest.raises(TstkError, match=r"so are the weights of head\.classify\.weight"):
        export(pipeline)
