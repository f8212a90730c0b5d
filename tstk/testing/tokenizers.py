"""Checks of tokenizers."""

from __future__ import annotations

import torch

from tstk.core.types import Series
from tstk.testing.expect import NotApplicable, close, expect
from tstk.testing.subject import Subject


def places_its_tokens(it: Subject) -> None:
    """Every slot of the grid is used once, positions lie within the grid, and time rises along ordered tokens."""
    pipeline = it.pipeline()
    tokens, out = it.tokens(pipeline), pipeline.tokenizer.out
    for row in tokens.index:
        expect(len(row.unique()) == len(row), f"{it.entry.name}: index repeats a slot: {row.tolist()}")
    for axis, size in enumerate(out.grid):
        low, high = float(tokens.pos[..., axis].min()), float(tokens.pos[..., axis].max())
        expect(
            low >= -1e-4 and high <= size,
            f"{it.entry.name}: pos on axis {axis} runs from {low:g} to {high:g}; expected 0 to {size} (out.grid)",
        )
    if not out.ordered:
        return
    time = tokens.pos[..., 0].gather(1, tokens.index.argsort(1))
    width = out.tokens // out.grid[0]
    rising = time[:, ::width] if time.shape[1] == out.tokens else time[:, :1]
    expect(bool((rising.diff(dim=1) > 0).all()), f"{it.entry.name}: pos[..., 0], time, does not rise with index")


def marks_what_was_observed(it: Subject) -> None:
    """A series without any observation has no valid token, one that is whole has nothing but."""
    pipeline = it.pipeline()
    length = pipeline.tokenizer.spec.length
    x = torch.randn(2, pipeline.tokenizer.spec.channels, length, generator=torch.Generator().manual_seed(0))
    seen = torch.stack([torch.zeros_like(x[0], dtype=torch.bool), torch.ones_like(x[0], dtype=torch.bool)])
    with torch.no_grad():
        valid = pipeline.tokenizer(Series(x * seen, seen)).valid
    expect(not valid[0].any(), f"{it.entry.name}: {int(valid[0].sum())} valid tokens of a series nobody observed")
    expect(bool(valid[1].all()), f"{it.entry.name}: {int((~valid[1]).sum())} invalid tokens of a series without a gap")


def inverts(it: Subject) -> None:
    """`invert` makes the series again from the targets of the whole grid."""
    pipeline = it.pipeline()
    tokenizer = pipeline.tokenizer
    if not tokenizer.invertible:
        raise NotApplicable("it does not say that it is invertible")
    spec = tokenizer.spec
    x = torch.randn(2, spec.channels, spec.length, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        target = tokenizer(Series(x)).target
        assert target is not None
        close(tokenizer.invert(target, spec.length), x, f"{it.entry.name}: invert(target) is not the series", 1e-3)


def has_codes(it: Subject) -> None:
    """Codes lie in [0, vocab), and `embed` makes the values of them."""
    pipeline = it.pipeline()
    tokenizer = pipeline.tokenizer
    vocab = tokenizer.out.vocab
    if vocab is None:
        raise NotApplicable("its tokens are continuous")
    tokens = it.tokens(pipeline)
    expect(tokens.ids is not None, f"{it.entry.name}: ids is None; expected [B, N], since out.vocab = {vocab}")
    assert tokens.ids is not None
    low, high = int(tokens.ids.min()), int(tokens.ids.max())
    expect(low >= 0 and high < vocab, f"{it.entry.name}: ids run from {low} to {high}; expected 0 to {vocab - 1}")
    with torch.no_grad():
        values = tokenizer.embed(tokens.ids)
    close(values[tokens.valid], tokens.values[tokens.valid], f"{it.entry.name}: embed(ids) is not values")


def synthesises(it: Subject) -> None:
    """`decode` makes a series of the values of the whole grid."""
    pipeline = it.pipeline()
    tokenizer = pipeline.tokenizer
    if not tokenizer.synthesises:
        raise NotApplicable("it does not say that it synthesises")
    spec = tokenizer.spec
    with torch.no_grad():
        tokens = tokenizer(Series(torch.randn(2, spec.channels, spec.length)))
        found = list(tokenizer.decode(tokens.values, spec.length).shape)
    want = [2, spec.channels, spec.length]
    expect(found == want, f"{it.entry.name}: decode gives {found}; expected [B, C, length] = {want}")
