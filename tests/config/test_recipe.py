"""Recipes: stages in order, each starting from earlier ones, and resumption."""

import json
import os
from pathlib import Path

import pytest

from tstk.config.recipe import read_recipe, resolve_stages, run_recipe, validate_stages
from tstk.errors import OptionError, TstkError

TWO = """
[[stage]]
name = "first"
[stage.encoder]
use = "transformer"
dim = 8
depth = 1
heads = 2
[stage.loss]
use = "masked"

[[stage]]
name = "second"
init_from = "first"
[stage.head]
use = "linear"
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "two.toml"
    path.write_text(TWO)
    return str(path)


def train_or_resume(config, run, stage):
    from tstk.training.runs import train_or_resume

    return train_or_resume(config, run)


@pytest.mark.slow
def test_stages_run_in_order_and_start_from_each_other(recipe, tmp_path):
    shared = ("flag", {"train": {"steps": 1}})
    results = run_recipe(recipe, tmp_path / "out", train_or_resume, overrides=shared)
    assert list(results) == ["first", "second"]
    assert results["second"].task == "classification"
    config = json.loads((tmp_path / "out" / "second" / "config.json").read_text())
    assert config["init_from"] == {s: str(tmp_path / "out" / "first") for s in ("tokenizer", "encoder")}


@pytest.mark.slow
def test_a_finished_stage_is_not_run_again_and_an_unfinished_one_is_resumed(recipe, tmp_path):
    shared = ("flag", {"train": {"steps": 1}})
    run_recipe(recipe, tmp_path / "out", train_or_resume, overrides=shared)
    (tmp_path / "out" / "second" / "result.json").unlink()
    saved = tmp_path / "out" / "first" / "last"  # killed between writing the result and removing this
    saved.mkdir()
    (saved / "state.json").write_text("{}")
    ran = []

    def train_and_record(config, run, stage):
        ran.append(stage)
        return train_or_resume(config, run, stage)

    run_recipe(recipe, tmp_path / "out", train_and_record, overrides=shared)
    assert ran == ["second"]
    assert not saved.exists()


@pytest.mark.slow
def test_an_interrupted_stage_is_not_resumed_with_other_options(recipe, tmp_path):
    run_recipe(recipe, tmp_path / "out", train_or_resume, overrides=("flag", {"train": {"steps": 1}}))
    (tmp_path / "out" / "second" / "result.json").unlink()
    with pytest.raises(OptionError, match=r"second was run with train\.lr = 0\.001 and is now 0\.1"):
        run_recipe(
            recipe,
            tmp_path / "out",
            train_or_resume,
            overrides=("flag", {"train": {"steps": 1}}),
            stage_overrides={"second": {"lr": 0.1}},
        )


@pytest.mark.slow
def test_a_finished_stage_is_not_taken_for_one_with_other_options(recipe, tmp_path):
    run_recipe(recipe, tmp_path / "out", train_or_resume, overrides=("flag", {"train": {"steps": 1}}))
    with pytest.raises(OptionError, match=r"first was run with train\.steps = 1 and is now 2"):
        run_recipe(recipe, tmp_path / "out", train_or_resume, overrides=("flag", {"train": {"steps": 2}}))


@pytest.mark.parametrize("kind", ["folder", "current folder", "link", "file", "link to nothing"])
def test_a_stage_folder_with_files_of_others_is_refused_and_stays_as_it_was(recipe, tmp_path, monkeypatch, kind):
    out, user_folder = tmp_path / "project", tmp_path / "mine"
    (stage := out / "first").parent.mkdir()
    for folder in (user_folder, *([stage] if "folder" in kind else [])):
        (folder / "data").mkdir(parents=True)
        (folder / "data" / "a.csv").write_text("1,2")
        (folder / "metrics.jsonl").write_text("mine")
    if kind == "current folder":
        monkeypatch.chdir(out)
        out = "."
    elif kind == "file":
        stage.write_text("mine")
    elif "link" in kind:
        os.symlink(user_folder if kind == "link" else "nowhere", stage)

    def snapshot():
        return {p: p.read_bytes() if p.is_file() else p.is_symlink() for p in sorted(tmp_path.rglob("*"))}

    before = snapshot()
    with pytest.raises(
        OptionError, match=r"first already exists(; choose| and holds data, which is not part of a run)"
    ):
        run_recipe(recipe, out, train_or_resume, overrides=("flag", {"train": {"steps": 1}}))
    assert snapshot() == before


@pytest.mark.slow
def test_a_stage_that_was_killed_before_its_config_was_written_starts(recipe, tmp_path):
    stage = tmp_path / "out" / "first"
    part = stage / "config.json.0123abcd.part"
    part.mkdir(parents=True)
    (part / "config.json").write_text("{")
    results = run_recipe(recipe, tmp_path / "out", train_or_resume, overrides=("flag", {"train": {"steps": 1}}))
    assert results["first"].run_dir == stage


@pytest.mark.slow
def test_a_stage_override_applies_to_its_stage_alone(recipe, tmp_path):
    changes = {"second": {"steps": 2}}
    run_recipe(
        recipe, tmp_path / "out", train_or_resume, overrides=("flag", {"train": {"steps": 1}}), stage_overrides=changes
    )
    steps = [
        json.loads((tmp_path / "out" / s / "config.json").read_text())["config"]["train"]["steps"]
        for s in ("first", "second")
    ]
    assert steps == [1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"has no \[\[stage\]\]"),
        ('[[stage]]\nnam = "a"', "Did you mean 'name'"),
        ('[[stage]]\nname = "a"\ninit_from = "b"', "which is not an earlier stage"),
        ('[[stage]]\nname = "a"\n[[stage]]\nname = "a"', "two stages are called 'a'"),
        ("[[stage]]\ntrain = 5", "stage 'stage1' has train = 5; expected a table"),
        ("[[stage]]\nencoder = 5", "has encoder = 5; expected the name of a stage, or a table"),
        ("[[stage]]\ninit_from = {}", "has init_from = {}; expected the name of a stage"),
        ("[[stage]]\nconfig = 3", "has config = 3; expected a string"),
    ],
)
def test_a_faulty_recipe_is_refused_with_the_place(tmp_path, text, message):
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(OptionError, match=message):
        read_recipe(str(tmp_path / "r.toml"))


FAULTS = {
    "components that do not fit": ('[stage.head]\nuse = "linear"\n[stage.decoder]\nuse = "cross"', "would have no use"),
    "an option that does not exist": ('[stage.head]\nuse = "linear"\ndpeth = 3', "has no option 'dpeth'"),
    "sizes that do not divide": ("[stage.encoder]\nheads = 3", "3"),
    "a component of the earlier run that it does not have": ('head = "first"', "that run has no head"),
    "more memory than there is": ("[stage.encoder]\ndim = 1000000", "available"),
}


@pytest.mark.parametrize(("fault", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_of_a_later_stage_is_found_before_the_first_is_trained(recipe, tmp_path, fault, message):
    from tstk.runs.build import validate_on_meta

    text = Path(recipe).read_text().split("[stage.head]")[0]
    Path(recipe).write_text(text + fault + "\n")
    trained = []
    with pytest.raises(TstkError, match=rf"^stage second: .*{message}") as error:
        run_recipe(recipe, tmp_path / "out", lambda *args: trained.append(args), validate=validate_on_meta)
    assert "/tmp/tmp" not in str(error.value)
    assert not trained
    assert not (tmp_path / "out").exists()


def test_every_shipped_recipe_passes_validation(tmp_path):
    from tstk.plugins.registry import get_registry
    from tstk.runs.build import validate_on_meta

    for name in get_registry().list_names("recipe"):
        validate_stages(read_recipe(name), tmp_path, ("flag", {"data": {"use": "har-demo"}}), {}, validate_on_meta)


def test_a_stage_may_name_its_data(tmp_path):
    (tmp_path / "r.toml").write_text('[[stage]]\ndata = "har-demo"\n[[stage]]\n[stage.data]\nuse = "GunPoint"')
    configs = resolve_stages(read_recipe(str(tmp_path / "r.toml")), tmp_path, ("flag", {}), {})
    assert [config.component("data") for config in configs] == ["har-demo", "GunPoint"]


def test_every_shipped_recipe_can_be_read_and_its_configs_exist():
    from tstk.config.resolve import find_config
    from tstk.plugins.registry import get_registry

    for name in get_registry().list_names("recipe"):
        for stage in read_recipe(name):
            assert not stage.config or find_config(stage.config).is_file()
