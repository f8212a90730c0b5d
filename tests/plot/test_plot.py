"""`tstk.plot` draws on the axes of the user or on a new figure, and what it draws is what the run computes."""

import datetime
import sys
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.dates import num2date
from matplotlib.figure import Figure

import tstk
from tstk.config.resolve import resolve_config
from tstk.errors import DataError, IncompatibleError, OptionError, TstkError
from tstk.runs.checkpoint import load
from tstk.training.runs import train

matplotlib.use("agg")
TINY = {
    "tokenizer": {"use": "patch", "dim": 16, "window": 4},
    "encoder": {"use": "transformer", "dim": 16, "depth": 1, "heads": 2, "dropout": 0.0},
}


def train_run(folder, **tables):
    options = {"epochs": 1, "batch_size": 16, "device": "cpu"}
    train(resolve_config(("flag", {**TINY, "train": options, **tables})), folder)
    return folder


@pytest.fixture(autouse=True)
def close_figures():
    yield
    pyplot.close("all")


@pytest.fixture(scope="module")
def forecaster(csv, tmp_path_factory):
    data = {"use": csv, "context": 20, "horizon": 5}
    return train_run(tmp_path_factory.mktemp("runs") / "forecaster", head="forecast", data=data)


@pytest.fixture(scope="module")
def masked(npz, tmp_path_factory):
    return train_run(tmp_path_factory.mktemp("runs") / "masked", loss="masked", data=npz)


@pytest.fixture(scope="module")
def autoencoder(npz, tmp_path_factory):
    slots = {"tokenizer": {"use": "vqvae"}, "encoder": {"use": "identity"}, "decoder": {"use": "own"}}
    return train_run(tmp_path_factory.mktemp("runs") / "vq", **slots, loss={"use": "reconstruct"}, data=npz)


def get_lines(axes):
    return {line.get_label(): line for line in axes.lines}


def list_labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_a_forecast_is_drawn_with_its_dates_between_context_and_truth(forecaster):
    axes = tstk.plot.forecast(forecaster, sample=2, channel="u")
    source = tstk.plot.open_data(forecaster)
    series = source.split.batch(torch.tensor([2]))
    want = load(forecaster).predict_batch(series)[0, 0]
    lines = get_lines(axes)
    np.testing.assert_allclose(lines["forecast"].get_ydata(), want, rtol=1e-5)
    observed = np.concatenate([series.x[0, 0, -15:], series.y[0, 0]])
    np.testing.assert_allclose(lines["u"].get_ydata(), observed, rtol=1e-6)
    start = datetime.datetime.fromisoformat(source.split.ids[2])
    first = num2date(lines["forecast"].get_xdata()[0]).replace(tzinfo=None)
    assert abs(first - start - datetime.timedelta(minutes=20)) < datetime.timedelta(seconds=1)
    assert list_labels(axes) == ["u", "forecast"]
    assert axes.get_title(loc="left") == f"test split, window 2 of {len(source.split)}"


def test_a_window_of_a_forecast_is_counted_from_the_first_sample_of_the_context(forecaster):
    lines = get_lines(tstk.plot.forecast(forecaster, window=(18, 22)))
    assert [len(lines[name].get_ydata()) for name in ("v", "forecast")] == [4, 2]
    assert "forecast" not in get_lines(tstk.plot.forecast(forecaster, window=(3, 10)))


def test_a_pipeline_draws_arrays_of_the_user_with_and_without_the_future(forecaster):
    pipeline, x = load(forecaster), np.random.default_rng(0).normal(size=(2, 20)).cumsum(1)
    axes = tstk.plot.forecast(pipeline, x, channel=0)
    np.testing.assert_allclose(get_lines(axes)["forecast"].get_ydata(), pipeline.predict(x).forecast[0, 0], rtol=1e-5)
    assert axes.get_xlabel() == "steps ahead"
    assert np.isnan(get_lines(axes)["u"].get_ydata()[-5:]).all()
    axes = tstk.plot.forecast(pipeline, (x[None], np.ones((1, 2, 5))), channel=0)
    assert get_lines(axes)["u"].get_ydata()[-5:].tolist() == [1.0] * 5


def test_intervals_of_sample_paths_are_shaded_around_their_mean():
    from tstk.plot.forecasts import ForecastSeries, draw_forecast
    from tstk.plot.style import SampleAxis

    paths = torch.arange(101.0)[:, None].expand(-1, 4)
    series = ForecastSeries(torch.zeros(8), paths.mean(0), torch.zeros(4), paths)
    draw_forecast(axes := Figure().subplots(), series, SampleAxis(12, first=-7))
    bands = {band.get_label(): band.get_paths()[0].vertices[:, 1] for band in axes.collections}
    assert {name: (band.min(), band.max()) for name, band in bands.items()} == {
        "80 % interval": (10, 90),
        "50 % interval": (25, 75),
    }


def test_tokens_are_bands_that_end_where_the_tokenizer_says(masked):
    axes = tstk.plot.tokens(masked, sample=1, channel="1")
    spans = [band.get_paths()[0].vertices[:, 0] for band in axes.collections]
    assert [(span.min(), span.max()) for span in spans] == [(4 * k - 0.5, 4 * k + 3.5) for k in range(5)]
    assert list_labels(axes) == ["1", "token of 4 samples"]
    x = tstk.plot.open_data(masked).split.batch(torch.tensor([1])).x[0, 1]
    np.testing.assert_allclose(get_lines(axes)["1"].get_ydata(), x)


def test_tokens_without_an_observed_sample_are_hatched(masked):
    x = np.random.default_rng(0).normal(size=(2, 20))
    x[:, 4:8] = np.nan
    axes = tstk.plot.tokens(load(masked), x)
    assert [bool(band.get_hatch()) for band in axes.collections] == [False, True, False, False, False]


def test_codes_are_written_over_the_samples_that_they_stand_for(autoencoder):
    axes = tstk.plot.tokens(autoencoder, sample=3)
    pipeline = load(autoencoder)
    ids = pipeline.tokenize(tstk.plot.open_data(autoencoder).split.batch(torch.tensor([3]))).tokens.ids
    written = [int(text.get_text()) for text in axes.texts if text.get_text() != "-"]
    assert written == ids[0, : len(written)].tolist()
    assert any(label.startswith("code of ") for label in list_labels(axes))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tokenizer", "label"),
    [
        ({"use": "vqshape"}, "shape of a code"),
        ({"use": "cwt", "patch_time": 4}, "border of tokens, 4 samples each"),
    ],
)
def test_tokens_of_the_papers_are_shapes_and_coefficients(npz, tmp_path, tokenizer, label):
    tables = {"tokenizer": tokenizer, "pipeline": {"channels": "independent"}}
    run = train_run(tmp_path / "run", **tables, head="linear", data=npz)
    axes = tstk.plot.tokens(run, channel=1)
    assert label in list_labels(axes)
    if tokenizer["use"] == "cwt":
        pipeline = load(run)
        tokens = pipeline.tokenize(tstk.plot.open_data(run).split.batch(torch.tensor([0]))).tokens
        image = pipeline.tokenizer.unpatchify(tokens.target)[1, 0, 0]
        length = axes.images[0].get_array().shape[1]
        np.testing.assert_allclose(axes.images[0].get_array(), image[:, :length].numpy())
        assert axes.get_ylabel() == "scale"


def test_overlapping_tokens_are_stacked_bars():
    from tstk.plot.style import SampleAxis
    from tstk.plot.tokenization import TokenizedSeries, draw_tokens

    starts = np.arange(0, 12, 2)
    series = TokenizedSeries(np.zeros(16), starts, starts + 4, np.ones(6, bool))
    draw_tokens(axes := Figure().subplots(), series, SampleAxis(16), (0, 16), "x")
    spans = [band.get_paths()[0].vertices for band in axes.collections]
    for earlier, later in pairwise(spans):
        assert earlier[:, 0].max() > later[:, 0].min()
        assert earlier[:, 1].max() <= later[:, 1].min() or later[:, 1].max() <= earlier[:, 1].min()


def test_a_reconstruction_shades_the_masked_samples_and_predicts_only_those(masked):
    axes = tstk.plot.reconstruction(masked, sample=1)
    shaded = [patch.get_extents().transformed(axes.transData.inverted()) for patch in axes.patches]
    lines = get_lines(axes)
    inside = [any(box.x0 < t < box.x1 for box in shaded) for t in range(20)]
    assert any(inside)
    differs = ~np.isclose(lines["reconstruction"].get_ydata(), lines["0"].get_ydata(), equal_nan=True)
    assert not differs[~np.array(inside)][~np.isnan(lines["reconstruction"].get_ydata())[~np.array(inside)]].any()
    assert list_labels(axes) == ["0", "masked", "reconstruction"]


def test_an_autoencoder_is_drawn_with_what_it_reconstructs(autoencoder):
    axes = tstk.plot.reconstruction(autoencoder, sample=1, window=(2, 9))
    assert [len(line.get_ydata()) for line in axes.lines] == [7, 7]
    assert "normalized mean square error" in axes.get_title(loc="left")


@pytest.mark.slow
def test_a_codebook_shows_the_codes_in_use_or_how_often_each_is_chosen(autoencoder):
    source = tstk.plot.open_data(autoencoder)
    ids = load(autoencoder).tokenize(source.split.batch(torch.arange(12))).tokens.ids
    axes = tstk.plot.codebook(source, show="usage")
    heights = [bar.get_height() for bar in axes.patches]
    assert sum(heights) == pytest.approx(100)
    assert sum(height > 0 for height in heights) <= len(ids.unique())
    assert heights == sorted(heights, reverse=True)
    names = [text.get_text() for text in tstk.plot.codebook(source).texts]
    assert {int(name.split()[0]) for name in names} <= set(ids.unique().tolist())


def test_a_confusion_matrix_counts_every_series_once(run):
    axes = tstk.plot.confusion(run)
    counts = np.array([int(text.get_text()) for text in axes.texts]).reshape(3, 3)
    split = tstk.plot.open_data(run).split
    predicted = load(run).predict_batch(split.batch(torch.arange(len(split)))).argmax(1)
    want = np.zeros((3, 3), int)
    np.add.at(want, (split.y.numpy(), predicted.numpy()), 1)
    assert counts.tolist() == want.tolist()
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "2"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")


def test_a_confusion_matrix_of_arrays_takes_names_or_numbers_of_classes(run):
    pipeline, x = load(run), np.random.default_rng(0).normal(size=(6, 2, 20))
    by_number = tstk.plot.confusion(pipeline, (x, [0, 1, 2, 0, 1, 2]))
    by_name = tstk.plot.confusion(pipeline, (x, ["0", "1", "2", "0", "1", "2"]))
    assert [text.get_text() for text in by_number.texts] == [text.get_text() for text in by_name.texts]
    with pytest.raises(DataError, match="target 0 is 'walking', no class of this pipeline; its classes are 0, 1, 2"):
        tstk.plot.confusion(pipeline, (x, ["walking"] * 6))
    with pytest.raises(DataError, match="classes of the series are not known"):
        tstk.plot.confusion(pipeline, x)


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_embeddings_are_coloured_by_class(run, method):
    axes = tstk.plot.embedding(run, method=method)
    assert list_labels(axes) == ["0", "1", "2"]
    assert [len(points.get_offsets()) for points in axes.collections] == [4, 4, 4]


@pytest.mark.slow
def test_attention_is_drawn_as_multiples_of_uniform_attention(npz, tmp_path):
    run = train_run(tmp_path / "run", head={"use": "cot", "tokens": 3}, data=npz)
    axes = tstk.plot.attention(run, sample=1)
    image = axes.images[0].get_array()
    assert image.shape[0] == 3
    np.testing.assert_allclose(image.mean(1), 1, rtol=1e-5)


@pytest.mark.slow
def test_axes_of_the_user_are_drawn_on_and_returned_and_nothing_else_is_opened(run, masked):
    axes = Figure().subplots(2)
    assert tstk.plot.tokens(masked, ax=axes[0]) is axes[0]
    assert tstk.plot.confusion(run, ax=axes[1]) is axes[1]
    assert pyplot.get_fignums() == []
    assert isinstance(tstk.plot.tokens(masked), matplotlib.axes.Axes)
    assert len(pyplot.get_fignums()) == 1


@pytest.mark.parametrize(
    ("kind", "options", "error", "message"),
    [
        ("forecast", {}, IncompatibleError, "does not forecast"),
        ("reconstruction", {}, IncompatibleError, "predicts no samples of its input"),
        ("attention", {}, IncompatibleError, "has head 'linear'; attention is drawn of the reasoning tokens"),
        ("codebook", {}, IncompatibleError, "makes no codes"),
        ("tokens", {"sample": 12}, OptionError, "--sample 12: the test split has 12 series, from 0 to 11"),
        ("tokens", {"sample": "p"}, OptionError, "have no ids; give --sample N, from 0"),
        ("tokens", {"channel": "z"}, OptionError, "--channel z: the channels are 0, 1"),
        ("tokens", {"window": (30, 40)}, OptionError, "--window 30:40: the series has the samples 0:"),
        ("tokens", {"split": "all"}, OptionError, "--split all: expected train, val, test"),
        ("embedding", {"method": "umap"}, OptionError, "--method umap: expected pca or tsne"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line_and_opens_no_figure(run, kind, options, error, message):
    with pytest.raises(error, match=message):
        getattr(tstk.plot, kind)(run, **options)
    assert pyplot.get_fignums() == []


def test_a_pipeline_without_data_says_what_to_give(run):
    with pytest.raises(OptionError, match="a pipeline holds no data; give an array as `data`, or the run directory"):
        tstk.plot.tokens(load(run))
    with pytest.raises(OptionError, match="give the run directory instead, or an array"):
        tstk.plot.tokens(load(run), "new.npz")


def test_other_data_and_other_splits_are_drawn(run, npz):
    assert tstk.plot.tokens(run, npz).get_title(loc="left").startswith(f"{npz}, series 0")
    assert tstk.plot.tokens(run, split="train").get_title(loc="left").startswith("training split, series 0, class ")
    with pytest.raises(OptionError, match="--split train has no effect with other data"):
        tstk.plot.tokens(run, npz, split="train")


def test_without_matplotlib_the_first_line_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(TstkError, match=r"which is not installed: pip install 'tstk-core\[plot\]'"):
        tstk.plot.tokens(run)


def test_positions_between_dates_and_beyond_them_are_linear():
    from tstk.plot.style import SampleAxis

    axis = SampleAxis(3, times=np.array([10.0, 20.0, 40.0]))
    assert axis.locate([-1, 0, 0.5, 2, 3]).tolist() == [0, 10, 15, 40, 60]
    assert SampleAxis(5, first=-2).locate([0, 4.5]).tolist() == [-2, 2.5]


@pytest.mark.slow
def test_a_channel_is_named_by_its_name_or_else_by_its_number_as_text_too(forecaster):
    by_number = [
        tstk.plot.forecast(forecaster, channel=c).get_legend().get_texts()[0].get_text() for c in (0, "0", "u")
    ]
    assert by_number == ["u"] * 3
    for channel in ("2", 2, "w", -3):
        with pytest.raises(OptionError, match="the channels are u, v, by name or by number from 0 to 1"):
            tstk.plot.forecast(forecaster, channel=channel)


@pytest.mark.parametrize("kind", ["forecast", "tokens"])
def test_a_figure_that_fails_while_it_is_drawn_is_closed(forecaster, kind):
    with pytest.raises(OptionError, match="--window 900:901"):
        getattr(tstk.plot, kind)(forecaster, window=(900, 901))
    assert pyplot.get_fignums() == []


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """A classifier whose classes are named 1, 2 and 3."""
    folder = tmp_path_factory.mktemp("numbered")
    np.savez(folder / "x.npz", x=np.random.default_rng(0).normal(size=(30, 2, 20)), y=np.arange(30) % 3 + 1)
    return load(train_run(folder / "run", head="linear", data=str(folder / "x.npz")))


@pytest.mark.slow
def test_classes_that_are_numbers_are_taken_by_name(numbered):
    x, y = np.random.default_rng(1).normal(size=(6, 2, 20)), [1, 2, 3, 1, 2, 2]
    counts = [
        [int(text.get_text()) for text in tstk.plot.confusion(numbered, (x, targets)).texts]
        for targets in (y, [str(k) for k in y], np.array(y, float))
    ]
    assert counts[0] == counts[1] == counts[2]
    assert np.reshape(counts[0], (3, 3)).sum(1).tolist() == [2, 3, 1]
    assert tstk.plot.tokens(numbered, (x, y), sample=2).get_title(loc="left").endswith("class 3")
    unknown = tstk.plot.confusion(numbered, (x, [1, 2, 3, -1, -1, -1]))
    assert "of 3 correct" in unknown.get_title(loc="left")


@pytest.mark.parametrize(
    ("y", "value"), [([1, 2, 0], "0"), ([1, 2, 7], "7"), ([1, 2, 1.5], "1.5"), (["1", "2", "x"], "'x'")]
)
def test_a_class_that_there_is_not_is_refused_with_its_place(numbered, y, value):
    x = np.random.default_rng(1).normal(size=(3, 2, 20))
    with pytest.raises(DataError, match=f"target 2 is {value}, no class of this pipeline; its classes are 1, 2, 3"):
        tstk.plot.tokens(numbered, (x, y))


@pytest.mark.parametrize("shape", [(2, 2, 4), (2, 1, 5), (2,)])
def test_futures_of_another_shape_than_the_forecast_are_refused(forecaster, shape):
    with pytest.raises(DataError, match=r"the futures have shape .*; expected \[series, 2, 5\]"):
        tstk.plot.forecast(load(forecaster), (np.zeros((2, 2, 20)), np.zeros(shape)))


def test_samples_that_a_batch_marks_as_missing_are_not_drawn(masked):
    from tstk.core.types import Series

    observed = torch.ones(1, 2, 20, dtype=torch.bool)
    observed[:, :, 4:8] = False
    lines = get_lines(tstk.plot.tokens(load(masked), Series(torch.zeros(1, 2, 20), observed)))
    assert np.flatnonzero(np.isnan(lines["0"].get_ydata())).tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (None, {"reader": "csv"}, "--reader has no effect without other data in a file"),
        ("array", {"reader": "csv"}, "--reader has no effect without other data in a file"),
        ("array", {"data_root": "folder"}, "data_root has no effect with an array"),
    ],
)
def test_options_of_the_data_without_effect_are_refused(masked, data, options, message):
    x = np.zeros((2, 2, 20)) if data == "array" else None
    with pytest.raises(OptionError, match=message):
        tstk.plot.open_data(masked, x, **options)
    with pytest.raises(OptionError, match="the data are opened already"):
        tstk.plot.open_data(tstk.plot.open_data(masked), **options)


def test_similar_codes_are_merged_only_where_shapes_are_drawn(autoencoder):
    with pytest.raises(OptionError, match="--merge has no effect with --show usage"):
        tstk.plot.codebook(autoencoder, show="usage", merge=0.5)
    with pytest.raises(OptionError, match=r"--merge -1: expected 0 or more"):
        tstk.plot.codebook(autoencoder, merge=-1)


def test_codes_at_the_ends_of_series_are_counted_and_a_pipeline_in_training_mode_is_restored(autoencoder, monkeypatch):
    from tstk.plot import codes

    monkeypatch.setattr(codes, "MARGIN_TOKENS", 1)
    source = tstk.plot.open_data(autoencoder)
    tokens = source.pipeline.tokenize(source.split.batch(torch.arange(len(source.split)))).tokens
    want = torch.bincount(tokens.ids[tokens.valid], minlength=source.pipeline.tokenizer.out.vocab_size)
    pipeline = source.pipeline.train()
    codebook = codes.compute_codebook(source)
    assert pipeline.training
    assert codebook.counts.tolist() == want.tolist()
    shapes = codebook.shapes[codebook.counts > 0]
    assert bool(shapes[:, codebook.center].isfinite().all())


def test_embeddings_of_unknown_classes_are_grey_among_many_classes_too():
    from tstk.plot.embeddings import Embeddings, draw_embeddings

    y = np.arange(30) % 25
    y[3] = -1
    names = tuple(f"class {k}" for k in range(25))
    draw_embeddings(axes := Figure().subplots(), np.zeros((30, 2)), Embeddings(np.zeros((30, 4)), None, y, names, ""))
    assert [len(points.get_offsets()) for points in axes.collections] == [1, 29]
    assert axes.collections[1].get_array().min() == 0
