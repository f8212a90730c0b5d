"""Self-tests of the Triton backends, each in its own process: `python -m benchmarks.self_tests [DEVICE [OPERATION]]`.

After an illegal access a process can no longer use its GPU, which would make the other operations fail as well.
"""

from __future__ import annotations

import subprocess
import sys

OPERATIONS = ("nearest_code", "rope_attention", "ricker_cwt", "vector_quantize")


def run_self_test(device: str, operation: str) -> None:
    """Print the result of one operation."""
    import torch

    from tstk.kernels import self_test

    try:
        fault = getattr(self_test, f"check_{operation}")(torch.device(device))
    except Exception as error:  # of a compiler or driver
        fault = f"{type(error).__name__}: {error}"
    print(f"{operation}: {fault or 'passed'}", flush=True)


def main() -> None:
    """Print the result of one operation, or of all, which are compiled and tested side by side."""
    device, *operations = sys.argv[1:] or ["cuda"]
    if operations:
        run_self_test(device, *operations)
        return
    command = [sys.executable, "-m", "benchmarks.self_tests", device]
    running = {operation: subprocess.Popen([*command, operation]) for operation in OPERATIONS}
    for operation, process in running.items():
        if status := process.wait():
            print(f"{operation}: ended with status {status}", flush=True)


if __name__ == "__main__":
    main()
