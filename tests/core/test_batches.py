"""Series that are long are computed few at a time, with the results of large batches."""

import torch

from tstk.core import batches
from tstk.core.batches import limit_batch_size, split_rows
from tstk.core.prediction import iter_series
from tstk.data.datasets import SeriesDataset
from tstk.evaluation.evaluate import evaluate, iter_batches


def make_split(count=10, channels=2, length=24):
    x = torch.randn(count, channels, length, generator=torch.Generator().manual_seed(0))
    return SeriesDataset(x, torch.arange(count) % 3)


def test_batches_hold_at_most_so_many_samples_or_one_series():
    assert limit_batch_size(256, batches.MAX_BATCH_SAMPLES // 256) == 256
    assert limit_batch_size(256, batches.MAX_BATCH_SAMPLES // 10) == 10
    assert limit_batch_size(256, batches.MAX_BATCH_SAMPLES * 10) == 1


def test_the_longest_series_decides_and_every_row_occurs_once(monkeypatch):
    monkeypatch.setattr(batches, "MAX_BATCH_SAMPLES", 144)  # of 3 series of 2 channels and 24 samples
    split = make_split()
    assert [len(rows) for rows in split_rows(split, 256)] == [3, 3, 3, 1]
    assert torch.cat(split_rows(split, 256)).tolist() == list(range(10))
    assert [rows.tolist() for rows in split_rows(split, 2, torch.tensor([4, 1, 7]))] == [[4, 1], [7]]
    split.lengths = torch.full((10,), 12)
    assert [len(rows) for rows in split_rows(split, 256)] == [6, 4]


def test_small_batches_give_the_scores_and_predictions_of_large_ones(build, labelled_spec, monkeypatch):
    pipeline, split = build(labelled_spec, head="linear").eval(), make_split()
    scores = evaluate(pipeline, split)
    outputs = torch.cat([pipeline.predict_batch(series) for series in iter_batches(split, 256, "cpu")])
    assert len(list(iter_series(split.x, pipeline, 256))) == 1
    monkeypatch.setattr(batches, "MAX_BATCH_SAMPLES", 100)
    assert len(list(iter_batches(split, 256, "cpu"))) == 5
    assert len(list(iter_series(split.x, pipeline, 256))) == 5
    few = torch.cat([pipeline.predict_batch(series) for series in iter_batches(split, 256, "cpu")])
    torch.testing.assert_close(few, outputs)
    assert evaluate(pipeline, split).keys() == scores.keys()
    for name, value in evaluate(pipeline, split).items():
        torch.testing.assert_close(value, scores[name])
