"""The tables of `benchmarks.order`, and its resumption."""

import json

from benchmarks.order import CANDIDATES, SELECTION_SETS, format_choose_table, format_shuffle_table, measure_cached


def test_what_was_measured_is_not_measured_again(tmp_path):
    calls = []

    def measure():
        calls.append(1)
        return {"accuracy": 0.5}

    path = tmp_path / "cells.jsonl"
    first, other, again = (measure_cached(path, key, measure) for key in ({"data": "A"}, {"data": "B"}, {"data": "A"}))
    assert len(calls) == 2
    assert again == first != other
    assert [json.loads(line)["data"] for line in path.read_text().splitlines()] == ["A", "B"]


def test_the_table_of_shuffled_tokens_has_before_and_after_and_says_what_did_not_change():
    key = {"encoder": "bert", "head": "cot", "data": "GunPoint"}
    cells = [
        {**key, "positions": "0.02", "accuracy": 0.8, "shuffled": 0.75},
        {**key, "positions": "default", "accuracy": 0.9, "shuffled": 0.5},
    ]
    lines = format_shuffle_table(cells).splitlines()
    assert next(line for line in lines if "bert + cot" in line).startswith(
        "| bert + cot | 0.800 -> 0.750 | 0.900 -> 0.500 | - | - |"
    )
    assert "| mamba2 + linear | as after | - |" in "\n".join(lines)


def test_the_table_of_candidates_has_means_over_splits_and_sets():
    cells = [
        {"method": name, "data": data, "split": split, "accuracy": 0.5 + split / 10}
        for name in CANDIDATES
        for data in SELECTION_SETS
        for split in range(2)
    ]
    rows = format_choose_table(cells).splitlines()[2:]
    assert len(rows) == len(CANDIDATES)
    assert all(row.endswith("| 0.550 | 0.550 |") for row in rows)
