"""Scores of classes and probabilities equal those of scikit-learn, or those computed by hand."""

import numpy as np
import pytest
import torch

from tests.support.grids import slow_after
from tstk.evaluation.baselines import score_majority_class
from tstk.evaluation.classification import (
    bin_confidence,
    classification_metrics,
    draw_resamples,
    per_class_metrics,
    score_probabilities,
)


@pytest.mark.parametrize("classes", [1, 2, 3, 9, 60])
@pytest.mark.parametrize("rows", [1, 2, 17, 400])
def test_accuracy_and_macro_f1_are_those_of_scikit_learn(rows, classes):
    from sklearn.metrics import accuracy_score, f1_score

    draw = np.random.default_rng(rows * classes)
    for among in {1, (classes + 1) // 2, classes}:  # some classes are missing from the truths
        truth, guess = draw.integers(0, among, rows), draw.integers(0, classes, rows)
        result = classification_metrics(torch.from_numpy(truth), torch.from_numpy(guess))
        assert result["accuracy"] == accuracy_score(truth, guess)
        assert result["f1_macro"] == f1_score(truth, guess, average="macro", zero_division=0)


@pytest.mark.parametrize("classes", [1, 2, 7])
def test_scores_of_each_class_are_those_of_scikit_learn(classes):
    from sklearn.metrics import precision_recall_fscore_support

    draw = np.random.default_rng(classes)
    targets, predictions = draw.integers(0, max(classes - 1, 1), 40), draw.integers(0, classes, 40)
    result = per_class_metrics(torch.from_numpy(targets), torch.from_numpy(predictions), classes + 2)
    expected = precision_recall_fscore_support(targets, predictions, labels=range(classes + 2), zero_division=0)
    for name, values in zip(("precision", "recall", "f1"), expected, strict=False):
        assert result[name].tolist() == values.tolist()


def test_rows_without_a_label_do_not_count():
    targets, predictions = torch.tensor([0, -1, 1, -1, 1]), torch.tensor([0, 0, 1, 2, 0])
    known = targets >= 0
    assert classification_metrics(targets, predictions) == classification_metrics(targets[known], predictions[known])
    assert per_class_metrics(targets, predictions, 3)["precision"].tolist() == [0.5, 1.0, 0.0]


def test_without_any_label_there_is_no_score():
    assert classification_metrics(torch.tensor([-1, -1]), torch.tensor([0, 1])) == {}
    assert classification_metrics(torch.tensor([], dtype=torch.long), torch.tensor([], dtype=torch.long)) == {}
    assert score_majority_class(torch.tensor([3, 1]), torch.tensor([-1])) == {}


# ------------------------------------------------------------------ probabilities


def draw_probabilities(rows, classes, seed=0, decimals=None):
    """Return targets [N], each class at least once, and probabilities [N, K] that are better than chance."""
    draw = np.random.default_rng(seed)
    targets = np.concatenate([np.arange(classes), draw.integers(0, classes, rows - classes)])
    logits = draw.normal(size=(rows, classes)) + 1.5 * np.eye(classes)[targets]
    if decimals is not None:
        logits = logits.round(decimals)  # ties
    p = np.exp(logits)
    return targets, p / p.sum(1, keepdims=True)


def score(targets, probabilities, groups=None, seed=0):
    classes = [f"c{k}" for k in range(probabilities.shape[1])]
    return score_probabilities(targets, probabilities, classes, groups, seed=seed)


@pytest.mark.parametrize("decimals", [None, 0])
@pytest.mark.parametrize(("rows", "classes"), slow_after(1, [(9, 2), (60, 2), (40, 3), (90, 7)]))
def test_scores_of_probabilities_are_those_of_scikit_learn(rows, classes, decimals):
    from sklearn import metrics

    y, p = draw_probabilities(rows, classes, seed=rows, decimals=decimals)
    guess, onehot, result = p.argmax(1), np.eye(classes)[y], score(y, p)
    each = np.array([metrics.roc_auc_score(onehot[:, k], p[:, k]) for k in range(classes)])
    precise = np.array([metrics.average_precision_score(onehot[:, k], p[:, k]) for k in range(classes)])
    expected = {
        "accuracy": metrics.accuracy_score(y, guess),
        "balanced_accuracy": metrics.balanced_accuracy_score(y, guess),
        "f1_macro": metrics.f1_score(y, guess, average="macro"),
        "kappa": metrics.cohen_kappa_score(y, guess),
        "mcc": metrics.matthews_corrcoef(y, guess),
        "auroc": metrics.roc_auc_score(y, p[:, 1]) if classes == 2 else metrics.roc_auc_score(y, p, multi_class="ovr"),
        "auprc": precise[1] if classes == 2 else precise.mean(),
        "log_loss": metrics.log_loss(y, p),
        "brier": ((p - onehot) ** 2).sum(1).mean() / (2 if classes == 2 else 1),
    }
    assert result.scores == pytest.approx(expected | {"ece": result.scores["ece"]}, abs=1e-12)
    assert result.confusion == metrics.confusion_matrix(y, guess).tolist()
    recall = metrics.recall_score(y, guess, average=None)
    for k, name in enumerate(result.classes):
        row = result.per_class[name]
        assert row["auroc"] == pytest.approx(each[k])
        assert row["auprc"] == pytest.approx(precise[k])
        assert row["sensitivity"] == pytest.approx(recall[k])
        assert row["specificity"] == pytest.approx(metrics.recall_score(y != k, guess != k))
        assert row["f1"] == pytest.approx(metrics.f1_score(y == k, guess == k))
    if classes == 2:
        assert result.scores["brier"] == pytest.approx(metrics.brier_score_loss(y, p[:, 1]))


def test_scores_of_four_series_are_those_computed_by_hand():
    y = np.array([0, 0, 1, 1])
    positive = np.array([0.1, 0.6, 0.55, 0.9])  # one of the four pairs is in the wrong order
    result = score(y, np.stack([1 - positive, positive], 1))
    assert result.scores["auroc"] == pytest.approx(3 / 4)
    assert result.scores["auprc"] == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)
    assert result.scores["brier"] == pytest.approx((0.01 + 0.36 + 0.2025 + 0.01) / 4)
    assert result.scores["log_loss"] == pytest.approx(-np.log([0.9, 0.4, 0.55, 0.9]).mean())
    # confidences .9, .6, .55, .9 in the bins (13, 9, 9, 14) of 15: (.867, .933] holds .9 twice, (.533, .6] the others
    assert bin_confidence(np.array([0.9, 0.6, 0.55, 0.9])).tolist() == [13, 8, 8, 13]
    assert result.scores["ece"] == pytest.approx(2 / 4 * abs(1 - 0.9) + 2 / 4 * abs(0.5 - 0.575))
    assert result.confusion == [[1, 1], [0, 2]]
    assert result.per_class["c1"]["sensitivity"] == 1
    assert result.per_class["c1"]["specificity"] == 0.5
    assert result.per_class["c1"]["precision"] == pytest.approx(2 / 3)
    assert result.scores["kappa"] == pytest.approx((3 / 4 - 1 / 2) / (1 - 1 / 2))


def test_scores_depend_neither_on_the_order_of_series_nor_on_that_of_three_classes():
    y, p = draw_probabilities(50, 3)
    first = score(y, p).scores
    rows, columns = np.random.default_rng(1).permutation(50), np.array([2, 0, 1])
    assert score(y[rows], p[rows]).scores == pytest.approx(first)
    assert score(np.argsort(columns)[y], p[:, columns]).scores == pytest.approx(first)


def test_series_without_a_label_change_no_score_of_probabilities():
    y, p = draw_probabilities(40, 3)
    groups = [f"g{i % 9}" for i in range(40)]
    masked = np.where(np.arange(40) % 4 == 1, -1, y)
    kept = masked >= 0
    names = [g for g, ok in zip(groups, kept, strict=True) if ok]
    assert score(masked, p, groups) == score(y[kept], p[kept], names)
    assert score(np.full(40, -1), p) is None


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_a_split_of_one_class_says_what_is_undefined_and_holds_no_nan(classes):
    p = draw_probabilities(12, classes)[1]
    result = score(np.zeros(12, int), p)
    assert not {"kappa", "mcc", "auroc", "auprc"} & result.scores.keys()
    assert result.notes[0] == "undefined: kappa, mcc, auroc, auprc; all 12 series are of class c0"
    values = [*result.scores.values(), *(v for row in result.per_class.values() for v in row.values())]
    assert np.isfinite(values).all()
    assert "specificity" not in result.per_class["c0"]


def test_a_class_that_is_absent_or_never_predicted_is_named():
    y, p = np.array([0, 1, 0, 1]), np.array([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.5, 0.4, 0.1]])
    result = score(y, p)
    assert result.notes[0] == "no series of class c2: it is left out of the means over classes"
    assert "never predicted: c1" in result.notes[1]
    assert "precision" not in result.per_class["c1"]
    assert result.scores["auroc"] == pytest.approx(np.mean([result.per_class[c]["auroc"] for c in ("c0", "c1")]))


def test_the_interval_of_an_accuracy_is_that_of_the_binomial_distribution():
    draw = np.random.default_rng(0)
    is_right = draw.random(400) < 0.8
    y = draw.integers(0, 2, 400)
    p = np.eye(2)[np.where(is_right, y, 1 - y)] * 0.8 + 0.1
    low, high = score(y, p).intervals["accuracy"]
    half_width = 1.96 * (is_right.mean() * (1 - is_right.mean()) / 400) ** 0.5
    assert (low, high) == pytest.approx((is_right.mean() - half_width, is_right.mean() + half_width), abs=0.006)


def test_copies_of_a_subject_widen_the_interval_only_if_they_are_grouped():
    y, p = draw_probabilities(30, 2, seed=3)
    copied, groups = (np.repeat(y, 20), np.repeat(p, 20, 0)), [f"s{i // 20:02}" for i in range(600)]
    width = {
        name: np.subtract(*result.intervals["auroc"][::-1])
        for name, result in {
            "single": score(y, p),
            "grouped": score(*copied, groups),
            "not grouped": score(*copied),
        }.items()
    }
    assert width["grouped"] == pytest.approx(width["single"], rel=1e-9)
    assert width["not grouped"] < width["single"] / 3


def test_intervals_repeat_with_a_seed_contain_the_score_and_say_what_they_are_over():
    y, p = draw_probabilities(80, 3, seed=5)
    groups = [f"g{i % 20}" for i in range(80)]
    first, again, other = score(y, p, groups), score(y, p, groups), score(y, p, groups, seed=1)
    assert first == again
    assert first.intervals != other.intervals
    assert first.scores == other.scores
    for name in ("accuracy", "auroc", "auprc", "kappa", "balanced_accuracy"):
        low, high = first.intervals[name]
        assert low < first.scores[name] < high
    assert first.resampling == "1,000 bootstrap resamples of 20 groups"
    assert "too narrow" in score(y, p, [f"g{i % 3}" for i in range(80)]).resampling
    alone = score(y, p, ["g"] * 80)
    assert alone.intervals == {}
    assert alone.resampling == "no intervals: there is a single group to resample"


@pytest.mark.parametrize("num_series", [7, 300_000])
def test_a_resample_draws_as_many_series_or_whole_groups_as_there_are(num_series):
    ids = np.arange(num_series) // 5
    for group_ids, units in ((None, num_series), (ids, ids.max() + 1)):
        weights = np.concatenate([*draw_resamples(num_series, group_ids, 5, 0)])
        assert weights.shape == (5, num_series)
        drawn = weights if group_ids is None else weights[:, ::5]
        assert (drawn.sum(1) == units).all()
        assert (weights[1:] != weights[0]).any()
        if group_ids is not None:
            assert (weights == drawn[:, ids]).all()
