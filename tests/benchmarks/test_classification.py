"""The tables and the record of `benchmarks.classification`."""

import json

import pytest

from benchmarks.classification import build_record, format_record, format_tables


@pytest.fixture
def bench():
    means = {("a", "X"): 0.9, ("a", "Y"): 0.5, ("1nn", "X"): 0.6, ("1nn", "Y"): 0.6, ("a", "Z"): 1.0}
    scored = {(m, d): {"scores": {"accuracy": v, "loss": 3.0}, "seconds": 2.0} for (m, d), v in means.items()}
    cells = [{"method": m, "data": d, "seed": 0, **scored.get((m, d), {})} for m in ("1nn", "a") for d in "XYZ"]
    return {
        "methods": {"1nn": "peer:1nn", "a": "--head linear"},
        "score": "accuracy",
        "table": [{"method": m, "data": d, "mean": v} for (m, d), v in means.items()],
        "ranking": {"ranks": {"a": 1.5, "1nn": 1.5}},
        "left_out": ["Z"],
        "cells": cells,
    }


def test_the_most_accurate_method_stands_first_and_its_losses_to_the_nearest_neighbour_are_counted(bench):
    lines = format_tables(bench).splitlines()
    assert lines[2] == "| method | mean accuracy | mean rank | losses to 1-NN | seconds per set |"
    assert lines[4] == "| a | 0.7000 | 1.50 | 1 | 2.0 |"
    assert lines[5] == "| 1nn | 0.6000 | 1.50 |  | 2.0 |"
    assert "| Z | 1.0000 | - |" in lines
    assert lines[-1] == "Left out of the first table, as a score is missing: Z."


def test_a_record_is_json_with_a_line_per_run(bench):
    text = format_record(build_record(bench, "python -m benchmarks.classification"))
    kept = json.loads(text)
    assert [cell["scores"] for cell in kept["cells"]] == [
        {"accuracy": 0.6},
        {"accuracy": 0.6},
        {},
        {"accuracy": 0.9},
        {"accuracy": 0.5},
        {"accuracy": 1.0},
    ]
    assert sum(line.startswith('{"method"') for line in text.splitlines()) == 6
