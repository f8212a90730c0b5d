"""The learning rate finder: a curve, a suggestion, and weights as they were."""

import pytest
import torch

from tstk.config.resolve import resolve_config
from tstk.errors import TrainingError
from tstk.training.config import TrainConfig
from tstk.training.lr_finder import MAX_LR, MIN_LR, lr_range_test
from tstk.training.runs import prepare_training

OPTIONS = TrainConfig(batch_size=8, augment=("off",), weight_decay=0.0, device="cpu")
ENCODER = {"use": "transformer", "dim": 16, "depth": 1, "heads": 2}


def prepare(npz):
    return prepare_training(resolve_config(("test", {"encoder": ENCODER, "head": "linear", "data": npz})))


@pytest.mark.slow
def test_the_rate_that_is_suggested_lies_where_the_loss_falls_and_weights_stay(npz):
    pipeline, data = prepare(npz)
    before = {k: v.clone() for k, v in pipeline.state_dict().items()}
    result = lr_range_test(pipeline, data, OPTIONS)
    assert result.lrs[0] == pytest.approx(MIN_LR)
    assert result.lrs == sorted(result.lrs)
    assert result.lrs[-1] <= MAX_LR * 1.001
    assert len(result.lrs) == len(result.losses)
    index = result.lrs.index(result.suggestion)
    assert result.losses[index - 1] > result.losses[index + 1]
    assert 1e-5 < result.suggestion < 1
    assert all(torch.equal(v, before[k]) for k, v in pipeline.state_dict().items())


def test_a_loss_that_is_nan_from_the_start_is_reported(npz):
    pipeline, data = prepare(npz)
    pipeline.head.classify.weight.data.fill_(torch.nan)
    with pytest.raises(TrainingError, match="--find-lr: the loss diverged after 0 steps"):
        lr_range_test(pipeline, data, OPTIONS)
