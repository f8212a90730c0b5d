"""Metrics of anomaly detection against values computed by hand, and their baselines."""

import numpy as np
import pytest

from tstk.evaluation.affiliation import affiliation_metrics
from tstk.evaluation.anomalies import (
    BASELINES,
    extend_labels,
    find_ranges,
    matrix_profile,
    range_areas,
    score_detection,
    volume_under_surface,
)


def labels_at(*ranges, length=40):
    labels = np.zeros(length, dtype=bool)
    for start, stop in ranges:
        labels[start:stop] = True
    return labels


def test_ranges_are_runs_of_true():
    starts, stops = find_ranges(labels_at((0, 2), (5, 6), (38, 40)))
    assert starts.tolist() == [0, 5, 38]
    assert stops.tolist() == [2, 6, 40]


def test_labels_fall_off_on_both_sides_of_an_event():
    soft = extend_labels(labels_at((5, 7), length=12), 4)
    a, b = np.sqrt(1 - 1 / 4), np.sqrt(1 - 2 / 4)
    np.testing.assert_allclose(soft, [0, 0, 0, b, a, 1, 1, a, b, 0, 0, 0])
    np.testing.assert_array_equal(
        extend_labels(labels_at((0, 1), (11, 12), length=12), 4)[[0, 1, 10, 11]], [1, a, a, 1]
    )
    np.testing.assert_array_equal(extend_labels(labels_at((5, 7)), 0), labels_at((5, 7)))


def range_areas_by_loop(labels, scores, buffer):
    """Compute the areas as the equations of the paper are written, one threshold after the other."""
    soft = extend_labels(labels, buffer)
    starts, stops = find_ranges(soft > 0)
    positives = (labels.sum() + soft.sum()) / 2
    recall, fall_out, precision = [0.0], [0.0], [1.0]
    thresholds = np.sort(scores)[::-1]
    for threshold in thresholds[np.linspace(0, len(scores) - 1, 250).astype(int)]:
        predicted = scores >= threshold
        hits = (soft * predicted).sum()
        found = np.mean([predicted[a:b].any() for a, b in zip(starts, stops, strict=True)])
        recall.append(min(hits / positives, 1) * found)
        fall_out.append(min((predicted.sum() - hits) / (len(labels) - positives), 1))
        precision.append(hits / predicted.sum())
    pr = sum((b - a) * (p + q) / 2 for a, b, p, q in zip(recall, recall[1:], precision, precision[1:], strict=False))
    recall, fall_out = [*recall, 1.0], [*fall_out, 1.0]
    roc = sum((b - a) * (p + q) / 2 for a, b, p, q in zip(fall_out, fall_out[1:], recall, recall[1:], strict=False))
    return pr, roc


def test_the_room_between_series_is_never_reported():
    scores, labels = np.ones((2, 50)), np.zeros((2, 50), dtype=bool)
    labels[0, 40:] = True
    found = score_detection(scores, labels, threshold=0.5)
    one = affiliation_metrics(np.array([[0.0, 50], [60, 110]]), np.array([[40.0, 50]]), 120)
    assert {name: found[name] for name in one} == pytest.approx(one)


@pytest.mark.parametrize("buffer", [0, 1, 2, 7, 20])
@pytest.mark.parametrize("ties", [False, True])
def test_range_areas_are_those_of_a_loop_over_thresholds(buffer, ties):
    rng = np.random.default_rng(buffer)
    labels = labels_at((3, 9), (60, 61), (150, 190), (295, 300), length=300)
    scores = labels * rng.random(300) + rng.random(300)
    scores = scores.round(1) if ties else scores
    np.testing.assert_allclose(range_areas(labels, scores, buffer), range_areas_by_loop(labels, scores, buffer))


def test_areas_of_four_samples_by_hand():
    """Scores 4, 3, 2, 1 and an event at the second: recall 0, 1, 1, 1 and precision 0, 1/2, 1/3, 1/4."""
    labels, scores = labels_at((1, 2), length=4), np.array([4.0, 3, 2, 1])
    pr, roc = range_areas(labels, scores, 0)
    assert pr == pytest.approx((0 + 1 / 2) / 2)
    assert roc == pytest.approx(2 / 3)


def test_a_score_beside_an_event_counts_in_part_for_the_volume_and_not_per_sample():
    labels = labels_at((100, 110), length=400)
    on, beside, far = (
        labels_at(r, length=400) + np.linspace(0, 0.1, 400) for r in ((100, 110), (111, 121), (300, 310))
    )
    results = [score_detection(scores[None], labels[None]) for scores in (on, beside, far)]
    assert results[0]["auroc"] == results[0]["auprc"] == 1.0
    assert results[0]["vus_pr"] > results[1]["vus_pr"] > results[2]["vus_pr"]
    assert results[1]["vus_roc"] > results[2]["vus_roc"]
    assert results[1]["auprc"] < 0.1


def test_the_volume_is_the_mean_over_widths():
    labels = labels_at((10, 14))
    scores = np.random.default_rng(0).random(40)
    areas = [range_areas(labels, scores, buffer) for buffer in range(5)]
    np.testing.assert_allclose(volume_under_surface(labels, scores, 4), np.mean(areas, 0))


def test_metrics_at_a_threshold_count_samples():
    labels, scores = labels_at((0, 4), length=10), np.array([9, 9, 1, 1, 9, 1, 1, 1, 1, 1.0])
    result = score_detection(scores[None], labels[None], threshold=5.0)
    assert (result["precision"], result["recall"]) == (pytest.approx(2 / 3), 0.5)
    assert result["f1"] == pytest.approx(4 / 7)
    assert score_detection(scores[None], labels[None], threshold=99.0)["f1"] == 0.0


def test_samples_that_are_not_scored_do_not_count():
    labels, scores = labels_at((0, 4), length=30), np.random.default_rng(0).random(30)
    scored = np.arange(30) < 20
    changed = np.where(scored, scores, np.nan)
    assert score_detection(changed[None], labels[None], scored[None]) == score_detection(
        scores[None, :20], labels[None, :20]
    )
    assert score_detection(scores[None], labels_at(length=30)[None]) == {}


@pytest.mark.parametrize("name", ["moving deviation", "last value"])
def test_baselines_are_highest_at_a_spike_and_fill_gaps(name):
    x = np.sin(np.arange(200) / 9)[None, None].repeat(2, 1)
    x[0, :, 120] += 5
    x[0, 0, 50:60] = np.nan
    scores = BASELINES[name](x, 20)
    assert scores.shape == (1, 200)
    assert np.isfinite(scores).all()
    assert scores.argmax() in (120, 121)


def test_a_matrix_profile_finds_what_does_not_repeat():
    x = np.sin(np.arange(400) / 5)[None, None].copy()
    x[0, 0, 200:220] = 0
    scores = BASELINES["matrix profile"](x, 30)
    assert 180 < scores.argmax() < 240


def profile_by_loop(x, window):
    """Compute all distances of z-normalized windows that are more than a quarter of a window apart."""
    windows = np.lib.stride_tricks.sliding_window_view(x, window)
    std = windows.std(1, keepdims=True)
    z = (windows - windows.mean(1, keepdims=True)) / np.where(std > 0, std, 1)
    distance = np.sqrt(np.square(z[:, None] - z).sum(2))
    place = np.arange(len(z))
    distance[np.abs(place[:, None] - place) <= np.ceil(window / 4)] = np.inf
    return distance.min(1), std[:, 0] == 0


@pytest.mark.parametrize("window", [4, 7, 12])
def test_a_matrix_profile_is_that_of_a_loop_over_pairs_of_windows(window):
    x = np.random.default_rng(0).normal(size=150).cumsum() + 1e3
    np.testing.assert_allclose(matrix_profile(x, window), profile_by_loop(x, window)[0], atol=1e-5)
    x[60:90] = x[60]  # constant windows are at distance 0 from each other, and sqrt(window) from others
    expected, is_constant = profile_by_loop(x, window)
    np.testing.assert_allclose(matrix_profile(x, window), expected, atol=1e-5)
    assert (expected[is_constant] == 0).all()


def test_a_window_that_is_constant_alone_is_as_far_from_all_others_as_noise():
    x = np.random.default_rng(0).normal(size=150)
    x[60:68] = 0.5
    assert matrix_profile(x, 8)[60] == pytest.approx(np.sqrt(8))


def test_scores_by_matrix_profile_are_means_over_windows_and_channels():
    x = np.random.default_rng(0).normal(size=(2, 2, 60)).cumsum(2)
    profiles = np.array([[matrix_profile(channel, 8) for channel in series] for series in x])
    expected = np.stack([profiles[..., max(0, t - 7) : t + 1].mean((1, 2)) for t in range(60)], 1)
    np.testing.assert_allclose(BASELINES["matrix profile"](x, 8), expected)


def test_a_matrix_profile_that_would_take_too_long_is_skipped_with_the_reason(monkeypatch):
    monkeypatch.setattr("tstk.evaluation.anomalies.MAX_PROFILE_PAIRS", 1e4)
    assert BASELINES["matrix profile"](np.zeros((1, 2, 100)), 10) == (
        "a matrix profile of 1 x 2 x 100 samples takes too long: 2e+04 pairs, more than 1e+04; score a part of the data"
    )
