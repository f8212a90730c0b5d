"""A linear head that starts from a logistic regression of the encoder's features."""

import numpy as np
import pytest
import torch

from tests.support.grids import slow_after
from tstk.config.resolve import parse_overrides, resolve_config
from tstk.nn.logistic_regression import LogisticRegression
from tstk.nn.reduce import masked_mean_std
from tstk.training.runs import prepare_training, train

OPTIONS = {
    "tokenizer": "patch",
    "tokenizer__dim": 16,
    "encoder": "transformer",
    "encoder__dim": 16,
    "encoder__depth": 1,
    "encoder__heads": 2,
    "head": "linear",
    "head__pool": "statistics",
    "head__init": "logistic",
    "device": "cpu",
}


def config(npz, **more):
    return resolve_config(("test", parse_overrides({**OPTIONS, "data": npz, **more})))


@pytest.mark.parametrize("standardize", slow_after(1, [False, True]))
def test_before_the_first_step_it_predicts_as_the_regression_does(npz, standardize):
    notes = []
    pipeline, data = prepare_training(config(npz, head__standardize=standardize), notes.append)
    pipeline.eval()
    with torch.no_grad():
        encoded = pipeline.encode(data.train.batch(torch.arange(len(data.train))))
        features = masked_mean_std(encoded.values, encoded.valid).double()
    fitted = LogisticRegression().fit(features, data.train.y)
    test = data.test.batch(torch.arange(len(data.test)))
    with torch.no_grad():
        encoded = pipeline.encode(test)
        wanted = fitted.logits(masked_mean_std(encoded.values, encoded.valid).double())
    torch.testing.assert_close(pipeline.predict_batch(test).double(), wanted, rtol=1e-3, atol=1e-3)
    assert any(f"features of {len(data.train)} series (C = {fitted.C:g})" in n for n in notes)


@pytest.mark.slow
def test_a_class_without_training_series_is_never_predicted(npz):
    held, data = prepare_training(config(npz))
    data.train = data.train.select((data.train.y > 0).nonzero().flatten())
    held.head.init_from_data(held, data.train)
    assert (held.predict_batch(data.test.batch(torch.arange(len(data.test)))).argmax(1) > 0).all()


@pytest.mark.slow
def test_a_head_that_a_run_has_trained_is_not_fitted_again(npz, tmp_path):
    train(config(npz, steps=2, lr=0.1), tmp_path / "run")
    notes = []
    pipeline, _ = prepare_training(config(npz, init_from=str(tmp_path / "run")), notes.append)
    assert not any("logistic regression" in note for note in notes)
    fresh, _ = prepare_training(config(npz))
    assert not torch.equal(pipeline.head.classify.weight, fresh.head.classify.weight)


@pytest.mark.slow
def test_a_head_trained_on_other_classes_is_replaced_by_the_regression(npz, tmp_path):
    train(config(npz, steps=2), tmp_path / "run")
    with np.load(npz) as arrays:
        other = {k: (np.where(v == v.max(), v.min(), v) if k.startswith("y") else v) for k, v in arrays.items()}
    np.savez(tmp_path / "other.npz", **other)
    notes = []
    prepare_training(config(str(tmp_path / "other.npz"), init_from=str(tmp_path / "run")), notes.append)
    assert any("newly initialized" in note for note in notes)
    assert any("logistic regression" in note for note in notes)
