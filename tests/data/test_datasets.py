import numpy as np
import pytest
import torch

from tstk.data.data_module import compute_mean_std
from tstk.data.datasets import SeriesDataset, WindowDataset

NAN = float("nan")


def test_a_batch_is_cropped_to_its_longest_series_and_marks_what_is_not_there():
    x = torch.tensor([[[1.0, NAN, NAN, NAN]], [[1.0, NAN, 3.0, NAN]], [[1.0, 2.0, 3.0, 4.0]]])
    part = SeriesDataset(x, torch.tensor([0, 1, 0]))
    assert part.lengths.tolist() == [1, 3, 4]
    batch = part.batch(torch.tensor([1, 0]))
    assert batch.x.tolist() == [[[1, 0, 3]], [[1, 0, 0]]]
    assert batch.observed.tolist() == [[[True, False, True]], [[True, False, False]]]
    assert (batch.y.tolist(), batch.sample_id.tolist()) == ([1, 0], [1, 0])


def test_a_batch_in_which_everything_is_observed_has_no_mask():
    part = SeriesDataset(torch.tensor([[[1.0, NAN]], [[1.0, 2.0]]]))
    assert part.batch(torch.tensor([1])).observed is None
    assert part.batch(torch.tensor([0])).observed is None
    assert part.batch(torch.tensor([0, 1])).observed is not None


def test_taking_rows_keeps_labels_and_groups_with_their_series():
    part = SeriesDataset(torch.arange(3.0).reshape(3, 1, 1), torch.tensor([5, 6, 7]), ["a", "b", "c"])
    few = part.select(torch.tensor([2, 0]))
    assert (few.x.flatten().tolist(), few.y.tolist(), few.groups) == ([2, 0], [7, 5], ["c", "a"])


def test_windows_are_plain_slices_and_their_futures_follow():
    table = torch.randn(2, 20, generator=torch.Generator().manual_seed(0))
    part = WindowDataset(table, 5, 3)
    assert len(part) == 13
    batch = part.batch(torch.tensor([0, 7, 12]))
    for row, at in enumerate([0, 7, 12]):
        assert batch.x[row].equal(table[:, at : at + 5])
        assert batch.y[row].equal(table[:, at + 5 : at + 8])


def test_windows_share_the_memory_of_the_table():
    table = torch.zeros(2, 100)
    part = WindowDataset(table[:, 10:], 5, 3)
    assert part._unfolded.untyped_storage().data_ptr() == table.untyped_storage().data_ptr()


def test_windows_without_a_future_reach_the_last_row():
    table = torch.arange(6.0)[None]
    part = WindowDataset(table, 4, 0)
    batch = part.batch(torch.tensor([len(part) - 1]))
    assert batch.x.tolist() == [[[2, 3, 4, 5]]]
    assert batch.y is None


def test_a_missing_future_sample_stays_nan_and_a_missing_past_one_is_masked():
    table = torch.tensor([[0.0, NAN, 2.0, NAN, 4.0]])
    batch = WindowDataset(table, 3, 2).batch(torch.tensor([0]))
    assert batch.x.tolist() == [[[0, 0, 2]]]
    assert batch.observed.tolist() == [[[True, False, True]]]
    assert batch.y.isnan().tolist() == [[[True, False]]]


def test_statistics_are_those_of_the_observed_samples():
    x = np.random.default_rng(0).normal(3, 2, size=(7, 2, 5)).astype(np.float32)
    x[x > 4] = np.nan
    mean, std = compute_mean_std(torch.from_numpy(x))
    np.testing.assert_allclose(mean, np.nanmean(x.astype(np.float64), (0, 2)), rtol=1e-5)
    np.testing.assert_allclose(std, np.nanstd(x.astype(np.float64), (0, 2)), rtol=1e-5)
    assert mean.dtype == std.dtype == torch.float32


@pytest.mark.parametrize("value", [0.0, 0.1, -1234.567])
def test_a_constant_channel_is_not_scaled(value):
    _, std = compute_mean_std(torch.full((9, 1, 11), value))
    assert std.tolist() == [1]


def test_a_small_channel_is_scaled_although_it_is_small():
    x = 1e-9 * torch.randn(9, 1, 11, generator=torch.Generator().manual_seed(0))
    assert compute_mean_std(x)[1].item() < 1e-8
