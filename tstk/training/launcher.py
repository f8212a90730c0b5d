"""Several processes on this machine, each with a device, that run the same command: `tstk train --devices 4`.

What torchrun does for several machines too; they find each other by the same variables (RANK, WORLD_SIZE, ...).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from tstk.errors import OptionError

GRACE = 20.0
"""Seconds that the others have to end by themselves when one has failed."""


def launched() -> bool:
    """Whether this process is one of several already."""
    return "RANK" in os.environ


def launch(count: int, words: Sequence[str], cpu: bool) -> int:
    """Run `tstk` so many times at once and wait; the first process talks.

    Args:
        count: of processes
        words: the command line, without `tstk`
        cpu: they share the processor; otherwise each takes a GPU, if this machine has any

    Returns:
        the exit code: that of the first process, or of another that failed alone

    Raises:
        OptionError: there are fewer GPUs
    """
    if not cpu:
        import torch

        gpus = torch.cuda.device_count()
        if torch.cuda.is_available() and count > gpus:
            raise OptionError(f"--devices {count}: torch sees {gpus} GPU(s) here; ask for {gpus}, or add --device cpu")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    each = str(max(1, (os.cpu_count() or 1) // count))
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    with tempfile.TemporaryFile("w+") as aside:
        children = [
            subprocess.Popen(
                [sys.executable, "-m", "tstk", *words],
                env={"OMP_NUM_THREADS": each, **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank)}
                | {k: str(v) for k, v in shared.items()},
                stderr=aside if rank else None,
                preexec_fn=_tied(),
            )
            for rank in range(count)
        ]
        codes = _wait(children)
        if (not codes[0] and any(codes)) or codes[0] < 0:
            aside.seek(0)
            sys.stderr.write(aside.read())
    return next((code for code in codes if code > 0), int(any(codes)))


def _tied() -> Callable[[], object] | None:
    """What a process does first, on Linux: have itself asked to stop when this one is gone, however that came."""
    if sys.platform != "linux":
        return None
    import ctypes

    prctl, set_death_signal = ctypes.CDLL(None).prctl, 1
    return lambda: prctl(set_death_signal, signal.SIGTERM)


def _wait(children: list[subprocess.Popen[bytes]]) -> list[int]:
    """Exit codes. A terminal interrupts all processes itself, so SIGTERM alone is passed on."""

    def pass_on(number: int, frame: object) -> None:
        for child in children:
            child.send_signal(number)

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, pass_on)}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
    failed: float | None = None
    try:
        while any(child.poll() is None for child in children):
            if failed is None and any(child.poll() for child in children):
                failed = time.monotonic()
            if failed is not None and time.monotonic() - failed > GRACE:
                for child in children:
                    child.kill()
            time.sleep(0.05)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return [child.returncode for child in children]
