"""Estimators take data frames of pandas, groups, weights and validation data, and give frames where they got some."""

import warnings

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit

from tstk.errors import DataNoteWarning, OptionError
from tstk.sklearn import SeriesClassifier, SeriesForecaster, SeriesRegressor, TokenEncoder

pandas = pytest.importorskip("pandas", reason="pandas is not installed")

TINY = {"tokenizer": "patch", "tokenizer__dim": 8, "tokenizer__window": 4, "encoder__dim": 8, "encoder__depth": 1}
TINY |= {"encoder__heads": 2, "threads": 1, "device": "cpu"}
DRAW = np.random.default_rng(0)
SERIES = DRAW.normal(size=(8, 2, 12))


def make_panel(ids):
    """Return the series as a frame with a row per sample, of an index of ids and times."""
    frames = {name: pandas.DataFrame(series.T, columns=["u", "v"]) for name, series in zip(ids, SERIES, strict=True)}
    return pandas.concat(frames, names=["case", "time"])


def make_table(length=60):
    """Return a frame over days."""
    days = pandas.date_range("2024-02-20", periods=length, freq="D", name="day")
    return pandas.DataFrame({"load": np.sin(np.arange(length)), "price": DRAW.normal(size=length)}, days)


def test_a_multiindex_is_a_series_for_each_id_in_its_order():
    ids, y = list("hgfedcba"), np.arange(8) % 2
    from_frame = SeriesClassifier(steps=2, **TINY).fit(make_panel(ids), pandas.Series(y))
    from_arrays = SeriesClassifier(steps=2, **TINY).fit(SERIES, y)
    np.testing.assert_array_equal(from_frame.predict_proba(make_panel(ids)), from_arrays.predict_proba(SERIES))
    with pytest.raises(ValueError, match="X has 3 levels in its index; expected two"):
        from_frame.predict(pandas.concat({"more": make_panel(ids)}))


@pytest.mark.parametrize("estimator", [SeriesClassifier, SeriesRegressor])
def test_values_whose_index_is_the_ids_in_another_order_are_refused(estimator):
    panel, y = make_panel("hgfedcba"), pandas.Series(np.arange(8) % 2, list("abcdefgh"))
    model = estimator(steps=1, **TINY)
    for arguments in ({"y": y}, {"y": np.arange(8) % 2, "groups": y}, {"y": np.arange(8) % 2, "sample_weight": y + 1}):
        with pytest.raises(ValueError, match="row 0 is that of 'a', and series 0 of X is 'h'") as error:
            model.fit(panel, **arguments)
    assert "sample_weight.loc[X.index.get_level_values(0).unique()] has the order of X" in str(error.value)
    ordered = y.loc[panel.index.get_level_values(0).unique()]
    with pytest.raises(ValueError, match=r"y\.loc\[X.index.get_level_values\(0\).unique\(\)\]"):
        model.fit(panel, ordered, validation=(panel, y))
    expected = estimator(steps=1, **TINY).fit(panel, ordered.to_numpy()).predict(panel)
    np.testing.assert_array_equal(model.fit(panel, ordered).predict(panel), expected)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (list("abcdefgh"), "could not convert column 'x' to numbers, as it holds 'a'; make it the index of the series"),
        (pandas.date_range("2024-01-01", periods=8), "column 'x' holds times; make it the index of the series"),
    ],
)
def test_a_column_that_is_not_numbers_is_named_with_the_remedy(cells, message):
    wide = pandas.DataFrame(SERIES[:, 0], columns=[f"t{i}" for i in range(12)]).assign(x=cells)
    for model in (SeriesClassifier(steps=1, **TINY), TokenEncoder(steps=1, **TINY)):
        with pytest.raises(ValueError, match=message):
            model.fit(wide, np.arange(8) % 2)
    table = make_table().reset_index()
    with pytest.raises(ValueError, match="column 'day' holds times; set_index makes times the index, or leave it out"):
        SeriesForecaster(context=8, horizon=4, steps=1, **TINY).fit(table)
    assert SeriesClassifier(steps=1, **TINY).fit(wide.drop(columns="x").astype(object), np.arange(8) % 2).classes_.size


def test_numbered_columns_that_are_not_in_order_are_warned_of():
    names = [f"t{i}" for i in range(12)]
    wide, y = pandas.DataFrame(SERIES[:, 0], columns=names), np.arange(8) % 2
    with pytest.warns(DataNoteWarning, match="column 't2' follows 't11'; samples are used in the order"):
        SeriesClassifier(steps=1, **TINY).fit(wide[sorted(names)], y)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataNoteWarning)
        for columns in (names, names[::-1]):  # as times, and as the wave numbers of spectra
            SeriesClassifier(steps=1, **TINY).fit(wide[columns], y)


@pytest.mark.parametrize("missing", [None, np.nan, pandas.NA])
def test_a_missing_label_is_refused_by_its_place(missing):
    y = pandas.Series(["a", "b"] * 4, dtype=object)
    y[5] = missing
    with pytest.raises(ValueError, match="Input y contains NaN: series 5 has no label; leave it out of X and y"):
        SeriesClassifier(steps=1, **TINY).fit(SERIES, y)


@pytest.mark.slow
def test_features_have_names_and_come_out_as_frames_with_the_index_of_the_rows():
    wide = pandas.DataFrame(SERIES[:, 0], [f"p{i}" for i in range(8)], [f"t{i}" for i in range(12)])
    encoder = TokenEncoder(steps=1, **TINY).set_output(transform="pandas")
    features = encoder.fit_transform(wide)
    assert list(features.columns) == [f"tokenencoder{i}" for i in range(8)] == list(encoder.get_feature_names_out())
    assert features.index.equals(wide.index)
    panel = make_panel("abcdefgh")
    features = TokenEncoder(steps=1, pool="statistics", **TINY).fit(panel).transform(panel)
    assert features.index.equals(pandas.Index(list("abcdefgh"), name="case"))
    assert features.shape == (8, 16)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [SeriesClassifier, SeriesRegressor])
def test_weights_of_series_change_what_is_learned_and_their_level_does_not_matter(estimator):
    y = np.arange(8) % 2
    options = {"steps": 20, "batch_size": 8, "augment": "off", "val_fraction": 0.0, "standardize": "none", **TINY}
    options |= {"encoder__dropout": 0.0}
    weights = np.array([1, 0, 1, 0, 1, 0, 1, 1])
    models = {
        "equal": estimator(**options).fit(SERIES, y, sample_weight=np.full(8, 7.0)),
        "none": estimator(**options).fit(SERIES, y),
        "weighted": estimator(**options).fit(SERIES, y, sample_weight=weights),
        "scaled": estimator(**options).fit(SERIES, y, sample_weight=weights * 3),
    }
    outputs = {name: model._predict(model._validate_new_series(SERIES)) for name, model in models.items()}
    values = {name: o.values if o.probabilities is None else o.probabilities for name, o in outputs.items()}
    np.testing.assert_array_equal(values["equal"], values["none"])
    np.testing.assert_allclose(values["weighted"], values["scaled"], atol=1e-6)
    assert np.abs(values["weighted"] - values["none"]).max() > 1e-3


def test_the_gradient_of_weighted_series_is_that_of_repeated_ones():
    import torch

    import tstk

    spec = tstk.Spec(2, 12, "classification", 3)
    options = {name: value for name, value in TINY.items() if name not in ("threads", "device")}
    pipeline = tstk.build({"head": "linear"}, spec, **options).eval()
    x, y = torch.from_numpy(SERIES[:3]).float(), torch.tensor([0, 1, 2])
    rows = torch.tensor([0, 0, 2])
    gradients = []
    for series in (
        tstk.Series(x, y=y, sample_id=torch.arange(3), weight=torch.tensor([2.0, 0.0, 1.0])),
        tstk.Series(x[rows], y=y[rows], sample_id=rows),
    ):
        pipeline.zero_grad()
        pipeline(series).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in pipeline.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients)


def test_a_group_is_trained_on_or_held_out(monkeypatch):
    seen = []
    monkeypatch.setattr("tstk.estimators.base.fit", lambda pipeline, data, *_: seen.append(data) or Exception())
    for estimator in (SeriesClassifier, SeriesRegressor, TokenEncoder):
        with pytest.raises(AttributeError):
            estimator(**TINY).fit(SERIES, np.arange(8) % 2, groups=list("aabbccdd"))
    for data in seen:
        assert len(data.train) + len(data.val) == 8
        assert data.val.groups
        assert not set(data.train.groups) & set(data.val.groups)


def test_validation_data_are_not_trained_on(monkeypatch):
    seen = []
    monkeypatch.setattr("tstk.estimators.base.fit", lambda pipeline, data, *_: seen.append(data) or Exception())
    held_out = (SERIES[:2], np.array(["b", "a"]))
    with pytest.raises(AttributeError):
        SeriesClassifier(**TINY).fit(SERIES[2:], np.array(list("ababab")), validation=held_out)
    with pytest.raises(AttributeError):
        SeriesForecaster(6, 2, **TINY).fit(make_table(20), validation=make_table(9))
    assert [len(seen[0].train), seen[0].val.y.tolist()] == [6, [1, 0]]
    assert [len(seen[1].train), len(seen[1].val)] == [13, 2]


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        ({"val_fraction": 0.0}, {"groups": list("aabbccdd")}, "groups has no effect: val_fraction=0 holds nothing out"),
        ({}, {"groups": ["a"] * 8}, "groups has no effect: there is only one"),
        ({}, {"groups": ["a"]}, "1 groups for 8 series"),
        (
            {"val_fraction": 0.2},
            {"validation": (SERIES, [0, 1] * 4)},
            "has no effect with validation",
        ),
        ({}, {"validation": (SERIES, [0, 2] * 4)}, "validation has class 2, which does not occur in y"),
        ({}, {"sample_weight": [-1.0] * 8}, "Negative values in data passed to `sample_weight`"),
        ({"mixup": 0.2}, {"sample_weight": [1.0] * 8}, r"mixup=0\.2 mixes series, which then have no sample_weight"),
    ],
)
def test_what_fit_cannot_use_is_refused(options, given, message):
    with pytest.raises((ValueError, OptionError), match=message):
        SeriesClassifier(steps=1, **options, **TINY).fit(SERIES, [0, 1] * 4, **given)


def test_forecasts_of_a_frame_continue_its_dates():
    table = make_table()
    model = SeriesForecaster(12, 4, steps=2, **TINY).fit(table)
    forecast = model.predict()
    assert list(forecast.columns) == ["load", "price"]
    assert forecast.index.equals(pandas.date_range("2024-04-20", periods=4, freq="D", name="day"))
    pandas.testing.assert_frame_equal(model.predict(table), forecast)
    assert model.predict(table.iloc[:-1]).index[0] == table.index[-1]
    in_arrays = SeriesForecaster(12, 4, steps=2, **TINY).fit(table.to_numpy())
    np.testing.assert_allclose(in_arrays.predict(), forecast)


@pytest.mark.slow
def test_a_grid_of_forecasters_is_searched_in_the_order_of_time():
    table = make_table()
    search = GridSearchCV(
        SeriesForecaster(6, 2, steps=2, **TINY), {"encoder__depth": [1, 2]}, cv=TimeSeriesSplit(2, test_size=14)
    )
    search.fit(table)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    model, rows = search.best_estimator_, table.iloc[-9:]
    truth = np.stack([rows.iloc[6 + i : 8 + i].to_numpy() for i in range(2)])
    forecasts = np.stack([model.predict(rows.iloc[i : 6 + i]).to_numpy() for i in range(2)])
    errors = ((truth - forecasts) ** 2).sum((0, 1)) / ((truth - truth.mean((0, 1))) ** 2).sum((0, 1))
    assert model.score(rows) == pytest.approx(np.mean(1 - errors), abs=1e-5)
    with pytest.raises(ValueError, match=r"X has 7 rows; context=6 and horizon=2 take 8.*TimeSeriesSplit\(test_size"):
        model.score(rows.iloc[:7])


def test_rows_of_a_panel_are_neither_dropped_nor_read_out_of_order():
    panel, y = make_panel("abcdefgh"), np.arange(8) % 2
    nameless = panel.copy()
    nameless.index = pandas.MultiIndex.from_tuples([(None if name == "c" else name, t) for name, t in panel.index])
    with pytest.raises(ValueError, match="X, row 24: no series in the index; give it one, or remove the row"):
        SeriesClassifier(steps=1, **TINY).fit(nameless, y)
    with pytest.raises(ValueError, match="X, series 'h', row 1: 10 follows 11; sort the rows by time"):
        SeriesClassifier(steps=1, **TINY).fit(panel.iloc[::-1], y)


def test_a_forecaster_takes_one_table_in_the_order_of_its_times():
    table = make_table()
    model = SeriesForecaster(6, 2, steps=1, **TINY).fit(table)
    for call in (model.fit, model.predict, model.score):
        with pytest.raises(ValueError, match=r"X, row 1: 2024-04-18 .* follows 2024-04-19 .*; sort the rows"):
            call(table.iloc[::-1])
        with pytest.raises(ValueError, match=r"X, series 'b', row 1: 2024-04-18 .* follows 2024-04-19 .*; sort"):
            call(pandas.concat({"a": table, "b": table.iloc[::-1]}))


@pytest.mark.slow
def test_a_forecaster_is_trained_on_the_series_of_a_multiindex_and_forecasts_each():
    tables = {"b": make_table(), "a": make_table(40) * 3 + 5}
    panel = pandas.concat(tables, names=["shop", "day"])
    model = SeriesForecaster(6, 2, steps=2, **TINY).fit(panel)
    forecast = model.predict()
    assert list(forecast.index.names) == ["shop", "day"]
    pandas.testing.assert_frame_equal(model.predict(panel), forecast)
    for name, table in tables.items():
        expected = model.predict(table)
        assert list(expected.index) == list(table.index[-1] + np.arange(1, 3) * pandas.Timedelta("1D"))
        pandas.testing.assert_frame_equal(forecast.loc[name], expected, check_freq=False, rtol=1e-5)
    scores, counts = [], [len(table) - 7 for table in tables.values()]
    for table in tables.values():
        values = table.to_numpy()
        truth = np.stack([values[i + 6 : i + 8] for i in range(len(table) - 7)])
        forecasts = np.stack([model.predict(table.iloc[i : i + 6]).to_numpy() for i in range(len(table) - 7)])
        scores.append((truth, forecasts))
    truth, forecasts = (np.concatenate(parts) for parts in zip(*scores, strict=True))
    assert len(truth) == sum(counts)
    errors = ((truth - forecasts) ** 2).sum((0, 1)) / ((truth - truth.mean((0, 1))) ** 2).sum((0, 1))
    assert model.score(panel) == pytest.approx(np.mean(1 - errors), abs=1e-4)


def test_a_series_that_is_too_short_for_the_forecaster_is_named():
    panel = pandas.concat({"long": make_table(), "short": make_table(5)})
    with pytest.warns(DataNoteWarning, match=r"1 of 2 series are left out of training.* fewer than 8 rows: short"):
        model = SeriesForecaster(6, 2, steps=2, **TINY).fit(panel)
    with pytest.warns(DataNoteWarning, match=r"1 of 2 series are left out of the forecast.* fewer than 6 rows: short"):
        forecast = model.predict(panel)
    assert set(forecast.index.get_level_values(0)) == {"long"}


@pytest.mark.slow
def test_names_of_series_that_read_alike_are_told_apart():
    panel = pandas.concat({1: make_table(60), "1": make_table(4)}, names=["id", "date"])
    with pytest.warns(DataNoteWarning, match="1 of 2 series are left out of the forecast"):
        forecast = SeriesForecaster(context=8, horizon=3, steps=1).fit(panel).predict()
    assert forecast.index.get_level_values(0).tolist() == [1, 1, 1]


def test_the_dates_of_a_forecast_follow_the_frequency_of_all_rows_not_of_the_last_few():
    table = make_table().set_axis(pandas.date_range("2024-01-01", periods=60, freq="B"))
    expected = pandas.date_range(table.index[-1], periods=3, freq="B")[1:]
    assert table.index[-1].day_name() == "Friday"
    without_freq = table.set_axis(pandas.DatetimeIndex(list(table.index)))
    model = SeriesForecaster(4, 2, steps=1, **TINY).fit(without_freq)
    assert model.predict().index.equals(expected)
    assert model.predict(table.iloc[-4:]).index.equals(expected)


def test_parameters_that_are_set_after_fit_do_not_change_the_window_of_the_pipeline():
    table = make_table()
    model = SeriesForecaster(6, 2, steps=1, **TINY).fit(table)
    forecast, score = model.predict(), model.score(table)
    model.set_params(context=12, horizon=9)
    pandas.testing.assert_frame_equal(model.predict(table.iloc[-6:]), forecast, check_freq=False)
    assert model.score(table) == score
