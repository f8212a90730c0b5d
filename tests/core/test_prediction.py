"""`predict` and `embed` take arrays of any number of series and return arrays."""

import numpy as np
import pytest
import torch

from tstk.core.types import Series, Spec
from tstk.errors import DataError, OptionError

ONE_CHANNEL = Spec(channels=1, length=24, task="classification", num_outputs=3)


def random_series(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.fixture
def classifier(build, labelled_spec):
    pipeline = build(labelled_spec, head="linear").eval()
    pipeline.set_input_schema({"classes": ["sit", "walk", "run"], "channels": ["u", "v"]})
    return pipeline


def test_probabilities_and_labels_are_those_of_the_logits(classifier):
    x = random_series(5, 2, 24)
    prediction = classifier.predict(x)
    logits = classifier.predict_batch(Series(torch.tensor(x, dtype=torch.float32)))
    np.testing.assert_allclose(prediction.probabilities, logits.softmax(1).numpy(), rtol=1e-6)
    assert prediction.labels.tolist() == [("sit", "walk", "run")[i] for i in logits.argmax(1)]
    assert prediction.classes == ("sit", "walk", "run")


@pytest.mark.parametrize("convert", [np.float32, torch.tensor, np.ndarray.tolist, lambda x: Series(torch.tensor(x))])
def test_arrays_tensors_lists_and_series_are_predicted_alike(classifier, convert):
    x = random_series(3, 2, 24)
    np.testing.assert_allclose(
        classifier.predict(convert(x)).probabilities, classifier.predict(x).probabilities, rtol=1e-5
    )


def test_the_batch_size_changes_nothing(classifier):
    x = random_series(7, 2, 24)
    x[::2, :, 15:] = np.nan  # so that batches have different lengths
    np.testing.assert_allclose(
        classifier.predict(x, batch_size=2).probabilities, classifier.predict(x).probabilities, rtol=1e-4
    )
    np.testing.assert_allclose(classifier.embed(x, batch_size=3), classifier.embed(x), rtol=1e-4, atol=1e-5)


def test_one_series_is_a_batch_of_one(build, classifier):
    x = random_series(2, 24)
    np.testing.assert_array_equal(classifier.predict(x).probabilities, classifier.predict(x[None]).probabilities)
    pipeline = build(ONE_CHANNEL, head="linear").eval()
    np.testing.assert_array_equal(pipeline.predict(x[0]).probabilities, pipeline.predict(x[:1, None]).probabilities)


def test_nan_is_a_missing_sample_and_nan_at_the_end_is_the_end_of_a_series(classifier):
    x = random_series(2, 2, 24)
    x[0, 1, 5] = np.nan
    x[:, :, 18:] = np.nan
    observed = torch.tensor(~np.isnan(x))[..., :18]
    series = Series(torch.tensor(np.nan_to_num(x), dtype=torch.float32)[..., :18], observed)
    np.testing.assert_allclose(
        classifier.predict(x).probabilities, classifier.predict_batch(series).softmax(1).numpy(), rtol=1e-5
    )


def test_without_class_names_labels_are_class_indices(build, labelled_spec):
    assert set(build(labelled_spec, head="linear").predict(random_series(4, 2, 24)).labels.tolist()) <= {0, 1, 2}


def test_dropout_and_gradients_are_off_and_every_mode_is_restored(build, labelled_spec):
    pipeline = build(labelled_spec, head="linear", encoder={"dropout": 0.5}).train()
    pipeline.encoder.eval()
    modes = [module.training for module in pipeline.modules()]
    first, second = (pipeline.predict(random_series(4, 2, 24)).probabilities for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert [module.training for module in pipeline.modules()] == modes
    with pytest.raises(DataError):
        pipeline.predict(random_series(4, 2, 99))
    assert [module.training for module in pipeline.modules()] == modes


def test_forecasts_are_in_the_units_of_the_data(build, table_spec):
    pipeline = build(table_spec, head="forecast").eval()
    pipeline.mean.fill_(100.0), pipeline.std.fill_(5.0)
    pipeline.set_input_schema({"channels": ["u", "v"]})
    x = random_series(5, 2, 24) * 5 + 100
    prediction = pipeline.predict(x, batch_size=2)
    series = Series(torch.tensor(x, dtype=torch.float32))
    np.testing.assert_allclose(prediction.forecast, pipeline.predict_batch(series).numpy(), rtol=1e-5)
    assert prediction.channels == ("u", "v")
    assert prediction.labels is None
    assert pipeline.predict(x, horizon=3).forecast.shape == (5, 2, 3)


def test_a_pipeline_without_a_task_names_embed(build, labelled_spec):
    pipeline = build(labelled_spec, decoder="cross").eval()
    with pytest.raises(OptionError, match="use embed for its features"):
        pipeline.predict(random_series(2, 2, 24))
    assert pipeline.embed(random_series(2, 2, 24)).shape == (2, 16)
    assert pipeline.embed(random_series(2, 2, 24), "statistics").shape == (2, 32)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (random_series(24), r"\[24\]; expected \[series, 2, samples\] or \[2, samples\]$"),
        (random_series(3, 24, 2), "looks transposed"),
        (random_series(3, 5, 24), r"expected \[series, 2, samples\]"),
        (random_series(0, 2, 24), "at least one series"),
        (random_series(3, 2, 30), "longer than the 24 of this model"),
        (np.where(np.arange(3)[:, None, None] == 1, np.nan, random_series(3, 2, 24)), r"x\[1\] is entirely missing"),
        (np.where(np.arange(3)[:, None, None] == 2, np.inf, random_series(3, 2, 24)), r"x\[2\] holds an infinite"),
        ([[[1.0, 2.0], [1.0]]], "pad series of unequal lengths with NaN"),
        (np.array([["a"] * 24] * 2), "not an array of numbers"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_remedy(classifier, x, message):
    with pytest.raises(DataError, match=message):
        classifier.predict(x, batch_size=1)


def test_a_batch_of_series_of_one_channel_needs_an_axis_for_it(build):
    with pytest.raises(DataError, match=r"use x\[:, None\]"):
        build(ONE_CHANNEL, head="linear").predict(random_series(7, 24))


def test_series_are_resampled_by_the_caller_if_the_training_data_were(classifier):
    classifier.set_input_schema({"resize": 20})
    with pytest.raises(DataError, match="resampled to 20 samples; resample x"):
        classifier.predict(random_series(1, 2, 24))
    assert len(classifier.predict(random_series(1, 2, 20)).labels) == 1


def test_a_batch_size_of_zero_is_refused(classifier):
    with pytest.raises(OptionError, match="batch_size is 0"):
        classifier.predict(random_series(1, 2, 24), batch_size=0)
