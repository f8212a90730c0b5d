"""Profiles of our kernels with torch.profiler: `python -m benchmarks.profiles --out FILE`."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import clocks
from benchmarks.harness import Case, bind_inputs
from benchmarks.run import OPERATIONS

CALLS = 10


def profile_case(case: Case, device: str) -> str:
    """Return a table of time per kernel over `CALLS` calls of our contender."""
    clocks.reset_state(device, case.threads)
    inputs = case.inputs(0, device)
    call = bind_inputs(case, case.contenders[case.ours].prepare(*inputs), inputs)
    for _ in range(3):
        call()
    clocks.synchronize(device)
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=kinds) as profiler:
        for _ in range(CALLS):
            call()
        clocks.synchronize(device)
    return profiler.key_averages().table(sort_by=f"self_{device}_time_total", row_limit=15, max_name_column_width=60)


def main() -> None:
    """Profile every third case of each operation."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.profiles")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with args.out.open("w") as file:
        for operation in OPERATIONS[:-1]:
            for case in import_module(f"benchmarks.test_{operation}").list_cases(False, args.device)[::3]:
                try:
                    text = profile_case(case, args.device)
                except Exception as error:  # continue with the other cases
                    text = f"{type(error).__name__}: {error}"
                print(case, text, sep="\n", file=file, flush=True)


if __name__ == "__main__":
    main()
