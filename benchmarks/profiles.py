"""Where our time goes, by torch.profiler: `python -m benchmarks.profiles --out FILE`."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import clocks
from benchmarks.harness import Case, bind
from benchmarks.run import OPERATIONS

CALLS = 10


def table(case: Case, device: str) -> str:
    """Time by kernel over `CALLS` calls of ours."""
    clocks.settle(device, case.threads)
    inputs = case.inputs(0, device)
    call = bind(case, case.contenders[case.ours].prepare(*inputs), inputs)
    for _ in range(3):
        call()
    clocks.sync(device)
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=kinds) as seen:
        for _ in range(CALLS):
            call()
        clocks.sync(device)
    return seen.key_averages().table(sort_by=f"self_{device}_time_total", row_limit=15, max_name_column_width=60)


def main() -> None:
    """Every third case of each operation, written as they come."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.profiles")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    with asked.out.open("w") as file:
        for operation in OPERATIONS[:-1]:
            for case in import_module(f"benchmarks.test_{operation}").cases(False, asked.device)[::3]:
                try:
                    told = table(case, asked.device)
                except Exception as error:  # the others are worth having
                    told = f"{type(error).__name__}: {error}"
                print(case, told, sep="\n", file=file, flush=True)


if __name__ == "__main__":
    main()
