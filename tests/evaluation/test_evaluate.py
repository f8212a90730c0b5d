"""Scores of classes are scikit-learn's, to the last digit."""

import numpy as np
import pytest
import torch

from tstk.evaluation.baselines import majority
from tstk.evaluation.evaluate import class_scores, classified


@pytest.mark.parametrize("classes", [1, 2, 3, 9, 60])
@pytest.mark.parametrize("rows", [1, 2, 17, 400])
def test_accuracy_and_macro_f1_are_those_of_scikit_learn(rows, classes):
    from sklearn.metrics import accuracy_score, f1_score

    draw = np.random.default_rng(rows * classes)
    for among in {1, (classes + 1) // 2, classes}:  # some classes are missing from the truths
        truth, guess = draw.integers(0, among, rows), draw.integers(0, classes, rows)
        found = classified(torch.from_numpy(truth), torch.from_numpy(guess))
        assert found["accuracy"] == accuracy_score(truth, guess)
        assert found["f1_macro"] == f1_score(truth, guess, average="macro", zero_division=0)


@pytest.mark.parametrize("classes", [1, 2, 7])
def test_scores_of_each_class_are_those_of_scikit_learn(classes):
    from sklearn.metrics import precision_recall_fscore_support

    draw = np.random.default_rng(classes)
    truth, guess = draw.integers(0, max(classes - 1, 1), 40), draw.integers(0, classes, 40)
    found = class_scores(torch.from_numpy(truth), torch.from_numpy(guess), classes + 2)
    expected = precision_recall_fscore_support(truth, guess, labels=range(classes + 2), zero_division=0)
    for name, values in zip(("precision", "recall", "f1"), expected, strict=False):
        assert found[name].tolist() == values.tolist()


def test_rows_without_a_label_do_not_count():
    truth, guess = torch.tensor([0, -1, 1, -1, 1]), torch.tensor([0, 0, 1, 2, 0])
    known = truth >= 0
    assert classified(truth, guess) == classified(truth[known], guess[known])
    assert class_scores(truth, guess, 3)["precision"].tolist() == [0.5, 1.0, 0.0]


def test_without_any_label_there_is_no_score():
    assert classified(torch.tensor([-1, -1]), torch.tensor([0, 1])) == {}
    assert classified(torch.tensor([], dtype=torch.long), torch.tensor([], dtype=torch.long)) == {}
    assert majority(torch.tensor([3, 1]), torch.tensor([-1])) == {}
