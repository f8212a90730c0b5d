"""The records that components exchange: Spec (sizes and properties, known before any data), Series, Tokens, StepOutput.

Content and position are separate: `Tokens.values` carries no position, `pos` and `grid_index` say where a token lies,
and encoders decide how to use them. So dropping tokens is a gather and nothing else changes.

Symbols: B batch, C channels, T samples, N/M tokens, D width, K target width, A axes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor

from tstk.core.repr import ShortRepr


@dataclass(frozen=True, repr=False)
class Spec(ShortRepr):
    """The sizes and properties of a component's input or output.

    Args:
        channels: number of channels of a series
        length: samples of the longest series
        task: name of the task; None if the data have no targets
        num_outputs: width of what a head predicts: classes (per series or sample), labels or numbers; else None
        horizon: samples to forecast; None if that is not the task
        class_counts: training series, or samples, of each class, if labelled
        conditioning: further inputs of a series, name -> width of its states
        dim: width of a token
        grid_size: tokens along each axis for a series of full length; axis 0 is time
        stride: samples from one token to the next along time; None if tokens are not laid out in time
        patch_len: samples that one token covers
        tokenizer_dim: width of the tokens that the tokenizer returns
        target_dim: width of the target that a decoder predicts per token; None if it returns hidden states
        vocab_size: number of codes; None if tokens are continuous
        ordered: whether the order of tokens carries information
        causal: whether each token is encoded from itself and earlier ones only
        num_prefix_tokens: tokens without a position that the encoder adds in front (CLS)
        predicts_in_place: predictions are made at the visible tokens themselves (no mask tokens)
        channel_axis: whether the last axis of the grid is the channel; the tokens of a channel are contiguous
    """

    channels: int
    length: int
    task: str | None = None
    num_outputs: int | None = None
    horizon: int | None = None
    class_counts: tuple[int, ...] = ()
    conditioning: dict[str, int] = field(default_factory=dict)
    dim: int | None = None
    grid_size: tuple[int, ...] = ()
    stride: float | None = None
    patch_len: float | None = None
    tokenizer_dim: int | None = None
    target_dim: int | None = None
    vocab_size: int | None = None
    ordered: bool = True
    causal: bool = False
    num_prefix_tokens: int = 0
    predicts_in_place: bool = True
    channel_axis: bool = False

    @property
    def num_tokens(self) -> int:
        """Number of tokens of a full-length series."""
        return prod(self.grid_size)

    @property
    def num_axes(self) -> int:
        """Number of position axes, A."""
        return len(self.grid_size)

    def replace(self, **changes: Any) -> Spec:
        """Return a copy with these fields replaced."""
        return replace(self, **changes)


@dataclass(repr=False)
class Series(ShortRepr):
    """A batch of series.

    Args:
        x: [B, C, T] samples
        observed: [B, C, T] bool, False where a sample is missing or padding; None means all observed
        y: targets, None if unknown: [B] long class index, -1 where unknown, or [B, K] class probabilities; [B, K] long,
            whether each label applies, -1 where unknown; [B, K] float64 numbers, NaN where unknown; [B, C, H] future
            samples, NaN where unknown; [B, T] long class index of each sample, -1 where unknown or padding
        sample_id: [B] long, index of each series in the data set; keys the random numbers of `SampleRNG`
        conditioning: further inputs of each series, name -> (values [B, S, D], valid [B, S] bool)
        weight: [B] by which the loss of each series is multiplied, 1 on average; None if all count alike
    """

    x: Tensor
    observed: Tensor | None = None
    y: Tensor | None = None
    sample_id: Tensor | None = None
    conditioning: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    weight: Tensor | None = None

    @property
    def observed_mask(self) -> Tensor:
        """[B, C, T] bool: `observed`, or all True if that is None."""
        return torch.ones_like(self.x, dtype=torch.bool) if self.observed is None else self.observed

    def replace(self, **changes: Any) -> Series:
        """Return a copy with these fields replaced."""
        return replace(self, **changes)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Series:
        """Return the batch on another device."""

        def move(t: Tensor | None) -> Tensor | None:
            return None if t is None else t.to(device, non_blocking=non_blocking)

        conditioning = {k: (v.to(device), ok.to(device)) for k, (v, ok) in self.conditioning.items()}
        return Series(
            self.x.to(device, non_blocking=non_blocking),
            move(self.observed),
            move(self.y),
            move(self.sample_id),
            conditioning,
            move(self.weight),
        )

    def stack_views(self, views: Sequence[tuple[Tensor, Tensor | None]]) -> Series:
        """Stack V views of the batch along the batch axis, all rows of a view before the next: [V * B, C, T].

        Args:
            views: x and observed of each view; labels and conditioning are repeated

        Returns:
            a batch in which view v of the series with sample_id k has the sample_id `V * k + v`
        """
        times = len(views)
        sample_id = None
        if self.sample_id is not None:
            sample_id = torch.cat([self.sample_id * times + v for v in range(times)])
        y = None if self.y is None else torch.cat([self.y] * times)
        x, masks = zip(*views, strict=True)
        observed = None if masks[0] is None else torch.cat(masks)
        conditioning = {
            k: (torch.cat([v] * times), torch.cat([ok] * times)) for k, (v, ok) in self.conditioning.items()
        }
        weight = None if self.weight is None else torch.cat([self.weight] * times)
        return Series(torch.cat(x), observed, y, sample_id, conditioning, weight)

    def fold_channels(self) -> Series:
        """Fold the channels into the batch axis: [B, C, T] -> [B*C, 1, T]; labels and conditioning are repeated."""
        c = self.x.shape[1]

        def fold(t: Tensor | None) -> Tensor | None:
            return None if t is None else t.flatten(0, 1).unsqueeze(1)

        y = self.y
        if y is not None:
            y = fold(y) if y.ndim == 3 else y.repeat_interleave(c, 0)
        sample_id = None
        if self.sample_id is not None:
            sample_id = (self.sample_id[:, None] * c + torch.arange(c, device=self.sample_id.device)).flatten()
        conditioning = {
            k: (v.repeat_interleave(c, 0), ok.repeat_interleave(c, 0)) for k, (v, ok) in self.conditioning.items()
        }
        weight = None if self.weight is None else self.weight.repeat_interleave(c, 0)
        return Series(self.x.flatten(0, 1).unsqueeze(1), fold(self.observed), y, sample_id, conditioning, weight)


_PER_TOKEN_FIELDS = ("values", "pos", "grid_index", "valid", "target", "target_mask", "ids")


class Split(Protocol):
    """Interface of training, validation and test data.

    Args:
        lengths: [N] long, samples up to and including the last observed one
        y: [N], [N, K] or [N, T] targets as in `Series.y`, or None
        groups: N names, such as persons or devices, or None
        rows: [N] long, the place of each series in its file, from 0; of a window, the row at which it begins. None if
            there is no file
    """

    lengths: Tensor
    y: Tensor | None
    groups: list[str] | None
    rows: Tensor | None

    @property
    def ids(self) -> list[str] | None:
        """N names of the series; of windows of a table, the times at which they begin; None if there are neither."""

    def __len__(self) -> int: ...

    def batch(self, index: Tensor) -> Series:
        """Return the series at `index` [B] long, which becomes their `sample_id`."""


@dataclass(repr=False)
class Tokens(ShortRepr):
    """A batch of tokens.

    Args:
        values: [B, N, D] float, content without any position
        pos: [B, N, A] float coordinates in token units; axis 0 is time, others are scale, channel, ...
        grid_index: [B, N] long, place in the grid (row-major over `Spec.grid_size`)
        valid: [B, N] bool, True for a real token, False for padding
        target: [B, N, K] what a decoder may have to predict
        target_mask: [B, N, K] bool, False where an element of `target` was not observed; None means all were
        ids: [B, N] long codes, if discrete
        attrs: further per-token tensors, name -> [B, N, ...]
        prefix: [B, S, D] tokens without a position (CLS), added by the encoder; never masked, not counted in N
        aux_losses: penalties of the tokenizer or encoder, name -> scalar
        statistics: of the batch, for state updates in `after_step`, name -> tensor
    """

    values: Tensor
    pos: Tensor
    grid_index: Tensor
    valid: Tensor
    target: Tensor | None = None
    target_mask: Tensor | None = None
    ids: Tensor | None = None
    attrs: dict[str, Tensor] = field(default_factory=dict)
    prefix: Tensor | None = None
    aux_losses: dict[str, Tensor] = field(default_factory=dict)
    statistics: dict[str, Tensor] = field(default_factory=dict)

    def replace(self, **changes: Any) -> Tokens:
        """Return a copy with these fields replaced."""
        return replace(self, **changes)

    def end_positions(self, spec: Spec) -> Tensor:
        """Return [B, N], the sample at which each token ends (exclusive), by `stride` and `patch_len` of `spec`."""
        return self.pos[..., 0] * (spec.stride or 1) + (spec.patch_len or 1)

    def map(self, fn: Callable[[Tensor], Tensor]) -> Tokens:
        """Apply `fn` to every per-token tensor [B, N, ...]; prefix, aux_losses and statistics stay."""
        rows: dict[str, Any] = {n: fn(t) for n in _PER_TOKEN_FIELDS if (t := getattr(self, n)) is not None}
        return replace(self, **rows, attrs={k: fn(v) for k, v in self.attrs.items()})

    def gather(self, indices: Tensor, valid: Tensor | None = None) -> Tokens:
        """Gather the tokens at `indices` [B, M] long; valid where they were and, if given, `valid` [B, M] is True."""

        def gather(t: Tensor) -> Tensor:
            expanded = indices.reshape(*indices.shape, *[1] * (t.ndim - 2)).expand(*indices.shape, *t.shape[2:])
            return t.gather(1, expanded)

        gathered = self.map(gather)
        return gathered if valid is None else gathered.replace(valid=gathered.valid & valid)

    def select(self, mask: Tensor) -> Tokens:
        """Select the tokens at `mask`, in their original order.

        Args:
            mask: [B, N] bool; rows may keep different numbers, short rows are padded with invalid tokens
        """
        count = mask.sum(1)
        width = max(int(count.max()), 1)
        indices = (~mask).to(torch.uint8).argsort(dim=1, stable=True)[:, :width]
        return self.gather(indices, torch.arange(width, device=indices.device) < count[:, None])

    def to_grid(self, grid_size: Sequence[int]) -> Tensor:
        """Return the values of valid tokens on the grid, [B, D, *grid_size]; zeros in all other cells.

        For layers that need the neighbours of a token, such as convolutions; `from_grid` is the way back.

        Args:
            grid_size: `Spec.grid_size`, or `(Spec.num_tokens,)` for the flat grid
        """
        values = self.values.masked_fill(~self.valid[..., None], 0)
        grid = values.new_zeros(values.shape[0], prod(grid_size), values.shape[-1])
        grid = grid.scatter_add(1, self.grid_index[..., None].expand_as(values), values)
        return grid.unflatten(1, tuple(grid_size)).movedim(-1, 1)

    def grid_mask(self, grid_size: Sequence[int]) -> Tensor:
        """Return [B, *grid_size] bool, True in the cells that have a valid token; `grid_size` as in `to_grid`."""
        counts = self.grid_index.new_zeros(self.grid_index.shape[0], prod(grid_size))
        counts = counts.scatter_add(1, self.grid_index, self.valid.to(counts.dtype))
        return counts.unflatten(1, tuple(grid_size)) > 0

    def from_grid(self, grid: Tensor) -> Tokens:
        """Return these tokens with the values that `grid` [B, D, *grid_size] has in their cells."""
        cells = grid.flatten(2).mT
        return self.replace(values=cells.gather(1, self.grid_index[..., None].expand(-1, -1, cells.shape[-1])))

    def repeat(self, times: int) -> Tokens:
        """Stack the batch `times` times: [times * B, ...]."""
        if times == 1:
            return self
        prefix = None if self.prefix is None else torch.cat([self.prefix] * times)
        return self.map(lambda t: torch.cat([t] * times)).replace(prefix=prefix)

    def cat(self, other: Tokens) -> Tokens:
        """Concatenate with `other` along the token axis; optional fields are kept only if both have them."""

        def cat(a: Tensor | None, b: Tensor | None) -> Tensor | None:
            return None if a is None or b is None else torch.cat([a, b], 1)

        rows = {n: cat(getattr(self, n), getattr(other, n)) for n in _PER_TOKEN_FIELDS}
        attrs = {k: torch.cat([v, other.attrs[k]], 1) for k, v in self.attrs.items() if k in other.attrs}
        statistics = {**self.statistics, **other.statistics}
        aux_losses = {**self.aux_losses, **other.aux_losses}
        return Tokens(**rows, attrs=attrs, prefix=self.prefix, aux_losses=aux_losses, statistics=statistics)  # type: ignore[arg-type]

    def check(self, spec: Spec, owner: str = "tokens") -> Tokens:
        """Return self if these tokens have the shapes and dtypes of `spec`; raise ValueError otherwise."""
        b, n = self.values.shape[:2]
        shapes = {"values": (b, n, spec.dim), "pos": (b, n, spec.num_axes), "grid_index": (b, n), "valid": (b, n)}
        if self.target is not None:
            shapes["target"] = (b, n, spec.target_dim)
        if self.target_mask is not None:
            shapes["target_mask"] = (b, n, spec.target_dim)
        if spec.vocab_size is not None:
            shapes["ids"] = (b, n)
        for name, shape in shapes.items():
            tensor = getattr(self, name)
            if tensor is None or tuple(tensor.shape) != shape:
                actual = "None" if tensor is None else list(tensor.shape)
                raise ValueError(
                    f"{owner}: {name} is {actual}; expected {list(shape)} (B, N, ... with A = "
                    f"out.num_axes = {spec.num_axes}, D = out.dim = {spec.dim}, K = out.target_dim = {spec.target_dim})"
                )
        for name, tensor, dtype in (("valid", self.valid, torch.bool), ("grid_index", self.grid_index, torch.long)):
            if tensor.dtype != dtype:
                raise ValueError(f"{owner}: {name} is {tensor.dtype}; expected {dtype}")
        if n and (int(self.grid_index.max()) >= spec.num_tokens or int(self.grid_index.min()) < 0):
            low, high = int(self.grid_index.min()), int(self.grid_index.max())
            raise ValueError(
                f"{owner}: grid_index ranges from {low} to {high}; expected 0 to {spec.num_tokens - 1} for the grid "
                f"{spec.grid_size}"
            )
        return self


@dataclass(repr=False)
class StepOutput(ShortRepr):
    """Everything that one pass of the pipeline computed; losses read it, callbacks and notebooks inspect it.

    Args:
        series: the input of the tokenizer (standardized, normalized, channels folded if independent)
        tokens: the tokenizer's output
        visible: the input of the encoder
        queries: the tokens to predict
        masked: [B, M] bool over `queries`, True where the token was not visible
        encoded: the encoder's output
        predictions: [B, M, K], or [B, C, T] from a decoder that predicts series: the decoder's output at `queries`
        head_output: the head's output, [B, num_outputs], [B, C, H], or [B, num_outputs, T] for a class per sample
        linear_forecast: [B, C, H] the part of `head_output` that is the linear map's forecast; None without a map
        forecast_samples: [S, B, C, H] sample paths, in the units of `head_output`, which is their mean; None if S = 1
        targets: [B], [B, K] or [B, C, H], in the units of `head_output`
        weight: [B] of the targets, as in `Series`
        loc: [B, C, 1] what instance normalization subtracted, or None
        scale: [B, C, 1] what instance normalization divided by, or None
        loss: the scalar to call backward on
        losses: the summands of `loss` and the penalties of frozen parts, name -> scalar
        metrics: what a loss logs but does not minimize, name -> scalar
    """

    series: Series
    tokens: Tokens
    visible: Tokens
    queries: Tokens
    masked: Tensor
    encoded: Tokens | None = None
    predictions: Tensor | None = None
    head_output: Tensor | None = None
    linear_forecast: Tensor | None = None
    forecast_samples: Tensor | None = None
    targets: Tensor | None = None
    weight: Tensor | None = None
    loc: Tensor | None = None
    scale: Tensor | None = None
    loss: Tensor | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, Tensor] = field(default_factory=dict)
