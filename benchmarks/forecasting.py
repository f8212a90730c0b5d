"""Benchmark of forecasters against baselines and PatchTST's published errors on ETTh1, ETTm1 and national illness.

    python -m benchmarks.forecasting --out DIR --seeds 0,1,2

Each data set, context, horizon, method and seed is one cell of a `tstk bench` in DIR/SET-CONTEXT-HORIZON: the same
command resumes, and further sets, methods and seeds are added. After each cell the scores of all cells are written to
DIR/forecasting.json and their table to DIR/forecasting.md. ETT tables are split into 12, 4 and 4 months, others into
70, 10 and 20 % of their rows; errors are in standard deviations of the training rows, over every window of the test
split. Data sets are looked up as by `tstk train`: under --data-root or TSTK_DATA, or downloaded by `tstk data fetch`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

METHODS = Path(__file__).with_name("forecasting.toml")
PUBLISHED = "PatchTST, published"
DETERMINISTIC = "peer:"
"""Prefix of methods that are deterministic."""


class Task(NamedTuple):
    """One cell: data, sizes, method and seed."""

    data: str
    context: int
    horizon: int
    method: str
    seed: int


def list_tasks(file: dict[str, Any], seeds: Sequence[int], methods: Sequence[str]) -> Iterator[Task]:
    """Yield every cell of the file; deterministic methods run with the first seed only.

    Args:
        file: contents of a file such as forecasting.toml
        seeds: seeds of training
        methods: names of methods
    """
    for data, sizes in file["grid"].items():
        for context in sizes["contexts"]:
            for horizon in sizes["horizons"]:
                for method in methods:
                    fixed = _get_flags(file, method, data).startswith(DETERMINISTIC)
                    for seed in seeds[:1] if fixed else seeds:
                        yield Task(data, context, horizon, method, seed)


def format_table(cells: Sequence[dict[str, Any]], published: dict[str, Any]) -> str:
    """Return a Markdown table: one row per data set, context and horizon, mean MSE / MAE over seeds, best in bold.

    Args:
        cells: results of `run`
        published: data set -> context -> horizon -> MSE, MAE
    """
    methods = list(dict.fromkeys(cell["method"] for cell in cells))
    groups = list(dict.fromkeys((c["data"], c["context"], c["horizon"]) for c in cells))
    lines = [
        "| data | context | horizon | " + " | ".join([*methods, PUBLISHED]) + " |",
        "|---|---:|---:|" + "---|" * (len(methods) + 1),
    ]
    for data, context, horizon in groups:
        row: dict[str, tuple[float, float]] = {}
        for method in methods:
            scores = [
                c["scores"]
                for c in cells
                if (c["data"], c["context"], c["horizon"], c["method"]) == (data, context, horizon, method)
                and c.get("scores")
            ]
            if scores:
                row[method] = fmean(s["mse"] for s in scores), fmean(s["mae"] for s in scores)
        known = published.get(data, {}).get(str(context), {}).get(str(horizon))
        if known:
            row[PUBLISHED] = known[0], known[1]
        best = min((round(mse, 3) for mse, _ in row.values()), default=None)
        shown = [
            (f"**{row[name][0]:.3f}**" if round(row[name][0], 3) == best else f"{row[name][0]:.3f}")
            + f" / {row[name][1]:.3f}"
            if name in row
            else "-"
            for name in (*methods, PUBLISHED)
        ]
        lines.append(f"| {data} | {context} | {horizon} | {' | '.join(shown)} |")
    notes = [
        f"- {c['method']}, {c['data']}, {c['context']} to {c['horizon']}: {'; '.join(c['notes'])}"
        for c in cells
        if c.get("notes")
    ]
    failed = [
        f"- failed: {c['method']}, {c['data']}, {c['context']} to {c['horizon']}: {c['error']}"
        for c in cells
        if c.get("error")
    ]
    return "\n".join([*lines, "", *notes, *failed]) + "\n"


def run(task: Task, file: dict[str, Any], out: Path) -> dict[str, Any]:
    """Run a cell, unless it has been run, and return its results.

    Args:
        task: the cell
        file: contents of a file such as forecasting.toml
        out: folder of all cells
    """
    from tstk.cli import cli
    from tstk.config.records import RunResult
    from tstk.config.run_directory import RESULT_FILE

    data, context, horizon, method, seed = task
    flags = " ".join(_get_flags(file, method, data).split())
    common = f"{file.get('common', '')} --context {context} --horizon {horizon}"
    folder = out / f"{data}-{context}-{horizon}"
    words = ["bench", "--method", f"{method}={flags}", "--data", data, "--seeds", str(seed), "--common", common]
    with redirect_stdout(io.StringIO()) as printed:
        cli.main([*words, "--out", str(folder), "--json"], prog_name="tstk", standalone_mode=False)
    (cell,) = json.loads(printed.getvalue())["cells"]
    keys = ("seconds", "fit_seconds", "predict_seconds", "notes", "error")
    facts = {key: cell[key] for key in keys if cell.get(key) not in (None, [], "")}
    run_dir = folder / method / data / f"seed-{seed}"
    if (run_dir / RESULT_FILE).is_file():
        result = RunResult.read(run_dir)
        facts |= {"val_mse": round(result.val["mse"], 6), "epoch": result.selected.epoch}
        if not facts["epoch"]:
            facts["notes"] = [*facts.get("notes", []), "validation selected the linear map alone"]
    scores = {name: round(cell.get("scores", {})[name], 6) for name in ("mse", "mae") if cell.get("scores")}
    return {**task._asdict(), **facts, "scores": scores}


def format_record(cells: Sequence[dict[str, Any]], file: dict[str, Any], command: str) -> str:
    """Return JSON with one line per cell, and the commit, command, methods and machine."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=METHODS.parent)
    head = {
        "commit": commit.stdout.strip(),
        "command": command,
        "machine": f"{os.cpu_count()} CPU cores, one thread per run",
        "common": file.get("common", ""),
        "methods": {name: file["methods"][name] for name in dict.fromkeys(cell["method"] for cell in cells)},
    }
    lines = ",\n".join(json.dumps(cell) for cell in cells)
    return f'{json.dumps(head, indent=1)[:-2]},\n "cells": [\n{lines}\n]}}\n'


def _get_flags(file: dict[str, Any], method: str, data: str) -> str:
    """Return the flags of a method for a data set: one string for all data sets, or one per data set."""
    flags = file["methods"][method]
    return str(flags if isinstance(flags, str) else flags[data])


def main() -> None:
    """Run all cells, writing the record and the table after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder for runs, forecasting.json and forecasting.md"
    )
    parser.add_argument("--sets", metavar="NAME,...", help="data sets; all of the file if not given")
    parser.add_argument("--contexts", metavar="int,...", help="all of the file if not given")
    parser.add_argument("--horizons", metavar="int,...", help="all of the file if not given")
    parser.add_argument("--methods", metavar="NAME,...", help="methods; all of the file if not given")
    parser.add_argument("--seeds", default="0", metavar="int,...")
    parser.add_argument(
        "--file", default=METHODS, metavar="FILE", help="methods and grid; forecasting.toml if not given"
    )
    parser.add_argument("--data-root", metavar="DIR", help="folder in which data sets are looked up by name")
    parser.add_argument("--record", metavar="FILE", help="write forecasting.json here too")
    args = parser.parse_args()

    file = tomllib.loads(Path(args.file).read_text(encoding="utf-8"))
    names = {"sets": file["grid"], "methods": file["methods"]}
    for option, known in names.items():
        value = getattr(args, option)
        if unknown := [name for name in (value or "").split(",") if value and name not in known]:
            parser.error(f"--{option} {','.join(unknown)}: {args.file} has {', '.join(known)}")
    if args.sets:
        file["grid"] = {name: file["grid"][name] for name in args.sets.split(",")}
    for option in ("contexts", "horizons"):
        if getattr(args, option):
            for sizes in file["grid"].values():
                sizes[option] = [int(n) for n in getattr(args, option).split(",")]
    if args.data_root:
        os.environ["TSTK_DATA"] = args.data_root
    methods = args.methods.split(",") if args.methods else list(file["methods"])
    seeds = [int(seed) for seed in args.seeds.split(",")]
    out, local_paths = Path(args.out), (args.out, args.data_root, args.record)
    words = ["DIR" if word in local_paths else word for word in sys.argv[1:]]  # leave local paths out of the record
    command = shlex.join(["python", "-m", "benchmarks.forecasting", *words])
    out.mkdir(parents=True, exist_ok=True)
    results_path, cells, failed = out / "forecasting.json", dict[Task, dict[str, Any]](), False
    if results_path.is_file():  # keep cells of earlier runs
        before = json.loads(results_path.read_text(encoding="utf-8"))["cells"]
        cells = {Task(*(cell[name] for name in Task._fields)): cell for cell in before}
    for task in list_tasks(file, seeds, methods):
        cells[task] = run(task, file, out)
        failed |= "error" in cells[task]
        text = format_record([*cells.values()], file, command)
        for path in (results_path, *([Path(args.record)] if args.record else [])):
            path.write_text(text, encoding="utf-8")
        (out / "forecasting.md").write_text(format_table([*cells.values()], file["published"]), encoding="utf-8")
    print((out / "forecasting.md").read_text(encoding="utf-8"))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
