"""Checkpoints of the published TimeMAE: names and shapes of its tensors, and where they belong in a pipeline."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tstk.core.types import Spec
from tstk.errors import OptionError
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
    encoder, decoder, codewords and mask token are those of the file. The teacher is left, since a run has none, and
    training starts one from the encoder. So is the classifier, which pretraining does not train.

    With the names of the classes, the run is a classifier instead, as after fine-tuning: tokenizer, encoder and the
    linear classifier of the mean of all tokens. What only pretraining uses is left then.

    Args:
        heads: attention heads of encoder and decoder, which the file does not tell; 4 as published if none
        classes: names of the classes in the order of the outputs, such as walking,sitting; for a fine-tuned checkpoint
    """

    def __init__(self, *, heads: PositiveInt | None = None, classes: tuple[str, ...] = ()) -> None:
        self.heads, self.classes = heads, classes

    def convert(self, source: SourceTensors) -> ImportedModel:
        """Return the pipeline of a checkpoint."""
        dim, channels, window = source.get_shape("input_projection.weight", "dim, channels, window")
        windows, _ = source.get_shape("position.pe.weight", "windows, dim")
        hidden, _ = source.get_shape("encoder.TRMs.0.ffn.linear1.weight", "hidden, dim")
        depth, heads = source.count("encoder.TRMs.{}.skipconnect1.a"), self.heads or _PUBLISHED_HEADS
        if self.heads is None:
            source.notes.append(f"the file does not tell the number of heads; {heads} as published, or --heads")
        weights = {
            "tokenizer.project.weight": source.pop("input_projection.weight").flatten(1),
            "tokenizer.project.bias": source.pop("input_projection.bias", (dim,)),
            "encoder.table": source.pop("position.pe.weight", (windows, dim)),
        }
        for i in range(depth):
            weights |= _pop_block(source, f"encoder.stack.blocks.{i}", f"encoder.TRMs.{i}")
        tables: dict[str, dict[str, Any]] = {
            "tokenizer": {"use": "patch", "window": window, "dim": dim},
            "encoder": {"use": "timemae", "dim": dim, "depth": depth, "heads": heads, "hidden": hidden},
            "data": {"standardize": "none"},
        }
        spec = Spec(channels=channels, length=windows * window)
        if self.classes:
            spec = spec.replace(task="classification", num_outputs=len(self.classes))
            weights |= self._pop_classifier(source, dim)
            config = "timemae/finetune"
        else:
            weights |= self._pop_pretraining(source, tables, dim)
            config = "timemae/published"
        return ImportedModel(spec=spec, config=config, tables=tables, weights=weights, classes=self.classes)

    def _pop_pretraining(self, source: SourceTensors, tables: dict[str, dict[str, Any]], dim: int) -> dict[str, Tensor]:
        """Return the weights of decoder and loss, and add their options to the tables."""
        codes, _ = source.get_shape("tokenizer.center.weight", "codewords, dim")
        depth = source.count("reg.layers.{}.skipconnect1.a")
        tables["loss"] = {"use": "timemae", "codes": codes}
        tables["decoder"] = {"use": "timemae", "depth": depth, "heads": tables["encoder"]["heads"]}
        weights = {
            "decoder.mask_token": source.pop("mask_token", (dim,)),
            **source.pop_layers({"loss.codeword_classifier": "tokenizer.center"}),
        }
        for i in range(depth):
            weights |= _pop_block(source, f"decoder.blocks.{i}", f"reg.layers.{i}")
        source.leave("momentum_encoder.", "the teacher, which training starts from the encoder")
        source.leave("predict_head.", "the classifier; of a fine-tuned checkpoint --classes NAME,NAME,... imports it")
        return weights

    def _pop_classifier(self, source: SourceTensors, dim: int) -> dict[str, Tensor]:
        """Return the weights of the head.

        Raises:
            OptionError: the file has another number of classes than were named
        """
        count, _ = source.get_shape("predict_head.weight", "classes, dim")
        if count != len(self.classes):
            raise OptionError(f"--classes names {len(self.classes)} classes; {source.path} has {count}")
        for prefix in ("mask_token", "momentum_encoder.", "tokenizer.center.", "reg."):
            source.leave(prefix, "of pretraining, which a classifier does not use")
        return source.pop_layers({"head.classify": "predict_head"})


def _pop_block(source: SourceTensors, block: str, published: str) -> dict[str, Tensor]:
    """Return the weights of a block, and the factors of its sub-layers."""
    return source.pop_layers({f"{block}.{ours}": f"{published}.{theirs}" for ours, theirs in _LAYERS.items()}) | {
        f"{block}.attention_scale": source.pop(f"{published}.skipconnect1.a", ()),
        f"{block}.mlp_scale": source.pop(f"{published}.skipconnect2.a", ()),
    }
