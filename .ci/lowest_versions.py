"""Print the lowest versions that pyproject.toml admits, as constraints: `make constraints-lowest.txt` keeps them.

torch stays at the version of constraints.txt: others bring gigabytes of CUDA along. Its floor was tried by hand.
"""

import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PINNED = ("torch",)


def iterate_lowest_versions() -> Iterator[str]:
    """Yield one constraint per dependency, those of extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [text for group in project["optional-dependencies"].values() for text in group]
    floors = {}
    for requirement in map(Requirement, [*project["dependencies"], *extras]):
        for clause in requirement.specifier:
            if clause.operator == ">=" and floors.setdefault(requirement.name, clause.version) != clause.version:
                raise SystemExit(f"pyproject.toml has two floors for {requirement.name}")
    ours = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    floors |= {name: ours[name] for name in PINNED}
    for name in sorted(floors, key=str.lower):
        yield f"{name}=={floors[name]}"


if __name__ == "__main__":
    print("# Made by .ci/lowest_versions.py from pyproject.toml; do not edit.")
    print("\n".join(iterate_lowest_versions()))
