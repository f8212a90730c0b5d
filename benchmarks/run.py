"""The same cases without pytest, for a machine that may cut the run short: `python -m benchmarks.run --help`.

Operations take turns: the first two shapes of each, then the others. What was measured is on disk after every case, and
a run that is named again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib import import_module

import torch

from benchmarks.harness import Case, measure, summary
from benchmarks.results import Results

OPERATIONS = ("rope_attention", "nearest_code", "quantizer_step", "ricker_cwt", "engine")
FIRST = 2
"""Shapes of an operation that are measured before the next operation has its turn."""


def in_turns(grids: Iterable[Iterable[Case]], first: int = FIRST) -> Iterator[Case]:
    """The cases of the first shapes of each grid, then those of one further shape of each, and so on."""
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


def ours_alone(case: Case) -> Case:
    """A case without the contenders of others."""
    return replace(case, contenders={name: c for name, c in case.contenders.items() if name.startswith("tstk")})


def shared_out(processes: int, options: list[str]) -> int:
    """Run as many processes with these options, each with a part of the cases; the largest of their statuses."""
    parts = [["--processes", "0", "--part", str(i), "--parts", str(processes)] for i in range(processes)]
    running = [subprocess.Popen([sys.executable, "-m", "benchmarks.run", *options, *part]) for part in parts]
    return max(abs(process.wait()) for process in running)


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
    parser.add_argument("--ours", action="store_true", help="only our own contenders")
    parser.add_argument("--first", action="store_true", help="only the first shape of each operation, on one thread")
    parser.add_argument("--stop", action="store_true", help="at the first case in which ours is wrong")
    parser.add_argument("--part", type=int, default=0, metavar="I", help="only every --parts'th case, from the I'th on")
    parser.add_argument("--parts", type=int, default=1, metavar="N", help="into which the cases are dealt")
    parser.add_argument("--processes", type=int, default=0, metavar="N", help="deal the cases to so many at once")
    asked = parser.parse_args()
    if asked.processes:
        return shared_out(asked.processes, sys.argv[1:])
    begin, results, wrong, left = time.monotonic(), Results(asked.results, asked.run), 0, 0
    grids = [import_module(f"benchmarks.test_{name}").cases(asked.full, asked.device) for name in asked.operations]
    if asked.first:
        grids = [[c for c in grid if (c.size, c.threads) == (grid[0].size, 1)] for grid in grids]
    for number, case in enumerate(in_turns(grids)):
        if asked.match not in str(case) or case in results or number % asked.parts != asked.part:
            continue
        if time.monotonic() - begin > asked.within:
            left += 1
            continue
        record = measure(ours_alone(case) if asked.ours else case, 0 if asked.gates else asked.budget)
        results.add(record)
        print(*summary(record), sep="\n", flush=True)
        wrong += case.ours in record.out
        if wrong and asked.stop:
            break
    if left:
        print(f"{left} cases were left out: {asked.within:.0f} s had passed")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
