"""Rotary attention in C++: the rotation by itself, outputs and gradients against the reference."""

import pytest
import torch

from tstk.errors import IncompatibleError
from tstk.kernels import rope_attention, use_backend
from tstk.kernels.rope_attention import rope_attention_op
from tstk.kernels.rope_attention.cpp import LIBRARY, _Rotate, _rotate

SHAPES = [(1, 1, 1, 2), (2, 3, 5, 16), (3, 2, 26, 24), (2, 1, 75, 64), (2, 2, 33, 128), (3, 5, 7, 10)]


@pytest.fixture(autouse=True)
def compiled():
    """Skip where the kernel cannot be compiled."""
    if reason := LIBRARY.why_unavailable() or LIBRARY.why_not_loaded():
        pytest.skip(reason)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outputs_and_gradients_are_those_of_the_reference(rope, shape, ragged, causal):
    rope(*shape, ragged=ragged, causal=causal).agrees("cpp", 3e-6)


@pytest.mark.parametrize("width", [2, 10, 16, 24, 32, 64, 128])
def test_pairs_are_rotated_as_complex_numbers_and_back(rope, width):
    case = rope(3, 5, 7, width)
    x, (cos, sin) = case.qkv[0], case.angles
    a, b = x.chunk(2, -1)
    turned = _rotate(x, cos, sin, False)
    want = torch.complex(a, b) * torch.complex(cos, sin)
    torch.testing.assert_close(turned, torch.view_as_real(want).flatten(-2), rtol=0, atol=1e-6)
    torch.testing.assert_close(_rotate(turned, cos, sin, True), x, rtol=0, atol=2e-6)


def test_strides_and_shared_angles_do_not_matter(rope):
    case, packed = rope(3, 2, 7, 16), rope(3, 2, 7, 16)
    case.angles = packed.angles = tuple(t[:1] for t in case.angles)
    packed.qkv = torch.stack([t.transpose(1, 2) for t in case.qkv], 2).permute(2, 0, 3, 1, 4).unbind()
    apart = [torch.stack([t, t], -1)[..., 0] for t in case.qkv]
    want = case("torch")
    for qkv in (packed.qkv, apart):
        case.qkv = qkv
        for actual, expected in zip(case("cpp"), want, strict=True):
            torch.testing.assert_close(actual, expected)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_rows_are_divided_among_threads(rope, threads):
    before = torch.get_num_threads()
    case = rope(3, 4, 1100, 64)  # enough numbers to be divided, and rows that three threads share unevenly
    want = case("torch")
    torch.set_num_threads(threads)
    try:
        for actual, expected in zip(case("cpp"), want, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=2e-6)
    finally:
        torch.set_num_threads(before)


def test_gradients_may_be_differentiated(rope):
    case = rope(1, 2, 4, 8)
    results = []
    for backend in ("cpp", "torch"):
        q, k, v = (t.clone().requires_grad_() for t in case.qkv)
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            out = rope_attention(q, k, v, case.angles, backend=backend)
            (grad,) = torch.autograd.grad((out * case.grad).sum(), q, create_graph=True)
        results.append(torch.autograd.grad(grad.square().sum(), (q, k, v)))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


def test_it_is_selected_for_calls_that_are_worth_it(rope):
    small, large = rope(1, 1, 4, 8), rope(4, 4, 256, 64)
    assert rope_attention_op.select(None, *small.qkv, small.angles).name == "torch"
    assert rope_attention_op.select(None, *large.qkv, large.angles).name == "cpp"
    with use_backend("torch"):
        assert rope_attention_op.select(None, *large.qkv, large.angles).name == "torch"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_and_learned_angles_are_left_to_torch(rope, dtype):
    case = rope(4, 4, 256, 64, dtype=dtype)
    assert rope_attention_op.select(None, *case.qkv, case.angles).name == "torch"
    with pytest.raises(IncompatibleError, match="it takes float32 throughout"):
        case("cpp")
    case = rope(4, 4, 256, 64)
    case.angles = tuple(t.requires_grad_() for t in case.angles)
    assert rope_attention_op.select(None, *case.qkv, case.angles).name == "torch"
    with pytest.raises(IncompatibleError, match="no gradient of the angles"):
        case("cpp")


def test_transforms_of_torch_are_left_to_torch(rope):
    case = rope(4, 4, 256, 64)
    q, k, v = case.qkv
    mapped = torch.func.vmap(lambda q: rope_attention(q, k, v, case.angles))(torch.stack([q, 2 * q]))
    torch.testing.assert_close(mapped[0], rope_attention(q, k, v, case.angles))


def test_angles_that_torch_negates_lazily_are_read_negated(rope):
    case = rope(2, 3, 5, 16)
    cos, sin = case.angles
    plain = rope_attention(*case.qkv, (cos, -sin), backend="cpp")
    assert torch.equal(rope_attention(*case.qkv, (cos, torch._neg_view(sin)), backend="cpp"), plain)


@pytest.mark.slow
def test_forward_derivatives_are_left_to_torch(rope):
    case = rope(4, 4, 256, 64)
    q, k, v = case.qkv
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        _, tangent = torch.func.jvp(lambda q: rope_attention(q, k, v, case.angles, backend="torch"), (q,), (v,))
        with torch.autograd.forward_ad.dual_level():
            dual = rope_attention(torch.autograd.forward_ad.make_dual(q, v), k, v, case.angles)
            torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, tangent)


def test_gradients_of_several_outputs_at_once_are_those_one_by_one(rope):
    x, (cos, sin) = rope(2, 3, 5, 16).qkv[0].requires_grad_(), rope(2, 3, 5, 16).angles
    for back in (False, True):
        out = _Rotate.apply(x, cos, sin, back)
        grads = torch.stack([x.detach(), x.detach().square()])
        (together,) = torch.autograd.grad(out, x, grads, is_grads_batched=True, retain_graph=True)
        for actual, grad in zip(together, grads, strict=True):
            torch.testing.assert_close(actual, *torch.autograd.grad(out, x, grad, retain_graph=True))
