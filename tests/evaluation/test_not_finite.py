"""Outputs that are not finite are named, never scored: the largest of them would be a class, a mean leave them out."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tstk.builtin.heads.linear import Linear
from tstk.config.resolve import resolve_config
from tstk.core.pipeline import Pipeline
from tstk.errors import NotFiniteError, TrainingError
from tstk.evaluation.evaluate import evaluate
from tstk.evaluation.probabilities import calibrate
from tstk.evaluation.probe import probe
from tstk.evaluation.probe_classifiers import RidgeProbe
from tstk.evaluation.token_order import evaluate_token_order
from tstk.inference.predict import open_run, predict, score
from tstk.plot.confusion_matrix import compute_confusion
from tstk.plot.plot_data import open_data
from tstk.report.classes import render_classes
from tstk.report.context import load_context
from tstk.runs.checkpoint import load
from tstk.training.runs import train

SMALL = {
    "tokenizer": {"use": "patch", "dim": 16, "window": 4},
    "encoder": {"use": "transformer", "dim": 16, "depth": 1, "heads": 2},
    "train": {"steps": 1, "device": "cpu"},
}


@pytest.fixture(params=[torch.nan, torch.inf, -torch.inf], ids=str)
def broken_head(request, monkeypatch):
    """Let linear heads return a value that is not finite for the third series of each batch, except in training."""
    forward = Linear.forward

    def forward_broken(self, tokens):
        output = forward(self, tokens)
        if self.training:
            return output
        return output.index_fill(0, torch.tensor([2]), request.param)

    monkeypatch.setattr(Linear, "forward", forward_broken)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("predict", predict),
        ("score", score),
        ("evaluate", lambda run: evaluate(load(run), open_run(run)[1])),
        ("calibrate", lambda run: calibrate(load(run), open_run(run)[1])),
        ("token order", lambda run: evaluate_token_order(load(run), [open_run(run)[1].batch(torch.arange(12))])),
        ("confusion matrix", lambda run: compute_confusion(open_data(run, None))),
        ("report", lambda run: render_classes(load_context(run))),
    ],
)
def test_a_class_whose_logits_are_not_finite_is_neither_predicted_nor_scored(run, broken_head, name, function):
    remedy = "though its samples and the weights are; a component divides by zero or overflows"
    with pytest.raises(NotFiniteError, match=f"of 1 of 12 series are not finite, series 3 first, {remedy}"):
        function(run)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_training_stops_at_validation_outputs_that_are_not_finite(npz, broken_head, tmp_path, task):
    with np.load(npz) as arrays:
        parts = dict(arrays)
    if task == "regression":
        parts |= {name.replace("y", "targets"): parts.pop(name).astype(float) for name in list(parts) if name[0] == "y"}
    np.savez(tmp_path / "data.npz", **parts)
    tables = {**SMALL, "head": "linear", "data": {"use": str(tmp_path / "data.npz"), "val_fraction": 0.25}}
    config = resolve_config(("test", tables))
    with pytest.raises(TrainingError, match=r"data, validation split: .* of 1 of \d+ series are not finite, .*, after"):
        train(config, tmp_path / "run")


def test_a_forecast_that_is_not_finite_is_not_left_out_of_the_scores(csv, tmp_path, monkeypatch):
    """Of a run that forecasts by masking, whose forecasts are computed apart from its loss."""
    data = {"use": csv, "context": 24, "horizon": 8}
    tables = {**SMALL, "loss": {"use": "masked", "policy": "tail"}, "data": data}
    run = train(resolve_config(("test", tables)), tmp_path / "run").run_dir
    pipeline, split, _ = open_run(run)
    predict_step = Pipeline.predict_step

    def predict_broken(self, *args):
        output = predict_step(self, *args)
        return replace(output, head_output=output.head_output.index_fill(0, torch.tensor([2]), torch.nan))

    monkeypatch.setattr(Pipeline, "predict_step", predict_broken)
    with pytest.raises(NotFiniteError, match=rf"of 1 of {len(split)} series are not finite, series \d+ "):
        evaluate(pipeline, split)


def test_numbers_that_a_probe_predicts_and_that_are_not_finite_are_named(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    sizes = {"train": 16, "val": 8, "test": 6}
    parts = {f"X_{name}": rng.normal(size=(size, 1, 16)) for name, size in sizes.items()}
    parts |= {f"targets_{name}": rng.normal(size=(size, 1)) for name, size in sizes.items()}
    np.savez(tmp_path / "numbers.npz", **parts)
    config = resolve_config(("test", {**SMALL, "loss": "masked", "data": str(tmp_path / "numbers.npz")}))
    run = train(config, tmp_path / "run").run_dir
    predict_probe = RidgeProbe.predict

    def predict_broken(self, *args):
        params, predictions = predict_probe(self, *args)
        predictions[3] = np.inf
        return params, predictions

    monkeypatch.setattr(RidgeProbe, "predict", predict_broken)
    with pytest.raises(NotFiniteError, match=r"predictions of 1 of 6 series are not finite, series 4 first"):
        probe(run)
