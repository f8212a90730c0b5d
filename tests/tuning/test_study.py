"""The trials of a search: repeatable, resumable, compared on validation alone, and none of them fatal."""

import csv
import json
import re
import subprocess
import sys
import time
import tomllib

import pytest

pytest.importorskip("optuna", reason="needs Optuna: pip install 'tstk-core[tune]'")

import tstk
from tstk.errors import DataError, OptionError, TrainingError
from tstk.training.callbacks import Callback
from tstk.tuning.objective import TrialCallback, fit
from tstk.tuning.results import STUDY_FILE, TrialRecord, TuneResult
from tstk.tuning.space import SearchSpace, parse_search
from tstk.tuning.study import Reporters, Tuner, TuneSettings, TuningInterrupted, run_study

SMALL = {
    "tokenizer": {"use": "patch", "dim": 8},
    "encoder": {"use": "transformer", "dim": 8, "depth": 1, "heads": 2},
    "head": {"use": "linear"},
    "train": {"steps": 4, "validate_every": 2, "threads": 1, "device": "cpu"},
}
SEARCH = {"lr": "1e-4..1e-1:log", "encoder.norm": ["pre", "post"]}


def make_space(search=SEARCH, **tables):
    values = {name: {**SMALL.get(name, {}), **tables.get(name, {})} for name in {**SMALL, **tables}}
    return SearchSpace([("test", values)], parse_search(search))


def search(out, trials=4, space=None, reporters=None, **settings):
    return run_study(space or make_space(), out, TuneSettings(trials, **settings), reporters or Reporters())


def summarize(result):
    return [(t.number, t.state, dict(t.options), t.score) for t in result.trials]


WORKER = re.compile(rb'(?<="worker":)"[0-9a-f]+"')
"""The name of the process that has a trial, in the file of a study."""


class InterruptingCallback(Callback):
    def on_step_end(self, state, step_outputs):
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return search(tmp_path_factory.mktemp("study") / "out", trials=5)


@pytest.mark.slow
def test_one_seed_repeats_its_trials_and_another_has_others(finished, tmp_path):
    assert summarize(search(tmp_path / "again", trials=5)) == summarize(finished)
    other = search(tmp_path / "other", space=make_space(train={"seed": 1}))
    assert {t.options["lr"] for t in other.trials}.isdisjoint(t.options["lr"] for t in finished.trials[1:])


@pytest.mark.slow
def test_the_first_trial_is_the_config_itself(finished, tmp_path):
    assert finished.trials[0].options == {"lr": 1e-3, "encoder.norm": "pre"}
    outside = search(tmp_path / "out", trials=2, space=make_space({"lr": "0.01..0.1"}))
    assert outside.trials[0].options == {}
    assert outside.trials[0].score == finished.trials[0].score, "it is the same config in either search"
    assert any("lr is 0.001, which is not in 0.01..0.1" in note for note in outside.notes)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9])
def test_a_search_that_was_killed_ends_as_if_it_had_not_been(finished, tmp_path, share):
    """Whatever a kill leaves of the file, also half a line."""
    content = (finished.out / STUDY_FILE).read_bytes()
    out = tmp_path / "out"
    out.mkdir()
    (out / STUDY_FILE).write_bytes(content[: int(share * len(content))])
    (out / "workers").mkdir()
    (out / "workers" / json.loads(WORKER.search(content)[0])).touch()
    assert summarize(search(out, trials=5)) == summarize(finished)
    assert not (out / "workers").exists()


@pytest.mark.slow
def test_an_interrupt_returns_what_was_found_and_the_same_call_continues(finished, tmp_path):
    out, calls = tmp_path / "out", []

    def make_callbacks():
        calls.append(1)
        return [InterruptingCallback()] if len(calls) == 3 else []

    with pytest.raises(TuningInterrupted) as caught:
        search(out, trials=5, reporters=Reporters(make_callbacks=make_callbacks))
    assert summarize(caught.value.result) == summarize(finished)[:2]
    assert tomllib.loads((out / "best.toml").read_text())
    assert summarize(search(out, trials=5)) == summarize(finished)


@pytest.mark.slow
def test_a_finished_search_is_not_run_again_and_more_trials_are_added(finished, tmp_path):
    out, numbers = tmp_path / "out", []
    reporters = Reporters(on_trial=lambda result, trial: numbers.append(trial.number))
    search(out, trials=2, reporters=reporters)
    search(out, trials=2, reporters=reporters)
    search(out, trials=4, reporters=reporters)
    assert numbers == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_run_of_the_best_config_has_the_score_of_its_trial(tmp_path):
    result = search(tmp_path / "out", trials=3, space=make_space(data={"val_fraction": 0.3}))
    run = tstk.fit(result.config_file, out=tmp_path / "run")
    assert run.val["accuracy"] == result.best.score
    assert run.test


@pytest.mark.slow
def test_validation_series_that_trials_need_are_not_held_out_by_the_best_config(finished):
    """Training on few series holds none out by default."""
    assert finished.best.val_series == 48
    assert tomllib.loads(finished.config_file.read_text())["data"]["val_fraction"] == "none"


@pytest.mark.slow
def test_no_trial_scores_the_test_split(tmp_path, monkeypatch):
    from tstk.training import loop

    sizes, evaluate = [], loop.evaluate

    def record(pipeline, split, **options):
        sizes.append(len(split))
        return evaluate(pipeline, split, **options)

    monkeypatch.setattr(loop, "evaluate", record)
    monkeypatch.setattr("tstk.training.runs.evaluate", None)  # which scores test
    monkeypatch.setattr("tstk.training.runs.evaluate_classifier", None)
    search(tmp_path / "out", trials=2)
    assert set(sizes) == {48}, "test has 108 series"


@pytest.mark.slow
def test_the_table_of_trials_has_a_row_each_with_options_and_scores(finished):
    rows = list(csv.DictReader((finished.out / "trials.csv").open()))
    assert [float(row["lr"]) for row in rows] == [t.options["lr"] for t in finished.trials]
    assert {row["state"] for row in rows} <= {"finished", "pruned"}
    assert f"Trial {finished.best.number} of 5: accuracy" in finished.config_file.read_text().splitlines()[0]
    assert sorted(p.name for p in finished.out.iterdir()) == ["best.toml", STUDY_FILE, "trials.csv"]


@pytest.mark.slow
def test_options_that_do_not_fit_together_are_refused_and_counted(tmp_path):
    result = search(tmp_path / "out", trials=3, space=make_space({"encoder.heads": [2, 3, 4]}))
    states = {t.options["encoder.heads"]: (t.state, t.error) for t in result.trials}
    assert states["2"] == states["4"] == ("finished", "")
    assert states["3"][0] == "refused"
    assert "heads=3 does not divide" in states["3"][1]


@pytest.mark.slow
def test_a_space_that_has_been_tried_ends_the_search(tmp_path):
    result = search(tmp_path / "out", trials=30, space=make_space({"encoder.norm": ["pre", "post"]}))
    assert len(result.trials) == 2
    assert any("all or nearly all of this space has been tried" in note for note in result.notes)


@pytest.mark.slow
def test_a_bug_in_one_trial_does_not_end_the_search(tmp_path, monkeypatch):
    calls = []

    def fit_with_bug(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise ZeroDivisionError("of a plugin")
        return fit(*arguments)

    monkeypatch.setattr("tstk.tuning.objective.fit", fit_with_bug)
    monkeypatch.delenv("TSTK_STRICT", raising=False)
    result = search(tmp_path / "out", trials=3)
    assert [t.state for t in result.trials] == ["finished", "failed", "finished"]
    assert "ZeroDivisionError: of a plugin" in result.trials[1].error
    (path,) = (tmp_path / "out").glob("*.error.txt")
    assert "fit_with_bug" in path.read_text()


@pytest.mark.slow
def test_a_trial_worse_than_the_others_is_pruned(tmp_path, monkeypatch):
    from optuna.pruners import ThresholdPruner

    monkeypatch.setattr("tstk.tuning.study.make_pruner", lambda name: ThresholdPruner(lower=1.1))
    result = search(tmp_path / "out", trials=1)
    assert [(t.state, t.epoch) for t in result.trials] == [("pruned", 1)]
    assert result.best is None


def test_a_trial_ends_at_the_first_validation_behind_the_deadline(tmp_path):
    class State:
        epoch, epochs, should_stop = 1, 4, False

    class Trial:
        def report(self, value, step):
            self.reported = (value, step)

        def should_prune(self):
            return False

    for deadline, is_over in ((time.monotonic() + 1000, False), (time.monotonic() - 1, True), (None, False)):
        callback, state = TrialCallback(Trial(), "accuracy", deadline), State()
        callback.on_validation_end(state, {"val": {"accuracy": 0.5}})
        assert (callback.is_out_of_time, state.should_stop) == (is_over, is_over)
        assert callback.trial.reported == (0.5, 1)


@pytest.mark.slow
def test_a_search_without_time_starts_no_trial(tmp_path):
    result = search(tmp_path / "out", time_limit=1e-9)
    assert result.trials == []
    assert not result.config_file.exists()


@pytest.mark.slow
def test_a_folder_with_another_search_or_other_files_is_refused(finished, tmp_path):
    with pytest.raises(OptionError, match=r"has another search: lr was .*, now 0.1..0.2; choose another --out"):
        search(finished.out, space=make_space({**SEARCH, "lr": "0.1..0.2"}))
    with pytest.raises(OptionError, match=r"encoder\.dim was 8, now 16"):
        search(finished.out, space=make_space(encoder={"dim": 16}))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OptionError, match=r"there are other files and no study\.jsonl"):
        search(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt"]


@pytest.mark.slow
def test_data_without_validation_series_or_with_those_of_test_are_refused(tmp_path):
    with pytest.raises(OptionError, match="has no validation series to compare trials by"):
        search(tmp_path / "out", space=make_space(data={"val_fraction": 0.0}))
    with pytest.raises((OptionError, DataError), match="is its test split, which trials must not see"):
        search(tmp_path / "out", space=make_space(data={"val_data": "test"}))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_pretraining_is_compared_by_a_probe_if_there_is_one_else_by_its_loss(tmp_path):
    tables = {"head": {}, "loss": {"use": "masked"}}
    values = {
        name: {**SMALL.get(name, {}), **tables.get(name, {})} for name in ("tokenizer", "encoder", "loss", "train")
    }
    by_loss = search(tmp_path / "loss", 2, SearchSpace([("test", values)], parse_search(SEARCH)))
    assert (by_loss.metric, by_loss.lower_is_better) == ("loss", True)
    assert by_loss.best.score == min(t.score for t in by_loss.ranking)
    assert any("says nothing across losses" in note for note in by_loss.notes)
    values["train"] = {**values["train"], "probe_every": 1}
    by_probe = search(tmp_path / "probe", 2, SearchSpace([("test", values)], parse_search(SEARCH)))
    assert (by_probe.metric, by_probe.lower_is_better) == ("probe", False)


@pytest.mark.slow
def test_a_metric_that_validation_lacks_is_named_with_those_it_has(tmp_path):
    result = search(tmp_path / "out", trials=1, metric="acuracy")
    assert "Did you mean 'accuracy'?" in result.trials[0].error


def test_a_missing_optuna_is_one_line_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(OptionError, match=r"pip install 'tstk-core\[tune\]'"):
        search(tmp_path / "out")


WORKER_CODE = """
import sys
sys.path.insert(0, {root!r})
from tests.tuning.test_study import search
search({out!r}, trials=8)
"""


@pytest.mark.slow
def test_two_processes_share_the_trials(tmp_path, pytestconfig):
    out = tmp_path / "out"
    code = WORKER_CODE.format(root=str(pytestconfig.rootpath), out=str(out))
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    result = search(out, trials=8)
    assert len(result.trials) == 8
    assert "running" not in result.count_states()
    assert len({t.options["lr"] for t in result.trials}) == 8
    assert sorted(p.name for p in out.iterdir()) == ["best.toml", STUDY_FILE, "trials.csv"]


def test_trials_as_good_as_the_best_or_within_its_standard_error_are_counted(tmp_path):
    def make_result(error, *scores):
        records = [TrialRecord(i, "finished", {}, score, error) for i, score in enumerate(scores, 1)]
        return TuneResult(tmp_path, "accuracy", False, records)

    assert make_result(0.1, 0.8, 0.9, 0.85, 0.7).count_within_error() == 2
    assert make_result(None, 0.9, 0.9, 0.8).count_within_error() == 1
    assert make_result(0.0, 0.9, 0.9, 0.8).best.number == 1, "of equal ones, the earlier"
    assert make_result(0.1).count_within_error() == 0


def test_trackers_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=r"--trackers tensorboard: trials have no run directory"):
        search(tmp_path / "out", space=make_space(train={"trackers": ["tensorboard"]}))
    assert list(tmp_path.iterdir()) == []


def test_a_data_frame_is_refused_with_the_way_to_a_file(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"value": [1.0, 2.0]})
    for options in ({"data": frame}, {"train_data": frame}):
        with pytest.raises(OptionError, match=r"data is a DataFrame, and a search is continued .* to_parquet"):
            tstk.tune({"lr": [1e-3, 1e-2]}, out=tmp_path / "out", **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dimension", "message"),
    [
        ({"split_channels": ["false", "true"]}, r"validation series: \d+ rather than \d+ of the config itself"),
        ({"standardize": ["standard", "none"]}, "--standardize: none rather than standard of the config itself"),
    ],
    ids=["series", "units"],
)
def test_trials_whose_scores_cannot_be_compared_are_refused(tmp_path, dimension, message):
    values = {name: SMALL[name] for name in ("tokenizer", "encoder", "train")} | {"loss": {"use": "masked"}}
    result = search(tmp_path / "out", trials=2, space=SearchSpace([("test", values)], parse_search(dimension)))
    assert [t.state for t in result.trials] == ["finished", "refused"]
    assert re.search(message, result.trials[1].error)


@pytest.mark.slow
def test_training_that_diverges_is_a_failed_trial_without_a_traceback(tmp_path, monkeypatch):
    def diverge(*arguments):
        raise TrainingError("the loss is not finite")

    monkeypatch.setattr("tstk.tuning.objective.fit", diverge)
    result = search(tmp_path / "out", trials=1)
    assert (result.trials[0].state, result.trials[0].error) == ("failed", "the loss is not finite")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["_draw", "_report"])
def test_an_interrupt_between_trials_returns_what_was_found(tmp_path, monkeypatch, name):
    calls, method = [], getattr(Tuner, name)

    def interrupt(self, argument):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return method(self, argument)

    monkeypatch.setattr(Tuner, name, interrupt)
    with pytest.raises(TuningInterrupted) as caught:
        search(tmp_path / "out", trials=3)
    assert [t.state for t in caught.value.result.trials] == ["finished"] * (1 if name == "_draw" else 2)
