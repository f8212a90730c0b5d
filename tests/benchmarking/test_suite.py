"""A bench: cells that run once, that fail alone, and the table made of them."""

import json
import os
import signal

import numpy as np
import pytest
from scipy import stats

from tstk.benchmarking.page import grid, words
from tstk.benchmarking.suite import Method, bench, by_config, compare
from tstk.config.resolve import chosen, resolve
from tstk.errors import DataError, OptionError
from tstk.training.interrupt import Stopped
from tstk.training.runs import train


def scoring(values, ran=None):
    """A method whose accuracy is given, which notes what it ran."""

    def run(data, seed, folder):
        if ran is not None:
            ran.append((data, seed))
        value = values(data, seed)
        if isinstance(value, Exception):
            raise value
        folder.mkdir(parents=True)
        return {"scores": {"accuracy": value, "mse": 1 - value}, "by": "test"}

    return Method("made up", run)


SETS = {"A": "a.ts", "B": "b.ts", "C": "c.ts"}


def test_the_table_has_means_and_students_interval(tmp_path):
    values = {("a.ts", 0): 0.5, ("a.ts", 1): 0.7, ("a.ts", 2): 0.9}
    found = bench({"m": scoring(lambda d, s: values[d, s])}, {"A": "a.ts"}, (0, 1, 2), tmp_path / "out")
    mean, half = found.table["m", "A"]
    low, high = stats.t.interval(0.95, 2, loc=0.7, scale=stats.sem([0.5, 0.7, 0.9]))
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert found.ranking is None


def test_finished_cells_are_not_run_again_and_new_ones_join(tmp_path):
    ran = []
    methods = {"m": scoring(lambda d, s: 0.5, ran), "n": scoring(lambda d, s: 0.6)}
    bench(methods, SETS, (0,), tmp_path / "out")
    assert len(ran) == 3
    found = bench(methods, SETS, (0, 1), tmp_path / "out")
    assert ran[3:] == [("a.ts", 1), ("b.ts", 1), ("c.ts", 1)]
    assert len(found.cells) == 12
    assert found.ranking.names == ("n", "m")
    assert found.ranking.versus["n", "m"] == (3, 0, 0)


def test_a_method_said_otherwise_is_not_mixed_with_its_old_cells(tmp_path):
    method = scoring(lambda d, s: 0.5)
    bench({"m": method}, SETS, (0,), tmp_path / "out")
    with pytest.raises(OptionError, match=r"made up.*now m is 'other'"):
        bench({"m": Method("other", method.run)}, SETS, (0,), tmp_path / "out")


def test_a_cell_that_fails_is_told_and_does_not_stop_the_rest(tmp_path, monkeypatch):
    monkeypatch.delenv("TSTK_STRICT", raising=False)
    wrong = {"b.ts": DataError("b.ts: broken"), "c.ts": ZeroDivisionError("a bug")}
    ran = []
    methods = {"m": scoring(lambda d, s: wrong.get(d, 0.5), ran), "n": scoring(lambda d, s: 0.25)}
    found = bench(methods, SETS, (0,), tmp_path / "out")
    assert [(c.method, c.data) for c in found.failed] == [("m", "B"), ("m", "C")]
    assert found.failed[0].error == "b.ts: broken"
    assert "ZeroDivisionError: a bug" in found.failed[1].error
    assert "Traceback" in (tmp_path / "out" / "m" / "C" / "seed-0.error.txt").read_text()
    assert found.left_out == ["B", "C"]
    assert found.ranking.sets == 1
    assert ["B", "failed", "0.2500"] in grid(found)[1]
    page = (tmp_path / "out" / "bench.md").read_text()
    assert "failed: m, B, seed 0: b.ts: broken" in page
    wrong.clear()
    again = bench(methods, SETS, (0,), tmp_path / "out")
    assert ran[3:] == [("b.ts", 0), ("c.ts", 0)]
    assert again.failed == []
    assert not list(tmp_path.rglob("*.error.txt"))


def test_an_interrupted_bench_goes_on_where_it_stopped(tmp_path):
    ran, stop = [], [True]

    def value(data, seed):
        if data == "b.ts" and stop:
            raise KeyboardInterrupt
        return 0.5

    with pytest.raises(KeyboardInterrupt):
        bench({"m": scoring(value, ran)}, SETS, (0,), tmp_path / "out")
    stop.clear()
    found = bench({"m": scoring(value, ran)}, SETS, (0,), tmp_path / "out")
    assert [data for data, _ in ran] == ["a.ts", "b.ts", "b.ts", "c.ts"]
    assert not found.failed


def test_errors_are_ranked_upwards(tmp_path):
    values = {"m": 0.9, "n": 0.1}
    methods = {name: scoring(lambda d, s, name=name: values[name]) for name in values}
    assert bench(methods, SETS, (0,), tmp_path / "out", score="mse").ranking.names == ("m", "n")
    assert compare(bench(methods, SETS, (0,), tmp_path / "out").cells, "accuracy").ranking.names == ("m", "n")
    with pytest.raises(OptionError, match="there are accuracy, mse"):
        bench(methods, SETS, (0,), tmp_path / "out", score="mae")


def test_the_best_baseline_stands_last_and_who_loses_to_it_is_named(tmp_path):
    def run(data, seed, folder):
        folder.mkdir(parents=True)
        value = {"a.ts": 0.6, "b.ts": 0.9, "c.ts": 0.5}[data]
        known = {"1-NN": {"accuracy": 0.7, "mse": 0.2}, "logistic": {"accuracy": 0.8, "mse": 0.3}}
        return {"scores": {"accuracy": value, "mse": value}, "by": "test", "baselines": known if data != "c.ts" else {}}

    methods = {"m": Method("made up", run), "n": scoring(lambda d, s: 1)}
    found = bench(methods, SETS, (0, 1), tmp_path / "out")
    head, rows = grid(found)
    assert head == ["accuracy", "m", "n", "best baseline"]
    assert [row[-1] for row in rows[:3]] == ["0.8000 (logistic)", "0.8000 (logistic)", ""]
    assert all(len(row) == len(head) for row in rows)
    assert "m loses to the best baseline on A." in words(found)
    errors = compare(found.cells, "mse")
    assert errors.best_baselines["A"] == ("1-NN", 0.2)
    assert ("m", "A") in errors.losses
    assert ("n", "A") not in errors.losses


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    with pytest.raises(OptionError, match="no bench"):
        bench({"m": scoring(lambda d, s: 1.0)}, SETS, (0,), tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_what_is_written_agrees_with_what_is_returned(tmp_path):
    draw = np.random.default_rng(0)
    methods = {name: scoring(lambda d, s: float(draw.random())) for name in "xyz"}
    found = bench(methods, SETS, (0, 1), tmp_path / "out")
    held = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert {(row["method"], row["data"]): (row["mean"], row["interval"]) for row in held["table"]} == found.table
    assert held["ranking"]["ranks"] == dict(zip(found.ranking.names, found.ranking.ranks, strict=True))
    rows = (tmp_path / "out" / "bench.csv").read_text().splitlines()
    assert len(rows) == 1 + len(found.cells)
    assert rows[0] == "method,data,seed,accuracy,by,seconds,error"


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
        "head": Method("head", by_config({**TINY, "head": "linear"})),
        "probe": Method("probe", by_config({**TINY, "loss": "masked"})),
    }
    half = tmp_path / "out" / "head" / "har-demo" / "seed-0"
    half.mkdir(parents=True)
    (half / "metrics.jsonl").write_text("{")
    (tmp_path / "out" / "bench.json").write_text("{}")
    found = bench(methods, {"har-demo": "har-demo"}, (0,), tmp_path / "out")
    assert not found.failed
    by = {cell.method: cell for cell in found.cells}
    assert by["head"].facts["by"] == "test"
    result = json.loads((half / "result.json").read_text())
    assert by["head"].facts["scores"] == result["test"]
    assert by["probe"].facts["by"] == "linear probe"
    assert set(by["probe"].facts["scores"]) == {"accuracy", "f1_macro"}


@pytest.mark.slow
def test_half_a_run_goes_on_where_it_was_and_not_under_other_options(tmp_path):
    choices = {**TINY, "steps": 6, "head": "linear"}
    half = tmp_path / "out" / "head" / "har-demo" / "seed-0"

    class Asks:
        def begin(self, *_):
            pass

        def step(self, at, *_):
            if at == 4:
                os.kill(os.getpid(), signal.SIGINT)

        def epoch(self, *_):
            pass

    with pytest.raises(Stopped):
        train(resolve(("argument", chosen({**choices, "data": "har-demo", "seed": 0}))), half, watcher=Asks())
    (tmp_path / "out" / "bench.json").write_text("{}")

    def again(**more):
        method = {"head": Method("head", by_config({**choices, **more}))}
        return bench(method, {"har-demo": "har-demo"}, (0,), tmp_path / "out")

    (cell,) = again(lr=0.5).failed
    assert "now it is 0.5" in cell.error
    assert json.loads((half / "last" / "state.json").read_text())["step"] == 4
    assert not again().failed
    whole = tmp_path / "whole"
    train(resolve(("argument", chosen({**choices, "data": "har-demo", "seed": 0}))), whole)
    assert (whole / "model.safetensors").read_bytes() == (half / "model.safetensors").read_bytes()
