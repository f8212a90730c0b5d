"""Checkpoints of another program: a linear layer over windows of samples, and one back to samples."""

from tstk import PositiveInt, Spec
from tstk.runs.importing import ImportedModel, Importer, SourceTensors


class Sketch(Importer):
    """State dicts with the layers `embed` [dim, channels * window] and `output` [channels * window, dim].

    Args:
        channels: number of channels, which the file does not tell
        windows: windows per series, likewise
    """

    def __init__(self, *, channels: PositiveInt = 1, windows: PositiveInt = 16) -> None:
        self.channels, self.windows = channels, windows

    def convert(self, source: SourceTensors) -> ImportedModel:
        """Return the pipeline of a checkpoint."""
        dim, width = source.get_shape("embed.weight", "dim, channels * window")
        window = width // self.channels
        source.leave("optimizer.", "the state of the optimizer")
        return ImportedModel(
            spec=Spec(channels=self.channels, length=self.windows * window),
            tables={
                "tokenizer": {"use": "patch", "dim": dim, "window": window},
                "encoder": {"use": "identity"},
                "loss": {"use": "reconstruct"},
                "decoder": {"use": "linear"},
            },
            weights=source.pop_layers({"tokenizer.project": "embed", "decoder.project": "output"}),
        )
