"""The device and the processes that a computation runs on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed


@contextmanager
def ignore_missing_widgets() -> Iterator[None]:
    """Silence what tqdm says in a notebook without ipywidgets, as libraries that tstk imports import it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")
        yield


def default_device() -> str:
    """Return the device for a pipeline whose user named none: cuda if there is a GPU, otherwise cpu."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def is_distributed() -> bool:
    """Return whether this process is one of a group of torch.distributed."""
    return distributed.is_available() and distributed.is_initialized()
