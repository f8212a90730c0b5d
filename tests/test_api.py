"""The Python interface has the names of the command line."""

import inspect
import json
import logging
import subprocess
import sys
import warnings
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

import tstk
from tstk.config.resolve import SECTIONS
from tstk.errors import CheckpointError, OptionError, SourceChangedWarning
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


@pytest.mark.slow
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


@pytest.mark.slow
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
tstk.build({"head": "linear"}, tstk.Spec(1, 20, "classification", 2), sampling="balanced").predict([1.0])
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


@pytest.mark.slow
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
    spec = tstk.Spec(2, 40, "classification", 3)
    pipeline = tstk.build({"head": "linear"}, spec, head=None, decoder=None, encoder=None, **TINY)
    assert pipeline.head is not None


def test_components_are_created_by_name():
    spec = tstk.Spec(channels=2, length=40, task="classification", num_outputs=3)
    tokenizer = tstk.build_component("tokenizer", "patch", spec, window=8, dim=16)
    assert tokenizer.out.grid_size == (5,)


def test_components_are_listed_by_kind():
    assert "bert" in tstk.list_components("encoder")
    assert set(tstk.list_components()) == set(SLOTS)
    assert tstk.list_components()["encoder"] == tstk.list_components("encoder")


def test_a_pipeline_is_built_on_a_given_spec_without_data():
    pipeline = tstk.build(encoder="transformer", head="linear", **TINY, spec=tstk.Spec(2, 40, "classification", 3))
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
        tstk.build(spec=tstk.Spec(2, 40, "classification", 3), **choices)


# ------------------------------------------------------------------ components without a plugin


def define_encoder(factor=2.0):
    """Return a class as a script or a notebook defines it."""

    class Scale(tstk.Encoder):
        """Scale tokens.

        Args:
            power: of the factor
            shift: added after
        """

        def __init__(self, spec, *, power: int = 1, shift: float | None = None):
            super().__init__(spec)
            self.factor, self.linear = factor**power + (shift or 0), torch.nn.Linear(spec.dim, spec.dim)

        def forward(self, tokens):
            return tokens.replace(values=self.linear(tokens.values) * self.factor)

    return Scale


@pytest.fixture
def short(npz):
    """Return the options of a training of two steps."""
    return {"head": "linear", "data": npz, "tokenizer__dim": 8, "steps": 2, "batch_size": 8, "device": "cpu"}


def test_a_class_trains_is_recorded_and_is_given_again_to_load_the_run(tmp_path, forget_components, short):
    run, series = tmp_path / "run", tstk.Series(torch.randn(3, 2, 20))
    tstk.fit(encoder=define_encoder(), encoder__power=3, encoder__shift=1, **short, out=run)
    record = json.loads((run / "config.json").read_text())["local"]["encoder"]
    assert (record["name"], record["class"], record["file"]) == (
        "Scale",
        "define_encoder.<locals>.Scale",
        str(Path(__file__)) if not Path(__file__).is_relative_to(Path.cwd()) else "tests/test_api.py",
    )
    expected = tstk.load(run).predict(series)  # in the process that trained it, the class is known
    assert tstk.load(run).encoder.factor == 9.0
    forget_components()
    with pytest.raises(CheckpointError) as caught:
        tstk.load(run)
    assert "uses encoder 'Scale', the class define_encoder.<locals>.Scale of" in str(caught.value)
    assert f"tstk.load({str(run)!r}, encoder=CLASS)" in str(caught.value)
    assert "\n" not in str(caught.value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = tstk.load(run, encoder=define_encoder()).predict(series)
        assert np.array_equal(again.probabilities, expected.probabilities)


@pytest.mark.slow
def test_a_class_that_has_another_name_or_source_by_now_is_taken_with_a_warning(tmp_path, forget_components, short):
    class Renamed(tstk.Encoder):
        def __init__(self, spec, *, power: int = 1, shift: float | None = None):
            super().__init__(spec)
            self.linear = torch.nn.Linear(spec.dim, spec.dim)

    tstk.fit(encoder=define_encoder(), **short, out=tmp_path / "run")
    forget_components()
    with pytest.warns(SourceChangedWarning, match="the source of encoder 'Scale' has changed since"):
        assert type(tstk.load(tmp_path / "run", encoder=Renamed).encoder) is Renamed


@pytest.mark.slow
def test_a_run_that_uses_a_class_is_resumed_and_tuned_with_it(tmp_path, forget_components, short):
    run = tmp_path / "run"
    trained = tstk.fit(encoder=define_encoder(), **short, out=run)
    (run / "result.json").unlink()
    forget_components()
    with pytest.raises(CheckpointError, match="belongs to no plugin"):
        tstk.resume(run)
    assert tstk.resume(run, encoder=define_encoder()).test == trained.test
    forget_components()
    with pytest.raises(CheckpointError, match="belongs to no plugin"):
        tstk.build(init_from=str(run))
    weights = tstk.load(run, encoder=define_encoder()).encoder.state_dict()
    tuned = tstk.build(init_from=str(run), encoder=define_encoder(), head="cot")
    assert all(value.equal(tuned.encoder.state_dict()[name]) for name, value in weights.items())


@pytest.mark.slow
def test_only_the_classes_of_a_run_can_be_given_to_load_it(tmp_path, short):
    tstk.fit(encoder=define_encoder(), **short, out=tmp_path / "run")
    for components, message in (
        ({"head": tstk.Head}, "head=Head: .* has no head without a plugin; it has encoder"),
        ({"encoder": "bert"}, "encoder='bert': expected a class, or its import path"),
        ({"encoder": tstk.Head}, "encoder Head: expected a class derived from tstk.Encoder"),
    ):
        with pytest.raises(OptionError, match=message):
            tstk.load(tmp_path / "run", **components)


def test_a_class_takes_options_and_partners_like_a_component_of_a_plugin():
    spec = tstk.Spec(2, 40, "classification", 3)

    @tstk.register("encoder", "scale")
    class Causal(define_encoder()):
        needs = ("vocab_size",)

    assert tstk.build_component("encoder", define_encoder(), spec.replace(dim=4), power=2).factor == 4.0
    assert tstk.build({"encoder": {"use": define_encoder(), "power": 2}}, spec).encoder.factor == 4.0
    with pytest.raises(tstk.TstkError, match="encoder 'scale' needs discrete tokens"):
        tstk.build(encoder="scale", spec=spec)
    with pytest.raises(OptionError, match=r"encoder 'scale' has no option 'powr'.*Did you mean 'power'"):
        tstk.build(encoder="scale", encoder__powr=2, spec=spec)
    with pytest.raises(OptionError, match=r"encoder\.power .*is 'two'; expected int"):
        tstk.build(encoder=Causal, encoder__power="two", spec=spec)


@pytest.mark.slow
def test_a_class_of_a_notebook_that_has_no_source_works(tmp_path, short):
    cell = """
class Plain(tstk.Head):
    def __init__(self, spec, *, bias: bool = True):
        super().__init__(spec)
        self.linear = torch.nn.Linear(spec.dim, spec.num_outputs, bias=bias)
    def forward(self, tokens):
        return self.linear(tokens.values.mean(1))
"""
    notebook = {"__name__": "__main__", "tstk": tstk, "torch": torch}
    exec(cell, notebook)
    tstk.fit(**{**short, "head": notebook["Plain"]}, head__bias=False, out=tmp_path / "run")
    assert tstk.load(tmp_path / "run").head.linear.bias is None


@pytest.mark.slow
def test_a_note_on_data_names_the_line_of_the_user(tmp_path):
    from tstk.errors import DataNoteWarning
    from tstk.inference.predict import predict

    rows = ["id,group,t,x"] + [f"{i},{i % 4},{t},{(i + t) % 7}" for i in range(24) for t in range(16)]
    (tmp_path / "table.csv").write_text("\n".join(rows))
    labelled = [rows[0] + ",label"] + [f"{row},{'ab'[int(row.split(',')[0]) % 2]}" for row in rows[1:]]
    (tmp_path / "labelled.csv").write_text("\n".join(labelled))
    data = str(tmp_path / "labelled.csv")
    tstk.fit(head="linear", **TINY, data=data, test_fraction=0.25, steps=1, out=tmp_path / "run", verbose=False)
    with pytest.warns(DataNoteWarning, match="the rows of an id are one series") as notes:
        predict(tmp_path / "run", str(tmp_path / "table.csv"))
    assert {note.filename for note in notes if note.category is DataNoteWarning} == {__file__}
