"""What a bench found, as a table, a page, and files for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from tstk.benchmarking.ranking import draw, text
from tstk.benchmarking.suite import BOOK, Bench
from tstk.config.run_directory import write_json, write_text


def grid(found: Bench) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table: a row per data set, then mean, rank and seconds; the best baseline stands last."""
    methods, sets = (list(dict.fromkeys(getattr(c, what) for c in found.cells)) for what in ("method", "data"))
    rows = [[d, *(_cell(found.table.get((m, d))) for m in methods)] for d in sets]
    best = found.best_baselines
    for row in rows if best else ():
        row.append(f"{best[row[0]][1]:.4f} ({best[row[0]][0]})" if row[0] in best else "")
    full = [d for d in sets if d not in found.left_out]
    if full:
        means = [np.mean([found.table[m, d][0] for d in full]) for m in methods]
        rows.append(["mean", *(f"{value:.4f}" for value in means)])
    if found.ranking:
        ranks = dict(zip(found.ranking.names, found.ranking.ranks, strict=True))
        rows.append(["mean rank", *(f"{ranks[m]:.2f}" for m in methods)])
    spent = [sum(c.facts.get("seconds", 0) for c in found.cells if c.method == m) for m in methods]
    rows.append(["seconds", *(f"{value:.0f}" for value in spent)])
    head = [found.score, *methods, *(["best baseline"] if best else [])]
    return head, [row + [""] * (len(head) - len(row)) for row in rows]


def _cell(value: tuple[float, float | None] | None) -> str:
    if value is None:
        return "failed"
    return f"{value[0]:.4f}" + ("" if value[1] is None else f" ± {value[1]:.4f}")


def words(found: Bench) -> Iterator[str]:
    """What is to be said below the table, a paragraph each."""
    if found.left_out:
        yield f"Not ranked, as scores are missing: {', '.join(found.left_out)}."
    if found.ranking:
        yield text(found.ranking)
        yield "\n".join(
            f"{a} against {b}: {won} won, {drawn} drawn, {lost} lost"
            for (a, b), (won, drawn, lost) in found.ranking.versus.items()
        )
    for method in dict.fromkeys(m for m, _ in found.losses):
        sets = [d for m, d in found.losses if m == method]
        yield f"{method} loses to the best baseline on {', '.join(sets)}."
    if found.failed:
        yield "\n".join(f"failed: {c.method}, {c.data}, seed {c.seed}: {c.error}" for c in found.failed)


def write(found: Bench, methods: Mapping[str, str], folder: Path) -> None:
    """bench.json, bench.csv, bench.md, and where matplotlib is installed the diagram as .svg and .png."""
    table = [{"method": m, "data": d, "mean": mean, "interval": half} for (m, d), (mean, half) in found.table.items()]
    cells = [
        {**c.facts, "method": c.method, "data": c.data, "seed": c.seed, "run": str(c.folder.relative_to(folder))}
        | ({"error": c.error} if c.error else {})
        for c in found.cells
    ]
    write_json(
        folder / BOOK,
        {
            "methods": dict(methods),
            "score": found.score,
            "table": table,
            "ranking": found.ranking.facts() if found.ranking else None,
            "left_out": found.left_out,
            "cells": cells,
        },
    )
    lines = io.StringIO()
    rows = csv.writer(lines, lineterminator="\n")
    rows.writerow(["method", "data", "seed", found.score, "by", "seconds", "error"])
    for c in found.cells:
        value = c.facts.get("scores", {}).get(found.score, "")
        rows.writerow([c.method, c.data, c.seed, value, c.facts.get("by", ""), c.facts.get("seconds", ""), c.error])
    write_text(folder / "bench.csv", lines.getvalue())
    write_text(folder / "bench.md", _page(found, methods))
    if found.ranking:
        with suppress(ImportError):  # the same is in bench.md in characters
            draw(found.ranking, folder / "bench.svg", folder / "bench.png")


def _page(found: Bench, methods: Mapping[str, str]) -> str:
    head, rows = grid(found)
    seeds = len({cell.seed for cell in found.cells})
    lines = [
        "# Bench",
        "",
        f"{found.score.capitalize()} on test, mean over {seeds} seeds"
        + (" ± half of its 95 % interval (Student's t)" if seeds > 1 else "")
        + ". Validation data were split off the training part; test was scored once.",
        "",
        *(f"- {name}: `{said}`" for name, said in methods.items()),
        "",
        "| " + " | ".join(head) + " |",
        "|---|" + "---:|" * (len(head) - 1),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    for paragraph in words(found):
        lines += ["", "```", paragraph, "```"]
    return "\n".join(lines) + "\n"
