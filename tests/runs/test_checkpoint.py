"""Run directories: loading returns what was saved, damaged files are refused in one line."""

import json
import shutil

import pytest
import torch

from tstk.config.records import RunConfig, RunResult, read_record, write_record
from tstk.config.resolve import resolve_config
from tstk.core.types import Spec
from tstk.data import load_data
from tstk.errors import CheckpointError, OptionError
from tstk.runs.build import build_pipeline
from tstk.runs.checkpoint import initialize_for_training, load, read_weights, save_run_config, save_weights
from tstk.training.runs import train


def first_batch(run, size=6):
    return load_data(RunConfig.read(run).component("data")).test.batch(torch.arange(size))


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the run that tests may damage."""
    return shutil.copytree(run, tmp_path / "copy")


def assert_refused(folder, message):
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_saved_pipeline_gives_the_same_outputs_bit_for_bit(labelled_spec, ragged, build, tmp_path):
    config = resolve_config(
        ("flag", {"head": "cot", "encoder": {"depth": 1, "cls": True}, "pipeline": {"instance_norm": True}})
    )
    pipeline, _ = initialize_for_training(config, labelled_spec)
    pipeline.mean += 3
    pipeline.eval()
    save_run_config(tmp_path, config, pipeline, {"classes": ["a", "b", "c"]})
    save_weights(pipeline, tmp_path / "model.safetensors")
    again, series = load(tmp_path), ragged()
    assert torch.equal(again.predict_batch(series), pipeline.predict_batch(series))
    assert torch.equal(again.embed_batch(series), pipeline.embed_batch(series))
    assert again.spec == pipeline.spec
    assert not again.training


def test_a_trained_run_scores_again_what_it_recorded(run):
    from tstk.evaluation.evaluate import evaluate

    again = evaluate(load(run), load_data(RunConfig.read(run).component("data")).test)
    assert again == pytest.approx(RunResult.read(run).test, rel=1e-6)


def test_a_run_holds_names_and_numbers_but_no_import_path_and_nothing_pickled(run):
    text = (run / "config.json").read_text()
    assert "tstk.builtin" not in text
    assert "torch.nn" not in text
    assert '"use": "tstk/transformer"' in text
    weights = (run / "model.safetensors").read_bytes()
    assert b"tstk." not in weights
    assert weights[8:9] == b"{"
    for path in run.iterdir():
        head = path.read_bytes()[:4]
        assert not head.startswith((b"\x80", b"PK")), path.name


def test_a_run_remembers_versions_sources_and_the_spec(run):
    run_config = RunConfig.read(run)
    assert {"python", "torch", "tstk"} <= run_config.versions.keys()
    assert run_config.sources["train.epochs"] == "flag"
    assert run_config.spec["length"] == 20
    assert sum(run_config.spec["class_counts"]) == len(load_data(run_config.component("data")).train)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_weights_are_refused(copy, share):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert_refused(copy, "truncated or not a safetensors file")


def test_a_foreign_file_in_place_of_the_weights_is_refused(copy):
    torch.save({"a": torch.zeros(2)}, copy / "model.safetensors")
    assert_refused(copy, "not a safetensors file")


def test_missing_weights_say_that_the_run_ended_early(copy):
    (copy / "model.safetensors").unlink()
    assert_refused(copy, "the run ended before its first validation")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "it has no config.json"),
        ("", "is damaged"),
        ('{"format": 1, "conf', "is damaged"),
        ("[1, 2]", "was not written by tstk"),
        ('{"model_type": "bert"}', "was not written by tstk"),
        ({"format": "one", "config": {}}, "was not written by tstk"),
        ({"format": 99, "config": {}, "versions": {"tstk": "9.1"}}, "written by tstk 9.1"),
        ({"format": 1, "config": {}}, "was not written by tstk"),
    ],
)
def test_a_config_that_is_not_ours_is_refused(copy, content, message):
    path = copy / "config.json"
    if content is None:
        path.unlink()
    elif isinstance(content, str):
        path.write_text(content)
    else:
        write_record(path, content)
    assert_refused(copy, message)


def edit_config(folder, change):
    path = folder / "config.json"
    run_config = read_record(path)
    change(run_config)
    write_record(path, run_config)


def test_a_plugin_that_is_not_installed_is_named_with_its_version(copy):
    def change(run_config):
        run_config["config"]["encoder"]["use"] = "tstk-plugins-sea/wave"
        run_config["versions"]["tstk-plugins-sea"] = "0.2.1"

    edit_config(copy, change)
    assert_refused(
        copy, "uses encoder 'wave' from tstk-plugins-sea 0.2.1, which is not installed: pip install tstk-plugins-sea"
    )


def test_a_component_that_its_plugin_no_longer_has_is_named(copy):
    edit_config(copy, lambda run_config: run_config["config"]["encoder"].update(use="tstk/transfomer"))
    assert_refused(copy, "uses encoder 'transfomer' from tstk")


def test_weights_of_another_run_are_refused(copy):
    edit_config(copy, lambda run_config: run_config["config"]["encoder"].update(dim=8))
    assert_refused(copy, "of another shape")
    edit_config(copy, lambda run_config: run_config["config"]["encoder"].update(dim=16, depth=2))
    assert_refused(copy, "tensors missing")


def test_an_interrupted_write_leaves_the_old_file(run, tmp_path, monkeypatch):
    from tstk.files import write_json

    write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"new": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}


# ------------------------------------------------------------------ starting from a run


def initialized_from(run, spec, **tables):
    return initialize_for_training(resolve_config(("flag", {"pipeline": {"init_from": str(run)}, **tables})), spec)


def test_a_trained_encoder_is_loaded_into_another_task(run):
    spec = load(run).spec
    pipeline, notes = initialized_from(run, spec, decoder="cross")
    trained = read_weights(run)
    for name, value in pipeline.state_dict().items():
        if name.startswith(("encoder.", "tokenizer.")):
            assert torch.equal(value, trained[name]), name
    assert len(notes) == 2
    assert f"encoder from {run}" in "".join(notes)
    assert pipeline.head is None
    assert pipeline.loss.display_name() == "loss 'masked'"


def test_a_position_table_is_resized_to_another_length(run):
    old = load(run)
    pipeline, _ = initialized_from(run, old.spec.replace(length=40), head="cot")
    assert len(old.encoder.table) == 5
    assert len(pipeline.encoder.table) == 10
    ends = pipeline.encoder.table[[0, -1]]
    torch.testing.assert_close(ends, old.encoder.table[[0, -1]])
    assert torch.equal(pipeline.encoder.stack.blocks[0].mlp.up.weight, old.encoder.stack.blocks[0].mlp.up.weight)


def test_weights_of_a_slot_named_by_hand_must_fit_and_the_refusal_says_what_they_were_trained_on(run):
    config = resolve_config(("flag", {"tokenizer": str(run), "head": "linear"}))
    with pytest.raises(CheckpointError, match=r"tokenizer of .* trained on 2 channels of length 20") as caught:
        initialize_for_training(config, Spec(5, 30, task="classification", num_outputs=2))
    assert "\n" not in str(caught.value)


def test_frozen_parts_stay_as_they_were_loaded(run, npz, tmp_path):
    config = resolve_config(
        (
            "flag",
            {
                "pipeline": {"init_from": str(run), "freeze": ("tokenizer", "encoder.stack")},
                "head": "cot",
                "train": {"epochs": 1, "batch_size": 8, "device": "cpu"},
            },
        )
    )
    train(config, tmp_path / "second")
    before, after = read_weights(run), read_weights(tmp_path / "second")
    same = [k for k in before if k in after and torch.equal(before[k], after[k])]
    assert [k for k in before if k.startswith(("tokenizer.", "encoder.stack."))] == [
        k for k in same if k.startswith(("tokenizer.", "encoder.stack."))
    ]
    assert "encoder.table" not in same


def test_freezing_everything_is_refused(run):
    with pytest.raises(OptionError, match="nothing is left to train"):
        initialize_for_training(
            resolve_config(("flag", {"pipeline": {"init_from": str(run), "freeze": ("tokenizer", "encoder", "head")}})),
            load(run).spec,
        )


def test_a_run_directory_is_never_overwritten(run):
    with pytest.raises(OptionError, match="already exists"):
        train(resolve_config(("flag", {"head": "linear"})), run)


def test_from_takes_what_fits_other_channels_and_says_what_is_newly_initialized(run):
    config = resolve_config(("flag", {"pipeline": {"init_from": str(run)}, "head": {"use": "cot", "heads": 2}}))
    assert config.notes == [f"of {run} the new task does not use: head 'linear', loss 'cross-entropy'"]
    spec = Spec(5, 30, task="classification", num_outputs=2)
    torch.manual_seed(0)
    pipeline, notes = initialize_for_training(config, spec)
    torch.manual_seed(0)
    untouched = build_pipeline(config, spec).tokenizer.state_dict()
    trained = {k: v for k, v in read_weights(run).items() if k.startswith("encoder.stack.")}
    assert trained
    assert all(torch.equal(pipeline.state_dict()[k], v) for k, v in trained.items())
    assert all(torch.equal(pipeline.tokenizer.state_dict()[k], v) for k, v in untouched.items())
    assert "tokenizer" in notes[0]
    assert notes[0].endswith("so its weights are newly initialized")
