"""Several series of one table are forecast: each is divided in time, and no window is of two."""

import numpy as np
import pytest
import torch

from tstk.data import lazy_array, load_data
from tstk.data.config import DataConfig
from tstk.data.load import load_split, read_run_splits
from tstk.errors import DataError, DataNoteWarning, OptionError
from tstk.evaluation.linear_forecast import fit_linear_map
from tstk.inference.recordings import _select_train_rows

SIZES = {"b": 60, "a": 90, "c": 40}
CONFIG = DataConfig(context=6, horizon=2)


def write_panel(path, sizes=SIZES, days=True):
    """Write rows of several shops, mixed; return shop -> values [T, C]."""
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=(size, 2)).cumsum(0) + 10 * i for i, (name, size) in enumerate(sizes.items())}
    rows = [(t, name, *row) for name, x in values.items() for t, row in enumerate(x.tolist())]
    day = np.datetime64("2024-01-01")
    lines = [f"{name},{day + t if days else ''},{u},{v}" for t, name, u, v in sorted(rows, key=lambda row: row[0])]
    header = "unique_id,ds,y,visits"
    if not days:
        header, lines = "unique_id,sales,visits", [line.replace(",,", ",") for line in lines]
    path.write_text("\n".join([header, *lines]))
    return values


@pytest.fixture
def panel(tmp_path):
    """Return the path of a panel and its values."""
    path = tmp_path / "panel.csv"
    return str(path), write_panel(path)


def test_each_series_is_divided_in_time_and_no_window_is_of_two(panel):
    path, values = panel
    data = load_data(path, CONFIG)
    assert (data.task, data.spec.length, data.spec.horizon) == ("forecasting", 6, 2)
    for split, start_share, stop_share in (("train", 0, 0.7), ("val", 0.7, 0.8), ("test", 0.8, 1)):
        dataset = data.splits[split]
        series, ids, rows = dataset.batch(torch.arange(len(dataset))), dataset.ids, dataset.rows.tolist()
        expected = []
        for name, x in values.items():
            size, test_size = len(x), int(0.2 * len(x))
            bounds = {0: 0, 0.7: int(0.7 * size), 0.8: size - test_size, 1: size}
            start = max(bounds[start_share] - 6, 0)
            expected += [(name, row) for row in range(start, bounds[stop_share] - 7)]
        assert list(zip(ids, rows, strict=True)) == expected
        windows = torch.cat([series.x, series.y], 2).numpy()
        np.testing.assert_allclose(windows, np.stack([values[n][r : r + 8].T for n, r in expected]), rtol=1e-5)
        assert dataset.start_times == [str(np.datetime64("2024-01-01") + row) for row in rows]
        times = dataset.get_times(len(rows) - 1, 8).astype("datetime64[D]")
        assert times[0] == np.datetime64("2024-01-01") + rows[-1]
    assert "3 series, each divided in time, such as b: 70, 10 and 20 % of the rows" in data.notes


def test_the_statistics_are_those_of_the_training_rows_of_all_series(panel):
    path, values = panel
    data = load_data(path, CONFIG)
    train = np.concatenate([x[: int(0.7 * len(x))] for x in values.values()])
    np.testing.assert_allclose(data.mean, train.mean(0), rtol=1e-5)
    np.testing.assert_allclose(data.std, train.std(0), rtol=1e-5)


def test_a_panel_of_one_series_is_the_table(tmp_path):
    values = write_panel(tmp_path / "one.csv", {"a": 90})["a"]
    rows = [f"{np.datetime64('2024-01-01') + t},{u},{v}" for t, (u, v) in enumerate(values.tolist())]
    (tmp_path / "table.csv").write_text("\n".join(["ds,y,visits", *rows]))
    for options in ({}, {"test_fraction": 0.3}, {"folds": 3, "fold": 2}, {"stride": 3}):
        config = DataConfig(context=6, horizon=2, **options)
        panel = load_data(str(tmp_path / "one.csv"), DataConfig(**vars(config) | {"id_column": "unique_id"}))
        table = load_data(str(tmp_path / "table.csv"), config)
        for split, dataset in table.splits.items():
            assert torch.equal(dataset.table, panel.splits[split].table)
            assert torch.equal(dataset.rows, panel.splits[split].rows)
        assert torch.equal(panel.mean, table.mean)


def test_a_series_that_is_too_short_for_a_window_is_named(tmp_path):
    write_panel(tmp_path / "panel.csv", SIZES | {"tiny": 9})
    data = load_data(str(tmp_path / "panel.csv"), CONFIG)
    assert "tiny" not in data.train.ids
    rest = "1 of 4 series are left out, as they have fewer rows than a context and a horizon, 8: tiny"
    assert any(note.endswith(f"panel.csv, train: {rest}") for note in data.notes)
    write_panel(tmp_path / "short.csv", {"a": 9, "b": 10})
    with pytest.raises(DataError, match=r"train: --context 6 and --horizon 2 take 8 rows, and there are 7 in the long"):
        load_data(str(tmp_path / "short.csv"), CONFIG)
    write_panel(tmp_path / "new.csv", {"a": 9, "tiny": 5})
    with pytest.warns(DataNoteWarning, match="left out, as they have fewer rows than a context, 6: tiny"):
        split = load_split(str(tmp_path / "new.csv"), input_schema=data.input_schema(), include_targets=False)
    assert split.ids == ["a"] * 4


def test_arrays_and_rows_without_times_are_forecast_by_their_place(tmp_path):
    x = np.random.default_rng(0).normal(size=(3, 2, 50))
    x[1, :, 40:] = np.nan
    np.savez(tmp_path / "x.npz", X=x, y=[0, 1, 0])
    data = load_data(str(tmp_path / "x.npz"), CONFIG)
    assert [segment.num_rows for segment in data.train.segments] == [35, 28, 35]
    assert set(data.test.ids) == {"0", "1", "2"}
    assert data.test.start_times is None
    assert "the series are forecast, so their labels and targets are not used" in data.notes
    values = write_panel(tmp_path / "plain.csv", days=False)
    data = load_data(str(tmp_path / "plain.csv"), CONFIG)
    assert {segment.name for segment in data.train.segments} == set(values)


def test_the_series_of_a_test_file_are_its_own(panel, tmp_path):
    _, values = panel
    write_panel(tmp_path / "panel_TEST.csv", {"d": 20})
    (tmp_path / "panel_TRAIN.csv").write_text((tmp_path / "panel.csv").read_text())
    data = load_data(str(tmp_path / "panel_TRAIN.csv"), CONFIG)
    assert data.test.ids == ["d"] * 13
    assert data.train.segments[0].num_rows == round(0.8 * len(values["b"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_fraction": 0.0}, "--val-fraction 0 is for sets of series without a horizon"),
        ({"split_seed": 3}, "--split-seed 3 has no meaning where each series is forecast"),
        ({"resize": 9}, "--resize 9 has no meaning where each series is forecast and divided in time"),
        ({"val_fraction": 0.3}, r"is series, each divided in time \(70, 10 and 20 % of the rows\)"),
        ({"task": "classification"}, "--context 6 has no meaning here: panel is a set of series, for --task class"),
    ],
)
def test_options_that_cannot_take_effect_on_a_panel_are_refused(panel, options, message):
    with pytest.raises(OptionError, match=message):
        load_data(panel[0], DataConfig(context=6, horizon=2, **options))


def test_the_linear_map_is_fitted_to_windows_within_series(panel):
    data = load_data(panel[0], CONFIG)
    fit = fit_linear_map(data.train, data.val, torch.ones(2, 1), "shared")
    batch = data.val.batch(torch.arange(len(data.val)))
    error = float((fit.forecaster(batch) - batch.y).square().mean())
    assert fit.val_mse == pytest.approx(error, rel=1e-4)


def test_missing_labels_of_series_to_forecast_are_not_said_to_be_left_out_of_metrics(tmp_path, recwarn):
    x = np.random.default_rng(0).normal(size=(3, 2, 50))
    np.savez(tmp_path / "x.npz", X=x, y=["a", "", "b"])
    schema = load_data(str(tmp_path / "x.npz"), CONFIG).input_schema()
    load_split(str(tmp_path / "x.npz"), input_schema=schema)
    assert not [str(w.message) for w in recwarn if "have no label" in str(w.message)]


def test_series_that_need_float64_keep_it_even_where_one_alone_would_not(tmp_path):
    rng = np.random.default_rng(0)
    x = 1e8 + rng.normal(size=(20, 1, 60))
    x[0] += 1000 * rng.normal(size=60).round()
    np.savez(tmp_path / "x.npz", X=x)
    data = load_data(str(tmp_path / "x.npz"), CONFIG)
    np.testing.assert_allclose(
        data.train.list_tables()[0].double() + data.offset[0] - 1e8, x[0, :, :42] - 1e8, atol=1e-3
    )


def test_series_in_a_file_that_do_not_fit_into_memory_are_refused_before_they_are_read(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(200, 1, 50)).astype(np.float32))
    monkeypatch.setattr(lazy_array, "MAX_IN_MEMORY_BYTES", 0)
    assert len(load_data(str(tmp_path / "x.npy"), CONFIG).train.segments) == 200
    monkeypatch.setenv("TSTK_MEMORY", "100K")
    with pytest.raises(DataError, match="200 series of 1 x 50 samples, which forecasting holds in memory, take 160 kB"):
        load_data(str(tmp_path / "x.npy"), CONFIG)


def test_the_training_rows_that_a_detector_reads_are_those_of_each_series(panel):
    path, values = panel
    series = _select_train_rows(read_run_splits(path, CONFIG), CONFIG)
    assert series.ids == list(values)
    for x, expected in zip(series.x, values.values(), strict=True):
        end = int(0.7 * len(expected))
        np.testing.assert_allclose(x[:, :end], expected[:end].T, rtol=1e-6)
        assert np.isnan(x[:, end:]).all()
