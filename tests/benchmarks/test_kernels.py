"""The harness of `benchmarks/`, with artificial clocks and small contenders."""

import json
import os
import random
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import pytest
import torch

from benchmarks import harness, self_tests
from benchmarks.figures import CONTROL_CLOCK, FILL, GEMM, compute_paired_ratio, drop_noisy_rounds, interleave, tabulate
from benchmarks.harness import (
    Case,
    CheckResult,
    Contender,
    ContenderUnavailableError,
    format_record,
    make_contender,
    measure,
)
from benchmarks.render import MARK, PAGE, InvalidResultsError, read_results, render
from benchmarks.results import Results
from benchmarks.run import OPERATIONS, interleave_cases
from benchmarks.summary import format_cases
from benchmarks.tune import iterate_numbers, replace_number, tune
from tstk.kernels import tuning
from tstk.kernels.dispatch import Backend

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def threads():
    """Restore the number of threads, which cases set."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def make_drifting_clock(seconds, seed=0, noise=0.02):
    """A clock of a machine that becomes three times slower."""
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
    times = interleave({"ours": make_drifting_clock(1.0), "peer": make_drifting_clock(2.5, seed=1)}, 21)
    found = compute_paired_ratio(times["peer"], times["ours"])
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
        low, high = compute_paired_ratio(ratios, [1.0] * 25, num_resamples=400)["interval"]
        covered += low <= 1.5 <= high
    assert 88 <= covered <= 100


def test_rounds_in_which_the_machine_was_slow_are_dropped_and_counted():
    times = {"ours": [1.0] * 10, CONTROL_CLOCK: [1.0] * 10, "peer": [2.0] * 10} | steady_machine(10)
    for r in (2, 7):
        times[GEMM][r], times["peer"][r] = 1.6, 50.0
    times[FILL][4] = 3.1
    times[FILL][5] = 2.9
    assert len(drop_noisy_rounds(times)["ours"]) == 7
    table = tabulate(times, "ours")
    assert (table["rounds"], table["dropped"], table["why_invalid"]) == (7, 3, "")
    assert table["contenders"]["peer"]["p90"] == 2.0


def test_a_machine_that_is_hardly_ever_quiet_gives_no_figures():
    times = {"ours": [1.0] * 10, CONTROL_CLOCK: [1.0] * 10} | steady_machine(10)
    times[GEMM] = [1.0] + [2.0] * 9
    table = tabulate(times, "ours")
    assert "quiet in only 1 of 10 rounds" in table["why_invalid"]
    assert table["contenders"] == {}


@pytest.mark.parametrize(
    ("seconds", "again", "valid"), [(1.0, 1.02, True), (1.0, 1.05, False), (1e-5, 1.05, True), (1e-5, 1.2, False)]
)
def test_a_contender_that_differs_from_itself_makes_the_record_invalid(seconds, again, valid):
    times = {"ours": [seconds] * 9, CONTROL_CLOCK: [seconds * again] * 9} | steady_machine(9)
    table = tabulate(times, "ours")
    assert (table["why_invalid"] == "") == valid
    assert table["control"]["ratio"] == pytest.approx(again)
    assert valid or "over itself" in table["why_invalid"]


def make_doubling_case(contenders, **options):
    """A case that computes 2 x and its gradient."""

    def check(outputs):
        error = max((a - b).abs().max().item() for a, b in zip(outputs, (2 * x, torch.full_like(x, 2.0)), strict=False))
        return CheckResult(error, "" if error < 1e-6 else f"off by {error:.1g}")

    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    return Case("double", "made up", "64x64", lambda seed, device: (x,), contenders, lambda x: check, **options)


def raise_unavailable(*inputs):
    raise ContenderUnavailableError("not installed here")


@pytest.mark.slow
def test_a_wrong_contender_is_refused_by_the_check_and_never_timed():
    calls = []
    wrong = make_contender(lambda x: calls.append(1) or 2.001 * x)
    record = measure(
        make_doubling_case(
            {"ours": make_contender(lambda x: x + x), "wrong": wrong, "right": make_contender(lambda x: 2 * x)}
        ),
        0.05,
    )
    assert record.excluded == {"wrong": "refused: off by 0.0" + record.excluded["wrong"][-2:]}
    assert len(calls) == 1
    assert record.rounds.keys() == {"ours", "right"}
    for table in record.tables:
        assert table["contenders"].keys() <= {"ours", "right"}
        assert all(row["gate"] == "passed" for row in table["contenders"].values())


@pytest.mark.slow
def test_a_wrong_gradient_is_refused_too():
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        def backward(ctx, g):
            return 3 * g

    contenders = {"ours": make_contender(lambda x: 2 * x), "wrong": make_contender(Wrong.apply)}
    case = make_doubling_case(contenders, gradients=(0,))
    case = harness.replace(case, make_check=lambda x: lambda outputs: CheckResult(*check_gradient(outputs)))
    record = measure(case, 0.05)
    assert record.excluded.keys() == {"wrong"}
    assert record.case.passes == "forward+backward"


def check_gradient(outputs):
    """The gradient of 2 x is twice the weights, the same for all contenders."""
    draw = torch.Generator().manual_seed(1)
    error = (outputs[1] - 2 * torch.randn(64, 64, generator=draw)).abs().max().item()
    return error, "" if error < 1e-6 else f"gradient off by {error:.1g}"


@pytest.mark.slow
def test_missing_and_failing_contenders_are_recorded_with_the_reason_and_the_others_run():
    def fail(x):
        raise RuntimeError("no such\nkernel")

    case = make_doubling_case(
        {
            "ours": make_contender(lambda x: 2 * x),
            "missing": Contender(raise_unavailable),
            "fails": make_contender(fail),
        }
    )
    record = measure(case, 0.05)
    assert record.excluded == {"missing": "absent: not installed here", "fails": "failed: RuntimeError: no such kernel"}
    assert "ours" in record.rounds
    text = "\n".join(format_record(record))
    assert "not installed here" in text
    assert "no such kernel" in text


def test_nothing_is_timed_where_ours_is_wrong():
    record = measure(
        make_doubling_case({"ours": make_contender(lambda x: 3 * x), "right": make_contender(lambda x: 2 * x)}), 0.05
    )
    assert (record.tables, record.rounds) == ([], {})
    assert record.excluded["ours"].startswith("refused")


@pytest.mark.slow
def test_results_are_written_as_they_come(tmp_path):
    results = Results(tmp_path / "out", run="one")
    case = make_doubling_case(
        {"ours": make_contender(lambda x: 2 * x), "peer": make_contender(lambda x: x + x, "as it is")}
    )
    results.add(measure(case, 0.02))
    results.add(measure(harness.replace(case, threads=2), 0.02))
    (path,) = (tmp_path / "out").iterdir()
    page = json.loads(path.read_text())
    assert (path.name, page["run"]) == ("double.json", "one")
    assert page["environment"]["packages"]["torch"]
    assert [table["threads"] for table in page["tables"]] == [1, 2]


@pytest.mark.slow
def test_a_run_of_the_same_name_is_resumed_and_another_name_replaces_it(tmp_path):
    case = make_doubling_case({"ours": make_contender(lambda x: 2 * x)})
    record = measure(case, 0.02)
    Results(tmp_path, run="one").add(record)
    assert case in Results(tmp_path, run="one")
    assert case not in Results(tmp_path, run="two")
    Results(tmp_path, run="two").add(record)
    page = json.loads((tmp_path / "double.json").read_text())
    assert (page["run"], len(page["tables"])) == ("two", 1)


@pytest.mark.slow
def test_a_run_is_of_one_commit(tmp_path):
    case = make_doubling_case({"ours": make_contender(lambda x: 2 * x)})
    Results(tmp_path, run="one").add(measure(case, 0.02))
    later = Results(tmp_path, run="one")
    later._environment["commit"] = "another"
    with pytest.raises(ValueError, match="use another run name"):
        later.add(measure(case, 0.02))


def write_results(folder, run="one", device="cpu", gate="passed", op="nearest_code"):
    """A page with one case, in which a peer takes twice as long."""
    rows = {
        name: {"median": 2e-3 * x, "min": 2e-3 * x, "p90": 2e-3 * x, "ratio": x, "interval": [0.95 * x, 1.05 * x]}
        | {"x_limit": 3 * x, "gate": gate, "error": 1e-7, "first_call": 0.5, "peak_bytes": None, "setting": "as it is"}
        for name, x in (("tstk", 1.0), ("peer", 2.0))
    }
    table = {"case": "a case", "op": op, "name": "a shape", "size": "8x8", "dtype": "float32", "device": device}
    table |= {"threads": 2, "passes": "forward", "ours": "tstk", "limit": "product", "clock": "wall", "why_invalid": ""}
    table |= {"contenders": rows, "out": {"other": "absent: not installed"}}
    environment = {
        "processor": "a CPU",
        "gpu": "a GPU",
        "cores": 2,
        "vectors": "AVX2",
        "packages": {"torch": "1"},
        "commit": "c0",
    }
    folder.mkdir(exist_ok=True)
    page = {"format": 1, "run": run, "environment": environment, "tables": [table]}
    (folder / f"{op}.json").write_text(json.dumps(page))
    return folder


def test_the_page_shows_ratios_intervals_and_excluded_contenders(tmp_path):
    page = render("<!-- environment -->\n\n<!-- nearest_code -->\n", read_results([write_results(tmp_path / "cpu")]))
    assert "| a shape, 8x8, 2 threads | 2 ms | 3.00 | **2.00** [1.90, 2.10] |" in page
    assert "- other, 1 of 1 rows: absent: not installed" in page
    assert "a CPU" in page
    assert "not measured yet" in page


def test_the_page_refuses_unchecked_rows_and_two_runs_on_one_device(tmp_path):
    write_results(tmp_path / "cpu", gate="")
    with pytest.raises(InvalidResultsError, match="no passing gate"):
        read_results([tmp_path / "cpu"])
    write_results(tmp_path / "cpu")
    write_results(tmp_path / "cuda", run="two", device="cuda")
    assert read_results([tmp_path / "cpu", tmp_path / "cuda"]).keys() == {"cpu AVX2", "cuda"}
    write_results(tmp_path / "cpu", run="two", op="ricker_cwt")
    with pytest.raises(InvalidResultsError, match="mixed"):
        read_results([tmp_path / "cpu"])


@pytest.mark.slow
def test_every_mark_of_the_page_has_an_operation():
    marks = set(MARK.findall(PAGE.read_text()))
    operations = {
        case.op for name in OPERATIONS for case in import_module(f"benchmarks.test_{name}").list_cases(False, "cpu")
    }
    assert marks == operations | {"environment", "compiled"}


@pytest.mark.slow
def test_every_case_of_every_grid_has_a_name_of_its_own():
    for device in ("cpu", "cuda"):
        for full in (False, True):
            modules = [import_module(f"benchmarks.test_{name}") for name in OPERATIONS]
            names = [str(case) for module in modules for case in module.list_cases(full, device)]
            assert len(names) == len(set(names))


def test_tuning_finds_the_sizes_that_are_fastest_and_right():
    module = ModuleType("made_up")
    module.CONFIGS = {
        ("done", 8): {"tile": 8},
        ("short", 16): {"tile": 32, "warps": 4},
        ("long", 16): {"tile": 64, "warps": 8},
    }
    before = module.CONFIGS

    def sizes():
        assert module.CONFIGS["done", 8]["tile"] == 8
        return module.CONFIGS["short", 16]

    def seconds():
        tile, warps = sizes().values()
        if tile > 128:
            raise RuntimeError("out of shared memory")
        return abs(tile - 512) + abs(warps - 2)

    found = tune(module, sizes, lambda: sizes()["warps"] != 2, seconds, {("CONFIGS", ("done", 8))})
    assert found == {"CONFIGS": {("short", 16): {"tile": 128, "warps": 4}}}
    assert module.CONFIGS is before
    assert before == {
        ("done", 8): {"tile": 8},
        ("short", 16): {"tile": 32, "warps": 4},
        ("long", 16): {"tile": 64, "warps": 8},
    }


def test_tuned_sizes_replace_the_defaults_on_that_kind_of_gpu_only(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "get_tuned_path", lambda op: tmp_path / f"{op}.json")
    sane = {("short", 16): {"tile": 32, "warps": 4}, ("long", 16): {"tile": 64, "warps": 8}}
    assert tuning.load_tuned_sizes("op", sane) == sane
    tuning.write_tuned_sizes("op", "9.0", {"CONFIGS": {("short", 16): {"tile": 128}}})
    tuning.write_tuned_sizes("op", "9.0", {"CONFIGS": {("long", 16): {"warps": 4}}, "OTHER_CONFIGS": {(1,): {"a": 2}}})
    monkeypatch.setattr(tuning, "get_compute_capability", lambda: "8.0")
    assert tuning.load_tuned_sizes("op", sane) == sane
    monkeypatch.setattr(tuning, "get_compute_capability", lambda: "9.0")
    better = {("short", 16): {"tile": 128, "warps": 4}, ("long", 16): {"tile": 64, "warps": 4}}
    assert tuning.load_tuned_sizes("op", sane) == better
    assert tuning.load_tuned_sizes("op", {(1,): {"a": 1}}, "OTHER_CONFIGS") == {(1,): {"a": 2}}


class Tile(NamedTuple):
    rows: int
    warps: int


def test_sizes_may_be_dictionaries_tuples_or_both_and_come_back_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "get_tuned_path", lambda op: tmp_path / f"{op}.json")
    monkeypatch.setattr(tuning, "get_compute_capability", lambda: "9.0")
    sane = {("a", 1): (Tile(16, 2), {"stages": 1, "exact": True, "how": "ieee"})}
    paths = [path for path, _ in iterate_numbers(sane["a", 1])]
    assert paths == [(0, 0), (0, 1), (1, "stages")]
    better = replace_number(replace_number(sane["a", 1], (0, 1), 4), (1, "stages"), 3)
    tuning.write_tuned_sizes("op", "9.0", {"CONFIGS": {("a", 1): better}})
    (found,) = tuning.load_tuned_sizes("op", sane).values()
    assert found == (Tile(16, 4), {"stages": 3, "exact": True, "how": "ieee"})
    assert found[0].warps == 4


@pytest.mark.slow
def test_on_a_gpu_kernels_are_timed_too_with_inputs_that_change_and_inputs_that_stay(monkeypatch):
    """Checked with timers of the CPU in place of CUDA graphs."""
    inputs = []

    def replay(calls):
        inputs.append(len(calls))
        if len(inputs) == 4:
            raise RuntimeError("waits for the GPU")
        return harness.clocks.make_wall_clock(calls[0], "cpu")

    for name in ("reset_state", "free_memory", "synchronize", "measure_peak_bytes"):
        monkeypatch.setattr(harness.clocks, name, lambda *args: None)
    monkeypatch.setattr(
        harness.clocks, "make_limit_calls", lambda device, machine=harness.clocks.make_limit_calls: machine("cpu")
    )
    monkeypatch.setattr(harness.clocks, "make_graph_clock", replay)
    record = measure(
        make_doubling_case(
            {"ours": make_contender(lambda x: 2 * x), "peer": make_contender(lambda x: x + x)}, device="cuda"
        ),
        0.02,
    )
    assert inputs == [1, 1, 32, 32, 32, 1, 1, 1, 1, 1]
    assert record.excluded == {"peer, kernels": "failed: not captured: RuntimeError: waits for the GPU"}
    assert [table["clock"] for table in record.tables] == ["wall", "kernels", "kernels, inputs in cache"]
    assert all(table["contenders"].keys() <= {"ours"} for table in record.tables[1:2])


FAKE = """#!/usr/bin/env bash
echo "$COMMIT|$TRITON_CACHE_DIR|$*" >>"$CALLS"
case "$*" in *"$RED"*) exit 1 ;; *"$SLOW"*) exec sleep 60 ;; esac
"""


@pytest.fixture
def gpu_sh(tmp_path):
    """`gpu_sh(mode, seconds, red, slow)` runs the script with a Python that only records its commands.

    A command with `red` in it fails, one with `slow` in it does not end. Returns the status, the summary, the commands,
    and the files that are left.
    """
    fake = tmp_path / "python"
    fake.write_text(FAKE)
    fake.chmod(0o755)

    def run(mode, seconds, red="nothing", slow="nothing", **variables):
        out, calls = tmp_path / "out", tmp_path / "calls"
        calls.write_text("")
        environment = os.environ | {"PYTHON": str(fake), "CALLS": str(calls), "RED": red, "SLOW": slow, "DEVICE": "cpu"}
        command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), mode, str(out), str(seconds)]
        done = subprocess.run(command, env=environment | variables, capture_output=True, text=True)
        files = {path.name: path.read_text() for path in out.iterdir()} if out.exists() else {}
        return done.returncode, files.get("summary.txt", ""), calls.read_text().splitlines(), files

    return run


def read_step_limits(summary):
    """Return the time limit of each step in seconds."""
    return {line[:28].strip(): int(line.rsplit(" ", 1)[1]) for line in summary.splitlines() if ", at most " in line}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="bash, and GNU's timeout")
def test_gpu_sh_runs_each_mode_and_ends_with_a_summary(gpu_sh):
    status, summary, calls, files = gpu_sh("smoke", 150)
    assert status == 0
    assert summary.startswith("smoke: passed")
    assert files.keys() == {"log.txt", "summary.txt"}
    tests = next(call for call in calls if "-m pytest" in call)
    assert "--last-failed" not in tests
    assert "--first" in calls[calls.index(tests) + 1]
    paths = [word for word in tests.split() if word.startswith("tests/")]
    assert len(paths) == 7
    assert all((ROOT / path).is_file() for path in paths)
    status, summary, calls, files = gpu_sh("mend", 90)
    assert status == 0
    assert list(read_step_limits(summary)) == ["self-tests", "tests of the kernels", "one case of each operation"]
    assert "--last-failed" in next(call for call in calls if "-m pytest" in call)
    status, summary, calls, files = gpu_sh("bench", 420)
    assert status == 0
    assert list(read_step_limits(summary)) == ["check ours", "check all, fill caches", "the grid", "profile"]
    assert len(files) <= 8
    assert not any("-m pytest" in call for call in calls)
    assert all("--stop" in call for call in calls if "benchmarks.run" in call)


@pytest.mark.skipif(sys.platform != "linux", reason="bash, and GNU's timeout")
@pytest.mark.parametrize(
    ("mode", "red", "last"),
    [("smoke", "-m pytest", "-m pytest"), ("smoke", "--first", "--first"), ("bench", "--ours", "--ours")],
)
def test_gpu_sh_stops_at_the_first_failure_with_status_1(gpu_sh, mode, red, last):
    status, summary, calls, _ = gpu_sh(mode, 150, red=red)
    assert status == 1
    assert summary.startswith(f"{mode}: RED")
    assert "RED, status 1" in summary
    assert last in calls[-2]
    assert "benchmarks.summary" in calls[-1]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="bash, and GNU's timeout")
def test_gpu_sh_gives_no_step_more_than_is_left_and_begins_none_without(gpu_sh):
    for mode, seconds in (("smoke", 60), ("bench", 90)):
        status, summary, _, _ = gpu_sh(mode, seconds)
        assert status == 0
        assert all(most <= seconds - 5 for most in read_step_limits(summary).values())
    for mode in ("smoke", "bench"):
        status, summary, calls, _ = gpu_sh(mode, 8)
        assert status == 2
        assert "skipped, no time left" in summary
        assert not any("benchmarks.run" in call or "-m pytest" in call for call in calls)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="bash, and GNU's timeout")
def test_gpu_sh_cuts_off_what_does_not_end_and_says_so(gpu_sh):
    status, summary, calls, _ = gpu_sh("smoke", 12, slow="-m pytest")
    assert status == 2
    assert summary.startswith("smoke: not finished")
    assert "cut off" in summary
    assert not any("--first" in call for call in calls)


@pytest.mark.skipif(sys.platform != "linux", reason="bash, and GNU's timeout")
def test_gpu_sh_passes_on_the_commit_and_the_cache_and_refuses_other_modes(gpu_sh):
    _, _, calls, _ = gpu_sh("smoke", 150, COMMIT="abc123", TRITON_CACHE_DIR="/filled/before")
    assert all(call.startswith("abc123|/filled/before|") for call in calls)
    status, _, calls, _ = gpu_sh("everything", 150)
    assert (status, calls) == (64, [])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="bash, and GNU's timeout")
def test_gpu_sh_fails_if_a_test_of_the_kernels_fails(gpu_sh, tmp_path):
    wrong = tmp_path / "test_wrong.py"
    wrong.write_text("def test_wrong():\n    assert 1 == 2\n")
    status, summary, _, files = gpu_sh("smoke", 6000, PYTHON=sys.executable, TESTS=str(wrong))
    assert status == 1
    assert "tests of the kernels         RED, status " in summary
    assert "assert 1 == 2" in files["log.txt"]
    assert "one case of each operation" not in files["log.txt"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="bash, and GNU's timeout")
def test_gpu_sh_smoke_checks_and_times_a_case_of_each_operation(gpu_sh, tmp_path):
    fine = tmp_path / "test_fine.py"
    fine.write_text("def test_fine():\n    pass\n")
    given = {"TESTS": str(fine), "COMMIT": "abc123", "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    status, _, _, files = gpu_sh("smoke", 6000, PYTHON=sys.executable, **given)
    assert status == 0, files["log.txt"]
    assert len(files) <= 8
    names = ["rope_attention", "nearest_code", "ema_sums", "quantizer_step", "ricker_cwt"]
    assert all(f"\n{name}, " in files["log.txt"] for name in names)
    assert json.loads(files["rope_attention.json"])["environment"]["commit"] == "abc123"


def test_the_commit_can_be_set_by_a_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("COMMIT", "abc123")
    assert Results(tmp_path)._environment["commit"] == "abc123"


def make_grid(*sizes):
    case = make_doubling_case({"tstk": make_contender(lambda x: 2 * x)})
    return [harness.replace(case, size=size, threads=threads) for size in sizes for threads in (1, 2)]


def test_operations_take_turns_after_the_first_two_shapes_of_each():
    order = [
        (case.size, case.threads)
        for case in interleave_cases([make_grid("a1", "a2", "a3", "a4"), make_grid("b1", "b2", "b3")])
    ]
    assert [size for size, threads in order if threads == 1] == ["a1", "a2", "b1", "b2", "a3", "b3", "a4"]
    assert order[:2] == [("a1", 1), ("a1", 2)]


def test_a_shape_that_its_backend_refuses_is_not_measured_and_is_no_fault():
    calls = []
    case = make_doubling_case(
        {"ours": make_contender(lambda x: calls.append(1) or 2 * x)},
        why_unsupported=lambda x: f"too wide: {x.shape[1]}",
    )
    record = measure(case, 0.05)
    assert (record.why_unsupported, record.excluded, record.tables, calls) == ("too wide: 64", {}, [], [])
    assert "not measured: too wide: 64" in "\n".join(format_record(record))


def test_a_case_whose_backend_fails_its_self_test_is_a_fault_and_not_measured(monkeypatch):
    calls = []
    backend = Backend("triton", "x:y")
    monkeypatch.setattr(Backend, "why_self_test_failed", lambda self, device: "its self-test failed on cuda:0: wrong")
    operation = SimpleNamespace(backends={"triton": backend})
    case = make_doubling_case(
        {"ours": make_contender(lambda x: calls.append(1) or 2 * x)},
        why_unsupported=lambda x: harness.why_triton_unsupported(operation, x, device="cuda"),
    )
    record = measure(case, 0.05)
    assert record.excluded == {"ours": "refused: its self-test failed on cuda:0: wrong"}  # which `run` counts as wrong
    assert (record.tables, calls) == ([], [])


@pytest.mark.slow
def test_self_tests_report_each_operation_though_the_others_fail():
    command = [sys.executable, "-m", "benchmarks.self_tests", "cpu"]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    lines = sorted(done.stdout.splitlines())
    assert [line.partition(":")[0] for line in lines] == sorted(self_tests.OPERATIONS)
    assert all("need cuda" in line or "not installed" in line for line in lines)


def test_the_summary_is_one_screen(tmp_path):
    write_results(tmp_path)
    assert list(format_cases(tmp_path)) == ["commit c0, a GPU", "        2 ms  a case; peer takes 2.00 times as long"]
