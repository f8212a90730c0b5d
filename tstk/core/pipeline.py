"""One Pipeline wires the five slots and owns what no component should repeat: scaling, instance
normalisation, channels, and the blanking of a future.

`flow = pipeline(series)` is the training step: `flow.total.backward()`, an optimizer step, then
`pipeline.after_step([flow])`. `predict`, `encode` and `embed` are for afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.core.interfaces import Decoder, Encoder, Head, Loss, Slot, Tokenizer
from tstk.core.rng import Draws
from tstk.core.types import Flow, Series, Spec, Tokens
from tstk.errors import DataError, NeedsError, OptionError, did_you_mean
from tstk.nn.linear_map import LinearMap
from tstk.nn.reduce import pool, statistics
from tstk.plugins.registry import SLOTS


class Pipeline(nn.Module):
    """Tokenizer, encoder, loss, and a decoder or a head, in one module.

    The parts are already built, each on the Spec of what it will receive; `tstk.build` does that from a config.

    Args:
        channels: `mixed`, a token sees all channels; `independent`, each channel is a series of its own;
            `auto`, independent when forecasting
        instance_norm: normalise each series by its own mean and deviation and undo it on the way out;
            none means on when forecasting
        linear_map: forecasts are those of a linear map plus what the head answers, whose output starts at zero:
            `shared` by all channels or one `per-channel`; `auto` builds one that is shared, for fitting to replace
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        spec: Spec,
        tokenizer: Tokenizer,
        encoder: Encoder,
        loss: Loss,
        decoder: Decoder | None = None,
        head: Head | None = None,
        *,
        channels: Literal["auto", "mixed", "independent"] = "auto",
        instance_norm: bool | None = None,
        linear_map: Literal["none", "auto", "shared", "per-channel"] = "none",
    ) -> None:
        super().__init__()
        self.spec = spec
        self.tokenizer, self.encoder, self.decoder, self.head, self.loss = tokenizer, encoder, decoder, head, loss
        self.independent = independent(spec, channels)
        self.instance_norm = spec.horizon is not None if instance_norm is None else instance_norm
        self.continues = head is None and spec.horizon is not None
        self.register_buffer("mean", torch.zeros(spec.channels, 1))
        self.register_buffer("std", torch.ones(spec.channels, 1))
        self.linear_map: LinearMap | None = None
        if linear_map != "none":
            if head is None or spec.horizon is None:
                raise NeedsError(
                    f"--linear-map {linear_map}: only a head that forecasts can start from a linear map; use --head "
                    "forecast on a table with dates"
                )
            head.start_at_zero()
            maps = spec.channels if linear_map == "per-channel" else 1
            self.linear_map = LinearMap.of_last_value(maps, spec.length, spec.horizon)
        self.frozen: set[str] = set()
        if decoder is not None:
            if decoder.whole and not loss.series_answers:
                raise NeedsError(
                    f"{loss.called()} asks about tokens, but {decoder.called()} answers with a whole "
                    "series; choose another decoder, or --loss reconstruct"
                )
            loss.attach(decoder)
        if loss.foretells and not tokenizer.synthesises:
            raise NeedsError(
                f"{loss.called()} turns tokens into samples, and {tokenizer.called()} cannot; "
                "choose a tokenizer that has a decoder, such as vqvae"
            )
        if loss.blanks and not tokenizer.invertible and not loss.foretells:
            raise NeedsError(
                f"{tokenizer.called()} cannot turn answers back into samples, so the future cannot "
                "be read from a decoder; forecast with --head forecast"
            )
        # a decoder that answers only where tokens were seen, or with states, can say nothing of a future
        samples = loss.out.target is not None and not loss.out.aligned
        self.foretells = self.continues and (loss.foretells or (tokenizer.invertible and samples))

    def slots(self) -> Iterator[tuple[str, Slot]]:
        """The parts that exist, by slot name."""
        for name in SLOTS:
            part = getattr(self, name)
            if part is not None:
                yield name, part

    def take(self, mean: Tensor, std: Tensor) -> None:
        """Expect series of another number of channels from now on, each a series of its own.

        Args:
            mean: [C] of the data
            std: [C]

        Raises:
            NeedsError: a token sees all channels, or a head answers for a certain number of them
        """
        if not self.independent or self.head is not None:
            raise NeedsError(
                f"this pipeline is for {self.spec.channels} channels; only one with --channels independent "
                "and without a head takes another number"
            )
        self.spec = self.spec.but(channels=len(mean))
        self.mean, self.std = mean[:, None].to(self.mean), std[:, None].to(self.std)

    def bind(self) -> None:
        """Let the parts meet; called once, when all weights are in place."""
        for name, part in self.slots():
            part.bind(self)
            for path in part.freezes():
                self.freeze(f"{name}.{path}" if path else name)

    # ---------------------------------------------------------------- frozen means frozen

    def freeze(self, path: str) -> None:
        """Keep a slot, a part of it or one parameter from learning, and keep modules in eval mode.

        Args:
            path: `encoder`, `tokenizer.codebook`, `encoder.stack.0`

        Raises:
            OptionError: there is nothing of this name
        """
        modules, parameters = dict(self.named_modules()), dict(self.named_parameters())
        if path in parameters:
            parameters[path].requires_grad_(False)
        elif path and path in modules:
            modules[path].requires_grad_(False)
            self.frozen.add(path)
            self.train(self.training)
        else:
            raise OptionError(
                f"--freeze {path}: this pipeline has no such part.{did_you_mean(path, modules)} "
                f"Slots: {', '.join(n for n, _ in self.slots())}."
            )

    def train(self, mode: bool = True) -> Pipeline:
        """As `nn.Module.train`, except that frozen parts stay in eval mode."""
        super().train(mode)
        for path in self.frozen:
            self.get_submodule(path).eval()
        return self

    def after_step(self, flows: list[Flow]) -> None:
        """Move what gradients do not move; once per optimizer step, with the flows of its micro-batches."""
        with torch.no_grad():
            for name, part in self.slots():
                if name not in self.frozen:
                    part.after_step(flows)

    # ---------------------------------------------------------------- one pass

    def forward(self, series: Series, draws: Draws | None = None) -> Flow:
        """The training step: split, encode, answer, mark.

        Args:
            series: raw, as the data set holds it
            draws: where masks and noise come from; fresh ones if None
        """
        if draws is None:
            draws = Draws.fresh(self._keys(series))
        flow = self._enter(self.loss.views(series, draws), blank=self.loss.blanks)
        draws = Draws(draws.seed, draws.step, self._keys(flow.series))
        flow.seen, flow.asked = self.loss.split(flow.tokens, draws)
        self._answer(flow)
        if self.loss.foretells and self.loss.blanks:
            self._foretell(flow, self.spec.horizon or 0)
        flow.terms = self.loss(flow)
        penalties = flow.tokens.aux | (flow.encoded.aux if flow.encoded is not None else {})
        idle = flow.tokens.aux.keys() if "tokenizer" in self.frozen else ()
        flow.total = sum(flow.terms.values(), start=torch.zeros((), device=series.x.device))
        flow.total = flow.total + sum(v for k, v in penalties.items() if k not in idle)
        flow.terms = {**flow.terms, **penalties}
        return flow

    def answer(self, series: Series, horizon: int | None = None, samples: int | None = None) -> Flow:
        """The answer to the task, without a loss: `flow.output` and `flow.truth`, in scaled units if forecasts.

        Args:
            series: raw, as the data set holds it
            horizon: samples to forecast, the run's unless given; only a loss that foretells can look further
            samples: futures to draw, where a loss foretells and can

        Raises:
            OptionError: this pipeline predicts nothing, or not so far
        """
        if samples is not None and self.loss.samples is None:
            raise OptionError(f"--samples {samples}: this run has one answer to each series and draws none")
        flow = self._enter(series, blank=True)
        if self.loss.foretells:
            if self.loss.blanks:
                flow.seen, flow.asked = self.loss.split(flow.tokens, Draws(0, 0, self._keys(flow.series)))
                self._answer(flow)
            self._foretell(flow, horizon or self.spec.horizon or 0, samples)
            return flow
        if horizon is not None and horizon > (self.spec.horizon or 0):
            raise OptionError(
                f"--horizon {horizon}: this run forecasts {self.spec.horizon or 0} samples at most; "
                f"train one with --horizon {horizon}"
            )
        if self.head is not None:
            self._answer(flow)
            return flow
        if not self.foretells:
            head = "linear" if self.spec.horizon is None else "forecast"
            raise OptionError(
                "this pipeline was pretrained without a task, so it predicts nothing; "
                f"train a head on it: tstk train --from RUN --head {head}"
            )
        tokens = flow.tokens
        future = tokens.ends(self.tokenizer.out) > self.spec.length
        flow.seen = tokens.keep(tokens.valid & ~future)
        flow.asked = tokens.keep(tokens.valid & future)
        self._answer(flow)
        flow.output = self._leave(self._future(flow), flow)
        return flow

    @torch.no_grad()
    def predict(self, series: Series) -> Tensor:
        """Logits [B, classes], or the future [B, C, H] in the units of the data."""
        output = self.answer(series).output
        assert output is not None
        return output * self.std + self.mean if self.spec.horizon is not None else output

    def tokenize(self, series: Series) -> Flow:
        """The context as the tokenizer sees it, and all its tokens; with independent channels a row for each."""
        return self._enter(series.but(y=None), blank=False)

    def encode(self, series: Series) -> Tokens:
        """All tokens of the context encoded, nothing hidden; with independent channels, those of all channels side
        by side."""
        return self._unfolded(self.encoder(self.tokenize(series).tokens))

    @torch.no_grad()
    def embed(self, series: Series, how: Literal["mean", "max", "cls", "statistics"] = "mean") -> Tensor:
        """One vector per series, [B, D]: encoded tokens pooled by `mean`, `max` or `cls`.

        By `statistics` it is mean and deviation of the tokens, [B, 2 D]; with independent channels those of each
        channel side by side, [B, C * 2 D].
        """
        if how == "statistics":
            tokens = self.encoder(self.tokenize(series).tokens)
            return statistics(tokens.values, tokens.valid).reshape(len(series.x), -1)
        tokens = self.encode(series)
        if how == "cls":
            if tokens.prefix is None:
                raise OptionError("--pool cls: this run's encoder has no CLS token; use mean or max")
            return tokens.prefix.mean(1)
        return pool(tokens.values, tokens.valid, how)

    def _answer(self, flow: Flow) -> None:
        flow.encoded = self.encoder(flow.seen)
        if self.decoder is not None:
            given = self.loss.reveal(flow.encoded, flow.asked)
            flow.hidden = _hidden(given, flow.asked)
            flow.decoded = self.decoder(given, flow.asked, self.encoder.place)
        if self.head is not None:
            per_channel = self.head.per_channel
            output = self.head(flow.encoded if per_channel else self._unfolded(flow.encoded))
            if self.spec.horizon is not None:
                output = self._leave(output, flow)
            flow.output = output

    def _foretell(self, flow: Flow, horizon: int, samples: int | None = None) -> None:
        """What the loss says of the future; the mean, if it has several opinions."""
        futures = torch.stack([self._leave(future, flow) for future in self.loss.foretell(flow, horizon, samples)])
        flow.output = futures.mean(0)
        flow.futures = futures if len(futures) > 1 else None

    # ---------------------------------------------------------------- the way in

    def _enter(self, series: Series, blank: bool) -> Flow:
        """Scale, normalise, continue by the future, fold channels, tokenize."""
        if series.x.shape[-1] > self.spec.length and not self.tokenizer.any_length:
            raise DataError(
                f"a series of {series.x.shape[-1]} samples is longer than the {self.spec.length} this "
                f"model was built for; cut it, or train with --length {series.x.shape[-1]}"
            )
        scaled = self._scaled(self._reaching(series))
        inner, mean, scale = self._normalised(scaled)
        if self.continues:
            inner = self._continued(inner)
        if self.independent:
            inner = inner.fold()
        if self.continues and blank:
            tokens = self.tokenizer(self._blanked(inner))
            if self.tokenizer.out.target is not None:
                with torch.no_grad():
                    truth = self.tokenizer(inner)
                tokens = tokens.but(target=truth.target, weight=truth.weight)
        else:
            tokens = self.tokenizer(inner)
        hidden = torch.zeros_like(tokens.valid)
        linear = None if self.linear_map is None else self.linear_map(scaled)
        return Flow(inner, tokens, tokens, tokens, hidden, linear=linear, truth=scaled.y, mean=mean, scale=scale)

    def _reaching(self, series: Series) -> Series:
        """A context that is short starts late: it ends where the future begins, and what was before is missing."""
        short = self.spec.length - series.x.shape[-1]
        if self.spec.horizon is None or not short:
            return series
        return series.but(x=F.pad(series.x, (short, 0)), observed=F.pad(series.mask, (short, 0)))

    def _scaled(self, series: Series) -> Series:
        """Unobserved samples 0, the others in deviations of the training data; futures likewise."""
        x = (series.x - self.mean) / self.std
        if series.observed is not None:
            x = x.masked_fill(~series.observed, 0.0)
        if series.y is not None and self.spec.horizon is not None:
            return series.but(x=x, y=(series.y - self.mean) / self.std)
        return series.but(x=x)

    def _normalised(self, series: Series) -> tuple[Series, Tensor | None, Tensor | None]:
        """Each series by its own mean and deviation, taken from observed samples of the context only."""
        if not self.instance_norm:
            return series, None, None
        where = series.mask
        count = where.sum(-1, keepdim=True).clamp(min=1)
        mean = series.x.sum(-1, keepdim=True) / count
        centred = (series.x - mean) * where
        scale = (centred.square().sum(-1, keepdim=True) / count + 1e-5).sqrt()
        y = series.y
        if y is not None and self.spec.horizon is not None:
            y = (y - mean) / scale
        return series.but(x=centred / scale, y=y), mean, scale

    def _continued(self, series: Series) -> Series:
        """Context and future as one series; a future that nobody knows is unobserved."""
        b, c, _ = series.x.shape
        y = series.x.new_full((b, c, self.spec.horizon or 0), torch.nan) if series.y is None else series.y
        observed = torch.cat([series.mask, y.isfinite()], -1)
        return series.but(x=torch.cat([series.x, y.nan_to_num()], -1), observed=observed, y=None)

    def _blanked(self, series: Series) -> Series:
        """The future as zeros that count as observed, so that its tokens exist and tell nothing."""
        past = torch.arange(series.x.shape[-1], device=series.x.device) < self.spec.length
        return series.but(x=series.x * past, observed=series.mask | ~past)

    def _keys(self, inner: Series) -> Tensor:
        if inner.key is not None:
            return inner.key
        return torch.arange(inner.x.shape[0], device=inner.x.device)

    # ---------------------------------------------------------------- the way out

    def _leave(self, values: Tensor, flow: Flow) -> Tensor:
        """Inner series values [B*, C*, H] back to [B, C, H] in scaled units, added to what a linear map forecasts."""
        if self.independent:
            values = values.reshape(-1, self.spec.channels, values.shape[-1])
        if flow.scale is not None:
            values = values * flow.scale
        level = flow.mean if flow.linear is None else flow.linear
        return values if level is None else values + level

    def _future(self, flow: Flow) -> Tensor:
        """The decoder's answers put back on the grid and inverted; the last `horizon` samples."""
        assert flow.decoded is not None
        length = self.spec.length + (self.spec.horizon or 0)
        grid = flow.decoded.new_zeros(flow.decoded.shape[0], self.tokenizer.out.tokens, flow.decoded.shape[-1])
        index = flow.asked.index.masked_fill(~flow.asked.valid, 0)[..., None].expand_as(flow.decoded)
        grid = grid.scatter_add(1, index, flow.decoded * flow.asked.valid[..., None])
        return self.tokenizer.invert(grid, length)[..., self.spec.length :]

    def _unfolded(self, tokens: Tokens) -> Tokens:
        """With independent channels: the tokens of a sample's channels side by side, the channel as last axis."""
        if not self.independent:
            return tokens
        c = self.spec.channels

        def wide(t: Tensor) -> Tensor:
            return t.reshape(-1, c * t.shape[1], *t.shape[2:])

        channel = torch.arange(c, device=tokens.pos.device).repeat(tokens.pos.shape[0] // c)[:, None]
        axis = channel[..., None].expand(*tokens.index.shape, 1).to(tokens.pos.dtype)
        told = tokens.but(pos=torch.cat([tokens.pos, axis], -1), index=tokens.index * c + channel)
        return told.map(wide).but(prefix=None if tokens.prefix is None else wide(tokens.prefix))


def independent(spec: Spec, channels: str) -> bool:
    """Whether each channel is a series of its own."""
    return channels == "independent" or (channels == "auto" and spec.horizon is not None)


def inner_spec(spec: Spec, channels: str, head: bool) -> Spec:
    """What the tokenizer receives: one channel if they are independent; with a horizon and no head, the
    context continued by the future."""
    length = spec.length + (spec.horizon or 0 if not head else 0)
    return spec.but(channels=1 if independent(spec, channels) else spec.channels, length=length)


def head_spec(spec: Spec, encoded: Spec, channels: str, per_channel: bool) -> Spec:
    """What a head receives: with independent channels and a head for the whole, the channel is one more axis."""
    if per_channel or not independent(spec, channels):
        return encoded
    return encoded.but(
        channels=spec.channels,
        grid=(*encoded.grid, spec.channels),
        prefix=encoded.prefix * spec.channels,
        channel_axis=True,
    )


def _hidden(seen: Tokens, asked: Tokens) -> Tensor:
    """[B, M] bool: the asked tokens that were not seen."""
    slots = int(max(seen.index.max(), asked.index.max())) + 1
    known = torch.zeros(seen.index.shape[0], slots, device=seen.index.device)
    known.scatter_add_(1, seen.index, seen.valid.to(known.dtype))
    return asked.valid & (known.gather(1, asked.index) == 0)
