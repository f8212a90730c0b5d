"""Names for package installers: the distribution is `tstk-core`; the module, the command and the qualifier of core
components are `tstk`.
"""

from __future__ import annotations

CORE_DISTRIBUTION = "tstk-core"


def get_distribution(plugin: str) -> str:
    """Return the distribution to install for a plugin: its own name, or `tstk-core` for the core."""
    return CORE_DISTRIBUTION if plugin == "tstk" else plugin


def format_install_command(extra: str, dist: str = CORE_DISTRIBUTION) -> str:
    """Return the command that installs an extra, for messages."""
    return f"pip install '{dist}[{extra}]'"
