"""LoRA: the encoder learns low-rank updates of its linear layers, and its pretrained weights stay frozen (`--lora`).

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv:2106.09685). During training, a linear layer W of
the encoder's blocks is a layer of peft that computes W x + scale B A x. All weights that leave the training, and those
of the best epoch, have W + scale B A in place of W under its ordinary name, so that nothing else needs peft.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from tstk.config.resolve import Config
from tstk.core.interfaces import Encoder
from tstk.core.pipeline import Pipeline
from tstk.errors import OptionError
from tstk.plugins.distribution import format_install_command
from tstk.training.config import TrainConfig
from tstk.training.optim import is_within

ADAPTER = "default"
"""Name that peft gives to the updates."""


def import_peft(rank: int) -> Any:
    """Import peft.

    Args:
        rank: of the updates, for the message

    Raises:
        OptionError: it is not installed; the message has the command that installs it
    """
    try:
        return import_module("peft")
    except ModuleNotFoundError as e:
        raise OptionError(
            f"--lora {rank} needs {e.name}, which is not installed: {format_install_command('lora')}"
        ) from e


def add_lora(pipeline: Pipeline, config: Config) -> list[str]:
    """Add low-rank updates to the encoder's blocks and freeze its pretrained weights, if `--lora` is set.

    Weights that come neither from a run nor from a checkpoint, such as a projection to the checkpoint's width, are
    trained in full. The updates are zero at first.

    Args:
        pipeline: with all weights to start from
        config: resolved

    Returns:
        notes for the user

    Raises:
        OptionError: peft is missing, or the encoder has no layers for such updates, or they are frozen
    """
    train_config = TrainConfig.from_config(config)
    rank, encoder = train_config.lora, pipeline.encoder
    if rank is None:
        return []
    peft = import_peft(rank)
    paths = encoder.pretrained_paths()
    if "encoder" in config.init_from:
        paths = tuple(name for name, _ in encoder.named_parameters())
    layers = _find_layers(encoder, paths)
    _check_layers(encoder, layers, rank)
    wide = [name for name, layer in layers.items() if _get_width(layer) > rank]
    full = {
        name: parameter
        for name, parameter in encoder.named_parameters()
        if parameter.requires_grad and not any(is_within(name, path) for path in paths)
    }
    num_frozen = sum(p.numel() for p in encoder.parameters()) - sum(p.numel() for p in full.values())
    lora_config = peft.LoraConfig(
        r=rank,
        lora_alpha=rank if train_config.lora_alpha is None else train_config.lora_alpha,
        lora_dropout=train_config.lora_dropout,
        target_modules="|".join(map(re.escape, wide)),  # matched as a whole; names in a list also match endings
    )
    peft.inject_adapter_in_model(lora_config, encoder)
    for parameter in full.values():  # peft froze them
        parameter.requires_grad_(True)
    pipeline.bind()  # a loss that averages the encoder copies it anew, with its updates
    num_updates = sum(p.numel() for name, p in encoder.named_parameters() if ".lora_" in name)
    notes = [
        f"--lora {rank}: updates of {len(wide)} linear layers of {encoder.display_name()} have {num_updates:,} "
        f"parameters, which are trained, and {num_frozen:,} of its own are frozen"
    ]
    if full:
        modules = ", ".join(dict.fromkeys(name.partition(".")[0] for name in full))
        notes.append(f"--lora {rank}: trained in full, since no checkpoint has them: {modules}")
    if len(wide) < len(layers):
        notes.append(f"--lora {rank}: {len(layers) - len(wide)} layers are too narrow for this rank and get no updates")
    return [*notes, *_describe_random_weights(config, encoder)]


def _describe_random_weights(config: Config, encoder: Encoder) -> list[str]:
    """Return a note if the encoder starts neither from a run nor from a checkpoint."""
    options = config.values["encoder"]
    if "encoder" in config.init_from or any(options.get(name) for name in encoder.source_options):
        return []
    sources = ["--init-from RUN", *(f"--encoder.{name} NAME" for name in encoder.source_options)]
    return [
        f"--lora {config.options('train')['lora']}: the frozen weights are random, which is unusual; start from "
        f"pretrained ones with {' or '.join(sources)}"
    ]


def _find_layers(encoder: Encoder, paths: tuple[str, ...]) -> dict[str, nn.Linear]:
    """Return the linear layers of the encoder's blocks (modules in an `nn.ModuleList`) among pretrained parameters."""
    lists = [name for name, module in encoder.named_modules() if isinstance(module, nn.ModuleList)]
    return {
        name: module
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Linear)
        and any(is_within(name, blocks) for blocks in lists)
        and any(is_within(f"{name}.weight", path) for path in paths)
    }


def _check_layers(encoder: Encoder, layers: Mapping[str, nn.Linear], rank: int) -> None:
    """Raise unless updates take effect, are of lower rank than at least one layer, and no layer is frozen."""
    name = encoder.display_name()
    if not layers:
        raise OptionError(
            f"--lora {rank}: {name} has no linear layers in blocks (an nn.ModuleList) whose updates could be learned; "
            "leave it out to train all weights"
        )
    if any(isinstance(module, nn.MultiheadAttention) for module in encoder.modules()):
        raise OptionError(
            f"--lora {rank}: {name} uses torch.nn.MultiheadAttention, which reads the weights of its layers without "
            "calling them, so that updates would be ignored; leave it out to train all weights"
        )
    width = max(map(_get_width, layers.values()))
    if rank >= width:
        raise OptionError(
            f"--lora {rank}: the widest layer of {name} has width {width}, so updates of this rank have at least as "
            f"many parameters as its weights; use at most {max(width // 2, 1)}, or leave it out to train all weights"
        )
    frozen = [layer_name for layer_name, layer in layers.items() if not layer.weight.requires_grad]
    if frozen:
        raise OptionError(
            f"--lora {rank}: encoder.{frozen[0]} is frozen; leave out --freeze and --encoder.freeze for the encoder, "
            "whose pretrained weights are frozen with --lora, except for their updates"
        )


def _get_width(layer: nn.Linear) -> int:
    """Return the largest rank that the weight can have."""
    return min(layer.in_features, layer.out_features)


def has_lora(pipeline: Pipeline) -> bool:
    """Return whether the encoder has low-rank updates."""
    return hasattr(pipeline.encoder, "peft_config")


def iter_updated_layers(pipeline: Pipeline) -> Iterator[tuple[str, Any]]:
    """Iterate over names and layers of peft in the pipeline."""
    if has_lora(pipeline):
        from peft.tuners.lora import LoraLayer

        yield from [(name, module) for name, module in pipeline.named_modules() if isinstance(module, LoraLayer)]


def merge_lora(pipeline: Pipeline, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with the updates added to the weights, under the names that these have without updates.

    Args:
        pipeline: that the state dict is of; not changed
        state: full tensors by name
    """
    merged = dict(state)
    for name, layer in iter_updated_layers(pipeline):
        a, b = (merged.pop(f"{name}.lora_{factor}.{ADAPTER}.weight") for factor in "AB")
        for key in [key for key in merged if key.startswith(f"{name}.base_layer.")]:
            merged[key.replace(".base_layer.", ".")] = merged.pop(key)
        merged[f"{name}.weight"] = merged[f"{name}.weight"] + layer.scaling[ADAPTER] * (b @ a)
    return merged


def remove_lora(pipeline: Pipeline) -> None:
    """Put the layers without updates back; the caller loads the merged weights."""
    for name, layer in list(iter_updated_layers(pipeline)):
        pipeline.set_submodule(name, layer.get_base_layer())
    for module in pipeline.modules():  # the encoder, and copies of it
        if hasattr(module, "peft_config"):
            del module.peft_config
