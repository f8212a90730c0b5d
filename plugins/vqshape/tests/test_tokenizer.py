"""Sizes, gradient routes and what tokens are."""

import pytest
import torch

from tstk.records import Series, Spec
from tstk_plugins_vqshape.decoder import ShapesToSeries
from tstk_plugins_vqshape.tokenizer import VQShape

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
