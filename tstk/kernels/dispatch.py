"""Which implementation serves a call, and why the others do not.

An operation lists its backends from the most special to the most general. `auto` takes the first that supports the
call; one that was asked for by name serves or raises its reason. Nothing falls back in silence.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any

from tstk.errors import NameUnknown, NeedsError, did_you_mean

_wanted: ContextVar[str] = ContextVar("kernels", default=os.environ.get("TSTK_KERNELS") or "auto")


@dataclass(frozen=True)
class Backend:
    """One implementation of an operation.

    Args:
        name: triton, torch, reference, or what a third party calls its own
        target: `module:function`, imported on first use; it takes what the operation takes
        supports: takes what the operation takes and says why not, or nothing; it looks at devices, dtypes and
            shapes, never at values
    """

    name: str
    target: str
    supports: Callable[..., str] = lambda *args, **options: ""

    @cached_property
    def run(self) -> Callable[..., Any]:
        """The implementation itself."""
        module, _, attribute = self.target.partition(":")
        function: Callable[..., Any] = getattr(import_module(module), attribute)
        return function


class Operation:
    """A name, and the backends that implement it."""

    def __init__(self, name: str, *backends: Backend) -> None:
        self.name, self.backends = name, {b.name: b for b in backends}

    def __call__(self, *args: Any, backend: str | None = None, **options: Any) -> Any:
        """What the chosen backend makes of the arguments.

        Raises:
            NeedsError: the backend that was asked for cannot serve this call
            NameUnknown: there is none of this name
        """
        return self.pick(backend, *args, **options).run(*args, **options)

    def pick(self, backend: str | None, *args: Any, **options: Any) -> Backend:
        """The backend that serves a call; `backend` goes before `using`, which goes before TSTK_KERNELS."""
        wanted = backend or _wanted.get()
        if wanted == "auto":
            for candidate in self.backends.values():
                if not candidate.supports(*args, **options):
                    return candidate
            raise NeedsError(f"{self.name}: no backend serves this call: {self._all(self.reasons(*args, **options))}")
        if wanted not in self.backends:
            raise NameUnknown(
                f"{self.name} has no backend {wanted!r}; it has {', '.join(self.backends)}."
                + did_you_mean(wanted, self.backends)
            )
        if reason := self.backends[wanted].supports(*args, **options):
            raise NeedsError(f"{self.name}: backend {wanted!r} cannot serve this call: {reason}")
        return self.backends[wanted]

    def reasons(self, *args: Any, **options: Any) -> dict[str, str]:
        """By backend, why it does not serve a call; empty where it does."""
        return {name: b.supports(*args, **options) for name, b in self.backends.items()}

    @staticmethod
    def _all(reasons: dict[str, str]) -> str:
        return "; ".join(f"{name}: {why}" for name, why in reasons.items())


@contextmanager
def using(backend: str) -> Iterator[None]:
    """Within the block, calls that name no backend use this one; `auto` chooses by the call.

    with tstk.kernels.using("reference"):
        ...
    """
    before = _wanted.set(backend)
    try:
        yield
    finally:
        _wanted.reset(before)
