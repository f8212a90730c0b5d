"""Generates docs/kernels.md from page.md and results: `python -m benchmarks.render RESULTS...`.

A results folder contains one run on one device. Rows that failed their check, and a second run on a device, are errors.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE, OUT = HERE / "page.md", HERE.parent / "docs" / "kernels.md"
RESULTS = HERE / "results"
"""Scores of `benchmarks.classification`; not kernel timings."""
COMPILED = RESULTS / "compiled.json"
MARK = re.compile(r"^<!-- (\w+) -->$", re.MULTILINE)
DEVICES = {"cpu AVX512": "On a CPU with AVX-512", "cpu AVX2": "On a CPU with AVX2", "cuda": "On an NVIDIA GPU"}
"""Titles of results by device and, for a CPU, the vectors that torch used; those of other CPUs have none."""
CLOCKS = {
    "wall": "wall clock of eager calls",
    "kernels": "kernels alone (CUDA graph), inputs not in the cache",
    "kernels, inputs in cache": "kernels alone (CUDA graph), inputs in the cache",
}

Table = dict[str, Any]


class InvalidResultsError(Exception):
    """Results cannot be rendered."""


def read_results(folders: Iterable[Path]) -> dict[str, list[dict[str, Any]]]:
    """Return pages of results by device, a CPU with the name of its vectors.

    Raises:
        InvalidResultsError: two runs on one device, or a row that failed its check
    """
    devices: dict[str, list[dict[str, Any]]] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.json")):
            page = json.loads(path.read_text())
            for table in page["tables"]:
                for name, row in table["contenders"].items():
                    if row.get("gate") != "passed":
                        raise InvalidResultsError(f"{path}: {name} has no passing gate in {table['case']}")
            vectors = page["environment"]["vectors"]
            for device in {f"cpu {vectors}" if table["device"] == "cpu" else "cuda" for table in page["tables"]}:
                pages = devices.setdefault(device, [])
                if pages and pages[0]["run"] != page["run"]:
                    raise InvalidResultsError(f"{path}: run {page['run']!r} is mixed with {pages[0]['run']!r}")
                pages.append(page)
    return devices


def render(text: str, devices: dict[str, list[dict[str, Any]]]) -> str:
    """Return the page with each placeholder replaced by results."""

    def replace(mark: re.Match[str]) -> str:
        if mark[1] == "environment":
            return "\n".join(format_environments(devices))
        if mark[1] == "compiled":
            return "\n".join(format_compiled(json.loads(COMPILED.read_text())))
        return "\n".join(format_sections(mark[1], devices))

    return MARK.sub(replace, text)


def format_environments(devices: dict[str, list[dict[str, Any]]]) -> Iterable[str]:
    """Yield a line per device that describes its environment."""
    for device, title in DEVICES.items():
        if device not in devices:
            script = "gpu.sh bench" if device == "cuda" else "cpu.sh"
            yield f"- {title}: not measured yet (`benchmarks/{script}` measures it)."
            continue
        environment, run = devices[device][0]["environment"], devices[device][0]["run"]
        packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
        machine = (
            environment["gpu"] if device == "cuda" else f"{environment['processor']}, {environment['cores']} cores"
        )
        yield f"- {title}: {machine}; {packages}; commit {environment['commit']}; run {run}."


def format_compiled(page: dict[str, Any]) -> Iterable[str]:
    """Yield a table of the resource usage of each tile configuration, the maximum over compiled variants."""
    groups: dict[tuple[str, str, str], dict[int, list[Table]]] = {}
    for row in page["rows"]:
        kernel = groups.setdefault((row["op"], row["kernel"], row["key"]), {})
        kernel.setdefault(row["arch"], []).append(row)
    architectures = sorted({row["arch"] for row in page["rows"]})
    yield f"{len(page['rows'])} kernels, compiled by Triton {page['triton']}:\n"
    yield "| kernel | sizes for | " + " | ".join(f"sm_{arch}" for arch in architectures) + " |"
    yield "|---" * (2 + len(architectures)) + "|"
    for (op, kernel, key), by_arch in groups.items():
        cells = [f"`{op}` {kernel.strip('_')}", key or "any"]
        for arch in architectures:
            registers, shared, local = (
                max((row[column] for row in by_arch.get(arch, [])), default=0)
                for column in ("registers", "shared", "local")
            )
            cells.append(f"{registers}, {math.ceil(shared / 1024)} KiB" + f", **{local} B**" * (local > 0))
        yield "| " + " | ".join(cells) + " |"


def format_sections(op: str, devices: dict[str, list[dict[str, Any]]]) -> Iterable[str]:
    """Yield the tables of one operation."""
    for device, title in DEVICES.items():
        pages = devices.get(device, [])
        kind = device.partition(" ")[0]
        tables = [table for page in pages for table in page["tables"] if (table["op"], table["device"]) == (op, kind)]
        for clock, title_of_clock in CLOCKS.items():
            measured = [table for table in tables if table["clock"] == clock and table["contenders"]]
            if measured:
                yield f"{title}, {title_of_clock}:\n"
                yield from format_table(measured)
        if tables:
            yield from contenders(tables)
            yield from format_excluded(tables)


def format_table(tables: list[Table]) -> Iterable[str]:
    """Yield a table with one row per case; columns are the other contenders, and the limit if there is one."""
    ours = tables[0]["ours"]
    others = list(dict.fromkeys(name for table in tables for name in table["contenders"] if name != ours))
    limit = tables[0]["limit"]
    head = ["case", ours, *(["limit: " + limit] if limit else []), *others]
    yield "| " + " | ".join(head) + " |"
    yield "|---" * len(head) + "|"
    for table in tables:
        rows = table["contenders"]
        mark = " †" if table["why_invalid"] else ""
        cells = [format_label(table) + mark, format_seconds(rows[ours]["median"])]
        cells += [f"{rows[ours]['x_limit']:.2f}"] if limit else []
        cells += [format_ratio(rows.get(name)) for name in others]
        yield "| " + " | ".join(cells) + " |"
    yield ""


def format_label(table: Table) -> str:
    """Return the label of a case."""
    parts = [table["name"], table["size"]]
    parts += [table["dtype"]] if table["dtype"] != "float32" or table["device"] == "cuda" else []
    parts += ["backward too"] if table["passes"] != "forward" else []
    parts += [f"{table['threads']} thread{'s' * (table['threads'] > 1)}"] if table["device"] == "cpu" else []
    return ", ".join(parts)


def format_ratio(row: Table | None) -> str:
    """Return a ratio with its interval; bold if the interval lies above one."""
    if row is None:
        return ""
    low, high = row["interval"]
    value = f"**{row['ratio']:.2f}**" if low > 1 else f"{row['ratio']:.2f}"
    return f"{value} [{low:.2f}, {high:.2f}]"


def format_seconds(value: float) -> str:
    """Format seconds with three digits and a unit."""
    scale, unit = next((s, u) for s, u in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")) if value >= s or u == "µs")
    return f"{value / scale:.3g} {unit}"


def contenders(tables: list[Table]) -> Iterable[str]:
    """Yield a table of contenders: setting, and maxima of error, first call (with compilation) and memory."""
    rows: dict[str, list[Table]] = {}
    for table in tables:
        for name, row in table["contenders"].items():
            rows.setdefault(name, []).append(row)
    yield "| contender | setting | largest error | slowest first call | most memory |"
    yield "|---|---|---|---|---|"
    for name, group in rows.items():
        error, first = max(row["error"] for row in group), max(row["first_call"] for row in group)
        memory = max((row["peak_bytes"] or 0 for row in group), default=0)
        megabytes = f"{memory / 2**20:.0f} MiB" if memory else ""
        yield f"| {name} | {group[0]['setting']} | {error:.1e} | {format_seconds(first)} | {megabytes} |"
    yield ""


def format_excluded(tables: list[Table]) -> Iterable[str]:
    """Yield a line per excluded contender, with the first reason of each kind."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for table in tables:
        for name, why in table["out"].items():
            reasons.setdefault((name, why.partition(":")[0]), []).append(why)
    for (name, _), group in reasons.items():
        yield f"- {name}, {len(group)} of {len(tables)} rows: {group[0][:200]}"
    if reasons:
        yield ""


def main() -> int:
    """Write the page; return 1 if the results are invalid."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.render")
    parser.add_argument(
        "results",
        nargs="*",
        type=Path,
        default=[folder for name in ("cpu-avx512", "cpu-avx2", "gpu") if (folder := RESULTS / name).is_dir()],
        help="folders, one per device",
    )
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    try:
        args.out.write_text(render(PAGE.read_text(encoding="utf-8"), read_results(args.results)), encoding="utf-8")
    except InvalidResultsError as why:
        print(why, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
