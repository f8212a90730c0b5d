"""Weights of BERT checkpoints, read straight from `config.json` and `model.safetensors`, as the blocks name them.

A checkpoint is a folder or the name of a Hugging Face repository; only the files named above are ever fetched.
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

_LAYER = {
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.output.dense": "attention.out",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "mlp.up",
    "output.dense": "mlp.down",
    "output.LayerNorm": "mlp_norm",
}


def bert_config(name: str) -> dict[str, Any]:
    """The architecture of a BERT checkpoint: dim, depth, heads, hidden, eps, rows (of its position table).

    Args:
        name: a folder, or a repository on the Hugging Face hub

    Raises:
        OptionError: there is no such checkpoint, or it is not BERT's architecture
    """
    path = _file(name, "config.json")
    if path is None:
        raise OptionError(f"pretrained={name!r} has no config.json; expected a folder with it and model.safetensors")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as e:
        raise OptionError(f"pretrained={name!r}: config.json is damaged ({e}); fetch it again") from None
    if not isinstance(found, dict):
        raise OptionError(f"pretrained={name!r}: config.json is no table; fetch it again")
    wanted = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "is_decoder": False,
    }
    strange = [f"{k} {found[k]!r}" for k, v in wanted.items() if found.get(k, v) != v]
    if strange:
        raise OptionError(f"pretrained={name!r} is not plain BERT ({', '.join(strange)}); encoder 'hf' may serve it")
    keys = {
        "dim": "hidden_size",
        "depth": "num_hidden_layers",
        "heads": "num_attention_heads",
        "hidden": "intermediate_size",
        "eps": "layer_norm_eps",
        "rows": "max_position_embeddings",
    }
    missing = [v for v in keys.values() if v not in found]
    if missing:
        raise OptionError(f"pretrained={name!r}: config.json does not say {', '.join(missing)}")
    odd = [f"{v} {found[v]!r}" for k, v in keys.items() if k != "eps" and not 0 < _whole(found[v]) < 2**31]
    if odd:
        raise OptionError(f"pretrained={name!r}: config.json has {', '.join(odd)}; expected sizes of a BERT")
    return {ours: found[theirs] for ours, theirs in keys.items()}


def _whole(value: Any) -> int:
    return value if type(value) is int else 0


def bert_shape(given: dict[str, Any], pretrained: str | None, whole: bool) -> dict[str, Any]:
    """A checkpoint's architecture (see `bert_config`) together with what was given, which must not contradict it.

    Args:
        given: what the user chose
        pretrained: the checkpoint; without one, `given` is all there is
        whole: the position table is the checkpoint's too

    Raises:
        OptionError: a contradiction, or whatever `bert_config` finds
    """
    if pretrained is None:
        return given
    found = bert_config(pretrained)
    if not whole:
        del found["rows"]  # the layers alone bring no table
    faults = [f"{k}={v}, but its own is {found[k]}" for k, v in given.items() if v != found.get(k, v)]
    if faults:
        raise OptionError(f"pretrained={pretrained!r} settles the architecture: {'; '.join(faults)}; leave these out")
    return given | found


def bert_weights(name: str) -> dict[str, Tensor]:
    """The tensors of a BERT checkpoint under today's names: no `bert.` in front, norms with weight and bias.

    Raises:
        CheckpointError: there is no file of weights, or it is damaged
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = _file(name, "model.safetensors") or _file(name, "pytorch_model.bin")
    if path is None:
        raise CheckpointError(f"pretrained={name!r} has neither model.safetensors nor pytorch_model.bin")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, EOFError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged: {str(error).splitlines()[0]}; fetch it again") from error
    return {_modern(key): value for key, value in state.items()}


def bert_blocks(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """BERT's layers as a state of `Stack(norm="post", eps=1e-12)`; whatever else is in `state` is left out.

    A stack with learned residual scales needs these at 1 besides to be BERT exactly.
    """
    found = {}
    for key, value in state.items():
        match = re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)", _modern(key))
        if match and match[2] in _LAYER:
            found[f"blocks.{match[1]}.{_LAYER[match[2]]}.{match[3]}"] = value
    return found


def fill(module: nn.Module, state: Mapping[str, Tensor], names: Collection[str], source: str) -> None:
    """Copy tensors from outside into the parameters `names` of a module.

    Raises:
        CheckpointError: some are missing or have another shape; all of them are named, and nothing is copied
    """
    own = {name: p for name, p in module.named_parameters() if name in names}
    faults = [f"{name} is missing" for name in own if name not in state]
    faults += [
        f"{name} is {list(state[name].shape)}, expected {list(p.shape)}"
        for name, p in own.items()
        if name in state and state[name].shape != p.shape
    ]
    if faults:
        raise CheckpointError(f"the weights of {source!r} do not fit their own config.json: {'; '.join(faults)}")
    with torch.no_grad():
        for name, p in own.items():
            p.copy_(state[name])


def outside_norms(module: nn.Module) -> Iterator[str]:
    """Names of the parameters that belong to no normalisation layer (`...Norm` of any make)."""
    for path, part in module.named_modules():
        if not type(part).__name__.endswith("Norm"):
            for name, _ in part.named_parameters(recurse=False):
                yield f"{path}.{name}" if path else name


def _modern(key: str) -> str:
    key = key.removeprefix("bert.")
    return key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _file(name: str, file: str) -> Path | None:
    """One file of a checkpoint, fetched if it is on the hub; None if the checkpoint does not have it."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError

        try:
            folder = Path(snapshot_download(name, allow_patterns=[file]))
        except (HfHubHTTPError, OSError, ValueError) as error:
            raise OptionError(
                f"pretrained={name!r} is no folder here and could not be fetched from the Hugging Face hub "
                f"({type(error).__name__}); give a folder with config.json and model.safetensors, or check the name "
                "and the network"
            ) from error
    path = folder / file
    return path if path.is_file() else None
