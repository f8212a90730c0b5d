"""Benchmark of classifiers against peers on thirteen UCR and UEA data sets and har-demo.

    python -m benchmarks.classification --out DIR --seeds 0,1,2

Runs are made with `tstk bench`: the same command resumes, and further seeds, data sets and methods are added. Tables
are written to DIR/classification.md. Data sets are looked up as by `tstk train`: under --data-root or TSTK_DATA, or
downloaded by `tstk data fetch`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from statistics import fmean
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch and numba are imported

METHODS = Path(__file__).with_name("classification.toml")
NEAREST = "1nn"


def format_tables(bench: dict[str, Any]) -> str:
    """Return Markdown tables: one row per method, most accurate first, then one row per data set.

    Means, ranks and losses are over the data sets on which every method has all its scores.

    Args:
        bench: contents of bench.json
    """
    methods, means = list(bench["methods"]), {(row["method"], row["data"]): row["mean"] for row in bench["table"]}
    sets = list(dict.fromkeys(cell["data"] for cell in bench["cells"]))
    seeds = sorted({cell["seed"] for cell in bench["cells"]})
    ranked = [name for name in sets if name not in bench["left_out"]]
    ranks = (bench["ranking"] or {}).get("ranks", {})
    seconds = {m: [c["seconds"] for c in bench["cells"] if c["method"] == m and "seconds" in c] for m in methods}
    average = {m: fmean(means[m, d] for d in ranked) for m in methods} if ranked else {}
    order = sorted(methods, key=lambda m: -average.get(m, 0.0))

    def losses(method: str) -> str:
        if method == NEAREST or NEAREST not in methods:
            return ""
        return str(sum(means[method, d] < means[NEAREST, d] for d in ranked))

    lines = [
        f"{len(ranked)} data sets, seeds {', '.join(map(str, seeds))}, one thread per run.",
        "",
        f"| method | mean {bench['score']} | mean rank | losses to 1-NN | seconds per set |",
        "|---|---:|---:|---:|---:|",
    ]
    for m in order:
        cells = [f"{average[m]:.4f}" if ranked else "", f"{ranks[m]:.2f}" if ranks else "", losses(m)]
        lines.append(f"| {m} | {' | '.join(cells)} | {fmean(seconds[m] or [0]):.1f} |")
    lines += ["", "| data | " + " | ".join(order) + " |", "|---|" + "---:|" * len(order)]
    for d in sets:
        lines.append(f"| {d} | " + " | ".join(f"{means[m, d]:.4f}" if (m, d) in means else "-" for m in order) + " |")
    if bench["left_out"]:
        lines += ["", f"Left out of the first table, as a score is missing: {', '.join(bench['left_out'])}."]
    return "\n".join(lines) + "\n"


def build_record(bench: dict[str, Any], command: str) -> dict[str, Any]:
    """Return the scores of each method, data set and seed, with the commit, the command and the machine."""
    revision = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=METHODS.parent)
    keys = ("method", "data", "seed", "seconds", "fit_seconds", "predict_seconds", "package", "notes")
    cells = [
        {k: c[k] for k in keys if c.get(k) not in (None, [])} | {"scores": c.get("scores")} for c in bench["cells"]
    ]
    for cell in cells:
        metrics = ("accuracy", "accuracy_se", "f1_macro")
        cell["scores"] = {k: round(v, 6) for k, v in (cell["scores"] or {}).items() if k in metrics}
    machine = f"{os.cpu_count()} CPU cores, one thread per run"
    return {
        "commit": revision.stdout.strip(),
        "command": command,
        "machine": machine,
        "methods": bench["methods"],
        "cells": cells,
    }


def main() -> None:
    """Run the benchmark, and print and write its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for runs and tables")
    parser.add_argument("--sets", metavar="NAME,...", help="data sets; all of the methods file if not given")
    parser.add_argument("--seeds", default="0", metavar="int,...")
    parser.add_argument("--methods", default=METHODS, metavar="FILE", help="methods file for tstk bench")
    parser.add_argument("--only", metavar="NAME,...", help="methods to run; all of the file if not given")
    parser.add_argument("--data-root", metavar="DIR", help="folder in which data sets are looked up by name")
    parser.add_argument("--record", metavar="FILE", help="write the scores of all runs as compact JSON")
    args = parser.parse_args()

    from tstk.cli import cli

    file = tomllib.loads(Path(args.methods).read_text(encoding="utf-8"))
    names = args.only.split(",") if args.only else list(file["methods"])
    if unknown := [name for name in names if name not in file["methods"]]:
        parser.error(f"--only {','.join(unknown)}: {args.methods} has {', '.join(file['methods'])}")
    words = ["bench", "--out", args.out, "--seeds", args.seeds, "--common", file.get("common", "")]
    words += ["--data", args.sets or ",".join(file["data"])]
    for name in names:
        words += ["--method", f"{name}={file['methods'][name]}"]
    if args.data_root:
        os.environ["TSTK_DATA"] = args.data_root
    status = cli.main(words, prog_name="tstk", standalone_mode=False)
    bench = json.loads(Path(args.out, "bench.json").read_text(encoding="utf-8"))
    text = format_tables(bench)
    Path(args.out, "classification.md").write_text(text, encoding="utf-8")
    print(text)
    if args.record:
        command = " ".join(["python -m benchmarks.classification", *sys.argv[1:]])
        Path(args.record).write_text(format_record(build_record(bench, command)), encoding="utf-8")
    sys.exit(status or 0)


def format_record(record: dict[str, Any]) -> str:
    """Return the record as JSON with one line per run."""
    cells = ",\n".join(json.dumps(cell) for cell in record["cells"])
    rest = json.dumps({k: v for k, v in record.items() if k != "cells"}, indent=1)
    return f'{rest[:-2]},\n "cells": [\n{cells}\n]}}\n'


if __name__ == "__main__":
    main()
