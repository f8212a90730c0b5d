"""Means and pools over valid elements."""

import subprocess
import sys

import pytest
import torch

from tstk.nn.reduce import masked_mean, masked_mean_std, masked_mse, masked_pool

TWO = """
import sys, torch, torch.distributed as dist
from tstk.nn.reduce import masked_mean, masked_mean_std
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
torch.manual_seed(0)
values, where = torch.randn(2, 3, 4), torch.zeros(2, 3, 4, dtype=torch.bool)
where[0, 0, 0] = where[1, :2] = True          # 1 element here, 8 there
for _ in ("uneven", "all in one process"):
    w = torch.tensor(2.0, requires_grad=True)
    loss = masked_mean((w * values[rank]) ** 2, where[rank])
    loss.backward()
    both = torch.stack([loss.detach(), w.grad])
    dist.all_reduce(both)
    w2 = torch.tensor(2.0, requires_grad=True)
    whole = ((w2 * values[where]) ** 2).mean()
    whole.backward()
    torch.testing.assert_close(both / 2, torch.stack([whole.detach(), w2.grad]))
    where[0] = False
dist.destroy_process_group()
"""


def test_the_mean_counts_selected_elements_alone():
    values = torch.tensor([[1.0, 2.0, float("nan")], [4.0, 5.0, 6.0]], requires_grad=True)
    where = torch.tensor([[True, True, False], [False, False, True]])
    result = masked_mean(values, where)
    torch.testing.assert_close(result, torch.tensor(3.0))
    result.backward()
    torch.testing.assert_close(values.grad, where / 3)
    torch.testing.assert_close(masked_mean(torch.arange(4.0)), torch.tensor(1.5))


def test_a_selection_is_broadcast_over_the_values():
    values = torch.arange(12.0).reshape(2, 3, 2)
    where = torch.tensor([[True, False, False], [False, False, True]])[..., None]
    torch.testing.assert_close(masked_mean(values, where), values[where.squeeze(-1)].mean())


def test_the_mean_of_nothing_is_zero_with_a_gradient_path():
    values = torch.randn(3, requires_grad=True)
    masked_mean(values, torch.zeros(3, dtype=torch.bool)).backward()
    assert values.grad.tolist() == [0, 0, 0]


def test_a_mean_in_half_precision_does_not_overflow():
    assert masked_mean(torch.full((100_000,), 100.0, dtype=torch.float16)).item() == pytest.approx(100)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target_shape", "dtype", "target_dtype"),
    [
        ((3, 4, 5), torch.float32, torch.float32),
        ((3, 1, 5), torch.float32, torch.float32),
        ((3, 4, 5), torch.bfloat16, torch.float32),
        ((3, 4, 5), torch.float16, torch.float16),
        ((3, 4, 5), torch.float64, torch.float32),
    ],
)
@pytest.mark.parametrize("has_mask", [True, False])
def test_the_mean_squared_error_is_the_mean_of_squared_differences(target_shape, dtype, target_dtype, has_mask):
    torch.manual_seed(0)
    predictions = torch.randn(3, 4, 5).to(dtype).requires_grad_()
    targets = torch.randn(target_shape).to(target_dtype).requires_grad_()
    where = torch.rand(3, 4, 1) < 0.5 if has_mask else None
    error, expected = masked_mse(predictions, targets, where), masked_mean((predictions - targets).square(), where)
    assert torch.equal(error, expected)
    grads, expected_grads = (torch.autograd.grad(y, (predictions, targets)) for y in (error, expected))
    assert all(map(torch.equal, grads, expected_grads))


@pytest.mark.slow
def test_gradients_averaged_over_processes_are_those_of_the_mean_over_all_elements(tmp_path):
    if not torch.distributed.is_available():
        pytest.skip("this torch has no distributed package")
    script, store = tmp_path / "two.py", tmp_path / "store"
    script.write_text(TWO)
    ranks = [
        subprocess.Popen([sys.executable, script, str(rank), store], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=600)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors


def test_pools_ignore_invalid_tokens_and_give_zero_for_none():
    torch.manual_seed(0)
    values, valid = torch.randn(3, 4, 2), torch.tensor([[1, 1, 0, 1], [0] * 4, [1] * 4], dtype=torch.bool)
    values[0, 2] = 99
    values.requires_grad_()
    for how, oracle in (("mean", lambda v: v.mean(0)), ("max", lambda v: v.amax(0))):
        pooled = masked_pool(values, valid, how)
        expected = torch.stack([oracle(values[i][valid[i]]) if valid[i].any() else torch.zeros(2) for i in range(3)])
        torch.testing.assert_close(pooled, expected)
        values.grad = None
        pooled.sum().backward()
        assert values.grad.isfinite().all()
        assert not values.grad[~valid].any()


def test_statistics_are_mean_and_deviation_of_valid_tokens():
    draw = torch.Generator().manual_seed(3)
    values, valid = torch.randn(4, 6, 3, generator=draw), torch.rand(4, 6, generator=draw) < 0.6
    valid[2] = False
    found = masked_mean_std(values.masked_fill(~valid[..., None], 99.0), valid)
    for row, some, got in zip(values, valid, found, strict=True):
        kept = row[some].double()
        want = torch.cat([kept.mean(0), kept.std(0, correction=0)]) if len(kept) else torch.zeros(6)
        torch.testing.assert_close(got.double(), want.double(), rtol=1e-5, atol=1e-6)
