"""The optimizer: its parameter groups, the learning rate over time, and AdamW without torch's compiler."""

from __future__ import annotations

import math
from collections.abc import Callable
from inspect import unwrap
from typing import Any

import torch
from torch import nn

from tstk.core.pipeline import Pipeline
from tstk.errors import OptionError, did_you_mean

WEIGHT_DECAY_MODULES = nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d
"""Modules whose `weight` decays; biases, norms, positions and codebooks do only if all parameters do."""


class AdamW(torch.optim.AdamW):
    """`torch.optim.AdamW`, whose methods do not import `torch._dynamo`.

    torch wraps them so that an optimizer can be compiled, and each wrapper imports the compiler (a second, a hundred
    megabytes) when it is first called. tstk compiles parts of the pipeline, never the optimizer.
    """

    add_param_group = unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = unwrap(torch.optim.AdamW.zero_grad)
    state_dict = unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = unwrap(torch.optim.AdamW.load_state_dict)
    _step = unwrap(torch.optim.AdamW.step)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the parameters; see `torch.optim.AdamW.step`."""
        return self._step(closure)


def param_groups(
    pipeline: Pipeline,
    lr: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    lr_override: tuple[str, ...] = (),
    *,
    decay_all: bool = False,
) -> list[dict[str, Any]]:
    """Group the trainable parameters by learning rate and weight decay.

    Args:
        pipeline: with its frozen parts already frozen
        lr: learning rate of all parts without an override
        weight_decay: of the weights of linear and convolutional layers
        layer_decay: factor of the learning rate from one encoder layer to the layer below it
        lr_override: learning rates of parts, as PART=RATE; they replace the overrides that slots define themselves
        decay_all: apply the weight decay to all parameters

    Raises:
        OptionError: an override is malformed or names no trainable part
    """
    decayed = {f"{name}.weight" for name, part in pipeline.named_modules() if isinstance(part, WEIGHT_DECAY_MODULES)}
    overrides = {
        f"{slot}.{path}".rstrip("."): rate
        for slot, part in pipeline.named_slots()
        for path, rate in part.lr_overrides().items()
    }
    overrides |= _parse_lr_override(pipeline, lr_override)
    lr_scale = _make_layer_lr_scale(pipeline, layer_decay)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in pipeline.named_parameters():
        if parameter.requires_grad:
            matches = [path for path in overrides if is_within(name, path)]
            group_lr = (overrides[max(matches, key=len)] if matches else lr) * lr_scale(name)
            groups.setdefault((group_lr, weight_decay if decay_all or name in decayed else 0.0), []).append(parameter)
    return [
        {"params": parameters, "lr": group_lr, "weight_decay": decay}
        for (group_lr, decay), parameters in groups.items()
    ]


def _parse_lr_override(pipeline: Pipeline, lr_override: tuple[str, ...]) -> dict[str, float]:
    """Return the learning rate of each path in `lr_override`."""
    trainable = [name for name, p in pipeline.named_parameters() if p.requires_grad]
    overrides = {}
    for text in lr_override:
        path, _, rate = text.partition("=")
        try:
            overrides[path] = float(rate)
        except ValueError:
            raise OptionError(f"--lr-override {text}: expected PART=RATE, such as tokenizer=1e-5") from None
        if not any(is_within(name, path) for name in trainable):
            parts = dict.fromkeys(".".join(name.split(".")[:n]) for name in trainable for n in (1, 2))
            raise OptionError(f"--lr-override {text}: no trainable part has this name.{did_you_mean(path, parts)}")
    return overrides


def is_within(name: str, prefix: str) -> bool:
    """Return whether a module or parameter is the one of this path, or inside it."""
    return name == prefix or name.startswith(prefix + ".")


def _make_layer_lr_scale(pipeline: Pipeline, layer_decay: float) -> Callable[[str], float]:
    """Return a function from a parameter's name to the factor of its learning rate.

    The layers are those of the encoder's longest `nn.ModuleList`. Modules beside that list count as above it, the rest
    of the encoder and the tokenizer as below it.
    """
    depths = {
        name: len(module)
        for name, module in pipeline.named_modules()
        if isinstance(module, nn.ModuleList) and name.startswith("encoder.")
    }
    layers = max(depths, key=lambda name: depths[name], default="")
    stack, depth = layers.rpartition(".")[0], depths.get(layers, 0)

    def lr_scale(name: str) -> float:
        if not name.startswith(("encoder.", "tokenizer.")):
            return 1.0
        if layers and name.startswith(f"{layers}."):
            return float(layer_decay ** (depth - int(name.removeprefix(f"{layers}.").partition(".")[0])))
        is_above = stack not in ("", "encoder") and name.startswith(f"{stack}.")
        return 1.0 if is_above else float(layer_decay ** (depth + 1))

    return lr_scale


def lr_lambda(
    total_steps: int, warmup_ratio: float, lr_schedule: str, final_lr_ratio: float = 0.0
) -> Callable[[int], float]:
    """Return a function from a step, counted from 0, to its fraction of the highest learning rate.

    Args:
        total_steps: optimizer steps
        warmup_ratio: fraction of the steps in which the learning rate rises; above 1, it does not reach its peak
        lr_schedule: cosine, constant or one-cycle; the last is torch's `OneCycleLR` without its momentum (Smith and
            Topin 2018): from 1/25 of the highest learning rate up to it and down to 1/250,000, both along a cosine
        final_lr_ratio: fraction at which the cosine ends
    """
    if lr_schedule == "one-cycle":
        return _one_cycle_lr_lambda(total_steps, warmup_ratio)
    warmup_steps = warmup_ratio * total_steps

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        if lr_schedule == "constant":
            return 1.0
        progress = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
        return final_lr_ratio + (1 - final_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))

    return factor


def _one_cycle_lr_lambda(total_steps: int, warmup_ratio: float) -> Callable[[int], float]:
    start, end = 1 / 25, 1 / 25e4
    peak_step, last_step = warmup_ratio * total_steps - 1, total_steps - 1

    def anneal(a: float, b: float, progress: float) -> float:
        return b + (a - b) / 2 * (1 + math.cos(math.pi * min(progress, 1.0)))

    def factor(step: int) -> float:
        if step <= peak_step:
            return anneal(start, 1.0, step / peak_step if peak_step else 1.0)
        return anneal(1.0, end, (step - peak_step) / ((last_step - peak_step) or 1.0))

    return factor
