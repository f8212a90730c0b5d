"""A run of a stranger: what its config.json names is neither fetched nor read, and damage to it is noticed."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import tstk
from tests.support.grids import slow_after
from tstk.cli import cli
from tstk.config.records import RunConfig, RunResult, read_history, read_record, write_record
from tstk.config.resolve import resolve_config
from tstk.core.types import Series
from tstk.errors import CheckpointError, TstkError
from tstk.nn.pretrained import read_bert_config
from tstk.runs.build import validate_on_meta
from tstk.runs.checkpoint import rebuild_for_resume

EVENTS = []
"""Requests, and files outside the run that were opened; None while nothing is recorded."""
OUTSIDE = [""]


def record_event(event, arguments):
    if not OUTSIDE[0]:
        return
    if event in ("socket.connect", "socket.getaddrinfo") or (event == "open" and OUTSIDE[0] in str(arguments[0])):
        EVENTS.append((event, arguments))


@pytest.fixture(scope="module")
def audit_hook():
    """Call `record_event` from the first test that uses it on: a hook stays, and slows down every test after it."""
    sys.addaudithook(record_event)


@pytest.fixture
def events(tmp_path, audit_hook):
    """Return the list of requests, and of files in `outside` that are opened, while a test runs."""
    outside = tmp_path / "outside"
    outside.mkdir()
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    sizes |= {"layer_norm_eps": 1e-12, "max_position_embeddings": 512, "model_type": "bert"}
    (outside / "config.json").write_text(json.dumps(sizes))
    EVENTS.clear()
    OUTSIDE[0] = str(outside)
    yield EVENTS
    OUTSIDE[0] = ""


@pytest.fixture(scope="module")
def runs(npz, tmp_path_factory):
    """Return runs of encoders that could have been pretrained."""
    folder = tmp_path_factory.mktemp("runs")
    sizes = {"encoder__dim": 8, "encoder__depth": 1, "encoder__heads": 2, "tokenizer__dim": 8}
    for encoder in ("bert", "hf"):
        if encoder == "hf":
            pytest.importorskip("transformers", reason="pip install 'tstk-core[hf]'")
        tstk.fit(data=npz, encoder=encoder, head="linear", steps=1, out=folder / encoder, device="cpu", **sizes)
    return folder


def predict(run):
    return tstk.load(run).predict_batch(Series(torch.ones(1, 2, 20)))


@pytest.mark.slow
@pytest.mark.parametrize("source", ["who/bert", "outside"])
@pytest.mark.parametrize("encoder", ["bert", "hf"])
def test_nothing_in_a_run_leads_to_a_request_or_to_files_outside(runs, tmp_path, events, npz, encoder, source):
    run = shutil.copytree(runs / encoder, tmp_path / "run")
    config = read_record(run / "config.json")
    config["config"]["encoder"]["pretrained"] = str(tmp_path / source) if source == "outside" else source
    write_record(run / "config.json", config)
    assert torch.equal(predict(run), predict(runs / encoder))
    assert RunConfig.read(run).options("encoder")["pretrained"] is None
    for table in ({"pipeline": {"init_from": str(run)}}, {"encoder": str(run), "head": "linear"}):
        config = resolve_config(("flag", table))
        assert config.options("encoder")["pretrained"] is None
        if encoder == "bert":  # the configuration of hf has as many positions as its data need
            validate_on_meta(config)
    words = ["predict", run, "--data", npz, "--out", tmp_path / "p.csv"]
    result = CliRunner().invoke(cli, [str(word) for word in words], prog_name="tstk")
    assert result.exit_code == 0, result.output
    if source != "outside":  # resuming keeps folders, which hold teachers
        rebuild_for_resume(run)
    assert events == []


@pytest.mark.parametrize("name", ["hf://who/run", "outside"])
@pytest.mark.parametrize(
    "words", slow_after(1, [["eval"], ["train", "--steps", "1", "--init-from"]]), ids=["eval", "train"]
)
def test_a_run_that_names_another_run_as_its_encoder_leads_to_no_request(
    run, tmp_path, events, monkeypatch, words, name
):
    monkeypatch.chdir(tmp_path)
    copy = shutil.copytree(run, tmp_path / "run")
    config = read_record(copy / "config.json")
    config["config"]["encoder"]["use"] = str(tmp_path / name) if name == "outside" else name
    config["init_from"] = {"encoder": name}
    write_record(copy / "config.json", config)
    for more in ([], ["--encoder", "bert", "--head", "linear"] if "train" in words else []):
        result = CliRunner().invoke(cli, [*words, str(copy), *more], prog_name="tstk")
        assert result.exit_code in (0, 2), result.output
    assert events == []


def test_the_events_of_a_source_that_is_followed_are_recorded(tmp_path, events):
    read_bert_config(str(tmp_path / "outside"))
    assert {event for event, _ in events} == {"open"}


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["detr", "gpt2"])
def test_a_configuration_of_another_model_is_refused_before_it_is_built(runs, tmp_path, events, model_type):
    run = shutil.copytree(runs / "hf", tmp_path / "run")
    config = read_record(run / "config.json")
    fields = {"model_type": model_type, "backbone": "hf-hub:who/evil", "use_timm_backbone": True}
    config["config"]["encoder"]["config"] = json.dumps(fields | {"attn_implementation": "who/kernels"})
    write_record(run / "config.json", config)
    with pytest.raises(TstkError) as caught:
        tstk.load(run)
    assert "\n" not in str(caught.value)
    assert events == []


@pytest.mark.parametrize("name", ["config.json", "result.json", "metrics.jsonl", "model.safetensors"])
def test_a_changed_bit_of_a_run_is_refused_in_a_line_with_the_file_and_the_remedy(runs, tmp_path, name):
    run = shutil.copytree(runs / "bert", tmp_path / "run")
    whole = (run / name).read_bytes()
    # not the first digit of a number: JSON allows no 02
    digits = [i for i in range(1, len(whole)) if whole[i : i + 1].isdigit() and chr(whole[i - 1]) in "0123456789."]
    assert digits[5:-70:25]
    for offset in range(len(whole) - 40, len(whole), 7) if name.startswith("model") else digits[5:-70:25]:
        changed = whole[:offset] + bytes([whole[offset] ^ 1]) + whole[offset + 1 :]
        if name == "result.json" and json.loads(changed) == json.loads(whole):  # the 17th digit of a number
            continue
        (run / name).write_bytes(changed)
        with pytest.raises(CheckpointError, match="SHA-256") as caught:
            {"config.json": tstk.load, "model.safetensors": tstk.load, "result.json": RunResult.read}.get(
                name, read_history
            )(run)
        assert str(run / name) in str(caught.value)
        assert "train the run again, or fetch it again" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b"[1]\n", b'{"epoch": 1}\n', b'{"epoch": 1, "lr": 1, "train": {"loss": "low"}, "val": {}}\n'],
)
def test_metrics_of_another_kind_are_refused_in_a_line_of_the_report(runs, tmp_path, content):
    run = shutil.copytree(runs / "bert", tmp_path / "run")
    write_record(run / "result.json", {k: v for k, v in read_record(run / "result.json").items() if k[:7] != "metrics"})
    (run / "metrics.jsonl").write_bytes(content)
    result = CliRunner().invoke(cli, ["report", str(run), "--out", str(tmp_path / "r.html")], prog_name="tstk")
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert str(Path(run, "metrics.jsonl")) in line


def test_the_hash_of_the_weights_is_the_same_whatever_the_order_of_the_tensors(tmp_path):
    from safetensors.torch import load_file

    from tstk.runs.checkpoint import hash_tensors, write_tensors

    tensors = {
        "b": torch.ones(3, dtype=torch.bfloat16),
        "a": torch.zeros(()),
        "c": torch.ones(0, 2),
        "d": torch.tensor([True]),
    }
    digest = write_tensors(tmp_path / "t.safetensors", tensors)
    assert (
        digest == hash_tensors(load_file(tmp_path / "t.safetensors")) == hash_tensors(dict(reversed(tensors.items())))
    )
    assert digest != hash_tensors(tensors | {"a": torch.zeros(1)})
