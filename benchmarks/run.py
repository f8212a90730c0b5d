"""Benchmark cases without pytest, for machines with a time limit: `python -m benchmarks.run --help`.

Operations alternate: the first two shapes of each, then the others. Results are stored after every case, and a run with
the same name is resumed.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib import import_module

import torch

from benchmarks.harness import Case, format_record, measure
from benchmarks.results import Results

OPERATIONS = ("attention", "rope_attention", "convolution", "nearest_code", "quantizer_step", "ricker_cwt", "engine")
NUM_FIRST_SHAPES = 2
"""Shapes of each operation that are measured first."""


def interleave_cases(grids: Iterable[Iterable[Case]], first: int = NUM_FIRST_SHAPES) -> Iterator[Case]:
    """Yield the cases of the first shapes of each grid, then those of the next shape of each, and so on."""
    waiting = []
    for grid in grids:
        shapes: dict[tuple[str, str], list[Case]] = {}
        for case in grid:
            shapes.setdefault((case.name, case.size), []).append(case)
        waiting.append(list(shapes.values()))
    while any(waiting):
        for shapes_left in waiting:
            for cases in shapes_left[:first]:
                yield from cases
            del shapes_left[:first]
        first = 1


def drop_peers(case: Case) -> Case:
    """Return a case with our contenders only."""
    return replace(case, contenders={name: c for name, c in case.contenders.items() if name.startswith("tstk")})


def run_processes(processes: int, options: list[str]) -> int:
    """Split the cases over processes with these options; return the largest exit status."""
    parts = [["--processes", "0", "--part", str(i), "--parts", str(processes)] for i in range(processes)]
    running = [subprocess.Popen([sys.executable, "-m", "benchmarks.run", *options, *part]) for part in parts]
    return max(abs(process.wait()) for process in running)


def main() -> int:
    """Measure; return 1 if our contender failed in any case."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.run")
    parser.add_argument("operations", nargs="*", default=OPERATIONS, metavar="OPERATION", help=", ".join(OPERATIONS))
    parser.add_argument("--full", action="store_true", help="run the full grid")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--results", metavar="DIR", help="folder for the JSON files")
    parser.add_argument("--run", default="", metavar="NAME", help="name of the run; an existing run is resumed")
    parser.add_argument(
        "--budget", type=float, default=1.0, metavar="SECONDS", help="seconds of rounds, per case and clock"
    )
    parser.add_argument(
        "--within", type=float, default=float("inf"), metavar="SECONDS", help="start no case after this time"
    )
    parser.add_argument(
        "--match", default="", metavar="REGEX", type=re.compile, help="only cases in whose name this is found"
    )
    parser.add_argument("--check-only", action="store_true", help="check outputs without timing")
    parser.add_argument("--ours", action="store_true", help="only our own contenders")
    parser.add_argument("--first", action="store_true", help="only the first shape of each operation, on one thread")
    parser.add_argument("--stop", action="store_true", help="stop at the first case in which our output is wrong")
    parser.add_argument("--part", type=int, default=0, metavar="I", help="only every --parts'th case, from the I'th on")
    parser.add_argument("--parts", type=int, default=1, metavar="N", help="number of parts of the cases")
    parser.add_argument(
        "--processes", type=int, default=0, metavar="N", help="split the cases over this many processes"
    )
    args = parser.parse_args()
    if args.processes:
        return run_processes(args.processes, sys.argv[1:])
    begin, results, wrong, left = time.monotonic(), Results(args.results, args.run), 0, 0
    grids = [import_module(f"benchmarks.test_{name}").list_cases(args.full, args.device) for name in args.operations]
    if args.first:
        grids = [[c for c in grid if (c.size, c.threads) == (grid[0].size, 1)] for grid in grids]
    for number, case in enumerate(interleave_cases(grids)):
        if not args.match.search(str(case)) or case in results or number % args.parts != args.part:
            continue
        if time.monotonic() - begin > args.within:
            left += 1
            continue
        record = measure(drop_peers(case) if args.ours else case, 0 if args.check_only else args.budget)
        results.add(record)
        print(*format_record(record), sep="\n", flush=True)
        wrong += case.ours in record.excluded
        if wrong and args.stop:
            break
    if left:
        print(f"{left} cases were skipped: {args.within:.0f} s had passed")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
