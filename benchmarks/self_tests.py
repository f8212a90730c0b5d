"""Self-tests of the Triton backends, each on its own: `python -m benchmarks.self_tests [DEVICE]`."""

from __future__ import annotations

import sys

import torch

from tstk.kernels import self_test


def main() -> None:
    """Print the result of each operation; an error in one does not hide the others."""
    device = torch.device(sys.argv[1] if len(sys.argv) > 1 else "cuda")
    for operation in ("nearest_code", "rope_attention", "ricker_cwt", "soft_assignment"):
        try:
            fault = getattr(self_test, f"check_{operation}")(device)
        except Exception as error:  # continue with the other operations
            fault = f"{type(error).__name__}: {error}"
        print(f"{operation}: {fault or 'passed'}", flush=True)


if __name__ == "__main__":
    main()
