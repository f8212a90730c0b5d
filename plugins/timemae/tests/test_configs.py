"""The configs of this plugin: they resolve, have the published numbers of parameters, and train."""

import pytest
import torch

from tstk.config.resolve import find_config, resolve_config
from tstk.config.toml import read_toml
from tstk.core.rng import SampleRNG
from tstk.core.types import Spec
from tstk.data.load import load_data
from tstk.evaluation.evaluate import evaluate
from tstk.runs import checkpoint
from tstk.runs.build import build_pipeline, validate_on_meta
from tstk.runs.checkpoint import initialize_for_training

HAR = Spec(channels=9, length=128, task="classification", num_outputs=6)
TINY = {
    "tokenizer": {"dim": 32},
    "encoder": {"dim": 32, "depth": 2, "heads": 4},
    "decoder": {"depth": 1},
    "loss": {"codes": 32},
}


def load_config(name, *layers):
    return resolve_config((name, read_toml(find_config(f"timemae/{name}"))), *layers)


def count(module):
    return sum(p.numel() for p in module.parameters())


def bound(config):
    pipeline = build_pipeline(config, HAR)
    pipeline.bind()
    return pipeline


@pytest.mark.parametrize("name", ["pretrain", "published", "bert", "finetune", "probe"])
def test_each_config_resolves_and_builds(name):
    config = load_config(name)
    validate_on_meta(config)
    assert config.component("head" if name in ("finetune", "probe") else "decoder")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layers", "pretraining", "head"),
    [
        ("published", [], 1_017_960, 390),
        ("bert", [], 15_869_166 - 1_542, 1_542),
        ("published", [("tiny", TINY)], 67_664 - 198, 198),
    ],
)
def test_parameters_are_as_many_as_published(name, layers, pretraining, head):
    config = load_config(name, *layers)
    assert count(bound(config)) == pretraining
    classifier = bound(
        resolve_config(("tuned", {k: config.values[k] for k in ("tokenizer", "encoder")}), ("head", {"head": "linear"}))
    )
    assert count(classifier.head) == head


def test_each_component_has_the_published_number_of_parameters():
    pipeline = bound(load_config("published"))
    shared = {id(pipeline.encoder.table)}
    assert count(pipeline.tokenizer) == 4_672
    assert pipeline.encoder.table.numel() == 1_024
    assert count(pipeline.encoder) - 1_024 == 399_888
    assert sum(p.numel() for p in pipeline.loss.teacher.parameters() if id(p) not in shared) == 399_888
    assert count(pipeline.loss.codeword_classifier) == 12_480
    assert pipeline.decoder.mask_token.numel() == 64
    assert count(pipeline.decoder) - 64 == 199_944


@pytest.mark.slow
def test_a_bert_of_width_256_has_the_published_size():
    assert count(build_pipeline(load_config("bert"), HAR).encoder.stack) == 6_318_096


@pytest.mark.slow
def test_nine_of_sixteen_tokens_of_har_are_masked():
    pipeline = bound(load_config("pretrain"))
    data = load_data()
    series = data.train.batch(torch.arange(4))
    step_output = pipeline(series, SampleRNG(0, 1, series.sample_id))
    assert step_output.visible.values.shape[:2] == (4, 7)
    assert step_output.predictions.shape[:2] == (4, 9)
    published = bound(load_config("published"))
    positions = published(series, SampleRNG(0, 1, series.sample_id)).queries.grid_index
    assert (positions == positions[:1]).all()
    assert not (step_output.queries.grid_index == step_output.queries.grid_index[:1]).all()


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["cross", "timemae"])
@pytest.mark.parametrize("encoder", ["transformer", "bert", "timemae"])
def test_the_loss_falls_on_the_demo_set(encoder, decoder):
    tables = {
        "tokenizer": {"use": "patch", "dim": 64},
        "encoder": {"use": encoder, "dim": 64, "depth": 2, "heads": 4},
        "decoder": {"use": decoder, "depth": 2},
        "loss": {"use": "timemae", "codes": 32},
    }
    data = load_data()
    torch.manual_seed(0)
    pipeline, _ = initialize_for_training(resolve_config(("test", tables)), data.spec)
    pipeline.mean.copy_(data.mean[:, None])
    pipeline.std.copy_(data.std[:, None])
    optimizer = torch.optim.AdamW([p for p in pipeline.parameters() if p.requires_grad], 1e-3)
    before = evaluate(pipeline, data.val)
    order = torch.Generator().manual_seed(0)
    pipeline.train()
    for step in range(1, 31):
        series = data.train.batch(torch.randperm(len(data.train), generator=order)[:64])
        step_output = pipeline(series, SampleRNG(0, step, series.sample_id))
        step_output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        pipeline.after_step([step_output])
    after = evaluate(pipeline, data.val)
    assert after["loss"] < 0.9 * before["loss"]
    assert after["align"] < before["align"]


@pytest.mark.slow
def test_a_run_is_pretrained_probed_and_tuned_from_its_directory(tmp_path):
    from tstk.training.runs import train

    one_epoch = ("test", {"train": {"epochs": 1}})
    tiny = ("tiny", {**TINY, "train": {"epochs": 1}})
    run = str(tmp_path / "run")
    result = train(load_config("pretrain", tiny), run)
    assert {"align", "classify", "hits", "usage"} <= result.test.keys()
    pretrained = checkpoint.load(run)
    assert pretrained.loss.teacher is not None
    for name in ("probe", "finetune"):
        init_from = ("init-from", {"pipeline": {"init_from": run}})
        config = load_config(name, init_from, one_epoch)
        result = train(config, str(tmp_path / name))
        assert result.test["accuracy"] > 0
        assert result.parameters == count(pretrained.tokenizer) + count(pretrained.encoder) + 198
        assert result.trainable == (198 if name == "probe" else result.parameters)
    probed = checkpoint.load(str(tmp_path / "probe"))
    assert torch.equal(probed.encoder.table, pretrained.encoder.table)


def test_the_published_config_has_every_published_detail():
    config = load_config("published")
    pipeline = bound(config)
    assert pipeline.encoder.stack.blocks[0].mlp.dropout.p == pytest.approx(1 - 0.8**2)
    assert pipeline.decoder.blocks[0].mlp.dropout.p == pytest.approx(1 - 0.9**2)
    assert not pipeline.loss.teacher_has_started
    assert config.options("train")["weight_decay_on"] == "all"
    assert config.options("data")["val_fraction"] == 0.0
