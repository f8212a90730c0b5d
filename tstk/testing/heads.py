"""Checks of heads."""

from __future__ import annotations

import torch

from tstk.testing.assertions import assert_close
from tstk.testing.fixture import ComponentFixture, randn_like


def ignores_padding(fixture: ComponentFixture) -> None:
    """Check that invalid tokens, whatever their contents and number, do not change the output."""
    pipeline = fixture.build_pipeline()
    head = pipeline.head
    assert head is not None
    with torch.no_grad():
        step_output = fixture.run_step(pipeline)
        assert step_output.encoded is not None
        tokens = step_output.encoded if head.per_channel else pipeline.unfold_channels(step_output.encoded)
        half = tokens.grid_index.shape[1] // 2
        tokens = tokens.replace(valid=tokens.valid & (torch.arange(tokens.grid_index.shape[1]) < half))
        noisy = tokens.replace(values=torch.where(tokens.valid[..., None], tokens.values, randn_like(tokens.values)))
        trimmed = tokens.map(lambda t: t[:, :half])
        expected, from_noisy, from_trimmed = (head(t) for t in (tokens, noisy, trimmed))
    assert_close(from_noisy, expected, f"{fixture.entry.name}: the output changes with the contents of invalid tokens")
    assert_close(from_trimmed, expected, f"{fixture.entry.name}: the output changes with the number of invalid tokens")
