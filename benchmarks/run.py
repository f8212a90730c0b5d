"""The same cases without pytest, for a machine that may cut the run short: `python -m benchmarks.run --help`.

What was measured is on disk after every case, and a run that is named again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib import import_module

import torch

from benchmarks.harness import measure, summary
from benchmarks.results import Results

OPERATIONS = ("rope_attention", "nearest_code", "quantizer_step", "ricker_cwt", "engine")


def main() -> int:
    """Measure; 1 if ours failed anywhere."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.run")
    parser.add_argument("operations", nargs="*", default=OPERATIONS, metavar="OPERATION", help=", ".join(OPERATIONS))
    parser.add_argument("--full", action="store_true", help="the whole grid")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--results", metavar="DIR", help="where the JSON files go")
    parser.add_argument("--run", default="", metavar="NAME", help="of the run; one that is there is continued")
    parser.add_argument("--budget", type=float, default=1.0, metavar="SECONDS", help="of rounds, per case and clock")
    parser.add_argument(
        "--within", type=float, default=float("inf"), metavar="SECONDS", help="begin no case after that"
    )
    parser.add_argument("--match", default="", metavar="TEXT", help="only cases with this in their name")
    parser.add_argument("--gates", action="store_true", help="no timing: compile, and see whether answers are right")
    parser.add_argument("--part", type=int, default=0, metavar="I", help="only every --parts'th case, from the I'th on")
    parser.add_argument("--parts", type=int, default=1, metavar="N", help="into which the cases are dealt")
    asked = parser.parse_args()
    begin, results, number, wrong, left = time.monotonic(), Results(asked.results, asked.run), -1, 0, 0
    for operation in asked.operations:
        for case in import_module(f"benchmarks.test_{operation}").cases(asked.full, asked.device):
            number += 1
            if asked.match not in str(case) or case in results or number % asked.parts != asked.part:
                continue
            if time.monotonic() - begin > asked.within:
                left += 1
                continue
            record = measure(case, 0 if asked.gates else asked.budget)
            results.add(record)
            print(*summary(record), sep="\n", flush=True)
            wrong += case.ours in record.out
    if left:
        print(f"{left} cases were left out: {asked.within:.0f} s had passed")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
