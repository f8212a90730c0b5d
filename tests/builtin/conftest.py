"""Small pipelines with a loss that consumes the encoder's output."""

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
    """Return a function that builds a pipeline in eval mode from a tokenizer, a loss and the channel mode."""

    def build(tokenizer, loss="contrastive", channels="mixed"):
        encoder = {"use": "transformer", "dim": 8, "depth": 1, "heads": 2}
        torch.manual_seed(0)
        config = resolve_config(("test", {"tokenizer": SIZES[tokenizer], "encoder": encoder, "loss": loss}))
        pipeline = build_pipeline(config, Spec(2, 24, "classification", 3), channels=channels)
        pipeline.bind()
        return pipeline.eval()

    return build
