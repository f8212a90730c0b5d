"""Estimate the memory of training before it begins: weights, gradients, optimizer and activations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tstk.core.pipeline import Pipeline
from tstk.errors import OptionError
from tstk.nn.devices import get_total_memory


def count_state_bytes(pipeline: Pipeline, use_ema: bool) -> int:
    """Return the bytes of weights and buffers, and of gradients, both moments of AdamW and the EMA of trained weights.

    Args:
        pipeline: to train
        use_ema: whether an average of the weights is kept
    """
    total = sum(t.nbytes for t in (*pipeline.parameters(), *pipeline.buffers()))
    return total + sum(p.nbytes for p in pipeline.parameters() if p.requires_grad) * (3 + use_ema)


@contextmanager
def measure_saved_bytes(pipeline: Pipeline) -> Iterator[list[int]]:
    """Measure the activations that forward passes inside the context save for the backward pass.

    Args:
        pipeline: whose weights are not counted

    Yields:
        a list that holds the number of bytes, each storage counted once
    """
    counted = {p.untyped_storage().data_ptr() for p in pipeline.parameters()}
    total, kept = [0], list[Tensor]()  # kept, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in counted:
            counted.add(storage.data_ptr())
            kept.append(tensor.detach())
            total[0] += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total


def read_memory_limit(device: str) -> int:
    """Return the bytes of memory of a device, or of this process's container if it has a limit; 0 if unknown.

    Args:
        device: auto, cpu or cuda; auto uses a GPU if there is one
    """
    if device != "cpu" and torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    return get_total_memory()


def check_memory(limit: int, state_bytes: int, activation_bytes: int = 0, batch_size: int = 0) -> None:
    """Raise an error if training cannot fit into memory.

    Args:
        limit: from `read_memory_limit`
        state_bytes: from `count_state_bytes`
        activation_bytes: of a batch; 0 if unknown
        batch_size: series per batch, for the message

    Raises:
        OptionError: it cannot
    """
    if not limit or state_bytes + activation_bytes <= limit:
        return
    remedy = "reduce --batch-size, use --gradient-checkpointing, or make fewer tokens (a larger --tokenizer.window)"
    if state_bytes > limit:
        remedy = "choose smaller sizes of components"
    parts = f"weights and optimizer {format_bytes(state_bytes)}"
    if activation_bytes:
        parts += f", activations of {batch_size} series {format_bytes(activation_bytes)}"
    raise OptionError(
        f"training takes about {format_bytes(state_bytes + activation_bytes)} of memory ({parts}), and there are "
        f"{format_bytes(limit)}; {remedy}"
    )


def format_bytes(count: int) -> str:
    """Return a number of bytes in MiB, or in GiB from one up."""
    return f"{count / 2**30:.3g} GiB" if count >= 2**30 else f"{count / 2**20:.3g} MiB"
