"""Test of whether classifiers use the order of tokens, for several initial position embeddings.

    python -m benchmarks.order shuffle --out DIR [--record FILE]
    python -m benchmarks.order choose --out DIR [--record FILE]

`shuffle` trains each encoder with each head on patches of samples and scores the test split as it is and with the
tokens of each series shuffled in time: with position embeddings initialized with standard deviation 0.02, and with the
defaults.
`choose` compares initializations on a third of the training split, without test scores. Both resume. Data sets are
looked up as by `tstk train`: under TSTK_DATA.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

ENCODERS = {"transformer": True, "bert": True, "hf": True, "timemae": False, "mamba2": False}
"""Encoder -> whether the initialization of positions is an option."""
HEADS = ("linear", "cot", "residual-mlp")
SHUFFLED = ("GunPoint", "ItalyPowerDemand", "UWaveGestureLibrary")
PATCHES = {"tokenizer": "patch", "epochs": 100, "batch_size": 64, "augment": ("off",), "select_by": "score"}
"""Options of the classifiers: patches without overlap, so that a token contains only its own samples."""
SMALL_POSITIONS = {"encoder__position_std": 0.02}

SELECTION_SETS = (
    "GunPoint",
    "ArrowHead",
    "ItalyPowerDemand",
    "SyntheticControl",
    "BasicMotions",
    "UWaveGestureLibrary",
    "AtrialFibrillation",
)
CANDIDATES: dict[str, dict[str, Any]] = {
    **{f"transformer+linear {std:g}": {"encoder__position_std": std} for std in (0.02, 0.3, 1.0)},
    "transformer+linear sinusoidal": {"encoder__positions": "sinusoidal"},
    **{f"bert+cot {std:g}": {"encoder__position_std": std} for std in (0.02, 0.3, 1.0)},
}
BUDGET = {"steps": 200, "batch_size": 16, "validate_every": 100, "select_by": "last", "val_fraction": 0.33}
SPLITS = 1


def shuffle_cells(out: Path) -> Iterator[dict[str, Any]]:
    """Yield a cell for every encoder, head and data set, with old and new initial positions."""
    from tstk.evaluation.evaluate import iter_batches
    from tstk.evaluation.token_order import evaluate_token_order
    from tstk.inference.predict import open_run
    from tstk.training.dry_run import compute_pos_embed_ratio

    for data, (encoder, optional), head in product(SHUFFLED, ENCODERS.items(), HEADS):
        for start in ("0.02", "default") if optional else ("default",):
            key = {"encoder": encoder, "head": head, "data": data, "seed": 0, "positions": start}

            def measure(
                encoder: str = encoder, head: str = head, data: str = data, start: str = start
            ) -> dict[str, Any]:
                import tstk

                choices = {
                    "encoder": encoder,
                    "head": head,
                    "data": data,
                    "seed": 0,
                    **PATCHES,
                    **(SMALL_POSITIONS if start == "0.02" else {}),
                }
                fresh = tstk.build(**choices, **MACHINE)
                run = out / "run"
                shutil.rmtree(run, ignore_errors=True)
                tstk.fit(**choices, **MACHINE, out=run)
                pipeline, part, _ = open_run(run)
                shutil.rmtree(run)
                batches = list(iter_batches(part, 256, "cpu"))
                ratio = compute_pos_embed_ratio(fresh.encoder, fresh.tokenize(batches[0]).tokens)
                return {
                    "ratio": None if ratio is None else round(ratio, 3),
                    **evaluate_token_order(pipeline, batches).to_dict(),
                }

            yield measure_cached(out / "shuffle.jsonl", key, measure)


def choose_cells(out: Path) -> Iterator[dict[str, Any]]:
    """Yield a cell for every candidate, data set and split: accuracy on the held-out third of the training split."""
    for split, data, (name, options) in product(range(SPLITS), SELECTION_SETS, CANDIDATES.items()):
        key = {"method": name, "data": data, "split": split}

        def measure(
            split: int = split, data: str = data, name: str = name, options: dict[str, Any] = options
        ) -> dict[str, Any]:
            import tstk

            encoder, head = name.split(" ")[0].split("+")
            run = out / "run"
            shutil.rmtree(run, ignore_errors=True)
            seeds = {"seed": split, "split_seed": split}
            result = tstk.fit(encoder=encoder, head=head, data=data, **options, **BUDGET, **seeds, **MACHINE, out=run)
            shutil.rmtree(run)
            return {"accuracy": round(result.val["accuracy"], 4)}

        yield measure_cached(out / "choose.jsonl", key, measure)


MACHINE = {"threads": 1, "device": "cpu"}


def measure_cached(path: Path, key: dict[str, Any], measure: Any) -> dict[str, Any]:
    """Return the row of a key from the file, or measure it and append it to the file."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    for row in rows:
        if key.items() <= row.items():
            return row
    begin = time.perf_counter()
    row = {**key, **measure(), "seconds": round(time.perf_counter() - begin, 1)}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    return row


def format_shuffle_table(cells: list[dict[str, Any]]) -> str:
    """Return a Markdown table: one row per encoder and head, accuracy -> accuracy with shuffled tokens."""
    cells_by_key = {(c["encoder"], c["head"], c["data"], c["positions"]): c for c in cells}
    heads = [f"{data}, {start}" for data in SHUFFLED for start in ("before", "after")]
    lines = ["| encoder + head | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for (encoder, optional), head in product(ENCODERS.items(), HEADS):
        row = []
        for data in SHUFFLED:
            for start in ("0.02" if optional else "", "default"):
                c = cells_by_key.get((encoder, head, data, start))
                row.append("as after" if not start else f"{c['accuracy']:.3f} -> {c['shuffled']:.3f}" if c else "-")
        lines.append(f"| {encoder} + {head} | " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def format_choose_table(cells: list[dict[str, Any]]) -> str:
    """Return a Markdown table: one row per candidate, means over the splits."""
    lines = [
        "| method and positions | " + " | ".join(SELECTION_SETS) + " | mean |",
        "|---" * (len(SELECTION_SETS) + 2) + "|",
    ]
    for name in CANDIDATES:
        means = []
        for data in SELECTION_SETS:
            values = [c["accuracy"] for c in cells if (c["method"], c["data"]) == (name, data)]
            means.append(fmean(values) if values else float("nan"))
        lines.append(f"| {name} | " + " | ".join(f"{m:.3f}" for m in [*means, fmean(means)]) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure missing cells, print the table and record all cells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=["shuffle", "choose"])
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for measured cells")
    parser.add_argument("--record", metavar="FILE", help="write all cells as JSON")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    make, table = (
        (shuffle_cells, format_shuffle_table) if args.experiment == "shuffle" else (choose_cells, format_choose_table)
    )
    cells = list(make(args.out))
    print(table(cells))
    if args.record:
        command = f"python -m benchmarks.order {args.experiment} --out DIR"
        revision = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
        )
        head = json.dumps(
            {"commit": revision.stdout.strip(), "command": command, "machine": f"{os.cpu_count()} CPU cores"}
        )
        rows = ",\n".join(json.dumps(c) for c in cells)
        Path(args.record).write_text(f'{head[:-1]}, "cells": [\n{rows}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
