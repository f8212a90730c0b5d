"""Short summary of results: `python -m benchmarks.summary OUTDIR`. Needs only the standard library."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

LINES = 32


def format_cases(folder: Path) -> Iterator[str]:
    """Yield a line per case: our time (kernels alone if measured), and the fastest other contender."""
    pages = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    for environment in [page["environment"] for page in pages][:1]:
        yield f"commit {environment['commit']}, {environment['gpu'] or environment['processor']}"
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
    lines = list(format_cases(Path(sys.argv[1])))
    print(*lines[:LINES], sep="\n")
    if len(lines) > LINES:
        print(f"and {len(lines) - LINES} more")


if __name__ == "__main__":
    main()
