"""Attention against a numpy loop, and its treatment of masks."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from tstk.errors import OptionError
from tstk.nn.attention import Attention, check_heads, make_key_mask, rotate
from tstk.nn.positions import rotary_angles


def attend_by_loop(attention, x, context, seen):
    """One head and one query at a time, in float64; `seen` is [B, N, M] bool."""
    weights = {n: p.detach().double().numpy() for n, p in attention.named_parameters()}

    def linear(name, y):
        return y @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)

    x, context = x.detach().double().numpy(), context.detach().double().numpy()
    q, k, v = linear("query", x), linear("key", context), linear("value", context)
    size = q.shape[-1] // attention.heads
    out = np.zeros_like(q)
    for b, n in np.ndindex(*x.shape[:2]):
        keys = np.flatnonzero(seen[b, n])
        if not len(keys):
            continue
        joined = []
        for h in range(attention.heads):
            part = slice(h * size, (h + 1) * size)
            score = np.exp(k[b, keys, part] @ q[b, n, part] / np.sqrt(size))
            joined.append(score / score.sum() @ v[b, keys, part])
        out[b, n] = linear("out", np.concatenate(joined))
    return torch.from_numpy(out).float()


def inputs(m=5, key_dim=12):
    torch.manual_seed(0)
    valid = torch.tensor([[1] * m, [0, 1, 1] + [0] * (m - 3), [0] * m], dtype=torch.bool)
    return torch.randn(3, 5, 12), torch.randn(3, m, key_dim), valid


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_self_attention_equals_a_loop_over_heads_and_queries(causal, bias, masked):
    x, _, valid = inputs()
    attention = Attention(12, 3, causal=causal, bias=bias)
    seen = np.ones((3, 5, 5), bool)
    if masked:
        seen &= valid[:, None].numpy()
    if causal:
        seen &= np.tri(5, dtype=bool)
    got = attention(x, mask=make_key_mask(valid) if masked else None)
    torch.testing.assert_close(got, attend_by_loop(attention, x, x, seen), rtol=1e-4, atol=1e-5)


def test_cross_attention_equals_a_loop_and_the_output_map_always_has_a_bias():
    x, context, valid = inputs(m=7, key_dim=10)
    attention = Attention(12, 3, key_dim=10, bias=False)
    assert [n for n, _ in attention.named_parameters() if n.endswith("bias")] == ["out.bias"]
    seen = valid[:, None].expand(3, 5, 7).numpy()
    got = attention(x, context, mask=make_key_mask(valid))
    torch.testing.assert_close(got, attend_by_loop(attention, x, context, seen), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_a_query_that_may_see_nothing_gets_zero_and_no_nan_in_any_gradient(causal):
    x, _, valid = inputs()
    attention = Attention(12, 3, causal=causal)
    x.requires_grad_()
    y = attention(x, mask=make_key_mask(valid))
    assert not y[2].any()
    assert y[1, 0].any() != causal  # its own key is invalid, and a causal one sees no later
    y.square().sum().backward()
    assert all(t.grad.isfinite().all() for t in (x, *attention.parameters()))
    assert not x.grad[2].any()


@pytest.mark.parametrize("causal", [False, True])
def test_leaving_out_a_mask_that_hides_nothing_changes_nothing(causal):
    x, _, _ = inputs()
    valid = torch.ones(3, 5, dtype=torch.bool)
    attention = Attention(12, 3, causal=causal)
    assert make_key_mask(valid) is None
    torch.testing.assert_close(attention(x), attention(x, mask=valid[:, None, None]))


@pytest.mark.slow
def test_a_compiled_graph_keeps_the_mask():
    compiled = torch.compile(lambda valid: make_key_mask(valid), fullgraph=True, backend="eager")
    assert compiled(torch.ones(2, 3, dtype=torch.bool)).shape == (2, 1, 1, 3)


def test_cached_keys_give_what_attending_at_once_gives():
    x, _, valid = inputs()
    attention = Attention(12, 3, causal=True)
    turn = rotary_angles(torch.arange(5.0).expand(3, 5)[..., None], 4)
    whole = attention(x, mask=make_key_mask(valid), angles=turn)
    cache, parts = [], []
    for start, stop in ((0, 2), (2, 3), (3, 5)):
        part = tuple(t[:, :, start:stop] for t in turn)
        parts.append(attention(x[:, start:stop], mask=make_key_mask(valid[:, :stop]), angles=part, cache=cache))
    torch.testing.assert_close(torch.cat(parts, 1), whole)


def test_rotation_keeps_lengths_and_makes_products_depend_on_distance():
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 8)

    def product(a, b):
        turned = [rotate(t, rotary_angles(torch.tensor([[p]]), 8)) for t, p in ((q, a), (k, b))]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(rotate(q, rotary_angles(torch.tensor([[[3.0]]]), 8)).norm(), q.norm())
    torch.testing.assert_close(product([2.0], [5.0]), product([10.5], [13.5]))
    assert (product([2.0], [5.0]) - product([2.0], [6.0])).abs() > 1e-2
    # Two axes: each distance matters, and the place of the pair does not.
    torch.testing.assert_close(product([2.0, 1.0], [5.0, 0.0]), product([0.0, 8.0], [3.0, 7.0]))
    assert (product([2.0, 1.0], [5.0, 0.0]) - product([2.0, 0.0], [5.0, 1.0])).abs() > 1e-3


def test_rotation_in_half_precision_turns_in_float32():
    x = torch.randn(1, 1, 4, 8, dtype=torch.bfloat16)
    turn = rotary_angles(torch.arange(4)[None, :, None] + 1000, 8)
    assert turn[0].dtype == torch.float32
    torch.testing.assert_close(rotate(x, turn), rotate(x.float(), turn).bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize(("heads", "near"), [(6, "4, 8"), (0, "1"), (200, "128"), (-2, "1")])
def test_heads_that_do_not_divide_are_refused_with_those_that_do(heads, near):
    with pytest.raises(OptionError, match=f"heads={heads} does not divide dim=128; nearby: {near}$"):
        check_heads(heads, 128)


def test_shares_are_what_attention_weighs_values_by():
    torch.manual_seed(0)
    attention = Attention(12, 3, key_dim=7)
    x, context = torch.randn(2, 4, 12), torch.randn(2, 5, 7)
    mask = make_key_mask(torch.tensor([[True] * 5, [True, True, False, True, False]]))
    shares = attention.attention_weights(x, context, mask=mask)
    assert shares.shape == (2, 3, 4, 5)
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, 3, 4))
    assert not shares[1, :, :, [2, 4]].any()
    v = attention.value(context).unflatten(-1, (3, 4)).transpose(1, 2)
    want = attention.out((shares @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x, context, mask=mask), want)


def test_a_stacked_start_has_the_moments_of_torchs_multi_head_attention():
    torch.manual_seed(0)
    attention, reference = Attention(96, 4), torch.nn.MultiheadAttention(96, 4)
    before = attention.out.weight.detach().clone()
    attention.init_stacked_xavier()
    weights = torch.cat([attention.query.weight, attention.key.weight, attention.value.weight])
    assert weights.shape == reference.in_proj_weight.shape
    assert weights.std().item() == pytest.approx(reference.in_proj_weight.std().item(), rel=0.02)
    assert weights.abs().max().item() == pytest.approx(reference.in_proj_weight.abs().max().item(), rel=0.01)
    for layer in (attention.query, attention.key, attention.value, attention.out):
        assert not layer.bias.any()
    assert torch.equal(attention.out.weight, before)
    bare = Attention(96, 4, key_dim=32, bias=False)
    bare.init_stacked_xavier()
    assert bare.key.weight.abs().max() <= (6 / (32 + 3 * 96)) ** 0.5


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("name", ["query", "key", "value"])
def test_a_projection_with_hooks_or_a_method_of_its_own_is_called(name, rotary):
    torch.manual_seed(0)
    attention, x = Attention(16, 2, bias=False).eval(), torch.randn(2, 5, 16)
    angles = rotary_angles(torch.arange(5.0)[None, :, None], 8) if rotary else None
    doubled = deepcopy(attention)
    with torch.no_grad():
        getattr(doubled, name).weight.mul_(2)
    want, projection = doubled(x, angles=angles), getattr(attention, name)
    with projection.register_forward_hook(lambda layer, args, y: 2 * y):
        torch.testing.assert_close(attention(x, angles=angles), want)
    with projection.register_forward_pre_hook(lambda layer, args: 2 * args[0]):
        torch.testing.assert_close(attention(x, angles=angles), want)
    call = projection.forward
    projection.forward = lambda y: 2 * call(y)
    torch.testing.assert_close(attention(x, angles=angles), want)


def test_projections_with_replaced_weights_are_called():
    torch.manual_seed(0)
    attention, x = Attention(16, 2), torch.randn(2, 5, 16)
    before = attention(x)

    class Scaled(torch.Tensor):
        """A weight of another kind, as those of quantized layers."""

    attention.key.weight = torch.nn.Parameter(attention.key.weight.detach().as_subclass(Scaled))
    calls = []
    call = attention.key.forward
    attention.key.forward = lambda y: calls.append(y.shape) or call(y)
    torch.testing.assert_close(torch.Tensor(attention(x)), before)
    assert calls == [x.shape]
