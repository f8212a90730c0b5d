"""Which implementation serves a call, and why the others do not.

An operation lists its backends from the most special to the most general. `auto` takes the first that supports the
call; one that was asked for by name serves or raises its reason. Nothing falls back in silence.

This module is light: it imports torch only to ask for a GPU, and Triton never.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from tstk.errors import NameUnknown, NeedsError, TstkError, did_you_mean
from tstk.plugins.registry import registry

if TYPE_CHECKING:
    import torch

_TRITON = find_spec("triton") is not None
OPERATIONS: dict[str, Operation] = {}
"""All operations by name, once `tstk.kernels` is imported."""

OLDEST = (8, 0)
"""Compute capability from which on the Triton kernels run."""

_wanted = os.environ.get("TSTK_KERNELS") or "auto"


@dataclass(frozen=True)
class Backend:
    """One implementation of an operation.

    Args:
        name: triton, torch, reference, or what a third party calls its own
        target: `module:function`, imported on first use; it takes what the operation takes
        supports: takes what the operation takes and says why not, or nothing; it looks at devices, dtypes and
            shapes, never at values
        absent: says why no call at all can be served on this machine, or nothing
        dist: the distribution it came from
    """

    name: str
    target: str
    supports: Callable[..., str] = lambda *args, **options: ""
    absent: Callable[[], str] = lambda: ""
    dist: str = "tstk"

    @property
    def run(self) -> Callable[..., Any]:
        """The implementation itself."""
        module, _, attribute = self.target.partition(":")
        _load(module)
        function: Callable[..., Any] = getattr(sys.modules[module], attribute)
        return function


def _load(module: str) -> bool:
    return module in sys.modules or bool(import_module(module))


# What torch.compiler.assume_constant_result sets, without its import of the compiler: torch.compile cannot trace an
# import, so it makes it while it traces.
_load._dynamo_marked_constant = True  # type: ignore[attr-defined]


class Operation:
    """A name, and the backends that implement it, those of plugins first; `OPERATIONS` has all that were made."""

    def __init__(self, name: str, *backends: Backend) -> None:
        own = {b.name: b for b in backends}
        self.name, self.backends = name, {b.name: b for b in announced(name) if b.name not in own} | own
        OPERATIONS[name] = self

    def __call__(self, *args: Any, backend: str | None = None, **options: Any) -> Any:
        """What the chosen backend makes of the arguments.

        Raises:
            NeedsError: the backend that was asked for cannot serve this call
            NameUnknown: there is none of this name
        """
        return self.pick(backend, *args, **options).run(*args, **options)

    def pick(self, backend: str | None, *args: Any, **options: Any) -> Backend:
        """The backend that serves a call; `backend` goes before `using`, which goes before TSTK_KERNELS."""
        wanted = backend or wish(self.name)
        if wanted == "auto":
            for candidate in self.backends.values():
                # The interpreter is for tests; whoever wants it asks for triton by name.
                if not candidate.supports(*args, **options) and not (candidate.name == "triton" and interpreted()):
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


def announced(operation: str) -> Iterator[Backend]:
    """The backends that plugins offer for an operation: entries `OPERATION/NAME` of kind `kernel`, each a `Backend`.

    One that cannot be loaded refuses every call with the reason.
    """
    for entry in registry().entries("kernel"):
        of, _, name = entry.name.partition("/")
        if of == operation:
            try:
                yield replace(registry().load(entry), name=name, dist=entry.dist)
            except (TstkError, TypeError) as e:
                why = " ".join(str(e).split())
                yield Backend(
                    name, entry.target, lambda *args, _why=why, **options: _why, partial(str, why), entry.dist
                )


@contextmanager
def using(backend: str) -> Iterator[None]:
    """Within the block, calls that name no backend use this one; `auto` chooses by the call.

    with tstk.kernels.using("reference"):
        ...

    Args:
        backend: for all operations, or `OPERATION=BACKEND` for some, with commas between
    """
    global _wanted  # torch.compile watches a global, and cannot read a context variable
    before, _wanted = _wanted, backend
    try:
        yield
    finally:
        _wanted = before


def wish(operation: str) -> str:
    """What was chosen for an operation: a backend for all, or `OPERATION=BACKEND` for some, with commas between."""
    if "=" not in _wanted:
        return _wanted
    for part in _wanted.split(","):
        name, _, backend = part.partition("=")
        if name.strip() == operation:
            return backend.strip()
    return "auto"


def interpreted() -> bool:
    """TRITON_INTERPRET=1: Triton's kernels run in Python, slowly, on any device, to be tested."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def no_triton(device: torch.device | None = None) -> str:
    """Why Triton's kernels cannot run, or nothing.

    Args:
        device: of the tensors; the machine's best unless given
    """
    if not _TRITON:
        return "triton is not installed"
    if interpreted():
        return ""
    if device is not None and device.type != "cuda":
        return f"the tensors are on {device.type}, and its kernels need cuda"
    return _unfit(device is not None, device.index if device is not None else None)


def _unfit(given: bool, index: int | None) -> str:
    """Why a GPU cannot run the kernels, or nothing.

    All of them fit into 99 KiB of shared memory, which every GPU of compute capability 8.0 or more has;
    `benchmarks.compile` holds them to it. So no more need be known of a GPU.
    """
    import torch

    if not torch.cuda.is_available():
        return "" if given else "there is no CUDA device"
    if torch.version.hip:
        return "its kernels are for NVIDIA GPUs"
    capability: tuple[int, int] = torch.cuda.get_device_capability(index)
    if capability < OLDEST:
        has, needs = (".".join(map(str, c)) for c in (capability, OLDEST))
        return f"its kernels need a GPU of compute capability {needs} or more, and this one has {has}"
    return ""


_unfit._dynamo_marked_constant = True  # type: ignore[attr-defined]
