"""The pretrained encoder: found by name, without a network, for series of any length and channels."""

import hashlib
import json
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import tstk
from tstk.cli import cli
from tstk.config.recipe import read_recipe, resolve_stages
from tstk.config.records import RunConfig
from tstk.config.resolve import Config, get_entry_file, resolve_config
from tstk.config.run_directory import list_shipped_runs, resolve_run_dir
from tstk.config.toml import read_toml
from tstk.core.types import Series
from tstk.errors import CheckpointError
from tstk.plugins.registry import get_registry
from tstk.training.small_data import read_data

NAME = "pretrained/small"
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """Refuse connections, and work in a folder without a run of this name."""

    def refuse_connection(*_):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse_connection)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def labelled(tmp_path):
    """Series of 40 samples and three channels, whose classes differ in the frequency of one channel."""
    draw, time = np.random.default_rng(0), np.linspace(0, 1, 40)
    x, y = draw.normal(scale=0.3, size=(2, 24, 3, 40)).astype(np.float32), np.arange(24) % 2
    x[:, :, 1] += np.sin(2 * np.pi * (2 + 3 * y[:, None]) * time + draw.uniform(0, 6, (2, 24, 1)))
    path = tmp_path / "waves.npz"
    np.savez(path, X_train=x[0], y_train=y, X_test=x[1], y_test=y)
    return str(path)


def test_it_is_small_and_its_card_states_its_hash():
    folder = resolve_run_dir(NAME)
    assert folder.is_relative_to(Path(tstk.__file__).parent)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 8e6
    assert sum(p.numel() for p in tstk.load(NAME).parameters()) <= 2e6
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert digest in (ROOT / "docs" / "pretrained.md").read_text(encoding="utf-8")


def test_the_recipe_says_how_it_was_made(tmp_path):
    recipe = next(resolve_stages(read_recipe("pretrain-small"), tmp_path, ("flag", {}), {}))
    recorded = RunConfig.read(NAME).given
    stated = read_toml(get_entry_file(get_registry().find("recipe", "pretrain-small")))["stage"][0]
    for section in ("data", "tokenizer", "encoder", "loss", "pipeline", "train"):
        now = json.loads(json.dumps(recipe.values[section]))
        assert stated[section].items() <= now.items()
        # what was added since has a default that changes nothing; where it was trained is no part of the recipe
        for option in (now.keys() & recorded[section].keys()) - {"device", "threads"}:
            assert now[option] == recorded[section][option], f"{section}.{option}"


def test_its_data_are_generated_again():
    data = read_data(Config(RunConfig.read(NAME).given))
    assert (data.name, len(data.train)) == ("synthetic", 844_800)


@pytest.mark.parametrize(("channels", "length"), [(1, 5), (4, 700)])
def test_it_embeds_series_of_any_length_and_number_of_channels(channels, length):
    pipeline = tstk.load(NAME)
    pipeline.set_channels(torch.zeros(channels), torch.ones(channels))
    x = torch.randn(2, channels, length, generator=torch.Generator().manual_seed(0))
    found = pipeline.embed_batch(Series(x), "statistics")
    assert found.shape == (2, channels * 2 * 192)
    assert found.isfinite().all()


@pytest.mark.slow
def test_its_features_separate_the_classes(labelled):
    done = CliRunner().invoke(cli, ["probe", NAME, "--data", labelled, "--pool", "statistics", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["results"][0]["accuracy"] > 0.9


@pytest.mark.slow
def test_features_and_a_head_are_trained_from_it(labelled, tmp_path):
    words = [
        "train",
        "--init-from",
        NAME,
        "--head",
        "cot",
        "--data",
        labelled,
        "--steps",
        "2",
        "--out",
        str(tmp_path / "tuned"),
    ]
    done = CliRunner().invoke(cli, [*words, "--device", "cpu", "--threads", "1"])
    assert done.exit_code == 0, done.output
    for slot in ("tokenizer", "encoder"):
        assert f"{slot} from {NAME}" in done.output
    assert tstk.load(tmp_path / "tuned").spec.num_outputs == 2
    done = CliRunner().invoke(cli, ["embed", NAME, "--data", labelled, "--out", str(tmp_path / "vectors.npz")])
    assert done.exit_code == 0, done.output
    assert np.load(tmp_path / "vectors.npz")["embedding"].shape == (24, 192)


def test_a_single_component_of_it_can_be_loaded():
    config = resolve_config(("flag", {"encoder": NAME, "tokenizer": NAME, "head": "linear"}))
    assert config.init_from == {"encoder": NAME, "tokenizer": NAME}
    assert config.options("encoder")["dim"] == 192


def test_a_run_in_the_working_directory_goes_before_it(tmp_path):
    here = tmp_path / NAME
    here.mkdir(parents=True)
    assert resolve_run_dir(NAME) != here
    (here / "config.json").write_text("{}")
    assert resolve_run_dir(NAME).resolve() == here


def test_an_unknown_name_is_an_error_that_lists_the_known_ones():
    with pytest.raises(CheckpointError, match=r"pretrained/tiny is not a run directory.*pretrained/small"):
        tstk.load("pretrained/tiny")


def test_nothing_is_written_into_the_package():
    done = CliRunner().invoke(cli, ["report", NAME])
    assert done.exit_code == 2
    assert "name the file with --out FILE" in done.output
    assert list_shipped_runs() == [NAME]
    assert {path.name for path in resolve_run_dir(NAME).iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "model.safetensors",
        "result.json",
    }
