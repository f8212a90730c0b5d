"""How much memory data may take: readers ask before they allocate, so that no small file can fill the machine."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from tstk.errors import DataError, OptionError

MEMORY_VARIABLE = "TSTK_MEMORY"
"""Environment variable: the memory that a file of data may take, such as 8G; what is free if it is not set."""

CELL_BYTES = 64
"""Memory of a short cell of text and its place in a list."""

_NEGLIGIBLE_BYTES = 2**24
"""Needs up to this size are not compared with what is free, which takes a fraction of a millisecond."""


def get_available_memory() -> int | None:
    """Return the bytes that data may take; None if unknown.

    These are the bytes of the variable TSTK_MEMORY, or else what is free within the limits of the container and of the
    process.

    Raises:
        OptionError: TSTK_MEMORY is not a size
    """
    if text := os.environ.get(MEMORY_VARIABLE):
        if (match := re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([KMGT]?)I?B?", text.strip().upper())) is None:
            raise OptionError(f"{MEMORY_VARIABLE}={text}: expected a size, such as 500M or 8G")
        return int(float(match[1]) * 1024 ** " KMGT".index(match[2] or " "))
    free = []
    with suppress(OSError, KeyError, ValueError):  # not Linux
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free.append(int(lines["MemAvailable"].split()[0]) * 1024)
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # not in a container, or no limit
        free.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    with suppress(ImportError, OSError):  # not Unix
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            free.append(limit - int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize())
    return max(min(free), 0) if free else None


def require_memory(num_bytes: int, subject: str, remedy: str) -> None:
    """Check that something fits into memory, before it is allocated.

    Args:
        num_bytes: what it takes, with the copies that reading it makes
        subject: what it is, to begin the message: "FILE: 10 series of 3 samples"
        remedy: what helps

    Raises:
        DataError: it takes more than is available
    """
    if num_bytes <= _NEGLIGIBLE_BYTES and MEMORY_VARIABLE not in os.environ:
        return
    available = get_available_memory()
    if available is not None and num_bytes > available:
        raise DataError(
            f"{subject} take {format_size(num_bytes)} of memory, and {format_size(available)} are available; {remedy}"
        )


def format_size(num_bytes: int) -> str:
    """Return a number of bytes as text, such as "3.4 GB"."""
    size, unit = float(num_bytes), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:,.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:.1f} {unit}"
