"""Regression and several labels, from a file to predictions, scores and a report."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import tstk
from tstk.cli import cli
from tstk.config.recipe import train_unless_done
from tstk.config.resolve import parse_overrides, resolve_config
from tstk.core.task import find_task, get_task
from tstk.core.types import Series, Spec
from tstk.errors import DataError, DataNoteWarning, IncompatibleError, OptionError
from tstk.evaluation.formatting import describe_better_baselines, is_lower_better
from tstk.evaluation.probe import probe
from tstk.evaluation.tasks.multilabel import name_true_labels
from tstk.inference.predict import predict, score
from tstk.plugins.hooks import Entry
from tstk.plugins.registry import get_registry
from tstk.training.runs import train

TINY = {
    "tokenizer": "patch",
    "tokenizer__dim": 16,
    "encoder__dim": 16,
    "encoder__depth": 1,
    "encoder__heads": 2,
    "lr": 0.01,
    "device": "cpu",
    "threads": 1,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Write sets whose targets are the level and the slope of each series, as numbers and as labels."""
    rng = np.random.default_rng(0)
    folder, arrays = tmp_path_factory.mktemp("targets"), {}
    for split, count in (("train", 120), ("val", 40), ("test", 40)):
        level, slope = rng.normal(size=(2, count))
        x = level[:, None] + slope[:, None] * np.linspace(-1, 1, 16) + 0.1 * rng.normal(size=(count, 16))
        arrays[split] = x[:, None], np.stack([1e6 + 50 * level, slope], 1)
    arrays["train"][1][:7, 0] = np.nan
    x = {f"X_{split}": x for split, (x, _) in arrays.items()}
    numbers = {f"targets_{split}": targets for split, (_, targets) in arrays.items()}
    np.savez(folder / "numbers.npz", **x, **numbers, target_names=["level", "slope"])
    labels = {f"y_{split}": (targets > [1e6, 0.5]).astype(int) for split, (_, targets) in arrays.items()}
    np.savez(folder / "labels.npz", **x, **labels, classes=["high", "steep"])
    return folder


@pytest.fixture(scope="module")
def regression(files, tmp_path_factory):
    """Train on both numbers; return the run directory."""
    run = tmp_path_factory.mktemp("runs") / "regression"
    tstk.fit(data=str(files / "numbers.npz"), loss="mse", steps=120, out=run, **TINY)
    return run


@pytest.fixture(scope="module")
def multilabel(files, tmp_path_factory):
    """Train on both labels; return the run directory."""
    run = tmp_path_factory.mktemp("runs") / "multilabel"
    options = {"loss": "binary-cross-entropy", "loss__balanced": True}
    tstk.fit(data=str(files / "labels.npz"), steps=120, out=run, **options, **TINY)
    return run


def run_cli(*words):
    result = CliRunner().invoke(cli, list(map(str, words)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
def test_regression_learns_and_is_scored_beside_its_baselines(regression, files):
    result = json.loads((regression / "result.json").read_text())
    assert result["task"] == "regression"
    assert result["baselines"].keys() == {"mean", "1-NN", "ridge"}
    assert result["test"]["r2"] > 0.9 > result["baselines"]["mean"]["r2"]
    assert {"rmse level", "r2 slope"} <= result["test"].keys()
    best = max(json.loads(row)["val"]["r2"] for row in (regression / "metrics.jsonl").read_text().splitlines())
    assert result["val"]["r2"] == best
    scores = score(regression)
    assert scores["scores"] == pytest.approx(result["test"])
    (files / "numbers.npz").rename(files / "moved.npz")
    try:
        other = score(regression, str(files / "moved.npz"))
    finally:
        (files / "moved.npz").rename(files / "numbers.npz")
    assert other["baselines"]["mean"]["rmse"] == pytest.approx(result["baselines"]["mean"]["rmse"])
    assert other["baselines_skipped"].keys() == {"1-NN", "ridge"}


@pytest.mark.slow
def test_predicted_numbers_are_in_the_units_of_the_data(regression, files, tmp_path):
    arrays = predict(regression)
    expected = np.load(files / "numbers.npz")["targets_test"]
    np.testing.assert_array_equal(arrays["truth"], expected)
    assert np.abs(arrays["predicted"] - expected).mean(0) == pytest.approx([0, 0], abs=15)
    run_cli("predict", regression, "--out", tmp_path / "p.csv")
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["row", "predicted level", "predicted slope", "truth level", "truth slope"]
    assert [float(row["predicted level"]) for row in rows] == arrays["predicted"][:, 0].tolist()
    pipeline = tstk.load(regression)
    x = np.load(files / "numbers.npz")["X_test"]
    np.testing.assert_allclose(pipeline.predict(x).values, arrays["predicted"], rtol=1e-6)
    np.testing.assert_allclose(pipeline.predict_batch(Series(torch.from_numpy(x).float())), arrays["predicted"])


@pytest.mark.slow
def test_unknown_targets_reach_neither_loss_nor_metrics(regression, files):
    pipeline = tstk.load(regression).train()
    targets = torch.from_numpy(np.load(files / "numbers.npz")["targets_train"])[:9]
    x = torch.from_numpy(np.load(files / "numbers.npz")["X_train"])[:9].float()
    pipeline.eval()
    output = pipeline(Series(x, y=targets))
    known = targets.isfinite()
    standardized = ((targets - pipeline.target_mean) / pipeline.target_std).float()
    assert known.sum() == 11
    torch.testing.assert_close(output.loss, (output.head_output - standardized)[known].square().mean())


@pytest.mark.slow
def test_frozen_features_of_a_regression_are_probed_by_ridge(regression):
    result = probe(regression)
    assert result["classifier"] == "ridge"
    assert result["results"][0]["r2"] > 0.9
    with pytest.raises(OptionError, match=r"--classifier svm: is for classes, .* use --classifier ridge"):
        probe(regression, classifier="svm")


@pytest.fixture
def write_other_data(files, tmp_path):
    """Write the test series of a set with only the second of its targets, and another; return its path by name."""

    def write(name):
        arrays = np.load(files / f"{name}.npz")
        targets = arrays[{"numbers": "targets", "labels": "y"}[name] + "_test"]
        others = np.stack([targets[:, 0] * 0 + 1, targets[:, 1]], 1)
        names = ["weight", {"numbers": "slope", "labels": "steep"}[name]]
        np.savez(tmp_path / "other.npz", X=arrays["X_test"], targets=others, target_names=names)
        return tmp_path / "other.npz"

    return write


@pytest.mark.slow
@pytest.mark.parametrize(("name", "names"), [("regression", "level, slope"), ("multilabel", "high, steep")])
def test_labels_of_other_data_are_not_taken_for_the_targets_of_the_run(name, names, files, request, tmp_path):
    run, x = request.getfixturevalue(name), np.load(files / "numbers.npz")["X_test"]
    np.savez(tmp_path / "other.npz", X=x, y=np.arange(len(x)) % 3)
    with pytest.warns(DataNoteWarning, match=f"the labels are not used: the run predicts {names}"):
        predictions = predict(run, str(tmp_path / "other.npz"))
    assert "truth" not in predictions
    with pytest.warns(DataNoteWarning), pytest.raises(DataError, match="there is nothing to score"):
        score(run, str(tmp_path / "other.npz"))


def test_a_target_that_no_training_series_has_leaves_no_baselines(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(2, 12, 1, 16)), np.random.default_rng(1).normal(size=(2, 12, 2))
    y[0, :, 1] = np.nan
    arrays = {"X_train": x[0], "X_test": x[1], "targets_train": y[0], "targets_test": y[1]}
    np.savez(tmp_path / "d.npz", target_names=["a", "b"], **arrays)
    tstk.fit(data=str(tmp_path / "d.npz"), steps=1, out=tmp_path / "run", **TINY)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["baselines"] == {}
    assert result["baselines_skipped"] == dict.fromkeys(("mean", "1-NN", "ridge"), "no training series has a known b")
    assert "NaN" not in (tmp_path / "run" / "result.json").read_text()


def test_a_true_label_that_is_unknown_has_a_question_mark():
    y = torch.tensor([[1, 0], [-1, 1], [0, -1], [0, 0]])
    assert name_true_labels(y, ("high", "steep")).tolist() == ["high", "high?;steep", "steep?", ""]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["numbers", "labels"])
def test_other_data_with_some_of_the_targets_are_predicted_and_scored_by_those(
    name, write_other_data, request, tmp_path
):
    run = request.getfixturevalue({"numbers": "regression", "labels": "multilabel"}[name])
    path, (absent, known) = write_other_data(name), {"numbers": ("level", "slope"), "labels": ("high", "steep")}[name]
    with pytest.warns(DataNoteWarning) as lines:
        scores = score(run, str(path))["scores"]
    assert f"no targets {absent}: they are predicted, and metrics leave them out; the targets weight are not used" in (
        str(lines[0].message)
    )
    own = score(run)["scores"]
    metric = {"numbers": "r2", "labels": "auroc"}[name]
    assert scores[metric] == scores[f"{metric} {known}"] == pytest.approx(own[f"{metric} {known}"])
    assert f"{metric} {absent}" not in scores
    with pytest.warns(DataNoteWarning):
        arrays, expected = predict(run, str(path)), predict(run)
    np.testing.assert_array_equal(arrays["predicted"], expected["predicted"])
    if name == "numbers":
        np.testing.assert_array_equal(
            arrays["truth"], np.stack([expected["truth"][:, 0] * np.nan, expected["truth"][:, 1]], 1)
        )


@pytest.mark.slow
def test_other_data_with_none_of_the_targets_are_predicted_and_not_scored(regression, files, tmp_path):
    x = np.load(files / "numbers.npz")["X_test"]
    np.savez(tmp_path / "other.npz", X=x, targets=np.ones(len(x)), target_names=["weight"])
    with pytest.warns(DataNoteWarning, match="no targets level, slope"):
        assert "truth" not in predict(regression, str(tmp_path / "other.npz"))
    with pytest.warns(DataNoteWarning), pytest.raises(DataError, match="these series have no targets"):
        score(regression, str(tmp_path / "other.npz"))


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["masked", "contrastive"])
def test_frozen_features_are_probed_for_several_labels(files, tmp_path, loss):
    tstk.fit(data=str(files / "labels.npz"), loss=loss, steps=5, out=tmp_path / "run", **TINY)
    result = probe(tmp_path / "run", untrained=True, label_fraction=(1.0, 0.3), seeds=(0, 1))
    assert (result["classifier"], result["classes"]) == ("multilabel", ["high", "steep"])
    rows = {(row["weights"], row["label_fraction"]): row for row in result["results"]}
    trained, untrained = rows["trained", 1.0], rows["untrained", 1.0]
    assert trained["auroc high"] > 0.9 > trained["baselines"]["prevalence"]["auroc"]
    assert trained["margin_f1_macro"] == pytest.approx(trained["f1_macro"] - untrained["f1_macro"])
    assert trained["trials"][0]["chosen"].keys() == {"C of label 1", "C of label 2"}
    assert [trial["count"] for trial in rows["trained", 0.3]["trials"]] == [48, 48]
    output = run_cli("probe", tmp_path / "run")
    assert "multilabel on mean-pooled features" in output
    with pytest.raises(OptionError, match=r"--classifier linear: is for classes, .* use --classifier multilabel"):
        probe(tmp_path / "run", classifier="linear")


@pytest.mark.slow
def test_several_labels_are_learned_and_scored_per_label(multilabel, tmp_path):
    result = json.loads((multilabel / "result.json").read_text())
    assert result["task"] == "multilabel"
    assert result["baselines"].keys() == {"prevalence", "1-NN", "logistic"}
    assert result["test"]["f1_macro"] > 0.85 > result["baselines"]["prevalence"]["f1_macro"]
    assert {"auroc high", "f1 steep", "subset_accuracy"} <= result["test"].keys()
    run_cli("predict", multilabel, "--out", tmp_path / "p.csv")
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["row", "predicted", "probability high", "probability steep", "truth"]
    for row in rows:
        likely = [name for name in ("high", "steep") if float(row[f"probability {name}"]) >= 0.5]
        assert row["predicted"] == ";".join(likely)
    assert {row["truth"] for row in rows} == {"", "high", "steep", "high;steep"}


@pytest.mark.slow
def test_balanced_labels_are_weighted_by_what_training_has(multilabel, files):
    y = np.load(files / "labels.npz")["y_train"]
    weights = tstk.load(multilabel).loss.pos_weight
    np.testing.assert_allclose(weights, (y == 0).sum(0) / (y == 1).sum(0), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["regression", "multilabel"])
def test_reports_and_graphs_are_made_of_every_task(name, request, tmp_path):
    run = request.getfixturevalue(name)
    run_cli("report", run, "--out", tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert {"regression": "<h2>Targets, test split", "multilabel": "<h2>Labels, test split"}[name] in page
    run_cli("export", run, "--out", tmp_path / "m.pt2")
    x = torch.randn(3, 1, 16)
    exported = torch.export.load(tmp_path / "m.pt2").module()(x)
    torch.testing.assert_close(exported, tstk.load(run).predict_batch(Series(x)), rtol=1e-4, atol=1e-4)


def test_the_task_of_options_selects_the_loss(files):
    config = {"data": str(files / "numbers.npz"), "data__task": "regression", "head": "cot"}
    assert tstk.build(**config).loss.display_name() == "loss 'mse'"


@pytest.mark.parametrize("slots", [{}, {"head": "cot"}, {"loss__balanced": True}])
def test_the_targets_of_the_data_select_the_loss_and_a_line_says_so(files, slots, caplog):
    with caplog.at_level("INFO"):
        pipeline = tstk.build(data=str(files / "labels.npz"), **slots)
    assert pipeline.loss.display_name() == "loss 'binary-cross-entropy'"
    assert pipeline.loss.balanced == ("loss__balanced" in slots)
    assert "--loss binary-cross-entropy, as these data are for multilabel; --loss selects another" in caplog.messages
    assert any("are taken as several labels; --task regression" in line for line in caplog.messages)


@pytest.fixture
def table(tmp_path):
    """Write a table that is long enough for the default context and horizon."""
    rows = [f"{np.datetime64('2024-01-01T00:00') + 60 * t},{np.sin(t / 4):.3f}" for t in range(1200)]
    (tmp_path / "table.csv").write_text("\n".join(["date,u", *rows]))
    return str(tmp_path / "table.csv")


@pytest.mark.parametrize("slots", [{}, {"data__context": 32}, {"head__dropout": 0.5}])
def test_the_targets_of_the_data_select_the_head_and_a_line_says_so(table, slots, caplog):
    with caplog.at_level("INFO"):
        pipeline = tstk.build(data=table, **slots)
    assert (pipeline.head.display_name(), pipeline.loss.display_name()) == ("head 'forecast'", "loss 'forecast'")
    for slot in ("head", "loss"):
        line = f"--{slot} forecast, as these data are for forecasting; --{slot} selects another"
        assert line in caplog.messages


def test_a_head_that_was_selected_stays(table, files):
    with pytest.raises(IncompatibleError, match="head 'linear' is for classes, several labels and numbers, and these"):
        tstk.build(data=table, head="linear")
    with pytest.raises(IncompatibleError, match="loss 'cross-entropy' is for classes"):
        tstk.build(data=table, loss="cross-entropy")
    assert tstk.build(data=str(files / "numbers.npz")).head.display_name() == "head 'linear'"


def test_an_option_that_the_head_of_the_task_lacks_is_named(table):
    with pytest.raises(OptionError, match="loss 'forecast' has no option 'balanced'"):
        tstk.build(data=table, loss__balanced=True)


@pytest.mark.parametrize(
    ("task", "loss"), [(None, "binary-cross-entropy"), ("regression", "mse"), ("multilabel", "binary-cross-entropy")]
)
def test_columns_of_0_and_1_are_several_labels_unless_the_task_says_otherwise(tmp_path, task, loss):
    rng = np.random.default_rng(0)
    head = [*(f"t{i}" for i in range(16)), "fell", "walked"]
    rows = [[*rng.normal(size=16).round(3), *rng.integers(0, 2, 2)] for _ in range(30)]
    (tmp_path / "falls.csv").write_text("\n".join(",".join(map(str, row)) for row in [head, *rows]))
    options = {"data": str(tmp_path / "falls.csv"), "data__target_columns": ("fell", "walked"), "data__task": task}
    result = tstk.fit(**options, steps=1, out=tmp_path / "run", **TINY)
    assert result.task == (task or "multilabel")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["given"]["loss"]["use"] == loss


def test_an_option_that_the_loss_of_the_data_lacks_is_refused(files):
    with pytest.raises(OptionError, match="loss 'mse' has no option 'balanced'"):
        tstk.build(data=str(files / "numbers.npz"), loss__balanced=True)


def test_a_run_whose_loss_the_data_selected_is_finished_and_not_of_other_options(files, tmp_path):
    def resolve():
        options = {**TINY, "data": str(files / "numbers.npz"), "head": "linear", "steps": 1}
        return resolve_config(("flag", parse_overrides(options)))

    for _ in range(2):
        result = train_unless_done(resolve(), tmp_path / "run", lambda config, out, name: train(config, out), "run")
    assert result.task == "regression"


@pytest.mark.parametrize(
    ("data", "slots", "message"),
    [
        (
            "numbers",
            {"loss": "cross-entropy"},
            "loss 'cross-entropy' is for classes and a class per sample, and these data are for regression",
        ),
        ("numbers", {"head": "forecast"}, "head 'forecast' is for forecasts, and these data are for regression; use"),
        ("labels", {"loss": "mse"}, "loss 'mse' is for numbers, and these data are for multilabel; use --loss binary-"),
    ],
)
def test_a_loss_for_another_task_is_refused_with_one_that_fits(files, data, slots, message):
    with pytest.raises(IncompatibleError, match=message):
        tstk.build(data=str(files / f"{data}.npz"), **slots)


@pytest.mark.parametrize("options", [{"mixup": 0.2}, {"sampling": "balanced"}, {"probe_every": 1}])
def test_options_that_need_classes_are_refused_for_numbers(files, options):
    with pytest.raises(OptionError, match=f"--{next(iter(options)).replace('_', '-')} .* needs a class per series"):
        tstk.fit(data=str(files / "numbers.npz"), loss="mse", steps=2, **options, **TINY)


class Percent(get_registry().load(get_registry().find("task", "regression"))):
    """Numbers scored by the error in percent."""

    main_metric = "mape"
    higher_is_better = False

    def score(self, outputs, targets, names, groups=None):
        """Return the mean absolute error in percent."""
        return {"mape": 100 * float(((outputs - targets).abs() / targets.abs()).nanmean())}


@pytest.mark.slow
def test_a_task_of_a_plugin_uses_heads_and_losses_of_the_core_and_its_own_metric(files, tmp_path):
    get_registry().add(Entry("task", "percent", Percent, "Numbers in percent", dist="local"))
    options = {"data": str(files / "numbers.npz"), "data__task": "percent", "head": "linear"}
    result = tstk.fit(**options, steps=20, validate_every=5, out=tmp_path / "run", **TINY)
    assert result.task == "percent"
    history = [json.loads(row) for row in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert result.selected.epoch == min(history, key=lambda row: row["val"]["mape"])["epoch"]


def test_errors_are_better_if_lower_also_those_of_one_target():
    lower = ["rmse", "rmse level", "mae", "mse", "loss"]
    assert [m for m in [*lower, "r2", "r2 level", "accuracy", "f1 high"] if is_lower_better(m)] == lower
    assert describe_better_baselines({"r2": 0.5, "rmse": 2.0}, {"a": {"r2": 0.6, "rmse": 3.0}}) == [
        "This model loses to the baseline a: r2 0.5000 against 0.6000."
    ]


def test_each_type_of_targets_has_a_task_of_the_core():
    assert {t: find_task(t) for t in ("class", "labels", "numbers", "future")} == {
        "class": "classification",
        "labels": "multilabel",
        "numbers": "regression",
        "future": "forecasting",
    }
    assert get_task("regression").default_loss == "mse"


@pytest.mark.slow
def test_a_task_that_is_first_imported_while_a_config_is_checked_keeps_its_constants():
    code = """
from tstk.config.resolve import resolve_config
from tstk.runs.build import validate_on_meta
validate_on_meta(resolve_config(("test", {"head": "linear"})))
from tstk.evaluation.linear_forecast import RIDGES
print(RIDGES.device)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "cpu\n"


def test_a_pipeline_for_no_task_says_what_to_set():
    pipeline = tstk.build(spec=Spec(1, 16, num_outputs=2), loss="mse", head="linear", **TINY)
    with pytest.raises(OptionError, match=r"this pipeline was built for no task; set `Spec\.task`"):
        pipeline.predict(np.ones((2, 1, 16)))
