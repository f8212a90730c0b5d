"""The records that flow: Spec is what is known before data flows, Tokens is what flows.

Content and place are separate: `Tokens.values` carries no position, `pos` and `index` say where a token
sits, and encoders decide how to use them. So dropping tokens is a gather and nothing else changes.

Symbols: B batch, C channels, T samples, N/M tokens, D width, K target width, A axes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Spec:
    """What a component knows of its input before any data flows.

    Args:
        channels: number of channels of a series
        length: samples of the longest series that must fit
        classes: number of classes, if the data are labelled
        horizon: samples to forecast, if that is the task
        counts: training samples of each class, if labelled
        extra: what else a sample brings, name -> width of its states
        dim: width of a token
        grid: tokens along each axis when the series has full length; axis 0 is time
        step: samples from one token to the next along time; None if tokens are not laid out in time
        span: samples that one token covers
        content: width of a token as the tokenizer made it
        target: width of what a decoder must answer per token; None if the answer stays a state
        vocab: number of codes, if tokens are discrete
        ordered: the order of tokens means something
        causal: no token sees a later one
        prefix: placeless tokens that the encoder adds in front (CLS)
        aligned: the answer is read at the very tokens that were seen
        channel_axis: the last axis of the grid is the channel, and the tokens of a channel follow each other
    """

    channels: int
    length: int
    classes: int | None = None
    horizon: int | None = None
    counts: tuple[int, ...] = ()
    extra: dict[str, int] = field(default_factory=dict)
    dim: int | None = None
    grid: tuple[int, ...] = ()
    step: float | None = None
    span: float | None = None
    content: int | None = None
    target: int | None = None
    vocab: int | None = None
    ordered: bool = True
    causal: bool = False
    prefix: int = 0
    aligned: bool = True
    channel_axis: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of a full-length series."""
        return prod(self.grid)

    @property
    def axes(self) -> int:
        """Number of position axes, A."""
        return len(self.grid)

    def but(self, **changes: Any) -> Spec:
        """A copy with these fields changed."""
        return replace(self, **changes)


@dataclass
class Series:
    """A batch of series.

    Args:
        x: [B, C, T] samples
        observed: [B, C, T] bool, False where a sample is missing or padding; None means all observed
        y: [B] class index, or [B, K] shares of the classes; [B, C, H] future samples; None if unknown
        key: [B] long, which sample of the data set each row is; the source of reproducible masks
        extra: what else a sample brings, name -> (values [B, S, D], valid [B, S] bool)
    """

    x: Tensor
    observed: Tensor | None = None
    y: Tensor | None = None
    key: Tensor | None = None
    extra: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def mask(self) -> Tensor:
        """[B, C, T] bool, `observed` with None spelt out."""
        return torch.ones_like(self.x, dtype=torch.bool) if self.observed is None else self.observed

    def but(self, **changes: Any) -> Series:
        """A copy with these fields changed."""
        return replace(self, **changes)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Series:
        """The same batch on another device."""

        def move(t: Tensor | None) -> Tensor | None:
            return None if t is None else t.to(device, non_blocking=non_blocking)

        extra = {k: (v.to(device), ok.to(device)) for k, (v, ok) in self.extra.items()}
        return Series(
            self.x.to(device, non_blocking=non_blocking), move(self.observed), move(self.y), move(self.key), extra
        )

    def stack(self, views: Sequence[tuple[Tensor, Tensor | None]]) -> Series:
        """Stack views of the batch, V of them, all rows of one before those of the next: [V * B, C, T].

        Args:
            views: x and observed of each; what else a sample has is repeated

        Returns:
            view v of the sample with the key k has the key `V * k + v`
        """
        times = len(views)

        key = None
        if self.key is not None:
            key = torch.cat([self.key * times + v for v in range(times)])
        y = None if self.y is None else torch.cat([self.y] * times)
        x, observed = zip(*views, strict=True)
        seen = None if observed[0] is None else torch.cat(observed)
        extra = {k: (torch.cat([v] * times), torch.cat([ok] * times)) for k, (v, ok) in self.extra.items()}
        return Series(torch.cat(x), seen, y, key, extra)

    def fold(self) -> Series:
        """Channels folded into the batch: [B, C, T] -> [B*C, 1, T]; labels and extras are repeated."""
        c = self.x.shape[1]

        def flat(t: Tensor | None) -> Tensor | None:
            return None if t is None else t.flatten(0, 1).unsqueeze(1)

        y = self.y
        if y is not None:
            y = flat(y) if y.ndim == 3 else y.repeat_interleave(c, 0)
        key = None
        if self.key is not None:
            key = (self.key[:, None] * c + torch.arange(c, device=self.key.device)).flatten()
        extra = {k: (v.repeat_interleave(c, 0), ok.repeat_interleave(c, 0)) for k, (v, ok) in self.extra.items()}
        return Series(self.x.flatten(0, 1).unsqueeze(1), flat(self.observed), y, key, extra)


_ROWS = ("values", "pos", "index", "valid", "target", "weight", "ids")


@dataclass
class Tokens:
    """A batch of tokens.

    Args:
        values: [B, N, D] float, content only, no position added
        pos: [B, N, A] float coordinates in token units; axis 0 is time, others are scale, channel, ...
        index: [B, N] long slot in the grid (row-major over `Spec.grid`)
        valid: [B, N] bool, True for a real token, False for padding
        target: [B, N, K] what a decoder may be asked to reproduce
        weight: [B, N, K] bool, False where an element of `target` was not observed; None means all count
        ids: [B, N] long codes, if discrete
        attrs: per-token facts, name -> [B, N, ...]
        prefix: [B, S, D] placeless tokens (CLS) added by the encoder; never masked, not counted in N
        aux: penalties earned on the way, name -> scalar
        statistics: of the batch, which `after_step` needs to move state, name -> tensor
    """

    values: Tensor
    pos: Tensor
    index: Tensor
    valid: Tensor
    target: Tensor | None = None
    weight: Tensor | None = None
    ids: Tensor | None = None
    attrs: dict[str, Tensor] = field(default_factory=dict)
    prefix: Tensor | None = None
    aux: dict[str, Tensor] = field(default_factory=dict)
    statistics: dict[str, Tensor] = field(default_factory=dict)

    def but(self, **changes: Any) -> Tokens:
        """A copy with these fields changed."""
        return replace(self, **changes)

    def ends(self, spec: Spec) -> Tensor:
        """[B, N] where each token's stretch of samples ends (exclusive); `spec` says how tokens lie in time."""
        return self.pos[..., 0] * (spec.step or 1) + (spec.span or 1)

    def map(self, change: Callable[[Tensor], Tensor]) -> Tokens:
        """`change` applied to every per-token tensor [B, N, ...]; prefix, aux and statistics stay."""
        rows: dict[str, Any] = {n: change(t) for n in _ROWS if (t := getattr(self, n)) is not None}
        return replace(self, **rows, attrs={k: change(v) for k, v in self.attrs.items()})

    def at(self, rows: Tensor, valid: Tensor | None = None) -> Tokens:
        """Tokens gathered at `rows` [B, M] long, valid where they were and, if given, `valid` [B, M] is True."""

        def take(t: Tensor) -> Tensor:
            return t.gather(1, rows.reshape(*rows.shape, *[1] * (t.ndim - 2)).expand(*rows.shape, *t.shape[2:]))

        taken = self.map(take)
        return taken if valid is None else taken.but(valid=taken.valid & valid)

    def keep(self, where: Tensor) -> Tokens:
        """The tokens at `where`, in their original order.

        Args:
            where: [B, N] bool; rows may keep different numbers, short rows are padded with invalid tokens
        """
        count = where.sum(1)
        most = max(int(count.max()), 1)
        rows = (~where).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
        return self.at(rows, torch.arange(most, device=rows.device) < count[:, None])

    def repeat(self, times: int) -> Tokens:
        """The batch stacked `times` times, [times * B, ...]."""
        if times == 1:
            return self
        prefix = None if self.prefix is None else torch.cat([self.prefix] * times)
        return self.map(lambda t: torch.cat([t] * times)).but(prefix=prefix)

    def append(self, other: Tokens) -> Tokens:
        """These tokens followed by `other`; optional fields survive only where both have them."""

        def both(a: Tensor | None, b: Tensor | None) -> Tensor | None:
            return None if a is None or b is None else torch.cat([a, b], 1)

        rows = {n: both(getattr(self, n), getattr(other, n)) for n in _ROWS}
        attrs = {k: torch.cat([v, other.attrs[k]], 1) for k, v in self.attrs.items() if k in other.attrs}
        statistics = {**self.statistics, **other.statistics}
        aux = {**self.aux, **other.aux}
        return Tokens(**rows, attrs=attrs, prefix=self.prefix, aux=aux, statistics=statistics)  # type: ignore[arg-type]

    def check(self, spec: Spec, who: str = "tokens") -> Tokens:
        """Raise ValueError, with shapes, where these tokens are not what `spec` promises; return self."""
        b, n = self.values.shape[:2]
        want = {"values": (b, n, spec.dim), "pos": (b, n, spec.axes), "index": (b, n), "valid": (b, n)}
        if self.target is not None:
            want["target"] = (b, n, spec.target)
        if self.weight is not None:
            want["weight"] = (b, n, spec.target)
        if spec.vocab is not None:
            want["ids"] = (b, n)
        for name, shape in want.items():
            got = getattr(self, name)
            if got is None or tuple(got.shape) != shape:
                seen = "None" if got is None else list(got.shape)
                raise ValueError(
                    f"{who}: {name} is {seen}; expected {list(shape)} (B, N, ... with A = "
                    f"out.axes = {spec.axes}, D = out.dim = {spec.dim}, K = out.target = {spec.target})"
                )
        for name, got, kind in (("valid", self.valid, torch.bool), ("index", self.index, torch.long)):
            if got.dtype != kind:
                raise ValueError(f"{who}: {name} is {got.dtype}; expected {kind}")
        if n and (int(self.index.max()) >= spec.tokens or int(self.index.min()) < 0):
            raise ValueError(
                f"{who}: index reaches {int(self.index.max())}, but the grid {spec.grid} has {spec.tokens} slots"
            )
        return self


@dataclass
class Flow:
    """Everything that one pass produced; losses read it, callbacks and notebooks inspect it.

    Args:
        series: the batch as the tokenizer saw it (scaled, normalised, channels folded if independent)
        tokens: the tokenizer's output
        seen: the tokens that the encoder was given
        asked: the tokens whose answer the loss wants
        hidden: [B, M] bool over `asked`: True where the encoder did not see the token
        encoded: the encoder's output
        decoded: [B, M, K] the decoder's answers at `asked`
        output: the head's answer, [B, classes] or [B, C, H]
        linear: [B, C, H] the forecast of the linear map that `output` adds to, or None; in the same units
        futures: [S, B, C, H] the paths whose mean `output` is, if it was drawn; in its units
        truth: what `output` is compared with, in the same units; [B] or [B, C, H]
        mean: [B, C, 1] what instance normalisation subtracted, or None
        scale: [B, C, 1] what instance normalisation divided by, or None
        total: the scalar to call backward on
        terms: the summands of `total` and the penalties of frozen parts, name -> scalar
        logs: what a loss wants to be watched beside them, name -> scalar
    """

    series: Series
    tokens: Tokens
    seen: Tokens
    asked: Tokens
    hidden: Tensor
    encoded: Tokens | None = None
    decoded: Tensor | None = None
    output: Tensor | None = None
    linear: Tensor | None = None
    futures: Tensor | None = None
    truth: Tensor | None = None
    mean: Tensor | None = None
    scale: Tensor | None = None
    total: Tensor | None = None
    terms: dict[str, Tensor] = field(default_factory=dict)
    logs: dict[str, Tensor] = field(default_factory=dict)
