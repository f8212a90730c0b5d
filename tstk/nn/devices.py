"""The device, its memory, and the processes that a computation runs on."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import torch
from torch import distributed

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def default_device() -> str:
    """Return the device for a pipeline whose user named none: cuda if there is a GPU, otherwise cpu."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def get_total_memory() -> int:
    """Return the bytes of memory of this machine, or of this process's container if it has less; 0 if unknown."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    with suppress(OSError, ValueError):
        total = min(total, int(CGROUP_LIMIT.read_text()))
    return total


def is_distributed() -> bool:
    """Return whether this process is one of a group of torch.distributed."""
    return distributed.is_available() and distributed.is_initialized()
