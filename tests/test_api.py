"""The Python interface reads like the command line."""

import inspect
import logging
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

import tstk
from tstk.config.resolve import SECTIONS
from tstk.plugins.hooks import SLOTS
from tstk.plugins.signature import read_signature

ROOT = Path(__file__).parents[1]
TINY = {"encoder__dim": 8, "encoder__depth": 1, "encoder__heads": 2, "tokenizer__dim": 8}


def test_importing_tstk_imports_no_torch():
    code = "import sys, tstk; tstk.Entry, tstk.__version__, dir(tstk); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names_are_sorted_listed_by_dir_and_can_be_imported():
    assert tstk.__all__ == sorted(tstk.__all__, key=lambda name: (not name.isupper(), name))
    assert set(tstk.__all__) <= set(dir(tstk))
    assert all(getattr(tstk, name) is not None for name in tstk.__all__)
    assert tstk.__version__ == metadata.version("tstk-core")


def test_fit_trains_and_load_brings_the_same_model_back(tmp_path):
    result = tstk.fit(encoder="bert", head="cot", **TINY, steps=2, out=tmp_path / "run")
    assert isinstance(result, tstk.RunResult)
    assert result.run_dir == tmp_path / "run"
    pipeline = tstk.load(result.run_dir)
    x = np.random.default_rng(0).normal(size=(3, 9, 128))
    prediction = pipeline.predict(x)
    assert isinstance(prediction, tstk.Prediction)
    assert prediction.probabilities.shape == (3, 6)
    assert set(prediction.labels) <= set(prediction.classes)
    assert "WALKING" in {name.upper() for name in prediction.classes}
    assert pipeline.embed(x).shape == (3, 8)


def test_a_newly_built_pipeline_knows_the_names_of_its_classes():
    pipeline = tstk.build(encoder="transformer", head="linear", **TINY)
    assert len(pipeline.classes) == 6
    assert len(pipeline.channel_names) == 9


@pytest.mark.parametrize("function", [tstk.fit, tstk.build], ids=lambda f: f.__name__)
def test_every_option_is_a_parameter_with_its_default(function):
    parameters = inspect.signature(function).parameters
    options = {n: o for target in SECTIONS.values() for n, o in read_signature(target).options.items()}
    assert {*SLOTS, "data", *options} <= set(parameters)
    assert all(parameters[n].default == o.default for n, o in options.items() if n != "callbacks")
    assert "**component_options" in str(inspect.signature(function))


def test_help_describes_every_option():
    options = {n: o for target in SECTIONS.values() for n, o in read_signature(target).options.items()}
    assert all(f"    {name}: " in tstk.fit.__doc__ for name in [*options, *SLOTS, "data", "out", "verbose"])
    assert "<options>" not in tstk.fit.__doc__
    assert "epochs: int | None = None" in str(inspect.signature(tstk.fit))


def test_callbacks_are_instances_or_names_and_names_are_recorded(tmp_path, npz, monkeypatch):
    monkeypatch.setattr("tstk.api.train", lambda config, run_dir, **arguments: {"config": config, **arguments})
    callback = tstk.Callback()
    result = tstk.fit(data=npz, callbacks=["mine", callback], out=tmp_path / "run", verbose=False)
    assert result["config"].values["train"]["callbacks"] == ("mine",)
    assert "callbacks=['mine']" in result["command"]
    assert result["callbacks"] == [callback]


def test_an_instance_sees_every_step(tmp_path, npz):
    class Steps(tstk.Callback):
        def __init__(self):
            self.losses = []

        def on_step_end(self, trainer, step_outputs):
            self.losses.append(step_outputs[0].loss.item())

    steps = Steps()
    tstk.fit(encoder="transformer", head="linear", **TINY, steps=3, data=npz, callbacks=[steps], out=tmp_path / "run")
    assert len(steps.losses) == 3


@pytest.mark.slow
def test_a_type_checker_flags_wrong_options(tmp_path):
    api = pytest.importorskip("mypy.api")
    script = tmp_path / "script.py"
    script.write_text("""import tstk
tstk.fit(encoder="bert", encoder__depth=4, epochs=10, callbacks=["a", tstk.Callback()], out="runs/a")
tstk.build({"head": "linear"}, tstk.Spec(1, 20, num_classes=2), sampling="balanced").predict([1.0])
tstk.list_components()["encoder"]
tstk.fit(encoder=3)
tstk.fit(epochs="many")
tstk.fit(sampling="some")
""")
    config = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
    lines = api.run([*config, str(script)])[0].splitlines()
    errors = [line.partition(": error: ") for line in lines if ": error: " in line]
    assert [place.rpartition(":")[2] for place, _, _ in errors] == ["5", "6", "7"], lines
    assert "encoder" in errors[0][2]
    assert "epochs" in errors[1][2]


def test_fit_is_silent_unless_verbose_and_logs_its_notes(tmp_path, capfd, caplog, npz):
    options = {"encoder": "transformer", "head": "linear", **TINY, "steps": 2, "data": npz}
    with caplog.at_level(logging.INFO, "tstk"):
        tstk.fit(**options, out=tmp_path / "silent")
    assert capfd.readouterr() == ("", "")
    tstk.fit(**options, out=tmp_path / "verbose", verbose=True)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "epoch 1/" in shown.err
    notes = [r.getMessage() for r in caplog.records if r.name == "tstk"]
    assert notes
    assert all(f"note: {note}" in shown.err for note in notes)


def test_a_notebook_shows_progress_as_a_bar_if_ipywidgets_is_installed(monkeypatch):
    from rich.console import Console

    from tstk.cli import progress

    console = Console(stderr=True, force_jupyter=True)
    monkeypatch.setattr(progress, "make_console", lambda stderr: console)
    assert progress.is_interactive()
    for spec, kind in ((None, progress.ProgressLines), (object(), progress.ProgressBar)):
        monkeypatch.setattr(progress, "find_spec", lambda name, spec=spec: spec)
        assert type(progress.make_progress_callback()) is kind


def test_paths_are_taken_wherever_a_run_or_a_file_is_named(npz, run):
    pipeline = tstk.build(init_from=Path(run), data=Path(npz), encoder=Path(run))
    assert pipeline.classes == ("0", "1", "2")


def test_a_component_that_is_none_is_left_to_the_config():
    spec = tstk.Spec(2, 40, num_classes=3)
    pipeline = tstk.build({"head": "linear"}, spec, head=None, decoder=None, encoder=None, **TINY)
    assert pipeline.head is not None


def test_components_are_created_by_name():
    spec = tstk.Spec(channels=2, length=40, num_classes=3)
    tokenizer = tstk.build_component("tokenizer", "patch", spec, window=8, dim=16)
    assert tokenizer.out.grid_size == (5,)


def test_components_are_listed_by_kind():
    assert "bert" in tstk.list_components("encoder")
    assert set(tstk.list_components()) == set(SLOTS)
    assert tstk.list_components()["encoder"] == tstk.list_components("encoder")


def test_a_pipeline_is_built_on_a_given_spec_without_data():
    pipeline = tstk.build(encoder="transformer", head="linear", **TINY, spec=tstk.Spec(2, 40, num_classes=3))
    assert pipeline.predict_batch(tstk.Series(torch.randn(4, 2, 40))).shape == (4, 3)


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"encodr": "bert"}, "no option 'encodr'. Did you mean 'encoder'"),
        ({"encoder": "brt"}, "Did you mean 'bert'"),
        ({"encoder": "bert", "encoder__detph": 2}, "Did you mean 'depth'"),
        ({"encoder": "bert", "epochs": "many"}, "expected int"),
    ],
)
def test_mistakes_are_refused_as_on_the_command_line(choices, says):
    with pytest.raises(tstk.TstkError, match=says):
        tstk.build(spec=tstk.Spec(2, 40, num_classes=3), **choices)
