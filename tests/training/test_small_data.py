"""Defaults that follow the number of series."""

import pytest

from tstk.config.resolve import resolve
from tstk.errors import OptionError
from tstk.evaluation.probe import probe
from tstk.report import know, report
from tstk.training import small_data
from tstk.training.loop import fit
from tstk.training.runs import prepare, train

ENCODER = {"use": "transformer", "dim": 16, "depth": 1, "heads": 2}


def ready(data, **tables):
    config = resolve(("test", {"encoder": ENCODER, "data": data, **tables}))
    return config.options("train"), *prepare(config)


def test_a_classifier_of_few_series_is_told_of_and_gets_the_defaults_for_them(npz):
    options, pipeline, data = ready(npz, head="cot")
    settled, sentence = small_data.settle(options, pipeline, data)
    assert {k: settled[k] for k in small_data.SMALL} == small_data.SMALL
    assert sentence.startswith("24 series to train on are few, hence --batch-size 16 --augment scaling=0.1,")


def test_many_series_get_the_plain_defaults_without_a_word(npz, monkeypatch):
    monkeypatch.setattr(small_data, "FEW", 23)
    options, pipeline, data = ready(npz, head="cot")
    settled, sentence = small_data.settle(options, pipeline, data)
    assert {k: settled[k] for k in small_data.PLAIN} == small_data.PLAIN
    assert settled["steps"] is None
    assert not sentence


@pytest.mark.parametrize("length", [{"epochs": 3}, {"steps": 3}])
def test_whoever_says_how_long_gets_the_plain_defaults(npz, length):
    options, pipeline, data = ready(npz, head="cot", train=length)
    settled, sentence = small_data.settle(options, pipeline, data)
    assert {k: settled[k] for k in small_data.PLAIN} == small_data.PLAIN
    assert not sentence


def test_pretraining_and_forecasting_get_the_plain_defaults(npz, csv):
    for tables in ({"data": npz, "loss": "masked"}, {"data": {"use": csv, "context": 24, "horizon": 8}}):
        options, pipeline, data = ready(**tables)
        assert small_data.settle(options, pipeline, data)[0]["batch_size"] == 64


def test_what_was_said_stays_and_is_not_told_again(npz):
    said = {"batch_size": 4, "augment": ["off"], "select": "score", "validate_every": 7}
    options, pipeline, data = ready(npz, head="cot", train=said)
    settled, sentence = small_data.settle(options, pipeline, data)
    assert {k: settled[k] for k in said} == {**said, "augment": ()}
    assert sentence == "24 series to train on are few, hence --steps 1500"


def test_a_training_takes_them(npz, monkeypatch):
    monkeypatch.setitem(small_data.SMALL, "steps", 6)
    monkeypatch.setitem(small_data.SMALL, "validate_every", 2)
    _, pipeline, data = ready(npz, head="linear")
    assert [row["epoch"] for row in fit(pipeline, data, device="cpu").history] == [1, 2, 3]


def test_a_classifier_of_few_series_learns_from_all_of_them(npz):
    _, _, data = ready(npz, head="cot")
    assert [len(data.train), len(data.val)] == [24, 0]
    assert set(data.parts) == {"train", "test"}
    assert any("all 24 training series are learnt from, none validates" in line for line in data.notes)


def test_a_share_of_the_labels_is_a_share_of_all_series(npz):
    _, _, data = ready({"use": npz, "labels": 0.5}, head="cot")
    assert [len(data.train), len(data.val)] == [12, 0]


@pytest.mark.parametrize(
    "judged",
    [
        {"train": {"select": "score"}},
        {"train": {"patience": 3}},
        {"train": {"probe": 1}},
        {"train": {"steps": 3}},
        {"data": {"val_fraction": 0.25}},
        {"data": {"val_data": "test"}},
    ],
    ids=lambda tables: next(iter(next(iter(tables.values())))),
)
def test_series_are_held_out_where_validation_is_asked_to_judge(npz, judged):
    data_options = {"use": npz, **judged.get("data", {})}
    _, _, data = ready(data_options, head="cot", train=judged.get("train", {}))
    assert len(data.val) > 0


@pytest.mark.parametrize("asked", [{"select": "score"}, {"patience": 3}, {"probe": 1}], ids=lambda o: next(iter(o)))
def test_judging_by_validation_is_refused_where_nothing_is_held_out(npz, asked):
    options, pipeline, data = ready({"use": npz, "val_fraction": 0.0}, head="cot", train={"steps": 2, **asked})
    name, value = next(iter(asked.items()))
    with pytest.raises(OptionError, match=f"--{name} {value}: .* has no validation series .* --val-fraction 0.2"):
        fit(pipeline, data, **{**options, "device": "cpu"})


def test_a_run_without_validation_is_scored_reported_and_probed(npz, tmp_path):
    run = tmp_path / "run"
    config = resolve(
        (
            "test",
            {"encoder": ENCODER, "head": "linear", "data": {"use": npz, "val_fraction": 0.0}, "train": {"steps": 4}},
        )
    )
    result = train(config, run)
    assert result["val"] == {}
    assert result["selected"]["by"] == "last"
    assert (len(know(run).data.train), len(know(run).data.val)) == (24, 0)
    assert "Blue: training. The dotted" in report(run).read_text(encoding="utf-8")
    assert probe(run)["sizes"]["val"] > 0  # settings are chosen by some of the series


def test_a_table_cannot_do_without_validation(csv):
    with pytest.raises(OptionError, match="--val-fraction 0 is for sets of series"):
        ready({"use": csv, "context": 24, "horizon": 8, "val_fraction": 0.0}, head="forecast")
