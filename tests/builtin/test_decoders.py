"""What every decoder with attention promises."""

import pytest

from tstk.builtin.decoders.cross import Cross
from tstk.builtin.decoders.transformer import TransformerDecoder
from tstk.nn.attention import Attention
from tstk.records import Spec


@pytest.mark.parametrize(("kind", "want"), [(Cross, 0.3), (TransformerDecoder, 0.0)])
def test_dropout_reaches_or_spares_attention_as_the_help_says(kind, want):
    decoder = kind(Spec(channels=1, length=8, dim=64, grid=(4,), aligned=False), dropout=0.3)
    assert {part.dropout for part in decoder.modules() if isinstance(part, Attention)} == {want}
