"""The quantizer's Triton kernels, on a GPU if there is one and in Triton's interpreter if not."""

import os
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton")

from tstk.errors import IncompatibleError
from tstk.kernels import use_backend
from tstk.kernels.vector_quantize import LossOptions, vector_quantize
from tstk.nn.codebook import Codebook

pytestmark = pytest.mark.slow  # Triton's interpreter

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OPTIONS = LossOptions(commitment=0.25, codebook=1.0, entropy=0.1, gamma=0.7, temperature=0.5, log_floor=1e-3)
NAMES = ("values", "ids", "commitment", "codebook", "entropy", "mean_probs", "gradient of z", "gradient of the codes")


def vectors(n, k, d, seed=0, spread=0.2, offset=0.0, masked=False):
    """Codes, vectors around them, and the valid ones."""
    draw = torch.Generator().manual_seed(seed)
    codes = torch.randn(k, d, generator=draw) + offset
    z = codes[torch.randint(k, (n,), generator=draw)] + spread * torch.randn(n, d, generator=draw)
    valid = (torch.rand(n, generator=draw) < 0.6).to(DEVICE) if masked else None
    return z.to(DEVICE), codes.to(DEVICE), valid


def spread_weights(like):
    return torch.linspace(-1, 1, like.numel(), device=DEVICE).reshape(like.shape)


def compute(z, codes, valid=None, options=OPTIONS, backend="triton", dtype=None):
    """Return the outputs, and the gradients of a sum of all differentiable ones with different weights."""
    leaves = [t.detach().to(dtype or t.dtype).requires_grad_() for t in (z, codes)]
    out = vector_quantize(*leaves, options, valid=valid, backend=backend)
    loss = (out.values.double() * spread_weights(out.values)).sum() / 100 + (
        out.mean_probs * spread_weights(codes[:, 0])
    ).sum()
    loss = loss + 1.3 * out.commitment + 0.7 * out.codebook - 1.1 * out.entropy
    return [t.detach() for t in (*out, *torch.autograd.grad(loss, leaves))]


def assert_close_to_float64(z, codes, valid=None, options=OPTIONS, tolerance=1e-4):
    got = compute(z, codes, valid, options)
    want = compute(z, codes, valid, options, "reference", torch.float64)
    assert torch.equal(got[1], want[1])
    assert got[0].dtype == got[-2].dtype == z.dtype
    assert got[-1].dtype == codes.dtype
    for name, a, b in zip(NAMES, got, want, strict=True):
        assert a.shape == b.shape
        error, size = float((a.double() - b).norm()), float(b.double().norm())
        assert error <= tolerance * size + 1e-7, f"{name} is off by {error / size:.1e}"


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("log_floor", [0.0, 1e-3])
@pytest.mark.parametrize(
    ("n", "k", "d", "temperature"),
    [(1, 1, 8, 0.5), (150, 130, 8, 0.01), (67, 70, 11, 0.5), (129, 65, 20, 4.0), (40, 33, 32, 0.5), (70, 33, 64, 20.0)],
)
def test_outputs_and_gradients_are_those_of_float64(n, k, d, temperature, log_floor, masked):
    z, codes, valid = vectors(n, k, d, seed=n, masked=masked)
    options = OPTIONS._replace(temperature=temperature, log_floor=log_floor)
    assert_close_to_float64(z, codes, valid, options)


@pytest.mark.parametrize("seed", range(4))
def test_outputs_and_gradients_are_those_of_float64_at_random_sizes(seed):
    draw = torch.Generator().manual_seed(seed)
    n, k, d = (int(torch.randint(1, top, (), generator=draw)) for top in (200, 200, 65))
    z, codes, valid = vectors(n, k, d, seed, masked=seed % 2 == 1)
    assert_close_to_float64(z, codes, valid, OPTIONS._replace(temperature=0.05 * d))


@pytest.mark.parametrize("d", [8, 40])
def test_programs_that_take_several_tiles_add_up_the_gradient_of_the_codes(monkeypatch, d):
    module = load_module()
    z, codes, valid = vectors(300, 70, d, masked=True)
    monkeypatch.setattr(module, "MAX_PROGRAMS", 2)
    monkeypatch.setattr(module, "MIN_PROGRAMS", 1)
    assert_close_to_float64(z, codes, valid, OPTIONS._replace(temperature=0.1 * d))


def load_module():
    vector_quantize(*vectors(1, 2, 8)[:2], OPTIONS, backend="triton")
    return sys.modules["tstk.kernels.vector_quantize.triton"]


@pytest.mark.parametrize("name", ["commitment", "codebook", "entropy", "values", "mean_probs"])
def test_each_output_alone_has_its_gradient(name):
    z, codes, valid = vectors(50, 21, 8, masked=True)
    results = []
    for backend, dtype in (("triton", torch.float32), ("reference", torch.float64)):
        leaves = [t.to(dtype).requires_grad_() for t in (z, codes)]
        out = getattr(vector_quantize(*leaves, OPTIONS, valid=valid, backend=backend), name)
        grads = torch.autograd.grad((out * spread_weights(out)).sum(), leaves, allow_unused=True)
        if not out.shape:  # a single weight is -1
            assert any(g is not None and g.abs().max() > 0 for g in grads)
        results.append([torch.zeros_like(t) if g is None else g for g, t in zip(grads, leaves, strict=True)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b.float(), rtol=1e-4, atol=1e-6)


def test_each_channel_of_a_gradient_is_a_difference_of_losses():
    z, codes, valid = vectors(23, 7, 3, spread=0.5, masked=True)

    def loss(z, codes):
        out = vector_quantize(z, codes, OPTIONS, valid=valid, backend="triton")
        return out.codebook.double() + out.entropy.double()

    leaves = [t.clone().requires_grad_() for t in (z, codes)]
    _, dc = torch.autograd.grad(loss(*leaves), leaves)
    for k, i in ((0, 0), (3, 2), (6, 1)):
        step = torch.zeros_like(codes)
        step[k, i] = 1e-2
        difference = (loss(z, codes + step) - loss(z, codes - step)) / 2e-2
        assert abs(difference - dc[k, i]) < 2e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32_and_gradients_are_rounded_once(dtype):
    z, codes, valid = vectors(60, 33, 8, masked=True)
    z = z.to(dtype)
    want = compute(z, codes, valid, OPTIONS, "reference", torch.float64)
    got = compute(z, codes, valid)
    ulps = 0 if DEVICE == "cuda" or dtype == torch.float16 else 1  # the interpreter rounds bfloat16 towards 0
    torch.testing.assert_close(got[0], codes[got[1]].to(dtype), rtol=ulps * torch.finfo(dtype).eps, atol=0)
    for name, a, b in zip(NAMES[1:], got[1:], want[1:], strict=True):
        tolerance = 2 * torch.finfo(dtype).eps if name == "gradient of z" else 1e-4
        assert float((a.double() - b).norm()) <= tolerance * float(b.double().norm()), name
    assert got[-2].dtype == dtype


def test_a_common_offset_costs_no_digits():
    z, codes, valid = vectors(100, 40, 8, offset=1e3, masked=True)
    assert_close_to_float64(z, codes, valid)


def test_two_runs_give_the_same_bits():
    z, codes, valid = vectors(200, 100, 8, masked=True)
    assert all(torch.equal(a, b) for a, b in zip(compute(z, codes, valid), compute(z, codes, valid), strict=True))


def test_invalid_vectors_get_values_and_do_not_influence_losses():
    z, codes, valid = vectors(100, 21, 3, masked=True)
    broken = z.masked_fill(~valid[:, None], torch.nan)
    got, want = compute(broken, codes, valid), compute(z[valid], codes)
    for name, a, b in zip(NAMES[2:6], got[2:6], want[2:6], strict=True):
        torch.testing.assert_close(a, b, msg=name)
    assert vector_quantize(z, codes, OPTIONS, valid=valid, backend="triton").values.isfinite().all()
    losses = vector_quantize(leaf := broken.requires_grad_(), codes, OPTIONS, valid=valid, backend="triton")[2:5]
    (dz,) = torch.autograd.grad(sum(losses), leaf)
    assert (dz[~valid] == 0).all()
    assert dz[valid].isfinite().all()


def test_a_vector_that_is_not_finite_makes_all_losses_nan():
    z, codes, _ = vectors(70, 33, 8)
    z[5, 2], z[66, 0] = torch.nan, torch.inf
    *_, dz, dc = out = compute(z, codes)
    values, ids, commitment, codebook, entropy, mean_probs = out[:6]
    assert ids[[5, 66]].tolist() == [0, 0]
    assert values[[5, 66]].isnan().any(1).all()
    assert commitment.isnan() or commitment.isinf()
    assert codebook.isnan() or codebook.isinf()
    assert entropy.isnan()
    assert mean_probs.isnan().all()
    assert dz.isnan().all()  # the entropy of the mean depends on all
    assert dc.isnan().all()


def test_no_vector_at_all_has_no_loss():
    z, codes, _ = vectors(4, 5, 3)
    for some in (z[:0], z):
        valid = torch.zeros(len(some), dtype=torch.bool, device=DEVICE)
        _, _, *losses, _, _ = compute(some, codes, valid)
        assert all((loss == 0).all() for loss in losses)
        leaves = [t.clone().requires_grad_() for t in (some, codes)]
        loss = sum(vector_quantize(*leaves, OPTIONS, valid=valid, backend="triton")[2:5])
        assert all((g == 0).all() for g in torch.autograd.grad(loss, leaves))


def test_any_leading_dimensions_and_strides_are_taken():
    z, codes, valid = vectors(60, 30, 8, masked=True)
    want = vector_quantize(z, codes, OPTIONS, valid=valid, backend="triton")
    shaped = vector_quantize(z.reshape(3, 4, 5, 8), codes, OPTIONS, valid=valid.reshape(3, 4, 5), backend="triton")
    assert shaped.values.shape == (3, 4, 5, 8)
    assert shaped.ids.shape == (3, 4, 5)
    strided = vector_quantize(
        torch.stack([z, z], 2)[..., 0], codes.T.contiguous().T, OPTIONS, valid=valid, backend="triton"
    )
    for a, b, c in zip(want, shaped, strided, strict=True):
        torch.testing.assert_close(a.flatten(), b.flatten())
        torch.testing.assert_close(a, c)


def test_codes_that_do_not_learn_get_no_gradient():
    z, codes, _ = vectors(50, 21, 8)
    z.requires_grad_()
    vector_quantize(z, codes, OPTIONS, backend="triton").entropy.backward()
    assert z.grad.norm() > 0
    assert codes.grad is None


def test_wide_vectors_are_refused_with_the_reason():
    z, codes, _ = vectors(5, 4, 65)
    with pytest.raises(IncompatibleError, match="up to 64 wide; these are 65"):
        vector_quantize(z, codes, OPTIONS, backend="triton")


@pytest.mark.parametrize("update", ["gradient", "ema"])
@pytest.mark.parametrize("weight", [0.1, 0.0])
def test_a_codebook_is_computed_by_triton_on_request(update, weight):
    torch.manual_seed(0)
    codebook = Codebook(33, 8, update=update, entropy=weight, temperature=0.5, log_floor=1e-5).to(DEVICE)
    z = torch.randn(4, 25, 8, device=DEVICE, requires_grad=True)
    valid = torch.rand(4, 25, device=DEVICE) < 0.7
    results = []
    for backend in ("triton", "torch"):
        with use_backend(backend):  # one that cannot compute a call would raise an error
            values, ids, losses = codebook(z, valid)
            (dz,) = torch.autograd.grad(sum(losses.values()) + values.mean(), z)
            results.append((values, ids, losses, dz))
    torch.testing.assert_close(*results)


def test_the_operators_are_registered_soundly():
    z, codes, valid = vectors(20, 9, 3, masked=True)
    load_module()
    ops, scalars = torch.ops.tstk, (0.25, 1.0, 0.1, 1.0, 2.0, -11.5)
    torch.library.opcheck(ops.vector_quantize.default, (z, codes, valid, *scalars))
    values, ids, losses, mean_probs, log_zs, *prepared = ops.vector_quantize(z, codes, valid, *scalars)
    for grads in ((values, losses[0], losses[1], losses[2], mean_probs), (None, None, None, losses[2], None)):
        args = *grads, z, codes, *prepared, valid, ids, log_zs, mean_probs, losses, *scalars
        for codes_learn in (True, False):
            torch.library.opcheck(ops.vector_quantize_backward.default, (*args, codes_learn))


def test_a_compiler_takes_the_whole_graph_with_its_gradient():
    z, codes, valid = vectors(40, 9, 3, masked=True)

    def loss(z, codes):
        out = vector_quantize(z, codes, OPTIONS, valid=valid, backend="triton")
        return out.values.sum() + out.commitment + out.codebook + out.entropy

    def gradients(f):
        leaves = [t.clone().requires_grad_() for t in (z, codes)]
        return torch.autograd.grad(f(*leaves), leaves)

    compiled = gradients(torch.compile(loss, fullgraph=True, backend="aot_eager"))
    for a, b in zip(compiled, gradients(loss), strict=True):
        torch.testing.assert_close(a, b)


def test_a_step_makes_five_launches_forward_and_two_backward(monkeypatch):
    module, search = load_module(), sys.modules["tstk.kernels.nearest_code.triton"]
    launches, kernel_depth = [], []

    class Kernel:
        def __init__(self, kernel, name):
            self.kernel, self.name = kernel, name

        def __getitem__(self, grid):
            def launch(*args, **options):
                launches.append(self.name)
                kernel_depth.append(self.name)  # the interpreter's own operations are not launches
                self.kernel[grid](*args, **options)
                kernel_depth.pop()

            return launch

    class Torch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = func.overloadpacket.__name__
            if not kernel_depth and name not in ("empty", "empty_like", "new_empty"):
                launches.append(name)
            return func(*args, **(kwargs or {}))

    for owner, name in ((search, "prepare"), (module, "forward"), (module, "losses"), (module, "backward")):
        monkeypatch.setattr(owner, f"_{name}_kernel", Kernel(vars(owner)[f"_{name}_kernel"], name))
    z, codes, valid = vectors(40, 9, 3, masked=True)
    grad_loss, scalars = torch.ones((), device=DEVICE), (0.25, 1.0, 0.1, 1.0, 2.0, -7.0)
    with Torch():
        values, ids, losses, mean_probs, log_zs, *prepared = module._launch_forward(z, codes, valid, *scalars)
        assert launches == ["mean", "prepare", "forward", "sum", "losses"]
        launches.clear()
        saved = *prepared, valid, ids, log_zs, mean_probs, losses
        module._launch_backward(values, grad_loss, grad_loss, grad_loss, None, z, codes, *saved, *scalars, True)
    assert launches == ["backward", "sum"]
