"""Tile sizes for this GPU: `python -m benchmarks.tune --out FILE` measures, `--adopt FILE` stores them.

For each case of the grid, the lookups of a call in the tables of its `triton.py` are recorded. Then each number of each
entry is doubled and halved as long as that is faster and the output is still correct.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

from benchmarks import clocks
from benchmarks.harness import Case, bind_inputs
from tstk.kernels import tuning
from tstk.kernels.tuning import ShapeKey

KERNELS = {op: op for op in ("rope_attention", "nearest_code", "ricker_cwt")} | {"quantizer_step": "vector_quantize"}
"""Operation -> folder of its kernels."""
GAIN = 0.97
"""A change of tile sizes is kept if the time falls below this share; smaller gains are noise."""

Lookups = dict[tuple[str, ShapeKey], Any]


class RecordingTable(dict[ShapeKey, Any]):
    """A table that records each lookup in `lookups`, by table and key."""

    def __init__(self, name: str, table: dict[ShapeKey, Any], lookups: Lookups) -> None:
        super().__init__(table)
        self._name, self._lookups = name, lookups

    def __getitem__(self, key: ShapeKey) -> Any:
        return self._note(key, super().__getitem__(key))

    def get(self, key: Any, default: Any = None, /) -> Any:
        sizes = super().get(key, default)
        return sizes if sizes is None else self._note(key, sizes)

    def _note(self, key: ShapeKey, sizes: Any) -> Any:
        self._lookups[self._name, key] = sizes
        return sizes


@contextmanager
def record_lookups(module: ModuleType) -> Iterator[tuple[dict[str, RecordingTable], Lookups]]:
    """Yield the tables of a module (dictionaries whose name ends in CONFIGS), recording; restore them afterwards."""
    lookups: Lookups = {}
    before = {
        name: table for name, table in vars(module).items() if name.endswith("CONFIGS") and isinstance(table, dict)
    }
    tables = {name: RecordingTable(name, table, lookups) for name, table in before.items()}
    vars(module).update(tables)
    try:
        yield tables, lookups
    finally:
        vars(module).update(before)


def tune(
    module: ModuleType,
    call: Callable[[], object],
    is_correct: Callable[[], bool],
    measure_seconds: Callable[[], float],
    done: Container[tuple[str, ShapeKey]] = (),
) -> dict[str, dict[ShapeKey, Any]]:
    """Search better tile sizes for the keys that a call looks up.

    Args:
        module: module with the tables
        call: runs the kernels
        is_correct: returns whether the output is correct
        measure_seconds: returns the seconds of a call
        done: (table, key) pairs to skip
    """
    better: dict[str, dict[ShapeKey, Any]] = {}
    with record_lookups(module) as (tables, lookups):
        call()
        best = measure_seconds()
        for (name, key), start in list(lookups.items()):
            if (name, key) in done:
                continue
            table, sizes = tables[name], start
            for path, _ in iterate_numbers(start):
                for factor in (2, 0.5):
                    while other := int(dict(iterate_numbers(sizes))[path] * factor):
                        table[key] = replace_number(sizes, path, other)
                        took = _try(is_correct, measure_seconds)
                        if took > GAIN * best:
                            break
                        sizes, best = table[key], took
                table[key] = sizes
            better.setdefault(name, {})[key] = sizes
    return better


def iterate_numbers(sizes: Any) -> Iterator[tuple[ShapeKey, int]]:
    """Yield every number with its path."""
    if isinstance(sizes, int) and not isinstance(sizes, bool):
        yield (), sizes
    elif isinstance(sizes, dict | tuple):
        for step, part in sizes.items() if isinstance(sizes, dict) else enumerate(sizes):
            yield from (((step, *path), number) for path, number in iterate_numbers(part))


def replace_number(sizes: Any, path: ShapeKey, number: int) -> Any:
    """Return the sizes with another number at a path."""
    if not path:
        return number
    part = replace_number(sizes[path[0]], path[1:], number)
    if isinstance(sizes, dict):
        return {**sizes, path[0]: part}
    parts = [part if i == path[0] else other for i, other in enumerate(sizes)]
    return type(sizes)(*parts) if hasattr(sizes, "_fields") else tuple(parts)


def _try(is_correct: Callable[[], bool], measure_seconds: Callable[[], float]) -> float:
    try:
        return measure_seconds() if is_correct() else float("inf")
    except Exception:  # exceeds a limit of the machine, or does not compile
        return float("inf")


def tune_case(module: ModuleType, case: Case, done: Container[tuple[str, ShapeKey]]) -> dict[str, dict[ShapeKey, Any]]:
    """Tune a case of the grid, see `tune`."""
    clocks.reset_state(case.device, case.threads)
    inputs = case.inputs(0, case.device)
    contender = case.contenders[case.ours]
    call, check = bind_inputs(case, contender.prepare(*inputs), inputs), case.make_check(*inputs)

    def is_correct() -> bool:
        output, gradients = call()
        output = contender.normalize_output(output)
        return not check([*(output if isinstance(output, tuple) else (output,)), *gradients]).fault

    def measure_seconds() -> float:
        clock = clocks.make_graph_clock([call])
        return median(clock() for _ in range(15))

    return tune(module, call, is_correct, measure_seconds, done)


def main() -> None:
    """Measure tile sizes and write better ones to a file; or adopt those of a file."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.tune")
    parser.add_argument("--out", type=Path, help="measure, and write sizes to this file")
    parser.add_argument("--adopt", type=Path, metavar="FILE", help="adopt the sizes of this file in the kernels")
    parser.add_argument("--within", type=float, default=80.0, metavar="SECONDS", help="start no case after this time")
    args, begin = parser.parse_args(), time.monotonic()
    page: dict[str, dict[str, list[object]]] = {}
    done: dict[str, set[tuple[str, ShapeKey]]] = {}
    if args.out:
        for n, (op, folder) in enumerate(KERNELS.items()):
            until = begin + args.within * (n + 1) / len(KERNELS)
            module, known = import_module(f"tstk.kernels.{folder}.triton"), done.setdefault(folder, set())
            cases = [case for case in import_module(f"benchmarks.test_{op}").list_cases(False, "cuda") if case.op == op]
            for case in [case for case in cases if case.gradients] or cases:
                if time.monotonic() > until:
                    break
                for name, rows in tune_case(module, case, known).items():
                    print(f"{case}: {name} {rows}", flush=True)
                    page.setdefault(folder, {}).setdefault(name, []).extend([*row] for row in rows.items())
                    known |= {(name, key) for key in rows}
                args.out.write_text(json.dumps({tuning.get_compute_capability(): page}, indent=1) + "\n")
    if args.adopt:
        for gpu, ops in json.loads(args.adopt.read_text()).items():
            for op, tables in ops.items():
                sizes = {name: {tuple(key): better for key, better in rows} for name, rows in tables.items()}
                tuning.write_tuned_sizes(op, gpu, sizes)


if __name__ == "__main__":
    main()
