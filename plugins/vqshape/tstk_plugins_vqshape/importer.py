"""Checkpoints of the published VQShape: names and shapes of its tensors, and where they belong in a pipeline."""

from __future__ import annotations

from argparse import Namespace

import torch
from torch import Tensor

from tstk.core.types import Spec
from tstk.errors import CheckpointError, OptionError
from tstk.plugins.ranges import PositiveInt
from tstk.runs.importing import ImportedModel, Importer, SourceTensors

_HEADS = ("num_transformer_enc_heads", "num_tokenizer_heads", "num_transformer_dec_heads")
"""Hyper-parameters that a Lightning checkpoint records, of the encoder, the queries and the decoder."""
_PUBLISHED_HEADS = 8
_ATTRIBUTES = {"z": "z_head", "place": "tl_mean_head", "mean": "mu_head", "scale": "sigma_head"}
"""MLP of an attribute here -> in the published program."""


class VQShapeImporter(Importer):
    """Lightning checkpoints of VQShape, those of the released sizes too, as runs of `vqshape/pretrain`.

    All sizes but the heads follow from names and shapes. Besides tensors such a file holds hyper-parameters, an
    `argparse.Namespace`, which is the only class that is allowed. A token of the original is [code, mean, scale, start,
    length], here [code, start, length, mean, scale], so the columns of the layer that reads tokens are permuted. A run
    takes each channel as a series of its own, resampled to the length of the model, and normalizes series one by one.

    Args:
        heads: attention heads; those that the file records, or 8 as in all releases, if none
    """

    safe_classes = (Namespace,)

    def __init__(self, *, heads: PositiveInt | None = None) -> None:
        self.heads = heads

    def convert(self, source: SourceTensors) -> ImportedModel:
        """Return the pipeline of a checkpoint."""
        dim, patch = source.get_shape("encoder.input_project.weight", "dim, patch")
        patches, _ = source.get_shape("encoder.pos_embed.positional_embeddings.weight", "patches, dim")
        _, tokens, _ = source.get_shape("tokenizer.tokens", "1, tokens, dim")
        codes, code_dim = source.get_shape("codebook.embedding.weight", "codes, code width")
        depths = {
            "depth": source.count("encoder.transformer.layers.{}.self_attn.in_proj_weight"),
            "query_depth": source.count("tokenizer.transformer.layers.{}.self_attn.in_proj_weight"),
        }
        decoder_depth = source.count("decoder.transformer.layers.{}.self_attn.in_proj_weight")
        heads = _infer_heads(source, self.heads)
        shape_weights, shape_sizes = _pop_shape_decoder(source)
        sizes = {"dim": dim, "patch": patch, "tokens": tokens, "codes": codes, "code_dim": code_dim, "heads": heads}
        return ImportedModel(
            spec=Spec(channels=1, length=patches * patch),
            config="vqshape/pretrain",
            tables={
                "tokenizer": {"use": "vqshape", **sizes, **depths, **shape_sizes},
                "decoder": {"use": "vqshape", "dim": dim, "depth": decoder_depth, "heads": heads},
            },
            weights=_pop_weights(source, **depths, decoder_depth=decoder_depth, code_dim=code_dim) | shape_weights,
            resize=patches * patch,
            split_channels=True,
        )


def _infer_heads(source: SourceTensors, option: int | None) -> int:
    """Return the number of heads: that given, that recorded, or the published one.

    Raises:
        CheckpointError: encoder, queries and decoder have different numbers
        OptionError: another number is given than recorded
    """
    recorded = {int(source.settings[name]) for name in _HEADS if isinstance(source.settings.get(name), int)}
    if len(recorded) > 1:
        raise CheckpointError(
            f"{source.path} records {', '.join(map(str, sorted(recorded)))} heads for its parts; a run has one number"
        )
    if recorded and option not in (None, *recorded):
        raise OptionError(f"--heads {option}: {source.path} records {recorded.pop()}")
    if not recorded and option is None:
        source.notes.append(f"the file does not tell the number of heads; {_PUBLISHED_HEADS} as published, or --heads")
    return option or next(iter(recorded), _PUBLISHED_HEADS)


def _pop_weights(
    source: SourceTensors, depth: int, query_depth: int, decoder_depth: int, code_dim: int
) -> dict[str, Tensor]:
    """Return all weights but those of the shape decoder."""
    dim, _ = source.get_shape("attr_encoder.project.weight", "dim, code width + 4")
    _, tokens, _ = source.get_shape("tokenizer.tokens", "1, tokens, dim")
    token_map = source.pop("attr_encoder.project.weight", (dim, code_dim + 4))
    code, mean_scale, place = token_map.split([code_dim, 2, 2], 1)
    weights = {
        "tokenizer.table": source.pop("encoder.pos_embed.positional_embeddings.weight"),
        "tokenizer.queries": source.pop("tokenizer.tokens", (1, tokens, dim))[0],
        "tokenizer.codebook.codes": source.pop("codebook.embedding.weight"),
        "decoder.in_proj.weight": torch.cat([code, place, mean_scale], 1),
        "decoder.in_proj.bias": source.pop("attr_encoder.project.bias"),
        "decoder.cls": source.pop("decoder.cls_token", (1, 1, dim)).flatten(),
        **source.pop_layers(
            {"tokenizer.patch_embed": "encoder.input_project", "decoder.out_proj": "decoder.out_layer"}
        ),
    }
    for i in range(depth):
        weights |= _pop_block(source, f"tokenizer.stack.blocks.{i}", f"encoder.transformer.layers.{i}")
    for i in range(decoder_depth):
        weights |= _pop_block(source, f"decoder.stack.blocks.{i}", f"decoder.transformer.layers.{i}")
    for i in range(query_depth):
        weights |= _pop_query_block(source, f"tokenizer.query_blocks.{i}", f"tokenizer.transformer.layers.{i}")
    for ours, theirs in _ATTRIBUTES.items():
        first, *rest = source.list_indices(f"attr_decoder.{theirs}.layers.") or [0]
        mlp = f"tokenizer.attribute_decoder.mlps.{ours}"
        layers = {f"{mlp}.0": first, f"{mlp}.2": rest[-1] if rest else first + 2}
        weights |= source.pop_layers({k: f"attr_decoder.{theirs}.layers.{i}" for k, i in layers.items()})
    return weights


def _pop_block(source: SourceTensors, block: str, published: str) -> dict[str, Tensor]:
    """Return the weights of a layer of torch's encoder."""
    layers = {"attention_norm": "norm1", "mlp.up": "linear1", "mlp.down": "linear2", "mlp_norm": "norm2"}
    return source.pop_layers(
        {f"{block}.{ours}": f"{published}.{theirs}" for ours, theirs in layers.items()}
    ) | _pop_attention(source, f"{block}.attention", f"{published}.self_attn")


def _pop_query_block(source: SourceTensors, block: str, published: str) -> dict[str, Tensor]:
    """Return the weights of a layer of torch's decoder."""
    layers = {"norms.0": "norm1", "norms.1": "norm2", "norms.2": "norm3", "mlp.up": "linear1", "mlp.down": "linear2"}
    return {
        **source.pop_layers({f"{block}.{ours}": f"{published}.{theirs}" for ours, theirs in layers.items()}),
        **_pop_attention(source, f"{block}.self_attn", f"{published}.self_attn"),
        **_pop_attention(source, f"{block}.cross_attn", f"{published}.multihead_attn"),
    }


def _pop_attention(source: SourceTensors, attention: str, published: str) -> dict[str, Tensor]:
    """Return the weights of torch's attention, which stacks query, key and value."""
    layers = [f"{attention}.{name}" for name in ("query", "key", "value")]
    return {
        **source.pop_stacked(f"{published}.in_proj_weight", f"{published}.in_proj_bias", layers),
        **source.pop_layers({f"{attention}.out": f"{published}.out_proj"}),
    }


def _pop_shape_decoder(source: SourceTensors) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Return the weights of the shape decoder, and its sizes.

    Its layers are numbered with those that have no weights between them, so they are told apart by what they hold: a
    linear layer first, two residual blocks, two convolutions after upsampling, and a convolution to one channel.

    Raises:
        CheckpointError: there are other layers
    """
    prefix = "shape_decoder.layers"
    indices = source.list_indices(f"{prefix}.")
    blocks = [i for i in indices if f"{prefix}.{i}.block.0.weight" in source]
    convolutions = [i for i in indices if f"{prefix}.{i}.conv.weight" in source]
    plain = [i for i in indices if f"{prefix}.{i}.weight" in source]
    if tuple(map(len, (blocks, convolutions, plain))) != (2, 2, 2):
        raise CheckpointError(
            f"{source.path}: {prefix} has {len(plain)} plain layers, {len(blocks)} residual blocks and "
            f"{len(convolutions)} convolutions after upsampling; expected 2 of each"
        )
    outputs, _ = source.get_shape(f"{prefix}.{plain[0]}.weight", "width * points / 16, code width")
    width, _, _ = source.get_shape(f"{prefix}.{convolutions[0]}.conv.weight", "width, width, kernel")
    _, _, smooth = source.get_shape(f"{prefix}.{plain[1]}.weight", "1, width / 2, kernel")
    names = {
        "in_proj": f"{plain[0]}",
        "body.3": f"{convolutions[0]}.conv",
        "body.7": f"{convolutions[1]}.conv",
        "body.9": f"{plain[1]}",
    }
    for ours, index in (("body.0", blocks[0]), ("body.4", blocks[1])):
        names |= {f"{ours}.body.{i}": f"{index}.block.{i}" for i in (0, 2, 3, 5)}
        if f"{prefix}.{index}.channel_up.weight" in source:
            names[f"{ours}.skip"] = f"{index}.channel_up"
    weights = source.pop_layers({f"tokenizer.shape_decoder.{k}": f"{prefix}.{v}" for k, v in names.items()})
    return weights, {"shape_width": width, "points": outputs // width * 16, "smooth": smooth}
