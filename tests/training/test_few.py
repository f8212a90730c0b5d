"""Defaults that follow the number of series."""

import pytest

from tstk.config import resolve
from tstk.training import few
from tstk.training.engine import fit
from tstk.training.train import prepare

ENCODER = {"use": "transformer", "dim": 16, "depth": 1, "heads": 2}


def ready(data, **tables):
    config = resolve(("test", {"encoder": ENCODER, "data": data, **tables}))
    return config.options("train"), *prepare(config)


def test_a_classifier_of_few_series_is_told_of_and_gets_the_defaults_for_them(npz):
    options, pipeline, data = ready(npz, head="cot")
    settled, sentence = few.settle(options, pipeline, data)
    assert {k: settled[k] for k in few.SMALL} == few.SMALL
    assert sentence.startswith("18 series to train on are few, hence --batch-size 16 --augment scaling=0.1,")


def test_many_series_get_the_plain_defaults_without_a_word(npz, monkeypatch):
    monkeypatch.setattr(few, "FEW", 18)
    options, pipeline, data = ready(npz, head="cot")
    settled, sentence = few.settle(options, pipeline, data)
    assert {k: settled[k] for k in few.PLAIN} == few.PLAIN
    assert settled["steps"] is None
    assert not sentence


@pytest.mark.parametrize("length", [{"epochs": 3}, {"steps": 3}])
def test_whoever_says_how_long_gets_the_plain_defaults(npz, length):
    options, pipeline, data = ready(npz, head="cot", train=length)
    settled, sentence = few.settle(options, pipeline, data)
    assert {k: settled[k] for k in few.PLAIN} == few.PLAIN
    assert not sentence


def test_pretraining_and_forecasting_get_the_plain_defaults(npz, csv):
    for tables in ({"data": npz, "loss": "masked"}, {"data": {"use": csv, "context": 24, "horizon": 8}}):
        options, pipeline, data = ready(**tables)
        assert few.settle(options, pipeline, data)[0]["batch_size"] == 64


def test_what_was_said_stays_and_is_not_told_again(npz):
    said = {"batch_size": 4, "augment": ["off"], "select": "score", "validate_every": 7}
    options, pipeline, data = ready(npz, head="cot", train=said)
    settled, sentence = few.settle(options, pipeline, data)
    assert {k: settled[k] for k in said} == {**said, "augment": ()}
    assert sentence == "18 series to train on are few, hence --steps 1500"


def test_a_training_takes_them(npz, monkeypatch):
    monkeypatch.setitem(few.SMALL, "steps", 6)
    monkeypatch.setitem(few.SMALL, "validate_every", 2)
    _, pipeline, data = ready(npz, head="linear")
    assert [row["epoch"] for row in fit(pipeline, data, device="cpu").history] == [1, 2, 3]
