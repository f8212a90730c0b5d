"""C++ kernels for the CPU, compiled on the machine by its own compiler and kept in the user's cache.

A kernel is one file of plain functions on pointers, called by ctypes: no headers but `simd.h`, no threads of its
own (`tstk.kernels.threads` divides the rows, and ctypes releases the interpreter's lock) and no run-time library. So it
compiles in a second or two, and stays valid when torch or Python are updated. There is one library per source and
instruction set, so machines that share a cache use each its own.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import stat
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch

from tstk.errors import FileError, IncompatibleError
from tstk.files import atomic_write, explain_write_errors, get_cache_dir

COMPILERS = ("c++", "g++", "clang++")
OPTIONS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-ffp-contract=off", "-fno-exceptions", "-fno-rtti")
HEADER = Path(__file__).with_name("simd.h")
"""What the kernels share."""
INSTRUCTION_SETS = {"AVX512": ("-mavx512f", "-mavx2", "-mfma"), "AVX2": ("-mavx2", "-mfma")}
"""Options of the compiler by the instruction set that torch uses, which ATEN_CPU_CAPABILITY may lower."""
TIMEOUT = 60
"""Seconds after which a compiler is stopped; it takes one or two, and a call waits for it."""

Signature = tuple[type | None, Sequence[type]]
"""Types of the result and of the arguments of a C function."""


@dataclass
class Library:
    """A C++ source of this package and its compiled library.

    Args:
        source: path of the source
        functions: the functions to call and their types
    """

    source: Path
    functions: Mapping[str, Signature]
    _loaded: ctypes.CDLL | None = field(default=None, init=False)
    _fault: str = field(default="", init=False)

    @property
    def path(self) -> Path:
        """The library for this processor: its name has a hash of all that it depends on."""
        name = _name_library(self.source, torch.backends.cpu.get_cpu_capability())
        return get_cache_dir() / "kernels" / name

    def why_unavailable(self) -> str:
        """Return why the kernel cannot run on this machine, or an empty string; compiles nothing."""
        if self._loaded or self._fault:
            return self._fault
        if os.name != "posix":
            return "its kernels are compiled on Linux and macOS only"
        if torch.backends.cpu.get_cpu_capability() not in INSTRUCTION_SETS:
            return "its kernels need a processor with AVX2 or AVX-512"
        if self.is_built() or _find_compiler():
            return ""
        if command := os.environ.get("CXX"):
            return f"it needs a C++ compiler, and the variable CXX, {command!r}, names no installed one"
        return f"it needs a C++ compiler, and there is none of {', '.join(COMPILERS)} (on Debian: apt install g++)"

    def is_built(self) -> bool:
        """Return whether the library has been compiled for this processor."""
        return self._loaded is not None or self.path.is_file()

    def load(self) -> ctypes.CDLL:
        """Return the library; compile it if it is not in the cache.

        Raises:
            IncompatibleError: it cannot be compiled, written or loaded; the next call raises the same
        """
        if self._loaded is None:
            if not self.why_unavailable():
                try:
                    self._loaded = self._declare(self._open() or self._compile())
                except (OSError, FileError, subprocess.SubprocessError) as error:
                    self._fault = " ".join(str(error).split())[:300]
            if self._loaded is None:
                raise IncompatibleError(f"{self.source.name}: {self.why_unavailable()}")
        return self._loaded

    def why_not_loaded(self) -> str:
        """Return why the library cannot be loaded, or an empty string; compile it if necessary."""
        try:
            self.load()
        except IncompatibleError as error:
            return str(error)
        return ""

    def _open(self) -> ctypes.CDLL | None:
        """Load the library from the cache; None if it is absent, or if it is damaged and can be compiled again.

        Raises:
            OSError: others can write the file, or replace it: it would run with the rights of this process
        """
        if not self.path.is_file():
            return None
        file, folder = self.path.stat(), self.path.parent.stat()
        is_folder_open = folder.st_mode & 0o002 and not folder.st_mode & stat.S_ISVTX
        if file.st_uid not in (0, os.getuid()) or file.st_mode & 0o022 or is_folder_open:
            raise OSError(
                f"{self.path} can be written by other users; delete it and set TSTK_CACHE to a folder of your own"
            )
        try:
            return ctypes.CDLL(str(self.path))
        except OSError:
            if not _find_compiler():
                raise
            return None

    def _compile(self) -> ctypes.CDLL:
        """Compile the source into the cache. Of several processes at once each writes the same file, atomically."""
        command = [*_find_compiler(), *OPTIONS, *INSTRUCTION_SETS[torch.backends.cpu.get_cpu_capability()]]
        folder = self.path.parent
        with explain_write_errors(self.path):
            folder.mkdir(0o755, parents=True, exist_ok=True)
        with atomic_write(self.path, mode=0o644) as file:  # one that others can write is not loaded
            _run_compiler([*command, f"-I{HEADER.parent}", str(self.source), "-o", file.name])
            try:
                ctypes.CDLL(file.name)  # before others find it
            except OSError as error:
                reason = str(error).replace(file.name, self.path.name)
                raise subprocess.SubprocessError(
                    f"the library that {command[0]} made cannot be loaded from {folder}: {reason}; TSTK_CACHE selects"
                    " another folder"
                ) from None
        library = self._open()
        if library is None:
            raise OSError(f"{self.path} was deleted while it was loaded")
        return library

    def _declare(self, library: ctypes.CDLL) -> ctypes.CDLL:
        """Declare the types of the functions."""
        for name, (result, arguments) in self.functions.items():
            function = getattr(library, name, None)
            if function is None:
                raise OSError(f"{self.path} has no function {name}; delete the file")
            function.restype, function.argtypes = result, list(arguments)
        return library


@lru_cache
def _name_library(source: Path, capability: str) -> str:
    options = " ".join((*OPTIONS, *INSTRUCTION_SETS[capability]))
    digest = hashlib.sha256(source.read_bytes() + HEADER.read_bytes() + options.encode()).hexdigest()[:16]
    return f"{source.stem}-{capability.lower()}-{digest}.so"


def _run_compiler(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT, env=os.environ | {"LC_ALL": "C"}
        )
    except subprocess.TimeoutExpired:
        raise subprocess.SubprocessError(f"{command[0]} was stopped after {TIMEOUT} s") from None
    except OSError as error:
        raise subprocess.SubprocessError(f"{command[0]} cannot be run: {error.strerror}") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it printed nothing"]
        message = next((line for line in lines if "error" in line), lines[-1])
        raise subprocess.SubprocessError(f"{command[0]} failed with exit status {done.returncode}: {message}")


def _find_compiler() -> list[str]:
    """Return the command of the C++ compiler: that of the variable CXX, or the first that is installed; or nothing."""
    return _search_compiler(os.environ.get("CXX") or "", os.environ.get("PATH"))


@lru_cache  # until the kernel is loaded, every search asks
def _search_compiler(variable: str, folders: str | None) -> list[str]:
    try:
        command = shlex.split(variable)
    except ValueError:  # a quotation mark is missing
        return []
    if command:
        return command if shutil.which(command[0], path=folders) else []
    return next(([path] for name in COMPILERS if (path := shutil.which(name, path=folders))), [])
