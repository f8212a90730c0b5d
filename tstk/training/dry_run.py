"""A rehearsal on two series: shapes, parameters, and whether gradients reach all that should learn. Writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tstk.config.resolve import Config
from tstk.core.interfaces import Encoder
from tstk.core.pipeline import Pipeline
from tstk.core.rng import Draws
from tstk.core.types import Tokens
from tstk.training.runs import prepare


@dataclass
class Stage:
    """One slot of the pipeline.

    Args:
        slot: its name
        use: the component
        shape: of what it put out, such as "2 x 16 x 128"; for a loss its value
        parameters: how many
        trainable: how many of them learn
    """

    slot: str
    use: str
    shape: str
    parameters: int
    trainable: int


@dataclass
class Report:
    """What a dry run found.

    Args:
        stages: in the order of data
        tokens: per series that reaches the encoder's stack
        target: numbers asked per token; 0 if the answer is per series
        positions: root mean square of the encoder's positions over that of the tokens that they are added to; None if
            it adds none
        terms: the loss terms, for the user
        faults: a line per kind of parameter whose gradient is not as it should be
    """

    stages: list[Stage]
    tokens: int
    target: int
    positions: float | None
    terms: str
    faults: list[str] = field(default_factory=list)


def dry_run(config: Config, say: Callable[[str], None] = lambda line: None) -> Report:
    """Build a pipeline on its data, pass the first two training series forward and backward on the CPU.

    Args:
        config: resolved
        say: receives lines for the user

    Raises:
        TstkError: whatever would stop training
    """
    pipeline, data = prepare(config, say)
    series = data.train.batch(torch.arange(min(2, len(data.train))))
    assert series.key is not None
    pipeline.train()
    flow = pipeline(series, Draws(config.options("train")["seed"], 0, series.key))
    flow.total.backward()
    shapes = {
        "tokenizer": _shape(flow.tokens.values),
        "encoder": _shape(flow.encoded.values),
        "decoder": _shape(flow.decoded),
        "head": _shape(flow.output),
        "loss": f"{float(flow.total.detach()):.4g}",
    }
    stages = [
        Stage(
            slot,
            str(config.use(slot)),
            shapes[slot],
            sum(p.numel() for p in part.parameters()),
            sum(p.numel() for p in part.parameters() if p.requires_grad),
        )
        for slot, part in pipeline.slots()
    ]
    terms = ", ".join(f"{k} {float(v.detach()):.4g}" for k, v in {**flow.terms, "loss": flow.total}.items())
    target = pipeline.loss.out.target if pipeline.decoder is not None else None
    ratio = position_ratio(pipeline.encoder, flow.seen)
    return Report(stages, flow.tokens.values.shape[1], target or 0, ratio, terms, faults(pipeline))


@torch.no_grad()
def position_ratio(encoder: Encoder, tokens: Tokens) -> float | None:
    """How large positions are beside tokens where they enter the layers, as a ratio of root mean squares.

    Much less than 1, and the order of tokens is as good as invisible; much more, and their contents are.

    Returns:
        None if nothing is added
    """
    contents, places = (values[tokens.valid].square().mean().sqrt() for values in encoder.enter(tokens))
    return float(places / contents) if places else None


def faults(pipeline: Pipeline) -> list[str]:
    """What is wrong with the gradients of a pipeline after one backward pass; a line per kind."""
    kinds: dict[str, list[str]] = {
        "got no gradient, so it would never learn": [],
        "got a gradient that is not finite": [],
        "is frozen and got a gradient": [],
    }
    none, infinite, frozen = kinds.values()
    for name, parameter in pipeline.named_parameters():
        if not parameter.requires_grad:
            if parameter.grad is not None:
                frozen.append(name)
        elif parameter.grad is None:
            none.append(name)
        elif not parameter.grad.isfinite().all():
            infinite.append(name)
    return [
        f"{names[0]}{f' (and {len(names) - 1} more: {_few(names[1:])})' if names[1:] else ''} {what}"
        for what, names in kinds.items()
        if names
    ]


def _few(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _shape(value: Tensor | None) -> str:
    return "" if value is None else " x ".join(map(str, value.shape))
