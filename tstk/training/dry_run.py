"""A forward and backward pass on two series: shapes, parameters and faulty gradients, without writing anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from tstk.config.resolve import Config
from tstk.core.interfaces import Encoder
from tstk.core.pipeline import Pipeline
from tstk.core.types import Tokens
from tstk.training.config import TrainConfig
from tstk.training.loop import Trainer
from tstk.training.runs import prepare_training


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
        gradient_faults: see `find_gradient_faults`
    """

    stages: list[SlotSummary]
    num_tokens: int
    target_dim: int
    pos_embed_ratio: float | None
    losses: str
    gradient_faults: list[str] = field(default_factory=list)


def dry_run(config: Config, print_fn: Callable[[str], None] = lambda line: None) -> DryRunReport:
    """Build a pipeline and run the first two training series forward and backward through it, on the CPU.

    Args:
        config: resolved
        print_fn: called with each note for the user

    Raises:
        TstkError: training would fail
    """
    pipeline, data = prepare_training(config, print_fn)
    trainer = Trainer(pipeline, data, replace(TrainConfig.from_config(config), device="cpu", trackers=()))
    pipeline.train()
    series = data.train.batch(torch.arange(min(2, len(data.train))))
    output: Any = trainer.train_step.compute_gradients(0, [series])[0]
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
        pos_embed_ratio=compute_pos_embed_ratio(pipeline.encoder, output.visible),
        losses=", ".join(f"{name} {float(value.detach()):.4g}" for name, value in losses.items()),
        gradient_faults=find_gradient_faults(pipeline),
    )


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


def _join_names(names: list[str], limit: int = 4) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def _format_shape(value: Tensor | None) -> str:
    return "" if value is None else " x ".join(map(str, value.shape))
