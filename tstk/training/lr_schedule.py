"""Which parameter learns how fast, when, and which of them decay."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import nn

from tstk.core.pipeline import Pipeline
from tstk.errors import OptionError, did_you_mean

DECAYING = nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d


def groups(
    pipeline: Pipeline, lr: float, weight_decay: float, layer_decay: float = 1.0, lr_of: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """What learns, by (learning rate, decay): only matrices of linear and convolutional layers decay.

    Args:
        pipeline: with the parts that must not learn frozen
        lr: of parts that say nothing of their own
        weight_decay: of matrices
        layer_decay: rate of an encoder's layer as a share of that of the layer above it
        lr_of: rates of parts, as `path=rate`; they go before what a part says itself

    Raises:
        OptionError: a share or a rate cannot be, or a path names nothing that learns
    """
    matrices = {f"{name}.weight" for name, part in pipeline.named_modules() if isinstance(part, DECAYING)}
    own = {f"{slot}.{path}".rstrip("."): rate for slot, part in pipeline.slots() for path, rate in part.rates().items()}
    own |= _said(pipeline, lr_of)
    share = _shares(pipeline, layer_decay)
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in pipeline.named_parameters():
        if parameter.requires_grad:
            paths = [path for path in own if _within(name, path)]
            rate = (own[max(paths, key=len)] if paths else lr) * share(name)
            found.setdefault((rate, weight_decay if name in matrices else 0.0), []).append(parameter)
    return [{"params": p, "lr": rate, "weight_decay": decay} for (rate, decay), p in found.items()]


def _said(pipeline: Pipeline, lr_of: tuple[str, ...]) -> dict[str, float]:
    learning = [name for name, p in pipeline.named_parameters() if p.requires_grad]
    rates = {}
    for text in lr_of:
        path, _, rate = text.partition("=")
        try:
            rates[path] = float(rate)
        except ValueError:
            raise OptionError(f"--lr-of {text}: expected PART=RATE, such as tokenizer=1e-5") from None
        if not any(_within(name, path) for name in learning):
            parts = dict.fromkeys(".".join(name.split(".")[:n]) for name in learning for n in (1, 2))
            raise OptionError(f"--lr-of {text}: no part of this name learns.{did_you_mean(path, parts)}")
    return rates


def _within(name: str, path: str) -> bool:
    return name == path or name.startswith(path + ".")


def _shares(pipeline: Pipeline, decay: float) -> Callable[[str], float]:
    """The share of its rate that a parameter takes, by its name.

    The layers are those of the encoder's longest list of modules; what lies beside that list comes after them, and
    the rest of the encoder, and the tokenizer, before.
    """
    if not 0 < decay <= 1:
        raise OptionError(f"layer_decay={decay}: expected a share above 0 and up to 1, such as 0.65")
    lists = {
        n: len(m) for n, m in pipeline.named_modules() if isinstance(m, nn.ModuleList) and n.startswith("encoder.")
    }
    layers = max(lists, key=lambda n: lists[n], default="")
    stack, depth = layers.rpartition(".")[0], lists.get(layers, 0)

    def share(name: str) -> float:
        if not name.startswith(("encoder.", "tokenizer.")):
            return 1.0
        if layers and name.startswith(f"{layers}."):
            return float(decay ** (depth - int(name.removeprefix(f"{layers}.").partition(".")[0])))
        above = stack not in ("", "encoder") and name.startswith(f"{stack}.")
        return 1.0 if above else float(decay ** (depth + 1))

    return share


def course(total: int, warmup: float, schedule: str) -> Callable[[int], float]:
    """The share of its highest that the rate has in a step, 0 being the first.

    Args:
        total: steps
        warmup: share of them in which the rate rises
        schedule: cosine, constant or one-cycle; the last is torch's `OneCycleLR` without its momentum (Smith and
            Topin 2018): from a 25th of the highest rate up and down to a 250,000th, both along a cosine

    Raises:
        OptionError: the warm-up is no share
    """
    if not 0 <= warmup < 1:
        raise OptionError(f"warmup={warmup}: expected a share of the steps, 0 or more and less than 1")
    if schedule == "one-cycle":
        return _one_cycle(total, warmup)
    rising = warmup * total

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        if schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min((step - rising) / max(total - rising, 1), 1.0)))

    return factor


def _one_cycle(total: int, warmup: float) -> Callable[[int], float]:
    start, end = 1 / 25, 1 / 25e4
    top, last = warmup * total - 1, total - 1

    def between(a: float, b: float, way: float) -> float:
        return b + (a - b) / 2 * (1 + math.cos(math.pi * min(way, 1.0)))

    def factor(step: int) -> float:
        if step <= top:
            return between(start, 1.0, step / top if top else 1.0)
        return between(1.0, end, (step - top) / (last - top))

    return factor
