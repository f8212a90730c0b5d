"""Attention in C++: outputs, gradients and draws against the reference in float64."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tstk.errors import IncompatibleError
from tstk.kernels import use_backend
from tstk.kernels.attention import attend, attention_op
from tstk.kernels.attention.cpp import LIBRARY

SHAPES = [
    (1, 1, 1, 1, 1),
    (2, 3, 5, 7, 8),
    (3, 2, 37, 19, 16),
    (2, 1, 9, 75, 24),
    (2, 2, 33, 130, 10),
    (1, 2, 3, 3, 128),
]
"""Series, heads, queries, keys and width."""


@pytest.fixture(autouse=True)
def compiled():
    """Skip where the kernel cannot be compiled."""
    if reason := LIBRARY.why_unavailable() or LIBRARY.why_not_loaded():
        pytest.skip(reason)


def make_inputs(b, h, n, m, d, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(b, length, h, d, generator=draw).transpose(1, 2).requires_grad_() for length in (n, m, m)]


def make_mask(b, m):
    """The first series has no key, the others miss some."""
    mask = torch.rand(b, 1, 1, m, generator=torch.Generator().manual_seed(1)) < 0.7
    mask[0] = False
    return mask


def compute(backend, inputs, mask=None, **options):
    """Return the output and the gradients of q, k and v; draws are those after seed 0."""
    torch.manual_seed(0)
    y = attend(*inputs, mask, backend=backend, **options)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    return y, *torch.autograd.grad((y * weights).sum(), inputs)


def check(inputs, *args, **options):
    exact = [t.detach().double().requires_grad_() for t in inputs]
    results = compute("cpp", inputs, *args, **options), compute("reference", exact, *args, **options)
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outputs_and_gradients_are_those_of_the_reference(shape, masked, causal):
    check(make_inputs(*shape), make_mask(shape[0], shape[3]) if masked else None, causal=causal)


@pytest.mark.parametrize("scale", [1.5, -0.3, 0.0, 1e-42])
def test_any_scale_is_taken(scale):
    check(make_inputs(2, 3, 5, 7, 8), make_mask(2, 7), scale=scale)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_dropout_draws_the_numbers_that_torch_draws(shape, rate):
    inputs = make_inputs(*shape)
    expected = compute("torch", inputs, dropout=rate)
    state = torch.get_rng_state()
    actual = compute("cpp", inputs, dropout=rate)
    assert torch.equal(torch.get_rng_state(), state)
    for mine, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=5e-6)


def test_large_scores_neither_overflow_nor_lose_precision():
    q, k, v = make_inputs(2, 2, 9, 20, 16)
    inputs = [(100 * q).detach().requires_grad_(), k, v]
    exact = compute("reference", [t.detach().double().requires_grad_() for t in inputs])
    for mine, other, expected in zip(compute("cpp", inputs), compute("torch", inputs), exact, strict=True):
        assert (mine - expected).abs().max() <= 2 * (other - expected).abs().max()
    y = attend(torch.full_like(q, 1e18), torch.full_like(k, -1e18), v, backend="cpp")
    torch.testing.assert_close(y, v.mean(2, keepdim=True).expand_as(y))


def test_a_query_that_is_not_a_number_gives_no_number_and_spoils_no_other():
    q, k, v = (t.detach() for t in make_inputs(2, 2, 9, 20, 16))
    expected = attend(q, k, v, backend="cpp")
    q[1, 0, 4] = torch.nan
    y = attend(q, k, v, backend="cpp")
    assert y[1, 0, 4].isnan().all()
    y[1, 0, 4] = expected[1, 0, 4]
    assert torch.equal(y, expected)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_heads_divided_among_threads_have_the_same_bits(threads):
    inputs = make_inputs(7, 3, 170, 170, 8)  # enough scores to be divided
    expected = compute("cpp", inputs, dropout=0.1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert all(map(torch.equal, compute("cpp", inputs, dropout=0.1), expected))
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_both_instruction_sets_give_the_same_to_rounding(tmp_path):
    script = (
        "import sys, torch; from tests.kernels.test_attention_cpp import compute, make_inputs, make_mask;"
        "results = compute('cpp', make_inputs(3, 2, 37, 75, 24), make_mask(3, 75), causal=True, dropout=0.2);"
        "torch.save(results, sys.argv[1])"
    )
    results = []
    for capability in ("avx2", "default"):
        env = os.environ | {"TSTK_CACHE": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
        env |= {"ATEN_CPU_CAPABILITY": capability} if capability == "avx2" else {}
        subprocess.run([sys.executable, "-c", script, str(tmp_path / capability)], env=env, check=True)
        results.append(torch.load(tmp_path / capability))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=5e-6)


def test_strides_do_not_matter():
    inputs = make_inputs(3, 2, 7, 7, 16)
    packed = torch.stack([t.detach().transpose(1, 2) for t in inputs], 2).permute(2, 0, 3, 1, 4).unbind()
    apart = [torch.stack([t.detach(), t.detach()], -1)[..., 0] for t in inputs]
    expected = compute("cpp", inputs)
    for others in (packed, apart):
        actual = compute("cpp", [t.requires_grad_() for t in others])
        assert all(map(torch.equal, actual, expected))


def test_saved_tensors_may_be_moved_and_come_back_with_other_strides():
    inputs = make_inputs(3, 2, 7, 19, 16)
    expected = compute("cpp", inputs, dropout=0.3)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: t.clone(memory_format=torch.contiguous_format), lambda t: t
    ):
        actual = compute("cpp", inputs, dropout=0.3)
    assert all(map(torch.equal, actual, expected))


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_gradients_may_be_differentiated_and_taken_several_at_once(rate):
    inputs = make_inputs(2, 3, 5, 7, 8)
    inputs[1].requires_grad_(False)
    sources = inputs[::2]
    second, together = [], []
    for backend in ("cpp", "reference"):
        torch.manual_seed(0)
        y = attend(*inputs, make_mask(2, 7), dropout=rate, backend=backend)
        grads = torch.stack([y.detach(), y.detach().square()])
        together.append(torch.autograd.grad(y, sources, grads, is_grads_batched=True, retain_graph=True))
        (grad,) = torch.autograd.grad(y.square().sum(), sources[:1], create_graph=True)
        second.append(torch.autograd.grad(grad.square().sum(), sources))
    for actual, expected in (*zip(*second, strict=True), *zip(*together, strict=True)):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_it_is_selected_for_calls_that_are_worth_it():
    def select(*shape, dropout=0.0):
        return attention_op.select(None, *make_inputs(*shape), None, causal=False, scale=None, dropout=dropout).name

    assert select(1, 2, 16, 16, 8) == "torch"
    assert select(8, 4, 32, 32, 8) == "cpp"
    assert select(1, 2, 1024, 1024, 64) == "torch"
    assert select(1, 2, 1024, 1024, 64, dropout=0.1) == "cpp"
    with use_backend("attention=torch"):
        assert select(8, 4, 32, 32, 8) == "torch"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda q, k, v: ((q.double(), k.double(), v.double()), None), "float32 throughout"),
        (lambda q, k, v: ((q, k, v[..., :4]), None), "values of the shape of the keys"),
        (lambda q, k, v: ((q, k, v), torch.ones(2, 1, 5, 7, dtype=torch.bool)), "a mask over keys only"),
    ],
)
def test_other_calls_are_left_to_torch_and_refused_by_name(change, reason):
    inputs, mask = change(*make_inputs(2, 3, 5, 7, 8))
    with pytest.raises(IncompatibleError, match=reason):
        attend(*inputs, mask, backend="cpp")
    attend(*inputs, mask)


def test_autocast_and_transforms_are_left_to_torch():
    q, k, v = (t.detach() for t in make_inputs(8, 4, 32, 32, 8))
    expected = attend(q, k, v)
    mapped = torch.func.vmap(lambda q: attend(q, k, v))(torch.stack([q, 2 * q]))
    torch.testing.assert_close(mapped[0], expected, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert attention_op.select(None, q, k, v, None, causal=False, scale=None, dropout=0.0).name == "torch"
