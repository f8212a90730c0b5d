"""Loading of checkpoints, BERT's above all, from `config.json` and `model.safetensors`, without transformers.

A checkpoint is a folder or a Hugging Face hub name; only these files (or `pytorch_model.bin`, or the shards that their
index names) are downloaded. Only plain tensors are loaded, never code.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tstk.errors import CheckpointError, OptionError
from tstk.files import check_readable
from tstk.nn.weight_files import MAX_NAMED, find_state_dict, load_weight_file, shorten_names

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

_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Files of weights, in order of preference; beside each there may be an index of shards instead."""
_FIRST_LAYER = re.compile(r"(.*?)(encoder\.layer\.\d+\.attention\.self\.query\.weight)")
_EPS = 1e-12
"""Of BERT's normalisation, where config.json does not give it, as those of the first release do not."""


def read_checkpoint_config(name: str) -> dict[str, Any]:
    """Read the config.json of a checkpoint.

    Args:
        name: folder or Hugging Face hub name

    Raises:
        OptionError: there is no such checkpoint, or its config.json is not a JSON object
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
    return config


def read_bert_config(name: str) -> dict[str, Any]:
    """Read the architecture of a BERT checkpoint: dim, depth, heads, hidden, eps, rows (of the position table).

    Args:
        name: folder or Hugging Face hub name

    Raises:
        OptionError: there is no such checkpoint, or its architecture is not BERT's
    """
    config = read_checkpoint_config(name)
    expected = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}
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
    config.setdefault("layer_norm_eps", _EPS)
    missing = [v for v in keys.values() if v not in config]
    if missing:
        raise OptionError(f"pretrained={name!r}: config.json lacks {', '.join(missing)}")
    invalid = [f"{v} {config[v]!r}" for k, v in keys.items() if k != "eps" and not 0 < _int_or_zero(config[v]) < 2**31]
    if invalid:
        raise OptionError(f"pretrained={name!r}: config.json has {', '.join(invalid)}; expected positive integers")
    eps = config["layer_norm_eps"]
    if not isinstance(eps, int | float) or not (math.isfinite(eps) and eps > 0):
        raise OptionError(f"pretrained={name!r}: config.json has layer_norm_eps {eps!r}; expected a positive number")
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
    """Load the state dict of a BERT checkpoint, with the names of `BertModel`.

    What stands before these names (`bert.`, `module.`) is removed, norms' gamma and beta are renamed, and a state dict
    that was saved under a key such as "state_dict" is found.

    Raises:
        CheckpointError: there is no weights file, it is damaged, or it does not hold the tensors of one BERT
    """
    return _to_bert_names(load_checkpoint_weights(name), name)


def load_checkpoint_weights(name: str) -> dict[str, Tensor]:
    """Load the state dict of a checkpoint, with the names in its file or shards.

    Args:
        name: folder or Hugging Face hub name

    Raises:
        CheckpointError: there is no weights file, or it is damaged
    """
    state: dict[str, Tensor] = {}
    for path in _find_weight_files(name):
        state |= find_state_dict(load_weight_file(path), path)
    return state


def _find_weight_files(name: str) -> list[Path]:
    """Return the file of weights, or the shards that an index names.

    Raises:
        CheckpointError: there is neither, or a shard is missing
    """
    for filename in _WEIGHT_FILES:
        if path := _fetch_file(name, filename):
            return [path]
        if index_path := _fetch_file(name, f"{filename}.index.json"):
            return [_fetch_shard(name, shard, index_path) for shard in _read_index(index_path)]
    raise CheckpointError(f"pretrained={name!r} has neither {' nor '.join(_WEIGHT_FILES)}, nor an index of shards")


def _read_index(path: Path) -> list[str]:
    """Return the names of the shards in an index, without repetition.

    Raises:
        CheckpointError: it is damaged, or names a file outside its folder
    """
    check_readable(path)
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        shards = sorted(set(index["weight_map"].values()))
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{path} is damaged: it has no map 'weight_map'; download it again") from None
    for shard in shards:
        if not isinstance(shard, str) or not re.fullmatch(r"[\w.-]+\.(safetensors|bin)", shard):
            raise CheckpointError(f"{path} names {shard!r}; expected the names of files beside it")
    if not shards:
        raise CheckpointError(f"{path} names no file; download it again")
    return shards


def _fetch_shard(name: str, shard: str, index_path: Path) -> Path:
    if (path := _fetch_file(name, shard)) is None:
        raise CheckpointError(
            f"{index_path.with_name(shard)} is missing, although {index_path.name} names it; fetch it"
        )
    return path


def _to_bert_names(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Remove what stands before BERT's names, and what does not belong to it.

    Raises:
        CheckpointError: there are no layers of BERT, or those of several
    """
    prefixes = {match[1] for key in state if (match := _FIRST_LAYER.fullmatch(key))}
    if len(prefixes) != 1:
        models, names = shorten_names(sorted(prefixes)), shorten_names(state)
        problem = f"several models: {models}" if prefixes else f"no layers of BERT: {names}"
        raise CheckpointError(f"the weights of {name!r} hold {problem}; save the state_dict() of one BertModel")
    prefix = prefixes.pop()
    return {_rename_legacy_key(key.removeprefix(prefix)): v for key, v in state.items() if key.startswith(prefix)}


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
    """Copy tensors of `state` into the parameters and buffers `names` of a module.

    Args:
        module: the module that has the parameters
        state: tensors by parameter name
        names: parameters and buffers to copy
        source: name of the checkpoint, for the message

    Raises:
        CheckpointError: tensors are missing, or have another shape or no floats; the first are named, nothing is copied
    """
    tensors: dict[str, Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    parameters = {name: p for name, p in tensors.items() if name in names}
    faults = [f"{name} is missing" for name in parameters if name not in state]
    faults += [
        f"{name} is {list(state[name].shape)}, expected {list(p.shape)}"
        for name, p in parameters.items()
        if name in state and state[name].shape != p.shape
    ]
    faults += [
        f"{name} holds {str(state[name].dtype).removeprefix('torch.')}, expected floats"
        for name in parameters
        if name in state and not state[name].is_floating_point()
    ]
    if faults:
        more = f"; and {len(faults) - MAX_NAMED} more" if len(faults) > MAX_NAMED else ""
        listed = "; ".join(faults[:MAX_NAMED])
        raise CheckpointError(f"the weights of {source!r} do not match its config.json: {listed}{more}")
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
