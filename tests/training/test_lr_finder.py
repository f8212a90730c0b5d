"""The rate finder: a curve, a rate to try, weights as they were."""

import pytest
import torch

from tstk.config.resolve import resolve
from tstk.errors import TrainingError
from tstk.training.lr_finder import HIGHEST, LOWEST, find_rate
from tstk.training.runs import prepare

OPTIONS = {"batch_size": 8, "accumulate": 1, "weight_decay": 0.0, "clip": 1.0, "seed": 0, "device": "cpu"}
ENCODER = {"use": "transformer", "dim": 16, "depth": 1, "heads": 2}


def ready(npz):
    return prepare(resolve(("test", {"encoder": ENCODER, "head": "linear", "data": npz})))


def test_the_rate_that_is_suggested_lies_where_the_loss_falls_and_weights_stay(npz):
    pipeline, data = ready(npz)
    before = {k: v.clone() for k, v in pipeline.state_dict().items()}
    sweep = find_rate(pipeline, data, **OPTIONS, precision="fp32")
    assert sweep.rates[0] == pytest.approx(LOWEST)
    assert sweep.rates == sorted(sweep.rates)
    assert sweep.rates[-1] <= HIGHEST * 1.001
    assert len(sweep.rates) == len(sweep.losses)
    at = sweep.rates.index(sweep.suggestion)
    assert sweep.losses[at - 1] > sweep.losses[at + 1]
    assert 1e-5 < sweep.suggestion < 1
    assert all(torch.equal(v, before[k]) for k, v in pipeline.state_dict().items())


def test_a_loss_that_is_no_number_from_the_start_is_told(npz):
    pipeline, data = ready(npz)
    pipeline.head.classify.weight.data.fill_(torch.nan)
    with pytest.raises(TrainingError, match="--find-lr: the loss broke down after 0 steps"):
        find_rate(pipeline, data, **OPTIONS, precision="fp32")
