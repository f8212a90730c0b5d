"""Data parallelism over rows on the CPU with a single synchronisation.

If an operation processes its rows in chunks and torch parallelises every chunk, the threads synchronise after each
step. On a busy machine each of these hundreds of barriers may wait for a thread that is not running. Here the rows are
divided among threads once, and the threads synchronise once, at the end. The division depends only on the number of
rows and on `torch.get_num_threads()`, so that a second run gives the same bits.
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

MIN_PARALLEL_VALUES = 1 << 19
"""Number of values to compute from which on waking threads (about 0.1 ms) pays off."""


def map_row_slices(
    function: Callable[[slice], Result], rows: int, num_values: int, device: torch.device
) -> list[Result]:
    """Call `function` on consecutive slices of the rows, one per thread, and return the results in order.

    Args:
        function: takes a slice of rows; may write into existing tensors; records no gradients
        rows: number of rows
        num_values: approximate number of values computed for all rows together
        device: device of the tensors; rows are divided on a CPU only
    """
    threads = torch.get_num_threads() if device.type == "cpu" and num_values >= MIN_PARALLEL_VALUES else 1
    size = max(1, -(-rows // threads))
    slices = [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
    if len(slices) <= 1:
        return [function(slice(0, rows))]

    def run(row_slice: slice) -> Result:
        # Modes are per thread. Inference mode lets the function write into all tensors.
        with torch.inference_mode():
            return function(row_slice)

    return list(_get_thread_pool(threads).map(run, slices))


@lru_cache(maxsize=8)
def _get_thread_pool(threads: int) -> ThreadPoolExecutor:
    """Return a pool of threads in which torch runs single-threaded."""
    barrier = Barrier(threads)
    pool = ThreadPoolExecutor(threads, "tstk-kernels", _use_one_thread)
    list(pool.map(lambda _: barrier.wait(), range(threads)))  # start all threads now
    torch.set_num_threads(threads)  # the setting is per thread, but new threads inherit the one made last
    return pool


def _use_one_thread() -> None:
    """Make torch run single-threaded in this thread, for good: its first call in a thread takes the latest setting."""
    torch.get_num_threads()
    torch.set_num_threads(1)


os.register_at_fork(after_in_child=_get_thread_pool.cache_clear)  # threads do not survive a fork
