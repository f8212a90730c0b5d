"""pytest-benchmark front end: each contender of a case is a benchmark, and reports the recorded rounds.

A test module defines `list_cases(full, device)`; a test with the arguments `case` and `name` runs once per case and
contender, and calls `compare(case, name)`. All contenders of a case are measured together, on its first call.
"""

from __future__ import annotations

import pytest
import torch

from benchmarks.harness import Case, Record, format_record, measure
from benchmarks.results import Results

QUICK, FULL = 0.7, 8.0
"""Seconds of rounds per case."""
_RECORDS = pytest.StashKey[dict[str, Record]]()
_RESULTS = pytest.StashKey[Results]()


def pytest_addoption(parser):
    group = parser.getgroup("tstk benchmarks")
    group.addoption("--full", action="store_true", help="run the full grid instead of small sizes (about an hour)")
    group.addoption("--results", metavar="DIR", help="folder for the results as JSON")
    group.addoption("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")


def pytest_configure(config):
    config.stash[_RECORDS] = {}
    config.stash[_RESULTS] = Results(config.getoption("--results"))


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        option = metafunc.config.getoption
        cases = metafunc.module.list_cases(option("--full"), option("--device"))
        pairs = [(case, name) for case in cases for name in case.contenders]
        metafunc.parametrize("case, name", pairs, ids=[f"{case}: {name}" for case, name in pairs])


@pytest.fixture
def compare(benchmark, request):
    """`compare(case, name)` reports the rounds of a contender, or skips with the reason; it returns ratios by name."""

    def run(case: Case, name: str) -> dict[str, float]:
        config = request.config
        records = config.stash[_RECORDS]
        if str(case) not in records:
            records[str(case)] = measure(case, FULL if config.getoption("--full") else QUICK)
            config.stash[_RESULTS].add(records[str(case)])
        record = records[str(case)]
        if name in record.excluded:
            (pytest.fail if name == case.ours else pytest.skip)(record.excluded[name])
        if not record.tables or not record.tables[0]["contenders"]:
            pytest.skip(record.tables[0]["why_invalid"] if record.tables else f"{case.ours} was not timed")
        _show(benchmark, record, name)
        return {other: row["ratio"] for other, row in record.tables[0]["contenders"].items()}

    return run


def _show(benchmark, record: Record, name: str) -> None:
    """Make pytest-benchmark report the recorded rounds, by replacing its timer."""
    rounds, clock = record.rounds[name], [0.0]
    replay = iter(rounds)

    def replay_round() -> None:
        clock[0] += next(replay)

    benchmark.group, benchmark.name = str(record.case), name
    benchmark.extra_info |= record.tables[0]["contenders"][name]
    benchmark._timer = lambda: clock[0]
    benchmark.pedantic(replay_round, rounds=len(rounds), iterations=1, warmup_rounds=0)


def pytest_terminal_summary(terminalreporter, config):
    if records := config.stash[_RECORDS]:
        terminalreporter.section("ours, and the time of others relative to ours")
        for record in records.values():
            for line in format_record(record):
                terminalreporter.write_line(line)
