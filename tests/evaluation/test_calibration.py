"""Temperatures and thresholds are the best ones, and impossible requests are refused."""

import numpy as np
import pytest

from tstk.errors import DataError, OptionError
from tstk.evaluation.calibration import choose_threshold, fit_temperature, parse_rate, score_threshold, softmax
from tstk.evaluation.classification import compute_scores


def draw_logits(rows=400, classes=3, overconfidence=1.0, seed=0):
    """Return logits [N, K], and targets that softmax(logits / overconfidence) is the distribution of."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=(rows, classes)) * 2
    cumulative = softmax(logits).cumsum(1)
    targets = (draw.random((rows, 1)) > cumulative).sum(1).clip(max=classes - 1)
    return logits * overconfidence, targets


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("classes", [2, 5])
def test_the_temperature_of_overconfident_logits_is_found_and_calibrates(classes, temperature):
    logits, targets = draw_logits(20_000, classes, temperature)
    found = fit_temperature(logits, targets)
    assert found == pytest.approx(temperature, rel=0.05)
    calibrated = compute_scores(targets, softmax(logits, found))
    assert calibrated["ece"] < 0.02
    for other in (0.9 * found, 1.1 * found):
        assert compute_scores(targets, softmax(logits, other))["log_loss"] > calibrated["log_loss"]


def test_the_temperature_ignores_unknown_labels_shifts_and_scales_with_the_logits():
    logits, targets = draw_logits()
    temperature = fit_temperature(logits, targets)
    assert fit_temperature(3 * logits + np.arange(len(logits))[:, None], targets) == pytest.approx(3 * temperature)
    masked = np.where(np.arange(len(targets)) % 3 == 0, -1, targets)
    assert fit_temperature(logits, masked) == pytest.approx(fit_temperature(logits[masked >= 0], masked[masked >= 0]))


@pytest.mark.parametrize(
    ("logits", "targets", "reason"),
    [
        ([[2.0, 0.0], [0.0, 1.0]], [0, 1], "are classified correctly"),
        ([[2.0, 0.0], [0.0, 1.0]], [1, 0], "no better than chance"),
        ([[1.0, 1.0], [1.0, 1.0]], [1, 0], "no temperature is best"),
        ([[2.0, 0.0]], [-1], "no label of the validation split is known"),
    ],
)
def test_logits_that_have_no_best_temperature_are_refused_with_the_reason(logits, targets, reason):
    with pytest.raises(DataError, match=reason):
        fit_temperature(np.array(logits), np.array(targets))


@pytest.mark.parametrize("rate", ["sensitivity", "specificity"])
@pytest.mark.parametrize("minimum", [0.3, 0.8, 0.95, 1.0])
def test_a_threshold_reaches_the_rate_and_no_other_threshold_that_does_is_better(rate, minimum):
    draw = np.random.default_rng(1)
    targets = draw.integers(0, 2, 60)
    p = (draw.random(60) + 0.4 * targets).round(1) / 1.4  # ties
    p[p.argmax()], targets[p.argmax()] = 1.0, 1
    chosen = choose_threshold(targets, p, rate, minimum)
    rates = {t: ((p >= t)[targets == 1].mean(), (p < t)[targets == 0].mean()) for t in p}
    index = ["sensitivity", "specificity"].index(rate)
    good = {t: pair[1 - index] for t, pair in rates.items() if pair[index] >= minimum}
    assert rates[chosen][index] >= minimum
    assert good[chosen] == max(good.values())


def test_a_threshold_that_cannot_be_chosen_is_refused():
    with pytest.raises(DataError, match=r"no threshold has a specificity of 0\.9"):
        choose_threshold(np.array([0, 1, 1]), np.array([0.9, 0.8, 0.1]), "specificity", 0.9)
    for targets in ([1, 1, -1], [0, 0, -1]):
        with pytest.raises(DataError, match="both classes"):
            choose_threshold(np.array(targets), np.array([0.9, 0.8, 0.1]), "sensitivity", 0.9)


@pytest.mark.parametrize(
    "text", ["sensitivity", "sensitivity=", "recall=0.9", "specificity=1.2", "sensitivity=0", "sensitivity=nan"]
)
def test_a_rate_that_is_none_is_refused(text):
    with pytest.raises(OptionError, match="expected sensitivity=VALUE or specificity=VALUE"):
        parse_rate(text)
    assert parse_rate("specificity=0.9") == ("specificity", 0.9)


def test_scores_at_a_threshold_are_those_counted_by_hand():
    targets, p = np.array([1, 1, 1, 0, 0, -1]), np.array([0.9, 0.5, 0.2, 0.6, 0.1, 0.99])
    scores, intervals, resampling = score_threshold(targets, p, 0.5)
    assert scores == pytest.approx({"sensitivity": 2 / 3, "specificity": 1 / 2, "precision": 2 / 3, "npv": 1 / 2})
    assert all(low <= scores[name] <= high for name, (low, high) in intervals.items())
    assert resampling.startswith("1,000 bootstrap resamples of 5 series")
    assert score_threshold(targets, p, 2.0)[0] == pytest.approx({"sensitivity": 0, "specificity": 1, "npv": 2 / 5})
