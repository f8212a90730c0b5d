"""Sharing runs on the hub, against a stand-in on this machine."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

import tstk
from tests.support.hub_server import use_hub
from tstk.cli import cli
from tstk.config.hub import _fetch
from tstk.config.records import RunConfig, RunResult
from tstk.config.run_directory import PUBLIC_FILES, resolve_run_dir
from tstk.errors import CheckpointError, OptionError
from tstk.report.hub import _shorten_paths, push, render_model_card

pytestmark = pytest.mark.slow


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with use_hub(monkeypatch, tmp_path / "cache") as hub:
        yield hub


def invoke(*words):
    return CliRunner().invoke(cli, [str(word) for word in words])


def test_a_run_that_was_pushed_and_fetched_predicts_the_same_to_the_bit(hub, run, tmp_path):
    done = invoke("push", run, "me/gestures", "--license", "apache-2.0")
    assert done.exit_code == 0, done.output
    assert "  tstk predict hf://me/gestures --data FILE --out predictions.csv\n" in done.output
    assert set(hub.commits[hub.branches["me/gestures", "main"]]) - {"README.md"} <= set(PUBLIC_FILES)
    here, there = tstk.load(run), tstk.load("hf://me/gestures")
    x = np.random.default_rng(0).normal(size=(5, *map(len, (here.channel_names,)), 20))
    assert np.array_equal(here.predict(x).probabilities, there.predict(x).probabilities)
    assert RunResult.read("hf://me/gestures").test == RunResult.read(run).test


def test_a_run_that_predicts_nothing_is_embedded_with(hub, npz, tmp_path):
    words = ["--data", npz, "--loss", "masked", "--steps", 1, "--device", "cpu", "--quiet", "--out", tmp_path / "run"]
    assert invoke("train", *words).exit_code == 0
    command = "tstk embed hf://me/gestures --data FILE --out embeddings.npz"
    assert f"  {command}\n" in invoke("push", tmp_path / "run", "me/gestures").output
    assert command in hub.commits[hub.branches["me/gestures", "main"]]["README.md"].decode()


def test_training_starts_from_a_run_on_the_hub(hub, run, npz, tmp_path):
    push(run, "me/gestures")
    words = ("--data", npz, "--head", "linear", "--steps", 1, "--out", tmp_path / "tuned", "--quiet")
    done = invoke("train", "--init-from", "hf://me/gestures", *words)
    assert done.exit_code == 0, done.output
    assert "hf://me/gestures" in RunConfig.read(tmp_path / "tuned").init_from.values()


def test_the_hub_is_asked_once_in_a_process_and_never_with_offline(hub, run, monkeypatch):
    push(run, "me/gestures")
    tstk.load("hf://me/gestures")
    count = len(hub.requests)
    tstk.load("hf://me/gestures")
    assert len(hub.requests) == count
    monkeypatch.setenv("TSTK_OFFLINE", "1")
    _fetch.cache_clear()
    tstk.load("hf://me/gestures")  # from the cache
    assert len(hub.requests) == count
    with pytest.raises(CheckpointError, match="not in the cache, and HF_HUB_OFFLINE or TSTK_OFFLINE forbids requests"):
        tstk.load("hf://me/other")
    with pytest.raises(OptionError, match="forbids requests"):
        push(run, "me/gestures")


def test_a_branch_keeps_another_version(hub, run):
    push(run, "me/gestures")
    push(run, "me/gestures", revision="second", license="mit")
    assert hub.branches["me/gestures", "main"] != hub.branches["me/gestures", "second"]
    assert resolve_run_dir("hf://me/gestures@second") != resolve_run_dir("hf://me/gestures")
    commit = hub.branches["me/gestures", "second"]
    assert tstk.load(f"hf://me/gestures@{commit}").channel_names == tstk.load(run).channel_names


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("hf://me/nothing", "hf://me/nothing: no such repository, or it is private"),
        ("hf://me/gestures@third", "hf://me/gestures@third: the repository has no branch, tag or commit 'third'"),
        ("hf://gestures", "write a run on the hub as hf://owner/name"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(hub, run, name, problem):
    push(run, "me/gestures")
    done = invoke("predict", name, "--data", "x.npz", "--out", "out.csv")
    assert done.exit_code == 2
    assert problem in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_a_private_run_needs_the_token_of_its_owner(hub, run, monkeypatch):
    push(run, "me/secret", private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_of_another")
    with pytest.raises(CheckpointError, match="private"):
        tstk.load("hf://me/secret")
    with pytest.raises(CheckpointError, match="not logged in, or may not write there; log in with: hf auth login"):
        push(run, "me/gestures")


def test_no_path_of_this_machine_is_published(hub, run):
    push(run, "me/gestures")
    files = hub.commits[hub.branches["me/gestures", "main"]]
    folder = str(RunConfig.read(run).data_files[0]["path"]).rpartition("/")[0]
    assert folder.startswith("/")
    for name, content in files.items():
        assert folder.encode() not in content, name
    assert json.loads(files["config.json"])["config"]["data"]["use"].endswith(".npz")


def test_paths_with_spaces_or_in_lists_are_not_published_and_names_of_the_data_stay(hub, tmp_path):
    """Classes and channels that begin with a slash, as topics of robots do, are no paths."""
    folder = tmp_path / "my patients" / "of 2024"
    folder.mkdir(parents=True)
    x = np.random.default_rng(0).normal(size=(12, 2, 20))
    channels, classes = ["/imu/accel/x", "/imu/accel/y"], np.array(["/gait/walk", "/gait/run"] * 6)
    for name in ("a", "b"):
        np.savez(folder / f"{name}.npz", X=x, y=classes, channels=np.array(channels))
    words = ["--train-data", folder / "a.npz", "--test-data", folder / "b.npz", "--head", "linear", "--steps", 1]
    words += ["--data", f"{folder / 'a.npz'}", "--quiet", "--device", "cpu"]
    done = invoke("train", *words, "--out", folder / "run")
    assert done.exit_code == 0, done.output
    push(folder / "run", "me/gait")
    for name, content in hub.commits[hub.branches["me/gait", "main"]].items():
        for part in (str(tmp_path), "my patients", "of 2024"):
            assert part.encode() not in content, (name, part)
    there = tstk.load("hf://me/gait")
    assert list(there.channel_names) == channels
    assert set(there.classes) == set(classes)
    assert "b.npz" in RunResult.read("hf://me/gait").command


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tstk train --data '/home/me/My Data/x.npz' --out runs/a", "tstk train --data x.npz --out runs/a"),
        ("--data=/home/me/x.npz", "--data=x.npz"),
        ("/a/b.npz,/c/e/d.npz", "b.npz,d.npz"),
        ("see (/home/me/x.npz): 3 of 4 km/h", "see (x.npz): 3 of 4 km/h"),
        ("file:///home/me/x.csv and s3://bucket/folder/x", "x.csv and s3://bucket/folder/x"),
        ("(4 - d)/10 of a/b, runs/a/b", "(4 - d)/10 of a/b, runs/a/b"),
    ],
)
def test_absolute_paths_lose_their_folders_wherever_they_are_in_a_text(text, expected):
    assert _shorten_paths(text, ["/home/me/My Data/"]).replace("'", "") == expected


def test_a_public_repository_is_not_taken_for_a_private_one(hub, run):
    push(run, "me/gestures")
    commit = hub.branches["me/gestures", "main"]
    with pytest.raises(OptionError, match="hf://me/gestures exists and is public"):
        push(run, "me/gestures", private=True)
    assert hub.branches["me/gestures", "main"] == commit
    push(run, "me/secret", private=True)
    push(run, "me/secret", private=True)


def test_the_revision_is_named_once_and_told_to_users(hub, run):
    done = invoke("push", run, "me/gestures", "--revision", "second")
    assert "tstk predict hf://me/gestures@second" in done.output
    card = hub.commits[hub.branches["me/gestures", "second"]]["README.md"].decode()
    assert 'tstk.load("hf://me/gestures@second")' in card
    with pytest.raises(OptionError, match="both name a revision"):
        push(run, "me/gestures@first", revision="second")


@pytest.mark.parametrize(
    ("options", "task", "text", "use"),
    [
        ({}, "Regression", "to 2 numbers (level, slope)", "tstk predict"),
        ({"task": "multilabel"}, "Multilabel", "to 2 labels (level, slope)", "tstk predict"),
        ({"loss": "masked"}, "Pretraining", "6 samples. Trained", "tstk embed"),
    ],
)
def test_the_card_says_what_is_predicted(tmp_path, options, task, text, use):
    x, y = np.random.default_rng(0).normal(size=(2, 12, 1, 6)), np.arange(24).reshape(12, 2) % 2
    arrays = {"X_train": x[0], "X_test": x[1], "targets_train": y, "targets_test": y}
    np.savez(tmp_path / "d.npz", target_names=["level", "slope"], **arrays)
    tables = {"tokenizer": "patch", "tokenizer__window": 2, "encoder": "identity", "task": "regression", **options}
    tstk.fit(data=str(tmp_path / "d.npz"), steps=1, threads=1, out=tmp_path / "run", **tables)
    card = render_model_card(RunConfig.read(tmp_path / "run"), RunResult.read(tmp_path / "run"), "me/a")
    (line,) = [line for line in card.splitlines() if "Trained with" in line]
    assert line.startswith(f"{task} of d, ")
    assert text in line
    assert f"\n{use} hf://me/a " in card


def test_the_card_names_data_scores_baselines_command_and_licence(run):
    config, result = RunConfig.read(run), RunResult.read(run)
    card = render_model_card(config, result, "me/gestures", "apache-2.0")
    assert card.startswith("---\nlibrary_name: tstk\nlicense: apache-2.0\ntags:\n- time-series\n- classification\n")
    for text in ('tstk.load("hf://me/gestures")', "| accuracy |", "1-NN", "## Limits", "tstk eval hf://me/gestures"):
        assert text in card, text
    assert "No licence was chosen" in render_model_card(config, result, "me/gestures")


def test_a_run_on_the_hub_is_no_place_to_write(hub, run, npz):
    push(run, "me/gestures")
    assert "trained into a folder" in invoke("train", "--data", npz, "--out", "hf://me/gestures").output
    assert "a run on the hub is finished" in invoke("train", "--resume", "hf://me/gestures").output
    assert "name the file with --out" in invoke("report", "hf://me/gestures").output
