"""The one hook that a plugin implements, and the version of the interfaces that plugins are written for.

This module and the plugin's own `plugin.py` hold no heavy import: they are read to list names, before
anyone knows whether torch is needed at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from tstk.plugins.registry import Entry

INTERFACE_VERSION = 1
"""Version of the slot interfaces that this tstk has. An `Entry` states the version that it was written for."""

hookspec = pluggy.HookspecMarker("tstk")
hookimpl = pluggy.HookimplMarker("tstk")


class Specs:
    """Hook specifications; `tstk.hookimpl` marks an implementation."""

    @hookspec
    def tstk_entries(self) -> Iterable[Entry]:  # type: ignore[empty-body]
        """Yield one `tstk.Entry` per thing the plugin offers. Called once, when names are first needed."""
