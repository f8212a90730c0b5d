"""Registration of kernels as operators of torch, each a single node for torch.compile and torch.export."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tstk.kernels.dispatch import is_triton_interpreted

_library = torch.library.Library("tstk", "FRAGMENT")


def register_operator(schema: str, launch: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Register a function that launches Triton kernels as `torch.ops.tstk.NAME`.

    Args:
        schema: `NAME(arguments) -> results`, in torch's notation
        launch: computes the results
        fake: returns empty results of the same shapes, dtypes and strides
    """
    name = schema.partition("(")[0]
    _library.define(schema)
    _library.impl(name, launch, "CPU" if is_triton_interpreted() else "CUDA")
    torch.library.register_fake(f"tstk::{name}", fake, lib=_library)
