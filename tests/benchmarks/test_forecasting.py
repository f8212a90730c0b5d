"""Cells, table and record of `benchmarks.forecasting`."""

import json
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from benchmarks import forecasting
from benchmarks.forecasting import METHODS, format_record, format_table, list_tasks

FILE = tomllib.loads(METHODS.read_text(encoding="utf-8"))


def cell(method, mse, seed=0, **more):
    scores = {"scores": {"mse": mse, "mae": mse / 2}}
    return {"data": "X", "context": 8, "horizon": 2, "method": method, "seed": seed, **scores, **more}


def test_a_row_has_means_over_seeds_beside_what_was_published_and_the_least_error_is_bold():
    cells = [cell("a", 0.2), cell("a", 0.4, 1), cell("b", 0.5, notes=["how"]), cell("c", 1.0, scores={}, error="why")]
    lines = format_table(cells, {"X": {"8": {"2": [0.35, 0.1]}}}).splitlines()
    assert lines[0] == "| data | context | horizon | a | b | c | PatchTST, published |"
    assert lines[2] == "| X | 8 | 2 | **0.300** / 0.150 | 0.500 / 0.250 | - | 0.350 / 0.100 |"
    assert lines[4:] == ["- b, X, 8 to 2: how", "- failed: c, X, 8 to 2: why"]
    assert "| 0.300 / 0.150 |" in format_table(cells, {"X": {"8": {"2": [0.25, 0.1]}}})
    assert format_table(cells, {}).splitlines()[2].endswith("| - |")


def test_only_methods_that_draw_are_run_with_every_seed_and_each_has_flags_for_each_data_set():
    found = list(list_tasks(FILE, (3, 4), list(FILE["methods"])))
    assert {t.seed for t in found if t.method == "linear"} == {3}
    assert {t.seed for t in found if t.method == "linear+transformer"} == {3, 4}
    assert len({(t.data, t.context, t.horizon) for t in found}) == 20


def test_what_was_published_covers_the_whole_grid():
    for data, sizes in FILE["grid"].items():
        for context in sizes["contexts"]:
            assert FILE["published"][data][str(context)].keys() == {str(h) for h in sizes["horizons"]}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A grid of one small table, and the command that runs it."""
    monkeypatch.chdir(tmp_path)
    rows = np.sin(np.arange(300) * np.pi / 6) + 0.1 * np.random.default_rng(0).normal(size=300)
    lines = [f"2020-01-01 {i // 60:02d}:{i % 60:02d},{v:.4f}" for i, v in enumerate(rows)]
    Path("waves.csv").write_text("\n".join(["date,a", *lines]) + "\n")
    Path("small.toml").write_text(
        'common = "--threads 1 --device cpu"\n[grid]\nwaves = {contexts = [24], horizons = [4, 6]}\n'
        '[methods]\nlast-value = "peer:last-value"\nlinear = "peer:linear"\n[methods.net]\n'
        'waves = """--tokenizer patch --tokenizer.dim 8\n --encoder identity --head forecast --steps 1"""\n'
        "[published]\n"
    )
    monkeypatch.setenv("TSTK_DATA", str(tmp_path))

    def run_small(*words):
        monkeypatch.setattr(sys, "argv", ["forecasting", "--file", "small.toml", "--out", "out", *words])
        with pytest.raises(SystemExit) as end:
            forecasting.main()
        return end.value.code

    return run_small


@pytest.mark.slow
def test_the_same_command_continues_and_the_record_has_every_cell(small, monkeypatch):
    written = []
    run = forecasting.run

    def run_or_interrupt(task, file, out):
        written.append(len(json.loads((out / "forecasting.json").read_text())["cells"]) if written else 0)
        if len(written) == 3:
            raise KeyboardInterrupt
        return run(task, file, out)

    monkeypatch.setattr(forecasting, "run", run_or_interrupt)
    monkeypatch.setattr(sys, "argv", ["forecasting", "--file", "small.toml", "--out", "out", "--methods", "linear,net"])
    with pytest.raises(KeyboardInterrupt):
        forecasting.main()
    assert written == [0, 1, 2]
    first = json.loads(Path("out/forecasting.json").read_text())["cells"]
    monkeypatch.setattr(forecasting, "run", run)
    assert small("--record", "kept.json") == 0
    kept = json.loads(Path("kept.json").read_text())
    assert len(kept["cells"]) == 6
    assert all(one in kept["cells"] for one in first)
    linear, last, net = (
        next(c for c in kept["cells"] if c["method"] == m and c["horizon"] == 4)
        for m in ("linear", "last-value", "net")
    )
    assert linear["scores"]["mse"] < 0.1 < last["scores"]["mse"]
    assert net["scores"]["mse"] > 0
    assert (net["epoch"], net["val_mse"] > 0, "notes" in net) == (1, True, False)
    assert "relative to the" in linear["notes"][0]
    assert Path("out/forecasting.md").read_text().count("| waves | 24 |") == 2


@pytest.mark.slow
def test_a_cell_says_that_training_did_not_improve_on_the_linear_map(small):
    text = Path("small.toml").read_text()
    Path("small.toml").write_text(text.replace("--steps 1", "--steps 1 --lr 10 --ema-decay 0 --linear-map auto"))
    assert small("--horizons", "4", "--methods", "linear,net") == 0
    linear, net = json.loads(Path("out/forecasting.json").read_text())["cells"]
    assert net["scores"] == pytest.approx(linear["scores"], abs=1e-5)
    assert net["epoch"] == 0
    assert "- net, waves, 24 to 4: validation selected the linear map alone" in Path("out/forecasting.md").read_text()


def test_a_failed_cell_is_reported_and_the_rest_is_run(small):
    assert small("--horizons", "4,500", "--methods", "linear") == 1
    done, failed = json.loads(Path("out/forecasting.json").read_text())["cells"]
    assert done["scores"]
    assert "take 524 rows" in failed["error"]


def test_methods_that_are_run_later_join_the_record(small):
    assert small("--horizons", "4", "--methods", "linear") == 0
    assert small("--horizons", "4", "--methods", "last-value", "--record", "kept.json") == 0
    kept = json.loads(Path("kept.json").read_text())
    assert [cell["method"] for cell in kept["cells"]] == ["linear", "last-value"]
    assert "| waves | 24 | 4 | **" in Path("out/forecasting.md").read_text()


def test_a_mistake_is_refused(small, capsys):
    assert small("--methods", "linaer") == 2
    assert "--methods linaer: small.toml has last-value, linear, net" in capsys.readouterr().err


def test_a_record_names_the_methods_that_were_run():
    kept = json.loads(format_record([cell("linear", 0.3)], FILE, "python -m benchmarks.forecasting"))
    assert kept["methods"] == {"linear": "peer:linear"}
    assert kept["cells"][0]["scores"] == {"mse": 0.3, "mae": 0.15}
