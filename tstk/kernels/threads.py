"""Data parallelism over rows on the CPU with a single synchronisation.

If an operation processes its rows in chunks and torch parallelises every chunk, the threads synchronise after each
step. On a busy machine each of these hundreds of barriers may wait for a thread that is not running. Here the rows are
divided among threads once, and the threads synchronise once, at the end. The division depends only on the number of
rows and on `torch.get_num_threads()`, so that a second run gives the same bits.

The threads are torch's own: after each of torch's operations they wait for the next one for some milliseconds without
leaving their cores, so threads of any other pool would run at half the speed.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from pathlib import Path
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

    openmp = _find_openmp()
    if openmp is None:
        return list(_get_thread_pool(threads).map(run, slices))
    results: dict[int, Result] = {}

    def run_share(thread: int, team: int) -> None:
        for i in range(thread, len(slices), team):
            results[i] = run(slices[i])

    _run_team(openmp, threads, run_share)
    return [results[i] for i in range(len(slices))]


def call_in_each_thread(function: Callable[[], object]) -> None:
    """Call a function in each thread that computes for torch; in this one alone where those cannot be reached."""
    openmp = _find_openmp()
    if openmp is None:
        function()
    else:
        _run_team(openmp, torch.get_num_threads(), lambda thread, team: function())


_TEAM_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def _find_openmp() -> ctypes.CDLL | None:
    """Return a library with GNU's interface to the OpenMP runtime of torch's threads; None if torch has another.

    None also in a child of `fork`: OpenMP would wait there forever for threads that run in the parent alone.
    """
    return None if _is_forked else _load_openmp()


@cache
def _load_openmp() -> ctypes.CDLL | None:
    try:
        openmp = ctypes.CDLL(str(Path(torch.__file__).with_name("lib") / "libtorch_cpu.so"))
        openmp.GOMP_parallel.argtypes = _TEAM_FUNCTION, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint
        openmp.GOMP_parallel.restype = None
        openmp.omp_get_thread_num.restype = openmp.omp_get_num_threads.restype = ctypes.c_int
    except (OSError, AttributeError):
        return None
    return openmp


def _run_team(openmp: ctypes.CDLL, threads: int, run_share: Callable[[int, int], object]) -> None:
    """Call a function in each thread of torch with its number and the size of the team, which may be smaller.

    The team is always as large as torch's: the threads that a smaller one leaves out would end.
    """
    errors: list[BaseException] = []

    @_TEAM_FUNCTION
    def run(_: int | None) -> None:
        try:
            run_share(openmp.omp_get_thread_num(), openmp.omp_get_num_threads())
        except BaseException as error:  # an exception cannot pass through C
            errors.append(error)

    openmp.GOMP_parallel(run, None, threads, 0)
    if errors:
        raise errors[0]


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


_is_forked = False


def _forget_threads() -> None:
    global _is_forked
    _is_forked = True
    _get_thread_pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
