"""What a call costs on this machine: the wall clock, replays of a CUDA graph, and the machine's own limits."""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Callable, Sequence

import torch

from benchmarks.figures import FILL, GEMM, Clock

Call = Callable[[], object]

SPAN = {"cpu": 1e-3, "cuda": 4e-3}
"""Seconds that a call is repeated for, per round."""
SIZE = {"cpu": (512, 1 << 22, torch.float32), "cuda": (4096, 1 << 27, torch.bfloat16)}
"""Of the machine's limits: side of the matrix product, elements filled, and their type."""


def settle(device: str, threads: int) -> None:
    """The state every case starts from: threads, denormals on (as torch leaves them), nothing compiled, no cache."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)
    torch.manual_seed(0)
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
    if "torch._inductor" in sys.modules:
        torch._inductor.config.cpp.threads = threads
    tidy(device)


def tidy(device: str) -> None:
    """Give back what nobody holds any more."""
    if device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def sync(device: str) -> None:
    """Wait for the GPU, if it is one."""
    if device == "cuda":
        torch.cuda.synchronize()


def wall(call: Call, device: str) -> Clock:
    """Seconds per call as Python sees them, over as many calls as fill `SPAN`."""

    def clock(calls: int = 1) -> float:
        sync(device)
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        sync(device)
        return (time.perf_counter() - begin) / calls

    once = min(clock() for _ in range(3))
    calls = max(1, math.ceil(SPAN[device] / once))
    return lambda: clock(calls)


def replay(calls: Sequence[Call]) -> Clock:
    """Seconds per call on the GPU alone, from replays of a graph that holds all of them at least once.

    Raises:
        RuntimeError: the calls wait for the GPU, or cannot be captured for another reason
    """
    usual, aside = torch.cuda.current_stream(), torch.cuda.Stream()
    aside.wait_stream(usual)
    with torch.cuda.stream(aside):
        for call in calls:
            call()
        # a capture that fails leaves its traces; whoever waits is found out before
        torch.cuda.set_sync_debug_mode("error")
        try:
            calls[0]()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    usual.wait_stream(aside)
    copies = max(1, min(50, round(SPAN["cuda"] / wall(calls[0], "cuda")() / len(calls))))
    graph, collecting = torch.cuda.CUDAGraph(), gc.isenabled()
    gc.disable()  # what it frees must not be freed during the capture
    try:
        with torch.cuda.stream(aside):
            graph.capture_begin()
            try:
                for call in [*calls] * copies:
                    call()
            finally:
                graph.capture_end()
    finally:
        if collecting:
            gc.enable()
    usual.wait_stream(aside)
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


def steady(clock: Clock) -> Clock:
    """The best of three: how fast the machine is now, and not what one interruption took."""
    return lambda: min(clock() for _ in range(3))


def machine(device: str) -> dict[str, Call]:
    """A matrix product and a fill, of sizes that the case has no say in."""
    side, elements, dtype = SIZE[device]
    draw = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(side, side, device=device, generator=draw).to(dtype) for _ in range(2))
    product, filled = torch.empty_like(a), torch.empty(elements, device=device)
    return {GEMM: lambda: torch.mm(a, b, out=product), FILL: lambda: filled.fill_(1.0)}


def rates(device: str, seconds: dict[str, float]) -> dict[str, float]:
    """Operations and bytes per second that the machine reached at its best."""
    side, elements, _ = SIZE[device]
    return {"flop_s": 2 * side**3 / seconds[GEMM], "bytes_s": 4 * elements / seconds[FILL]}


def peak_bytes(call: Call, device: str) -> int | None:
    """Memory that a call takes on top of what it was given; not known on a CPU."""
    if device != "cuda":
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
