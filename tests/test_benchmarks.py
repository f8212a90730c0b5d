"""The harness beneath `benchmarks/`, on made-up clocks and small contenders."""

import json
import random

import pytest
import torch

from benchmarks import harness
from benchmarks.figures import AGAIN, FILL, GEMM, interleave, paired, quiet, tabulate
from benchmarks.harness import Absent, Case, Contender, Verdict, measure, plain, summary
from benchmarks.results import Results


@pytest.fixture(autouse=True)
def threads():
    """Cases set the number of threads; the other tests want theirs back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def drifting(seconds, seed=0, noise=0.02):
    """A clock of a machine that slows down threefold as time goes by."""
    draw, count = random.Random(seed), [0]

    def clock():
        count[0] += 1
        return seconds * (1 + 0.1 * count[0]) * (1 + noise * draw.random())

    return clock


def steady_machine(rounds):
    return {GEMM: [1.0] * rounds, FILL: [2.0] * rounds}


def test_every_contender_runs_once_per_round_in_changing_order():
    order = []
    clocks = {name: lambda name=name: order.append(name) or 1.0 for name in "abc"}
    times = interleave(clocks, 20)
    assert all(len(series) == 20 for series in times.values())
    triples = {tuple(order[i : i + 3]) for i in range(0, 60, 3)}
    assert all(set(triple) == set("abc") for triple in triples)
    assert len(triples) > 3


def test_paired_ratios_are_right_on_a_machine_that_drifts():
    times = interleave({"ours": drifting(1.0), "peer": drifting(2.5, seed=1)}, 21)
    found = paired(times["peer"], times["ours"])
    assert found["ratio"] == pytest.approx(2.5, rel=0.02)
    low, high = found["interval"]
    assert low <= 2.5 * 1.01
    assert high >= 2.5 * 0.99
    assert high - low < 0.1


def test_the_interval_covers_the_true_ratio_about_as_often_as_it_says():
    draw = random.Random(0)
    covered = 0
    for _ in range(100):
        ratios = [1.5 * draw.lognormvariate(0, 0.2) for _ in range(25)]
        low, high = paired(ratios, [1.0] * 25, draws=400)["interval"]
        covered += low <= 1.5 <= high
    assert 88 <= covered <= 100


def test_rounds_in_which_the_machine_was_slow_are_dropped_and_counted():
    times = {"ours": [1.0] * 10, AGAIN: [1.0] * 10, "peer": [2.0] * 10} | steady_machine(10)
    for r in (2, 7):
        times[GEMM][r], times["peer"][r] = 1.6, 50.0
    times[FILL][4] = 3.1
    times[FILL][5] = 2.9
    assert len(quiet(times)["ours"]) == 7
    table = tabulate(times, "ours")
    assert (table["rounds"], table["dropped"], table["why_invalid"]) == (7, 3, "")
    assert table["contenders"]["peer"]["p90"] == 2.0


def test_a_machine_that_is_hardly_ever_quiet_gives_no_figures():
    times = {"ours": [1.0] * 10, AGAIN: [1.0] * 10} | steady_machine(10)
    times[GEMM] = [1.0] + [2.0] * 9
    table = tabulate(times, "ours")
    assert "quiet in only 1 of 10 rounds" in table["why_invalid"]
    assert table["contenders"] == {}


@pytest.mark.parametrize(
    ("seconds", "again", "valid"), [(1.0, 1.02, True), (1.0, 1.05, False), (1e-5, 1.05, True), (1e-5, 1.2, False)]
)
def test_a_contender_that_differs_from_itself_makes_the_record_invalid(seconds, again, valid):
    times = {"ours": [seconds] * 9, AGAIN: [seconds * again] * 9} | steady_machine(9)
    table = tabulate(times, "ours")
    assert (table["why_invalid"] == "") == valid
    assert table["control"]["ratio"] == pytest.approx(again)
    assert valid or "over itself" in table["why_invalid"]


def doubled(contenders, **options):
    """A case that asks for 2 x and its gradient."""

    def judge(answer):
        error = max((a - b).abs().max().item() for a, b in zip(answer, (2 * x, torch.full_like(x, 2.0)), strict=False))
        return Verdict(error, "" if error < 1e-6 else f"off by {error:.1g}")

    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    return Case("double", "made up", "64x64", lambda seed, device: (x,), contenders, lambda x: judge, **options)


def missing(*inputs):
    raise Absent("not installed here")


def test_a_wrong_contender_is_refused_by_the_gate_and_never_timed():
    calls = []
    wrong = plain(lambda x: calls.append(1) or 2.001 * x)
    record = measure(doubled({"ours": plain(lambda x: x + x), "wrong": wrong, "right": plain(lambda x: 2 * x)}), 0.05)
    assert record.out == {"wrong": "refused: off by 0.0" + record.out["wrong"][-2:]}
    assert len(calls) == 1
    assert record.rounds.keys() == {"ours", "right"}
    for table in record.tables:
        assert table["contenders"].keys() <= {"ours", "right"}
        assert all(row["gate"] == "passed" for row in table["contenders"].values())


def test_a_wrong_gradient_is_refused_too():
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        def backward(ctx, g):
            return 3 * g

    contenders = {"ours": plain(lambda x: 2 * x), "wrong": plain(Wrong.apply)}
    case = doubled(contenders, gradients=(0,))
    case = harness.replace(case, gate=lambda x: lambda answer: Verdict(*weighed(answer)))
    record = measure(case, 0.05)
    assert record.out.keys() == {"wrong"}
    assert record.case.passes == "forward+backward"


def weighed(answer):
    """The gradient of 2 x is twice the weights, the same for all contenders."""
    draw = torch.Generator().manual_seed(1)
    error = (answer[1] - 2 * torch.randn(64, 64, generator=draw)).abs().max().item()
    return error, "" if error < 1e-6 else f"gradient off by {error:.1g}"


def test_who_is_absent_or_fails_is_recorded_with_the_reason_and_stops_nobody():
    def fails(x):
        raise RuntimeError("no such\nkernel")

    case = doubled({"ours": plain(lambda x: 2 * x), "missing": Contender(missing), "fails": plain(fails)})
    record = measure(case, 0.05)
    assert record.out == {"missing": "absent: not installed here", "fails": "failed: RuntimeError: no such kernel"}
    assert "ours" in record.rounds
    text = "\n".join(summary(record))
    assert "not installed here" in text
    assert "no such kernel" in text


def test_nothing_is_timed_where_ours_is_wrong():
    record = measure(doubled({"ours": plain(lambda x: 3 * x), "right": plain(lambda x: 2 * x)}), 0.05)
    assert (record.tables, record.rounds) == ([], {})
    assert record.out["ours"].startswith("refused")


def test_results_are_written_as_they_come(tmp_path):
    results = Results(tmp_path / "out", run="one")
    case = doubled({"ours": plain(lambda x: 2 * x), "peer": plain(lambda x: x + x, "as it is")})
    results.add(measure(case, 0.02))
    results.add(measure(harness.replace(case, threads=2), 0.02))
    (path,) = (tmp_path / "out").iterdir()
    page = json.loads(path.read_text())
    assert (path.name, page["run"]) == ("double.json", "one")
    assert page["environment"]["packages"]["torch"]
    assert [table["threads"] for table in page["tables"]] == [1, 2]
