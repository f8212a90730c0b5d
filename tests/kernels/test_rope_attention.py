"""Rotary attention: the reference against a loop, the composite against the reference."""

import numpy as np
import pytest
import torch
from torch import nn

from tstk.kernels import rope_attention
from tstk.nn.attention import Attention, make_key_mask
from tstk.nn.positions import rotary_angles

SHAPES = [(1, 1, 1, 2), (2, 3, 5, 16), (3, 2, 26, 24), (2, 1, 75, 64), (2, 2, 33, 128)]


def attend_by_loop(q, k, v, angles, seen):
    """One query at a time; `seen` is [B, N, N]."""
    half = q.shape[-1] // 2
    turns = (angles[0] + 1j * angles[1]).numpy().astype(complex)
    q, k, v = (t.double().numpy() for t in (q, k, v))
    q, k = ((x[..., :half] + 1j * x[..., half:]) * turns for x in (q, k))
    out = np.zeros_like(v)
    for b, h, n in np.ndindex(*v.shape[:3]):
        keys = np.flatnonzero(seen[b, n])
        if len(keys):
            share = np.exp((k[b, h, keys] @ q[b, h, n].conj()).real / np.sqrt(2 * half))
            out[b, h, n] = share / share.sum() @ v[b, h, keys]
    return torch.from_numpy(out)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
def test_the_reference_equals_a_loop_over_queries(rope, causal, ragged):
    case = rope(2, 2, 6, 8, axes=2, ragged=ragged, causal=causal)
    seen = np.ones((2, 6, 6), bool) if case.valid is None else case.valid[:, None].repeat(1, 6, 1).numpy()
    if causal:
        seen = np.tril(seen)
    want = attend_by_loop(*case.qkv, case.angles, seen)
    torch.testing.assert_close(case("reference", torch.float64)[0], want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outputs_and_gradients_are_those_of_the_reference(rope, shape, ragged, causal):
    rope(*shape, ragged=ragged, causal=causal).agrees("torch", 3e-6)


@pytest.mark.parametrize("seed", range(8))
def test_so_they_are_for_random_questions(rope, seed):
    draw = np.random.default_rng(seed)
    b, h, n, axes = (int(draw.integers(1, top)) for top in (4, 5, 150, 3))
    options = {"ragged": bool(draw.integers(2)), "causal": bool(draw.integers(2)), "scale": float(draw.random())}
    rope(b, h, n, 2 * axes * int(draw.integers(1, 24)), axes=axes, seed=seed, **options).agrees("torch", 5e-6)


@pytest.mark.parametrize("scale", [0.0, -0.7, -1e-40, 1e-50, 1e-30])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_finite_scale_is_taken_forward_and_backward(rope, dtype, ragged, scale):
    for n, width in ((33, 16), (20, 32)):
        case = rope(2, 2, n, width, ragged=ragged, causal=True, scale=scale, dtype=dtype)
        case.agrees("torch", 1e-5 if dtype == torch.float32 else 4e-2)
        assert all(t.isfinite().all() for t in case("torch"))


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -float("inf")])
def test_a_scale_that_is_not_finite_is_refused(rope, scale):
    with pytest.raises(ValueError, match=r"scale=.*expected a finite number"):
        rope(1, 1, 3, 16, scale=scale)("torch")


@pytest.mark.slow
@pytest.mark.parametrize(("n", "width"), [(64, 32), (400, 32), (64, 8)])  # three steps, the fused kernel, in float32
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.bfloat16, 1.5e-2), (torch.float16, 2e-3)])
def test_half_precision_is_rounded_once(rope, dtype, atol, causal, n, width):
    rope(2, 2, n, width, ragged=True, causal=causal, dtype=dtype).agrees("torch", atol)


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("causal", [False, True])
def test_a_query_that_may_see_no_key_gives_zero_and_no_nan_in_any_gradient(rope, backend, causal):
    case = rope(3, 2, 5, 8, causal=causal)
    case.valid = torch.tensor([[0] * 5, [0, 1, 1, 0, 0], [1] * 5], dtype=torch.bool)
    out, *grads = case(backend)
    assert not out[0].any()
    assert out[1, :, 0].any() != causal  # its own key is invalid, and a causal one sees no later
    assert out[2].any()
    assert all(g.isfinite().all() and not g[0].any() for g in grads)
    assert not any(g[1, :, ~case.valid[1]].any() for g in grads[1:])


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_shifting_all_positions_changes_nothing(backend):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, 9, 16, dtype=torch.float64).unbind(0)
    pos = torch.arange(9.0).expand(2, 9)[..., None]
    near, far = (rope_attention(q, k, v, rotary_angles(p, 16), backend=backend) for p in (pos, pos + 500))
    torch.testing.assert_close(near, far, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(near, rope_attention(q, k, v, rotary_angles(2 * pos, 16), backend=backend), atol=1e-3)


def test_angles_of_one_series_serve_all(rope):
    case = rope(3, 2, 7, 16)
    case.angles = tuple(t[:1] for t in case.angles)
    case.agrees("torch", 3e-6)


def test_strides_do_not_matter(rope):
    case, apart = rope(2, 2, 7, 16), rope(2, 2, 7, 16)
    apart.qkv = [torch.stack([t, t], -1)[..., 0] for t in case.qkv]
    assert not any(t.stride(-1) == 1 for t in apart.qkv)
    for got, want in zip(apart("torch"), case("torch"), strict=True):
        torch.testing.assert_close(got, want)


def test_nothing_that_was_given_is_changed(rope):
    case = rope(2, 2, 7, 16)
    before = [t.clone() for t in (*case.qkv, *case.angles, case.grad)]
    case("torch")
    assert all(torch.equal(a, b) for a, b in zip(before, (*case.qkv, *case.angles, case.grad), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_compiled_graph_is_whole_and_agrees(rope, dtype):
    case = rope(2, 2, 6, 16, ragged=True, causal=True, dtype=dtype)

    def call(q, k, v):
        return rope_attention(q, k, v, case.angles, valid=case.valid, causal=True)

    leaves = [t.detach().requires_grad_() for t in case.qkv]
    out = torch.compile(call, fullgraph=True, backend="aot_eager")(*leaves)
    got = out, *torch.autograd.grad(out, leaves, case.grad.to(dtype))
    for a, b in zip(got, case("reference", torch.float64), strict=True):
        assert (a - b).abs().max() < (1e-5 if dtype == torch.float32 else 3e-2)


@pytest.mark.slow
def test_an_exported_graph_takes_any_batch_and_has_only_torch_s_own_operations(rope):
    class Whole(nn.Module):
        def forward(self, q, k, v, cos, sin, valid):
            return rope_attention(q, k, v, (cos, sin), valid=valid)

    case, other = (rope(b, 2, 6, 16, ragged=True, seed=b) for b in (2, 5))
    batch = {0: torch.export.Dim("batch")}
    exported = torch.export.export(
        Whole(),
        (*case.qkv, *case.angles, case.valid),
        dynamic_shapes=dict.fromkeys(["q", "k", "v", "cos", "sin", "valid"], batch),
    )
    assert "tstk" not in str(exported.graph)
    assert "complex" not in str(exported.graph)
    got = exported.module()(*other.qkv, *other.angles, other.valid)
    torch.testing.assert_close(got, other("torch")[0])


class Wrapped(nn.Linear):
    """A map of another type, as a low-rank adapter would be."""


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_attention_whose_maps_are_wrapped_gives_the_same(causal, bias):
    torch.manual_seed(0)
    plain = Attention(24, 3, causal=causal, bias=bias)
    wrapped = Attention(24, 3, causal=causal, bias=bias)
    wrapped.query, wrapped.key = Wrapped(24, 24, bias=bias), Wrapped(24, 24, bias=bias)
    wrapped.load_state_dict(plain.state_dict())
    x, turn = torch.randn(3, 5, 24), rotary_angles(torch.arange(5.0).expand(3, 5)[..., None], 8)
    mask = make_key_mask(torch.tensor([[1] * 5, [0, 1, 1, 0, 0], [0] * 5], dtype=torch.bool))
    results = []
    for attention in (plain, wrapped):
        y = attention(x, mask=mask, angles=turn)
        results.append((y, *torch.autograd.grad(y.square().sum(), attention.parameters())))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_attention_turns_in_float32_under_autocast():
    torch.manual_seed(0)
    attention, x = Attention(32, 2), torch.randn(2, 5, 32)
    turn = rotary_angles(torch.arange(5.0).expand(2, 5)[..., None] + 1000, 16)
    with torch.autocast("cpu", torch.bfloat16):
        got = attention(x, angles=turn)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), attention(x, angles=turn), rtol=0, atol=2e-2)


@pytest.mark.parametrize("width", [8, 32])
def test_so_they_are_under_autocast(rope, width):
    case = rope(2, 2, 20, width, causal=True, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        case.agrees("torch", 1.5e-2)


def test_shapes_that_do_not_fit_are_refused_with_those_that_were_given(rope):
    case = rope(2, 2, 5, 8)
    q, k, v = case.qkv
    with pytest.raises(ValueError, match=r"q \[2, 2, 5, 8\], k \[2, 2, 4, 8\]"):
        rope_attention(q, k[:, :, :4], v, case.angles)
    with pytest.raises(ValueError, match=r"angles \[2, 1, 4, 4\].*expected \[2 or 1, 1, 5, 4\]"):
        rope_attention(q, k, v, tuple(t[:, :, :4] for t in case.angles))
    with pytest.raises(ValueError, match=r"valid \[2, 5\], torch.int64; expected \[2, 5\] bool"):
        rope_attention(q, k, v, case.angles, valid=torch.ones(2, 5, dtype=torch.long))
