"""Blocks against torch's own layers, and the sizes that papers report."""

import pytest
import torch
from torch import nn

from tstk.errors import OptionError
from tstk.kernels.dropout import apply_dropout
from tstk.nn.blocks import MLP, Block, CrossBlock, LowRankLinear, Stack


def size(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_block_equals_torchs_encoder_layer(norm):
    torch.manual_seed(0)
    block = Block(12, 3, hidden=20, norm=norm)
    reference = nn.TransformerEncoderLayer(12, 3, 20, 0.0, "gelu", batch_first=True, norm_first=norm == "pre")
    ours = block.state_dict()
    qkv = ["attention.query", "attention.key", "attention.value"]
    state = {
        "self_attn.in_proj_weight": torch.cat([ours[f"{n}.weight"] for n in qkv]),
        "self_attn.in_proj_bias": torch.cat([ours[f"{n}.bias"] for n in qkv]),
    }
    pairs = {
        "self_attn.out_proj": "attention.out",
        "linear1": "mlp.up",
        "linear2": "mlp.down",
        "norm1": "attention_norm",
        "norm2": "mlp_norm",
    }
    state |= {f"{a}.{p}": ours[f"{b}.{p}"] for a, b in pairs.items() for p in ("weight", "bias")}
    reference.load_state_dict(state)
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(block(x), reference(x))


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_residual_scale_of_one_changes_nothing_and_of_zero_leaves_the_input(norm):
    torch.manual_seed(0)
    plain, scaled = Block(12, 3, norm=norm), Block(12, 3, norm=norm, residual_scale=1.0)
    scaled.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(plain(x), scaled(x))
    nn.init.zeros_(scaled.attention_scale)
    nn.init.zeros_(scaled.mlp_scale)
    expected = x if norm == "pre" else scaled.mlp_norm(scaled.attention_norm(x))
    torch.testing.assert_close(scaled(x), expected)
    scaled(x).square().sum().backward()
    assert scaled.attention_scale.grad.item() or scaled.mlp_scale.grad.item()


def test_queries_of_a_cross_block_do_not_see_one_another():
    torch.manual_seed(0)
    block = CrossBlock(12, 3, key_dim=8)
    x, context = torch.randn(2, 5, 12), torch.randn(2, 7, 8)
    changed = torch.cat([x[:, :1], torch.randn(2, 4, 12)], 1)
    torch.testing.assert_close(block(x, context)[:, 0], block(changed, context)[:, 0])
    assert (block(x, context)[:, 0] - block(x, -context)[:, 0]).abs().max() > 1e-3


def test_a_low_rank_map_is_two_maps_and_never_wider_than_the_dense_one():
    torch.manual_seed(0)
    narrow = LowRankLinear(100, 80, 0.5)
    assert narrow.v.weight.shape == (40, 100)
    dense = narrow.u.weight @ narrow.v.weight
    x = torch.randn(3, 100)
    torch.testing.assert_close(narrow(x), x @ dense.T + narrow.u.bias)
    assert LowRankLinear(100, 80, 0.01).v.out_features == 32
    assert LowRankLinear(16, 80, 0.5).v.out_features == 16
    with pytest.raises(OptionError, match=r"rank_ratio=1\.5"):
        LowRankLinear(8, 8, 1.5)


@pytest.mark.slow
def test_sizes_are_those_of_the_published_models():
    assert size(MLP(768, 3072)) == 4_722_432
    assert size(MLP(768, 3072, rank_ratio=0.5)) == 2_952_960  # CWT-MAE
    assert size(Block(768, 12, bias=False, rank_ratio=0.5)) == 5_316_096
    assert size(Stack(8, 256, 4, norm="post")) == 6_318_080  # google/bert_uncased_L-8_H-256_A-4
    assert size(Stack(8, 256, 4, norm="post", residual_scale=1e-8)) == 6_318_096  # TimeMAE


def test_a_pre_norm_stack_ends_with_a_norm_and_a_post_norm_one_with_its_blocks():
    torch.manual_seed(0)
    x = 50 * torch.randn(2, 5, 12)
    y = Stack(2, 12, 3)(x)
    torch.testing.assert_close(y.var(-1, unbiased=False), torch.ones(2, 5), rtol=0, atol=1e-3)
    assert [n for n, _ in Stack(0, 12, 3, norm="post").named_parameters()] == []


def test_dropout_is_off_in_eval_and_on_in_training():
    torch.manual_seed(0)
    stack, x = Stack(2, 12, 3, dropout=0.5, attention_dropout=0.5), torch.randn(2, 5, 12)
    assert (stack(x) - stack(x)).abs().max() > 1e-2
    stack.eval()
    torch.testing.assert_close(stack(x), stack(x), rtol=0, atol=0)


def test_running_blocks_again_gives_the_same_gradients():
    torch.manual_seed(0)
    stack, x = Stack(3, 12, 3), torch.randn(2, 5, 12, requires_grad=True)
    mask = torch.arange(5)[None, None, None] < torch.tensor([5, 3])[:, None, None, None]
    want = torch.autograd.grad(stack(x, mask=mask).square().sum(), [x, *stack.parameters()])
    runs = []
    for block in stack.blocks:
        block.register_forward_pre_hook(lambda *_: runs.append(1))
    stack.gradient_checkpointing = True
    got = torch.autograd.grad(stack(x, mask=mask).square().sum(), [x, *stack.parameters()])
    assert len(runs) == 6
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        stack(x)
    assert len(runs) == 9


def test_dropout_inside_an_mlp_stands_between_activation_and_second_layer():
    torch.manual_seed(0)
    mlp, x = MLP(8, 32, hidden_dropout=0.5), torch.randn(2, 5, 8)
    torch.manual_seed(1)
    got = mlp(x)
    torch.manual_seed(1)
    want = mlp.down(apply_dropout(torch.nn.functional.gelu(mlp.up(x)), 0.5))
    assert torch.equal(got, want)
    assert torch.equal(mlp.eval()(x), mlp.down(torch.nn.functional.gelu(mlp.up(x))))
    stack = Stack(2, 8, 2, hidden_dropout=0.25)
    assert [block.mlp.hidden_dropout.p for block in stack.blocks] == [0.25, 0.25]
