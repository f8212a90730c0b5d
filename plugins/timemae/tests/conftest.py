"""Pipelines of this plugin's parts."""

import pytest
import torch

from tstk.config.resolve import resolve
from tstk.core.types import Series, Spec
from tstk.runs.build import assemble

torch.set_num_threads(1)
SMALL = {
    "tokenizer": {"use": "patch", "dim": 16, "window": 4},
    "encoder": {"use": "timemae", "dim": 16, "depth": 2, "heads": 2, "residual_scale": 0.5},
    "decoder": {"use": "timemae", "depth": 1, "heads": 2, "residual_scale": 0.5},
    "loss": {"use": "timemae", "codes": 12},
}


def built(spec, seed=0, **tables):
    """A bound pipeline; a table given replaces the small one where it names another component, else adds to it."""
    chosen = {}
    for slot, base in SMALL.items():
        given = tables.get(slot, {})
        chosen[slot] = {**base, **given} if given.get("use", base["use"]) == base["use"] else given
    torch.manual_seed(seed)
    pipeline = assemble(resolve(("test", {**chosen, "data": {"horizon": spec.horizon}})), spec)
    pipeline.bind()
    return pipeline


@pytest.fixture
def build():
    """`built`."""
    return built


@pytest.fixture
def spec():
    """Two channels of 40 samples: ten tokens."""
    return Spec(channels=2, length=40, classes=3)


@pytest.fixture
def ragged():
    """Four series, the last ones shorter, one with a hole."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(4, 2, 40, generator=draw)
    observed = torch.ones_like(x, dtype=torch.bool)
    observed[2, :, 28:] = observed[3, :, 12:] = observed[1, :, 8:16] = False
    return Series(x * observed, observed, None, torch.tensor([3, 14, 15, 92]))
