"""What a plugin may do while others train: a `Callback`, chosen with `--callbacks NAME`, is told of steps and epochs.

A plugin announces a class, `Entry("callback", "mine", "tstk_plugins_mine.callback:Mine", ...)`; it is made anew for
each run, without arguments. It looks and remembers; what trains is not its business to change.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tstk.plugins.registry import registry

if TYPE_CHECKING:
    from tstk.core.pipeline import Pipeline
    from tstk.core.types import Flow


class Callback:
    """Does nothing; override what you want to be told of."""

    def begin(self, pipeline: Pipeline, steps: int, epochs: int) -> None:
        """Training starts, for so many optimizer steps and epochs at most."""

    def step(self, step: int, flows: list[Flow]) -> None:
        """An optimizer step was done; `flows` are the passes of its micro-batches, with terms, masks and answers."""

    def epoch(self, row: dict[str, Any], pipeline: Pipeline) -> dict[str, float] | None:
        """An epoch was validated; `pipeline` holds the averaged weights, as saved.

        Returns:
            numbers to be kept with the epoch's metrics under the callback's name, or None
        """

    def end(self, best: dict[str, Any]) -> None:
        """Training is over; `best` is the row of the epoch whose weights are kept."""


def called(names: Iterable[str]) -> dict[str, Callback]:
    """A new callback for each name.

    Raises:
        NameUnknown: there is none of this name
    """
    return {name: registry().load(registry().find("callback", name))() for name in names}
