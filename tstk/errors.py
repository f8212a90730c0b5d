"""What tstk raises for a user's mistake: one line that names the thing, the place and the remedy.

The command line prints the message and exits with 2. A real bug is never wrapped in one of these.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile


class TstkError(Exception):
    """A mistake that the user can mend; the message says how."""


class NameUnknown(TstkError):
    """No component, data set, config or command has this name."""


class OptionError(TstkError):
    """An option has a value that cannot work, whatever the data."""


class NeedsError(TstkError):
    """These components do not fit together: one needs what another does not provide."""


class DataError(TstkError):
    """The data cannot be read, or do not suit the components."""


class CheckpointError(TstkError):
    """A run directory is missing, damaged, foreign, or needs a plugin that is not there."""


class TrainingError(TstkError):
    """Training had to stop, for instance because a loss term became NaN."""


def edits(a: str, b: str) -> int:
    """Optimal string alignment distance: insertions, deletions, substitutions, swapped neighbours."""
    rows = [list(range(len(b) + 1))]
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            cost = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]


def nearest(name: str, names: Iterable[str], most: int = 3) -> list[str]:
    """The names that `name` was probably meant to be, best first."""
    low = name.lower()
    found = []
    for other in dict.fromkeys(names):
        distance = edits(low, other.lower())
        shared = sum(1 for _ in takewhile(lambda xy: xy[0] == xy[1], zip(low, other.lower(), strict=False)))
        if distance <= max(1, min(len(low), len(other)) // 3):
            found.append((distance, -shared, other))
        elif shared == len(low) >= 3:
            found.append((len(other), -shared, other))
    return [other for *_, other in sorted(found)[:most]]


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """' Did you mean 'x'?' or the empty string, to append to a message."""
    found = nearest(name, names)
    return f" Did you mean {' or '.join(repr(n) for n in found)}?" if found else ""
