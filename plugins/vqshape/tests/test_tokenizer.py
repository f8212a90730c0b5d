"""The tokenizer: sizes, gradients and the contents of tokens."""

import pytest
import torch
from tstk_plugins_vqshape.decoder import ShapesToSeries
from tstk_plugins_vqshape.tokenizer import VQShape

from tstk.config.resolve import find_config, resolve_config
from tstk.config.toml import read_toml
from tstk.core.types import Series, Spec
from tstk.nn.attention import Attention
from tstk.nn.blocks import MLP

TINY = {"dim": 64, "depth": 1, "query_depth": 1, "heads": 4, "codes": 32}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "decoder", "count"),
    [
        (TINY, {"dim": 64, "depth": 1, "heads": 4}, 410_197),
        ({"dim": 256, "codes": 512}, {"dim": 256}, 9_478_997),
        ({"dim": 512, "codes": 512}, {"dim": 512}, 37_088_341),
        ({"dim": 512, "codes": 64}, {"dim": 512}, 37_084_757),
    ],
)
def test_there_are_as_many_parameters_as_published(options, decoder, count):
    with torch.device("meta"):
        tokenizer = VQShape(Spec(1, 512), **options)
        parts = tokenizer, ShapesToSeries(tokenizer.out, **decoder)
    assert sum(p.numel() for part in parts for p in part.parameters()) == count


def series(batch=3, length=64, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 1, length, generator=draw).cumsum(-1)
    return Series((x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True), sample_id=torch.arange(batch))


def build_tiny(length=64, **options):
    torch.manual_seed(0)
    sizes = {"dim": 16, "depth": 1, "query_depth": 1, "heads": 2, "tokens": 6, "codes": 5, "points": 32}
    return VQShape(Spec(1, length), **{**sizes, "shape_width": 16, "dropout": 0.0, "patch_drop": 0.0, **options})


def test_drawing_each_code_once_changes_neither_curves_nor_gradients():
    tokenizer = build_tiny().double()
    with torch.no_grad():
        tokenizer.codebook.codes.normal_()
    z = torch.randn(40, 3, 8, dtype=torch.double, requires_grad=True)
    weight = torch.randn(40, 3, 32, dtype=torch.double)
    learning = [z, *tokenizer.shape_decoder.parameters()]
    results = []
    for once in (False, True):
        chosen = tokenizer.codebook(z)
        assert len(chosen.ids.unique()) * 9 <= chosen.ids.numel()
        curves = (tokenizer._decode_shapes if once else lambda c, i: tokenizer.shape_decoder(c))(
            chosen.values, chosen.ids
        )
        results.append((curves, torch.autograd.grad((curves * weight).sum(), learning)))
    (plain, grads), (fast, fast_grads) = results
    torch.testing.assert_close(fast, plain)
    for a, b in zip(fast_grads, grads, strict=True):
        torch.testing.assert_close(a, b)


PUBLISHED = ["pretrain", "512-512", "512-128", "512-64", "512-32"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_configs_have_every_published_detail(name):
    config = resolve_config((name, read_toml(find_config(f"vqshape/{name}"))))
    tokenizer, decoder, train = (config.options(section) for section in ("tokenizer", "decoder", "train"))
    for options in (tokenizer, decoder):
        assert (options["dropout"], options["inner_dropout"], options["init"]) == (0.1, 0.1, "xavier-stacked")
    assert tokenizer["position_std"] == 1.0
    assert config.options("pipeline")["unbiased_norm"]
    assert (train["weight_decay_on"], train["warmup_steps"], train["final_lr_ratio"]) == ("all", 1000, 0.1)
    assert (tokenizer["dim"], tokenizer["codes"]) == (
        (256, 512) if name == "pretrain" else tuple(int(n) for n in name.split("-"))
    )


def test_attention_and_positions_start_as_published_on_request():
    torch.manual_seed(0)
    tokenizer = VQShape(Spec(1, 512), **TINY, init="xavier-stacked", position_std=1.0, inner_dropout=0.3)
    decoder = ShapesToSeries(tokenizer.out, dim=64, depth=1, heads=4, init="xavier-stacked", inner_dropout=0.3)
    assert tokenizer.table.std().item() == pytest.approx(1.0, rel=0.05)
    attentions = [part for whole in (tokenizer, decoder) for part in whole.modules() if isinstance(part, Attention)]
    assert len(attentions) == 4
    for attention in attentions:
        for projection in (attention.query, attention.key, attention.value):
            assert projection.weight.std().item() == pytest.approx((1 / (2 * 64)) ** 0.5, rel=0.05)
            assert not projection.bias.any()
        assert not attention.out.bias.any()
        assert attention.dropout == 0.3
    mlps = [part for whole in (tokenizer, decoder) for part in whole.modules() if isinstance(part, MLP)]
    assert [(part.dropout.p, part.hidden_dropout.p) for part in mlps] == [(0.1, 0.3)] * 3
