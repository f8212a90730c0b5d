"""Why checkpoints of the published Ti-MAE cannot become runs."""

from __future__ import annotations

from tstk.errors import CheckpointError
from tstk.runs.importing import ImportedModel, Importer, SourceTensors


class TiMAEImporter(Importer):
    """Checkpoints of Ti-MAE Lightning, which are refused: its attention is another function than the paper's.

    It has no map after attention, multiplies scores by the width of a head, where the paper divides by its square root,
    and adds each sub-layer to the normalised input. Its weights are of no use in the paper's block, the one of tstk.
    """

    def convert(self, source: SourceTensors) -> ImportedModel:
        """Refuse the checkpoint.

        Raises:
            CheckpointError: always
        """
        raise CheckpointError(
            f"{source.path}: checkpoints of Ti-MAE Lightning cannot be imported: its blocks have no map after "
            "attention, multiply scores by the width of a head, and add to the normalised input, which is another "
            "function than the paper's blocks here; pretrain with: tstk train --config timae/published --data FILE"
        )
