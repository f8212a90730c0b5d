"""Callbacks: what they may read, how they stop training, and what a resumed run remembers of them."""

import os
import signal

import pytest
import torch

from tstk.config.records import SelectedEpoch
from tstk.config.resolve import resolve_config
from tstk.training.callbacks import Callback
from tstk.training.config import TrainConfig
from tstk.training.interrupt import TrainingInterrupted
from tstk.training.loop import Trainer
from tstk.training.lr_finder import lr_range_test
from tstk.training.runs import prepare_training, resume_run, train

ENCODER = {"use": "transformer", "dim": 16, "depth": 1, "heads": 2}


def make_config(npz, **options):
    options = {"epochs": 4, "batch_size": 8, "device": "cpu", **options}
    return resolve_config(
        ("test", {"encoder": ENCODER, "head": "linear", "data": {"use": npz, "val_fraction": 0.2}, "train": options})
    )


class HookRecorder(Callback):
    """Records the names of the hooks that are called, once per run of equal ones."""

    def __init__(self):
        self.calls = []

    def __getattribute__(self, name):
        if name.startswith(("on_", "teardown")):
            calls = object.__getattribute__(self, "calls")
            if name != "on_log" and (not calls or calls[-1] != name):
                calls.append(name)
        return object.__getattribute__(self, name)


def test_hooks_are_called_in_order_and_teardown_also_after_a_failure(npz, tmp_path):
    recorder = HookRecorder()
    train(make_config(npz, epochs=1), tmp_path / "run", callbacks=[recorder])
    epoch = ["on_step_end", "on_validation_start", "on_validation_end", "on_epoch_end"]
    assert recorder.calls == ["on_fit_start", *epoch, "on_fit_end", "teardown"]

    class Failing(HookRecorder):
        def on_step_end(self, state, step_outputs):
            raise RuntimeError("no")

    failing = Failing()
    with pytest.raises(RuntimeError, match="no"):
        train(make_config(npz, epochs=1), tmp_path / "failed", callbacks=[failing])
    assert failing.calls == ["on_fit_start", "on_step_end", "teardown"]


@pytest.mark.slow
def test_a_callback_sees_the_averaged_weights_in_validation_and_can_stop_training(npz, tmp_path):
    class StopAtTwo(Callback):
        def __init__(self):
            self.raw, self.averaged = [], []

        def on_step_end(self, state, step_outputs):
            self.raw.append(state.pipeline.head.classify.weight.detach().clone())

        def on_validation_end(self, state, metrics):
            self.averaged.append(state.pipeline.head.classify.weight.detach().clone())
            state.should_stop = state.epoch == 2
            return {"steps": state.step}

    callback = StopAtTwo()
    result = train(make_config(npz, select_by="last"), tmp_path / "run", callbacks=[callback])
    assert result.selected == SelectedEpoch(2, 2, "last")
    assert not torch.equal(callback.raw[-1], callback.averaged[-1])


class Total(Callback):
    """Sums up the losses of all steps, and stops at a step as if a signal came."""

    def __init__(self, stop_at=None):
        self.total, self.weights, self.stop_at = 0.0, torch.zeros(2), stop_at

    def on_step_end(self, state, step_outputs):
        self.total += float(step_outputs[0].loss.detach())
        self.weights = self.weights + state.step
        if state.step == self.stop_at:
            os.kill(os.getpid(), signal.SIGINT)

    def state_dict(self):
        return {"total": self.total, "nested": {"weights": self.weights}}

    def load_state_dict(self, state_dict):
        self.total, self.weights = state_dict["total"], state_dict["nested"]["weights"]


@pytest.mark.slow
def test_the_state_of_a_callback_is_part_of_the_run_and_restored_when_it_resumes(npz, tmp_path):
    whole, interrupted, resumed = Total(), Total(stop_at=5), Total()
    train(make_config(npz), tmp_path / "whole", callbacks=[whole])
    with pytest.raises(TrainingInterrupted):
        train(make_config(npz), tmp_path / "run", callbacks=[interrupted])
    resume_run(tmp_path / "run", callbacks=[resumed])
    assert resumed.total == whole.total
    assert torch.equal(resumed.weights, whole.weights)


@pytest.mark.slow
def test_a_patient_run_stops_at_the_same_epoch_after_an_interruption(npz, tmp_path):
    config = make_config(npz, lr=0.0, patience=2, epochs=10)
    with pytest.raises(TrainingInterrupted):
        train(config, tmp_path / "run", callbacks=[Total(stop_at=5)])
    assert resume_run(tmp_path / "run").selected.num_epochs == 3


@pytest.mark.slow
def test_the_range_test_trains_with_the_options_of_training(npz, monkeypatch):
    pipeline, data = prepare_training(make_config(npz))
    seen = []
    step = Trainer.__init__

    def record(self, pipeline, data, config, *rest):
        step(self, pipeline, data, config, *rest)
        seen.append(config)

    monkeypatch.setattr(Trainer, "__init__", record)
    lr_range_test(pipeline, data, TrainConfig(batch_size=8, mixup=0.3, crop=12, sampling="balanced", device="cpu"))
    (config,) = seen
    assert (config.mixup, config.crop, config.sampling, config.steps) == (0.3, 12, "balanced", 100)
    assert config.augment == ("scaling=0.1", "jitter=0.05", "time-warp=0.2")  # the defaults for few series
