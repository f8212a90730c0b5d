"""Records print shapes, dtypes and names, never the values of tensors."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from tstk.core.repr import ShortRepr
from tstk.core.task import Prediction
from tstk.core.types import Series, Spec
from tstk.data.containers import SeriesSet, Table
from tstk.data.datasets import Conditioning, GeneratedDataset, RepeatDataset, SeriesDataset, WindowDataset
from tstk.data.load import load_data

SECRET = 0.123456789
"""The value of every element below; it must not be printed."""


def full(*shape):
    return torch.full(shape, SECRET)


def make_records():
    array = np.full((20, 2, 40), SECRET, np.float32)
    dataset = SeriesDataset(full(5, 2, 7), torch.arange(5))
    return [
        Series(full(4, 2, 24), observed=torch.ones(4, 2, 24, dtype=torch.bool), conditioning={"text": (full(4, 3), 1)}),
        SeriesSet(array, "x.npz", y=["a"] * 20),
        Table(array[0].T, "t.csv", ("u", "v")),
        dataset,
        RepeatDataset(dataset, torch.arange(3)),
        GeneratedDataset(lambda index: full(len(index), 1, 9), 100, 9),
        WindowDataset(full(2, 50), 10, 5),
        Conditioning(full(3, 2, 8), torch.ones(3, 2, dtype=torch.bool), torch.arange(3)),
        Prediction(np.array(["a"] * 99), np.full((99, 3), SECRET), ("a", "b", "c")),
    ]


@pytest.mark.parametrize("record", make_records(), ids=lambda r: type(r).__name__)
def test_a_record_prints_its_shapes_and_not_its_values(record):
    text = repr(record)
    assert text.startswith(type(record).__name__ + "(")
    assert "0.123" not in text
    assert "tensor(" not in text
    assert len(text) < 300


def test_a_series_is_one_line():
    series = Series(torch.zeros(32, 9, 128), y=torch.zeros(32, dtype=torch.long))
    assert repr(series) == "Series(x=float32[32, 9, 128], y=int64[32])"


def test_another_device_than_the_cpu_is_named():
    assert repr(Series(torch.zeros(1, 2, 3, device="meta"))) == "Series(x=float32[1, 2, 3] on meta)"


def test_a_spec_prints_what_differs_from_its_defaults():
    assert (
        repr(Spec(9, 128, task="classification", num_outputs=6))
        == "Spec(channels=9, length=128, task='classification', num_outputs=6)"
    )


def test_a_step_output_is_a_few_lines_that_name_its_tensors(build, labelled_spec, ragged):
    text = repr(build(labelled_spec, head="linear")(ragged()))
    assert "head_output=float32[4, 3]" in text
    assert "tokens=Tokens(" in text
    assert "visible=tokens" in text  # a head sees all of them
    assert "tensor" not in text
    assert text.count("\n") < 16


def test_a_data_module_names_its_classes_and_splits():
    text = repr(load_data("har-demo"))
    assert "train=SeriesDataset(x=float32[" in text
    assert "spec=Spec(channels=9, length=128" in text
    assert "'walking" in text.lower()
    assert text.count("\n") < 30


def test_long_sequences_and_texts_are_shortened():
    @dataclass(repr=False)
    class Record(ShortRepr):
        rows: list[int]
        text: str

    assert (
        repr(Record([*range(100)], "a" * 200))
        == f"Record(rows=[0, 1, 2, 3, 4, 5, ... 100 in all], text='{'a' * 57}...')"
    )
