"""Values, losses and gradients of the quantizer on a CPU; `test_vector_quantize_triton.py` has the kernels."""

import pytest
import torch

from tstk.kernels import nearest_code
from tstk.kernels.vector_quantize import LossOptions, entropy, vector_quantize


def vectors(n, k, d, seed=0, spread=0.5, offset=0.0):
    """Codes, and vectors around them."""
    draw = torch.Generator().manual_seed(seed)
    codes = torch.randn(k, d, generator=draw) + offset
    z = codes[torch.randint(k, (n,), generator=draw)] + spread * torch.randn(n, d, generator=draw)
    return z, codes


def soft_assignment(z, codes, *, temperature, log_floor=0.0, valid=None, backend=None):
    """Return the mean entropy and the mean of soft assignments."""
    options = LossOptions(0.0, 0.0, 1.0, 0.0, temperature, log_floor)
    out = vector_quantize(z, codes, options, valid=valid, backend=backend)
    return out.entropy, out.mean_probs


def assignment_entropy(z, codes, *, log_floor=0.0, **options):
    """Return the mean entropy of soft assignments, and the entropy of their mean."""
    mean_entropy, mean_probs = soft_assignment(z, codes, log_floor=log_floor, **options)
    return mean_entropy, entropy(mean_probs, log_floor)


# ---------------------------------------------------------------- values and both losses of VQ-VAE


def test_values_are_exactly_the_codes_and_their_gradient_goes_to_the_vectors():
    z, codes = vectors(50, 9, 4, offset=1e3)
    z.requires_grad_()
    codes.requires_grad_()
    out = vector_quantize(z, codes, LossOptions())
    assert torch.equal(out.values, codes[out.ids])
    weight = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    dz, dc = torch.autograd.grad((out.values * weight).sum(), (z, codes), allow_unused=True)
    assert torch.equal(dz, weight)
    assert dc is None


def test_values_have_the_type_of_the_vectors():
    z, codes = vectors(50, 9, 4)
    out = vector_quantize(z.bfloat16(), codes, LossOptions())
    assert out.values.dtype == torch.bfloat16
    assert out.commitment.dtype == out.codebook.dtype == torch.float32


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_the_commitment_moves_vectors_and_the_codebook_loss_codes(backend):
    z, codes = (t.requires_grad_() for t in vectors(50, 9, 4))
    valid = torch.arange(50) % 3 > 0
    out = vector_quantize(z, codes, LossOptions(commitment=0.5, codebook=2.0), valid=valid, backend=backend)
    error = (z - codes[out.ids]).detach().where(valid[:, None], 0)
    count = 4 * int(valid.sum())
    torch.testing.assert_close(out.commitment.detach(), 0.5 * error.square().sum() / count)
    torch.testing.assert_close(out.codebook.detach(), 2.0 * error.square().sum() / count)
    assert out.entropy == 0
    dz, dc = torch.autograd.grad(out.commitment, (z, codes), retain_graph=True, allow_unused=True)
    torch.testing.assert_close(dz, 0.5 * 2 * error / count)
    assert dc is None or (dc == 0).all()
    dz, dc = torch.autograd.grad(out.codebook, (z, codes), allow_unused=True)
    torch.testing.assert_close(dc, torch.zeros(9, 4).index_add(0, out.ids, -2.0 * 2 * error / count))
    assert dz is None or (dz == 0).all()


def test_an_invalid_vector_that_is_not_finite_leaves_losses_and_gradients_finite():
    z, codes = (t.requires_grad_() for t in vectors(50, 9, 4))
    valid = torch.arange(50) != 7
    broken = z.detach().clone()
    broken[7, 1] = torch.nan
    broken.requires_grad_()
    options = LossOptions(entropy=0.1, temperature=0.5)
    results = []
    for x in (z, broken):
        out = vector_quantize(x, codes, options, valid=valid)
        loss = out.commitment + out.codebook + out.entropy
        results.append((loss, *torch.autograd.grad(loss, (x, codes))))
    torch.testing.assert_close(*results)


# ---------------------------------------------------------------- soft assignments


def entropies(z, codes, temperature, log_floor, valid=None):
    """VQShape's two entropies, written out in float64."""
    squares = (z.double()[:, None] - codes.double()).square().sum(-1)
    p = (-squares / temperature).softmax(-1)
    if valid is not None:
        p = p[valid]

    def entropy_of(q):
        return -(q * q.clamp(min=log_floor or 1e-300).log()).sum(-1)

    return entropy_of(p).mean(), entropy_of(p.mean(0))


def relative_error(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-12))


@pytest.mark.slow
@pytest.mark.parametrize("log_floor", [0.0, 1e-5])
@pytest.mark.parametrize(
    ("n", "k", "d", "temperature"),
    [(1, 2, 1, 0.5), (700, 512, 8, 0.01), (700, 512, 8, 0.3), (400, 33, 70, 2.0), (3, 2000, 2, 0.1)],
)
def test_entropies_and_their_gradients_are_those_of_float64(n, k, d, temperature, log_floor):
    z, codes = (0.3 * t for t in vectors(n, k, d, spread=0.2))
    leaves = [t.clone().requires_grad_() for t in (z, codes)]
    exact = [t.double().requires_grad_() for t in (z, codes)]
    for pull in ((1.0, 0.0), (0.0, 1.0), (0.3, -0.7)):
        got = assignment_entropy(*leaves, temperature=temperature, log_floor=log_floor)
        want = entropies(*exact, temperature, log_floor)
        for a, b in zip(got, want, strict=True):
            assert abs(a.item() - b.item()) < 1e-4 * max(b.item(), 1e-2)
        loss, true = (pull[0] * a + pull[1] * b for a, b in (got, want))
        for a, b in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(true, exact), strict=True):
            assert float((a.double() - b).norm()) <= 1e-4 * float(b.norm()) + 1e-7


@pytest.mark.parametrize("log_floor", [0.0, 1e-5])
def test_the_reference_of_soft_assignments_is_that_formula(log_floor):
    z, codes = vectors(40, 11, 3)
    got = assignment_entropy(z, codes, temperature=0.3, log_floor=log_floor, backend="reference")
    torch.testing.assert_close(got, tuple(t.float() for t in entropies(z, codes, 0.3, log_floor)))


def test_shares_are_the_mean_of_soft_assignments():
    z, codes = vectors(400, 21, 3)
    p = (-(z.double()[:, None] - codes.double()).square().sum(-1) / 0.7).softmax(-1)
    _, share = soft_assignment(z, codes, temperature=0.7)
    torch.testing.assert_close(share, p.mean(0).float())
    pull = torch.randn(21, generator=torch.Generator().manual_seed(3))
    z.requires_grad_()
    (got,) = torch.autograd.grad((soft_assignment(z, codes, temperature=0.7)[1] * pull).sum(), z)
    x = z.detach().double().requires_grad_()
    p = (-(x[:, None] - codes.double()).square().sum(-1) / 0.7).softmax(-1)
    (want,) = torch.autograd.grad((p.mean(0) * pull.double()).sum(), x)
    assert relative_error(got, want) < 1e-5


def test_invalid_vectors_do_not_influence_soft_assignments():
    z, codes = vectors(300, 21, 3)
    valid = torch.rand(300, generator=torch.Generator().manual_seed(4)) < 0.6
    alone = z[valid].clone().requires_grad_()
    z = z.masked_fill(~valid[:, None], torch.nan).requires_grad_()
    got = assignment_entropy(z, codes, temperature=0.5, valid=valid)
    want = assignment_entropy(alone, codes, temperature=0.5)
    torch.testing.assert_close(got, want)
    (dz,) = torch.autograd.grad(got[0] - got[1], z)
    (da,) = torch.autograd.grad(want[0] - want[1], alone)
    torch.testing.assert_close(dz[valid], da)
    assert (dz[~valid] == 0).all()


def test_no_vector_at_all_has_no_entropy_and_a_finite_gradient():
    z, codes = vectors(6, 4, 3)
    z.requires_grad_()
    each, overall = assignment_entropy(z, codes, temperature=0.5, valid=torch.zeros(6, dtype=torch.bool))
    assert each == overall == 0
    (dz,) = torch.autograd.grad(each - overall, z)
    assert (dz == 0).all()
    empty = assignment_entropy(z[:0], codes, temperature=0.5)
    assert empty[0] == empty[1] == 0


def test_a_common_offset_costs_soft_assignments_no_digits():
    z, codes = vectors(500, 64, 8, spread=0.2, offset=1000.0)
    leaves = [t.clone().requires_grad_() for t in (z, codes)]
    exact = [t.double().requires_grad_() for t in (z, codes)]
    each, overall = assignment_entropy(*leaves, temperature=0.5)
    true = entropies(*exact, 0.5, 0.0)
    for a, b in zip(
        torch.autograd.grad(each - overall, leaves), torch.autograd.grad(true[0] - true[1], exact), strict=True
    ):
        assert relative_error(a, b) < 1e-4


def test_soft_assignments_are_float32_under_autocast_forward_and_backward():
    z, codes = vectors(300, 64, 8)

    def run(under):
        leaves = [t.clone().requires_grad_() for t in (z, codes)]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=under):
            each, overall = assignment_entropy(*leaves, temperature=0.1)
            (each - overall).backward()
        return each, overall, *(t.grad for t in leaves)

    for a, b in zip(run(True), run(False), strict=True):
        assert torch.equal(a, b)


def test_codes_that_do_not_learn_get_no_gradient():
    z, codes = vectors(300, 64, 8)
    z.requires_grad_()
    each, _ = assignment_entropy(z, codes, temperature=0.1)
    each.backward()
    assert z.grad.norm() > 0
    assert codes.grad is None


def test_a_mask_of_another_shape_is_refused():
    z, codes = vectors(6, 4, 3)
    with pytest.raises(ValueError, match=r"valid is \[5\]"):
        vector_quantize(z, codes, LossOptions(), valid=torch.ones(5, dtype=torch.bool))


# ---------------------------------------------------------------- compile and export


@pytest.mark.slow
def test_a_compiler_takes_soft_assignments_with_their_gradient():
    z, codes = vectors(100, 33, 8)

    def loss(z, codes):
        each, overall = assignment_entropy(z, codes, temperature=0.3, log_floor=1e-5)
        return each - overall

    def gradients(f):
        leaves = [t.clone().requires_grad_() for t in (z, codes)]
        return torch.autograd.grad(f(*leaves), leaves)

    for a, b in zip(gradients(torch.compile(loss, fullgraph=True, backend="aot_eager")), gradients(loss), strict=True):
        assert relative_error(a, b) < 1e-5


class Soft(torch.nn.Module):
    def __init__(self, codes):
        super().__init__()
        self.register_buffer("codes", codes)

    def forward(self, z):
        options = {"temperature": 0.3, "log_floor": 1e-5}
        return (
            *nearest_code(z, self.codes),
            *soft_assignment(z, self.codes, **options),
            *assignment_entropy(z, self.codes, valid=z[:, 0] > 0, **options),
        )


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
def test_searches_and_soft_assignments_are_exported_for_any_batch(strict):
    z, codes = vectors(300, 33, 8)
    batch = {"z": {0: torch.export.Dim("batch")}}
    program = torch.export.export(Soft(codes), (z[:7],), dynamic_shapes=batch, strict=strict).module()
    for rows in (2, 300):
        torch.testing.assert_close(program(z[:rows]), Soft(codes)(z[:rows]))


@pytest.mark.slow
def test_losses_over_threads_are_those_of_one_thread(threads):
    z, codes = vectors(5003, 512, 8)
    leaves = [t.clone().requires_grad_() for t in (z, codes)]
    got = assignment_entropy(*leaves, temperature=0.3)
    torch.set_num_threads(1)
    want = assignment_entropy(*leaves, temperature=0.3)
    torch.testing.assert_close(got, want)
    torch.set_num_threads(threads)
    for a, b in zip(torch.autograd.grad(sum(got), leaves), torch.autograd.grad(sum(want), leaves), strict=True):
        assert relative_error(a, b) < 1e-4
