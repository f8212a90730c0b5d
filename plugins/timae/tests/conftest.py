"""Tokens for this plugin's tests."""

import pytest
import torch

from tstk.core.types import Tokens

torch.set_num_threads(1)


def random_tokens(spec, batch=3, tokens=None, seed=0, dtype=torch.float32):
    """Return valid tokens with random content along a grid of one axis."""
    generator = torch.Generator().manual_seed(seed)
    n = tokens or spec.num_tokens
    index = torch.arange(n).expand(batch, n)
    values = torch.randn(batch, n, spec.dim, generator=generator, dtype=dtype)
    return Tokens(values, index[..., None].to(dtype), index, torch.ones(batch, n, dtype=torch.bool))


@pytest.fixture
def make_tokens():
    return random_tokens
