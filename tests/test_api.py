"""The Python interface reads like the command line."""

import json
import subprocess
import sys
import warnings
from importlib import metadata
from pathlib import Path

import pytest
import torch

import tstk
from tstk.errors import CheckpointError, OptionError, SourceChangedWarning

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
    assert result["run"] == str(tmp_path / "run")
    pipeline = tstk.load(result["run"])
    series = tstk.Series(torch.randn(3, 9, 128))
    assert pipeline.predict(series).shape == (3, 6)


def test_components_are_created_by_name():
    spec = tstk.Spec(channels=2, length=40, num_classes=3)
    tokenizer = tstk.build_component("tokenizer", "patch", spec, window=8, dim=16)
    assert tokenizer.out.grid_size == (5,)
    assert "bert" in tstk.list_components("encoder")


def test_a_pipeline_is_built_on_a_given_spec_without_data():
    pipeline = tstk.build(encoder="transformer", head="linear", **TINY, spec=tstk.Spec(2, 40, num_classes=3))
    assert pipeline.predict(tstk.Series(torch.randn(4, 2, 40))).shape == (4, 3)


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
    Scale = define_encoder()
    tstk.fit(encoder=Scale, encoder__power=3, encoder__shift=1, **short, out=run)
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
        assert tstk.load(run, encoder=define_encoder()).predict(series).equal(expected)


def test_a_class_that_has_another_name_or_source_by_now_is_taken_with_a_warning(tmp_path, forget_components, short):
    class Renamed(tstk.Encoder):
        def __init__(self, spec, *, power: int = 1, shift: float | None = None):
            super().__init__(spec)
            self.linear = torch.nn.Linear(spec.dim, spec.dim)

    tstk.fit(encoder=define_encoder(), **short, out=tmp_path / "run")
    forget_components()
    with pytest.warns(SourceChangedWarning, match="the source of encoder 'Scale' has changed since"):
        assert type(tstk.load(tmp_path / "run", encoder=Renamed).encoder) is Renamed


def test_a_run_that_uses_a_class_is_resumed_and_tuned_with_it(tmp_path, forget_components, short):
    run = tmp_path / "run"
    trained = tstk.fit(encoder=define_encoder(), **short, out=run)
    (run / "result.json").unlink()
    forget_components()
    with pytest.raises(CheckpointError, match="belongs to no plugin"):
        tstk.resume(run)
    assert tstk.resume(run, encoder=define_encoder())["test"] == trained["test"]
    forget_components()
    with pytest.raises(CheckpointError, match="belongs to no plugin"):
        tstk.build(init_from=str(run))
    weights = tstk.load(run, encoder=define_encoder()).encoder.state_dict()
    tuned = tstk.build(init_from=str(run), encoder=define_encoder(), head="cot")
    assert all(value.equal(tuned.encoder.state_dict()[name]) for name, value in weights.items())


def test_only_the_classes_of_a_run_can_be_given_to_load_it(tmp_path, forget_components, short):
    tstk.fit(encoder=define_encoder(), **short, out=tmp_path / "run")
    for components, message in (
        ({"head": tstk.Head}, "head=Head: .* has no head without a plugin; it has encoder"),
        ({"encoder": "bert"}, "encoder='bert': expected a class, or its import path"),
        ({"encoder": tstk.Head}, "encoder Head: expected a class derived from tstk.Encoder"),
    ):
        with pytest.raises(OptionError, match=message):
            tstk.load(tmp_path / "run", **components)


def test_a_class_takes_options_and_partners_like_a_component_of_a_plugin(forget_components):
    spec = tstk.Spec(2, 40, num_classes=3)

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


def test_a_class_of_a_notebook_that_has_no_source_works(tmp_path, forget_components, short):
    cell = """
class Plain(tstk.Head):
    def __init__(self, spec, *, bias: bool = True):
        super().__init__(spec)
        self.linear = torch.nn.Linear(spec.dim, spec.num_classes, bias=bias)
    def forward(self, tokens):
        return self.linear(tokens.values.mean(1))
"""
    notebook = {"__name__": "__main__", "tstk": tstk, "torch": torch}
    exec(cell, notebook)
    tstk.fit(**{**short, "head": notebook["Plain"]}, head__bias=False, out=tmp_path / "run")
    assert tstk.load(tmp_path / "run").head.linear.bias is None
