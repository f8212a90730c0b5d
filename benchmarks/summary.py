"""One screen of what was measured: `python -m benchmarks.summary OUTDIR`. Needs nothing but Python."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

LINES = 32


def lines(folder: Path) -> Iterator[str]:
    """A line per case: what ours takes, kernels alone where that was measured, and the fastest of the others."""
    pages = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    for found in [page["environment"] for page in pages][:1]:
        yield f"commit {found['commit']}, {found['gpu'] or found['processor']}"
    cases = {}
    for table in (table for page in pages for table in page["tables"] if table["contenders"]):
        if table["clock"] in ("wall", "kernels"):
            cases[table["case"]] = table  # kernels come after the wall clock
    for case, table in cases.items():
        rows, ours = table["contenders"], table["ours"]
        others = [(row["ratio"], name) for name, row in rows.items() if name != ours]
        best = "" if not others else "; {1} takes {0:.2f} times as long".format(*min(others))
        mark = " (INVALID)" if table["why_invalid"] else ""
        yield f"{rows[ours]['median'] * 1e3:9.4g} ms  {case}{best}{mark}"


def main() -> None:
    """Print them, the first `LINES`."""
    some = list(lines(Path(sys.argv[1])))
    print(*some[:LINES], sep="\n")
    if len(some) > LINES:
        print(f"and {len(some) - LINES} more")


if __name__ == "__main__":
    main()
