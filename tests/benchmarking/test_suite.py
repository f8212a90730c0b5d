"""A bench: each cell runs once, a failed one does not stop the others, and the table of results."""

import json
import os
import signal

import numpy as np
import pytest

from tstk.benchmarking.page import build_table, iter_notes
from tstk.benchmarking.results import compare_methods
from tstk.benchmarking.suite import Method, make_config_runner, run_benchmark
from tstk.config.resolve import parse_overrides, resolve_config
from tstk.errors import DataError, OptionError
from tstk.training.callbacks import Callback
from tstk.training.interrupt import TrainingInterrupted
from tstk.training.runs import train


def scoring(values, ran=None):
    """A method of given accuracy that records its cells."""

    def run(data, seed, folder, fold_options):
        if ran is not None:
            ran.append((data, seed))
        value = values(data, seed)
        if isinstance(value, Exception):
            raise value
        folder.mkdir(parents=True, exist_ok=True)
        return {"scores": {"accuracy": value, "mse": 1 - value}, "by": "test"}

    return Method("made up", run)


SETS = {"A": "a.ts", "B": "b.ts", "C": "c.ts"}


def test_the_table_has_means_and_students_interval(tmp_path):
    from scipy import stats

    values = {("a.ts", 0): 0.5, ("a.ts", 1): 0.7, ("a.ts", 2): 0.9}
    result = run_benchmark({"m": scoring(lambda d, s: values[d, s])}, {"A": "a.ts"}, (0, 1, 2), tmp_path / "out")
    mean, half = result.table["m", "A"]
    low, high = stats.t.interval(0.95, 2, loc=0.7, scale=stats.sem([0.5, 0.7, 0.9]))
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert result.ranking is None


def test_finished_cells_are_not_run_again_and_new_ones_join(tmp_path):
    ran = []
    methods = {"m": scoring(lambda d, s: 0.5, ran), "n": scoring(lambda d, s: 0.6)}
    run_benchmark(methods, SETS, (0,), tmp_path / "out")
    assert len(ran) == 3
    result = run_benchmark(methods, SETS, (0, 1), tmp_path / "out")
    assert ran[3:] == [("a.ts", 1), ("b.ts", 1), ("c.ts", 1)]
    assert len(result.cells) == 12
    assert result.ranking.names == ("n", "m")
    assert result.ranking.wins_draws_losses["n", "m"] == (3, 0, 0)


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"\xff\xfe",
        b"[1]",
        b'{"method": "made up"}',
        b'{"method": "made up", "scores": {"accuracy": "high"}}',
        b'{"method": "made up", "scores": {}, "sha256": "another"}',
    ],
)
def test_a_damaged_score_stops_no_bench_and_its_cell_is_scored_again(tmp_path, content):
    ran = []
    method = scoring(lambda d, s: 0.5, ran)
    run_benchmark({"m": method}, SETS, (0,), tmp_path / "out")
    (cell,) = (tmp_path / "out").rglob("m/B/seed-0")
    (cell / "score.json").write_bytes(content)
    result = run_benchmark({"m": method}, SETS, (0,), tmp_path / "out")
    assert ran[3:] == [("b.ts", 0)]
    assert [c.error for c in result.cells] == ["", "", ""]


def test_what_a_bench_left_that_was_killed_as_it_began_is_no_file_of_others(tmp_path):
    (tmp_path / "out" / "bench.json.0123abcd.part").mkdir(parents=True)
    assert len(run_benchmark({"m": scoring(lambda d, s: 0.5)}, SETS, (0,), tmp_path / "out").cells) == 3
    (tmp_path / "other" / "bench.json.part").mkdir(parents=True)
    with pytest.raises(OptionError, match=r"the folder contains files but no bench\.json"):
        run_benchmark({"m": scoring(lambda d, s: 0.5)}, SETS, (0,), tmp_path / "other")


def test_a_redefined_method_is_not_mixed_with_its_old_cells(tmp_path):
    method = scoring(lambda d, s: 0.5)
    run_benchmark({"m": method}, SETS, (0,), tmp_path / "out")
    with pytest.raises(OptionError, match=r"made up.*now m is 'other'"):
        run_benchmark({"m": Method("other", method.run)}, SETS, (0,), tmp_path / "out")


def test_a_failed_cell_is_reported_and_the_rest_is_run(tmp_path, monkeypatch):
    monkeypatch.delenv("TSTK_STRICT", raising=False)
    wrong = {"b.ts": DataError("b.ts: broken"), "c.ts": ZeroDivisionError("a bug")}
    ran = []
    methods = {"m": scoring(lambda d, s: wrong.get(d, 0.5), ran), "n": scoring(lambda d, s: 0.25)}
    result = run_benchmark(methods, SETS, (0,), tmp_path / "out")
    assert [(c.method, c.data) for c in result.failed_cells] == [("m", "B"), ("m", "C")]
    assert result.failed_cells[0].error == "b.ts: broken"
    assert "ZeroDivisionError: a bug" in result.failed_cells[1].error
    assert "Traceback" in (tmp_path / "out" / "m" / "C" / "seed-0.error.txt").read_text()
    assert result.unranked_datasets == ["B", "C"]
    assert result.ranking.num_datasets == 1
    assert ["B", "failed", "0.2500"] in build_table(result)[1]
    page = (tmp_path / "out" / "bench.md").read_text()
    assert "failed: m, B, seed 0: b.ts: broken" in page
    wrong.clear()
    run_again = run_benchmark(methods, SETS, (0,), tmp_path / "out")
    assert ran[3:] == [("b.ts", 0), ("c.ts", 0)]
    assert run_again.failed_cells == []
    assert not list(tmp_path.rglob("*.error.txt"))


def test_an_interrupted_bench_is_resumed_where_it_stopped(tmp_path):
    ran, stop = [], [True]

    def value(data, seed):
        if data == "b.ts" and stop:
            raise KeyboardInterrupt
        return 0.5

    with pytest.raises(KeyboardInterrupt):
        run_benchmark({"m": scoring(value, ran)}, SETS, (0,), tmp_path / "out")
    stop.clear()
    result = run_benchmark({"m": scoring(value, ran)}, SETS, (0,), tmp_path / "out")
    assert [data for data, _ in ran] == ["a.ts", "b.ts", "b.ts", "c.ts"]
    assert not result.failed_cells


def test_errors_are_ranked_upwards(tmp_path):
    values = {"m": 0.9, "n": 0.1}
    methods = {name: scoring(lambda d, s, name=name: values[name]) for name in values}
    assert run_benchmark(methods, SETS, (0,), tmp_path / "out", score="mse").ranking.names == ("m", "n")
    assert compare_methods(run_benchmark(methods, SETS, (0,), tmp_path / "out").cells, "accuracy").ranking.names == (
        "m",
        "n",
    )
    with pytest.raises(OptionError, match="there are accuracy, mse"):
        run_benchmark(methods, SETS, (0,), tmp_path / "out", score="mae")


def test_the_best_baseline_is_the_last_column_and_methods_below_it_are_marked(tmp_path):
    def run(data, seed, folder, fold_options):
        folder.mkdir(parents=True)
        value = {"a.ts": 0.6, "b.ts": 0.9, "c.ts": 0.5}[data]
        known = {"1-NN": {"accuracy": 0.7, "mse": 0.2}, "logistic": {"accuracy": 0.8, "mse": 0.3}}
        return {"scores": {"accuracy": value, "mse": value}, "by": "test", "baselines": known if data != "c.ts" else {}}

    methods = {"m": Method("made up", run), "n": scoring(lambda d, s: 1)}
    result = run_benchmark(methods, SETS, (0, 1), tmp_path / "out")
    head, rows = build_table(result)
    assert head == ["accuracy", "m", "n", "best baseline"]
    assert [row[-1] for row in rows[:3]] == ["0.8000 (logistic)", "0.8000 (logistic)", ""]
    assert all(len(row) == len(head) for row in rows)
    assert "m loses to the best baseline on A." in iter_notes(result)
    errors = compare_methods(result.cells, "mse")
    assert errors.best_baselines["A"] == ("1-NN", 0.2)
    assert ("m", "A") in errors.below_baseline
    assert ("n", "A") not in errors.below_baseline


def test_a_folder_with_other_files_is_not_written_to(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    with pytest.raises(OptionError, match=r"no bench\.json"):
        run_benchmark({"m": scoring(lambda d, s: 1.0)}, SETS, (0,), tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_what_is_written_agrees_with_what_is_returned(tmp_path):
    draw = np.random.default_rng(0)
    methods = {name: scoring(lambda d, s: float(draw.random())) for name in "xyz"}
    result = run_benchmark(methods, SETS, (0, 1), tmp_path / "out")
    held = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert {(row["method"], row["data"]): (row["mean"], row["interval"]) for row in held["table"]} == result.table
    assert held["ranking"]["ranks"] == dict(zip(result.ranking.names, result.ranking.ranks, strict=True))
    rows = (tmp_path / "out" / "bench.csv").read_text().splitlines()
    assert len(rows) == 1 + len(result.cells)
    assert rows[0] == "method,data,seed,fold,accuracy,by,seconds,error"


TINY = {
    "tokenizer__dim": 8,
    "encoder": "transformer",
    "encoder__dim": 8,
    "encoder__depth": 1,
    "encoder__heads": 2,
    "steps": 2,
    "threads": 1,
    "device": "cpu",
}


@pytest.mark.slow
def test_runs_are_scored_by_their_head_or_by_a_probe_and_what_had_not_begun_starts_again(tmp_path):
    methods = {
        "head": Method("head", make_config_runner({**TINY, "head": "linear"})),
        "probe": Method("probe", make_config_runner({**TINY, "loss": "masked"})),
    }
    half = tmp_path / "out" / "head" / "har-demo" / "seed-0"
    half.mkdir(parents=True)
    (half / "config.json.0123abcd.part").mkdir()
    (tmp_path / "out" / "bench.json").write_text("{}")
    found = run_benchmark(methods, {"har-demo": "har-demo"}, (0,), tmp_path / "out")
    assert not found.failed_cells
    by = {cell.method: cell for cell in found.cells}
    assert by["head"].result["by"] == "test"
    result = json.loads((half / "result.json").read_text())
    assert by["head"].result["scores"] == result["test"]
    assert by["probe"].result["by"] == "linear probe"
    assert set(by["probe"].result["scores"]) == {"accuracy", "f1_macro"}


@pytest.mark.slow
def test_pretrained_features_of_series_with_numbers_are_scored_by_the_probe_for_numbers(tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 1, 32))
    np.savez(tmp_path / "a.npz", X_train=x, targets_train=x.mean(2), X_test=x[:10], targets_test=x[:10].mean(2))
    methods = {"probe": Method("probe", make_config_runner({**TINY, "loss": "masked"}))}
    benchmark = run_benchmark(methods, {"a": str(tmp_path / "a.npz")}, (0,), tmp_path / "out")
    (cell,) = benchmark.cells
    assert not cell.error
    assert cell.result["by"] == "ridge probe"
    assert set(cell.result["scores"]) == {"mae", "rmse", "r2"}
    assert benchmark.score == "r2"


def test_a_cell_whose_folder_holds_files_of_others_fails_and_leaves_them(tmp_path):
    note = tmp_path / "out" / "head" / "har-demo" / "seed-0" / "notes.txt"
    note.parent.mkdir(parents=True)
    note.write_text("mine")
    (tmp_path / "out" / "bench.json").write_text("{}")
    methods = {"head": Method("head", make_config_runner({**TINY, "head": "linear"}))}
    (cell,) = run_benchmark(methods, {"har-demo": "har-demo"}, (0,), tmp_path / "out").failed_cells
    assert "seed-0 already exists and holds notes.txt" in cell.error
    assert [path.name for path in note.parent.iterdir()] == ["notes.txt"]


@pytest.mark.slow
def test_an_unfinished_run_is_resumed_and_not_with_other_options(tmp_path):
    choices = {**TINY, "steps": 6, "head": "linear"}
    half = tmp_path / "out" / "head" / "har-demo" / "seed-0"

    class InterruptAtStepFour(Callback):
        def on_step_end(self, state, step_outputs):
            if state.step == 4:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(TrainingInterrupted):
        train(
            resolve_config(("argument", parse_overrides({**choices, "data": "har-demo", "seed": 0}))),
            half,
            callbacks=[InterruptAtStepFour()],
        )
    (tmp_path / "out" / "bench.json").write_text("{}")

    def run_again(**more):
        method = {"head": Method("head", make_config_runner({**choices, **more}))}
        return run_benchmark(method, {"har-demo": "har-demo"}, (0,), tmp_path / "out")

    (cell,) = run_again(lr=0.5).failed_cells
    assert "is now 0.5" in cell.error
    assert json.loads((half / "last" / "state.json").read_text())["step"] == 4
    assert not run_again().failed_cells
    whole = tmp_path / "whole"
    train(resolve_config(("argument", parse_overrides({**choices, "data": "har-demo", "seed": 0}))), whole)
    assert (whole / "model.safetensors").read_bytes() == (half / "model.safetensors").read_bytes()


def test_folds_are_cells_of_their_own_and_the_interval_allows_for_shared_training_series(tmp_path):
    from scipy import stats

    ran = []

    def run(data, seed, folder, fold_options):
        ran.append((seed, fold_options))
        folder.mkdir(parents=True, exist_ok=True)
        return {"scores": {"accuracy": fold_options["fold"] / 10 + seed / 100}, "by": "test"}

    result = run_benchmark({"m": Method("made up", run)}, {"A": "a.ts"}, (0, 2), tmp_path / "out", folds=4)
    assert ran == [(seed, {"folds": 4, "fold": fold}) for seed in (0, 2) for fold in (1, 2, 3, 4)]
    mean, half_width = result.table["m", "A"]
    values = np.array([0.11, 0.21, 0.31, 0.41])  # means over the seeds
    assert mean == pytest.approx(values.mean())
    assert half_width == pytest.approx(stats.t.ppf(0.975, 3) * np.sqrt(values.var(ddof=1) * (1 / 4 + 1 / 3)))
    assert (tmp_path / "out" / "m" / "A" / "seed-2-fold-3-of-4" / "score.json").is_file()
    assert "over 4 folds, each the test split once (2 seeds each)" in (tmp_path / "out" / "bench.md").read_text()
    rows = (tmp_path / "out" / "bench.csv").read_text().splitlines()
    assert rows[3].startswith("m,A,0,3,0.3")


@pytest.mark.slow
def test_a_bench_of_folds_tests_every_series_of_one_file_once(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "one.npz", X=rng.normal(size=(24, 16)).astype(np.float32), y=np.arange(24) % 2)
    methods = {"head": Method("head", make_config_runner({**TINY, "head": "linear"}))}
    result = run_benchmark(methods, {"one": str(tmp_path / "one.npz")}, (0,), tmp_path / "out", folds=3)
    assert not result.failed_cells
    splits = [json.loads((cell.run_dir / "result.json").read_text())["split"] for cell in result.cells]
    assert [split.split(";")[0] for split in splits] == [
        f"test: fold {i} of 3: 8 of 24 series held out, stratified by class" for i in (1, 2, 3)
    ]
