"""Public data sets by name."""

from __future__ import annotations

import os
from pathlib import Path


def cache() -> Path:
    """The folder of what was downloaded: the variable TSTK_CACHE, or tstk in the user's folder of caches."""
    given = os.environ.get("TSTK_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tstk"
