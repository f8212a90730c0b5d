"""Cells, tables and record of `benchmarks.few_labels`."""

import json
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from benchmarks import few_labels
from benchmarks.few_labels import METHODS, format_pairs, format_tables
from tstk.config.resolve import resolve_config

FILE = tomllib.loads(METHODS.read_text(encoding="utf-8"))


def cell(kind, accuracy=None, seed=0, data="A", method="m", **more):
    row = {"seed": seed, "data": data, "method": method, "cell": kind, **more}
    return row if accuracy is None else row | {"accuracy": accuracy}


def test_tables_have_means_over_seeds_and_over_the_sets_that_no_row_misses():
    cells = [
        cell("finetune 0.1", 0.5),
        cell("finetune 0.1", 0.7, 1),
        cell("scratch 0.1", 0.5),
        cell("scratch 0.1", 0.6, 1),
    ]
    cells += [cell("finetune 0.1", 0.9, data="B")]
    cells += [cell("baselines", method="baselines", series={"0.1": 4}, **{"1-NN": {"0.1": 0.4}, "majority class": {}})]
    text = format_tables(cells, [0.1])
    assert text.startswith("Means over A; seeds 0, 1.")
    assert "| m | finetune | **0.600** |" in text
    assert "| m | scratch | 0.550 |" in text
    assert "| A (4) | B (0) |" in text
    assert "| m | finetune | **0.600** | **0.900** |" in text
    assert "| 1-NN |  | 0.400 | - |" in text
    assert "majority" not in text


def test_gains_are_differences_of_equal_sets_and_seeds():
    cells = [cell("pretrain"), cell("finetune 1", 0.9), cell("finetune 1", 0.1, 7), cell("scratch 1", 0.8)]
    cells += [cell("finetune 1", 0.5, data="B"), cell("scratch 1", 0.6, data="B")]
    cells += [cell("probe", **{"frozen": {"1": 0.7}, "untrained, frozen": {"1": 0.4}})]
    lines = format_pairs(cells, [1.0]).splitlines()
    assert lines[2] == "| m | fine-tuning over scratch | +0.000 ± 0.200 (1-1-0) |"
    assert lines[3].startswith("| m | trained features over untrained | +0.300 ± nan (1-0-0)")


@pytest.mark.slow
def test_every_method_of_the_file_has_parts_that_exist():
    for method in FILE["methods"].values():
        for stage in ("pretrain", "finetune", "scratch"):
            if stage in method:
                resolve_config(
                    *few_labels._build_layers(method[stage]),
                    ("common", FILE["pretrain" if stage == "pretrain" else "labels"]),
                )


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A file with one method, a set of two frequencies, and the command that runs it."""
    monkeypatch.chdir(tmp_path)
    draw, time = np.random.default_rng(0), np.linspace(0, 1, 24)
    y = np.arange(40) % 2
    x = np.sin(2 * np.pi * (2 + 3 * y[:, None]) * time + draw.uniform(0, 6, (40, 1)))[:, None].astype(np.float32)
    np.savez("waves.npz", X_train=x[:24], y_train=y[:24], X_test=x[24:], y_test=y[24:])
    train = '{steps = 2, batch_size = 8, select_by = "last", threads = 1, device = "cpu"}'
    Path("small.toml").write_text(
        f'data = ["waves.npz"]\nshares = [0.1, 1.0]\n[pretrain]\ndata = {{val_data = "test"}}\ntrain = {train}\n'
        f'[labels]\ndata = {{val_data = "test"}}\ntrain = {train}\n[methods.m.pretrain]\nloss = {{use = "masked"}}\n'
        'tokenizer = {use = "patch", dim = 8}\nencoder = {use = "transformer", dim = 8, depth = 1, heads = 2}\n'
        '[methods.m.finetune]\nhead = {use = "linear"}\n[methods.other.scratch]\ntokenizer = {use = "patch"}\n'
        'encoder = {use = "identity"}\nhead = {use = "linear"}\n'
    )

    def run_small(*words):
        monkeypatch.setattr(sys, "argv", ["few_labels", "--file", "small.toml", "--out", "out", *words])
        few_labels.main()
        return [json.loads(line) for line in Path("out/cells.jsonl").read_text().splitlines()]

    return run_small


@pytest.mark.slow
def test_the_same_command_continues_and_everything_learns_from_the_same_series(small, monkeypatch):
    train, begun = few_labels._train_run, []

    def train_or_interrupt(folder, *layers):
        begun.append(folder.name)
        if len(begun) == 4:
            raise KeyboardInterrupt
        return train(folder, *layers)

    monkeypatch.setattr(few_labels, "_train_run", train_or_interrupt)
    with pytest.raises(KeyboardInterrupt):
        small("--methods", "m")
    monkeypatch.setattr(
        few_labels, "_train_run", lambda folder, *layers: begun.append(folder.name) or train(folder, *layers)
    )
    cells = small("--methods", "m", "--record", "kept.json")
    assert [c["cell"] for c in cells] == [
        "baselines", "pretrain", "probe", "finetune 0.1", "scratch 0.1", "finetune 1", "scratch 1"
    ]  # fmt: skip
    assert len(begun) == 6  # one of them twice
    assert cells[0]["series"] == {"0.1": 4, "1.0": 24}
    assert cells[2]["frozen"].keys() == {"0.1", "1.0"}
    kept = json.loads(Path("kept.json").read_text())
    assert kept["cells"] == cells
    assert "small.toml" in kept["command"]
    assert "out" not in kept["command"].split()
    assert not Path("out/run").exists()


@pytest.mark.slow
def test_methods_and_seeds_are_added_and_a_redefined_method_is_refused(small):
    first = small("--methods", "other")
    cells = small("--methods", "other", "--seeds", "0,1")
    assert cells[: len(first)] == first
    assert [c["seed"] for c in cells] == [0, 0, 0, 1, 1, 1]
    text = Path("small.toml").read_text()
    Path("small.toml").write_text(text.replace('encoder = {use = "identity"}', 'encoder = {use = "bert"}'))
    with pytest.raises(SystemExit, match=r"out has cells with other definitions of methods\.other"):
        small("--methods", "other")


@pytest.mark.slow
def test_halves_are_made_of_the_training_part_alone(small):
    cells = small("--methods", "other", "--halves")
    assert cells[0]["series"] == {"0.1": 4, "1.0": 12}
    with np.load("out/waves-halves.npz") as half, np.load("waves.npz") as whole:
        rows = {row.tobytes() for row in whole["X_train"]}
        parts = [{row.tobytes() for row in half[f"X_{part}"]} for part in ("train", "test")]
        assert parts[0] | parts[1] == rows
        assert not parts[0] & parts[1]
