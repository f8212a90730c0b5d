"""Classification metrics equal those of scikit-learn."""

import numpy as np
import pytest
import torch

from tstk.evaluation.baselines import score_majority_class
from tstk.evaluation.evaluate import classification_metrics, per_class_metrics


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
