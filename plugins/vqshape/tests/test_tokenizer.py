"""The tokenizer: sizes, gradients and the contents of tokens."""

import pytest
import torch
from tstk_plugins_vqshape.decoder import ShapesToSeries
from tstk_plugins_vqshape.tokenizer import VQShape

from tstk.core.types import Series, Spec

TINY = {"dim": 64, "depth": 1, "query_depth": 1, "heads": 4, "codes": 32}


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
