"""The plugin joins the registry from its source where it is not installed."""

import importlib

import pytest
import torch

from tstk import registry as table
from tstk.records import Tokens

torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def announced():
    dist, module = "tstk-plugins-timae", "tstk_plugins_timae.plugin"
    found = table.installed()
    if any(source.dist == dist for source in found):
        yield
        return
    own = table.Source("timae", dist, "0", module, lambda: importlib.import_module(module))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "installed", lambda: [*found, own])
        table.registry.cache_clear()
        yield
    table.registry.cache_clear()


def random_tokens(spec, batch=3, tokens=None, seed=0, dtype=torch.float32):
    """Valid tokens of random content along a grid of one axis."""
    draw = torch.Generator().manual_seed(seed)
    n = tokens or spec.tokens
    index = torch.arange(n).expand(batch, n)
    values = torch.randn(batch, n, spec.dim, generator=draw, dtype=dtype)
    return Tokens(values, index[..., None].to(dtype), index, torch.ones(batch, n, dtype=torch.bool))


@pytest.fixture
def make_tokens():
    return random_tokens
