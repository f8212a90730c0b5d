"""Dropout from few random numbers, and attention with it."""

import pytest
import torch

from tstk.kernels.attention import attend
from tstk.kernels.attention.torch import MIN_VECTOR, softmax
from tstk.kernels.dropout import apply_dropout
from tstk.nn.blocks import Dropout

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_a_share_of_the_elements_is_zero_and_the_mean_stays(rate):
    torch.manual_seed(0)
    y = apply_dropout(torch.ones(400, 501), rate)
    assert float((y == 0).float().mean()) == pytest.approx(rate, abs=0.01)
    assert float(y.mean()) == pytest.approx(1, abs=0.02)
    assert y.unique().numel() == 2


def test_every_element_is_drawn_independently():
    torch.manual_seed(0)
    kept = (apply_dropout(torch.ones(20_000, 7), 0.5) > 0).double()
    correlations = torch.corrcoef(kept.T) - torch.eye(7)
    assert float(correlations.abs().max()) < 0.04
    assert float((kept[1:, 0] * kept[:-1, 0]).mean()) == pytest.approx(0.25, abs=0.02)


def test_the_gradient_passes_through_the_kept_elements_only():
    x = torch.randn(3, 5, 7, requires_grad=True)
    y = apply_dropout(x, 0.5)
    y.sum().backward()
    assert torch.equal(x.grad, torch.where(y != 0, 2.0, 0.0))


def test_the_draws_follow_the_seed_and_not_the_layout():
    x = torch.randn(6, 10)
    outputs = []
    for t in (x, x.t().contiguous().t()):
        torch.manual_seed(3)
        outputs.append(apply_dropout(t, 0.3))
    assert torch.equal(*outputs)
    assert not torch.equal(outputs[0], apply_dropout(x, 0.3))


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_rates_of_nothing_and_of_everything_do_what_they_say(rate):
    x = torch.randn(4, 4)
    assert torch.equal(apply_dropout(x, rate), x * (1 - rate))


def test_nothing_is_dropped_outside_of_training():
    x = torch.randn(4, 4)
    assert Dropout(0.5).eval()(x) is x


def test_each_example_of_vmap_may_have_draws_of_its_own():
    x = torch.ones(4, 64)
    y = torch.func.vmap(Dropout(0.5).train(), randomness="different")(x)
    assert len(y.unique(dim=0)) == 4
    assert len(torch.func.vmap(Dropout(0.5).train(), randomness="same")(x).unique(dim=0)) == 1


def test_draws_are_made_where_the_input_is_whatever_the_default_device():
    with torch.device("meta"):
        y = apply_dropout(torch.ones(8, device="cpu"), 0.5)
    assert set(y.tolist()) <= {0.0, 2.0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head_dim", [8, 32])
def test_attention_with_dropout_to_no_key_at_all_is_zero(head_dim, dtype):
    q = torch.randn(2, 2, 5, head_dim, dtype=dtype, requires_grad=True)
    k = torch.randn(2, 2, 0, head_dim, dtype=dtype)
    y = attend(q, k, k, torch.ones(2, 1, 1, 0, dtype=torch.bool), dropout=0.1)
    assert torch.equal(y, torch.zeros_like(q))
    y.sum().backward()
    assert torch.equal(q.grad, torch.zeros_like(q))


def test_the_softmax_of_short_rows_in_half_precision_is_rounded_once():
    scores = torch.linspace(-3, 3, 12).repeat(50, 1).add(torch.linspace(0, 1, 50)[:, None]).bfloat16()
    assert torch.equal(softmax(scores), scores.softmax(-1))


@pytest.mark.parametrize("keys", [1, 7, MIN_VECTOR - 1, MIN_VECTOR])
def test_the_softmax_of_short_rows_is_that_of_torch_also_with_masked_and_large_scores(keys):
    torch.manual_seed(0)
    scores = 200 * torch.randn(2, 3, 5, keys)
    scores[0, ..., 1:] = -torch.inf
    scores.requires_grad_()
    grad = torch.randn(scores.shape)
    ours, torchs = softmax(scores), scores.softmax(-1)
    torch.testing.assert_close(ours, torchs)
    torch.testing.assert_close(*(torch.autograd.grad(y, scores, grad)[0] for y in (ours, torchs)))


def test_attention_with_dropout_has_the_mean_of_attention_without():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 1, 4, 8)
    mask = torch.tensor([True, True, True, False])[None, None, None]
    mean = attend(*(t.expand(4000, -1, -1, -1) for t in (q, k, v)), mask, dropout=0.3).mean(0)
    torch.testing.assert_close(mean, attend(q, k, v, mask)[0], atol=0.06, rtol=0)
