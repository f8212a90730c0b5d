"""A report shows a run on one self-contained page."""

import json
import re
import shutil
import sys
from base64 import b64decode
from html.parser import HTMLParser
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from matplotlib.figure import Figure

from tests.support.grids import slow_after
from tstk.cli import cli
from tstk.config.records import RunConfig
from tstk.config.resolve import resolve_config
from tstk.core.rng import SampleRNG
from tstk.data import load_data
from tstk.errors import CheckpointError, OptionError, TstkError
from tstk.evaluation.classification import score_probabilities
from tstk.plot.reconstructions import find_masked_samples, reconstruct_masked_tokens
from tstk.report import classes, load_context, predictions, summary, write_report
from tstk.report.context import Selection
from tstk.report.page import Section
from tstk.runs.checkpoint import load
from tstk.training.runs import train

TINY = {
    "tokenizer": {"use": "patch", "dim": 16, "window": 4},
    "encoder": {"use": "transformer", "dim": 16, "depth": 1, "heads": 2, "dropout": 0.0},
}
VOID = {"meta", "img", "br", "wbr", "hr", "link", "input"}


class Page(HTMLParser):
    """A parsed page: titles, pictures, text; refuses tags that do not close in order."""

    def __init__(self, html):
        super().__init__()
        self.open, self.titles, self.pictures, self.links, self.text = [], [], [], [], ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        named = dict(attributes)
        assert len(named) == len(attributes)
        self.links += [named[name] for name in ("src", "href", "srcset", "data", "action") if name in named]
        if tag == "img":
            self.pictures.append(named)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["h2"]:
            self.titles.append(data)
        if self.open[-1:] != ["style"]:
            self.text += data + " "


def train_classifier(folder, epochs=2, **tables):
    config = resolve_config(
        ("flag", {**TINY, "train": {"epochs": epochs, "batch_size": 16, "device": "cpu"}, **tables})
    )
    train(config, folder, command="tstk train --these <flags>")
    return folder


def read(run, tmp_path):
    return Page(write_report(run, tmp_path / "page.html", force=True).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def masked(npz, tmp_path_factory):
    """Masked pretraining on labelled series of unequal lengths, one epoch."""
    return train_classifier(tmp_path_factory.mktemp("runs") / "masked", epochs=1, loss="masked", data=npz)


@pytest.fixture(scope="module")
def forecaster(csv, tmp_path_factory):
    """A forecasting head on a small table."""
    data = {"use": csv, "context": 20, "horizon": 5}
    return train_classifier(tmp_path_factory.mktemp("runs") / "forecaster", head="forecast", data=data)


@pytest.mark.slow
def test_a_classifier_is_reported_with_its_confusion_matrix_and_classes(run, tmp_path):
    page = read(run, tmp_path)
    wanted = ["Training", "Classes, test split", "Embeddings, test split", "Config", "Reproduce"]
    assert page.titles == wanted
    result = json.loads((run / "result.json").read_text())
    assert f"{result['test']['accuracy']:.4f}" in page.text
    assert f"majority class {result['baselines']['majority class']['accuracy']:.4f}" in page.text
    assert f"epoch {result['selected']['epoch']} of 2" in page.text
    assert re.search(r"Temporal order, 12 series: accuracy .* with tokens shuffled in time .*the model \w+", page.text)


@pytest.mark.slow
def test_a_classifier_is_reported_with_intervals_and_the_curves_of_its_probabilities(run, tmp_path):
    page = read(run, tmp_path)
    result = json.loads((run / "result.json").read_text())["classification"]
    low, high = result["intervals"]["auroc"]
    assert f"AUROC {result['scores']['auroc']:.4f} [{low:.4f}, {high:.4f}]" in " ".join(page.text.split())
    sensitivity, ends = result["per_class"]["1"]["sensitivity"], result["per_class_intervals"]["1"]["sensitivity"]
    assert f"{sensitivity:.3f} [{ends[0]:.3f}, {ends[1]:.3f}]" in page.text
    assert "1,000 bootstrap resamples of 12 series" in page.text
    texts = [picture["alt"] for picture in page.pictures]
    for start in ("ROC, one class", "Precision and recall, one class", "Accuracy by probability in 15 bins"):
        assert sum(text.startswith(start) for text in texts) == 1
    assert any(f"2 {result['per_class']['2']['auroc']:.3f}" in text for text in texts)


def test_the_curves_of_a_class_pass_the_points_that_are_counted_by_hand(monkeypatch):
    drawn = []
    monkeypatch.setattr(classes, "render_panel", lambda title, alt, draw, height: drawn.append(draw) or "")
    targets, positive = np.array([1, 0, 1, 0]), np.array([0.9, 0.8, 0.3, 0.3])
    probabilities = np.stack([1 - positive, positive], 1)
    result = score_probabilities(targets, probabilities, ["a", "b"])
    classes._plot_class_curves(targets, probabilities, result)
    classes._plot_reliability(targets, probabilities, result)
    curves = []
    for draw in drawn:
        draw(axes := Figure().subplots())
        curves.append([np.asarray(line.get_xydata()).tolist() for line in axes.lines])
    roc, precision_recall, reliability = curves
    assert roc[1] == [[0, 0], [0, 0.5], [0.5, 0.5], [1, 1]]
    assert precision_recall[1] == [[0, 1], [0.5, 1], [0.5, 0.5], [1, 0.5]]
    assert reliability[1] == [pytest.approx(point) for point in ([0.7, 0.5], [0.8, 0], [0.9, 1])]


@pytest.mark.slow
def test_a_report_of_one_class_says_what_is_undefined(npz, run, tmp_path):
    arrays = dict(np.load(npz))
    arrays["y_test"] = np.zeros_like(arrays["y_test"])
    np.savez(tmp_path / "one.npz", **arrays)
    copy = train_classifier(tmp_path / "run", epochs=1, head="linear", data=str(tmp_path / "one.npz"))
    page = read(copy, tmp_path)
    assert "Undefined: kappa, mcc, auroc, auprc; all 12 series are of class 0." in page.text
    assert not any(picture["alt"].startswith("ROC") for picture in page.pictures)
    assert "nan" not in page.text.lower()


@pytest.mark.slow
def test_the_matrix_counts_every_series_of_the_test_part_once(run, npz):
    html = classes.render_classes(load_context(run)).html
    counts = np.array([int(n) for n in re.findall(r"<td style=[^>]*>(\d+)</td>", html)]).reshape(3, 3)
    data = load_data(npz)
    guess = load(run).predict_batch(data.test.batch(torch.arange(len(data.test)))).argmax(1)
    want = np.zeros((3, 3), int)
    np.add.at(want, (data.test.y.numpy(), guess.numpy()), 1)
    assert counts.tolist() == want.tolist()


@pytest.mark.slow
def test_a_forecaster_is_reported_with_forecasts_and_errors_by_step(forecaster, tmp_path):
    page = read(forecaster, tmp_path)
    assert page.titles == ["Training", "Forecasts, test split", "Config", "Reproduce"]
    assert "last value" in page.text
    assert sum("forecast of" in picture["alt"] for picture in page.pictures) == 6


@pytest.mark.slow
def test_a_channel_that_decides_the_mean_mase_because_it_hardly_changes_is_named(tmp_path):
    rows = [f"2020-01-{1 + i // 24:02}T{i % 24:02}:00,{i * 37 % 11},{i * 17 % 13},{i // 45 % 2}" for i in range(480)]
    (tmp_path / "door.csv").write_text("\n".join(["time,u,v,door", *rows]))
    data = {"use": str(tmp_path / "door.csv"), "context": 8, "horizon": 4}
    run = train_classifier(tmp_path / "run", epochs=1, head="forecast", data=data)
    _, note = predictions._plot_error_by_step(load_context(run))
    assert re.search(r"MASE is a mean over channels, which is decided by door \(MASE [\d.]+, mean step 0\.0", note)


def test_errors_by_step_average_to_the_score_of_the_run(forecaster, monkeypatch):
    drawn = []
    monkeypatch.setattr(predictions, "render_panel", lambda title, alt, draw: drawn.append(draw) or "")
    predictions._plot_error_by_step(load_context(forecaster))

    drawn[0](axes := Figure().subplots())
    lines = {line.get_label(): float(np.mean(np.asarray(line.get_ydata()))) for line in axes.lines}
    result = json.loads((forecaster / "result.json").read_text())
    assert lines["forecast"] == pytest.approx(result["test"]["mse"], rel=1e-4)
    assert lines["last value"] == pytest.approx(result["baselines"]["last value"]["mse"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["tail", "random"])
def test_a_decoder_that_forecasts_is_reported_like_a_head(csv, tmp_path, policy):
    data = {"use": csv, "context": 20, "horizon": 4}
    run = train_classifier(tmp_path / "run", loss={"use": "masked", "policy": policy}, data=data)
    titles = read(run, tmp_path).titles
    assert "Forecasts, test split" in titles
    assert ("Masked samples, test split" in titles) == (policy == "random")


@pytest.mark.slow
def test_masked_pretraining_of_one_epoch_is_reported_with_its_masked_samples(masked, tmp_path):
    page = read(masked, tmp_path)
    assert page.titles == ["Training", "Masked samples, test split", "Embeddings, test split", "Config", "Reproduce"]
    assert sum("reconstruction" in picture["alt"] for picture in page.pictures) == 6
    assert any("coloured by class" in picture["alt"] for picture in page.pictures)


@pytest.mark.parametrize(
    ("channels", "loss"),
    slow_after(
        1,
        [
            ("mixed", {"use": "masked"}),
            ("independent", {"use": "masked"}),
            ("mixed", {"use": "masked", "num_masks": 3}),
        ],
    ),
)
def test_masked_samples_are_those_of_masked_tokens_and_only_they_are_predicted(npz, tmp_path, channels, loss):
    run = train_classifier(tmp_path / "run", epochs=1, loss=loss, data=npz, pipeline={"channels": channels})
    context = load_context(run)
    series = context.split.batch(torch.arange(4))
    with torch.no_grad():
        output = context.pipeline(series, SampleRNG(0, 0, series.sample_id))
        hidden, reconstruction = (
            find_masked_samples(context.pipeline, output),
            reconstruct_masked_tokens(context.pipeline, output),
        )
    rows, _, length = output.series.x.shape
    answered = output.predictions.unflatten(-1, (-1, 4))
    for i in range(rows):
        want = torch.zeros(length, dtype=torch.bool)
        for n, slot in enumerate(output.queries.grid_index[i].tolist()):
            if output.queries.valid[i, n]:
                want[4 * slot : 4 * slot + 4] = True
                assert torch.allclose(reconstruction[i, :, 4 * slot : 4 * slot + 4], answered[i, n])
        assert (hidden[i] == want).all()
        seen = output.series.observed_mask[i] & ~want
        assert torch.equal(reconstruction[i][seen], output.series.x[i][seen])


def test_nothing_is_drawn_beyond_the_end_of_a_series(masked, monkeypatch):
    drawn = []
    monkeypatch.setattr(predictions, "render_panel", lambda title, alt, draw: drawn.append((title, draw)) or "")
    context = load_context(masked)
    predictions.render_masked_reconstructions(context)
    ends = {f"series {row}": context.split.lengths[row] for row in context.sample_rows(3).tolist()}
    assert len(set(ends.values())) > 1
    for title, draw in drawn:
        draw(axes := Figure().subplots())
        end = next(end for name, end in ends.items() if f"{name}," in title)
        assert all(len(line.get_ydata()) == end for line in axes.lines)


@pytest.mark.slow
def test_a_run_without_a_test_split_or_labels_is_reported_on_validation(tmp_path):
    np.savez(tmp_path / "bare.npz", X=np.random.default_rng(0).normal(size=(30, 2, 20)).astype(np.float32))
    run = train_classifier(tmp_path / "run", loss="masked", data=str(tmp_path / "bare.npz"))
    page = read(run, tmp_path)
    assert "Masked samples, validation split" in page.titles
    assert "loss, validation" in page.text


def test_channels_series_and_samples_of_a_report_can_be_chosen(forecaster):
    context = load_context(forecaster, selection=Selection(("u",), (3, 7), (15, 23)))
    titles = re.findall(r"<figcaption>([^<]*)</figcaption>", predictions.render_forecasts(context).html)
    count = len(context.split)
    assert titles[:-1] == [f"u, window {row} of {count}" for row in (3, 7)]
    predictions.draw_forecast(
        axes := Figure().subplots(),
        (series := predictions.compute_forecasts(context, torch.tensor([3]))[0][0]),
        predictions.get_forecast_axis(context, 3, series),
        context.selection.window,
    )
    lines = {line.get_label(): len(line.get_ydata()) for line in axes.lines}
    assert lines["observed"] == 8
    assert lines["forecast"] == 3


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(channels=("w",)), "--channel w: the channels are u, v"),
        (Selection(samples=(1000,)), "--sample 1000: the test split has"),
    ],
)
def test_a_selection_that_the_data_lack_is_refused_before_anything_is_drawn(forecaster, selection, message):
    with pytest.raises(OptionError, match=message):
        load_context(forecaster, selection=selection)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("selection", "option"),
    [
        (Selection(channels=(0,)), "--channel"),
        (Selection(samples=(1,)), "--sample"),
        (Selection(window=(0, 5)), "--window"),
    ],
)
def test_a_selection_that_no_section_shows_is_refused_and_nothing_is_written(run, tmp_path, selection, option):
    with pytest.raises(OptionError, match=f"{option} has no effect on the report of this run"):
        write_report(run, tmp_path / "report.html", selection=selection)
    assert not (tmp_path / "report.html").exists()


def test_options_that_differ_from_the_defaults_come_first_and_all_others_are_folded(run):
    html = summary.render_config(load_context(run)).html
    first, _, folded = html.partition("<details>")
    options = RunConfig.read(run)
    for section, values in options.given.items():
        for name in values:
            is_default = options.sources.get(f"{section}.{name}") == "default"
            assert (f"<td>{section}.{name}</td>" in first) == (not is_default)
            assert f"<td>{name}</td>" in folded
    assert "open" not in html.partition("<details")[2].partition(">")[0]


@pytest.mark.slow
def test_panels_of_a_report_have_legends_instead_of_names_of_colours_in_the_text(run, masked, forecaster, tmp_path):
    for folder, labels in (
        (run, {"training", "validation", "weights kept", "fraction of series"}),
        (masked, {"masked", "reconstruction"}),
        (forecaster, {"forecast", "last value"}),
    ):
        page = read(folder, tmp_path)
        drawings = [ElementTree.fromstring(b64decode(p["src"].partition(",")[2])) for p in page.pictures]
        written = {text.text for drawing in drawings for text in drawing.iter("{http://www.w3.org/2000/svg}text")}
        assert labels <= written
        assert not re.search(r"\b(Blue|Dark|orange):", page.text)


@pytest.mark.slow
def test_dates_of_a_table_are_on_the_axes_of_its_forecasts(forecaster, tmp_path):
    page = read(forecaster, tmp_path)
    drawing = next(p for p in page.pictures if "forecast of v" in p["alt"])
    texts = ElementTree.fromstring(b64decode(drawing["src"].partition(",")[2])).iter("{http://www.w3.org/2000/svg}text")
    assert any(str(text.text).startswith("2020-Jan-01") for text in texts)


@pytest.mark.slow
def test_an_unfinished_run_is_reported_with_what_it_has(masked, tmp_path):
    copy = shutil.copytree(masked, tmp_path / "copy")
    (copy / "result.json").unlink()
    assert "Training did not finish" in read(copy, tmp_path).text
    (copy / "metrics.jsonl").unlink()
    assert "Training" not in read(copy, tmp_path).titles
    (copy / "metrics.jsonl").write_text("{")
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl is damaged"):
        write_report(copy)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["run", "forecaster", "masked"])
def test_a_page_loads_nothing_and_every_picture_is_embedded_and_described(which, request, tmp_path):
    path = write_report(request.getfixturevalue(which), tmp_path / "page.html")
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert not re.search(r"https?:|@import|url\(|<script|<link", html)
    assert page.links
    assert all(link.startswith("data:image/svg+xml;base64,") for link in page.links)
    for picture in page.pictures:
        assert len(picture["alt"]) > 10
        drawing = b64decode(picture["src"].partition(",")[2])
        assert ElementTree.fromstring(drawing).tag.endswith("svg")
        assert b"nan" not in drawing.lower().replace(b"nanum", b"")


@pytest.mark.slow
def test_every_option_is_shown_with_its_source_and_text_is_escaped(run, tmp_path):
    page = read(run, tmp_path)
    for section, values in RunConfig.read(run).given.items():
        assert section in page.text
        assert all(name in page.text for name in values)
    assert "flag" in page.text
    folder = train_classifier(tmp_path / "<b>&run", epochs=1, head="linear", data="har-demo")
    text = read(folder, tmp_path).text
    assert "<b>&run" in text
    assert "tstk train --these <flags>" in text


@pytest.mark.slow
def test_the_same_run_makes_the_same_page(masked, tmp_path):
    first, again = (write_report(masked, tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert first == again


@pytest.mark.slow
def test_an_entry_of_the_registry_is_a_section_of_every_report(masked, tmp_path, monkeypatch):
    def render_patches(context):
        return Section("Patches", f"<p>of {context.pipeline.tokenizer.window} samples</p>")

    monkeypatch.setattr("tstk.report.attention.render_reasoning_attention", render_patches)
    page = read(masked, tmp_path)
    assert "Patches" in page.titles
    assert page.titles.index("Training") < page.titles.index("Patches") < page.titles.index("Config")
    assert "of 4 samples" in page.text


@pytest.mark.slow
@pytest.mark.parametrize("channels", ["mixed", "independent"])
def test_a_report_shows_what_reasoning_tokens_look_at(npz, tmp_path, channels):
    wiring = {"channels": channels}
    run = train_classifier(tmp_path / "run", epochs=1, head={"use": "cot", "tokens": 3}, data=npz, pipeline=wiring)
    page = read(run, tmp_path)
    assert "Attention of the reasoning tokens, test split" in page.titles
    maps = [p for p in page.pictures if "Attention of 3 reasoning tokens" in p["alt"]]
    assert len(maps) == 4
    pipeline = load(run)
    series = load_data(npz).test.batch(torch.arange(4))
    tokens = pipeline.encode(series)
    weights = pipeline.head.attention_weights(tokens)
    assert weights.shape == (4, 3, 5 * (1 if channels == "mixed" else 2))
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 3))
    assert not weights.masked_select(~tokens.valid[:, None]).any()


def test_a_report_without_matplotlib_says_what_to_install(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(TstkError, match=r"matplotlib, which is not installed: pip install 'tstk-core\[plot\]'"):
        write_report(run, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


@pytest.mark.slow
def test_the_command_says_where_the_page_is(masked, tmp_path):
    words = ["report", str(masked), "--out", str(tmp_path / "page.html")]
    assert CliRunner().invoke(cli, words).stdout == f"{tmp_path / 'page.html'}\n"
    refused = CliRunner().invoke(cli, ["report", str(masked), "--out", str(tmp_path / "page.txt")], prog_name="tstk")
    assert refused.exit_code == 2
    assert "must end in .html" in refused.stderr


def get_lines(monkeypatch, render, context):
    """Return the lines of each panel that a section draws."""
    drawn = []

    def draw_panel(label, alt, draw, **options):
        axes = Figure().subplots()
        draw(axes)
        drawn.append([line.get_ydata() for line in axes.get_lines() if len(line.get_ydata()) > 2])
        return ""

    monkeypatch.setattr(sys.modules[render.__module__], "render_panel", draw_panel)
    assert render(context) is not None
    return drawn


AUTOENCODER = {
    "tokenizer": {"use": "vqvae"},
    "encoder": {"use": "identity"},
    "loss": {"use": "reconstruct"},
    "decoder": {"use": "own"},
}
LEVEL = 3e9
"""A level that float32 cannot hold beside a variation of 1."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("slots", "module", "name"),
    [
        ({"head": {"use": "forecast"}}, "predictions", "render_forecasts"),
        ({"loss": {"use": "masked"}, "data": {"length": 16}}, "predictions", "render_masked_reconstructions"),
        ({**AUTOENCODER, "data": {"length": 16}}, "predictions", "render_reconstructions"),
    ],
)
@pytest.mark.parametrize("instance_norm", [False, True])
def test_series_at_a_high_level_are_drawn_at_that_level(tmp_path, monkeypatch, slots, module, name, instance_norm):
    values = np.random.default_rng(0).normal(size=(300, 2)).cumsum(0) / 8 + [LEVEL, 0]
    rows = [f"2020-01-{1 + i // 24:02} {i % 24:02}:00:00,{a!r},{b!r}" for i, (a, b) in enumerate(values.tolist())]
    (tmp_path / "t.csv").write_text("\n".join(["date,u,v", *rows]))
    data = {"use": str(tmp_path / "t.csv"), **slots.get("data", {"context": 16, "horizon": 4})}
    tables = {**slots, "data": data, "pipeline": {"instance_norm": instance_norm}}
    run = train_classifier(tmp_path / "run", epochs=1, **tables)
    context = load_context(run)
    assert context.pipeline.offset is not None
    panels = get_lines(monkeypatch, getattr(sys.modules[f"tstk.report.{module}"], name), context)
    levels = [float(np.nanmean(np.concatenate([np.asarray(line, float) for line in lines]))) for lines in panels]
    near_level = [level for level in levels if abs(level - LEVEL) < 10]
    assert len(near_level) == 3
    assert all(abs(level) < 10 for level in levels if level not in near_level)
    assert all(np.nanstd(np.asarray(lines[0], float)) < 10 for lines in panels)


def test_channels_that_a_page_does_not_show_are_counted_and_the_first_and_the_last_are_shown():
    from tstk.report.context import RunContext

    def context(*names):
        stub = object.__new__(RunContext)
        stub.pipeline = SimpleNamespace(channel_names=names, spec=SimpleNamespace(channels=len(names)))
        stub.selection, stub.applied = Selection(), set()
        return stub

    for names, shown in (("a", [0]), ("ab", [0, 1]), ("abc", [0, 1, 2]), ("abcdefg", [0, 1, 6])):
        assert context(*names).select_channels() == shown
    assert context(*"abcdefg").describe_channels([0, 1, 6]) == " 3 of 7 channels are shown; --channel chooses others."
    assert context(*"abc").describe_channels([0, 1, 2]) == ""
