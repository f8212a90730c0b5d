"""The configs of this plugin: they resolve, have the published numbers of parameters, and train in sequence."""

import numpy as np
import pytest
import torch

from tstk.config.recipe import run_recipe
from tstk.config.resolve import resolve_config
from tstk.core.types import Series, Spec
from tstk.runs.build import build_pipeline, validate_on_meta
from tstk.runs.checkpoint import load
from tstk.training.runs import train

LONG, SHORT = Spec(1, 3000, "classification", 10), Spec(1, 500, "classification", 10)


def count(module):
    return sum(p.numel() for p in module.parameters())


def build_on_meta(config, spec):
    with torch.device("meta"):
        return build_pipeline(config, spec)


@pytest.mark.parametrize(
    "name", ["pretrain", "published", "tiny", "finetune-cot", "finetune-published", "finetune-mlp"]
)
def test_each_config_resolves_and_its_parts_fit(config, name):
    resolved = config(name, ("test", {"tokenizer": {"use": "cwt"}} if "finetune" in name else {}))
    validate_on_meta(resolved)
    assert resolved.component("head" if "finetune" in name else "decoder")


def test_the_published_configs_have_what_the_class_of_the_original_has(config):
    """The class is tested against formulas; here, that the configs build the same components."""
    from tstk_plugins_cwtmae import CWT_MAE_RoPE

    for name, spec, sizes in (
        ("published", LONG, {}),
        ("tiny", SHORT, {"cwt_scales": 16, "embed_dim": 96, "depth": 2, "num_heads": 4,
                         "decoder_embed_dim": 64, "decoder_depth": 1, "decoder_num_heads": 4}),
    ):  # fmt: skip
        with torch.device("meta"):
            model = CWT_MAE_RoPE(spec.length, **sizes).pipeline
        resolved = config(name)
        pipeline = build_on_meta(resolved, spec)
        assert [p.shape for p in pipeline.parameters()] == [p.shape for p in model.parameters()]
        assert (
            (pipeline.loss.z_score, pipeline.loss.round_up) == (model.loss.z_score, model.loss.round_up) == (True, True)
        )
        assert resolved.options("encoder")["init"] == resolved.options("decoder")["init"] == "xavier-stacked"
    train = config("published").options("train")
    assert train["lr"] * train["final_lr_ratio"] == pytest.approx(1e-6, rel=1e-3)
    assert train["weight_decay_on"] == config("finetune-published").options("train")["weight_decay_on"] == "all"
    assert config("finetune-published").options("head") | {"dropout": 0.2} == {
        "tokens": 8, "heads": 12, "dropout": 0.2, "mlp_dropout": "hidden", "init": "xavier-stacked",
    }  # fmt: skip


def test_what_is_compared_with_pretraining_has_the_same_parts(config):
    untrained, pretrained = config("untrained", ("test", {"head": "linear"})).values, config("pretrain").values
    assert all(untrained[k] == pretrained[k] for k in ("tokenizer", "encoder", "pipeline"))


@pytest.mark.slow
def test_parameters_are_as_many_as_published(config):
    pipeline = build_on_meta(config("published"), LONG)
    assert count(pipeline) == 95_618_954
    assert count(pipeline.tokenizer) == 463_104
    assert count(pipeline.encoder.stack.blocks) == 63_793_152
    assert pipeline.encoder.table.numel() + pipeline.encoder.cls_pos_embed.numel() == 738_048
    assert count(pipeline.decoder.stack.blocks) == 25_206_784
    assert count(pipeline.decoder.embed) == 393_728
    assert pipeline.decoder.table.numel() + pipeline.decoder.cls_pos_embed.numel() == 492_032
    assert count(pipeline.loss.to_patch) == 307_800
    assert count(pipeline.loss.scale_conv) == 4_194_816
    assert count(pipeline.loss.to_samples) == 25_650


def test_the_tiny_model_has_as_many_as_published(config):
    pipeline = build_on_meta(config("tiny"), SHORT)
    assert count(pipeline) == 347_434
    assert pipeline.tokenizer.out.num_tokens == 40
    assert pipeline.tokenizer.out.target_dim == 600


@pytest.mark.parametrize(("head", "total"), [("cot", 74_462_218), ("mlp", 66_450_698)])
def test_classifiers_have_as_many_as_published(config, head, total):
    parts = {k: config("published").values[k] for k in ("tokenizer", "encoder", "pipeline")}
    head = config(f"finetune-{head}").values["head"]
    pipeline = build_on_meta(resolve_config(("test", {**parts, "head": head})), LONG)
    assert count(pipeline) == total
    assert count(pipeline.tokenizer) + count(pipeline.encoder) == 64_996_608


def waves(path, length, count=24):
    """Sines of two frequencies, labelled."""
    rng = np.random.default_rng(0)
    y = np.arange(count) % 2
    phase, time = rng.uniform(0, 6, (count, 1)), np.arange(length)
    x = np.sin(phase + time * np.where(y, 0.4, 0.15)[:, None]) + 0.1 * rng.normal(size=(count, length))
    x = x[:, None].astype(np.float32)
    np.savez(path, X_train=x, y_train=y, X_test=x[::-1], y_test=y[::-1])
    return str(path)


BRIEF = ("brief", {"train": {"epochs": 2, "batch_size": 8, "device": "cpu"}})
SLIM = (
    "slim",
    {
        "tokenizer": {"dim": 24, "scales": 8, "max_scale": 8.0},
        "encoder": {"dim": 24, "depth": 1, "heads": 2},
        "decoder": {"dim": 16, "depth": 1, "heads": 2},
    },
)


@pytest.fixture(scope="module")
def pretrained(config, tmp_path_factory):
    """A run of cwtmae/pretrain with small sizes, on series of 60 samples."""
    folder = tmp_path_factory.mktemp("cwtmae")
    data = ("data", {"data": waves(folder / "short.npz", 60)})
    precise = ("bf16", {"train": {"precision": "bf16", "gradient_checkpointing": True}})
    result = train(config("pretrain", SLIM, BRIEF, data, precise), folder / "run")
    assert {"spectrum", "time", "loss"} <= result.test.keys()
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("head", ["cot", "mlp"])
def test_a_pretrained_run_is_tuned_at_twice_its_length_without_what_only_pretraining_needs(
    config, pretrained, head, tmp_path
):
    start = ("from", {"pipeline": {"init_from": str(pretrained)}})
    data = ("data", {"data": waves(tmp_path / "long.npz", 120)})
    result = train(config(f"finetune-{head}", start, data, BRIEF), tmp_path / "tuned")
    assert result.test["accuracy"] > 0
    tuned, old = load(tmp_path / "tuned"), load(pretrained)
    assert tuned.tokenizer.out.grid_size == (12, 2)
    assert tuned.encoder.table.shape == (24, 24)
    assert old.encoder.table.shape == (12, 24)
    assert tuned.decoder is None
    assert {name.partition(".")[0] for name in tuned.state_dict()} == {
        "mean",
        "std",
        "tokenizer",
        "encoder",
        "head",
        "loss",
    }
    assert [n for n in tuned.state_dict() if n.startswith("loss.")] == ["loss.weight"]


@pytest.mark.slow
def test_at_the_same_length_a_tuned_run_starts_from_the_very_weights(config, pretrained):
    from tstk.training.runs import prepare_training

    pipeline, _ = prepare_training(config("finetune-cot", ("from", {"pipeline": {"init_from": str(pretrained)}})))
    for name, value in load(pretrained).encoder.state_dict().items():
        assert torch.equal(pipeline.encoder.state_dict()[name], value), name


def test_half_precision_gives_nearly_the_same_loss(config, pretrained):
    from tstk.core.rng import SampleRNG

    pipeline = load(pretrained)
    series = Series(torch.randn(4, 1, 60).cumsum(-1), sample_id=torch.arange(4))
    with torch.no_grad():
        exact = pipeline(series, SampleRNG(0, 0, series.sample_id)).loss
        with torch.autocast("cpu", torch.bfloat16):
            rough = pipeline(series, SampleRNG(0, 0, series.sample_id)).loss
    assert rough == pytest.approx(float(exact), rel=0.02)


@pytest.mark.slow
def test_the_recipe_pretrains_and_tunes_both_heads(tmp_path):
    small = {"epochs": 1, "batch_size": 8}
    slim = {f"{slot}__{k}": v for slot, table in SLIM[1].items() for k, v in table.items()}
    results = run_recipe(
        "cwtmae",
        tmp_path / "out",
        lambda config, run, stage: train(config, run),
        overrides=("data", {"data": waves(tmp_path / "short.npz", 60), "train": {"device": "cpu"}}),
        stage_overrides={"pretrain": {**small, **slim}, "cot": small, "mlp": small},
    )
    assert list(results) == ["pretrain", "cot", "mlp"]
    assert results["pretrain"].task == "pretraining"
    assert all(0 <= results[stage].test["accuracy"] <= 1 for stage in ("cot", "mlp"))
