"""A calibrated pipeline predicts the same classes with other probabilities, in every way of using it."""

import numpy as np
import pytest
import torch

from tstk.core.types import Series
from tstk.data.datasets import SeriesDataset
from tstk.errors import OptionError
from tstk.evaluation.calibration import softmax
from tstk.evaluation.evaluate import evaluate
from tstk.evaluation.probabilities import (
    apply_threshold,
    calibrate,
    evaluate_classifier,
    predict_logits,
    score_classifier,
)


@pytest.fixture
def classifier(build, labelled_spec):
    pipeline = build(labelled_spec, head="linear").eval()
    with torch.no_grad():
        for parameter in pipeline.head.parameters():
            parameter *= 20  # overconfident
    return pipeline


def make_split(count, classes=3, seed=0, groups=None):
    draw = torch.Generator().manual_seed(seed)
    x, y = torch.randn(count, 2, 24, generator=draw), torch.randint(classes, (count,), generator=draw)
    return SeriesDataset(x, y) if groups is None else SeriesDataset(x, y, groups)


def label_by_own_predictions(pipeline, split, share=0.7):
    """Return the split with labels of which a share are those that the pipeline predicts."""
    guess = torch.from_numpy(predict_logits(pipeline, split).argmax(1))
    is_kept = torch.rand(len(split), generator=torch.Generator().manual_seed(1)) < share
    return SeriesDataset(split.x, torch.where(is_kept, guess, split.y))


def test_logits_are_those_of_single_batches_and_do_not_depend_on_their_size(classifier):
    split = make_split(11)
    logits = predict_logits(classifier.train(), split)
    assert classifier.training
    np.testing.assert_allclose(predict_logits(classifier, split, batch_size=3), logits, rtol=1e-4, atol=1e-4)
    expected = classifier.eval().predict_batch(split.batch(torch.arange(11)))
    np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-4, atol=1e-4)


def test_logits_of_the_evaluation_are_those_of_a_pass_of_their_own(classifier):
    split = make_split(300)  # more than one batch
    scores, logits = evaluate_classifier(classifier, split)
    np.testing.assert_array_equal(logits, predict_logits(classifier, split))
    assert scores == evaluate(classifier, split)


def test_calibration_changes_probabilities_but_no_label_in_every_prediction(classifier):
    split = label_by_own_predictions(classifier, make_split(60))
    series = split.batch(torch.arange(60))
    before, raw = classifier.predict(series), classifier.predict_batch(series)
    loss = evaluate(classifier, split)["loss"]
    calibration = calibrate(classifier, split)
    temperature = calibration.temperature
    assert temperature > 1.5
    assert calibration.after["val"]["log_loss"] < calibration.before["val"]["log_loss"]
    assert classifier.state_dict()["temperature"] == pytest.approx(temperature)
    after = classifier.predict(series)
    assert (after.labels == before.labels).all()
    np.testing.assert_allclose(after.probabilities, softmax(raw.numpy(), temperature), rtol=1e-5)
    torch.testing.assert_close(classifier.predict_batch(series), raw / temperature)
    assert evaluate(classifier, split)["loss"] == loss  # training is not changed
    scores = score_classifier(classifier, split, predict_logits(classifier, split)).scores
    assert scores["log_loss"] == pytest.approx(calibration.after["val"]["log_loss"])
    assert scores["accuracy"] == evaluate(classifier, split)["accuracy"]


@pytest.mark.slow
def test_an_exported_classifier_is_calibrated(classifier):
    from tstk.inference.export import export

    split = label_by_own_predictions(classifier, make_split(60))
    x = torch.randn(3, 2, 24)
    raw = classifier.predict_batch(Series(x))
    temperature = calibrate(classifier, split).temperature
    torch.testing.assert_close(export(classifier).module()(x), raw / temperature, rtol=1e-4, atol=1e-4)


def test_where_no_temperature_is_best_the_pipeline_stays_as_it_is_and_says_why(classifier):
    split = label_by_own_predictions(classifier, make_split(20), share=1.1)
    calibration = calibrate(classifier, split)
    assert calibration.note == (
        "not calibrated: all validation series are classified correctly, so no temperature is best"
    )
    assert (calibration.temperature, calibration.before, classifier.temperature) == (1.0, {}, None)
    assert "temperature" not in classifier.state_dict()
    note = calibrate(classifier, SeriesDataset(split.x)).note
    assert note == "not calibrated: no label of the validation split is known"


def test_a_threshold_is_chosen_on_validation_and_scored_on_another_split(build, labelled_spec):
    pipeline = build(labelled_spec.replace(num_outputs=2), head="linear").eval()
    val, test = make_split(80, 2), make_split(40, 2, seed=1, groups=[f"g{i % 12}" for i in range(40)])
    result = apply_threshold(pipeline, val, test, predict_logits(pipeline, test), "sensitivity", 0.8)
    assert result.validation["sensitivity"] >= 0.8
    p = pipeline.predict(test.batch(torch.arange(40))).probabilities[:, 1]
    is_positive = test.y.numpy() == 1
    assert result.scores["sensitivity"] == pytest.approx((p >= result.threshold)[is_positive].mean(), abs=0.06)
    assert result.scores["specificity"] == pytest.approx((p < result.threshold)[~is_positive].mean(), abs=0.06)
    assert result.resampling.endswith("of 12 groups")
    assert result.positive_class == "1"


def test_a_threshold_needs_two_classes(classifier):
    with pytest.raises(OptionError, match="separates two classes, but this run has 3"):
        apply_threshold(classifier, make_split(9), make_split(9), np.zeros((9, 3)), "sensitivity", 0.8)
