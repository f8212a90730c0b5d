"""Checks of tokenizers."""

from __future__ import annotations

import torch

from tstk.core.types import Series
from tstk.testing.assertions import NotApplicable, assert_close, expect
from tstk.testing.fixture import ComponentFixture


def has_valid_positions(fixture: ComponentFixture) -> None:
    """Check that `grid_index` has no duplicates, positions lie in the grid, and time increases along ordered tokens."""
    pipeline = fixture.build_pipeline()
    tokens, out = fixture.tokenize(pipeline), pipeline.tokenizer.out
    for row in tokens.grid_index:
        expect(len(row.unique()) == len(row), f"{fixture.entry.name}: grid_index has duplicates: {row.tolist()}")
    for axis, size in enumerate(out.grid_size):
        low, high = float(tokens.pos[..., axis].min()), float(tokens.pos[..., axis].max())
        expect(
            low >= -1e-4 and high <= size,
            f"{fixture.entry.name}: pos on axis {axis} runs from {low:g} to {high:g}; "
            f"expected 0 to {size} (out.grid_size)",
        )
    if not out.ordered:
        return
    time = tokens.pos[..., 0].gather(1, tokens.grid_index.argsort(1))
    tokens_per_step = out.num_tokens // out.grid_size[0]
    rising = time[:, ::tokens_per_step] if time.shape[1] == out.num_tokens else time[:, :1]
    expect(
        bool((rising.diff(dim=1) > 0).all()),
        f"{fixture.entry.name}: pos[..., 0], time, does not increase with grid_index",
    )


def marks_observed_tokens(fixture: ComponentFixture) -> None:
    """Check that an unobserved series has no valid tokens, and a complete one no invalid tokens."""
    pipeline = fixture.build_pipeline()
    length = pipeline.tokenizer.spec.length
    x = torch.randn(2, pipeline.tokenizer.spec.channels, length, generator=torch.Generator().manual_seed(0))
    observed = torch.stack([torch.zeros_like(x[0], dtype=torch.bool), torch.ones_like(x[0], dtype=torch.bool)])
    with torch.no_grad():
        valid = pipeline.tokenizer(Series(x * observed, observed)).valid
    expect(
        not valid[0].any(), f"{fixture.entry.name}: {int(valid[0].sum())} valid tokens of a series without observations"
    )
    expect(
        bool(valid[1].all()), f"{fixture.entry.name}: {int((~valid[1]).sum())} invalid tokens of a series without a gap"
    )


def inverts_targets(fixture: ComponentFixture) -> None:
    """Check that `targets_to_series` reconstructs the series from the targets of all tokens."""
    pipeline = fixture.build_pipeline()
    tokenizer = pipeline.tokenizer
    if not tokenizer.invertible:
        raise NotApplicable("it is not invertible")
    spec = tokenizer.spec
    x = torch.randn(2, spec.channels, spec.length, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        target = tokenizer(Series(x)).target
        assert target is not None
        assert_close(
            tokenizer.targets_to_series(target, spec.length),
            x,
            f"{fixture.entry.name}: targets_to_series(target) is not the series",
            1e-3,
        )


def has_valid_codes(fixture: ComponentFixture) -> None:
    """Check that codes lie in [0, vocab_size), and that `embed` maps them to the token values."""
    pipeline = fixture.build_pipeline()
    tokenizer = pipeline.tokenizer
    vocab_size = tokenizer.out.vocab_size
    if vocab_size is None:
        raise NotApplicable("its tokens are continuous")
    tokens = fixture.tokenize(pipeline)
    expect(
        tokens.ids is not None,
        f"{fixture.entry.name}: ids is None; expected [B, N], since out.vocab_size = {vocab_size}",
    )
    assert tokens.ids is not None
    low, high = int(tokens.ids.min()), int(tokens.ids.max())
    expect(
        low >= 0 and high < vocab_size,
        f"{fixture.entry.name}: ids run from {low} to {high}; expected 0 to {vocab_size - 1}",
    )
    with torch.no_grad():
        values = tokenizer.embed(tokens.ids)
    assert_close(values[tokens.valid], tokens.values[tokens.valid], f"{fixture.entry.name}: embed(ids) is not values")


def decodes_to_series(fixture: ComponentFixture) -> None:
    """Check that `decode` maps the values of all tokens to a series of the right shape."""
    pipeline = fixture.build_pipeline()
    tokenizer = pipeline.tokenizer
    if not tokenizer.has_decoder:
        raise NotApplicable("it has no decoder")
    spec = tokenizer.spec
    with torch.no_grad():
        tokens = tokenizer(Series(torch.randn(2, spec.channels, spec.length)))
        actual = list(tokenizer.decode(tokens.values, spec.length).shape)
    expected = [2, spec.channels, spec.length]
    expect(actual == expected, f"{fixture.entry.name}: decode returns {actual}; expected [B, C, length] = {expected}")
