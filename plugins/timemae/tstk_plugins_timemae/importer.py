"""Checkpoints of the published TimeMAE: names and shapes of its tensors, and where they belong in a pipeline."""

from __future__ import annotations

from torch import Tensor

from tstk.core.types import Spec
from tstk.plugins.ranges import PositiveInt
from tstk.runs.importing import ImportedModel, Importer, SourceTensors

_LAYERS = {
    "attention.query": "attn.linear_layers.0",
    "attention.key": "attn.linear_layers.1",
    "attention.value": "attn.linear_layers.2",
    "attention.out": "attn.output_linear",
    "attention_norm": "skipconnect1.norm",
    "mlp.up": "ffn.linear1",
    "mlp.down": "ffn.linear2",
    "mlp_norm": "skipconnect2.norm",
}
"""Layer of a block here -> in the published program."""
_PUBLISHED_HEADS = 4


class TimeMAEImporter(Importer):
    """State dicts that the published pretraining saves, as runs of `timemae/published` with the sizes of the file.

    The width, the window, the number of channels, windows, layers and codewords follow from the shapes. Tokenizer,
    encoder, decoder, codewords and mask token are those of the file. The teacher is left, since a run has none: training
    starts one from the encoder. So is the classifier, which pretraining does not train.

    Args:
        heads: attention heads of encoder and decoder, which the file does not tell; 4 as published if none
    """

    def __init__(self, *, heads: PositiveInt | None = None) -> None:
        self.heads = heads

    def convert(self, source: SourceTensors) -> ImportedModel:
        """Return the pipeline of a checkpoint."""
        dim, channels, window = source.get_shape("input_projection.weight", "dim, channels, window")
        windows, _ = source.get_shape("position.pe.weight", "windows, dim")
        codes, _ = source.get_shape("tokenizer.center.weight", "codewords, dim")
        hidden, _ = source.get_shape("encoder.TRMs.0.ffn.linear1.weight", "hidden, dim")
        depth = source.count("encoder.TRMs.{}.skipconnect1.a")
        decoder_depth = source.count("reg.layers.{}.skipconnect1.a")
        weights = {
            "tokenizer.project.weight": source.take("input_projection.weight").flatten(1),
            "tokenizer.project.bias": source.take("input_projection.bias", (dim,)),
            "encoder.table": source.take("position.pe.weight", (windows, dim)),
            "decoder.mask_token": source.take("mask_token", (dim,)),
            **source.take_layers({"loss.codeword_classifier": "tokenizer.center"}),
        }
        for i in range(depth):
            weights |= _take_block(source, f"encoder.stack.blocks.{i}", f"encoder.TRMs.{i}")
        for i in range(decoder_depth):
            weights |= _take_block(source, f"decoder.blocks.{i}", f"reg.layers.{i}")
        heads = self.heads or _PUBLISHED_HEADS
        if self.heads is None:
            source.notes.append(f"the file does not tell the number of heads; {heads} as published, or --heads")
        source.leave("momentum_encoder.", "the teacher, which training starts from the encoder")
        source.leave("predict_head.", "the classifier; train another one with --head linear")
        return ImportedModel(
            spec=Spec(channels=channels, length=windows * window),
            config="timemae/published",
            tables={
                "tokenizer": {"use": "patch", "window": window, "dim": dim},
                "encoder": {"use": "timemae", "dim": dim, "depth": depth, "heads": heads, "hidden": hidden},
                "loss": {"use": "timemae", "codes": codes},
                "decoder": {"use": "timemae", "depth": decoder_depth, "heads": heads},
            },
            weights=weights,
        )


def _take_block(source: SourceTensors, block: str, published: str) -> dict[str, Tensor]:
    """Return the weights of a block, and the factors of its sub-layers."""
    return source.take_layers({f"{block}.{ours}": f"{published}.{theirs}" for ours, theirs in _LAYERS.items()}) | {
        f"{block}.attention_scale": source.take(f"{published}.skipconnect1.a", ()),
        f"{block}.mlp_scale": source.take(f"{published}.skipconnect2.a", ()),
    }
