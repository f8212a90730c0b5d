"""Imputation fills missing samples and only those, from what was observed."""

import numpy as np
import pytest
import torch

from tests.support.grids import slow_after
from tstk.core.types import Series, Spec
from tstk.errors import DataError, OptionError

SPEC = Spec(channels=2, length=24)
TABLE = Spec(channels=2, length=24, horizon=8)
CWT = {"use": "cwt", "dim": 16, "patch_time": 4, "patch_freq": 2, "scales": 4}
VQVAE = {"use": "vqvae", "dim": 8, "hidden": 8, "codes": 12}
PIPELINES = {
    "masked": {"loss": "masked", "decoder": {"use": "transformer", "dim": 16, "depth": 1}},
    "masked, overlapping": {
        "tokenizer": {"stride": 2},
        "loss": "masked",
        "decoder": {"use": "transformer", "dim": 16, "depth": 1},
    },
    "masked, cross": {"loss": "masked", "decoder": {"use": "cross", "heads": 2}},
    "timae": {
        "tokenizer": {"use": "point", "dim": 16},
        "loss": "masked",
        "decoder": {"use": "transformer", "dim": 16, "depth": 1},
    },
    "timae, masked latent": {
        "tokenizer": {"use": "point", "dim": 16},
        "loss": "masked-latent",
        "decoder": {"use": "transformer", "dim": 16, "depth": 1},
    },
    "cwtmae": {"tokenizer": CWT, "loss": "spectrum+time", "decoder": {"use": "transformer", "dim": 16, "depth": 1}},
    "reconstruct": {"loss": "reconstruct", "decoder": "linear"},
    "vqvae": {"tokenizer": VQVAE, "encoder": "identity", "loss": "reconstruct", "decoder": "own"},
    "codes": {
        "tokenizer": VQVAE,
        "encoder": {"use": "transformer", "dim": 16, "heads": 2, "causal": True},
        "loss": "next-code",
        "decoder": "linear",
    },
}


WINDOWS = [pytest.param((name, TABLE), marks=pytest.mark.slow) for name in PIPELINES]


@pytest.fixture(params=[*((name, SPEC) for name in PIPELINES), *WINDOWS], ids=str)
def pipeline(request, build):
    """Return an untrained pipeline of each kind that predicts samples, for series and for windows of a table."""
    name, spec = request.param
    pipeline = build(spec, **PIPELINES[name], wiring={"channels": "auto", "instance_norm": spec is TABLE})
    pipeline.mean.copy_(torch.tensor([[3.0], [-40.0]])), pipeline.std.copy_(torch.tensor([[2.0], [5.0]]))
    return pipeline.eval()


def series_with_gaps(count=3, length=24, seed=0):
    """Return [count, 2, length] float32 with a gap of whole tokens, single missing samples, and one without any."""
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(count, 2, length)).cumsum(2) * [[2.0], [5.0]] + [[3.0], [-40.0]]).astype(np.float32)
    x[0, :, 6:15] = np.nan
    x[1, 0, [1, 9, 20]] = np.nan
    x[1, 1, 3] = np.nan
    return x


def test_missing_samples_are_filled_and_observed_ones_come_back_to_the_bit(pipeline):
    x = series_with_gaps()
    filled = pipeline.impute(x)
    missing = np.isnan(x)
    assert filled.dtype == x.dtype
    np.testing.assert_array_equal(filled[~missing], x[~missing])
    assert np.isfinite(filled[missing]).all()
    assert np.isnan(x).sum() == missing.sum()  # the argument is not changed


def test_predictions_are_in_the_units_of_the_data(pipeline):
    x = series_with_gaps()
    filled = pipeline.impute(x)[np.isnan(x[:, 1]).nonzero()[0][0], 1]
    assert np.abs(filled + 40).max() < 150
    other = pipeline.impute(x * 1.0)
    pipeline.mean += 1000
    np.testing.assert_allclose(pipeline.impute(x + 1000) - 1000, other, atol=0.05)


def test_neither_the_batch_nor_its_size_changes_a_filled_sample(pipeline):
    x = series_with_gaps(5)
    x[3, :, 17:] = np.nan
    whole = pipeline.impute(x)
    np.testing.assert_allclose(pipeline.impute(x, batch_size=2), whole, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(pipeline.impute(x[1]), whole[1], rtol=1e-3, atol=1e-3)


def test_what_follows_a_series_and_what_was_never_observed_stays_missing(pipeline):
    x = series_with_gaps()
    x[2, :, 20:] = np.nan
    x[0, 1] = np.nan
    filled = pipeline.impute(x)
    assert np.isnan(filled[2, :, 20:]).all()
    assert np.isnan(filled[0, 1]).all()
    assert np.isfinite(filled[0, 0]).all()
    assert np.isfinite(filled[2, :, :20]).all()


def test_a_value_that_is_hidden_changes_nothing(pipeline):
    """Hidden values are given to the model as they are, with an observed mask, instead of zeros."""
    x = torch.from_numpy(series_with_gaps(2))
    observed = ~x.isnan()
    first, second = (pipeline.impute(Series(x.nan_to_num(value), observed)) for value in (0.0, 1e3))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("stride", slow_after(2, [None, 5, 24]))
def test_longer_series_are_filled_window_by_window(pipeline, stride):
    x = np.concatenate([series_with_gaps(seed=s) for s in range(3)], 2)
    filled = pipeline.impute(x, stride=stride)
    np.testing.assert_array_equal(np.isnan(filled), np.zeros_like(x, bool))
    if stride == 24:
        np.testing.assert_allclose(filled[..., 24:48], pipeline.impute(x[..., 24:48]), rtol=1e-3, atol=1e-3)


def test_a_large_offset_is_kept_in_float64(build):
    pipeline = build(SPEC, **PIPELINES["masked"]).eval()
    pipeline.set_input_schema({"offset": [1.7e9, 0.0]})
    x = series_with_gaps().astype(np.float64)
    x[:, 0] = np.where(np.isnan(x[:, 0]), np.nan, 1.7e9 + np.arange(24) / 8)
    filled = pipeline.impute(x)
    np.testing.assert_array_equal(filled[~np.isnan(x)], x[~np.isnan(x)])
    assert np.abs(filled[:, 0] - 1.7e9).max() < 1e3


@pytest.mark.parametrize("shape", [(24,), (1, 24), (5, 1, 24)])
def test_the_shape_is_that_of_the_input(build, shape):
    pipeline = build(SPEC.replace(channels=1), **PIPELINES["masked"]).eval()
    x = np.random.default_rng(0).normal(size=shape)
    x[..., 4] = np.nan
    assert pipeline.impute(x).shape == shape
    assert pipeline.impute(x.tolist()).shape == shape


def test_a_pipeline_that_predicts_no_samples_names_losses_that_do(build, labelled_spec):
    pipeline = build(labelled_spec, head="linear").eval()
    with pytest.raises(OptionError, match="train one with --loss masked or --loss reconstruct"):
        pipeline.impute(series_with_gaps())


def test_a_stride_that_skips_samples_and_infinite_samples_are_refused(build):
    pipeline = build(SPEC, **PIPELINES["masked"]).eval()
    with pytest.raises(OptionError, match="--stride 25: expected 1 to 24"):
        pipeline.impute(series_with_gaps(), stride=25)
    x = series_with_gaps()
    x[1, 0, 0] = np.inf
    with pytest.raises(DataError, match="series 2 has samples too large"):
        pipeline.impute(x)


def test_a_masked_prediction_of_a_token_does_not_depend_on_its_samples(build):
    """The token is hidden from the encoder, and so are those that overlap it."""
    from tstk.core.imputation import predict_masked

    for name in ("masked", "masked, overlapping"):
        pipeline = build(SPEC, **PIPELINES[name]).eval()
        x = torch.from_numpy(np.nan_to_num(series_with_gaps()))
        changed = x.clone()
        changed[:, :, 9] += 100.0
        with torch.no_grad():
            first, second = (predict_masked(pipeline, Series(values)) for values in (x, changed))
        assert first.isfinite().all()
        torch.testing.assert_close(first[:, :, 9], second[:, :, 9])
        assert not torch.equal(first, second)


@pytest.mark.parametrize("name", PIPELINES)
def test_training_gives_no_hidden_value_away(build, name):
    """The losses and gradients of series with missing samples do not depend on the values that are missing."""
    results = []
    x = torch.from_numpy(series_with_gaps(4))
    observed = ~x.isnan()
    for value in (0.0, 7.0):
        pipeline = build(SPEC, **PIPELINES[name])
        torch.manual_seed(1)
        step_output = pipeline(Series(x.nan_to_num(value), observed, sample_id=torch.arange(4)))
        step_output.loss.backward()
        results.append((step_output.loss.detach(), [p.grad for p in pipeline.parameters() if p.grad is not None]))
    assert results[0][0].isfinite()
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
