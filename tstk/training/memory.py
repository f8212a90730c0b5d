"""Estimate the memory of training before it begins: weights, gradients, optimizer and activations."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from tstk.config.memory import format_size, get_available_memory, limit_allocations
from tstk.core.pipeline import Pipeline
from tstk.core.rng import SampleRNG
from tstk.core.types import Split
from tstk.data.data_module import DataModule
from tstk.errors import OptionError
from tstk.nn.blocks import Stack, enable_gradient_checkpointing
from tstk.training.config import TrainConfig
from tstk.training.small_data import resolve_defaults

MAX_BYTES_PER_SAMPLE = 2**18
"""Activations per sample of a series above which no model of usual size comes; less is not measured."""

MAX_BYTES_PER_PAIR = 64
"""Likewise per pair of samples of a series: attention weights of eight heads and two layers, if tokens are samples."""

BACKWARD_FACTOR = 1.8
"""Peak memory of a step over what the forward pass saves: gradients, and temporary results."""


@dataclass(frozen=True)
class MemoryEstimate:
    """What a training step takes.

    Args:
        state_bytes: of weights, gradients and optimizer
        fixed_bytes: of activations that do not depend on the number of series
        bytes_per_series: of the activations of each series; None if not even one series fits
        batch_size: series per batch
        length: samples of the longest series
        available_bytes: memory that may be taken; None if unknown
    """

    state_bytes: int
    fixed_bytes: int
    bytes_per_series: int | None
    batch_size: int
    length: int
    available_bytes: int | None

    @property
    def activation_bytes(self) -> int:
        """Bytes of the activations of a batch."""
        return self.fixed_bytes + (self.bytes_per_series or 0) * self.batch_size

    @property
    def max_batch_size(self) -> int:
        """The largest batch that fits, 0 if none does."""
        if self.bytes_per_series is None or self.available_bytes is None:
            return 0 if self.bytes_per_series is None else self.batch_size
        rest = self.available_bytes - self.state_bytes - self.fixed_bytes
        return max(0, min(self.batch_size, rest // max(self.bytes_per_series, 1)))


def check_memory(pipeline: Pipeline, data: DataModule, config: TrainConfig) -> None:
    """Refuse training that cannot fit into memory, before its first step.

    Activations are measured only if the batch is so large that they might not fit.

    Args:
        pipeline: initialized for training, on the CPU
        data: to train on
        config: the options of training

    Raises:
        OptionError: weights and optimizer, or the activations of a batch, take more than is available
    """
    config, _ = resolve_defaults(config, pipeline, data)
    available, state_bytes = get_device_memory(config.device), count_state_bytes(pipeline, config.ema_decay > 0)
    if available is None:
        return
    if state_bytes > available:
        raise OptionError(
            f"training takes {format_size(state_bytes)} for weights, gradients and optimizer, and "
            f"{format_size(available)} are available; choose smaller sizes of components"
        )
    length = int(data.train.lengths.max())
    num_samples = get_batch_size(config, data.train) * data.spec.channels * length
    if state_bytes + num_samples * (MAX_BYTES_PER_SAMPLE + length * MAX_BYTES_PER_PAIR) > available:
        check_fit(estimate_memory(pipeline, data, config), pipeline, data, config)


def check_fit(estimate: MemoryEstimate, pipeline: Pipeline, data: DataModule, config: TrainConfig) -> None:
    """Refuse training whose estimate exceeds what is available.

    Args:
        estimate: from `estimate_memory`
        pipeline: to train, for the message
        data: to train on, likewise
        config: the options of training, likewise

    Raises:
        OptionError: with the size, and the options that reduce it
    """
    max_batch_size, available = estimate.max_batch_size, estimate.available_bytes
    if available is None or max_batch_size >= estimate.batch_size:
        return
    series = f"series of {estimate.length:,} samples"
    remedy = f"use {_suggest_options(pipeline, data, config)}"
    if max_batch_size:
        steps = -(-config.grad_accum_steps * estimate.batch_size // max_batch_size)
        same_step = f"--grad-accum-steps {steps} keeps the series per step"
        fitting = max_batch_size * _count_devices(config.device)  # the option is over all of them
        remedy = f"--batch-size {fitting} fits ({same_step}); or {remedy}"
    if estimate.bytes_per_series is None:
        size = f"the activations of one {series} take more than the {format_size(available)} of memory"
    else:
        size = (
            f"training takes about {format_size(estimate.state_bytes + estimate.activation_bytes)} of memory (weights "
            f"and optimizer {format_size(estimate.state_bytes)}, activations of {estimate.batch_size} {series} "
            f"{format_size(estimate.activation_bytes)}), and {format_size(available)}"
        )
    raise OptionError(f"{size} are available; {remedy}")


def _suggest_options(pipeline: Pipeline, data: DataModule, config: TrainConfig) -> str:
    """Return the options, other than the batch size, that reduce the memory of activations."""
    shorter = "" if data.task == "forecasting" else "shorter series (--resize), "
    has_blocks = any(isinstance(module, Stack) for module in pipeline.modules())
    checkpointing = " or --gradient-checkpointing" if has_blocks and not config.gradient_checkpointing else ""
    return f"{shorter}larger tokens (--tokenizer patch with a larger --tokenizer.window){checkpointing}"


def get_batch_size(config: TrainConfig, split: Split) -> int:
    """Return the series that are in the memory of a device at once; processes on a CPU share its memory."""
    assert config.batch_size is not None
    return min(config.batch_size // _count_devices(config.device), len(split))


def estimate_memory(pipeline: Pipeline, data: DataModule, config: TrainConfig) -> MemoryEstimate:
    """Measure the activations of one and of two of the longest series, and scale them to a batch.

    They are computed by a copy of the pipeline on the CPU, and draw no random numbers of the global generator.

    Args:
        pipeline: initialized for training, on the CPU
        data: to train on
        config: the options of training, resolved
    """
    split = data.train
    rows = split.lengths.argsort(descending=True, stable=True)[:2]
    available = get_device_memory(config.device)
    sizes = []
    with _prepare_copy(pipeline, config) as model:
        for rows_of_batch in (rows[:1], rows):
            size = _measure_activations(model, split, rows_of_batch, available)
            if size is None:
                break
            sizes.append(size)
    if not sizes:
        per_series, fixed = None, 0
    else:
        per_series = sizes[1] - sizes[0] if len(sizes) == len(rows) == 2 else sizes[0]
        fixed = max(sizes[0] - per_series, 0)
    return MemoryEstimate(
        state_bytes=count_state_bytes(pipeline, config.ema_decay > 0),
        fixed_bytes=int(BACKWARD_FACTOR * fixed),
        bytes_per_series=None if per_series is None else int(BACKWARD_FACTOR * max(per_series, 0)),
        batch_size=get_batch_size(config, split),
        length=int(split.lengths.max()),
        available_bytes=available,
    )


@contextmanager
def _prepare_copy(pipeline: Pipeline, config: TrainConfig) -> Iterator[Pipeline]:
    """Yield a copy in training mode, with the precision and the checkpointing of training."""
    copy = deepcopy(pipeline).train()
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=config.precision != "fp32")
    with (
        torch.random.fork_rng(devices=[]),
        enable_gradient_checkpointing(copy, config.gradient_checkpointing),
        autocast,
    ):
        yield copy


def _measure_activations(pipeline: Pipeline, split: Split, rows: Tensor, limit: int | None) -> int | None:
    """Return the bytes that a forward pass saves for the backward pass; None if it takes more than `limit`."""
    series = split.batch(rows)
    assert series.sample_id is not None
    try:
        with limit_allocations(), measure_saved_bytes(pipeline, limit) as saved_bytes:
            pipeline(series, SampleRNG(0, 0, series.sample_id))
    except MemoryError:
        return None
    except RuntimeError as e:
        if "not enough memory" in str(e) or "can't allocate memory" in str(e):  # torch has no class for it on a CPU
            return None
        raise
    return saved_bytes[0]


def count_state_bytes(pipeline: Pipeline, use_ema: bool) -> int:
    """Return the bytes of weights and buffers, and of gradients, both moments of AdamW and the EMA of trained weights.

    Args:
        pipeline: to train
        use_ema: whether an average of the weights is kept
    """
    total = sum(t.nbytes for t in (*pipeline.parameters(), *pipeline.buffers()))
    return total + sum(p.nbytes for p in pipeline.parameters() if p.requires_grad) * (3 + use_ema)


@contextmanager
def measure_saved_bytes(pipeline: Pipeline, limit: int | None = None) -> Iterator[list[int]]:
    """Measure the activations that forward passes inside the context save for the backward pass.

    Args:
        pipeline: whose weights are not counted
        limit: bytes at which to stop; None does not stop

    Yields:
        a list that holds the number of bytes, each storage counted once

    Raises:
        MemoryError: the forward pass saves more than `limit`
    """
    counted = {p.untyped_storage().data_ptr() for p in pipeline.parameters()}
    total, kept = [0], list[Tensor]()  # kept, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in counted:
            counted.add(storage.data_ptr())
            kept.append(tensor.detach())
            total[0] += storage.nbytes()
            if limit is not None and total[0] > limit:
                raise MemoryError
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total


def get_device_memory(device: str) -> int | None:
    """Return the bytes that training may take on a device; None if unknown.

    Args:
        device: auto, cpu or cuda; auto uses a GPU if there is one
    """
    if _uses_cpu(device):
        return get_available_memory()
    free, _ = torch.cuda.mem_get_info()
    return int(free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())


def _count_devices(device: str) -> int:
    """Return the number of devices, each with its own memory, that training is distributed over."""
    return 1 if _uses_cpu(device) else int(os.environ.get("WORLD_SIZE", 1))


def _uses_cpu(device: str) -> bool:
    return device == "cpu" or not torch.cuda.is_available()
