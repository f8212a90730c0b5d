"""Pipelines of this plugin's components."""

import pytest
import torch

from tstk.config.resolve import resolve_config
from tstk.core.types import Series, Spec
from tstk.runs.build import build_pipeline

torch.set_num_threads(1)
SMALL = {
    "tokenizer": {"use": "patch", "dim": 16, "window": 4},
    "encoder": {"use": "timemae", "dim": 16, "depth": 2, "heads": 2, "residual_scale": 0.5},
    "decoder": {"use": "timemae", "depth": 1, "heads": 2, "residual_scale": 0.5},
    "loss": {"use": "timemae", "codes": 12},
}


def build_small(spec, seed=0, **tables):
    """Return a bound pipeline; a table in `tables` updates the one in SMALL, or replaces it if `use` differs."""
    config = {}
    for slot, base in SMALL.items():
        table = tables.get(slot, {})
        config[slot] = {**base, **table} if table.get("use", base["use"]) == base["use"] else table
    torch.manual_seed(seed)
    pipeline = build_pipeline(resolve_config(("test", {**config, "data": {"horizon": spec.horizon}})), spec)
    pipeline.bind()
    return pipeline


@pytest.fixture
def build():
    return build_small


@pytest.fixture
def spec():
    """Two channels of 40 samples: ten tokens."""
    return Spec(channels=2, length=40, task="classification", num_outputs=3)


@pytest.fixture
def ragged():
    """Four series, the last two shorter, one with a gap."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 2, 40, generator=generator)
    observed = torch.ones_like(x, dtype=torch.bool)
    observed[2, :, 28:] = observed[3, :, 12:] = observed[1, :, 8:16] = False
    return Series(x * observed, observed, None, torch.tensor([3, 14, 15, 92]))
