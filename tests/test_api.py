"""The Python interface has the names of the command line."""

import subprocess
import sys
from importlib import metadata

import pytest
import torch

import tstk

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
