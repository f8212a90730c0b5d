"""Checkpoints of TOTEM's VQ-VAE and of Time-Series-Tokenizer, which has the same one."""

from __future__ import annotations

from tstk.core.types import Spec
from tstk.plugins.ranges import PositiveInt
from tstk.runs.importing import ImportedModel, Importer, SourceTensors

_DOWN = {
    4: ("_conv_1", "_conv_2"),
    8: ("_conv_1", "_conv_2", "_conv_A"),
    12: ("_conv_1", "_conv_2", "_conv_3"),
    16: ("_conv_1", "_conv_2", "_conv_A", "_conv_B"),
}
"""Factor -> convolutions of the published encoder that shorten the series, in the order of their use."""
_UP = {
    4: ("_conv_trans_1", "_conv_trans_2"),
    8: ("_conv_trans_A", "_conv_trans_1", "_conv_trans_2"),
    12: ("_conv_trans_2", "_conv_trans_3", "_conv_trans_4"),
    16: ("_conv_trans_A", "_conv_trans_B", "_conv_trans_1", "_conv_trans_2"),
}


class TOTEMImporter(Importer):
    """State dicts of TOTEM's VQ-VAE as runs of `vqvae/totem-tokenizer`: each series is normalized by itself.

    The factor, the widths, the number of codes and of residual layers follow from names and shapes. TOTEM pickles
    whole modules, which are code and are refused; the message says how to save the tensors of one.

    Args:
        length: longest series of the run, in samples; the convolutions take any
    """

    config = "vqvae/totem-tokenizer"
    normalizes_series = True

    def __init__(self, *, length: PositiveInt = 96) -> None:
        self.length = length

    def convert(self, source: SourceTensors) -> ImportedModel:
        """Return the pipeline of a checkpoint."""
        factor = _infer_factor(source)
        hidden, _, _ = source.get_shape("encoder._conv_2.weight", "hidden, hidden / 2, kernel")
        dim, _, _ = source.get_shape("encoder._pre_vq_conv.weight", "dim, hidden, kernel")
        codes, _ = source.get_shape("vq._embedding.weight", "codes, dim")
        res_layers = source.count("encoder._residual_stack._layers.{}._block.1.weight")
        res_hidden, _, _ = source.get_shape(
            "encoder._residual_stack._layers.0._block.1.weight", "residual width, hidden, kernel"
        )
        weights = {
            "tokenizer.codebook.codes": source.pop("vq._embedding.weight", (codes, dim)),
            **source.pop_layers(_map_layers(factor, res_layers)),
        }
        source.leave("vq._", "running sums of the codebook, with which it cannot be trained further")
        sizes = {"codes": codes, "dim": dim, "hidden": hidden, "res_hidden": res_hidden, "res_layers": res_layers}
        return ImportedModel(
            spec=Spec(channels=1, length=self.length),
            config=self.config,
            tables={
                "tokenizer": {"use": "vqvae", "factor": factor, **sizes},
                "pipeline": {"instance_norm": self.normalizes_series},
            },
            weights=weights,
            split_channels=True,
        )


class TimeSeriesTokenizerImporter(TOTEMImporter):
    """State dicts of Time-Series-Tokenizer's VQ-VAE as runs of `vqvae/published-tokenizer`.

    It is TOTEM's, on series that are standardized by their data set instead of normalized one by one. Whole modules,
    which the program pickles too, are refused.

    Args:
        length: longest series of the run, in samples; the convolutions take any
    """

    config = "vqvae/published-tokenizer"
    normalizes_series = False

    def __init__(self, *, length: PositiveInt = 512) -> None:
        super().__init__(length=length)


def _infer_factor(source: SourceTensors) -> int:
    """Return the number of samples per code, which the names of the convolutions tell."""
    if "encoder._conv_4.weight" in source:
        return 12
    if "encoder._conv_B.weight" in source:
        return 16
    return 8 if "encoder._conv_A.weight" in source else 4


def _map_layers(factor: int, res_layers: int) -> dict[str, str]:
    """Return layer of the tokenizer -> layer of the published program."""
    names = {f"encoder.down.{i}": f"encoder.{name}" for i, name in enumerate(_DOWN[factor])}
    names |= {f"decoder.up.{i}": f"decoder.{name}" for i, name in enumerate(_UP[factor])}
    names["encoder.conv"] = "encoder._conv_4" if factor == 12 else "encoder._conv_3"
    names |= {"encoder.out": "encoder._pre_vq_conv", "decoder.conv": "decoder._conv_1"}
    for part in ("encoder", "decoder"):
        for i in range(res_layers):
            block = f"{part}._residual_stack._layers.{i}._block"
            names |= {f"{part}.residual.wide.{i}": f"{block}.1", f"{part}.residual.narrow.{i}": f"{block}.3"}
    return {f"tokenizer.{ours}": theirs for ours, theirs in names.items()}
