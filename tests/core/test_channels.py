"""With independent channels, heads distinguish the channels."""

import pytest
import torch

from tstk.config.resolve import resolve_config
from tstk.core.rng import SampleRNG
from tstk.core.types import Series, Spec
from tstk.nn.reduce import masked_mean_std, pool_channels
from tstk.runs.build import build_pipeline

SPEC = Spec(channels=2, length=32, task="classification", num_outputs=2)


def batch(count, seed):
    """Series with a wave in one channel and noise in the other; the class is the channel of the wave."""
    draw = torch.Generator().manual_seed(seed)
    x = 0.1 * torch.randn(count, 2, 32, generator=draw)
    y = torch.arange(count) % 2
    x[torch.arange(count), y] += torch.sin(torch.arange(32) / 2)
    return Series(x, y=y, sample_id=seed * count + torch.arange(count))


@pytest.mark.slow
@pytest.mark.parametrize(
    "head",
    [
        "cot",
        "residual-mlp",
        *({"use": "linear", "pool": pool} for pool in ("mean", "max", "statistics", "cls", "flatten")),
    ],
    ids=lambda head: head if isinstance(head, str) else head["pool"],
)
def test_classes_that_differ_in_which_channel_has_the_event_are_learned(head):
    torch.manual_seed(0)
    encoder = {"use": "transformer", "dim": 16, "depth": 1, "heads": 2, "cls": isinstance(head, dict)}
    config = resolve_config(("test", {"tokenizer": "patch", "encoder": encoder, "head": head}))
    pipeline = build_pipeline(config, SPEC, channels="independent", instance_norm=False).train()
    pipeline.bind()
    optimizer = torch.optim.AdamW([p for p in pipeline.parameters() if p.requires_grad], lr=3e-3)
    for step in range(120):
        series = batch(32, step)
        step_output = pipeline(series, SampleRNG(0, step, series.sample_id))
        optimizer.zero_grad()
        step_output.loss.backward()
        optimizer.step()
        pipeline.after_step([step_output])
    fresh = batch(100, 1000)
    assert (pipeline.eval().predict_batch(fresh).argmax(1) == fresh.y).float().mean() > 0.95


def test_vectors_of_channels_stand_side_by_side_and_padding_changes_nothing():
    values, valid = torch.randn(3, 2 * 5, 4), torch.ones(3, 2 * 5, dtype=torch.bool)
    valid[1, 3:5] = valid[1, 8:] = False
    pooled = pool_channels(values, valid, 2, "statistics")
    assert pooled.shape == (3, 2 * 2 * 4)
    for channel, part in enumerate(pooled.chunk(2, 1)):
        at = slice(5 * channel, 5 * channel + 5)
        assert torch.equal(part, masked_mean_std(values[:, at], valid[:, at]))
    assert torch.allclose(pooled[1, :4], values[1, :3].mean(0))


def test_tokens_that_are_all_alike_have_a_finite_gradient_through_their_deviation():
    values = torch.ones(2, 3, 4, requires_grad=True)
    masked_mean_std(values, torch.ones(2, 3, dtype=torch.bool)).sum().backward()
    assert values.grad.isfinite().all()
