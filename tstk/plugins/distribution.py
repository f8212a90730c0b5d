"""What tstk is called where packages are installed: the distribution is `tstk-core`, all else (module, command, the
name that its own parts are qualified with) is `tstk`.
"""

from __future__ import annotations

CORE = "tstk-core"


def distribution_of(plugin: str) -> str:
    """Return the distribution to install for a plugin: its own name, and `tstk-core` for the core's parts."""
    return CORE if plugin == "tstk" else plugin


def install_command(extra: str, dist: str = CORE) -> str:
    """Return the command that installs an extra, for messages."""
    return f"pip install '{dist}[{extra}]'"
