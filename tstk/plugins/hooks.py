"""The one hook that a plugin implements, the `Entry` records that it yields, and the version of the slot interfaces.

Neither this module nor a plugin's `plugin.py` imports anything heavy: both are read to list names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pluggy

from tstk.errors import UnknownNameError, did_you_mean

INTERFACE_VERSION = 1
"""Version of this tstk's slot interfaces. Each `Entry` states the version that it was written for."""

SLOTS = ("tokenizer", "encoder", "decoder", "head", "loss")
KINDS = (
    *SLOTS,
    *("task", "reader", "config", "recipe", "command", "callback", "probe", "report", "kernel"),
    *("masking", "augmentation", "tracker", "importer"),
)

LOCAL = "local"
"""Distribution of components that were registered in this process and belong to no plugin."""

hookspec = pluggy.HookspecMarker("tstk")
hookimpl = pluggy.HookimplMarker("tstk")


@dataclass(frozen=True)
class Entry:
    """A named component, reader, config, command or other extension, imported when it is first used.

    Args:
        kind: one of `KINDS`
        name: lower case with hyphens
        target: `package.module:attribute`, or `package:path/inside/it` for a file such as a config; or the class of a
            component without a plugin (`tstk.register`)
        summary: one line, shown in lists
        provides: for a component, the `Spec` fields it sets; for a data reader, the file suffixes it reads
        paper: where the method was published
        interface_version: version of the slot interfaces it was written for
        dist: the distribution it came from, `tstk` for the core, `local` for none; filled in by the registry
    """

    kind: str
    name: str
    target: str | type
    summary: str
    provides: frozenset[str] = frozenset()
    paper: str = ""
    interface_version: int = 1  # not INTERFACE_VERSION: an old plugin that states no version was written for 1
    dist: str = ""

    @property
    def qualified_name(self) -> str:
        """`dist/name`, which is always unambiguous and is what a saved config records."""
        return f"{self.dist}/{self.name}"

    @property
    def import_path(self) -> str:
        """The target as text: `package.module:attribute`."""
        return self.target if isinstance(self.target, str) else f"{self.target.__module__}:{self.target.__qualname__}"


def parse_kind(word: str) -> str:
    """Return the kind that a word names, in singular or plural.

    Raises:
        UnknownNameError: there is no such kind
    """
    plurals = {"losses": "loss"} | {f"{k}s": k for k in KINDS}
    kind = plurals.get(word.lower(), word.lower())
    if kind not in KINDS:
        raise UnknownNameError(f"There is no kind {word!r}.{did_you_mean(word, KINDS)} There are: {', '.join(KINDS)}.")
    return kind


class HookSpecs:
    """Hook specifications; mark an implementation with `tstk.hookimpl`."""

    @hookspec
    def tstk_entries(self) -> Iterable[Entry]:  # type: ignore[empty-body]
        """Yield one `tstk.Entry` per extension. Called once, when names are first needed."""
