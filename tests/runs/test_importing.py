"""Checkpoints of other programs become runs: what is read, what is refused, and what the run records."""

import hashlib
import pickle
import sys
from contextlib import chdir
from shutil import copyfile

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import nn

import tstk
from tstk.cli import cli
from tstk.config.records import RunConfig, RunResult
from tstk.core.types import Series, Spec
from tstk.errors import CheckpointError, DataError, FileError, OptionError, UnknownNameError
from tstk.inference.predict import embed
from tstk.plugins.hooks import Entry
from tstk.plugins.registry import get_registry
from tstk.plugins.scaffold import TEMPLATES
from tstk.report.hub import render_model_card

SIZES = {"channels": 2, "windows": 5}
TEMPLATE = TEMPLATES / "importer" / "tstk_plugins_sketch" / "importer.py"


@pytest.fixture(autouse=True)
def importer(tmp_path, monkeypatch):
    """Register the importer of the template as `windows`."""
    folder = tmp_path / "modules"
    folder.mkdir()
    copyfile(TEMPLATE, folder / "windows_importer.py")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "windows_importer", raising=False)
    entry = Entry("importer", "windows", "windows_importer:Sketch", "Windows", dist="tests")
    monkeypatch.setitem(get_registry()._table, ("importer", "windows"), [entry])


class Windows(nn.Module):
    """The program: windows of 4 samples and 2 channels to 6 numbers, and back."""

    def __init__(self):
        super().__init__()
        self.embed, self.output = nn.Linear(8, 6), nn.Linear(6, 8)


def make_state():
    torch.manual_seed(0)
    return Windows().state_dict()


def save(folder, content, name="x.pt", **options):
    torch.save(content, folder / name, **options)
    return folder / name


def test_a_run_computes_what_the_program_does_and_records_the_file(tmp_path):
    state = make_state()
    file = save(tmp_path, {"state_dict": state, "epoch": 3})
    result = tstk.import_run("windows", file, tmp_path / "run", command="tstk import windows x.pt", **SIZES)
    pipeline = tstk.load(tmp_path / "run")
    x = torch.randn(3, 2, 20)
    windows = x.unfold(-1, 4, 4).transpose(1, 2).flatten(2)
    expected = windows @ state["embed.weight"].T + state["embed.bias"]
    torch.testing.assert_close(pipeline.encode(Series(x)).values, expected)
    config = RunConfig.read(tmp_path / "run")
    assert config.origin == {
        "importer": "tests/windows",
        "file": "x.pt",
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "options": SIZES,
    }
    assert config.component("data") is None
    assert RunResult.read(tmp_path / "run") == result
    assert (result.task, result.parameters, result.selected.by) == ("pretraining", 8 * 6 * 2 + 6 + 8, "import")
    assert "tstk import" in result.command


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"model": s, "optimizer": {"state": {}, "lr": 0.1}},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {"state_dict": {f"model._orig_mod.{k}": v for k, v in s.items()}},
    ],
    ids=["plain", "in a training state", "distributed", "of Lightning, compiled"],
)
def test_wrappers_are_taken_off(wrap, tmp_path):
    tstk.import_run("windows", save(tmp_path, wrap(make_state())), tmp_path / "run", **SIZES)
    assert torch.equal(tstk.load(tmp_path / "run").tokenizer.project.weight, make_state()["embed.weight"])


def test_safetensors_and_the_old_format_of_torch_give_the_same_run(tmp_path):
    save_file(make_state(), tmp_path / "x.safetensors")
    old = save(tmp_path, make_state(), "x.pth.tar", _use_new_zipfile_serialization=False)
    weights = []
    for i, file in enumerate((tmp_path / "x.safetensors", old)):
        tstk.import_run("windows", file, tmp_path / f"run{i}", **SIZES)
        weights.append(tstk.load(tmp_path / f"run{i}").state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_other_types_of_numbers_are_converted_and_said(dtype, tmp_path):
    notes = []
    state = {name: value.to(dtype) for name, value in make_state().items()}
    tstk.import_run("windows", save(tmp_path, state), tmp_path / "run", print_fn=notes.append, **SIZES)
    assert notes == [f"4 tensors are {str(dtype)[6:]} in the file and float32 in the run"]
    weight = tstk.load(tmp_path / "run").tokenizer.project.weight
    assert torch.equal(weight, state["embed.weight"].float())


def test_a_number_beyond_float32_is_refused(tmp_path):
    state = {name: value.double() for name, value in make_state().items()}
    state["embed.bias"][0] = 1e300
    with pytest.raises(CheckpointError, match=r"embed.bias holds values .* beyond the range of float32"):
        tstk.import_run("windows", save(tmp_path, state), tmp_path / "run", **SIZES)


def test_the_type_of_a_tensor_that_is_left_is_not_said_to_change(tmp_path):
    notes = []
    state = make_state() | {"optimizer.step": torch.zeros((), dtype=torch.float64)}
    state["embed.bias"] = state["embed.bias"].double()
    tstk.import_run("windows", save(tmp_path, state), tmp_path / "run", print_fn=notes.append, **SIZES)
    assert notes[1:] == ["1 tensor is float64 in the file and float32 in the run"]


class Trap:
    """Creates a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize(
    "write",
    [
        lambda folder, trap: save(folder, {"state_dict": make_state(), "hyper_parameters": trap}),
        lambda folder, trap: save(folder, {"embed.weight": trap}, _use_new_zipfile_serialization=False),
        lambda folder, trap: save(folder, make_state() | {"embed.bias": trap}),
        lambda folder, trap: (folder / "x.pt").write_bytes(pickle.dumps({"a": trap}, 2)),
    ],
    ids=["beside the tensors", "old format", "as a tensor", "a bare pickle"],
)
def test_code_in_a_file_is_never_run(write, tmp_path):
    write(tmp_path, Trap(tmp_path / "trapped"))
    with pytest.raises(CheckpointError) as caught:
        tstk.import_run("windows", tmp_path / "x.pt", tmp_path / "run", **SIZES)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["modules", "x.pt"]


def test_a_pickled_module_is_refused_with_what_saves_its_tensors(tmp_path):
    file = save(tmp_path, Windows(), "model.pth")
    with pytest.raises(CheckpointError, match=r"\(.*Windows\); .*torch.load\('model.pth'") as caught:
        tstk.import_run("windows", file, tmp_path / "run", **SIZES)
    command = str(caught.value).rpartition(": ")[2]
    script = f"import os, torch\nos.chdir({str(tmp_path)!r})\n{command}"
    exec(script.replace("'weights.pt'", f"{str(tmp_path / 'weights.pt')!r}").replace("'model.pth'", f"{str(file)!r}"))
    assert tstk.import_run("windows", tmp_path / "weights.pt", tmp_path / "run", **SIZES).parameters == 110


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds no state dict"),
        ([torch.zeros(2)], "holds a list; expected a state dict"),
        ({"generator": {"a": torch.zeros(2)}, "critic": {"a": torch.zeros(2)}}, "several state dicts"),
        ({"embed.weight": None}, r"has no embed.weight \[dim, channels \* window\]; it has"),
        ({"output.bias": None}, r"has nothing for decoder.project.bias \[8\] of the pipeline"),
        ({"output.bias": torch.zeros(7)}, r"decoder.project.bias is \[7\] in the file; expected \[8\]"),
        ({"embed.weight": torch.zeros(6, 8, 1)}, r"embed.weight is \[6, 8, 1\]; expected \[dim, channels \* window\]"),
        ({"embed.weight": torch.zeros(0, 8)}, r"embed.weight is \[0, 8\]; expected"),
        ({"gate.scale": torch.zeros(3)}, r"no part of the pipeline takes gate.scale \[3\]"),
        ({"embed.bias": torch.full([6], torch.inf)}, "embed.bias holds values that are not finite"),
        ({"embed.bias": torch.zeros(6, dtype=torch.complex64)}, "embed.bias is complex64, strided"),
        ({"embed.bias": torch.zeros(6).to_sparse()}, "embed.bias is float32, sparse_coo"),
        ({"embed.bias": torch.zeros(1).expand(6)}, "embed.bias claims more numbers than the file holds"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_in_one_line(content, message, tmp_path):
    is_state = isinstance(content, dict) and any("." in name for name in content)
    state = {k: v for k, v in (make_state() | content).items() if v is not None} if is_state else content
    with pytest.raises(CheckpointError, match=message) as caught:
        tstk.import_run("windows", save(tmp_path, state), tmp_path / "run", **SIZES)
    assert "\n" not in str(caught.value)
    assert "x.pt" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_what_is_beside_the_weights_is_said(tmp_path):
    notes = []
    content = {"state_dict": make_state(), "epoch": 3, "score": torch.ones(()), "optimizer": {"lr": 0.1}}
    run = tstk.import_run("windows", save(tmp_path, content), tmp_path / "run", print_fn=notes.append, **SIZES)
    assert notes == ["left: epoch, score, optimizer: beside the weights"]
    assert run.command == f"tstk.import_run('windows', '{tmp_path / 'x.pt'}', channels=2, windows=5)"


def test_other_weights_of_the_same_names_and_what_is_between_the_weights_are_said(tmp_path):
    notes = []
    content = {"model": {**make_state(), "version": 3}, "model_ema": {k: v + 1 for k, v in make_state().items()}}
    tstk.import_run("windows", save(tmp_path, content), tmp_path / "run", print_fn=notes.append, **SIZES)
    assert notes == ["left: model.version, model_ema: beside the weights"]


def test_what_an_importer_leaves_is_said(tmp_path):
    notes = []
    state = make_state() | {"optimizer.step": torch.zeros(()), "optimizer.mean": torch.zeros(3)}
    tstk.import_run("windows", save(tmp_path, state), tmp_path / "run", print_fn=notes.append, **SIZES)
    assert notes == ["left: optimizer.* (2 tensors): the state of the optimizer"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"kind": "windoes"}, UnknownNameError, "Did you mean 'windows'"),
        ({"chanels": 2}, OptionError, "has no option 'chanels'. Did you mean 'channels'"),
        ({"channels": 0}, OptionError, "--channels is 0; expected int, 1 or more"),
        ({"file": "nothing.pt"}, FileError, "nothing.pt: not read: No such file"),
        ({"file": "."}, FileError, "folder"),
    ],
)
def test_a_wrong_argument_is_refused(change, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = {"kind": "windows", "file": save(tmp_path, make_state()), **SIZES} | change
    with pytest.raises(error, match=message):
        tstk.import_run(out=tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_overwritten(tmp_path):
    file = save(tmp_path, make_state())
    tstk.import_run("windows", file, tmp_path / "run", **SIZES)
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(OptionError, match="already exists; choose another --out"):
        tstk.import_run("windows", file, tmp_path / "run", **SIZES)
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}


def test_without_a_name_runs_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = save(tmp_path, make_state())
    names = [str(tstk.import_run("windows", file, **SIZES).run_dir) for _ in range(2)]
    assert names == ["runs/windows-x", "runs/windows-x-2"]


def test_random_numbers_of_the_caller_are_not_drawn(tmp_path):
    file = save(tmp_path, make_state())
    torch.manual_seed(5)
    tstk.import_run("windows", file, tmp_path / "run", **SIZES)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))


def test_a_command_without_data_says_that_an_imported_run_has_none(tmp_path):
    tstk.import_run("windows", save(tmp_path, make_state()), tmp_path / "run", **SIZES)
    with pytest.raises(DataError, match=r"imported from x.pt, so it has no data of its own; train on some: "):
        embed(tmp_path / "run")


def test_training_starts_from_the_weights_and_says_that_the_scale_is_another(tmp_path):
    data = tmp_path / "x.npz"
    np.savez(data, X=np.random.default_rng(0).normal(size=(20, 2, 20)), y=np.arange(20) % 2)
    text = TEMPLATE.read_text().replace("windows * window),", 'windows * window),\n            config="raw.toml",')
    (tmp_path / "modules" / "windows_importer.py").write_text(text)
    (tmp_path / "raw.toml").write_text('[data]\nstandardize = "none"\n')
    with chdir(tmp_path):
        tstk.import_run("windows", save(tmp_path, make_state()), "run", **SIZES)
    options = ["--head", "linear", "--steps", "1", "--lr", "0", "--out", str(tmp_path / "next"), "--device", "cpu"]
    done = CliRunner().invoke(cli, ["train", "--init-from", str(tmp_path / "run"), "--data", str(data), *options])
    assert done.exit_code == 0, done.output
    assert "its program has --standardize none, and here is standard" in done.output
    weight = tstk.load(tmp_path / "next").tokenizer.project.weight
    torch.testing.assert_close(weight, make_state()["embed.weight"])


def test_the_card_of_a_run_on_the_hub_names_the_file_and_no_training(tmp_path):
    tstk.import_run("windows", save(tmp_path, make_state()), tmp_path / "run", command="tstk import windows", **SIZES)
    config, result = RunConfig.read(tmp_path / "run"), RunResult.read(tmp_path / "run")
    card = render_model_card(config, result, "me/weights")
    assert f"Weights of x.pt (SHA-256 `{config.origin['sha256']}`), 2 channels" in card
    assert "Imported with tstk by `tests/windows`" in card
    assert "nothing was trained" in card
    assert "Epoch 0" not in card
    assert "scores are those" not in card


def test_a_pipeline_that_is_not_known_here_has_the_spec_of_the_file(tmp_path):
    tstk.import_run("windows", save(tmp_path, make_state()), tmp_path / "run", **SIZES)
    assert tstk.load(tmp_path / "run").spec == Spec(channels=2, length=20)
