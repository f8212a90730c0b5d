"""Benchmark results as a table, a Markdown page, and JSON and CSV files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from tstk.benchmarking.ranking import draw_diagram, format_diagram
from tstk.benchmarking.results import RESULTS_FILE, BenchmarkResult
from tstk.files import format_csv, write_json, write_text
from tstk.report.markdown import escape_markdown, format_code, format_code_block, format_table


def build_table(result: BenchmarkResult) -> tuple[list[str], list[list[str]]]:
    """Return header and rows: a row per data set, then mean, mean rank and seconds; the best baseline is last."""
    methods, datasets = (
        list(dict.fromkeys(getattr(cell, attribute) for cell in result.cells)) for attribute in ("method", "data")
    )
    rows = [[data, *(_format_cell(result.table.get((method, data))) for method in methods)] for data in datasets]
    best = result.best_baselines
    for row in rows if best else ():
        row.append(f"{best[row[0]][1]:.4f} ({best[row[0]][0]})" if row[0] in best else "")
    ranked = [data for data in datasets if data not in result.unranked_datasets]
    if ranked:
        means = [np.mean([result.table[method, data][0] for data in ranked]) for method in methods]
        rows.append(["mean", *(f"{value:.4f}" for value in means)])
    if result.ranking:
        ranks = dict(zip(result.ranking.names, result.ranking.ranks, strict=True))
        rows.append(["mean rank", *(f"{ranks[method]:.2f}" for method in methods)])
    seconds = [
        sum(cell.result.get("seconds", 0) for cell in result.cells if cell.method == method) for method in methods
    ]
    rows.append(["seconds", *(f"{value:.0f}" for value in seconds)])
    head = [result.score, *methods, *(["best baseline"] if best else [])]
    return head, [row + [""] * (len(head) - len(row)) for row in rows]


def _format_cell(interval: tuple[float, float | None] | None) -> str:
    if interval is None:
        return "failed"
    return f"{interval[0]:.4f}" + ("" if interval[1] is None else f" ± {interval[1]:.4f}")


def iter_notes(result: BenchmarkResult) -> Iterator[str]:
    """Yield the paragraphs below the table."""
    if any("seconds" in cell.result for cell in result.cells):
        yield "Seconds are those of all cells of a method: reading the data, training, validation, testing, baselines."
    if result.unranked_datasets:
        yield f"Not ranked, as scores are missing: {', '.join(result.unranked_datasets)}."
    if result.ranking:
        yield format_diagram(result.ranking)
        yield "\n".join(
            f"{a} against {b}: {won} won, {drawn} drawn, {lost} lost"
            for (a, b), (won, drawn, lost) in result.ranking.wins_draws_losses.items()
        )
    for method in dict.fromkeys(m for m, _ in result.below_baseline):
        datasets = [d for m, d in result.below_baseline if m == method]
        yield f"{method} loses to the best baseline on {', '.join(datasets)}."
    if result.failed_cells:
        yield "\n".join(f"failed: {c.label}: {c.error}" for c in result.failed_cells)


def write_results(result: BenchmarkResult, methods: Mapping[str, str], out_dir: Path) -> None:
    """Write bench.json, bench.csv, bench.md and, if matplotlib is installed, the diagram as SVG and PNG."""
    table = [{"method": m, "data": d, "mean": mean, "interval": half} for (m, d), (mean, half) in result.table.items()]
    cells = [
        {
            **c.result,
            "method": c.method,
            "data": c.data,
            "seed": c.seed,
            **c.fold_options,
            "run": str(c.run_dir.relative_to(out_dir)),
        }
        | ({"error": c.error} if c.error else {})
        for c in result.cells
    ]
    write_json(
        out_dir / RESULTS_FILE,
        {
            "methods": dict(methods),
            "score": result.score,
            "table": table,
            "ranking": result.ranking.to_dict() if result.ranking else None,
            "left_out": result.unranked_datasets,
            "cells": cells,
        },
    )
    rows: list[list[Any]] = [["method", "data", "seed", "fold", result.score, "by", "seconds", "error"]]
    for c in result.cells:
        facts = c.result.get("scores", {}).get(result.score), c.result.get("by"), c.result.get("seconds")
        rows.append([c.method, c.data, c.seed, c.fold, *facts, c.error])
    write_text(out_dir / "bench.csv", format_csv(rows))
    write_text(out_dir / "bench.md", _render_markdown(result, methods))
    if result.ranking:
        with suppress(ImportError):  # without matplotlib, bench.md still has the text diagram
            draw_diagram(result.ranking, out_dir / "bench.svg", out_dir / "bench.png")


def _render_markdown(result: BenchmarkResult, methods: Mapping[str, str]) -> str:
    head, rows = build_table(result)
    seeds, folds = len({cell.seed for cell in result.cells}), result.cells[0].folds
    by_fold = f"over {folds} folds, each the test split once" + (f" ({seeds} seeds each)" if seeds > 1 else "")
    interval = (
        "half of its 95 % interval (Student's t" + ("" if folds is None else ", variance of Nadeau and Bengio") + ")"
    )
    lines = [
        "# Benchmark",
        "",
        f"{result.score.capitalize()} on test, mean {f'over {seeds} seeds' if folds is None else by_fold}"
        + (f" ± {interval}" if seeds > 1 or folds is not None else "")
        + ". Validation data were split off the training split; test was scored once.",
        "",
        *(f"- {escape_markdown(name)}: {format_code(definition)}" for name, definition in methods.items()),
        "",
        *format_table(head, rows),
    ]
    for paragraph in iter_notes(result):
        lines += ["", *format_code_block(paragraph)]
    return "\n".join(lines) + "\n"
