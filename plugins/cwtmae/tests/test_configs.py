"""The shipped configs: they resolve, have the published numbers of parameters, and run one after the other."""

import pytest
import torch

from tstk.assemble import assemble, rehearse
from tstk.config import resolve
from tstk.records import Spec

LONG, SHORT = Spec(channels=1, length=3000, classes=10), Spec(channels=1, length=500, classes=10)


def count(module):
    return sum(p.numel() for p in module.parameters())


def on_paper(config, spec):
    with torch.device("meta"):
        return assemble(config, spec)


@pytest.mark.parametrize("name", ["pretrain", "published", "tiny", "finetune-cot", "finetune-mlp"])
def test_each_config_resolves_and_its_parts_fit(config, name):
    resolved = config(name, ("test", {"tokenizer": {"use": "cwt"}} if "finetune" in name else {}))
    rehearse(resolved)
    assert resolved.use("head" if "finetune" in name else "decoder")


def test_what_is_compared_with_pretraining_has_the_same_parts(config):
    mine, pretrained = config("untrained", ("test", {"head": "linear"})).values, config("pretrain").values
    assert all(mine[k] == pretrained[k] for k in ("tokenizer", "encoder", "pipeline"))


def test_parameters_are_as_many_as_published(config):
    pipeline = on_paper(config("published"), LONG)
    assert count(pipeline) == 95_618_954
    assert count(pipeline.tokenizer) == 463_104
    assert count(pipeline.encoder.stack.blocks) == 63_793_152
    assert pipeline.encoder.table.numel() + pipeline.encoder.cls_place.numel() == 738_048
    assert count(pipeline.decoder.stack.blocks) == 25_206_784
    assert count(pipeline.decoder.embed) == 393_728
    assert pipeline.decoder.table.numel() + pipeline.decoder.cls_place.numel() == 492_032
    assert count(pipeline.loss.to_patch) == 307_800
    assert count(pipeline.loss.reduce) == 4_194_816
    assert count(pipeline.loss.to_samples) == 25_650


def test_the_tiny_model_has_as_many_as_published(config):
    pipeline = on_paper(config("tiny"), SHORT)
    assert count(pipeline) == 347_434
    assert pipeline.tokenizer.out.tokens == 40
    assert pipeline.tokenizer.out.target == 600


@pytest.mark.parametrize(("head", "total"), [("cot", 74_462_218), ("mlp", 66_450_698)])
def test_classifiers_have_as_many_as_published(config, head, total):
    parts = {k: config("published").values[k] for k in ("tokenizer", "encoder", "pipeline")}
    head = config(f"finetune-{head}").values["head"]
    pipeline = on_paper(resolve(("test", {**parts, "head": head})), LONG)
    assert count(pipeline) == total
    assert count(pipeline.tokenizer) + count(pipeline.encoder) == 64_996_608
