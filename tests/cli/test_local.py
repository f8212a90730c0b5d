"""Classes of one's own on the command line: trained, shown, and given again to whatever reads the run."""

import json
import sys
from pathlib import Path

import pytest
from click.shell_completion import BashComplete

from tstk.cli import cli
from tstk.plugins.hooks import SLOTS
from tstk.plugins.registry import get_registry

MINE = Path(__file__).parents[1] / "support" / "mine.py"


@pytest.fixture(autouse=True)
def own_process(monkeypatch):
    """Let each test import `mine` anew, from where it finds it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    yield
    sys.modules.pop("mine", None)


@pytest.fixture
def file(tmp_path):
    """Return the user's file in the working folder."""
    path = tmp_path / "mine.py"
    path.write_text(MINE.read_text())
    return path


@pytest.fixture
def forget(forget_components, monkeypatch):
    """Return a function that makes the next command start as a new process does."""

    def forget():
        forget_components()
        sys.modules.pop("mine", None)

    return forget


@pytest.mark.slow
def test_a_class_in_a_file_is_trained_scored_and_tuned(tstk, npz, file, forget):
    encoder = ["--encoder", "mine.py:Layer"]
    words = ["--data", npz, "--tokenizer.dim", 16, "--steps", 2, "--device", "cpu", "--quiet"]
    trained = tstk("train", *encoder, "--encoder.width", 8, *words, "--out", "a")
    assert trained.exit_code == 0, trained.output
    assert json.loads(Path("a/config.json").read_text())["local"]["encoder"]["file"] == "mine.py"
    forget()
    refused = tstk("eval", "a")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "a uses encoder 'Layer', the class Layer of mine.py, which belongs to no plugin" in refused.stderr
    assert "--encoder mine.py:Layer, or tstk.load('a', encoder=CLASS)" in refused.stderr
    for command in (["eval", "a"], ["predict", "a", "--out", "a.csv"], ["embed", "a", "--out", "a.npz"]):
        forget()
        done = tstk(*command, *encoder)
        assert (done.exit_code, "source" in done.stderr) == (0, False), done.output
    forget()
    tuned = tstk("train", "--init-from", "a", "--encoder", "mine:Layer", "--head", "cot", *words[4:-1], "--out", "b")
    assert tuned.exit_code == 0, tuned.output
    assert "encoder from a: 136 parameters" in tuned.stderr


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--head", "mine.py:Wide"], ["--encoder", "mine.py:Layer", "--loss", "masked"]])
def test_the_commands_that_training_names_next_give_the_classes(tstk, npz, file, forget, words):
    trained = tstk("train", "--data", npz, *words, "--tokenizer.dim", 16, "--steps", 2, "--device", "cpu", "--out", "a")
    assert trained.exit_code == 0, trained.output
    commands = [line.split() for line in trained.stdout.splitlines() if line.startswith("  tstk ")]
    assert [command[1] for command in commands][-2:] == ["report", "embed"]
    for command in commands:
        forget()
        done = tstk(*command[1:], *(["--steps", 2] if command[1] == "train" else []))
        assert done.exit_code == 0, (command, done.output)


@pytest.mark.slow
def test_a_run_whose_class_has_changed_says_so_and_an_unfinished_one_is_resumed(tstk, npz, file, forget):
    words = ["--data", npz, "--tokenizer.dim", 16, "--steps", 2, "--device", "cpu", "--quiet"]
    assert tstk("train", "--head", "mine.py:Wide", *words, "--out", "a").exit_code == 0
    run_config = json.loads(Path("a/config.json").read_text())
    assert [run_config["config"][s]["use"] for s in ("head", "loss")] == ["local/wide-head", "local/smooth"]
    Path("a/result.json").unlink()
    file.write_text(file.read_text().replace('default_loss = "smooth"', 'default_loss = "cross-entropy"'))
    forget()
    assert "remove --lr" in tstk("train", "--resume", "a", "--head", "mine.py:Wide", "--lr", "1").stderr
    forget()
    resumed = tstk("train", "--resume", "a", "--head", "mine.py:Wide")
    assert resumed.exit_code == 0, resumed.output
    assert "the source of head 'wide-head' has changed since a was trained" in resumed.stderr
    forget()
    done = tstk("eval", "a", "--head", "mine.py:Wide", "--loss", "mine.py:Smooth")
    assert done.exit_code == 0
    assert done.stderr.count("note: the source of head 'wide-head' has changed since a was trained\n") == 1


@pytest.mark.slow
def test_a_run_of_ones_own_loss_needs_it_only_to_continue_with_it(tstk, npz, file, forget):
    words = ["--steps", 2, "--device", "cpu", "--quiet", "--out"]
    sizes = ["--tokenizer.dim", 16, "--encoder.dim", 16, "--encoder.depth", 1, "--encoder.heads", 2]
    assert (
        tstk("train", "--loss", "mine.py:Smooth", "--head", "linear", "--data", npz, *sizes, *words, "a").exit_code == 0
    )
    forget()
    tuned = tstk("train", "--init-from", "a", "--head", "cot", *words, "b")
    assert tuned.exit_code == 0, tuned.output
    assert json.loads(Path("b/config.json").read_text())["init_from"] == {"tokenizer": "a", "encoder": "a"}
    assert "a uses loss 'smooth'" in tstk("train", "--init-from", "a", *words, "c").stderr


def test_every_command_that_reads_a_run_takes_the_classes_of_its_components():
    commands = {e.name: get_registry().load(e) for e in get_registry().list_entries("command")}
    readers = {name for name, command in commands.items() if any(p.name == "run" for p in command.params)}
    assert {"eval", "report", "explain"} <= readers
    assert [name for name in readers if not set(SLOTS) <= {p.name for p in commands[name].params}] == []


def test_help_completion_and_show_read_the_file_without_importing_it(tstk, file):
    file.write_text(file.read_text() + "\nraise RuntimeError('imported')\n")
    assert "--encoder.activation (relu|none)" in tstk("train", "--encoder", "mine.py:Layer", "--help").stdout
    words = ["train", "--encoder", "mine.py:Layer"]
    offered = BashComplete(cli, {}, "tstk", "_TSTK_COMPLETE").get_completions(words, "--encoder.")
    assert {"--encoder.width", "--encoder.sizes"} <= {item.value for item in offered}
    assert "One layer per token." in tstk("show", "encoder", "mine.py:Layer").stdout
    refused = tstk("train", "--encoder", "mine.py:Layer", "--dry-run")
    assert "encoder 'Layer' cannot be loaded from mine:Layer: RuntimeError: imported" in refused.stderr


@pytest.mark.slow
def test_a_recipe_may_name_a_class_that_the_command_gives(tstk, npz, file):
    Path("recipe.toml").write_text(
        '[[stage]]\nname = "one"\n[stage.tokenizer]\nuse = "patch"\ndim = 16\n[stage.encoder]\nuse = "Layer"\n'
        "[stage.head]\nuse = 'linear'\n[stage.train]\nsteps = 2\n"
    )
    assert "No encoder is called 'Layer'" in tstk("run", "recipe.toml", "--data", npz, "--out", "r").stderr
    done = tstk("run", "recipe.toml", "--data", npz, "--out", "r", "--device", "cpu", "--encoder", "mine.py:Layer")
    assert done.exit_code == 0, done.output
    assert get_registry().find("encoder", "Layer")


def test_what_is_typed_for_a_slot_must_be_a_class_that_the_run_uses(refused, run, file):
    assert "all its components are of plugins" in refused("eval", run, "--encoder", "mine.py:Layer")
    assert "there is no file nowhere.py" in refused("train", "--encoder", "nowhere.py:Layer")
    assert "expected a class derived from tstk.Head" in refused("train", "--head", "mine.py:Layer")
    Path("c.toml").write_text('[encoder]\nuse = "mine:Layer"\n')
    assert "is followed only if it is typed" in refused("train", "--config", "c.toml")
