"""The configs and the recipe are complete, fit together, and equal the published settings."""

import pytest
import torch

from tstk.config.recipe import read_recipe
from tstk.config.resolve import find_config, resolve_config
from tstk.config.toml import read_toml
from tstk.core.rng import SampleRNG
from tstk.core.types import Series, Spec
from tstk.plugins.registry import get_registry
from tstk.runs.build import build_pipeline, validate_on_meta

CONFIGS = [
    f"vqvae/{name}"
    for name in (
        "tokenizer", "pretrain", "published", "published-tokenizer", "totem-tokenizer",
        "forecast-direct", "forecast-rollout", "forecast-soft", "forecast-gumbel",
    )
]  # fmt: skip


def test_these_are_all_the_configs():
    assert set(CONFIGS) == {n for n in get_registry().list_names("config") if n.startswith("vqvae/")}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_builds_and_learns_from_a_batch(name):
    config = resolve_config((name, read_toml(find_config(name))))
    validate_on_meta(config)
    options = config.options("pipeline")
    spec = Spec(channels=2, length=64, task="forecasting", horizon=16)
    if config.options("data")["length"] is not None:
        spec = Spec(channels=2, length=64)
    pipeline = build_pipeline(config, spec, channels=options["channels"], instance_norm=options["instance_norm"])
    pipeline.bind()
    for path in options["freeze"]:
        pipeline.freeze(path)
    x = torch.randn(2, 2, 80, generator=torch.Generator().manual_seed(0)).cumsum(-1)
    series = Series(x[..., :64], None, x[..., 64:] if spec.horizon else None, torch.arange(2))
    pipeline.train()(series, SampleRNG(0, 1, series.sample_id)).loss.backward()
    assert all(p.grad is not None for n, p in pipeline.named_parameters() if p.requires_grad), name


def test_the_stages_agree_on_what_a_series_is():
    configs = [
        resolve_config((name, read_toml(find_config(name))))
        for name in CONFIGS
        if "published" not in name and "totem" not in name
    ]
    for config in configs:
        assert config.options("pipeline")["channels"] == "independent"
        assert config.options("pipeline")["instance_norm"]
        assert config.options("data")["context"] == 512
    encoders = [c.options("encoder") for c in configs if c.component("encoder") == "transformer"]
    assert len(encoders) == 5
    assert all(e == encoders[0] for e in encoders)


def test_each_stage_of_the_recipe_starts_from_the_one_before():
    stages = read_recipe("vqvae-forecast")
    assert [(s.name, s.init_from) for s in stages] == [
        ("tokenizer", {}),
        ("pretrain", {"init_from": "tokenizer"}),
        ("forecast", {"init_from": "pretrain"}),
    ]
