"""A forward and backward pass on two series: shapes, parameters, faulty gradients, memory and time; writes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from tstk.config.resolve import Config
from tstk.core.interfaces import Encoder
from tstk.core.pipeline import Pipeline
from tstk.core.types import Tokens
from tstk.data.data_module import DataModule
from tstk.nn.blocks import enable_gradient_checkpointing
from tstk.training.config import TrainConfig
from tstk.training.devices import limit_threads
from tstk.training.loop import Trainer
from tstk.training.memory import check_fit, estimate_memory
from tstk.training.runs import prepare_training
from tstk.training.small_data import resolve_defaults


@dataclass
class SlotSummary:
    """One slot of a pipeline in a dry run.

    Args:
        slot: name of the slot
        component: name of its component
        output_shape: shape of its output, such as "2 x 16 x 128"; for a loss its value
        parameters: number of parameters
        trainable: number of trainable parameters
    """

    slot: str
    component: str
    output_shape: str
    parameters: int
    trainable: int


@dataclass
class DryRunReport:
    """The result of a dry run.

    Args:
        stages: one per slot, in the order of the forward pass
        num_tokens: tokens per series
        target_dim: values to predict per token; 0 if predictions are per series
        pos_embed_ratio: see `compute_pos_embed_ratio`
        losses: the loss terms, formatted
        state_bytes: estimated memory of weights, gradients and optimizer
        activation_bytes: estimated memory of the activations of a batch
        memory_bytes: memory of the device that may be taken; 0 if unknown
        batch_size: series per batch
        total_steps: optimizer steps of the training
        seconds_per_step: estimated time of a step on this CPU, without validation
        gradient_faults: see `find_gradient_faults`
    """

    stages: list[SlotSummary]
    num_tokens: int
    target_dim: int
    pos_embed_ratio: float | None
    losses: str
    state_bytes: int
    activation_bytes: int
    memory_bytes: int
    batch_size: int
    total_steps: int
    seconds_per_step: float
    gradient_faults: list[str] = field(default_factory=list)


def dry_run(config: Config, print_fn: Callable[[str], None] = lambda line: None) -> DryRunReport:
    """Build a pipeline and run the first two training series forward and backward through it, on the CPU.

    Args:
        config: resolved
        print_fn: called with each note for the user

    Raises:
        TstkError: training would fail, for lack of memory too
    """
    pipeline, data = prepare_training(config, print_fn)
    train_config = TrainConfig.from_config(config)
    resolved, _ = resolve_defaults(train_config, pipeline, data)
    memory = estimate_memory(pipeline, data, resolved)
    check_fit(memory, pipeline, data, resolved)
    trainer = Trainer(pipeline, data, replace(train_config, device="cpu", trackers=()))
    pipeline.train()
    series = data.train.batch(torch.arange(min(2, len(data.train))))
    checkpointing = enable_gradient_checkpointing(pipeline, train_config.gradient_checkpointing)
    with limit_threads(train_config.threads), checkpointing:
        output: Any = trainer.train_step.compute_gradients(0, [series])[0]
        gradient_faults = find_gradient_faults(pipeline)
        seconds_per_step = _time_step(trainer, memory.batch_size)
    outputs = {
        "tokenizer": _format_shape(output.tokens.values),
        "encoder": _format_shape(output.encoded.values),
        "decoder": _format_shape(output.predictions),
        "head": _format_shape(output.head_output),
        "loss": f"{float(output.loss.detach()):.4g}",
    }
    stages = [
        SlotSummary(
            slot,
            str(config.component(slot)),
            outputs[slot],
            sum(p.numel() for p in component.parameters()),
            sum(p.numel() for p in component.parameters() if p.requires_grad),
        )
        for slot, component in pipeline.named_slots()
    ]
    losses = {**output.losses, "loss": output.loss}
    return DryRunReport(
        stages=stages,
        num_tokens=output.tokens.values.shape[1],
        target_dim=pipeline.loss.out.target_dim or 0 if pipeline.decoder is not None else 0,
        pos_embed_ratio=_measure_positions(pipeline, data),
        losses=", ".join(f"{name} {float(value.detach()):.4g}" for name, value in losses.items()),
        state_bytes=memory.state_bytes,
        activation_bytes=memory.activation_bytes,
        memory_bytes=memory.available_bytes or 0,
        batch_size=memory.batch_size,
        total_steps=trainer.state.total_steps,
        seconds_per_step=seconds_per_step,
        gradient_faults=gradient_faults,
    )


def _time_step(trainer: Trainer, batch_size: int) -> float:
    """Return the seconds of an optimizer step, measured on one batch; only the update of the weights is left out."""
    series = trainer.data.train.batch(torch.arange(batch_size))
    begin = time.perf_counter()
    trainer.train_step.compute_gradients(1, [series])
    return (time.perf_counter() - begin) * trainer.config.grad_accum_steps


@torch.no_grad()
def _measure_positions(pipeline: Pipeline, data: DataModule) -> float | None:
    """Return `compute_pos_embed_ratio` over series from the whole training split, since neighbours may be alike."""
    pipeline.eval()
    rows = torch.linspace(0, len(data.train) - 1, min(64, len(data.train))).long()
    return compute_pos_embed_ratio(pipeline.encoder, pipeline.tokenize(data.train.batch(rows)).tokens)


@torch.no_grad()
def compute_pos_embed_ratio(encoder: Encoder, tokens: Tokens) -> float | None:
    """Return the root mean square of position embeddings over that of the tokens to which they are added.

    Much less than 1, the encoder can hardly see the order of the tokens; much more, it can hardly see their contents.

    Returns:
        None if the encoder adds no positions
    """
    token_rms, pos_rms = (values[tokens.valid].square().mean().sqrt() for values in encoder.embed_inputs(tokens))
    return float(pos_rms / token_rms) if pos_rms else None


def find_gradient_faults(pipeline: Pipeline) -> list[str]:
    """Return a line per kind of faulty gradient after a backward pass: missing, not finite, of a frozen parameter."""
    names_by_fault: dict[str, list[str]] = {
        "got no gradient, so it would never learn": [],
        "got a gradient that is not finite": [],
        "is frozen and got a gradient": [],
    }
    missing, infinite, frozen = names_by_fault.values()
    for name, parameter in pipeline.named_parameters():
        if not parameter.requires_grad:
            if parameter.grad is not None:
                frozen.append(name)
        elif parameter.grad is None:
            missing.append(name)
        elif not parameter.grad.isfinite().all():
            infinite.append(name)
    return [
        f"{names[0]}{f' (and {len(names) - 1} more: {_join_names(names[1:])})' if names[1:] else ''} {fault}"
        for fault, names in names_by_fault.items()
        if names
    ]


def _join_names(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def _format_shape(value: Tensor | None) -> str:
    return "" if value is None else " x ".join(map(str, value.shape))
