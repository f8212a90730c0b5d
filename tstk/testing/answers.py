"""Checks of what answers and of what marks: decoders, heads, losses."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.core.rng import Draws
from tstk.core.types import Flow, Tokens
from tstk.testing.expect import NotApplicable, close, expect
from tstk.testing.subject import Subject


def _noise(like: Tensor, seed: int = 1) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like.dtype) * 3


# ------------------------------------------------------------------ decoders


def is_blind_to_the_answer(it: Subject) -> None:
    """Answers do not change with what the asked tokens contain, only with where they are."""
    pipeline = it.pipeline()
    flow = it.flow(pipeline)
    assert flow.encoded is not None
    asked = flow.asked
    hidden = asked.but(
        values=_noise(asked.values),
        target=None if asked.target is None else _noise(asked.target, 2),
        weight=None,
        ids=None if asked.ids is None else torch.zeros_like(asked.ids),
        attrs={},
    )
    given = pipeline.loss.reveal(flow.encoded, asked)
    with torch.no_grad():
        one, two = (pipeline.decoder(given, q, pipeline.encoder.place) for q in (asked, hidden))  # type: ignore[misc]
    close(two, one, f"{it.entry.name}: answers change with asked.values, target, ids or attrs, which hold the answer")


def mixes_as_it_says(it: Subject) -> None:
    """An answer depends on other places than its own if `mixes`, and on no other if not."""
    pipeline = it.pipeline()
    decoder = pipeline.decoder
    assert decoder is not None
    if decoder.whole:
        raise NotApplicable("it answers with a whole series")
    tokens = it.tokens(pipeline)
    with torch.no_grad():
        encoded = pipeline.encoder(tokens)
        other = encoded.index != tokens.index[:, :1]
        moved = encoded.but(values=torch.where(other[..., None], _noise(encoded.values), encoded.values))
        one, two = (decoder(e, tokens, pipeline.encoder.place)[:, 0] for e in (encoded, moved))
    if decoder.mixes:
        differs = float((one - two).abs().max()) > 1e-7
        # closed residual sub-layers let little through at the start
        expect(differs or _closed(decoder), f"{it.entry.name}: mixes = True, but no answer looks at other places")
    else:
        close(two, one, f"{it.entry.name}: mixes = False, but an answer changes with other places")


def _closed(part: torch.nn.Module) -> bool:
    return any("scale" in name and bool((p.abs() < 1e-6).all()) for name, p in part.named_parameters())


# ------------------------------------------------------------------ heads


def ignores_padding(it: Subject) -> None:
    """Invalid tokens appended to a series change no answer, whatever they contain."""
    pipeline = it.pipeline()
    head = pipeline.head
    assert head is not None
    with torch.no_grad():
        flow = it.flow(pipeline)
        assert flow.encoded is not None
        tokens = flow.encoded if head.per_channel else pipeline._unfolded(flow.encoded)
        half = tokens.index.shape[1] // 2
        tokens = tokens.but(valid=tokens.valid & (torch.arange(tokens.index.shape[1]) < half))
        noisy = tokens.but(values=torch.where(tokens.valid[..., None], tokens.values, _noise(tokens.values)))
        short = tokens.map(lambda t: t[:, :half])
        whole, wild, cut = (head(t) for t in (tokens, noisy, short))
    close(wild, whole, f"{it.entry.name}: an answer changes with what invalid tokens contain")
    close(cut, whole, f"{it.entry.name}: an answer changes with the number of invalid tokens")


# ------------------------------------------------------------------ losses


def splits_what_it_was_given(it: Subject) -> None:
    """Seen and asked tokens are valid tokens of the series, with the content they had."""
    pipeline = it.pipeline()
    for train in (True, False):
        pipeline.train(train)
        tokens = it.tokens(pipeline)
        with torch.no_grad():
            seen, asked = pipeline.loss.split(tokens, Draws(0, 1, torch.arange(len(tokens.index))))
        for name, part in (("seen", seen), ("asked", asked)):
            _from(it, name, part, tokens)


def _from(it: Subject, name: str, part: Tokens, tokens: Tokens) -> None:
    copies = len(part.index) // len(tokens.index)
    whole = tokens.repeat(copies)
    slots = int(whole.index.max()) + 1
    held = torch.zeros(len(whole.index), slots, dtype=torch.bool).scatter(1, whole.index, whole.valid)
    strange = part.valid & ~held.gather(1, part.index.clamp(max=slots - 1))
    expect(not strange.any(), f"{it.entry.name}: {int(strange.sum())} {name} tokens are not valid tokens of the series")
    values = torch.zeros(len(whole.index), slots, whole.values.shape[-1]).to(whole.values)
    values = values.scatter(1, whole.index[..., None].expand_as(whole.values), whole.values)
    want = values.gather(1, part.index[..., None].expand(-1, -1, values.shape[-1]))
    close(part.values[part.valid], want[part.valid], f"{it.entry.name}: {name} tokens are not those of the series")


def prefers_the_truth(it: Subject) -> None:
    """A perfect answer scores no worse than noise."""
    pipeline = it.pipeline()
    flow = it.flow(pipeline)
    name, truth = _truth(flow, pipeline.loss.out.target)
    if truth is None:
        raise NotApplicable("it compares answers with something of its own")
    scores = []
    for answer in (truth, _noise(truth)):
        setattr(flow, name, answer)
        with torch.no_grad():
            scores.append(float(sum(pipeline.loss(flow).values())))
    right, wrong = scores
    expect(right <= wrong, f"{it.entry.name}: a perfect answer costs {right:.4g}, noise {wrong:.4g}")


def _truth(flow: Flow, width: int | None) -> tuple[str, Tensor | None]:
    """The answer that is right, and where the flow keeps it."""
    if flow.output is not None:
        if flow.truth is not None and flow.truth.ndim == 1:
            return "output", 20.0 * F.one_hot(flow.truth.clamp(min=0), flow.output.shape[-1]).float()
        return "output", flow.truth
    if flow.decoded is None:
        return "decoded", None
    if flow.decoded.shape == flow.series.x.shape and flow.decoded.ndim == 3 and width is None:
        return "decoded", flow.series.x
    if width is None:
        return "decoded", None
    if flow.asked.ids is not None and flow.decoded.shape[-1] != (
        -1 if flow.asked.target is None else flow.asked.target.shape[-1]
    ):
        return "decoded", 20.0 * F.one_hot(flow.asked.ids, flow.decoded.shape[-1]).float()
    target = flow.asked.target
    return "decoded", target if target is not None and target.shape == flow.decoded.shape else None
