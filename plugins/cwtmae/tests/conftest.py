"""Pipelines of this plugin's components."""

import pytest
import torch

from tstk.config.resolve import find_config, resolve_config
from tstk.config.toml import read_toml
from tstk.core.types import Series
from tstk.runs.build import build_pipeline

torch.set_num_threads(1)
SMALL = {
    "tokenizer": {"use": "cwt", "dim": 16, "patch_time": 8, "scales": 8, "min_scale": 1.0},
    "encoder": {
        "use": "transformer",
        "dim": 16,
        "depth": 2,
        "heads": 2,
        "positions": "learned+rotary",
        "cls": True,
        "dropout": 0.0,
    },
    "decoder": {"use": "transformer", "dim": 16, "depth": 1, "heads": 2, "positions": "learned+rotary", "dropout": 0.0},
    "loss": {"use": "spectrum+time"},
}


def load_config(name, *layers):
    """Resolve a config of this plugin, with further layers."""
    return resolve_config((name, read_toml(find_config(f"cwtmae/{name}"))), *layers)


def built(spec, seed=0, wiring=None, **tables):
    """Return a bound pipeline of small components; a table updates that of the component, None removes it."""
    options = {}
    for k in {**SMALL, **tables}:
        base, table = SMALL.get(k, {}), tables.get(k) or {}
        options[k] = {**base, **table} if table.get("use", base.get("use")) == base.get("use") else table
    options = {k: v for k, v in options.items() if tables.get(k, v) is not None}
    torch.manual_seed(seed)
    pipeline = build_pipeline(resolve_config(("test", options)), spec, **(wiring or {}))
    pipeline.bind()
    return pipeline


def waves(batch=3, channels=2, length=40, seed=0):
    """Smooth random series, all observed."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, channels, length, generator=draw).cumsum(-1)
    return Series(x - x.mean(-1, keepdim=True), None, torch.arange(batch) % 3, torch.arange(batch))


@pytest.fixture(scope="session")
def config():
    """`shipped`."""
    return load_config


@pytest.fixture
def build():
    """`built`."""
    return built


@pytest.fixture
def make():
    """`waves`."""
    return waves
