"""Scores of a class per sample: by sample against scikit-learn, by segment against plain loops."""

from itertools import groupby

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, cohen_kappa_score, f1_score

from tstk.core.types import Series
from tstk.data.datasets import SeriesDataset
from tstk.evaluation.segments import find_segments, join_windows, score_segmentation, score_segments
from tstk.evaluation.simple_segmenters import compute_moving_features


def make_labels(seed, length=200, classes=3):
    rng = np.random.default_rng(seed)
    labels = np.repeat(rng.integers(classes, size=length), rng.integers(1, 20, size=length))[:length]
    return labels.astype(np.int64)


def list_runs(labels):
    runs, start = [], 0
    for label, group in groupby(labels.tolist()):
        end = start + len(list(group))
        runs += [(label, start, end)] * (label >= 0)
        start = end
    return runs


def edit_distance(a, b):
    table = [[max(i, j) if 0 in (i, j) else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            changes = table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (a[i - 1] != b[j - 1])
            table[i][j] = min(changes)
    return table[-1][-1]


def count_matches(true, predicted, overlap):
    matched = set()
    for label, start, end in predicted:
        quality = []
        for other, first, last in true:
            shared = max(0, min(end, last) - max(start, first))
            quality.append(shared / (max(end, last) - min(start, first)) if other == label else 0.0)
        best = max(range(len(true)), key=quality.__getitem__)
        if quality[best] >= overlap:
            matched.add(best)
    return len(matched)


@pytest.mark.parametrize("seed", range(5))
def test_segmental_scores_agree_with_loops_over_segments(seed):
    targets, predictions = make_labels(seed), make_labels(seed + 100)
    predictions = np.where(np.arange(200) % 40 < 30, targets, predictions)
    targets[50:60] = predictions[50:60] = -1
    scores = score_segments([(targets, predictions)])
    true, predicted = list_runs(targets), list_runs(predictions)
    assert [tuple(row) for row in find_segments(targets).tolist()] == true
    names = [[label for label, *_ in runs] for runs in (true, predicted)]
    assert scores["edit"] == pytest.approx(1 - edit_distance(*names) / max(map(len, names)))
    for percent in (10, 25, 50):
        num_matched = count_matches(true, predicted, percent / 100)
        assert scores[f"f1_{percent}"] == pytest.approx(2 * num_matched / (len(true) + len(predicted)))


def test_scores_by_sample_agree_with_scikit_learn_and_leave_unknown_samples_out():
    targets, predictions = (torch.from_numpy(make_labels(seed)).view(4, 50) for seed in (0, 1))
    targets[1, 10:20] = -1
    known = targets >= 0
    scores = score_segmentation(targets, predictions, 3)
    a, b = targets[known].numpy(), predictions[known].numpy()
    assert scores["sample_accuracy"] == pytest.approx(accuracy_score(a, b))
    assert scores["f1_macro"] == pytest.approx(f1_score(a, b, average="macro"))
    assert scores["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(a, b))
    assert scores["kappa"] == pytest.approx(cohen_kappa_score(a, b))


def test_too_many_segments_lower_the_scores_by_segment_and_hardly_those_by_sample():
    targets = torch.zeros(1, 100, dtype=torch.long)
    targets[:, 50:] = 1
    flickering = targets.clone()
    flickering[0, 5:95:10] = 1 - flickering[0, 5:95:10]
    clean, noisy = (score_segmentation(targets, p, 2) for p in (targets, flickering))
    assert set(clean.values()) == {1.0}
    assert noisy["sample_accuracy"] > 0.9
    assert noisy["edit"] < 0.2
    assert noisy["f1_50"] < 0.3


def test_no_scores_without_a_known_class():
    unknown = torch.full((2, 5), -1)
    assert score_segmentation(unknown, torch.zeros_like(unknown), 2) == {}


def test_windows_of_a_recording_are_joined_where_they_follow_each_other():
    x = torch.zeros(6, 1, 10)
    x[2, :, 4:] = torch.nan  # the last window of the first recording
    starts, recordings = torch.tensor([0, 10, 20, 0, 20, 30]), torch.tensor([0, 0, 0, 1, 1, 1])
    split = SeriesDataset(x, rows=starts, recordings=recordings)
    assert join_windows(split, 6, 10) == [[0, 1, 2], [3], [4, 5]]
    assert join_windows(SeriesDataset(x, rows=starts), 6, 10) == [[i] for i in range(6)]


def test_moving_features_are_those_of_the_observed_samples_around_each():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 60, generator=generator)
    observed = torch.rand(1, 2, 60, generator=generator) > 0.2
    features = compute_moving_features(Series(x * observed, observed))
    for t in (0, 7, 30, 59):
        around = slice(max(t - 4, 0), t + 5)
        for channel in range(2):
            values = x[0, channel, around][observed[0, channel, around]].double()
            assert features[0, t, channel] == pytest.approx(float(values.mean()))
            assert features[0, t, 2 + channel] == pytest.approx(float(values.std(correction=0)))
