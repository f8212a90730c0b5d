"""Forecasts that start from a linear map, which is kept if training does not improve on it."""

import os
import signal

import numpy as np
import pytest
import torch

import tstk
from tests.support.grids import slow_after
from tstk.config.resolve import resolve_config
from tstk.core.types import Series
from tstk.errors import IncompatibleError, OptionError, TstkError
from tstk.evaluation import linear_forecast
from tstk.evaluation.linear_forecast import fit_linear_map
from tstk.inference.export import export
from tstk.plugins.registry import get_registry
from tstk.training.callbacks import Callback
from tstk.training.interrupt import TrainingInterrupted
from tstk.training.runs import prepare_training, resume_run, train

ENCODERS = [
    pytest.param(entry.name, marks=pytest.mark.slow) if entry.name == "hf" else entry.name
    for entry in get_registry().list_entries("encoder")
]
SMALL = {"transformer", "bert", "hf"}
PATCH = {"use": "patch", "dim": 16, "window": 4}


@pytest.fixture(scope="module")
def gaps(tmp_path_factory):
    """A table of two channels with missing samples."""
    rng = np.random.default_rng(0)
    rows = np.sin(np.arange(200)[:, None] / [2, 5]) * [1, 40] + [0, 300] + rng.normal(size=(200, 2)) * 0.1
    rows[rng.random(rows.shape) < 0.05] = np.nan
    path = tmp_path_factory.mktemp("data") / "gaps.csv"
    lines = [f"2020-01-01 {i // 60:02}:{i % 60:02}:00,{a},{b}" for i, (a, b) in enumerate(rows)]
    path.write_text("\n".join(["date,u,v", *lines]).replace("nan", ""))
    return str(path)


def config(path, linear="auto", encoder="transformer", **tables):
    sizes = {"dim": 16, "depth": 1, "heads": 2} if encoder in SMALL else {}
    defaults = {
        "tokenizer": PATCH,
        "encoder": {"use": encoder, **sizes},
        "head": "forecast",
        "data": {"use": path, "context": 24, "horizon": 8, **tables.pop("data", {})},
        "train": {"device": "cpu", "epochs": 2, **tables.pop("train", {})},
        "pipeline": {"linear_map": linear, **tables.pop("pipeline", {})},
    }
    return resolve_config(("test", {**defaults, **tables}))


def assert_close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("wiring", [{}, {"channels": "mixed"}, {"instance_norm": False}], ids=str)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_before_training_forecasts_are_those_of_the_linear_map(gaps, encoder, wiring):
    pipeline, data = prepare_training(config(gaps, encoder=encoder, pipeline=wiring))
    series = data.test.batch(torch.arange(len(data.test)))
    assert_close(
        pipeline.eval().predict_batch(series),
        fit_linear_map(data.train, data.val, data.std[:, None]).forecaster(series),
    )


def test_the_output_of_the_head_is_added_in_units_of_the_context(gaps):
    pipeline, data = prepare_training(config(gaps))
    torch.nn.init.ones_(pipeline.head.project.bias)
    output = pipeline.eval().predict_step(data.test.batch(torch.arange(3)))
    assert_close(output.head_output - output.linear_forecast, output.scale.expand_as(output.linear_forecast))


@pytest.mark.slow
@pytest.mark.parametrize("select", ["score", "loss"])
def test_training_that_does_not_improve_on_the_map_leaves_the_map(gaps, tmp_path, select):
    result = train(
        config(gaps, train={"lr": 10.0, "ema_decay": 0.0, "select_by": select, "warmup_ratio": 0.0}), tmp_path / "run"
    )
    assert result.selected.epoch == 0
    assert result.test["mse"] == pytest.approx(result.baselines["linear"]["mse"], rel=1e-5)


@pytest.mark.slow
def test_training_that_improves_on_the_map_is_kept(tmp_path):
    rng = np.random.default_rng(0)
    factors = rng.choice([-1.0, 1.0], (800, 2))
    # the last is left out, so that validation windows begin where triples do
    rows = np.stack([factors[:, 0], factors[:, 1], factors[:, 0] * factors[:, 1]], 1)  # two of each, then their product
    lines = [f"{1900 + i // 28}-01-{i % 28 + 1:02},{value}" for i, value in enumerate(rows.ravel()[:-1])]
    (tmp_path / "products.csv").write_text("\n".join(["date,a", *lines]))
    chosen = config(
        str(tmp_path / "products.csv"),
        data={"context": 2, "horizon": 1, "stride": 3},
        train={"epochs": 30, "batch_size": 16, "lr": 3e-3, "ema_decay": 0.0},
        tokenizer={**PATCH, "window": 1},
        pipeline={"instance_norm": False},
    )
    result = train(chosen, tmp_path / "run")
    assert result.selected.epoch > 0
    assert result.val["mse"] < 0.1


@pytest.mark.parametrize(("linear", "maps"), slow_after(1, [("shared", 1), ("per-channel", 2), ("auto", None)]))
def test_a_run_is_loaded_with_its_map(gaps, tmp_path, linear, maps):
    train(config(gaps, linear, train={"epochs": 1}), tmp_path / "run")
    pipeline, _ = prepare_training(config(gaps, linear))
    loaded = tstk.load(tmp_path / "run")
    assert torch.equal(loaded.linear_map.matrix, pipeline.linear_map.matrix)
    assert torch.equal(loaded.linear_map.level_weights, pipeline.linear_map.level_weights)
    assert maps in (None, len(loaded.linear_map.matrix))


@pytest.mark.slow
@pytest.mark.parametrize("lr", [1e-3, 10.0], ids=["improves", "fails"])
def test_a_run_that_was_interrupted_ends_as_if_it_had_not_been(gaps, tmp_path, lr):
    class InterruptAtStep3(Callback):
        def on_step_end(self, state, step_outputs):
            if state.step == 3:
                os.kill(os.getpid(), signal.SIGINT)

    chosen = config(gaps, train={"lr": lr, "ema_decay": 0.0})
    calm = train(chosen, tmp_path / "calm")
    with pytest.raises(TrainingInterrupted):
        train(chosen, tmp_path / "rough", callbacks=[InterruptAtStep3()])
    rough = resume_run(tmp_path / "rough")
    assert (rough.val, rough.test, rough.selected) == (calm.val, calm.test, calm.selected)
    assert (tmp_path / "rough/model.safetensors").read_bytes() == (tmp_path / "calm/model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_run_initialized_from_another_keeps_the_map_and_another_kind_of_head_is_refused(gaps, tmp_path):
    run, plain = tmp_path / "run", tmp_path / "plain"
    train(config(gaps, train={"epochs": 1}), run)
    train(config(gaps, "none", train={"epochs": 1}), plain)
    inherited = resolve_config(("test", {"pipeline": {"init_from": str(run)}}))
    assert inherited.options("pipeline")["linear_map"] in ("shared", "per-channel")
    assert prepare_training(inherited)[0].linear_map is not None
    for source, linear, says in (
        (run, "none", "trained on top of a linear map"),
        (plain, "auto", "trained without a linear map"),
    ):
        with pytest.raises(OptionError, match=says):
            prepare_training(config(gaps, linear, pipeline={"init_from": str(source)}))


def test_an_encoder_of_such_a_run_may_be_used_for_classes(gaps, npz, tmp_path):
    train(config(gaps, train={"epochs": 1}, pipeline={"channels": "independent"}), tmp_path / "run")
    chosen = resolve_config(("test", {"pipeline": {"init_from": str(tmp_path / "run")}, "head": "linear", "data": npz}))
    assert chosen.options("pipeline")["linear_map"] == "none"


def test_a_pipeline_that_cannot_start_from_a_map_is_refused_before_data_are_read(gaps):
    masked = {"use": "masked", "policy": "tail"}
    tables = config(gaps).values
    for slots in ({"head": "linear"}, {"head": "cot"}, {"loss": masked, "decoder": "transformer"}):
        kept = {k: v for k, v in tables.items() if k in ("tokenizer", "encoder")}
        with pytest.raises(IncompatibleError, match="--linear-map auto: only a forecasting head"):
            prepare_training(
                resolve_config(("test", {**kept, **slots, "data": "nowhere.csv", "pipeline": {"linear_map": "auto"}}))
            )


def test_a_head_that_cannot_start_at_zero_is_refused(build, table_spec, monkeypatch):
    from tstk.builtin.heads.forecast import Forecast

    monkeypatch.delattr(Forecast, "zero_init_last_layer")
    with pytest.raises(IncompatibleError, match="head 'forecast' cannot start from a linear map"):
        build(table_spec, head="forecast", wiring={"linear_map": "shared"})


def test_a_map_that_cannot_be_chosen_or_would_take_too_long_is_refused(gaps, monkeypatch):
    with pytest.raises(
        OptionError, match="--linear-map auto: it is selected on the validation split, which is the test"
    ):
        prepare_training(config(gaps, data={"val_data": "test"}))
    monkeypatch.setattr(linear_forecast, "MAX_PER_CHANNEL_COST", 10)
    assert prepare_training(config(gaps))[0].linear_map.matrix.shape[0] == 1
    with pytest.raises(OptionError, match=r"--linear-map per-channel: channels x context\^2 x \(context \+ horizon\)"):
        prepare_training(config(gaps, "per-channel"))
    monkeypatch.setattr(linear_forecast, "MAX_SHARED_COST", 10)
    with pytest.raises(TstkError, match=r"--linear-map auto: channels x \(context \+ horizon\)\^2"):
        prepare_training(config(gaps))


def test_python_builds_it_fitted(gaps):
    built = tstk.build(config(gaps))
    assert built.linear_map.matrix.any()


@pytest.mark.slow
def test_an_estimator_starts_from_the_map():
    from tstk.sklearn import SeriesForecaster

    table = np.sin(np.arange(200)[:, None] / [2, 5])
    chosen = {"head": "forecast", "encoder": "identity", "linear_map": "auto", "lr": 10.0, "ema_decay": 0.0, "steps": 3}
    model = SeriesForecaster(context=24, horizon=8, **chosen).fit(table[:-8])
    assert any("linear map" in note for note in model.notes_)
    np.testing.assert_allclose(model.predict(), table[-8:], atol=0.05)


def test_a_context_that_is_short_is_forecast_as_the_map_does(gaps):
    pipeline, data = prepare_training(config(gaps))
    series = data.test.batch(torch.arange(3))
    missing = series.observed_mask & (torch.arange(24) >= 10)
    whole = series.replace(x=series.x * missing, observed=missing)
    short = series.replace(x=series.x[..., 10:], observed=series.observed_mask[..., 10:])
    assert_close(pipeline.eval().predict_batch(short), pipeline.linear_map(whole))


@pytest.mark.slow
def test_a_pipeline_with_a_map_leaves_as_a_graph(gaps):
    pipeline, data = prepare_training(config(gaps))
    torch.nn.init.normal_(pipeline.head.project.weight)
    x = data.test.batch(torch.arange(3)).x
    assert_close(export(pipeline.eval()).module()(x), pipeline.predict_batch(Series(x)))
