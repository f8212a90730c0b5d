"""Draws docs/figures/: `python docs/figures.py`, or some of them: `python docs/figures.py accuracies ranks`.

*.svg          the results, from benchmarks/results and the tables of the pages
plot-*.png     those of docs/plots.md: small runs are trained for them, in some minutes
other .png     those of the gallery, which the notebooks drew when `python docs/generate.py notebooks` last ran them
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from base64 import b64decode
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from functools import cache, partial
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import tstk
from tstk.benchmarking.ranking import draw_diagram, rank_methods
from tstk.plot.style import save_figure

HERE = Path(__file__).parent
FOLDER = HERE / "figures"
RESULTS = HERE / "results.md"
METHODS = {
    "1nn": "1-NN",
    "logistic": "logistic",
    "transformer-linear": "transformer + linear",
    "bert-cot": "bert + cot",
    "minirocket": "MiniRocket",
    "multirocket-hydra": "MultiRocket-Hydra",
}
"""Method of benchmarks/results/classification -> its name in figures."""
DOT_COLORS = {"1-NN": "0.75", "logistic": "0.5", "untrained": "0.5", "bert + cot": "tab:red", "pretrained": "tab:red"}
NOTEBOOK_FIGURES = {
    "confusion": ("classify-your-table", "confusion"),
    "reconstruction": ("look-at-tokens", "reconstruction"),
    "few-labels": ("pretrain-and-probe", "few-labels"),
    "patches": ("look-at-tokens", "patches"),
    "wavelets": ("look-at-tokens", "wavelets"),
    "codes": ("look-at-tokens", "codes"),
    "codebook": ("look-at-tokens", "codebook"),
}
"""Figure of the gallery -> the notebook, and the id of the cell that draws it."""


def read_accuracies() -> dict[str, dict[str, float]]:
    """Mean accuracy over seeds: archive set -> method."""
    folder = HERE.parent / "benchmarks" / "results" / "classification"
    scores: dict[tuple[str, str], list[float]] = {}
    for name in ("seed-0", "transformer-linear", "bert-cot", "minirocket", "multirocket-hydra"):
        for cell in json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["cells"]:
            is_baseline = cell["method"] in ("1nn", "logistic")  # which have no seed; the others were trained again
            if is_baseline == (name == "seed-0") and cell["data"] != "har-demo":
                scores.setdefault((cell["data"], METHODS[cell["method"]]), []).append(cell["scores"]["accuracy"])
    sets = dict.fromkeys(data for data, _ in scores)
    return {data: {m: mean(scores[data, m]) for m in METHODS.values()} for data in sets}


def draw_accuracies() -> str:
    """The accuracies of the default classifiers and other methods, a line per set."""
    return _draw_dots(read_accuracies(), "test accuracy, mean of three seeds")


def draw_ranks() -> str:
    """The mean ranks over the archive sets, as a critical-difference diagram."""
    rows = read_accuracies()
    names = list(METHODS.values())
    ranking = rank_methods(names, np.array([[row[name] for name in names] for row in rows.values()]))
    with TemporaryDirectory() as folder, _use_svg():
        draw_diagram(ranking, Path(folder) / "ranks.svg")
        return _strip_svg((Path(folder) / "ranks.svg").read_text(encoding="utf-8"))


def draw_pretrained() -> str:
    """The accuracies of a linear classifier on frozen features of the pretrained encoder."""
    path = HERE.parent / "benchmarks" / "results" / "classification" / "pretrained-small.json"
    names = {"1nn": "1-NN", "untrained": "untrained", "trained": "pretrained", "minirocket": "MiniRocket"}
    table = json.loads(path.read_text(encoding="utf-8"))["rows"]
    rows = {data: {label: row[key] for key, label in names.items()} for data, row in table.items()}
    return _draw_dots(rows, "test accuracy")


def draw_forecasts() -> str:
    """The errors of forecasts by horizon, beside the published ones of PatchTST, as in the table of the results."""
    text = re.search(r"\n(\| data \| context .*?)\n\n", RESULTS.read_text("utf-8"), re.DOTALL)[1]
    header, _, *lines = text.splitlines()
    names = [cell.strip() for cell in header.split("|")[1:-1]]
    table = [dict(zip(names, (cell.strip(" *") for cell in line.split("|")[1:-1]))) for line in lines]
    styles = {"season": "0.6", "linear map": "tab:blue", "map + Transformer": "tab:red", "PatchTST, published": "black"}
    figure = Figure(figsize=(9, 3), layout="constrained")
    panels = (("ETTh1", "512"), ("ETTm1", "512"), ("national_illness", "104"))
    for axes, (data, context) in zip(figure.subplots(1, 3), panels):
        rows = [row for row in table if (row["data"], row["context"]) == (data, context)]
        for name, color in styles.items():
            errors = [float(row[name].partition("/")[0].strip(" *")) for row in rows]
            axes.plot([int(row["horizon"]) for row in rows], errors, marker="o", markersize=4, color=color, label=name)
        axes.set(title=f"{data}, context {context}", xlabel="horizon")
    figure.axes[0].set_ylabel("test MSE")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return _render_svg(figure)


def _draw_dots(rows: dict[str, dict[str, float]], label: str) -> str:
    """A line per data set, a dot per method."""
    figure = Figure(figsize=(9, 0.27 * len(rows) + 1.1), layout="constrained")
    axes = figure.subplots()
    places = range(len(rows))
    lowest, highest = zip(*((min(row.values()), max(row.values())) for row in rows.values()))
    axes.hlines(places, lowest, highest, color="0.85")
    for method in next(iter(rows.values())):
        accuracies = [row[method] for row in rows.values()]
        axes.scatter(accuracies, places, s=34, color=DOT_COLORS.get(method), label=method, zorder=3)
    axes.set_yticks(places, rows)
    axes.set(xlabel=label)
    axes.invert_yaxis()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper center", ncols=6, frameon=False)
    return _render_svg(figure)


def _render_svg(figure: Figure) -> str:
    with _use_svg(), io.StringIO() as file:
        figure.savefig(file, format="svg", facecolor="white")
        return _strip_svg(file.getvalue())


def _use_svg() -> AbstractContextManager[None]:
    """Text stays text, and names are the same in each run."""
    return matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tstk", "font.family": "sans-serif"})


def _strip_svg(text: str) -> str:
    """Leave out the date."""
    return re.sub(r" <metadata>.*?</metadata>\n", "", text, flags=re.DOTALL)


def extract_figure(notebook: str, cell_id: str) -> bytes:
    """The figure that a cell of a notebook drew when it was last run."""
    cells = json.loads((HERE / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    outputs = next(cell["outputs"] for cell in cells if cell["id"] == cell_id)
    return b64decode(next(o["data"]["image/png"] for o in outputs if "image/png" in o.get("data", {})))


COMMON = {"device": "cpu", "threads": 1, "verbose": False}


def write_table(path: Path) -> None:
    """Write 60 days of hourly temperatures."""
    rng, hours = np.random.default_rng(0), np.arange(60 * 24)
    walk = rng.normal(size=len(hours)).cumsum() / 8
    values = 12 + 5 * np.sin(2 * np.pi * hours / 24) + walk + rng.normal(size=len(hours)) / 3
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["date", "temperature"])
        start = datetime(2024, 5, 1)
        writer.writerows([start + timedelta(hours=int(h)), f"{v:.2f}"] for h, v in zip(hours, values, strict=True))


def shrink(png: bytes) -> bytes:
    """Return a picture with a palette of 48 colours."""
    file = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(48).save(file, "png", optimize=True)
    return file.getvalue()


@cache
def draw_plots() -> dict[str, bytes]:
    """Train the runs of the page on plots, and draw its figures: name -> picture."""
    with TemporaryDirectory() as folder:
        runs, table = Path(folder), Path(folder, "temperature.csv")
        write_table(table)
        classifier = tstk.fit(
            encoder="bert", encoder__depth=1, head="cot", data="har-demo", steps=80, out=runs / "first", **COMMON
        )
        masked = tstk.fit(loss="masked", encoder__depth=2, data="har-demo", epochs=40, out=runs / "masked", **COMMON)
        slots = {"tokenizer": "vqvae", "encoder": "identity", "decoder": "own", "loss": "reconstruct"}
        codes = tstk.fit(**slots, data="har-demo", epochs=15, out=runs / "codes", **COMMON)
        options = {"encoder__depth": 1, "context": 72, "horizon": 24, "epochs": 4}
        forecaster = tstk.fit(head="forecast", data=str(table), **options, out=runs / "forecaster", **COMMON)
        wavelets = tstk.fit(
            tokenizer="cwt", encoder__depth=1, head="linear", data="har-demo", steps=2, out=runs / "cwt", **COMMON
        )
        figures = {
            "plot-forecast": tstk.plot.forecast(forecaster.run_dir, sample=100),
            "plot-tokens": tstk.plot.tokens(codes.run_dir, sample=5, channel="body_acc_x", window=(0, 64)),
            "plot-coefficients": tstk.plot.tokens(wavelets.run_dir, sample=5, channel="body_acc_x"),
            "plot-reconstruction": tstk.plot.reconstruction(masked.run_dir, sample=5, channel="body_acc_x"),
            "plot-codebook": tstk.plot.codebook(codes.run_dir),
            "plot-embedding": tstk.plot.embedding(classifier.run_dir),
            "plot-attention": tstk.plot.attention(classifier.run_dir, sample=5),
            "plot-confusion": tstk.plot.confusion(classifier.run_dir),
        }
        return {name: shrink(save_figure(axes.figure, dpi=80)) for name, axes in figures.items()}


PLOTS = ("forecast", "tokens", "coefficients", "reconstruction", "codebook", "embedding", "attention", "confusion")
FIGURES: dict[str, Callable[[], str | bytes]] = {
    "accuracies.svg": draw_accuracies,
    "ranks.svg": draw_ranks,
    "pretrained.svg": draw_pretrained,
    "forecasts.svg": draw_forecasts,
    **{f"{name}.png": partial(extract_figure, *cell) for name, cell in NOTEBOOK_FIGURES.items()},
    **{f"plot-{name}.png": partial(lambda key: draw_plots()[key], f"plot-{name}") for name in PLOTS},
}
"""Name of a file of docs/figures/ -> the function that returns its content."""

if __name__ == "__main__":
    matplotlib.use("agg")
    for name, make in FIGURES.items():
        if sys.argv[1:] and name.partition(".")[0] not in sys.argv[1:]:
            continue
        content = make()
        (FOLDER / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        print(name, file=sys.stderr)
