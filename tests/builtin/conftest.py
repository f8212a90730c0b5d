"""Small pipelines around a loss that reads the encoder."""

import pytest
import torch

from tstk.config.resolve import resolve_config
from tstk.core.types import Spec
from tstk.runs.build import build_pipeline

SIZES = {
    "patch": {"use": "patch", "dim": 8, "window": 4},
    "resampled": {"use": "resampled", "dim": 8, "width": 4, "samples": 64, "tokens": 8},
}


@pytest.fixture
def pipelines():
    """A function: name of a tokenizer, table of the loss and how channels enter -> a pipeline in eval mode."""

    def build(tokenizer, loss="contrastive", channels="mixed"):
        encoder = {"use": "transformer", "dim": 8, "depth": 1, "heads": 2}
        torch.manual_seed(0)
        config = resolve_config(("test", {"tokenizer": SIZES[tokenizer], "encoder": encoder, "loss": loss}))
        pipeline = build_pipeline(config, Spec(channels=2, length=24, num_classes=3), channels=channels)
        pipeline.bind()
        return pipeline.eval()

    return build
