"""Measures tile sizes on this GPU: `python -m benchmarks.tune --out FILE`, and keeps them with `--adopt FILE`.

For every case of the grid, the keys that a call looks up in the tables of its `triton.py` are found by watching; then
each number of each entry is doubled and halved for as long as that is faster and the answer still passes the gate.
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
from benchmarks.harness import Case, bind
from tstk.kernels import tuning
from tstk.kernels.tuning import Key

KERNELS = {op: op for op in ("rope_attention", "nearest_code", "ricker_cwt")} | {"quantizer_step": "nearest_code"}
"""By operation, in whose folder its kernels are."""
GAIN = 0.97
"""A change must bring this; less is noise."""

Asked = dict[tuple[str, Key], Any]


class Watched(dict[Key, Any]):
    """A table that remembers what was looked up in it."""

    def __init__(self, name: str, table: dict[Key, Any], asked: Asked) -> None:
        super().__init__(table)
        self._name, self._asked = name, asked

    def __getitem__(self, key: Key) -> Any:
        return self._note(key, super().__getitem__(key))

    def get(self, key: Any, default: Any = None, /) -> Any:
        found = super().get(key, default)
        return found if found is None else self._note(key, found)

    def _note(self, key: Key, sizes: Any) -> Any:
        self._asked[self._name, key] = sizes
        return sizes


@contextmanager
def watched(module: ModuleType) -> Iterator[tuple[dict[str, Watched], Asked]]:
    """Its tables (dictionaries in capitals that end in CONFIGS), watched; as they were afterwards."""
    asked: Asked = {}
    before = {
        name: table for name, table in vars(module).items() if name.endswith("CONFIGS") and isinstance(table, dict)
    }
    tables = {name: Watched(name, table, asked) for name, table in before.items()}
    vars(module).update(tables)
    try:
        yield tables, asked
    finally:
        vars(module).update(before)


def tune(
    module: ModuleType,
    call: Callable[[], object],
    right: Callable[[], bool],
    seconds: Callable[[], float],
    done: Container[tuple[str, Key]] = (),
) -> dict[str, dict[Key, Any]]:
    """Better sizes for the keys that a call looks up.

    Args:
        module: with tables
        call: runs the kernels
        right: whether what it makes is right
        seconds: what it takes
        done: tables and keys to leave as they are
    """
    found: dict[str, dict[Key, Any]] = {}
    with watched(module) as (tables, asked):
        call()
        best = seconds()
        for (name, key), start in list(asked.items()):
            if (name, key) in done:
                continue
            table, sizes = tables[name], start
            for path, _ in numbers(start):
                for factor in (2, 0.5):
                    while other := int(dict(numbers(sizes))[path] * factor):
                        table[key] = changed(sizes, path, other)
                        took = _try(right, seconds)
                        if took > GAIN * best:
                            break
                        sizes, best = table[key], took
                table[key] = sizes
            found.setdefault(name, {})[key] = sizes
    return found


def numbers(sizes: Any) -> Iterator[tuple[Key, int]]:
    """Every number, and the way to it."""
    if isinstance(sizes, int) and not isinstance(sizes, bool):
        yield (), sizes
    elif isinstance(sizes, dict | tuple):
        for step, part in sizes.items() if isinstance(sizes, dict) else enumerate(sizes):
            yield from (((step, *path), number) for path, number in numbers(part))


def changed(sizes: Any, path: Key, number: int) -> Any:
    """The same sizes with another number at the end of the way."""
    if not path:
        return number
    part = changed(sizes[path[0]], path[1:], number)
    if isinstance(sizes, dict):
        return {**sizes, path[0]: part}
    parts = [part if i == path[0] else other for i, other in enumerate(sizes)]
    return type(sizes)(*parts) if hasattr(sizes, "_fields") else tuple(parts)


def _try(right: Callable[[], bool], seconds: Callable[[], float]) -> float:
    try:
        return seconds() if right() else float("inf")
    except Exception:  # too large for the machine, or nothing the compiler can make
        return float("inf")


def tune_case(module: ModuleType, case: Case, done: Container[tuple[str, Key]]) -> dict[str, dict[Key, Any]]:
    """The same for a case of the grid."""
    clocks.settle(case.device, case.threads)
    inputs = case.inputs(0, case.device)
    contender = case.contenders[case.ours]
    call, judge = bind(case, contender.prepare(*inputs), inputs), case.gate(*inputs)

    def right() -> bool:
        output, gradients = call()
        output = contender.plainly(output)
        return not judge([*(output if isinstance(output, tuple) else (output,)), *gradients]).fault

    def seconds() -> float:
        clock = clocks.replay([call])
        return median(clock() for _ in range(15))

    return tune(module, call, right, seconds, done)


def main() -> None:
    """Write what is better as it is found."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.tune")
    parser.add_argument("--out", type=Path, help="measure, and write here")
    parser.add_argument("--adopt", type=Path, metavar="FILE", help="put what was written there beside the kernels")
    parser.add_argument("--within", type=float, default=80.0, metavar="SECONDS", help="begin no case after that")
    asked, begin = parser.parse_args(), time.monotonic()
    page: dict[str, dict[str, list[object]]] = {}
    done: dict[str, set[tuple[str, Key]]] = {}
    if asked.out:
        for n, (op, folder) in enumerate(KERNELS.items()):
            until = begin + asked.within * (n + 1) / len(KERNELS)
            module, known = import_module(f"tstk.kernels.{folder}.triton"), done.setdefault(folder, set())
            cases = [case for case in import_module(f"benchmarks.test_{op}").cases(False, "cuda") if case.op == op]
            for case in [case for case in cases if case.gradients] or cases:
                if time.monotonic() > until:
                    break
                for name, rows in tune_case(module, case, known).items():
                    print(f"{case}: {name} {rows}", flush=True)
                    page.setdefault(folder, {}).setdefault(name, []).extend([*row] for row in rows.items())
                    known |= {(name, key) for key in rows}
                asked.out.write_text(json.dumps({tuning.kind(): page}, indent=1) + "\n")
    if asked.adopt:
        for gpu, ops in json.loads(asked.adopt.read_text()).items():
            for op, tables in ops.items():
                sizes = {name: {tuple(key): better for key, better in rows} for name, rows in tables.items()}
                tuning.write(op, gpu, sizes)


if __name__ == "__main__":
    main()
