"""`tstk import`: help, options, what is printed, and refusals."""

import json
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.support.checkpoints import make_timemae
from tstk.config.records import RunConfig

pytest.importorskip("tstk_plugins_timemae")


@pytest.fixture
def file(tstk):
    torch.save(make_timemae(channels=3, length=40, window=4, dim=16, depth=2, decoder_depth=1, codes=12)[1], "x.pt")
    return "x.pt"


@pytest.mark.slow
def test_options_of_the_importer_are_in_the_help_and_torch_is_not_imported(tstk):
    assert "IMPORTER names the program" in tstk("import", "--help").stdout
    assert "─ importer" not in tstk("import", "--help").stdout
    assert "─ importer timemae ─" in tstk("import", "timemae", "--help").stdout
    assert "--decoder-heads" in tstk("import", "--out", "timemae", "cwtmae", "--help").stdout
    code = (
        "import sys; from click.testing import CliRunner; from tstk.cli import cli\n"
        "CliRunner().invoke(cli, ['import', 'timemae', '--help']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_a_run_is_written_and_what_is_left_and_what_to_do_next_is_printed(tstk, file):
    done = tstk("import", "timemae", file, "--heads", 2, "--out", "runs/a")
    assert done.exit_code == 0, done.output
    assert "left: momentum_encoder.* (36 tensors)" in done.stderr
    assert "tell the number of heads" not in done.stderr
    assert "  tstk embed runs/a --data FILE --out embeddings.npz\n" in done.stdout
    config = RunConfig.read("runs/a")
    assert (config.origin["options"], config.options("encoder")["heads"]) == ({"heads": 2}, 2)
    assert config.command == "tstk import timemae x.pt --heads 2 --out runs/a"
    assert "timemae" in [entry["name"] for entry in json.loads(tstk("list", "importers", "--json").stdout)]


def test_a_classifier_is_imported_and_predicts_its_classes(tstk, file):
    done = tstk("import", "timemae", file, "--classes", "a,b,c,d,e,f", "--out", "runs/a")
    assert "  tstk predict runs/a --data FILE --out predictions.csv\n" in done.stdout
    np.savez("x.npz", X=np.random.default_rng(0).normal(size=(8, 3, 40)), y=np.array(list("abcdefab")))
    done = tstk("eval", "runs/a", "--data", "x.npz", "--json")
    assert done.exit_code == 0, done.output
    assert '"accuracy"' in done.stdout
    assert "needs the training data of the run: runs/a was imported from x.pt" in done.stdout


@pytest.mark.parametrize("words", [["--heads", 2], ["--classes", "a,b,c,d,e,f"]], ids=["pretraining", "classifier"])
def test_the_commands_that_an_import_names_next_run_as_printed(tstk, file, words):
    done = tstk("import", "timemae", file, *words, "--out", "my run")
    np.savez("x.npz", X=np.random.default_rng(0).normal(size=(24, 3, 40)), y=np.array(list("abcdef") * 4))
    commands = [shlex.split(line) for line in done.stdout.splitlines() if line.startswith("  tstk ")]
    assert len(commands) == 2
    for command in commands:
        command = ["x.npz" if word in ("FILE", "FILE_WITH_LABELS") else word for word in command]
        done = tstk(*command[1:], *(["--epochs", 1, "--device", "cpu"] if command[1] == "train" else []))
        assert done.exit_code == 0, (command, done.output)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("timemea",), "No importer is called 'timemea'. Did you mean 'timemae'?"),
        (("timemae", "--heads", "many"), "--heads is 'many'; expected int"),
        (("timemae", "--haeds", "4"), "No such option '--haeds'. Did you mean '--heads'?"),
        (("timemae", "--decoder-heads", "4"), "No such option '--decoder-heads'"),
        (("timemae", "--heads", "3"), "heads=3 does not divide dim=16; nearby: 2, 4"),
        (("totem",), "x.pt has no encoder._conv_2.weight [hidden, hidden / 2, kernel]; it has"),
    ],
)
def test_a_mistake_is_one_line(words, message, refused, tstk, file):
    line = refused("import", words[0], file, *words[1:])
    assert message in line
    assert "\n" not in line
