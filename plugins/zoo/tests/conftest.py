"""Checkpoints of tiny models with random weights, and the pipelines that are made of them."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from tstk.config.resolve import resolve_config
from tstk.core.types import Series, Spec
from tstk.runs.build import build_pipeline

torch.set_num_threads(1)


def write_checkpoint(folder, config, model):
    """Write a folder as they are released: config.json and model.safetensors."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    state = {k: v.contiguous().clone() for k, v in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    return str(folder)


def assemble(tokenizer, encoder, length=64, num_channels=1, **pipeline):
    """Build a classifier of these tables, with the weights that they name, in eval mode."""
    spec = Spec(channels=num_channels, length=length, task="classification", num_outputs=3)
    config = resolve_config(
        ("test", {"tokenizer": tokenizer, "encoder": encoder, "head": {"use": "linear"}, "pipeline": pipeline})
    )
    torch.manual_seed(1)
    built = build_pipeline(config, spec, **pipeline)
    for _, part in built.named_slots():
        part.init_from_pretrained()
    built.bind()
    return built.eval()


def make_series(length=64, batch=4, seed=0):
    """Return series whose deviation is large beside the epsilon of any normalisation."""
    generator = torch.Generator().manual_seed(seed)
    return Series(torch.randn(batch, 1, length, generator=generator).cumsum(-1) * 3 + 5)


def encode(pipeline, series):
    """Return the tokens and the encoded tokens of a batch."""
    with torch.no_grad():
        tokens = pipeline.preprocess(series, mask_future=False).tokens
        return tokens, pipeline.encoder(tokens)


@pytest.fixture
def zoo():
    return SimpleNamespace(write_checkpoint=write_checkpoint, assemble=assemble, make_series=make_series, encode=encode)
