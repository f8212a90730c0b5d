"""Training in a dozen lines of plain torch, without the training loop."""

import pytest
import torch

import tstk.data
from tstk.config.resolve import resolve_config
from tstk.evaluation.evaluate import evaluate
from tstk.runs.checkpoint import initialize_for_training


@pytest.mark.slow
def test_twelve_lines_of_plain_torch_train_a_classifier(npz):
    config = resolve_config(("mine", {"encoder": {"depth": 1, "dim": 32}, "head": "linear"}))
    torch.manual_seed(0)
    data = tstk.data.load_data(npz)
    pipeline, _ = initialize_for_training(config, data.spec)
    pipeline.mean.copy_(data.mean[:, None])
    pipeline.std.copy_(data.std[:, None])
    optimizer = torch.optim.AdamW(pipeline.parameters(), lr=3e-3)
    before = evaluate(pipeline, data.train)
    for _ in range(40):
        for index in torch.randperm(len(data.train)).split(8):
            output = pipeline(data.train.batch(index))
            output.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            pipeline.after_step([output])
    after = evaluate(pipeline, data.train)
    assert after["loss"] < before["loss"] / 2
    assert after["accuracy"] > max(before["accuracy"], 0.6)


def test_a_plain_loop_pretrains_and_its_masks_follow_torchs_seed(npz):
    data = tstk.data.load_data(npz)
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(7)
        pipeline, _ = initialize_for_training(
            resolve_config(("mine", {"decoder": {"use": "cross", "dropout": 0.0}, "encoder": {"dropout": 0.0}})),
            data.spec,
        )
        torch.manual_seed(seed)
        losses.append(pipeline(data.train.batch(torch.arange(6))).loss.item())
    assert losses[0] == losses[1] != losses[2]
