"""Defaults that follow the number of series."""

import pytest

from tstk.config.resolve import resolve_config
from tstk.errors import OptionError
from tstk.evaluation.probe import probe
from tstk.report import load_context, write_report
from tstk.training import small_data
from tstk.training.config import TrainConfig
from tstk.training.loop import fit
from tstk.training.runs import prepare_training, train

ENCODER = {"use": "transformer", "dim": 16, "depth": 1, "heads": 2}


def prepare(data, **tables):
    config = resolve_config(("test", {"encoder": ENCODER, "data": data, **tables}))
    return TrainConfig.from_config(config), *prepare_training(config)


def test_a_classifier_of_few_series_gets_the_defaults_for_few_series_and_a_note(npz):
    options, pipeline, data = prepare(npz, head="cot")
    resolved, note = small_data.resolve_defaults(options, pipeline, data)
    assert {k: getattr(resolved, k) for k in small_data.SMALL_DATA_DEFAULTS} == small_data.SMALL_DATA_DEFAULTS
    assert note.startswith(
        "only 24 training series: using the defaults for few series, --batch-size 16 --augment scaling=0.1,"
    )


def test_many_series_get_the_plain_defaults_without_a_note(npz, monkeypatch):
    monkeypatch.setattr(small_data, "SMALL_DATA_MAX_SERIES", 23)
    options, pipeline, data = prepare(npz, head="cot")
    resolved, note = small_data.resolve_defaults(options, pipeline, data)
    assert {k: getattr(resolved, k) for k in small_data.DEFAULTS} == small_data.DEFAULTS
    assert resolved.steps is None
    assert not note


@pytest.mark.parametrize("length", [{"epochs": 3}, {"steps": 3}])
def test_with_a_given_duration_the_plain_defaults_apply(npz, length):
    options, pipeline, data = prepare(npz, head="cot", train=length)
    resolved, note = small_data.resolve_defaults(options, pipeline, data)
    assert {k: getattr(resolved, k) for k in small_data.DEFAULTS} == small_data.DEFAULTS
    assert not note


def test_pretraining_and_forecasting_get_the_plain_defaults(npz, csv):
    for tables in ({"data": npz, "loss": "masked"}, {"data": {"use": csv, "context": 24, "horizon": 8}}):
        options, pipeline, data = prepare(**tables)
        assert small_data.resolve_defaults(options, pipeline, data)[0].batch_size == 64


def test_given_options_are_kept_and_not_noted_again(npz):
    explicit = {"batch_size": 4, "augment": ["off"], "select_by": "score", "validate_every": 7}
    options, pipeline, data = prepare(npz, head="cot", train=explicit)
    resolved, note = small_data.resolve_defaults(options, pipeline, data)
    assert {k: getattr(resolved, k) for k in explicit} == {**explicit, "augment": ()}
    assert note == "only 24 training series: using the defaults for few series, --steps 1500"


@pytest.mark.slow
def test_training_uses_the_defaults_for_few_series(npz, monkeypatch):
    monkeypatch.setitem(small_data.SMALL_DATA_DEFAULTS, "steps", 6)
    monkeypatch.setitem(small_data.SMALL_DATA_DEFAULTS, "validate_every", 2)
    _, pipeline, data = prepare(npz, head="linear")
    assert [row["epoch"] for row in fit(pipeline, data, TrainConfig(device="cpu")).history] == [1, 2, 3]


def test_a_classifier_of_few_series_learns_from_all_of_them(npz):
    _, _, data = prepare(npz, head="cot")
    assert [len(data.train), len(data.val)] == [24, 0]
    assert set(data.splits) == {"train", "test"}
    assert any("all 24 training series are used for training, none for validation" in line for line in data.notes)


def test_a_share_of_the_labels_is_a_share_of_all_series(npz):
    _, _, data = prepare({"use": npz, "label_fraction": 0.5}, head="cot")
    assert [len(data.train), len(data.val)] == [12, 0]


@pytest.mark.parametrize(
    "tables",
    [
        {"train": {"select_by": "score"}},
        {"train": {"patience": 3}},
        {"train": {"probe_every": 1}},
        {"train": {"steps": 3}},
        {"data": {"val_fraction": 0.25}},
        {"data": {"val_data": "test"}},
    ],
    ids=lambda tables: next(iter(next(iter(tables.values())))),
)
def test_series_are_held_out_where_validation_selects(npz, tables):
    data_options = {"use": npz, **tables.get("data", {})}
    _, _, data = prepare(data_options, head="cot", train=tables.get("train", {}))
    assert len(data.val) > 0


@pytest.mark.parametrize(
    "asked", [{"select_by": "score"}, {"patience": 3}, {"probe_every": 1}], ids=lambda o: next(iter(o))
)
def test_selection_by_validation_is_refused_without_a_validation_split(npz, asked):
    options, pipeline, data = prepare({"use": npz, "val_fraction": 0.0}, head="cot", train={"steps": 2, **asked})
    name, value = next(iter(asked.items()))
    with pytest.raises(
        OptionError,
        match=f"--{name.replace('_', '-')} {value}: .* has no validation series; hold some out with --val-fraction 0.2",
    ):
        fit(pipeline, data, options)


@pytest.mark.slow
def test_a_run_without_validation_is_scored_reported_and_probed(npz, tmp_path):
    run = tmp_path / "run"
    config = resolve_config(
        (
            "test",
            {"encoder": ENCODER, "head": "linear", "data": {"use": npz, "val_fraction": 0.0}, "train": {"steps": 4}},
        )
    )
    result = train(config, run)
    assert result.val == {}
    assert result.selected.by == "last"
    assert (len(load_context(run).data.train), len(load_context(run).data.val)) == (24, 0)
    assert "The weights of epoch " in write_report(run).read_text(encoding="utf-8")
    assert probe(run)["sizes"]["val"] > 0  # settings are chosen by some of the series


def test_a_table_cannot_do_without_validation(csv):
    with pytest.raises(OptionError, match="--val-fraction 0 is for sets of series"):
        prepare({"use": csv, "context": 24, "horizon": 8, "val_fraction": 0.0}, head="forecast")
