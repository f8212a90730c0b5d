"""The plugin joins the registry from its source where it is not installed."""

import importlib

import pytest
import torch

from tstk import registry as table

torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def announced():
    dist, module = "tstk-plugins-vqshape", "tstk_plugins_vqshape.plugin"
    found = table.installed()
    if any(source.dist == dist for source in found):
        yield
        return
    own = table.Source("vqshape", dist, "0", module, lambda: importlib.import_module(module))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "installed", lambda: [*found, own])
        table.registry.cache_clear()
        yield
    table.registry.cache_clear()
