"""Arrays as users pass them to a pipeline or an estimator: every layout and type is the same numbers, or is refused."""

import numpy as np
import pytest
import torch

import tstk
from tstk.core.types import Spec
from tstk.errors import DataError, OptionError
from tstk.estimators.base import PipelineEstimator
from tstk.sklearn import SeriesClassifier

VALUES = np.round(np.random.default_rng(0).normal(size=(12, 2, 16)) * 8)

LAYOUTS = {
    "reversed series": lambda x: x[::-1].copy()[::-1],
    "reversed time": lambda x: x[..., ::-1].copy()[..., ::-1],
    "reversed channels": lambda x: x[:, ::-1].copy()[:, ::-1],
    "Fortran order": np.asfortranarray,
    "a transposed view": lambda x: x.transpose(2, 1, 0).copy().transpose(2, 1, 0),
    "every other sample": lambda x: np.repeat(x, 2, 2)[..., ::2],
    "big-endian floats": lambda x: x.astype(">f4"),
    "big-endian integers": lambda x: x.astype(">i2"),
    "half precision": lambda x: x.astype(np.float16),
    "long doubles": lambda x: x.astype(np.longdouble),
    "integers": lambda x: x.astype(np.int64),
    "read-only": lambda x: np.broadcast_to(x, x.shape),
    "nested lists": lambda x: x.tolist(),
    "a mask of nothing": np.ma.masked_invalid,
}
REFUSED = {
    "complex": (VALUES + 1j, "complex128; make the real and the imaginary part channels"),
    "text": (VALUES.astype(str), "its dtype is <U"),
    "objects": (VALUES.astype(object), "its dtype is object"),
    "dates": (VALUES.astype("M8[s]"), "its dtype is datetime64"),
    "unequal lists": ([[[1.0, 2.0], [1.0]]], "pad series of unequal lengths with NaN"),
    "complex tensors": (torch.zeros(1, 2, 16, dtype=torch.complex64), "x is complex"),
}


@pytest.fixture(scope="module")
def pipeline():
    torch.manual_seed(0)
    small = {"tokenizer__window": 4, "encoder__dim": 8, "encoder__depth": 1, "encoder__heads": 2}
    spec = Spec(channels=2, length=16, task="classification", num_outputs=2)
    return tstk.build(spec=spec, tokenizer="patch", encoder="transformer", head="linear", **small)


@pytest.fixture(scope="module")
def classifier():
    options = {"encoder__dim": 8, "encoder__depth": 1, "encoder__heads": 2, "device": "cpu", "threads": 1}
    return SeriesClassifier(tokenizer="patch", encoder="transformer", steps=1, **options).fit(VALUES, np.arange(12) % 2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_pipeline_predicts_the_same_from_every_layout(pipeline, layout):
    expected = pipeline.predict(VALUES).probabilities
    np.testing.assert_array_equal(pipeline.predict(LAYOUTS[layout](VALUES)).probabilities, expected)


@pytest.mark.parametrize("kind", REFUSED)
def test_a_pipeline_refuses_what_are_no_numbers_in_one_line(pipeline, kind):
    x, message = REFUSED[kind]
    with pytest.raises(DataError, match=message) as error:
        pipeline.predict(x)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_masked_samples_are_missing_to_a_pipeline(pipeline, dtype):
    x = np.ma.array(VALUES.astype(dtype), mask=np.random.default_rng(1).random(VALUES.shape) < 0.3)
    expected = pipeline.predict(np.where(x.mask, np.nan, VALUES)).probabilities
    np.testing.assert_array_equal(pipeline.predict(x).probabilities, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_estimator_reads_the_same_from_every_layout(classifier, layout):
    read = PipelineEstimator._validate_series
    expected = read(classifier, VALUES, reset=False)
    assert read(classifier, LAYOUTS[layout](VALUES), reset=False).equal(expected)


def test_masked_samples_are_missing_to_an_estimator(classifier):
    x = np.ma.array(VALUES, mask=np.random.default_rng(1).random(VALUES.shape) < 0.3)
    expected = np.where(x.mask, np.nan, VALUES)
    for given, missing in ((x, expected), (list(x), list(expected))):
        found = PipelineEstimator._validate_series(classifier, given, reset=False)
        assert found.isnan().any()
        np.testing.assert_array_equal(found, PipelineEstimator._validate_series(classifier, missing, reset=False))


@pytest.mark.parametrize(
    ("x", "message"),
    [(VALUES + 1j, "Complex data not supported"), (VALUES.astype("M8[s]"), "expected numbers"), ([["a"] * 9], "'a'")],
)
def test_an_estimator_refuses_what_are_no_numbers(classifier, x, message):
    with pytest.raises(ValueError, match=message):
        classifier.predict(x)


@pytest.mark.parametrize("data", [VALUES, torch.zeros(2, 3), [VALUES]])
def test_arrays_in_place_of_a_name_are_refused_with_what_takes_them(data):
    with pytest.raises(
        OptionError,
        match=r"data is a \w+, and a run records the files of its data: save it with .* or use the estimators",
    ):
        tstk.fit(data=data, encoder="transformer")
