"""Metrics against plain loops and scikit-learn."""

import numpy as np
import pytest
import sklearn.metrics
import torch

from tstk.evaluation.metrics import ForecastMetrics, crps, multilabel_metrics, regression_metrics


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_scores_are_those_of_plain_loops_whatever_the_batches():
    mean, std = torch.tensor([[2.0], [-1.0]]), torch.tensor([[3.0], [0.5]])
    predictions, targets, past = random(6, 2, 4), random(6, 2, 4, seed=1), random(6, 2, 9, seed=2)
    targets[1, 0, 2] = past[3, 1, 4] = torch.nan
    metrics = ForecastMetrics(mean, std)
    for rows in (slice(0, 1), slice(1, 6)):
        metrics.update(predictions[rows], targets[rows], past[rows])
    result = metrics.compute()
    g, t, p = (x.double().numpy() for x in (predictions, targets, past))
    error = np.abs(g - t)
    assert result["mse"] == pytest.approx(np.nanmean(error**2))
    assert result["mae"] == pytest.approx(np.nanmean(error))
    raw = [x * std.numpy() + mean.numpy() for x in (g, t)]
    assert result["smape"] == pytest.approx(np.nanmean(200 * abs(raw[0] - raw[1]) / (abs(raw[0]) + abs(raw[1]))), 1e-5)
    step = np.nanmean(abs(np.diff(p)), (0, 2))
    assert result["mase"] == pytest.approx((np.nanmean(error, (0, 2)) / step).mean())
    assert "crps" not in result


def test_crps_is_the_mean_distance_less_half_the_spread():
    draws, targets = random(7, 2, 3), random(2, 3, seed=1)
    near = (draws - targets).abs().mean(0)
    spread = (draws[:, None] - draws[None]).abs().mean((0, 1))
    torch.testing.assert_close(crps(draws, targets), (near - spread / 2).double())
    torch.testing.assert_close(crps(targets[None] + 1, targets), torch.ones(2, 3).double())


def test_a_context_that_does_not_move_has_no_mase_and_an_unknown_future_no_score():
    metrics = ForecastMetrics(torch.zeros(1, 1), torch.ones(1, 1))
    metrics.update(random(2, 1, 3), random(2, 1, 3, seed=1), torch.ones(2, 1, 5))
    assert "mase" not in metrics.compute()
    metrics = ForecastMetrics(torch.zeros(1, 1), torch.ones(1, 1))
    metrics.update(random(2, 1, 3), torch.full((2, 1, 3), torch.nan), torch.ones(2, 1, 5))
    assert metrics.compute() == {}


def test_channels_that_decide_the_mean_mase_or_have_none_are_named():
    past = random(20, 4, 50)
    past[:, 1] = (past[:, 1] > 2.5).float()  # an alarm that is nearly always off
    past[:, 3] = 0
    metrics = ForecastMetrics(torch.zeros(4, 1), torch.ones(4, 1))
    metrics.update(random(20, 4, 5), random(20, 4, 5, seed=1), past)
    mase = metrics.compute_mase()
    assert metrics.compute()["mase"] == pytest.approx(float(mase[:3].mean()))
    note = metrics.describe_mase(["a", "alarm", "b", "off"])
    assert f"decided by alarm (MASE {mase[1]:.3g}, mean step" in note
    assert note.endswith("MASE leaves out off, constant in every context.")
    metrics = ForecastMetrics(torch.zeros(2, 1), torch.ones(2, 1))
    metrics.update(random(20, 2, 5), random(20, 2, 5, seed=1), random(20, 2, 50))
    assert metrics.describe_mase(["a", "b"]) == ""


def test_metrics_of_numbers_are_those_of_scikit_learn_over_known_targets():
    rng = np.random.default_rng(0)
    targets, outputs = rng.normal(size=(2, 50, 3))
    targets[:9, 1] = np.nan
    metrics = regression_metrics(torch.from_numpy(outputs), torch.from_numpy(targets), ["a", "b", "c"])
    for k, name in enumerate("abc"):
        known = ~np.isnan(targets[:, k])
        pair = targets[known, k], outputs[known, k]
        assert metrics[f"mae {name}"] == pytest.approx(sklearn.metrics.mean_absolute_error(*pair))
        assert metrics[f"rmse {name}"] == pytest.approx(sklearn.metrics.root_mean_squared_error(*pair))
        assert metrics[f"r2 {name}"] == pytest.approx(sklearn.metrics.r2_score(*pair))
    assert metrics["r2"] == pytest.approx(np.mean([metrics[f"r2 {name}"] for name in "abc"]))


def test_metrics_of_a_constant_or_unknown_target_are_defined_or_left_out():
    ones, unknown = torch.ones(4, 1, dtype=torch.float64), torch.full((4, 1), torch.nan)
    assert regression_metrics(ones, ones, ["a"]) == {"mae": 0, "rmse": 0, "r2": 1}
    assert regression_metrics(ones + 1, ones, ["a"]) == {"mae": 1, "rmse": 1, "r2": 0}
    assert regression_metrics(ones, unknown, ["a"]) == {}
    assert regression_metrics(ones.repeat(1, 2), torch.cat([ones, unknown], 1), ["a", "b"]).keys() == {
        *("mae", "rmse", "r2"),
        *("mae a", "rmse a", "r2 a"),
    }


def test_metrics_of_several_labels_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    targets, logits = rng.integers(0, 2, (60, 3)), rng.integers(-3, 3, (60, 3)) / 2  # with ties
    logits[:, 0] += targets[:, 0]
    metrics = multilabel_metrics(torch.from_numpy(logits), torch.from_numpy(targets), ["a", "b", "c"])
    predicted = logits >= 0
    expected = {
        "f1_micro": sklearn.metrics.f1_score(targets, predicted, average="micro"),
        "f1_macro": sklearn.metrics.f1_score(targets, predicted, average="macro"),
        "auroc": sklearn.metrics.roc_auc_score(targets, logits),
        "auprc": sklearn.metrics.average_precision_score(targets, logits),
        "subset_accuracy": sklearn.metrics.accuracy_score(targets, predicted),
        "auroc b": sklearn.metrics.roc_auc_score(targets[:, 1], logits[:, 1]),
        "f1 c": sklearn.metrics.f1_score(targets[:, 2], predicted[:, 2]),
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)


def test_unknown_labels_do_not_count_and_labels_that_all_have_no_curve():
    logits = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0]])
    targets = torch.tensor([[1, 1], [0, 1], [-1, -1]])
    assert multilabel_metrics(logits, targets, ["a", "b"]) == {
        "f1_micro": 1.0,
        "f1_macro": 1.0,
        "auroc": 1.0,
        "auprc": 1.0,
        "subset_accuracy": 1.0,
        "f1 a": 1.0,
        "auroc a": 1.0,
        "auprc a": 1.0,
        "f1 b": 1.0,
    }
    assert multilabel_metrics(logits, torch.full_like(targets, -1), ["a", "b"]) == {}
