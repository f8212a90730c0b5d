"""Launch several processes on this machine, each with a device of its own: `tstk train --devices 4`.

It sets the environment variables of torchrun (RANK, WORLD_SIZE, ...); for several machines, use torchrun.
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

GRACE_SECONDS = 20.0
"""Seconds after a process has failed until the others are killed."""
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
"""Signals on which training saves and stops: Ctrl-C, and what schedulers and closed terminals send."""


def is_launched() -> bool:
    """Return whether this process was launched as one of several."""
    return "RANK" in os.environ


def launch_processes(num_processes: int, argv: Sequence[str], use_cpu: bool) -> int:
    """Run `tstk` in several processes and wait for them; only the first one prints.

    Args:
        num_processes: number of processes
        argv: the command line, without `tstk`
        use_cpu: share the CPU; otherwise each process uses a GPU, if this machine has any

    Returns:
        the first positive exit code, else 1 if any process failed, else 0

    Raises:
        OptionError: there are fewer GPUs than processes
    """
    if not use_cpu:
        import torch

        num_gpus = torch.cuda.device_count()
        if torch.cuda.is_available() and num_processes > num_gpus:
            raise OptionError(
                f"--devices {num_processes}: torch sees {num_gpus} GPU(s) here; use --devices {num_gpus}, or add "
                "--device cpu"
            )
    threads = str(max(1, (os.cpu_count() or 1) // num_processes))
    rendezvous = {
        "WORLD_SIZE": str(num_processes),
        "LOCAL_WORLD_SIZE": str(num_processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_find_free_port()),
    }
    with tempfile.TemporaryFile("w+") as other_stderr:
        children = [
            subprocess.Popen(
                # -P: modules in the working directory are not imported, as by the command `tstk`
                [sys.executable, "-P", "-m", "tstk", *argv],
                env={
                    "OMP_NUM_THREADS": threads,
                    **os.environ,
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    **rendezvous,
                },
                stderr=other_stderr if rank else None,
                preexec_fn=_make_parent_death_hook(),
            )
            for rank in range(num_processes)
        ]
        codes = _wait(children)
        if (not codes[0] and any(codes)) or codes[0] < 0:
            other_stderr.seek(0)
            sys.stderr.write(other_stderr.read())
    return next((code for code in codes if code > 0), int(any(codes)))


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _make_parent_death_hook() -> Callable[[], object] | None:
    """Return a `preexec_fn` that has Linux send SIGTERM to the child when this process dies, None elsewhere."""
    if sys.platform != "linux":
        return None
    import ctypes

    prctl, set_death_signal = ctypes.CDLL(None).prctl, 1
    return lambda: prctl(set_death_signal, signal.SIGTERM)


def _wait(processes: list[subprocess.Popen[bytes]]) -> list[int]:
    """Wait for processes and return their exit codes.

    Signals are forwarded to them; SIGINT is not, since a terminal sends it to all processes itself.
    """

    def forward(signum: int, frame: object) -> None:
        for child in processes:
            child.send_signal(signum)

    previous = {s: signal.signal(s, signal.SIG_IGN if s == signal.SIGINT else forward) for s in SIGNALS}
    failure_time: float | None = None
    try:
        while any(child.poll() is None for child in processes):
            if failure_time is None and any(child.poll() for child in processes):
                failure_time = time.monotonic()
            if failure_time is not None and time.monotonic() - failure_time > GRACE_SECONDS:
                for child in processes:
                    child.kill()
            time.sleep(0.05)
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
    return [child.returncode for child in processes]
