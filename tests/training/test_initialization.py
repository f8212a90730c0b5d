"""Weights before the first step carry no gradients, and a loss that finds nothing to predict is refused."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from tstk.builtin.encoders.transformer import Transformer
from tstk.config.resolve import resolve_config
from tstk.errors import OptionError
from tstk.testing.components import iter_tensors_with_graph
from tstk.training.runs import prepare_training


def prepare(path, **tokenizer):
    tables = {"tokenizer": {"use": "patch", "dim": 8, **tokenizer}, "encoder": "identity", "loss": "masked"}
    notes = []
    prepare_training(resolve_config(("flag", {**tables, "data": str(path)})), notes.append)
    return notes


def test_one_token_of_which_none_is_masked_is_an_error(npz):
    with pytest.raises(OptionError, match=r"has 1 token, of which it masks none; choose smaller .*--tokenizer\.window"):
        prepare(npz, window=20)


def test_series_of_which_nothing_is_masked_are_counted_in_a_note(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 1, 16))
    x[:7, :, 4:] = np.nan
    np.savez(tmp_path / "a.npz", X_train=x, X_test=x)
    notes = " ".join(prepare(tmp_path / "a.npz", window=4))
    assert "training series have too few tokens (4 samples or less) for loss 'masked' to mask one" in notes
    assert "too few tokens" not in " ".join(prepare(tmp_path / "a.npz", window=2))


def test_what_an_encoder_computes_from_pretrained_weights_carries_no_gradients(npz, monkeypatch):
    def init_from_pretrained(self):
        self.register_buffer("size", torch.zeros(()))
        self.size.fill_(self.stack.norm.weight.square().mean())

    monkeypatch.setattr(Transformer, "init_from_pretrained", init_from_pretrained)
    tables = {"tokenizer": {"use": "patch", "dim": 8}, "encoder": {"use": "transformer", "dim": 8, "heads": 1}}
    pipeline, _ = prepare_training(resolve_config(("flag", {**tables, "head": "linear", "data": str(npz)})))
    assert pipeline.encoder.size == 1
    assert not list(iter_tensors_with_graph(pipeline))
    deepcopy(pipeline)
