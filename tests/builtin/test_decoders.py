"""Properties of all decoders with attention."""

import pytest
import torch

from tstk.builtin.decoders.cross import Cross
from tstk.builtin.decoders.transformer import TransformerDecoder
from tstk.core.types import Spec, Tokens
from tstk.nn.attention import Attention


@pytest.mark.parametrize(("kind", "want"), [(Cross, 0.3), (TransformerDecoder, 0.0)])
def test_dropout_reaches_or_spares_attention_as_the_help_says(kind, want):
    decoder = kind(Spec(channels=1, length=8, dim=64, grid_size=(4,), predicts_in_place=False), dropout=0.3)
    assert {part.dropout for part in decoder.modules() if isinstance(part, Attention)} == {want}


def grid_of(spec):
    """Encoded tokens at the even positions of a grid, and queries at all positions."""
    draw = torch.Generator().manual_seed(0)
    places = torch.cartesian_prod(*[torch.arange(g) for g in spec.grid_size]).reshape(spec.num_tokens, -1)
    places = places.float().expand(2, -1, -1)
    index = torch.arange(spec.num_tokens).expand(2, -1)
    values = torch.randn(2, spec.num_tokens, spec.dim, generator=draw)
    tokens = Tokens(values, places, index, torch.ones_like(index, dtype=torch.bool))
    seen = tokens.select(index % 2 == 0)
    return seen.replace(prefix=torch.randn(2, 1, spec.dim, generator=draw)), tokens


def test_a_flat_rotary_decoder_sees_a_grid_as_one_line():
    spec = Spec(channels=1, length=24, dim=8, grid_size=(4, 3), predicts_in_place=False, num_prefix_tokens=1)
    options = {"dim": 16, "depth": 1, "heads": 4, "positions": "rotary", "dropout": 0.0}
    torch.manual_seed(0)
    flat = TransformerDecoder(spec, **options, rope="flat")
    # the same tokens along one axis, in the order of the line
    line = TransformerDecoder(spec.replace(grid_size=(12,)), **options)
    line.load_state_dict(flat.state_dict())
    visible, queries = grid_of(spec)

    def place_on_line(tokens):
        number = tokens.pos[..., :1] + 4 * tokens.pos[..., 1:]
        return tokens.replace(pos=number, grid_index=number[..., 0].long())

    a, b = flat(visible, queries, None), line(place_on_line(visible), place_on_line(queries), None)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_a_decoder_may_start_like_the_encoder_and_give_cls_a_place():
    spec = Spec(channels=1, length=24, dim=8, grid_size=(4, 3), predicts_in_place=False, num_prefix_tokens=1)
    options = {"dim": 16, "depth": 1, "heads": 2, "dropout": 0.0}
    torch.manual_seed(0)
    decoder = TransformerDecoder(spec, **options, cls_pos_embed=True, bias=False, init="xavier")
    assert decoder.cls_pos_embed.shape == (1, 16)
    linear = decoder.stack.blocks[0].mlp.up
    assert not linear.bias.any()
    assert float(linear.weight.detach().abs().max()) == pytest.approx((6 / (16 + 64)) ** 0.5, rel=0.02)
    assert decoder.stack.blocks[0].attention.query.bias is None
    seen, asked = grid_of(spec)
    before = decoder(seen, asked, None)
    with torch.no_grad():
        decoder.cls_pos_embed += torch.randn(16)
    assert (decoder(seen, asked, None) - before).abs().max() > 1e-3
    assert TransformerDecoder(spec.replace(num_prefix_tokens=0), **options, cls_pos_embed=True).cls_pos_embed is None


def test_a_decoder_with_interleaved_positions_sees_the_first_token_at_one_and_the_cls_token_at_zero():
    spec = Spec(channels=1, length=24, dim=8, grid_size=(12,), predicts_in_place=False, num_prefix_tokens=1)
    torch.manual_seed(0)
    decoder = TransformerDecoder(spec, dim=16, depth=1, heads=2, positions="interleaved", dropout=0.0)
    visible, queries = grid_of(spec)
    entered = []
    decoder.stack.register_forward_pre_hook(lambda module, args: entered.append(args[0]))
    decoder(visible, queries, None)
    content = torch.where(
        (torch.arange(12) % 2 == 0)[:, None], visible.to_grid((12,)).mT @ decoder.embed.weight.T + decoder.embed.bias,
        decoder.mask_token,
    )  # fmt: skip
    content = torch.cat([decoder.embed(visible.prefix), content], 1)
    angle = torch.arange(13.0)[:, None] / 10000 ** (torch.arange(8) / 8)
    table = torch.stack([angle.sin(), angle.cos()], -1).flatten(1)
    torch.testing.assert_close(entered[0], content + table)
