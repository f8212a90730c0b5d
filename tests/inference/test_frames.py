"""Data frames are trained on, predicted and forecast; names, ids and dates come out as they went in."""

import json
import shutil
import warnings

import numpy as np
import pytest

import tstk
from tstk.errors import DataChangedWarning, DataError, DataNoteWarning, OptionError

pandas = pytest.importorskip("pandas", reason="pandas is not installed")

TINY = {"encoder__dim": 8, "encoder__depth": 1, "encoder__heads": 2, "tokenizer": "patch", "tokenizer__dim": 8}
TINY |= {"tokenizer__window": 4, "steps": 2, "device": "cpu", "threads": 1}
CLASSES = {**TINY, "head": "linear"}
DRAW = np.random.default_rng(0)


def make_wide(count=12, length=16, start=0):
    """Return a frame with a row per series, with labels, and the names of houses as its index."""
    frame = pandas.DataFrame(DRAW.normal(size=(count, length)), columns=[f"t{i}" for i in range(length)])
    frame.index = pandas.Index([f"h{start + i}" for i in range(count)], name="house")
    return frame.assign(label=["well", "ill"] * (count // 2))


def make_panel(count=8, length=20):
    """Return a frame with a row per sample, whose index is a shop and a date."""
    index = pandas.MultiIndex.from_product(
        [[10 * i for i in range(count)], pandas.date_range("2024-01-01", periods=length, freq="D")],
        names=["shop", "day"],
    )
    return pandas.DataFrame(DRAW.normal(size=(len(index), 2)), index, ["sales", "visits"])


def make_table(length=80, **options):
    """Return a frame over time."""
    index = pandas.date_range("2024-01-01", periods=length, **{"freq": "h", **options})
    return pandas.DataFrame(DRAW.normal(size=(length, 2)), index, ["load", "price"])


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """Return the run of a classifier of wide rows."""
    out = tmp_path_factory.mktemp("runs") / "wide"
    return tstk.fit(data=make_wide(), label_column="label", **CLASSES, out=out).run_dir


@pytest.fixture(scope="module")
def forecaster(tmp_path_factory):
    """Return the run of a forecaster of a table of hours."""
    out = tmp_path_factory.mktemp("runs") / "table"
    table = make_table(tz="Europe/Berlin")
    return tstk.fit(data=table, context=8, horizon=4, head="forecast", **TINY, out=out).run_dir


def test_rows_are_classified_by_name_and_keep_their_index(classifier):
    rows = make_wide(6, start=100).drop(columns="label")
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataNoteWarning)
        predicted = tstk.load(classifier).predict(rows.iloc[::-1])
    assert predicted.index.equals(rows.index[::-1])
    assert list(predicted.columns) == ["predicted", "probability ill", "probability well"]
    assert set(predicted["predicted"]) <= {"ill", "well"}
    expected = tstk.load(classifier).predict(rows.to_numpy()[::-1, None].copy())
    np.testing.assert_allclose(predicted.iloc[:, 1:].to_numpy(), expected.probabilities, atol=1e-6)
    assert isinstance(expected, tstk.Prediction)


def test_the_frame_of_a_run_is_stored_beside_it_and_scored_again_where_it_has_moved(classifier, tmp_path):
    from tstk.inference.predict import score

    config = json.loads((classifier / "config.json").read_text())
    assert config["config"]["data"]["id_column"] == "house"
    assert "DataFrame" not in config["command"]
    moved = tmp_path / "moved"
    shutil.copytree(classifier, moved)
    stored = classifier / "data.parquet"
    stored.rename(stored.with_suffix(".away"))
    with (
        pytest.warns(DataChangedWarning, match=r"data\.parquet is gone; .*moved/data\.parquet of the same name"),
        pytest.raises(DataError, match="data: the data of the run have no test split"),
    ):
        score(moved)
    stored.with_suffix(".away").rename(stored)


@pytest.mark.parametrize("option", ["data", "test_data"])
def test_a_frame_without_a_run_is_refused_by_rows_as_it_counts_them(option, tmp_path):
    frames = {"data": make_wide(), option: make_wide().astype({"t3": object})}
    frames[option].iloc[4, 3] = "broken"
    with pytest.raises(DataError, match="data frame, row 4: column 't3' holds numbers, and here 'broken'"):
        tstk.fit(**frames, label_column="label", **CLASSES, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_frames_are_the_test_split_too(tmp_path):
    run = tstk.fit(
        data=make_wide(), test_data=make_wide(6, start=50), label_column="label", **CLASSES, out=tmp_path / "a"
    )
    assert "accuracy" in run.test
    from tstk.inference.predict import score

    assert score(run.run_dir)["scores"] == pytest.approx(run.test)


@pytest.mark.slow
def test_a_run_of_a_frame_is_resumed(tmp_path):
    trained = tstk.fit(data=make_wide(), label_column="label", **CLASSES, out=tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    assert tstk.resume(tmp_path / "run").val == trained.val


@pytest.mark.slow
def test_series_of_a_multiindex_are_embedded_by_id(tmp_path):
    panel = make_panel()
    run = tstk.fit(data=panel, loss="masked", **TINY, out=tmp_path / "run").run_dir
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataNoteWarning)
        vectors = tstk.load(run).embed(panel.loc[[70, 20]])
    assert vectors.index.equals(pandas.Index([70, 20], name="shop"))
    assert list(vectors.columns) == [f"embedding{i}" for i in range(8)]


@pytest.mark.slow
def test_numbers_are_predicted_by_name(tmp_path):
    frame = make_wide().drop(columns="label").assign(age=DRAW.normal(50, 5, 12))
    run = tstk.fit(data=frame, target_columns=["age"], **CLASSES, out=tmp_path / "run").run_dir
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataNoteWarning)
        ages = tstk.load(run).predict(frame.drop(columns="age").iloc[:3])
    assert list(ages.columns) == ["age"]
    assert ages.index.equals(frame.index[:3])


@pytest.mark.parametrize("freq", ["h", "B", "MS", "ME", "W"])
@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_a_forecast_continues_the_dates_of_its_frame(forecaster, freq, zone):
    table = make_table(
        20,
        freq=freq,
        tz=zone,
    ).rename_axis("when")
    with pytest.warns(DataNoteWarning, match="columns: channels 'load', 'price'"):  # in another order than the frame
        forecast = tstk.load(forecaster).predict(table[["price", "load"]], horizon=3)
    expected = pandas.date_range(table.index[-1], periods=4, freq=freq)[1:]
    assert forecast.index.equals(expected)
    assert forecast.index.dtype == table.index.dtype
    assert (forecast.index.name, list(forecast.columns)) == ("when", ["load", "price"])


def test_each_series_of_a_panel_is_forecast_as_if_it_were_alone(forecaster):
    tables = {name: make_table(12 + i) for i, name in enumerate("ba")}
    panel = pandas.concat(tables, names=["plant", "time"])
    pipeline = tstk.load(forecaster)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataNoteWarning)
        together, alone = pipeline.predict(panel), {name: pipeline.predict(table) for name, table in tables.items()}
    assert list(together.index.names) == ["plant", "time"]
    for name, forecast in alone.items():
        pandas.testing.assert_frame_equal(together.loc[name], forecast, check_freq=False, check_names=False, atol=1e-5)


def test_uneven_dates_are_not_continued_and_a_warning_says_so_at_the_line_of_the_user(forecaster):
    table = make_table(20)
    table.index += pandas.to_timedelta(np.arange(20) ** 2, "min")
    with pytest.warns(
        DataNoteWarning, match="not evenly spaced, so rows of the forecast are numbered from 1"
    ) as caught:
        forecast = tstk.load(forecaster).predict(table)
    assert list(forecast.index) == [1, 2, 3, 4]
    assert {warning.filename for warning in caught} == {__file__}


@pytest.mark.parametrize("freq", ["M", "Q", "W"])
def test_periods_are_continued_from_the_last_one_of_each_series(forecaster, freq):
    starts = {"late": "2024-01", "early": "2020-01"}
    tables = {
        name: make_table(20).set_axis(pandas.period_range(start, periods=20, freq=freq))
        for name, start in starts.items()
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataNoteWarning)
        forecast = tstk.load(forecaster).predict(pandas.concat(tables, names=["shop", "month"]), horizon=2)
    for name, table in tables.items():
        assert list(forecast.loc[name].index) == [table.index[-1] + 1, table.index[-1] + 2]


def test_the_column_of_times_may_be_called_by_a_number(forecaster):
    table = make_table(20).reset_index(drop=True)
    table.insert(0, 0, pandas.date_range("2024-01-01", periods=20))
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataNoteWarning)
        index = tstk.load(forecaster).predict(table, horizon=2).index
    assert index.equals(pandas.date_range("2024-01-21", periods=2))
    assert index.name == 0


@pytest.mark.slow
def test_windows_are_named_by_their_times_where_missing_rows_are_inserted(tmp_path):
    table = make_table()
    options = {"context": 8, "horizon": 4, "head": "forecast", **TINY}
    run = tstk.fit(data=table.drop(table.index[[5, 30]]), regularize=True, **options, out=tmp_path / "run").run_dir
    with pytest.warns(DataNoteWarning, match="^3 missing rows are inserted without samples"):
        vectors = tstk.load(run).embed(table.drop(table.index[3:6]))
    assert vectors.index.equals(table.index[: len(table) - 7])


def test_one_series_with_its_channels_in_another_order_is_refused_with_the_remedy(tmp_path):
    panel = make_panel().assign(label=np.repeat(["a", "b"] * 4, 20))
    run = tstk.fit(data=panel, label_column="label", **CLASSES, out=tmp_path / "run").run_dir
    with pytest.raises(DataError, match=r"has columns visits, sales; expected sales, visits.*select them with frame\["):
        tstk.load(run).predict(panel.loc[10, ["visits", "sales"]])


@pytest.mark.parametrize(
    ("index", "test_index", "message"),
    [
        ("house", None, "test_data: data frame: no column called 'house'"),
        ("house", "home", "the id in its index is 'home', and that of data is 'house'; rename_axis makes them one"),
        (None, "house", r"its index is 'house', and data has none; remove it with reset_index\(drop=True\)"),
    ],
)
def test_ids_that_only_one_of_the_frames_has_are_refused(index, test_index, message, tmp_path):
    frames = []
    for name in (index, test_index):
        frames.append(make_wide().rename_axis(name) if name else make_wide().reset_index(drop=True))
    with pytest.raises(DataError, match=message):
        tstk.fit(data=frames[0], test_data=frames[1], label_column="label", **CLASSES, out=tmp_path / "run")


@pytest.mark.slow
def test_numbers_of_rows_are_not_stored_also_where_another_frame_has_none(tmp_path):
    numbered = make_wide().set_axis(pandas.Index(DRAW.permutation(12) * 37, name="row"))
    frames = {"data": numbered, "test_data": make_wide(6).reset_index(drop=True)}
    run = tstk.fit(**frames, label_column="label", **CLASSES, out=tmp_path / "run")
    config = json.loads((run.run_dir / "config.json").read_text())
    assert (config["config"]["data"]["drop_columns"], config["data"]["length"]) == ([], 16)
    assert "row" not in pandas.read_parquet(run.run_dir / "data.parquet").columns


def test_times_of_a_column_are_continued_as_it_writes_them(forecaster):
    table = make_table(20).reset_index(drop=True)
    days = [f"{day:02}.01.2024" for day in range(1, 23)]
    for column, expected in ((np.arange(20) * 0.5, [10.0, 10.5]), (days[:20], days[20:])):
        with warnings.catch_warnings():
            warnings.simplefilter("error", DataNoteWarning)
            index = tstk.load(forecaster).predict(table.assign(time=column), horizon=2).index
        assert list(index) == expected
        assert index.name == "time"


@pytest.mark.slow
def test_the_level_of_times_is_told_by_its_name_and_an_index_of_numbers_is_left_out(tmp_path):
    panel = make_panel().reset_index(level=1, drop=True).assign(t=list(range(20)) * 8).set_index("t", append=True)
    run = tstk.fit(data=panel.swaplevel(), loss="masked", **TINY, out=tmp_path / "run").run_dir
    assert json.loads((run / "config.json").read_text())["config"]["data"]["id_column"] == "shop"
    numbered = make_wide().reset_index(drop=True).rename_axis("row")
    run = tstk.fit(data=numbered, label_column="label", **CLASSES, out=tmp_path / "numbered").run_dir
    assert json.loads((run / "config.json").read_text())["data"]["length"] == 16


@pytest.mark.slow
def test_rows_without_dates_are_continued_by_number(tmp_path):
    frame = pandas.DataFrame(DRAW.normal(size=(80, 1)), columns=["v"])
    run = tstk.fit(data=frame, context=8, horizon=4, head="forecast", **TINY, out=tmp_path / "run").run_dir
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataNoteWarning)
        assert list(tstk.load(run).predict(frame).index) == [80, 81, 82, 83]


def test_columns_that_a_run_leaves_out_or_uses_in_another_order_are_said(classifier, forecaster):
    table, rows = make_table(20), make_wide(6)
    with pytest.warns(DataNoteWarning, match="left out: 'wind'"):
        tstk.load(forecaster).predict(table.assign(wind=1.0))
    with pytest.warns(DataNoteWarning, match="in the order of their numbers, which is not that of the columns"):
        tstk.load(classifier).predict(rows[rows.columns[::-1]])


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (make_panel().rename_axis(["shop", "sales"]), "both called 'sales'; rename the level with frame.rename_axis"),
        (
            pandas.concat({"north": make_panel()}, names=["region"]),
            "the index has 3 levels, region, shop, day",
        ),
    ],
)
def test_an_index_that_cannot_be_told_is_refused_with_the_remedy(frame, message, tmp_path):
    with pytest.raises(DataError, match=message):
        tstk.fit(data=frame, loss="masked", **TINY, out=tmp_path / "run")


@pytest.mark.parametrize("option", ["data", "val_data"])
def test_a_search_says_in_one_line_that_it_needs_files(option, tmp_path):
    frames = {"data": "har-demo", option: make_table()}
    with pytest.raises(
        OptionError, match=rf"^{option} is a DataFrame, .*to_parquet\('x.parquet'\) and give that path$"
    ):
        tstk.tune({"lr": [1e-3]}, **frames, head="linear", out=tmp_path / "search")


def test_too_few_rows_are_said_of_the_frame_and_not_of_a_file_that_is_gone(tmp_path):
    with pytest.raises(DataError, match="data frame, train rows 1 to 14: --context 96"):
        tstk.fit(data=make_table(20), head="forecast", **TINY, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_panel_is_forecast_by_the_model_that_was_trained_on_it(tmp_path):
    panel = make_panel(3, 40)
    options = {"context": 8, "horizon": 4, "head": "forecast", **TINY}
    run = tstk.fit(data=panel, **options, out=tmp_path / "run").run_dir
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataNoteWarning)
        pipeline = tstk.load(run)
        forecast, alone = pipeline.predict(panel.iloc[::-1].sort_index(level=1)), pipeline.predict(panel.loc[[10]])
        vectors = pipeline.embed(panel)
    assert list(forecast.index.names) == ["shop", "day"]
    assert set(forecast.index.get_level_values(0)) == {0, 10, 20}
    assert forecast.loc[10].index.equals(pandas.date_range("2024-02-10", periods=4, freq="D", name="day"))
    np.testing.assert_allclose(forecast.loc[10].to_numpy(), alone.loc[10].to_numpy(), atol=1e-5)
    assert list(vectors.index) == [(shop, day) for shop in (0, 10, 20) for day in panel.loc[0].index[:33]]


def test_functions_for_files_refuse_frames_in_a_line(forecaster):
    from tstk.inference.detect import detect
    from tstk.inference.impute import impute

    table = make_table(20)
    for function in (impute, detect):
        with pytest.raises(DataError, match=r"data is a DataFrame, .*to_parquet"):
            function(forecaster, table)


def test_what_a_frame_cannot_have_is_refused(forecaster):
    table = make_table(20)
    with pytest.raises(OptionError, match="reader csv has no meaning for a data frame"):
        tstk.fit(data=table, reader="csv", **TINY)
    with pytest.raises(OptionError, match="num_samples: sample paths have no place in a data frame"):
        tstk.load(forecaster).predict(table, num_samples=3)
    with pytest.raises(DataError, match="columns load; expected load, price"):
        tstk.load(forecaster).predict(table[["load"]])
