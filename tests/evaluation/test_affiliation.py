"""Affiliation metrics against values computed by hand and by sampling times."""

import numpy as np
import pytest

from tstk.evaluation.affiliation import affiliation_metrics, affiliation_precision, affiliation_recall

ZONE = np.array([0.0, 10.0])


def intervals(*pairs):
    return np.array(pairs, dtype=float).reshape(-1, 2)


def test_a_report_that_is_the_event_has_precision_and_recall_1():
    known = intervals((2, 4), (20, 21))
    assert affiliation_metrics(known, known, 40) == {
        "affiliation_precision": 1.0,
        "affiliation_recall": 1.0,
        "affiliation_f1": 1.0,
    }


def test_the_precision_of_one_report_by_hand():
    """Event 4-6 in zone 0-10. At distance d, 4 - d on each side are as far: the mean of (8 - 2d)/10 for d in 1-2."""
    assert affiliation_precision(intervals((7, 8)), np.array([4.0, 6]), ZONE) == pytest.approx(0.5)
    assert affiliation_precision(intervals((2, 3)), np.array([4.0, 6]), ZONE) == pytest.approx(0.5)
    # half of it hits, the other half has the mean of (8 - 2d)/10 for d in 0-1
    assert affiliation_precision(intervals((5, 7)), np.array([4.0, 6]), ZONE) == pytest.approx((1 + 0.7) / 2)


def test_the_precision_beyond_the_smaller_side_by_hand():
    """Event 1-2 in zone 0-10. Before it are 1 - d, after it 8 - d that are as far: for d in 3-4, (8 - d)/10 alone."""
    assert affiliation_precision(intervals((5, 6)), np.array([1.0, 2]), ZONE) == pytest.approx(0.45)


def test_the_recall_of_one_report_by_hand():
    """Report 7-8 for event 4-6: from time t, 2t - 7 before and 3 after are at least 7 - t away: (2t - 4)/10."""
    assert affiliation_recall(intervals((7, 8)), np.array([4.0, 6]), ZONE) == pytest.approx(0.6)
    assert affiliation_recall(intervals((4, 5)), np.array([4.0, 6]), ZONE) == pytest.approx((1 + 0.9) / 2)


def test_zones_end_halfway_between_events_and_a_zone_without_a_report_lowers_recall_alone():
    known, reported = intervals((2, 4), (10, 12)), intervals((2, 4))
    scores = affiliation_metrics(reported, known, 20)
    assert (scores["affiliation_precision"], scores["affiliation_recall"]) == (1.0, 0.5)
    assert scores["affiliation_f1"] == pytest.approx(2 / 3)
    # a report over the border of the zones, at 7, counts in each of them with its part
    split = affiliation_metrics(intervals((6, 8)), known, 20)
    left = affiliation_precision(intervals((6, 7)), known[0], np.array([0.0, 7]))
    right = affiliation_precision(intervals((7, 8)), known[1], np.array([7.0, 20]))
    assert split["affiliation_precision"] == pytest.approx((left + right) / 2)


def test_nothing_reported_has_recall_0_and_no_precision():
    assert affiliation_metrics(intervals(), intervals((2, 4)), 20) == {"affiliation_recall": 0.0}


@pytest.mark.parametrize("seed", range(5))
def test_precision_and_recall_are_probabilities_of_random_times(seed):
    """Distances are compared with those of 2,000 times of the zone, as the definitions of the paper are written."""
    rng = np.random.default_rng(seed)
    event = np.sort(rng.uniform(0, 10, 2))
    reported = np.sort(rng.uniform(0, 10, 6)).reshape(3, 2)
    grid = (np.arange(2000) + 0.5) / 200

    def distance(times, spans):
        return np.maximum(spans[:, 0] - times[:, None], times[:, None] - spans[:, 1]).clip(min=0).min(1)

    is_reported, is_event = distance(grid, reported) == 0, distance(grid, event[None]) == 0
    from_event = distance(grid, event[None])
    precision = np.mean([(from_event >= d).mean() for d in from_event[is_reported]])
    to_reports = distance(grid, reported)[is_event]
    recall = np.mean([(np.abs(grid - t) >= d).mean() for t, d in zip(grid[is_event], to_reports, strict=True)])
    assert affiliation_precision(reported, event, ZONE) == pytest.approx(precision, abs=5e-3)
    assert affiliation_recall(reported, event, ZONE) == pytest.approx(recall, abs=5e-3)


def test_random_reports_have_a_precision_of_about_one_half():
    rng = np.random.default_rng(0)
    starts = np.sort(rng.choice(2000, 300, replace=False))
    scores = affiliation_metrics(np.stack([starts, starts + 1], 1).astype(float), intervals((990, 1000)), 2000)
    assert scores["affiliation_precision"] == pytest.approx(0.5, abs=0.05)
