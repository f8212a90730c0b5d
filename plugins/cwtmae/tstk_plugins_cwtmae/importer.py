"""Checkpoints of the published CWT-MAE-RoPE: names and shapes of its tensors, and where they belong in a pipeline."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tstk.core.types import Spec
from tstk.errors import CheckpointError, OptionError
from tstk.plugins.ranges import PositiveInt
from tstk.runs.importing import ImportedModel, Importer, SourceTensors

_BASE = 10000.0
"""Of the rotary frequencies."""


class CWTMAEImporter(Importer):
    """State dicts of the original's pretraining, as runs of `cwtmae/published` with the sizes of the file.

    All sizes follow from the shapes, the heads from the rotary frequencies. Tokens of the original lie scale by scale,
    here column by column, so both position tables are permuted. The run takes each channel as a series of its own, and
    normalizes series one by one, as the original's loader does.

    Args:
        heads: attention heads of the encoder, if the file has no rotary frequencies
        decoder_heads: attention heads of the decoder, likewise
        rope: rotary positions over the flattened grid, with tables rounded to bfloat16 as in version 0.0.5; or exact
    """

    def __init__(
        self,
        *,
        heads: PositiveInt | None = None,
        decoder_heads: PositiveInt | None = None,
        rope: Literal["flat-bf16", "flat"] = "flat-bf16",
    ) -> None:
        self.heads, self.decoder_heads, self.rope = heads, decoder_heads, rope

    def convert(self, source: SourceTensors) -> ImportedModel:
        """Return the pipeline of a checkpoint."""
        dim, _, patch_freq, patch_time = source.get_shape(
            "patch_embed.proj.weight", "dim, views, scales of a patch, samples of a patch"
        )
        decoder_dim, _, rows, _ = source.get_shape("time_reducer.0.weight", "width, width, rows, 1")
        cells = source.get_shape("pos_embed", "1, cells + 1, dim")[1] - 1
        if cells % rows:
            raise CheckpointError(
                f"{source.path}: pos_embed has {cells} cells, no multiple of the {rows} rows of time_reducer.0.weight"
            )
        depth = source.count("blocks.{}.attn.qkv.weight")
        decoder_depth = source.count("decoder_blocks.{}.attn.qkv.weight")
        heads = _infer_heads(source, "rope_encoder.inv_freq", dim, self.heads, "--heads")
        decoder_heads = _infer_heads(
            source, "rope_decoder.inv_freq", decoder_dim, self.decoder_heads, "--decoder-heads"
        )
        common = {"positions": "learned+rotary", "rope": self.rope, "cls_pos_embed": True}
        return ImportedModel(
            spec=Spec(channels=1, length=cells // rows * patch_time),
            config="cwtmae/published",
            tables={
                "tokenizer": {
                    "use": "cwt",
                    "dim": dim,
                    "patch_time": patch_time,
                    "patch_freq": patch_freq,
                    "scales": rows * patch_freq,
                },
                "encoder": {
                    "use": "transformer",
                    "dim": dim,
                    "depth": depth,
                    "heads": heads,
                    "rank_ratio": _infer_rank_ratio(source, dim),
                    **_infer_bias(source, "blocks"),
                    **common,
                },
                "decoder": {
                    "use": "transformer",
                    "dim": decoder_dim,
                    "depth": decoder_depth,
                    "heads": decoder_heads,
                    **_infer_bias(source, "decoder_blocks"),
                    **common,
                },
                "pipeline": {"channels": "independent"},
            },
            weights=_pop_weights(source, (depth, decoder_depth), (dim, decoder_dim), rows, cells),
            split_channels=True,
        )


def _pop_weights(
    source: SourceTensors, depths: tuple[int, int], dims: tuple[int, int], rows: int, cells: int
) -> dict[str, Tensor]:
    """Return the weights of the pipeline.

    Args:
        source: of the checkpoint
        depths: of encoder and decoder
        dims: widths of encoder and decoder
        rows: of the grid of patches
        cells: of the grid
    """
    cls_pos_embed, table = _split_positions(source.pop("pos_embed", (1, cells + 1, dims[0])), rows)
    decoder_cls_pos_embed, decoder_table = _split_positions(
        source.pop("decoder_pos_embed", (1, cells + 1, dims[1])), rows
    )
    weights = {
        "tokenizer.project.weight": source.pop("patch_embed.proj.weight").flatten(1),
        "tokenizer.project.bias": source.pop("patch_embed.proj.bias"),
        "encoder.cls": source.pop("cls_token"),
        "encoder.cls_pos_embed": cls_pos_embed[None],
        "encoder.table": table,
        "decoder.cls_pos_embed": decoder_cls_pos_embed,
        "decoder.table": decoder_table,
        "decoder.mask_token": source.pop("mask_token", (1, 1, dims[1])).flatten(),
        **source.pop_layers(
            {
                "tokenizer.norm": "patch_embed.norm",
                "encoder.stack.norm": "norm",
                "decoder.embed": "decoder_embed",
                "decoder.stack.norm": "decoder_norm",
                "loss.to_patch": "decoder_pred_spec",
                "loss.scale_conv": "time_reducer.0",
                "loss.to_samples": "time_pred",
            }
        ),
    }
    for i in range(depths[0]):
        weights |= _pop_block(source, f"encoder.stack.blocks.{i}", f"blocks.{i}")
    for i in range(depths[1]):
        weights |= _pop_block(source, f"decoder.stack.blocks.{i}", f"decoder_blocks.{i}")
    return weights


def _pop_block(source: SourceTensors, block: str, published: str) -> dict[str, Tensor]:
    """Return the weights of a block, whose MLP has linear layers or low-rank ones."""
    names = {"attention_norm": "norm1", "mlp_norm": "norm2", "attention.out": "attn.proj"}
    if f"{published}.mlp.0.v.weight" in source:
        names |= {"mlp.up.v": "mlp.0.v", "mlp.up.u": "mlp.0.u", "mlp.down.v": "mlp.3.v", "mlp.down.u": "mlp.3.u"}
    else:
        names |= {"mlp.up": "mlp.0", "mlp.down": "mlp.3"}
    layers = [f"{block}.attention.{name}" for name in ("query", "key", "value")]
    return source.pop_layers(
        {f"{block}.{ours}": f"{published}.{theirs}" for ours, theirs in names.items()}
    ) | source.pop_stacked(f"{published}.attn.qkv.weight", f"{published}.attn.qkv.bias", layers)


def _split_positions(table: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Return the position of CLS, [1, D], and those of the patches [N, D], from row by row to column by column.

    Args:
        table: [1, 1 + N, D], CLS first
        rows: number of rows of patches, each of which has all columns
    """
    return table[0, :1], table[0, 1:].unflatten(0, (rows, -1)).transpose(0, 1).flatten(0, 1)


def _infer_heads(source: SourceTensors, name: str, dim: int, option: int | None, flag: str) -> int:
    """Return the number of heads, which the rotary frequencies of one head tell, half as many as its channels.

    Raises:
        CheckpointError: the frequencies have another base
        OptionError: the file has none and no number is given, or another one is
    """
    if name not in source:
        if option is None:
            raise OptionError(f"{source.path} has no {name}, which tells the number of heads; give it with {flag}")
        return option
    (pairs,) = source.get_shape(name, "pairs of channels")
    frequencies = source.pop(name)
    if dim % (2 * pairs):
        raise CheckpointError(f"{source.path}: {name} is [{pairs}], and twice as many do not divide the width {dim}")
    if not frequencies.is_meta:
        expected = _BASE ** (-torch.arange(pairs, dtype=torch.float32) / pairs)
        if not torch.allclose(frequencies, expected, rtol=1e-2):
            raise CheckpointError(f"{source.path}: {name} are not the frequencies of base {_BASE:g}")
    heads = dim // (2 * pairs)
    if option not in (None, heads):
        raise OptionError(f"{flag} {option}: {source.path} has {heads} heads, by the length of {name}")
    return heads


def _infer_rank_ratio(source: SourceTensors, dim: int) -> float | None:
    """Return the rank of the layers of the encoder's MLPs as a share of their smaller width; None if they are dense."""
    if "blocks.0.mlp.0.v.weight" not in source:
        return None
    rank, _ = source.get_shape("blocks.0.mlp.0.v.weight", "rank, dim")
    return rank / dim if int(dim * (rank / dim)) == rank else (rank + 0.5) / dim


def _infer_bias(source: SourceTensors, blocks: str) -> dict[str, bool]:
    return {"bias": f"{blocks}.0.attn.qkv.bias" in source}
