"""Selection of a backend for each call of an operation.

An operation lists its backends from the most specialised to the most general. `auto` selects the first that supports
the call and passes its self-test on the device; a backend requested by name either runs or raises the reason why it
cannot. There is no silent fallback.

This module is cheap to import: it imports torch only to query GPUs, and never Triton.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from tstk.errors import IncompatibleError, TstkError, UnknownNameError, did_you_mean
from tstk.plugins.registry import get_registry

if TYPE_CHECKING:
    import torch

    from tstk.kernels.cpp import Library

_HAS_TRITON = find_spec("triton") is not None
OPERATIONS: dict[str, Operation] = {}
"""All operations by name, filled when `tstk.kernels` is imported."""

MIN_COMPUTE_CAPABILITY = (8, 0)
"""Minimum compute capability of the Triton kernels."""

_requested = os.environ.get("TSTK_KERNELS") or "auto"


@dataclass(frozen=True)
class Backend:
    """One implementation of an operation.

    Args:
        name: triton, cpp, torch, reference, or the name of a plugin's backend
        target: `module:function`, imported on first use; called with the arguments of the operation
        why_unsupported: called with the arguments of the operation, returns why they are not supported, or an empty
            string; depends on devices, dtypes and shapes only, never on values
        why_unavailable: returns why the backend cannot run on this machine at all, or an empty string
        why_not_automatic: called with the arguments of a call that it supports, returns why `auto` passes over it, or
            an empty string; it may be requested by name all the same
        dist: the distribution that provides it
        self_test: `module:function`, called with a device before `auto` first selects the backend for it; returns what
            is wrong with one tiny call, or an empty string; none by default
        get_library: returns the library of a backend that is compiled on this machine
    """

    name: str
    target: str
    why_unsupported: Callable[..., str] = lambda *args, **options: ""
    why_unavailable: Callable[[], str] = lambda: ""
    why_not_automatic: Callable[..., str] = lambda *args, **options: ""
    dist: str = "tstk"
    self_test: str = ""
    get_library: Callable[[], Library] | None = None

    @property
    def function(self) -> Callable[..., Any]:
        """The function that implements the operation."""
        module, _, attribute = self.target.partition(":")
        _import_module(module)
        function: Callable[..., Any] = getattr(sys.modules[module], attribute)
        return function

    def why_self_test_failed(self, device: torch.device) -> str:
        """Return what was wrong when the backend was tested on a device, which its first call does; "" if nothing."""
        return _run_self_test(self.self_test, device.type, device.index) if self.self_test else ""

    def why_not_selected(self) -> str:
        """Return why `auto` never selects the backend on this machine: it cannot run, or fails its self-test."""
        import torch

        if self.name == "triton" and _HAS_TRITON and is_triton_interpreted():
            return "Triton's interpreter (TRITON_INTERPRET=1) is used only if requested by name"
        if reason := self.why_unavailable():
            return reason
        if self.get_library:
            library = self.get_library()
            return library.why_not_loaded() if library.is_built() else ""
        if not torch.cuda.is_available():
            return ""
        return self.why_self_test_failed(torch.device("cuda", torch.cuda.current_device()))


def _import_module(module: str) -> bool:
    return module in sys.modules or bool(import_module(module))


# Set directly, since torch.compiler.assume_constant_result would import the compiler. torch.compile cannot trace an
# import, so it must run this function while tracing.
_import_module._dynamo_marked_constant = True  # type: ignore[attr-defined]

_self_test_faults: dict[tuple[str, str, int | None], str] = {}
"""Result of each self-test by its target and device, in this process; an empty string if it passed."""


def _run_self_test(target: str, device_type: str, index: int | None) -> str:
    """Return what is wrong with a backend on a device; tests it once per process and warns if it fails."""
    import torch

    key = target, device_type, index
    if key in _self_test_faults:
        return _self_test_faults[key]
    module, _, attribute = target.partition(":")
    place = device_type if index is None else f"{device_type}:{index}"
    if device_type == "cuda" and torch.cuda.is_current_stream_capturing():
        # A test waits for the GPU, which would end the capture.
        fault = f"it was not tested on {place} before this CUDA graph was captured"
        warnings.warn(f"{attribute}: {fault}, which uses the next backend; make one call before.", stacklevel=2)
        return fault
    try:
        with _clear_torch_state(device_type):
            fault = str(getattr(import_module(module), attribute)(torch.device(place)))
    except torch.OutOfMemoryError:  # says nothing about the kernels
        raise
    except Exception as error:  # whatever a compiler or driver raises means that the kernels cannot be used
        fault = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if fault:
        fault = f"its self-test failed on {place}: {fault}"
    _self_test_faults[key] = fault  # before the warning, which may be an error
    if fault:
        warnings.warn(
            f"{attribute}: {fault}; the next backend is used. Request the backend by name to use it all the same.",
            stacklevel=2,
        )
    return fault


_run_self_test._dynamo_marked_constant = True  # type: ignore[attr-defined]


@contextmanager
def _clear_torch_state(device_type: str) -> Iterator[None]:
    """Compute as at the top of a program: a call may come while a compiler traces, or in a checkpointed block.

    Fake tensors, inference mode and autocast are off, and tensors saved for a backward pass are kept as they are:
    `torch.utils.checkpoint` would drop them, and count them among those of the block. Only the innermost hooks apply.
    """
    import torch
    from torch.utils._python_dispatch import _disable_current_modes

    has_autocast = torch.amp.is_autocast_available(device_type)
    keep_tensor = torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x)
    with (
        _disable_current_modes(),
        torch.inference_mode(False),
        torch.autocast(device_type, enabled=False) if has_autocast else nullcontext(),
        keep_tensor,
    ):
        yield


class Operation:
    """An operation and its backends, those of plugins first; registers itself in `OPERATIONS`."""

    def __init__(self, name: str, *backends: Backend) -> None:
        builtin = {b.name: b for b in backends}
        self.name = name
        self.backends = {b.name: b for b in iter_plugin_backends(name) if b.name not in builtin} | builtin
        OPERATIONS[name] = self

    def __call__(self, *args: Any, backend: str | None = None, **options: Any) -> Any:
        """Call the selected backend.

        Raises:
            IncompatibleError: the requested backend, or any, does not support this call
            UnknownNameError: there is no backend of this name
        """
        return self.select(backend, *args, **options).function(*args, **options)

    def select(self, backend: str | None, *args: Any, **options: Any) -> Backend:
        """Select the backend of a call: `backend`, else that of `use_backend`, else that of TSTK_KERNELS."""
        requested = backend or get_requested_backend(self.name)
        if requested == "auto":
            for candidate in self.backends.values():
                # Triton's interpreter is for tests, and has to be requested by name.
                if candidate.name == "triton" and is_triton_interpreted():
                    continue
                if candidate.why_unsupported(*args, **options) or candidate.why_not_automatic(*args, **options):
                    continue
                if not candidate.self_test or not candidate.why_self_test_failed(args[0].device):
                    return candidate
            reasons = self._format_reasons(self.explain_unsupported(*args, **options))
            raise IncompatibleError(f"{self.name}: no backend supports this call: {reasons}")
        if requested not in self.backends:
            raise UnknownNameError(
                f"{self.name} has no backend {requested!r}; it has {', '.join(self.backends)}."
                + did_you_mean(requested, self.backends)
            )
        if reason := self.backends[requested].why_unsupported(*args, **options):
            raise IncompatibleError(f"{self.name}: backend {requested!r} does not support this call: {reason}")
        return self.backends[requested]

    def explain_unsupported(self, *args: Any, **options: Any) -> dict[str, str]:
        """Return for each backend why it does not support a call; an empty string if it does."""
        return {name: b.why_unsupported(*args, **options) for name, b in self.backends.items()}

    @staticmethod
    def _format_reasons(reasons: dict[str, str]) -> str:
        return "; ".join(f"{name}: {why}" for name, why in reasons.items())


def iter_plugin_backends(operation: str) -> Iterator[Backend]:
    """Yield the backends of plugins for an operation: entries `OPERATION/NAME` of kind `kernel`, each a `Backend`.

    A backend that cannot be loaded supports no call, with the error as its reason.
    """
    for entry in get_registry().list_entries("kernel"):
        entry_operation, _, name = entry.name.partition("/")
        if entry_operation == operation:
            try:
                yield replace(get_registry().load(entry), name=name, dist=entry.dist)
            except (TstkError, TypeError) as e:
                reason = " ".join(str(e).split())
                yield Backend(
                    name,
                    entry.import_path,
                    lambda *args, _reason=reason, **options: _reason,
                    partial(str, reason),
                    dist=entry.dist,
                )


@contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Set the backend of all calls within the context that do not name one.

    with tstk.kernels.use_backend("reference"):
        ...

    Args:
        backend: a backend for all operations, or comma-separated `OPERATION=BACKEND` pairs; `auto` selects by call
    """
    global _requested  # torch.compile watches a global, and cannot read a context variable
    before, _requested = _requested, backend
    try:
        yield
    finally:
        _requested = before


def get_requested_backend(operation: str) -> str:
    """Return the backend requested for an operation by `use_backend` or TSTK_KERNELS; `auto` if none."""
    if "=" not in _requested:
        return _requested
    for part in _requested.split(","):
        name, _, backend = part.partition("=")
        if name.strip() == operation:
            return backend.strip()
    return "auto"


def is_triton_interpreted() -> bool:
    """Return whether TRITON_INTERPRET=1 is set: Triton kernels then run in Python, slowly, on any device, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def why_triton_unavailable(device: torch.device | None = None) -> str:
    """Return why Triton kernels cannot run, or an empty string.

    Args:
        device: device of the tensors; the current GPU if None
    """
    if not _HAS_TRITON:
        return "triton is not installed"
    if is_triton_interpreted():
        return ""
    if device is not None and device.type != "cuda":
        return f"the tensors are on {device.type}, and its kernels need cuda"
    return _why_gpu_unsupported(device is not None, device.index if device is not None else None)


def _why_gpu_unsupported(has_device: bool, index: int | None) -> str:
    """Return why a GPU cannot run the kernels, or an empty string.

    The compute capability is all that matters: `benchmarks.compile` checks that every kernel fits the shared memory of
    GPUs of each generation, down to the 99 KiB of compute capability 8.9.
    """
    import torch

    if not torch.cuda.is_available():
        return "" if has_device else "there is no CUDA device"
    if torch.version.hip:
        return "its kernels are for NVIDIA GPUs"
    capability: tuple[int, int] = torch.cuda.get_device_capability(index)
    if capability < MIN_COMPUTE_CAPABILITY:
        has, needs = (".".join(map(str, c)) for c in (capability, MIN_COMPUTE_CAPABILITY))
        return f"its kernels need a GPU of compute capability {needs} or more, and this one has {has}"
    return ""


_why_gpu_unsupported._dynamo_marked_constant = True  # type: ignore[attr-defined]
