"""Rows divided over threads once, each of which then computes alone.

An operation that goes through its rows in pieces and lets torch share every piece among its threads meets at a barrier
after each step. On a busy machine each of these waits for a thread that is not running, hundreds of times. Here the
threads meet once, at the end. How rows are divided depends on their number and on `torch.get_num_threads()` alone, so
that a second run gives the same bits.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import Barrier
from typing import TypeVar

import torch

Result = TypeVar("Result")

LEAST = 1 << 19
"""Numbers that must be computed before waking threads (about 0.1 ms) pays."""


def divide(function: Callable[[slice], Result], rows: int, numbers: int, device: torch.device) -> list[Result]:
    """Call `function` on consecutive slices of the rows, one per thread, and return what it returns, in order.

    Args:
        function: takes a slice of rows; may write into tensors that were made before, and records no gradient
        rows: how many there are
        numbers: about how many numbers are computed for all rows together
        device: of the tensors; only a CPU's rows are divided
    """
    threads = torch.get_num_threads() if device.type == "cpu" and numbers >= LEAST else 1
    size = max(1, -(-rows // threads))
    parts = [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
    if len(parts) <= 1:
        return [function(slice(0, rows))]

    def alone(part: slice) -> Result:
        with torch.inference_mode():  # a thread has modes of its own; this one lets it write into all tensors
            return function(part)

    return list(_pool(threads).map(alone, parts))


@lru_cache(maxsize=8)
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads for which torch divides nothing further."""
    started = Barrier(threads)
    pool = ThreadPoolExecutor(threads, "tstk-kernels", torch.set_num_threads, (1,))
    list(pool.map(lambda _: started.wait(), range(threads)))  # none starts later
    torch.set_num_threads(threads)  # the number is each thread's own, but new threads begin with what was set last
    return pool


os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has none of the threads
