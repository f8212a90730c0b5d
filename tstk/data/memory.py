"""What data may take: readers ask before they allocate, so that no small file can fill the machine."""

from __future__ import annotations

import os

from tstk.config.memory import MEMORY_VARIABLE, format_size, get_available_memory
from tstk.errors import DataError

CELL_BYTES = 64
"""Memory of a short cell of text and its place in a list."""

_NEGLIGIBLE_BYTES = 2**24
"""Needs up to this size are not compared with what is free, which takes a fraction of a millisecond."""


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
