"""How much memory tstk may take, and sizes as text.

Data, weights and training ask `get_available_memory` before they allocate, so that no file and no option fills the
machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tstk.errors import OptionError

MEMORY_VARIABLE = "TSTK_MEMORY"
"""Environment variable: the memory that tstk may take, such as 8G; what is free if it is not set."""

CGROUP = Path("/sys/fs/cgroup")
"""Where Linux describes the limits of a container."""

_ADDRESS_SLACK = 2**30
"""Addresses that allocators reserve without using them."""


def get_available_memory() -> int | None:
    """Return the bytes of memory that may be taken; None if unknown.

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
        free.append(int(_read_pairs(Path("/proc/meminfo"))["MemAvailable:"]) * 1024)
    with suppress(OSError, KeyError, ValueError):  # not in a container, or no limit
        # the cache of files counts as memory of the container, and is given up when it is needed
        cache = int(_read_pairs(CGROUP / "memory.stat")["inactive_file"])
        used = int((CGROUP / "memory.current").read_text()) - cache
        free.append(int((CGROUP / "memory.max").read_text()) - used)
    with suppress(ImportError, OSError):  # not Unix
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            free.append(limit - _get_address_space())
    return max(min(free), 0) if free else None


@contextmanager
def limit_allocations() -> Iterator[None]:
    """Let allocations of more than what is available fail in Python, where Linux would kill the process.

    A failed allocation raises MemoryError in numpy and pyarrow, and RuntimeError in torch.
    """
    available = get_available_memory()
    try:
        import resource

        limits = resource.getrlimit(resource.RLIMIT_AS)
        address_space = _get_address_space()
    except (ImportError, OSError):  # not Linux
        available = None
    if available is None:
        yield
        return
    soft = address_space + available + _ADDRESS_SLACK
    if limits[0] != resource.RLIM_INFINITY:
        soft = min(soft, limits[0])
    resource.setrlimit(resource.RLIMIT_AS, (soft, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def format_size(num_bytes: int) -> str:
    """Return a number of bytes as text, such as "3.4 GB"."""
    size, unit = float(num_bytes), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:,.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:.1f} {unit}"


def _read_pairs(path: Path) -> dict[str, str]:
    """Return name -> value of a file of the kernel with one pair per line."""
    return {words[0]: words[1] for line in path.read_text().splitlines() if len(words := line.split()) > 1}


def _get_address_space() -> int:
    """Return the bytes of addresses that this process has mapped."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
