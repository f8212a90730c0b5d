"""The commands from pretraining to explanations."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tstk_plugins_vqshape.explain import explain
from tstk_plugins_vqshape.tokenizer import VQShape

from tests.support.shell import call, refuse
from tstk.core.types import Spec
from tstk.data import DataConfig, load_data
from tstk.errors import IncompatibleError
from tstk.runs.checkpoint import load

pytestmark = pytest.mark.slow

SMALL = {"dim": 16, "depth": 1, "query-depth": 1, "heads": 2, "tokens": 6, "codes": 9, "points": 32, "shape-width": 16}
TOKENIZER = [f"--tokenizer.{k}={v}" for k, v in SMALL.items()]
DECODER = ["--decoder.dim=16", "--decoder.heads=2"]
QUICK = ["--batch-size=16", "--threads=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two data sets, a run pretrained on both, and two classifiers on one of them."""
    folder = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    for name, channels, length in (("waves", 2, 40), ("others", 3, 25)):
        y = np.arange(48) % 2
        time = np.linspace(0, 1, length)
        x = np.sin(2 * np.pi * (1 + 2 * y[:, None, None]) * time + rng.uniform(0, 0.5, (48, channels, 1)))
        x = (x + 0.1 * rng.normal(size=x.shape)).astype(np.float32)
        np.savez(folder / f"{name}.npz", X_train=x[:32], y_train=y[:32], X_test=x[32:], y_test=y[32:])
    both = f"{folder / 'waves.npz'},{folder / 'others.npz'}"
    few = [*QUICK, "--resize=32", "--steps=60", "--validate-every=30"]
    call("train", "--config", "vqshape/small", *TOKENIZER, *DECODER, *few, "--data", both, "--out", folder / "shapes")
    mount = ["--init-from", folder / "shapes", "--data", folder / "waves.npz", *QUICK, "--epochs=20"]
    for name in ("tokens", "histogram"):
        call("train", "--config", f"vqshape/{name}", *mount, "--out", folder / name)
    return folder


def test_shapes_are_learnt_from_several_sets_and_the_run_says_so(folder):
    facts = json.loads((folder / "shapes" / "config.json").read_text())
    assert facts["data"]["split_channels"]
    assert facts["data"]["resize"] == 32
    assert len((folder / "shapes" / "metrics.jsonl").read_text().splitlines()) == 2
    assert "perplexity" in json.loads((folder / "shapes" / "result.json").read_text())["test"]


def test_classifiers_take_over_length_and_tokenizer_and_learn(folder):
    before = load(folder / "shapes").tokenizer.state_dict()
    for name in ("tokens", "histogram"):
        run = load(folder / name)
        assert run.spec.length == 32
        assert run.spec.channels == 2
        assert all(torch.equal(before[k], v) for k, v in run.tokenizer.state_dict().items() if "counts" not in k)
    assert json.loads((folder / "tokens" / "result.json").read_text())["test"]["accuracy"] > 0.8


@pytest.mark.parametrize(("features", "width"), [("tokens", 2 * 6 * 12), ("counts", 2 * 9), ("codes", 2 * 9)])
def test_one_run_embeds_series_of_any_number_of_channels(folder, features, width):
    out = folder / f"{features}.npz"
    call("embed", folder / "shapes", "--data", folder / "waves.npz", "--features", features, "--out", out)
    rows = np.load(out)["embedding"]
    assert rows.shape == (16, width)
    if features == "counts":
        assert (rows.reshape(16, 2, 9).sum(2) == 6).all()
    call("embed", folder / "shapes", "--data", folder / "others.npz", "--features", features, "--out", out, "--force")
    assert np.load(out)["embedding"].shape == (16, width // 2 * 3)


def test_a_probe_takes_any_labelled_set(folder):
    words = [
        "probe",
        folder / "shapes",
        "--data",
        folder / "others.npz",
        "--features",
        "codes",
        "--untrained",
        "--json",
    ]
    result = json.loads(call(*words).stdout)
    assert result["width"] == 27
    assert {row["weights"] for row in result["results"]} == {"trained", "untrained"}
    assert "these data are without labels" in refuse("probe", folder / "shapes")


def test_a_histogram_counts_each_channel_for_itself(folder):
    run = load(folder / "histogram")
    series = load_data(str(folder / "waves.npz"), DataConfig(resize=32)).test.batch(torch.arange(5))
    counts = run.head.count_codes(run.encode(series)).reshape(5, 2, 9)
    ids = run.tokenize(series).tokens.ids.reshape(5, 2, 6)
    for i in range(5):
        for c in range(2):
            assert counts[i, c].tolist() == torch.bincount(ids[i, c], minlength=9).tolist()


@pytest.mark.parametrize("name", ["tokens", "histogram"])
def test_the_contributions_of_shapes_add_up_to_the_margin(folder, name):
    run = load(folder / name)
    part = load_data(str(folder / "waves.npz"), DataConfig(resize=32)).test
    explanation = explain(run, part, 3, ("slow", "fast"), ("a", "b"))
    logits = run.predict_batch(part.batch(torch.tensor([3])))[0]
    lead = logits.max() - logits.min()
    tokens = run.encode(part.batch(torch.tensor([3])))
    none = run.head(tokens.replace(valid=torch.zeros_like(tokens.valid)))[0].detach()
    without_all = none[logits.argmax()] - none[logits.argmin()]
    assert float(explanation.attribution.sum()) == pytest.approx(float(lead - without_all), abs=1e-3)
    assert explanation.classes[0] == ("slow", "fast")[int(logits.argmax())]
    ids = run.tokenize(part.batch(torch.tensor([3]))).tokens.ids
    assert torch.equal(explanation.ids, ids)


def test_pictures_are_drawn_and_stand_in_the_report(folder):
    pytest.importorskip("matplotlib")
    for run in ("shapes", "histogram"):
        out = folder / run / "codebook.png"
        assert call("plot", "codebook", folder / run, "--merge", "0.5", "--out", out).stdout == f"{out}\n"
        assert out.read_bytes().startswith(b"\x89PNG")
        page = call("report", folder / run).stdout.strip()
        assert "Shapes in the series" in Path(page).read_text(encoding="utf-8")
    words = ["explain", folder / "shapes", "--data", folder / "others.npz", "--index", "2", "--out", folder / "a.png"]
    assert "covers" in call(*words).stdout
    assert "attribution" in call("explain", folder / "tokens", "--index", "1").stdout
    assert (folder / "tokens" / "explain-1.png").is_file()
    assert "the part has 16 series" in refuse("explain", folder / "tokens", "--index", "16")


def test_a_series_of_several_channels_is_refused_with_the_remedy():
    with pytest.raises(IncompatibleError, match="use --channels independent"):
        VQShape(Spec(2, 32))


@pytest.mark.parametrize(
    ("flag", "message"),
    [("points=33", "multiple of 16"), ("smooth=2", "odd number"), ("shortest=1.5", "more than 0 and less than 1")],
)
def test_sizes_that_cannot_work_are_refused(flag, message):
    assert message in refuse("train", "--config", "vqshape/small", f"--tokenizer.{flag}", "--dry-run")


def test_configs_are_complete():
    from tstk.plugins.registry import get_registry

    for entry in get_registry().list_entries("config"):
        if entry.name.startswith("vqshape/") and entry.name.split("/")[1] in ("pretrain", "512-64", "small"):
            assert "[tokenizer]" in call("train", "--config", entry.name, "--print-config").stdout


@pytest.mark.parametrize("name", ["tokens", "histogram"])
def test_a_classifier_of_shapes_can_be_exported(folder, name):
    from tstk.inference.export import export

    run = load(folder / name)
    program = export(run)
    assert program.module()(torch.randn(7, 2, 32)).shape == (7, 2)
