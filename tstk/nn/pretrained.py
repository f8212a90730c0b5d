"""Loading of BERT checkpoints from `config.json` and `model.safetensors`, without the transformers library.

A checkpoint is a folder or a Hugging Face hub name; only these files (or `pytorch_model.bin`) are downloaded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tstk.errors import CheckpointError, OptionError
from tstk.files import check_readable

_LAYER_NAMES = {
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.output.dense": "attention.out",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "mlp.up",
    "output.dense": "mlp.down",
    "output.LayerNorm": "mlp_norm",
}


def read_bert_config(name: str) -> dict[str, Any]:
    """Read the architecture of a BERT checkpoint: dim, depth, heads, hidden, eps, rows (of the position table).

    Args:
        name: folder or Hugging Face hub name

    Raises:
        OptionError: there is no such checkpoint, or its architecture is not BERT's
    """
    path = _fetch_file(name, "config.json")
    if path is None:
        raise OptionError(f"pretrained={name!r} has no config.json; expected a folder with it and model.safetensors")
    check_readable(path)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as e:
        raise OptionError(f"pretrained={name!r}: config.json is damaged ({e}); download it again") from None
    if not isinstance(config, dict):
        raise OptionError(f"pretrained={name!r}: config.json is not a JSON object; download it again")
    expected = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "is_decoder": False,
    }
    differences = [f"{k} {config[k]!r}" for k, v in expected.items() if config.get(k, v) != v]
    if differences:
        raise OptionError(f"pretrained={name!r} is not plain BERT ({', '.join(differences)}); try encoder 'hf'")
    keys = {
        "dim": "hidden_size",
        "depth": "num_hidden_layers",
        "heads": "num_attention_heads",
        "hidden": "intermediate_size",
        "eps": "layer_norm_eps",
        "rows": "max_position_embeddings",
    }
    missing = [v for v in keys.values() if v not in config]
    if missing:
        raise OptionError(f"pretrained={name!r}: config.json lacks {', '.join(missing)}")
    invalid = [f"{v} {config[v]!r}" for k, v in keys.items() if k != "eps" and not 0 < _int_or_zero(config[v]) < 2**31]
    if invalid:
        raise OptionError(f"pretrained={name!r}: config.json has {', '.join(invalid)}; expected positive integers")
    return {ours: config[theirs] for ours, theirs in keys.items()}


def _int_or_zero(value: Any) -> int:
    return value if type(value) is int else 0


def resolve_bert_config(options: dict[str, Any], pretrained: str | None, with_pos_embed: bool) -> dict[str, Any]:
    """Merge the architecture of a checkpoint (see `read_bert_config`) with the user's options, which must match.

    Args:
        options: architecture options set by the user
        pretrained: the checkpoint; if None, `options` is returned
        with_pos_embed: the position table is taken from the checkpoint as well

    Raises:
        OptionError: an option contradicts the checkpoint, or `read_bert_config` failed
    """
    if pretrained is None:
        return options
    architecture = read_bert_config(pretrained)
    if not with_pos_embed:
        del architecture["rows"]
    faults = [
        f"{k}={v}, but the checkpoint has {architecture[k]}" for k, v in options.items() if v != architecture.get(k, v)
    ]
    if faults:
        raise OptionError(f"pretrained={pretrained!r} sets the architecture: {'; '.join(faults)}; leave these out")
    return options | architecture


def load_bert_weights(name: str) -> dict[str, Tensor]:
    """Load the state dict of a BERT checkpoint, with legacy names converted (`bert.` prefix, norms' gamma and beta).

    Raises:
        CheckpointError: there is no weights file, or it is damaged
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = _fetch_file(name, "model.safetensors") or _fetch_file(name, "pytorch_model.bin")
    if path is None:
        raise CheckpointError(f"pretrained={name!r} has neither model.safetensors nor pytorch_model.bin")
    check_readable(path)
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, EOFError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged: {str(error).splitlines()[0]}; download it again") from error
    return {_rename_legacy_key(key): value for key, value in state.items()}


def convert_bert_layers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the layers in a BERT state dict to a state dict of `Stack(norm="post", eps=1e-12)`; ignore other keys.

    To be equal to BERT, a stack with learned residual scales must have them set to 1.
    """
    layers = {}
    for key, value in state.items():
        match = re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)", _rename_legacy_key(key))
        if match and match[2] in _LAYER_NAMES:
            layers[f"blocks.{match[1]}.{_LAYER_NAMES[match[2]]}.{match[3]}"] = value
    return layers


def copy_parameters(module: nn.Module, state: Mapping[str, Tensor], names: Collection[str], source: str) -> None:
    """Copy tensors of `state` into the parameters `names` of a module.

    Args:
        module: the module that has the parameters
        state: tensors by parameter name
        names: parameters to copy
        source: name of the checkpoint, for the message

    Raises:
        CheckpointError: tensors are missing or have another shape; all of them are named, and nothing is copied
    """
    parameters = {name: p for name, p in module.named_parameters() if name in names}
    faults = [f"{name} is missing" for name in parameters if name not in state]
    faults += [
        f"{name} is {list(state[name].shape)}, expected {list(p.shape)}"
        for name, p in parameters.items()
        if name in state and state[name].shape != p.shape
    ]
    if faults:
        raise CheckpointError(f"the weights of {source!r} do not match its config.json: {'; '.join(faults)}")
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(state[name])


def iter_non_norm_parameters(module: nn.Module) -> Iterator[str]:
    """Yield the names of all parameters outside normalisation layers (classes whose name ends in `Norm`)."""
    for path, submodule in module.named_modules():
        if not type(submodule).__name__.endswith("Norm"):
            for name, _ in submodule.named_parameters(recurse=False):
                yield f"{path}.{name}" if path else name


def _rename_legacy_key(key: str) -> str:
    key = key.removeprefix("bert.")
    return key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _fetch_file(name: str, filename: str) -> Path | None:
    """Return the path of one file of a checkpoint, downloaded if needed; None if the checkpoint does not have it."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError

        try:
            folder = Path(snapshot_download(name, allow_patterns=[filename]))
        except (HfHubHTTPError, OSError, ValueError) as error:
            raise OptionError(
                f"pretrained={name!r} is not a folder and could not be downloaded from the Hugging Face hub "
                f"({type(error).__name__}); give a folder with config.json and model.safetensors, or check the name "
                "and the network"
            ) from error
    path = folder / filename
    return path if path.is_file() else None
