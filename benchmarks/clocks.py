"""Timers of a call: wall clock and CUDA graph replays, and calls that measure the machine's limits."""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Callable, Sequence

import torch

from benchmarks.figures import FILL, GEMM, Clock

Call = Callable[[], object]

MIN_SECONDS = {"cpu": 1e-3, "cuda": 4e-3}
"""Minimum duration of the repeated call, in seconds per round."""
LIMIT_SIZES = {"cpu": (512, 1 << 22, torch.float32), "cuda": (4096, 1 << 27, torch.bfloat16)}
"""Sizes for the machine's limits: side of the matrix product, elements to fill, and the dtype of the product."""


def reset_state(device: str, threads: int) -> None:
    """Reset threads, denormals, the seed, compiled functions and the memory cache before a case."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)
    torch.manual_seed(0)
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
    if "torch._inductor" in sys.modules:
        torch._inductor.config.cpp.threads = threads
    free_memory(device)


def free_memory(device: str) -> None:
    """Release unused GPU memory."""
    if device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def synchronize(device: str) -> None:
    """Synchronize, if the device is a GPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def make_wall_clock(call: Call, device: str) -> Clock:
    """Return a clock of wall-clock seconds per call, over enough calls to last `MIN_SECONDS`."""

    def clock(calls: int = 1) -> float:
        synchronize(device)
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        synchronize(device)
        return (time.perf_counter() - begin) / calls

    once = min(clock() for _ in range(3))
    calls = max(1, math.ceil(MIN_SECONDS[device] / once))
    return lambda: clock(calls)


def make_graph_clock(calls: Sequence[Call]) -> Clock:
    """Return a clock of GPU seconds per call, from replays of a CUDA graph that contains every call at least once.

    Raises:
        RuntimeError: the calls wait for the GPU, or cannot be captured for another reason
    """
    current, capture = torch.cuda.current_stream(), torch.cuda.Stream()
    capture.wait_stream(current)
    with torch.cuda.stream(capture):
        for call in calls:
            call()
        # detect synchronization before the capture, as a failed capture leaves state behind
        torch.cuda.set_sync_debug_mode("error")
        try:
            calls[0]()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    current.wait_stream(capture)
    copies = max(1, min(50, round(MIN_SECONDS["cuda"] / make_wall_clock(calls[0], "cuda")() / len(calls))))
    graph, collecting = torch.cuda.CUDAGraph(), gc.isenabled()
    gc.disable()  # garbage collection must not free memory during the capture
    try:
        with torch.cuda.stream(capture):
            graph.capture_begin()
            try:
                for call in [*calls] * copies:
                    call()
            finally:
                graph.capture_end()
    finally:
        if collecting:
            gc.enable()
    current.wait_stream(capture)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def clock() -> float:
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / (len(calls) * copies)

    for _ in range(3):
        clock()
    return clock


def take_best_of_three(clock: Clock) -> Clock:
    """Return a clock that takes the best of three, to exclude single interruptions."""
    return lambda: min(clock() for _ in range(3))


def make_limit_calls(device: str) -> dict[str, Call]:
    """Return a matrix product and a fill whose sizes do not depend on the case."""
    side, elements, dtype = LIMIT_SIZES[device]
    draw = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(side, side, device=device, generator=draw).to(dtype) for _ in range(2))
    product, filled = torch.empty_like(a), torch.empty(elements, device=device)
    return {GEMM: lambda: torch.mm(a, b, out=product), FILL: lambda: filled.fill_(1.0)}


def compute_limit_rates(device: str, seconds: dict[str, float]) -> dict[str, float]:
    """Return the highest operations and bytes per second that the machine reached."""
    side, elements, _ = LIMIT_SIZES[device]
    return {"flop_s": 2 * side**3 / seconds[GEMM], "bytes_s": 4 * elements / seconds[FILL]}


def measure_peak_bytes(call: Call, device: str) -> int | None:
    """Return the peak memory that a call allocates, in bytes; None on a CPU."""
    if device != "cuda":
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
