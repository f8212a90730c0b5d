"""Learning rates that fall from layer to layer: pretraining is changed least where it is most general."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from tstk.errors import OptionError
from tstk.pipeline import Pipeline


def layered(groups: list[dict[str, Any]], pipeline: Pipeline, decay: float) -> list[dict[str, Any]]:
    """An optimizer's groups with each rate multiplied by its layer's share (BEiT, Bao et al. 2022).

    The layers are those of the encoder's longest list of modules. What lies beside that list, such as the last norm,
    comes after them; the rest of the encoder, and the tokenizer, before; heads take the whole rate.

    Args:
        groups: with "params" and "lr"
        pipeline: whose parameters they are
        decay: rate of a layer as a share of that of the layer above it

    Raises:
        OptionError: `decay` is no share
    """
    if not 0 < decay <= 1:
        raise OptionError(f"layer_decay={decay}: expected a share above 0 and up to 1, such as 0.65")
    share, names = _shares(pipeline, decay), {id(p): name for name, p in pipeline.named_parameters()}
    finer = []
    for group in groups:
        parts: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            parts.setdefault(share(names[id(parameter)]), []).append(parameter)
        finer += [{**group, "params": params, "lr": group["lr"] * s} for s, params in parts.items()]
    return finer


def _shares(pipeline: Pipeline, decay: float) -> Callable[[str], float]:
    """The share of its rate that a parameter takes, by its name."""
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
