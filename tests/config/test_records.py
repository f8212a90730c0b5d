"""`RunConfig` and `RunResult`: what is written is read back equal, and damaged files are refused in one line."""

import json
import shutil
from dataclasses import fields, replace

import pytest
from safetensors.torch import load_file, save_file

import tstk
from tstk.config.records import Calibration, RunConfig, RunResult, read_record, write_record
from tstk.errors import CheckpointError


@pytest.fixture
def copy(run, tmp_path):
    """Return a run that may be damaged."""
    return shutil.copytree(run, tmp_path / "copy")


@pytest.mark.parametrize(("record", "file"), [(RunConfig, "config.json"), (RunResult, "result.json")])
def test_writing_what_was_read_changes_no_byte(record, file, copy):
    before = (copy / file).read_text()
    (first := record.read(copy)).write()
    assert (copy / file).read_text() == before
    assert record.read(copy) == first


def test_every_key_of_the_files_is_a_field(run):
    config_keys = json.loads((run / "config.json").read_text()).keys() - {"format", "sha256"}
    assert {f.name for f in fields(RunConfig)} == {
        "run_dir", "values", "input_schema", *(config_keys - {"config", "data"})
    }  # fmt: skip
    result_keys = json.loads((run / "result.json").read_text()).keys() - {"sha256", "metrics_sha256"}
    assert {f.name for f in fields(RunResult)} == {"run_dir", *result_keys}


def test_scores_of_classes_are_read_back_as_they_were_written(copy):
    result = RunResult.read(copy)
    assert result.classification.classes == ["0", "1", "2"]
    assert result.classification.scores["accuracy"] == result.test["accuracy"]
    assert result.calibration is None
    calibrated = replace(result, calibration=Calibration(temperature=2.5, before={"val": {"ece": 0.25}}))
    calibrated.write()
    assert RunResult.read(copy) == calibrated
    write_record(copy / "result.json", {k: v for k, v in result.to_dict().items() if k[:3] not in ("cla", "cal")})
    assert RunResult.read(copy).classification is None  # of a run before there were such scores


def test_a_run_config_answers_what_callers_ask(run, npz):
    run_config = RunConfig.read(run)
    assert run_config.component("encoder") == "tstk/transformer"
    assert run_config.component("decoder") is None
    assert run_config.component("data") == npz
    assert "use" not in run_config.options("encoder")
    assert (run_config.horizon, len(run_config.classes), len(run_config.channels)) == (None, 3, 2)
    assert not run_config.split_channels
    assert repr(run_config).startswith(f"RunConfig({str(run)!r}, tokenizer='tstk/patch', encoder='tstk/transformer'")


def test_a_result_prints_its_scores_beside_those_of_the_baselines(run):
    result = replace(RunResult.read(run), test={"accuracy": 0.51234}, val={}, baselines={"1-NN": {"accuracy": 0.25}})
    title, test, baseline = str(result).splitlines()
    assert title == f"RunResult({str(run)!r}), classification of {result.data}:"
    assert test.split() == ["test", "accuracy", "0.5123"]
    assert baseline.split() == ["1-NN", "accuracy", "0.25"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test": [1]}, "was not written by tstk"),
        ({"test": {"accuracy": "high"}}, "was not written by tstk"),
        ({"baselines": {"1-NN": {"accuracy": None}}}, "was not written by tstk"),
        ({"versions": {"tstk": 1}}, "was not written by tstk"),
        ({"parameters": "many"}, "was not written by tstk"),
        ({"selected": {"epoch": 1}}, "was not written by tstk"),
        ({"classification": {"classes": ["a"]}}, "was not written by tstk"),
        ({"classification": [1]}, "was not written by tstk"),
        ({"calibration": {"temperature": "hot"}}, "was not written by tstk"),
        ({"calibration": {"temperature": 1.5, "after": {"val": {"ece": [0.1]}}}}, "was not written by tstk"),
        ({"selected": {"epoch": "last", "of": 2, "by": "score"}}, "was not written by tstk"),
        ("{", "is damaged"),
        ("[1]", "was not written by tstk"),
        (None, "the run is not finished; continue with: tstk train --resume"),
    ],
)
def test_a_result_that_is_not_ours_is_refused(copy, changes, message):
    path = copy / "result.json"
    if changes is None:
        path.unlink()
    elif isinstance(changes, str):
        path.write_text(changes)
    else:
        write_record(path, read_record(path) | changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        RunResult.read(copy)
    assert "\n" not in str(caught.value)


def test_a_record_and_weights_without_a_hash_are_refused(copy):
    content = read_record(copy / "result.json")
    (copy / "result.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"result\.json was not written by tstk, .*: it has no SHA-256;"):
        RunResult.read(copy)
    save_file(load_file(copy / "model.safetensors"), copy / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged: it has no SHA-256"):
        tstk.load(copy)


@pytest.mark.parametrize("key", ["config", "given", "sources", "init_from", "spec", "data", "versions", "hardware"])
def test_a_config_without_one_of_its_tables_is_refused(copy, key):
    path = copy / "config.json"
    content = read_record(path)
    del content[key]
    write_record(path, content)
    with pytest.raises(CheckpointError, match="was not written by tstk, or was changed by hand"):
        tstk.load(copy)


def test_the_result_of_a_run_in_the_package_is_read_by_name():
    assert RunResult.read("pretrained/small").task == "pretraining"
