"""Changes to training series keep what a series is made of."""

import torch

from tstk.augment import crop
from tstk.draws import Draws
from tstk.records import Series


def batch(lengths=(20, 20, 9)):
    x = torch.arange(20.0).expand(len(lengths), 2, -1).clone()
    observed = torch.arange(20) < torch.tensor(lengths)[:, None, None].expand(-1, 2, -1)
    return Series(x.masked_fill(~observed, 0), observed, key=torch.arange(len(lengths)))


def test_a_crop_is_a_run_of_samples_inside_the_series():
    starts = set()
    for step in range(60):
        cut = crop(batch(), 6, Draws(0, step, torch.arange(3)))
        assert cut.x.shape == (3, 2, 6)
        assert (cut.x.diff(dim=2) == 1).all()
        assert cut.observed.all()
        starts |= {(row, int(first)) for row, first in enumerate(cut.x[:, 0, 0])}
    assert {first for row, first in starts if row == 0} == set(range(15))
    assert {first for row, first in starts if row == 2} == set(range(4))


def test_what_is_missing_stays_missing_and_short_series_keep_their_end():
    series = batch()
    series.observed[0, 1, 3:15] = False
    cut = crop(series, 12, Draws(0, 1, torch.arange(3)))
    start = int(cut.x[0, 0, 0])
    assert cut.observed[0, 1].tolist() == series.observed[0, 1, start : start + 12].tolist()
    assert cut.observed[2, 0].tolist() == [True] * 9 + [False] * 3


def test_a_crop_as_long_as_the_series_changes_nothing():
    series = batch()
    assert crop(series, 20, Draws(0, 1, torch.arange(3))) is series
    assert crop(series, 30, Draws(0, 1, torch.arange(3))) is series
