"""The kernels of rotary attention, on a GPU if there is one and else in Triton's interpreter, against the reference."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported, by whomever

pytest.importorskip("triton")

from tstk.errors import IncompatibleError
from tstk.kernels import rope_attention
from tstk.kernels.rope_attention import triton

pytestmark = pytest.mark.slow  # Triton's interpreter

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Of one query, of odd widths, of several tiles.
SHAPES = [(1, 1, 1, 16), (2, 3, 5, 16), (2, 2, 26, 24), (2, 1, 75, 16), (2, 9, 20, 128)]
SHORT, LONG = (9, 16), (257, 16)
# The interpreter rounds to bfloat16 by cutting off.
ROUNDING = {torch.float32: 3e-6, torch.float16: 2e-3, torch.bfloat16: 1.5e-2 if DEVICE == "cuda" else 5e-2}


@pytest.mark.slow
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outputs_and_gradients_are_those_of_the_reference(rope, shape, ragged, causal):
    rope(*shape, ragged=ragged, causal=causal, device=DEVICE).agrees("triton", 3e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("n", "d"), [(70, 64), (130, 16), (130, 128)])
def test_half_precision_is_rounded_once(rope, n, d, dtype):
    rope(2, 1, n, d, ragged=True, dtype=dtype, device=DEVICE).agrees("triton", ROUNDING[dtype])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_so_they_are_for_random_questions(rope, seed):
    draw = np.random.default_rng(seed)
    b, h, n, half = (int(draw.integers(low, top)) for low, top in ((1, 4), (1, 4), (1, 160), (8, 65)))
    options = {"ragged": bool(draw.integers(2)), "causal": bool(draw.integers(2)), "scale": float(draw.random())}
    dtype = list(ROUNDING)[seed % 3]
    case = rope(b, h, n, 2 * half, seed=seed, dtype=dtype, device=DEVICE, **options)
    case.agrees("triton", 2 * ROUNDING[dtype])


@pytest.mark.slow
@pytest.mark.parametrize(("n", "d"), [SHORT, LONG])
@pytest.mark.parametrize("scale", [0.0, -0.7, -1e-40, 1e-50])
def test_any_finite_scale_is_taken_forward_and_backward(rope, scale, n, d):
    for ragged in (False, True):
        rope(2, 2, n, d, ragged=ragged, causal=True, scale=scale, device=DEVICE).agrees("triton", 1e-5)


@pytest.mark.parametrize(("n", "d"), [SHORT, LONG])
@pytest.mark.parametrize("causal", [False, True])
def test_a_query_that_may_see_no_key_gives_zero_and_no_nan_in_any_gradient(rope, causal, n, d):
    case = rope(3, 2, n, d, causal=causal, device=DEVICE)
    case.valid = torch.zeros(3, n, dtype=torch.bool, device=DEVICE)
    case.valid[1, 1], case.valid[2] = True, True
    out, *grads = case("triton")
    assert not out[0].any()
    assert out[1, :, 0].any() != causal  # its own key is invalid, and a causal one sees no later
    assert out[2].any()
    assert all(g.isfinite().all() and not g[0].any() for g in grads)
    assert not any(g[1, :, ~case.valid[1]].any() for g in grads[1:])


@pytest.mark.slow
@pytest.mark.parametrize(("n", "d"), [SHORT, LONG])
def test_strides_do_not_matter_and_angles_of_one_series_serve_all(rope, n, d):
    case, apart = (rope(2, 2, n, d, device=DEVICE) for _ in range(2))
    apart.qkv = [torch.stack([t, t], -1)[..., 0] for t in case.qkv]
    apart.grad = apart.grad.transpose(-1, -2).contiguous().transpose(-1, -2)
    for got, want in zip(apart("triton"), case("triton"), strict=True):
        torch.testing.assert_close(got, want)
    packed = torch.stack(case.qkv, 2)
    case.qkv = list(packed.unbind(2))
    case.angles = tuple(t[:1] for t in case.angles)
    case.agrees("triton", 3e-6)


@pytest.mark.slow
@pytest.mark.parametrize("tile", [16, 32, 64])
@pytest.mark.parametrize("causal", [False, True])
def test_the_size_of_a_tile_does_not_matter(rope, monkeypatch, tile, causal):
    monkeypatch.setitem(triton.CONFIGS, (64, 16, 4), 2 * (triton.TileConfig(tile, 1),))
    rope(2, 2, 50, 16, ragged=True, causal=causal, device=DEVICE).agrees("triton", 3e-6)


def test_the_longest_short_row_takes_the_kernels_and_the_next_one_does_not(rope, monkeypatch):
    launched = []
    monkeypatch.setattr(triton, "MAX_SHORT_TOKENS", 20)
    launch = triton._launch
    monkeypatch.setattr(triton, "_launch", lambda kernel, *rest: launched.append(kernel) or launch(kernel, *rest))
    rope(1, 1, 20, 16, device=DEVICE).agrees("triton", 3e-6)
    assert launched == [triton._forward_kernel, triton._backward_kernel]
    rope(1, 1, 21, 16, device=DEVICE).agrees("triton", 3e-6)
    assert len(launched) == 2


@pytest.mark.parametrize(("n", "d"), [SHORT, LONG])
def test_two_runs_are_equal_to_the_bit(rope, n, d):
    case = rope(2, 3, n, d, ragged=True, device=DEVICE)
    assert all(torch.equal(a, b) for a, b in zip(case("triton"), case("triton"), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("n", "d"), [SHORT, LONG])
def test_a_compiled_graph_is_whole_and_agrees(rope, n, d):
    case = rope(2, 2, n, d, ragged=True, causal=True, device=DEVICE)
    call = torch.compile(
        lambda q, k, v: rope_attention(q, k, v, case.angles, valid=case.valid, causal=True, backend="triton"),
        fullgraph=True,
        backend="aot_eager",
    )
    leaves = [t.detach().requires_grad_() for t in case.qkv]
    out = call(*leaves)
    for a, b in zip((out, *torch.autograd.grad(out, leaves, case.grad)), case("triton"), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.slow
def test_operations_are_what_torch_expects_of_them(rope):
    case = rope(2, 2, 6, 16, ragged=True, device=DEVICE)
    out = case("triton")[0].detach()
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    options = (*case.qkv, *case.angles, case.valid, True, 0.25)
    ops = torch.ops.tstk
    torch.library.opcheck(ops.rope_attention.default, options, test_utils=checks)
    lse = ops.rope_attention(*options)[1]
    backward = (out, *options[:6], out, lse, *options[6:])
    torch.library.opcheck(ops.rope_attention_backward.default, backward, test_utils=checks)
    torch.library.opcheck(ops.rope_rotate.default, (*case.qkv[:2], *case.angles, 1.0), test_utils=checks)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "d"), [(40, 16), LONG])
def test_nan_reaches_the_queries_that_see_it_and_no_others(rope, n, d):
    case = rope(2, 2, n, d, causal=True, device=DEVICE)
    case.qkv[0][0, 0, 3] = torch.nan  # a query
    case.qkv[1][1, 1, 20] = torch.nan  # a key
    case.qkv[1][0, 1, 30] = torch.inf
    out, *grads = case("triton")
    expected = torch.zeros(2, 2, n, dtype=torch.bool, device=DEVICE)
    expected[0, 0, 3], expected[1, 1, 20:], expected[0, 1, 30:] = True, True, True
    assert torch.equal(out.isnan().any(-1), expected)
    assert torch.equal(grads[0].isnan().any(-1) & expected, expected)


@pytest.mark.parametrize("shape", [(0, 2, 5, 16), (2, 0, 5, 16), (2, 2, 0, 16), (0, 2, 300, 16)], ids=str)
def test_nothing_has_attention_and_gradients_of_nothing(shape):
    q, angles = (
        torch.randn(shape, device=DEVICE, requires_grad=True),
        2 * (torch.ones(1, 1, shape[2], 8, device=DEVICE),),
    )
    out = rope_attention(q, q, q, angles, backend="triton")
    out.sum().backward()
    assert out.shape == q.grad.shape == shape


def test_an_output_gradient_that_32_bits_do_not_reach_is_copied():
    near, far = (torch.empty_strided((1, 2, 20, 16), (0, 16, step, 1), device="meta") for step in (32, 2**27))
    assert triton._make_addressable(near) is near
    assert triton._make_addressable(far).is_contiguous()


def test_what_the_kernels_do_not_take_is_refused_with_the_reason(rope):
    case = rope(1, 1, 4, 8, device=DEVICE)
    with pytest.raises(IncompatibleError, match="it takes heads 16 to 128 wide, not 8"):
        case("triton")
    case = rope(1, 1, 4, 16, dtype=torch.float64, device=DEVICE)
    with pytest.raises(IncompatibleError, match=r"it takes float32, float16 or bfloat16 throughout, not torch.float64"):
        case("triton")


BUILD = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from tstk.kernels.rope_attention import triton

def build(kernel, size, warps, **constants):
    names = kernel.arg_names
    tables = dict.fromkeys(("cos", "sin", "lse"), "*fp32") | {"valid": "*u8", "scale": "fp32", "sign": "fp32"}
    data = dict.fromkeys("q k v out do dq dk dv q_out k_out".split(), {2: "*bf16", 4: "*fp32"}[size])
    kinds = {n: "constexpr" if n in constants else (tables | data).get(n, "i32") for n in names}
    source = ASTSource(kernel, kinds, {(names.index(n),): v for n, v in constants.items()})
    compiled = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps, "num_stages": 1})
    assert compiled.metadata.shared <= 99 * 1024, (kernel, constants, compiled.metadata.shared)

for key in ((16, 16, 4), (64, 64, 2)):
    tokens, width, size = key
    shared = dict(D=width - 8 * (width > 16), HALF=max(16, width // 2), WIDTH=width, UPCAST=False)
    for kernel, config in zip((triton._forward_kernel, triton._backward_kernel), triton.CONFIGS[key]):
        cut = dict(TILE=config.tile, ONE_TILE=tokens == 16, CAUSAL=width > 16)
        build(kernel, size, config.num_warps, **shared, **cut, **({"valid": None} if width == 16 else {}))
build(triton._rotate_kernel, 2, 2, D=48, HALF=32, ROWS=16, HEADS=8)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Triton's compiler is for Linux")
def test_a_gpu_s_compiler_takes_what_the_interpreter_takes(tmp_path):
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", BUILD], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
