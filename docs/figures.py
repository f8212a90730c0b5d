"""Draws the figures of docs/plots.md into docs/plots/: `python docs/figures.py`, in some minutes.

The runs are small ones on the embedded data and on a table that is made here.
"""

from __future__ import annotations

import csv
import io
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib
import numpy as np
from PIL import Image

import tstk
from tstk.files import write_bytes
from tstk.plot.style import save_figure

FOLDER = Path(__file__).parent / "plots"
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


def main() -> None:
    """Train the runs and draw the figures."""
    matplotlib.use("agg")
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
            "forecast": tstk.plot.forecast(forecaster.run_dir, sample=100),
            "tokens": tstk.plot.tokens(codes.run_dir, sample=5, channel="body_acc_x", window=(0, 64)),
            "coefficients": tstk.plot.tokens(wavelets.run_dir, sample=5, channel="body_acc_x"),
            "reconstruction": tstk.plot.reconstruction(masked.run_dir, sample=5, channel="body_acc_x"),
            "codebook": tstk.plot.codebook(codes.run_dir),
            "embedding": tstk.plot.embedding(classifier.run_dir),
            "attention": tstk.plot.attention(classifier.run_dir, sample=5),
            "confusion": tstk.plot.confusion(classifier.run_dir),
        }
        FOLDER.mkdir(exist_ok=True)
        for name, axes in figures.items():
            write_bytes(FOLDER / f"{name}.png", shrink(save_figure(axes.figure, dpi=80)), replace=True)


if __name__ == "__main__":
    main()
