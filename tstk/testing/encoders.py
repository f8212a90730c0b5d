"""Checks of encoders."""

from __future__ import annotations

import torch
from torch import Tensor

from tstk.core.interfaces import Encoder
from tstk.core.pipeline import Pipeline
from tstk.testing.expect import NotApplicable, close, expect
from tstk.testing.subject import Subject
from tstk.training.dry_run import position_ratio


def _noise(values: Tensor) -> Tensor:
    return torch.randn(values.shape, generator=torch.Generator().manual_seed(1)) * 3


def keeps_its_tokens(it: Subject) -> None:
    """As many tokens come out as went in, in the same order."""
    pipeline = it.pipeline()
    tokens = it.tokens(pipeline)
    with torch.no_grad():
        out = pipeline.encoder(tokens)
    expect(
        bool(torch.equal(out.index, tokens.index)) and bool(torch.equal(out.valid, tokens.valid)),
        f"{it.entry.name}: index or valid changed; expected the same {tokens.index.shape[1]} tokens in the same order",
    )


def ignores_invalid_tokens(it: Subject) -> None:
    """What an invalid token contains changes no valid one, and neither does dropping it."""
    pipeline = it.pipeline()
    tokens = it.tokens(pipeline)
    hidden = tokens.index % 3 == 1
    tokens = tokens.but(valid=tokens.valid & ~hidden)
    noisy = torch.where(tokens.valid[..., None], tokens.values, _noise(tokens.values))
    with torch.no_grad():
        calm, wild, fewer = (pipeline.encoder(t) for t in (tokens, tokens.but(values=noisy), tokens.keep(tokens.valid)))
    for i, (valid, kept) in enumerate(zip(tokens.valid, fewer.valid, strict=True)):
        what = f"{it.entry.name}: a valid token changes with"
        close(wild.values[i][valid], calm.values[i][valid], f"{what} the content of an invalid one")
        close(
            fewer.values[i][kept], calm.values[i][valid], f"{what} dropping invalid ones; use pos and index, not order"
        )


def is_causal_if_it_says_so(it: Subject) -> None:
    """With `out.causal`, what comes later changes nothing that came before."""
    pipeline = _causal(it)
    tokens = it.tokens(pipeline)
    half = tokens.index.shape[1] // 2
    later = torch.arange(tokens.index.shape[1]) >= half
    with torch.no_grad():
        one = pipeline.encoder(tokens).values[:, :half]
        two = pipeline.encoder(tokens.but(values=torch.where(later[:, None], _noise(tokens.values), tokens.values)))
    where = tokens.valid[:, :half]
    close(two.values[:, :half][where], one[where], f"{it.entry.name}: earlier tokens change with later ones")


def _causal(it: Subject) -> Pipeline:
    """A pipeline with this encoder, causal."""
    pipeline = it.pipeline()
    if pipeline.encoder.out.causal:
        return pipeline
    if "causal" in it.entry.provides:
        return it.pipeline(causal=True)
    raise NotApplicable("it does not say that it is causal")


def extends(it: Subject) -> None:
    """Encoding in two parts equals encoding at once, where `extend` exists."""
    if _class(it).extend is Encoder.extend:
        raise NotApplicable("it has no extend")
    pipeline = _causal(it)
    tokens = it.tokens(pipeline)
    whole = tokens.valid.all(1)
    middle = tokens.index.shape[1] // 2
    with torch.no_grad():
        at_once = pipeline.encoder(tokens).values
        state, parts = None, []
        for half in (tokens.map(lambda t: t[:, :middle]), tokens.map(lambda t: t[:, middle:])):
            out, state = pipeline.encoder.extend(half, state)
            parts.append(out.values)
    close(torch.cat(parts, 1)[whole], at_once[whole], f"{it.entry.name}: extend in two parts is not encoding at once")


def permutes(it: Subject) -> None:
    """Tokens moved together with their places come out moved and unchanged, unless it is causal or needs order."""
    pipeline = it.pipeline()
    if pipeline.encoder.out.causal:
        raise NotApplicable("it is causal")
    if "ordered" in _class(it).needs:
        raise NotApplicable("it needs ordered tokens")
    tokens = it.tokens(pipeline)
    order = torch.randperm(tokens.index.shape[1], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out, moved = pipeline.encoder(tokens), pipeline.encoder(tokens.map(lambda t: t[:, order]))
    where = tokens.valid[:, order]
    close(
        moved.values[where],
        out.values[:, order][where],
        f"{it.entry.name}: tokens depend on the order in which they come, not on pos; needs = ('ordered',) says so",
    )


def shows_positions(it: Subject) -> None:
    """Positions that it adds are not lost beside the contents: at least a tenth of their root mean square."""
    pipeline = it.pipeline()
    tokens = it.tokens(pipeline)
    with torch.no_grad():
        contents, positions = pipeline.encoder.enter(tokens)
    expect(
        contents.shape == positions.shape,
        f"{it.entry.name}: enter returns contents {list(contents.shape)} and positions {list(positions.shape)}; "
        "expected what is added, of the same shape",
    )
    ratio = position_ratio(pipeline.encoder, tokens)
    if ratio is None:
        raise NotApplicable("it adds no positions")
    expect(
        ratio >= 0.1,
        f"{it.entry.name}: its positions start at {ratio:.2g} of the tokens (root mean squares), too small to be seen; "
        "tstk.nn.positions.start_positions draws a table as large as they are",
    )


def _class(it: Subject) -> type[Encoder]:
    return type(it.part(it.pipeline()))
