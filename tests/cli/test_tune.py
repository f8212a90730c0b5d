"""`tstk tune`: search spaces of flags and files, mistakes before anything is trained, and what is printed."""

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="needs Optuna: pip install 'tstk-core[tune]'")

TINY = ["--head", "linear", "--steps", "2"]
PAGE = Path(__file__).parents[2] / "docs" / "tuning.md"


@pytest.mark.slow
def test_the_best_config_of_a_search_is_trained_by_the_command_that_is_printed(tstk, small, tmp_path):
    words = ["tune", *TINY, *small, "--search", "lr=1e-4..1e-2:log", "--out", "tuned"]
    result = tstk(*words, "--trials", 2)
    assert result.exit_code == 0, result.output
    assert re.search(r"1/2 accuracy 0\.\d+ ± 0\.\d+  lr=0\.001  [\d.]+ s  best so far", result.stderr)
    assert "2 trials (2 finished)" in result.stdout
    assert "s of training and validation with reading the data" in result.stdout
    note = "no trial was better than the config itself"
    assert (note in result.stderr) == (re.search(r"^ +(\d)", result.stdout.partition("──\n")[2])[1] == "1")
    assert "is the best of 2 and therefore optimistic" in result.stderr
    command = re.search(r"^  tstk (train --config .*)$", result.stdout, re.MULTILINE)[1]
    assert tstk(*command.split(), "--quiet").exit_code == 0
    facts = json.loads(tstk(*words, "--trials", 3, "--json").stdout)
    assert [trial["number"] for trial in facts["trials"]] == [1, 2, 3]
    assert facts["metric"] == "accuracy"


@pytest.mark.slow
def test_the_space_of_a_file_is_that_of_the_documentation_and_flags_override_it(tstk, small, tmp_path):
    (text,) = re.findall(r"^```toml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (tmp_path / "search.toml").write_text(text)
    words = [
        "tune",
        "--config",
        "search.toml",
        "--steps",
        2,
        *small,
        "--search",
        "lr=0.01",
        "--trials",
        2,
        "--out",
        "o",
    ]
    result = tstk(*words, "--json")
    assert result.exit_code == 0, result.output
    options = json.loads(result.stdout)["trials"][1]["options"]
    assert set(options) >= {"tokenizer", "encoder.depth", "lr"}
    assert options["lr"] == "0.01"


def test_faults_of_a_space_are_reported_together_before_anything_is_written(refused):
    space = ["--search", "encoder.dept=1..4", "--search", "encoder.norm=pre,pst", "--search", "lr=-1..1"]
    lines = refused("tune", *TINY, *space, "--out", "o").splitlines()
    assert len(lines) == 3
    assert any("Did you mean 'depth'?" in line for line in lines)
    assert "nothing to search: give --search" in refused("tune", *TINY, "--out", "o")
    assert "No such option '--learning-rate'. Did you mean '--lr'?" in refused(
        "tune", "--learning-rate", 1, "--out", "o"
    )
    fault = refused("tune", *TINY, "--search", "lr=0.1,0.2", "--time-limit", "soon", "--out", "o")
    assert "--time-limit soon: expected a time such as 2h" in fault


def test_a_table_of_a_search_is_refused_by_train_with_a_hint_at_tune(refused, tmp_path):
    path = tmp_path / "search.toml"
    path.write_text('[search]\nlr = "0.1..0.2"\n')
    assert "A table [search] is for tstk tune." in refused("train", "--config", path)
    path.write_text("search = 3\n")
    assert "search is no table" in refused("tune", "--config", path, "--out", "o")


@pytest.mark.parametrize(("text", "seconds"), [("2h", 7200), ("1h30m", 5400), ("90m", 5400), ("45s", 45), ("1.5", 1.5)])
def test_times_are_written_as_people_write_them(text, seconds):
    from tstk.cli.commands.tune import DurationType

    assert DurationType().convert(text, None, None) == seconds


@pytest.mark.slow
def test_a_search_without_a_finished_trial_says_so_and_fails(tstk, small):
    words = ["tune", *TINY, *small, "--search", "encoder.heads=3,5", "--trials", 3, "--out", "o"]
    result = tstk(*words)
    assert result.exit_code == 0, result.output
    assert "refused: " in result.stderr
    nothing = tstk(*words[:-1], "p", "--metric", "acuracy")
    assert nothing.exit_code == 1
    assert "No trial has finished (3 refused); p/trials.csv says why." in nothing.stdout


@pytest.mark.slow
def test_ctrl_c_ends_with_what_was_found(tstk, small, monkeypatch):
    words = ["tune", *TINY, *small, "--search", "lr=1e-4..1e-2:log", "--trials", 3, "--out", "o"]
    calls = []

    def interrupt_the_second(self):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return []

    monkeypatch.setattr("tstk.cli.commands.tune._Progress.make_callbacks", interrupt_the_second)
    result = tstk(*words)
    assert result.exit_code == 130
    assert "1 trial (1 finished)" in result.stdout
    assert "tstk train --config o/best.toml" in result.stdout
    assert "Interrupted. The same command continues the search." in result.stderr
    assert "3 trials (3 finished)" in tstk(*words, "--pruner", "none").stdout
