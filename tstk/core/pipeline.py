"""The pipeline connects the five slots and does what they have in common: instance normalization, channel independence
and masking of the future.

A training step is `step_output = pipeline(series)`, `step_output.loss.backward()`, an optimizer step, and
`pipeline.after_step([step_output])`. After training, `predict` and `embed` take arrays of any number of series;
`predict_batch`, `embed_batch` and `encode` take one batch on the device of the pipeline.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tstk.core.frames import DataFrame, DataFrames, is_pandas
from tstk.core.imputation import impute
from tstk.core.interfaces import BasePipeline, Decoder, Encoder, Head, Loss, Slot, Tokenizer
from tstk.core.linear_map import LinearMap
from tstk.core.prediction import SeriesLike, iter_series, map_batches, predict_batches
from tstk.core.rng import SampleRNG
from tstk.core.task import Prediction, get_task
from tstk.core.types import Series, Spec, StepOutput, Tokens
from tstk.errors import DataError, IncompatibleError, OptionError, did_you_mean
from tstk.nn.reduce import masked_mean_std, masked_pool
from tstk.plugins.hooks import SLOTS

Pooling = Literal["mean", "max", "cls", "statistics"]


class Pipeline(BasePipeline):
    """Tokenizer, encoder, loss, and a decoder or a head, in one module.

    The components are built before, each on the Spec of its input; `tstk.build` does that from a config.

    Args:
        spec: of the data
        tokenizer: built on `get_tokenizer_spec`
        encoder: built on `tokenizer.out`
        loss: built on `encoder.out`
        decoder: built on `loss.out`
        head: built on `get_head_spec`
        channels: `mixed`, a token sees all channels; `independent`, each channel is a separate series;
            `auto`, independent when forecasting
        instance_norm: normalize each series by its own mean and deviation, and undo it in forecasts;
            None means on when forecasting
        unbiased_norm: divide by the unbiased deviation in instance normalization, as VQShape does
        linear_map: add the forecast of a linear map to the output of the head, which starts at zero:
            one map `shared` by all channels or one `per-channel`; `auto` builds a shared one, which fitting may replace
    """

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
        unbiased_norm: bool = False,
        linear_map: Literal["none", "auto", "shared", "per-channel"] = "none",
    ) -> None:
        task = None if spec.task is None else get_task(spec.task)
        super().__init__(spec, has_numbers=task is not None and task.target_type == "numbers")
        self.task = task
        self.tokenizer, self.encoder, self.decoder, self.head, self.loss = tokenizer, encoder, decoder, head, loss
        self.channel_independent = is_channel_independent(spec, channels)
        self.instance_norm = spec.horizon is not None if instance_norm is None else instance_norm
        if unbiased_norm and not self.instance_norm:
            raise OptionError("--unbiased-norm has no effect without instance normalization; add --instance-norm")
        self.unbiased_norm = unbiased_norm
        self.forecasts_by_masking = head is None and spec.horizon is not None
        self.linear_map = None if linear_map == "none" else _build_linear_map(spec, head, linear_map)
        self.frozen_modules: set[str] = set()
        self.data_frames: DataFrames | None = None
        if decoder is not None:
            if decoder.predicts_series and not loss.accepts_series:
                raise IncompatibleError(
                    f"{loss.display_name()} scores predictions per token, but {decoder.display_name()} predicts whole "
                    "series; choose another decoder, or --loss reconstruct"
                )
            loss.bind_decoder(decoder)
        if loss.can_forecast and not tokenizer.has_decoder:
            raise IncompatibleError(
                f"{loss.display_name()} decodes tokens to samples, which {tokenizer.display_name()} cannot; "
                "choose a tokenizer with a decoder, such as vqvae"
            )
        if loss.masks_future and not tokenizer.invertible and not loss.can_forecast:
            raise IncompatibleError(
                f"{tokenizer.display_name()} cannot turn predictions back into samples, so a decoder cannot forecast "
                "with it; use --head forecast"
            )
        # no forecast comes from predictions at visible tokens only, nor from hidden states
        predicts_samples = loss.out.target_dim is not None and not loss.out.predicts_in_place
        inverts_predictions = tokenizer.invertible and predicts_samples
        self.can_forecast = self.forecasts_by_masking and (loss.can_forecast or inverts_predictions)

    def named_slots(self) -> Iterator[tuple[str, Slot]]:
        """Yield the name and the component of each slot that is filled."""
        for name in SLOTS:
            part = getattr(self, name)
            if part is not None:
                yield name, part

    @property
    def makes_predictions(self) -> bool:
        """Whether it predicts what its task asks for, rather than being pretrained without one."""
        return self.head is not None or self.can_forecast

    def set_channels(self, mean: Tensor, std: Tensor, offset: Tensor | None = None) -> None:
        """Change the number of channels, their offset and the statistics for standardization.

        A pipeline of one channel treats several as series of their own.

        Args:
            mean: [C] of the data less the offset
            std: [C] of the data
            offset: [C] float64 that is subtracted from the data, or None

        Raises:
            IncompatibleError: a token sees several channels, or there is a head, which is built for a number of them
        """
        takes_one_channel = self.channel_independent or self.spec.channels == 1
        if self.head is not None or not takes_one_channel:
            reason = "its head was built for them; train without a head"
            if self.head is None:
                reason = "its tokens see all of them; train with --channels independent"
            raise IncompatibleError(
                f"this pipeline takes {self.spec.channels} channels, and the data have {len(mean)}: {reason}"
            )
        self.channel_independent = True
        self.spec, self.offset = self.spec.replace(channels=len(mean)), offset
        self.mean, self.std = mean[:, None].to(self.mean), std[:, None].to(self.std)

    def bind(self) -> None:
        """Call `bind` of each slot and freeze its `frozen_paths`, after all weights are loaded or layers were added."""
        for name, part in self.named_slots():
            part.bind(self)
            for path in part.frozen_paths():
                self.freeze(f"{name}.{path}" if path else name)

    # ---------------------------------------------------------------- frozen parts

    def freeze(self, path: str) -> None:
        """Freeze a slot, a module of it or one parameter; frozen modules stay in eval mode.

        Args:
            path: `encoder`, `tokenizer.codebook`, `encoder.stack.0`

        Raises:
            OptionError: there is no module or parameter of this name
        """
        modules, parameters = dict(self.named_modules()), dict(self.named_parameters())
        if path in parameters:
            parameters[path].requires_grad_(False)
        elif path and path in modules:
            modules[path].requires_grad_(False)
            self.frozen_modules.add(path)
            self.train(self.training)
        else:
            raise OptionError(
                f"--freeze {path}: this pipeline has no such part.{did_you_mean(path, modules)} "
                f"Slots: {', '.join(n for n, _ in self.named_slots())}."
            )

    def train(self, mode: bool = True) -> Pipeline:
        """Set training mode as `nn.Module.train`, except that frozen modules stay in eval mode."""
        super().train(mode)
        for path in self.frozen_modules:
            self.get_submodule(path).eval()
        return self

    def after_step(self, step_outputs: list[StepOutput]) -> None:
        """Call `after_step` of each slot that is not frozen, once per optimizer step with all its outputs."""
        with torch.no_grad():
            for name, part in self.named_slots():
                if name not in self.frozen_modules:
                    part.after_step(step_outputs)

    # ---------------------------------------------------------------- forward

    def forward(self, series: Series, rng: SampleRNG | None = None) -> StepOutput:
        """Compute the loss: tokenize, split into visible tokens and queries, encode, predict, score.

        Args:
            series: in the units of the data
            rng: for masks and noise; if None, one is seeded from torch's global generator
        """
        if rng is None:
            rng = SampleRNG.from_global_seed(self._get_sample_ids(series))
        step_output = self.preprocess(self.loss.make_views(series, rng), mask_future=self.loss.masks_future)
        rng = SampleRNG(rng.seed, rng.step, self._get_sample_ids(step_output.series))
        step_output.visible, step_output.queries = self.loss.split(step_output.tokens, rng)
        self.compute_predictions(step_output)
        if self.loss.can_forecast and self.loss.masks_future:
            self._forecast(step_output, self.spec.horizon or 0)
        step_output.losses = self.loss(step_output)
        penalties = step_output.tokens.aux_losses | (
            step_output.encoded.aux_losses if step_output.encoded is not None else {}
        )
        frozen = step_output.tokens.aux_losses.keys() if "tokenizer" in self.frozen_modules else ()
        step_output.loss = sum(step_output.losses.values(), start=torch.zeros((), device=series.x.device))
        step_output.loss = step_output.loss + sum(v for k, v in penalties.items() if k not in frozen)
        step_output.losses = {**step_output.losses, **penalties}
        return step_output

    def predict_step(self, series: Series, horizon: int | None = None, num_samples: int | None = None) -> StepOutput:
        """Predict without computing a loss: sets `head_output` and `targets`; forecasts are in standardized units.

        Args:
            series: in the units of the data
            horizon: samples to forecast, that of the run if None; only a loss that forecasts supports longer ones
            num_samples: sample paths to draw, if the loss can sample

        Raises:
            OptionError: this pipeline has no predictions, or not with this horizon or number of samples
        """
        if num_samples is not None and self.loss.default_num_samples is None:
            raise OptionError(
                f"--samples {num_samples}: the predictions of this run are deterministic; leave out --samples"
            )
        step_output = self.preprocess(series, mask_future=True)
        if self.loss.can_forecast:
            if self.loss.masks_future:
                step_output.visible, step_output.queries = self.loss.split(
                    step_output.tokens, SampleRNG(0, 0, self._get_sample_ids(step_output.series))
                )
                self.compute_predictions(step_output)
            self._forecast(step_output, horizon or self.spec.horizon or 0, num_samples)
            return step_output
        if horizon is not None and horizon > (self.spec.horizon or 0):
            raise OptionError(
                f"--horizon {horizon}: this run forecasts {self.spec.horizon or 0} samples at most; "
                f"train one with --horizon {horizon}"
            )
        if self.head is not None:
            self.compute_predictions(step_output)
            return step_output
        if not self.can_forecast:
            head = "linear" if self.task is None else self.task.default_head
            raise OptionError(
                "this pipeline was pretrained without a task, so it predicts nothing; use embed for its features, or "
                f"train a head on it: tstk train --init-from RUN --head {head}"
            )
        tokens = step_output.tokens
        future = tokens.end_positions(self.tokenizer.out) > self.spec.length
        step_output.visible = tokens.select(tokens.valid & ~future)
        step_output.queries = tokens.select(tokens.valid & future)
        self.compute_predictions(step_output)
        step_output.head_output = self.postprocess(self.decode_future(step_output), step_output)
        return step_output

    @overload
    def predict(
        self, x: SeriesLike, *, batch_size: int = 256, horizon: int | None = None, num_samples: int | None = None
    ) -> Prediction: ...

    @overload
    def predict(
        self, x: DataFrame, *, batch_size: int = 256, horizon: int | None = None, num_samples: None = None
    ) -> Any: ...

    def predict(
        self, x: Any, *, batch_size: int = 256, horizon: int | None = None, num_samples: int | None = None
    ) -> Any:
        """Predict classes with their probabilities, labels, numbers, or forecast.

        Runs on the device of the pipeline, in eval mode and without gradients; the training mode is restored.

        Args:
            x: array, tensor or `Series` [N, C, T], one series [C, T], or [T] if there is one channel, in the units of
                the data; NaN where a sample is missing or a series has ended. Or, of `tstk.load`, a data frame of
                pandas, whose columns and index are read as those of the training data
            batch_size: series at a time
            horizon: samples to forecast, that of the training if None
            num_samples: sample paths of the future to draw and return, if the loss can sample

        Returns:
            arrays with N rows, also if N is 1. Of a data frame, one with a row per series, its index or ids, and the
            columns `predicted` and `probability CLASS`, or one for each number to predict; or the forecast, with a
            column per channel, and the times that follow those of the frame as its index

        Raises:
            DataError: the shape does not fit, or a series is too long, entirely missing or infinite
            OptionError: this pipeline was pretrained without a task, or does not forecast this far or this many paths
        """
        if self.data_frames is not None and is_pandas(x):
            if num_samples is not None:
                raise OptionError("num_samples: sample paths have no place in a data frame; give an array [N, C, T]")
            return self.data_frames.predict(self, x, batch_size=batch_size, horizon=horizon)
        return predict_batches(self, iter_series(x, self, batch_size), horizon, num_samples)

    @overload
    def embed(self, x: SeriesLike, pooling: Pooling = "mean", *, batch_size: int = 256) -> NDArray[np.float32]: ...

    @overload
    def embed(self, x: DataFrame, pooling: Pooling = "mean", *, batch_size: int = 256) -> Any: ...

    def embed(self, x: Any, pooling: Pooling = "mean", *, batch_size: int = 256) -> Any:
        """Compute one feature vector per series, [N, D], as `embed_batch` does, for input of any kind and size.

        Args:
            x: as for `predict`; a data frame has its index or ids in that of the result
            pooling: how encoded tokens are reduced to one vector
            batch_size: series at a time

        Raises:
            DataError: as for `predict`
            OptionError: the encoder has no CLS token to pool
        """
        if self.data_frames is not None and is_pandas(x):
            return self.data_frames.embed(self, x, pooling, batch_size=batch_size)
        batches = iter_series(x, self, batch_size)
        return map_batches(self, batches, lambda series: self.embed_batch(series, pooling)).numpy()

    def impute(self, x: SeriesLike, *, stride: int | None = None, batch_size: int = 256) -> NDArray[np.floating[Any]]:
        """Fill missing samples with the predictions of a masked or reconstructing pipeline.

        Series longer than the model are cut into overlapping windows, whose predictions are averaged.

        Args:
            x: as for `predict`, but of any length
            stride: samples from one window to the next; half a window if None
            batch_size: windows at a time

        Returns:
            a copy of `x` as an array; NaN where nothing can be predicted: after the end of a series, and in a channel
            of which a window has no sample

        Raises:
            DataError: the shape does not fit
            OptionError: this pipeline predicts no samples
        """
        return impute(self, x, stride=stride, batch_size=batch_size)

    @torch.no_grad()
    def predict_batch(self, series: Series) -> Tensor:
        """Return calibrated logits or numbers [B, num_outputs], or the forecast [B, C, H], in the units of the data.

        Logits of a class per sample are [B, num_outputs, spec.length].
        """
        output = self.predict_step(series).head_output
        assert output is not None
        return self.to_data_units(output if self.temperature is None else output / self.temperature)

    def tokenize(self, series: Series) -> StepOutput:
        """Return the preprocessed context and all its tokens; with independent channels, one row per channel."""
        return self.preprocess(series.replace(y=None), mask_future=False)

    def encode(self, series: Series) -> Tokens:
        """Encode all tokens of the context; with independent channels, those of all channels follow each other."""
        return self.unfold_channels(self.encoder(self.tokenize(series).tokens))

    @torch.no_grad()
    def embed_batch(self, series: Series, pooling: Pooling = "mean") -> Tensor:
        """Return one feature vector per series, [B, D]: encoded tokens pooled by `mean`, `max` or `cls`.

        With `statistics`, mean and deviation of the tokens, [B, 2 D]; with independent channels those of each channel
        are concatenated, [B, C * 2 D].
        """
        if pooling == "statistics":
            tokens = self.encoder(self.tokenize(series).tokens)
            return masked_mean_std(tokens.values, tokens.valid).reshape(len(series.x), -1)
        tokens = self.encode(series)
        if pooling == "cls":
            if tokens.prefix is None:
                raise OptionError("--pool cls: the encoder of this run has no CLS token; use mean or max")
            return tokens.prefix.mean(1)
        return masked_pool(tokens.values, tokens.valid, pooling)

    def compute_predictions(self, step_output: StepOutput) -> None:
        """Encode the visible tokens, and set the predictions of the decoder or the output of the head."""
        step_output.encoded = self.encoder(step_output.visible)
        if self.decoder is not None:
            context = self.loss.decoder_context(step_output.encoded, step_output.queries)
            step_output.masked = _find_masked(context, step_output.queries)
            step_output.predictions = self.decoder(context, step_output.queries, self.encoder.pos_embed)
        if self.head is not None:
            per_channel = self.head.per_channel
            output = self.head(step_output.encoded if per_channel else self.unfold_channels(step_output.encoded))
            if self.spec.horizon is not None:
                output = self.postprocess(output, step_output)
            step_output.head_output = output

    def _forecast(self, step_output: StepOutput, horizon: int, num_samples: int | None = None) -> None:
        """Store the forecast of the loss: the mean over sample paths if several were drawn."""
        paths = self.loss.forecast(step_output, horizon, num_samples)
        samples = torch.stack([self.postprocess(path, step_output) for path in paths])
        step_output.head_output = samples.mean(0)
        step_output.forecast_samples = samples if len(samples) > 1 else None

    # ---------------------------------------------------------------- preprocessing

    def preprocess(self, series: Series, mask_future: bool) -> StepOutput:
        """Pad, standardize and instance-normalize; append the future and fold channels where needed; tokenize.

        Args:
            series: in the units of the data
            mask_future: hide the future from the tokenizer, if it is forecast by masking

        Raises:
            DataError: the series is longer than the model supports
        """
        if series.x.shape[-1] > self.spec.length and not self.tokenizer.accepts_any_length:
            raise DataError(
                f"a series of {series.x.shape[-1]} samples is longer than the {self.spec.length} of this "
                f"model; truncate it, or train with --length {series.x.shape[-1]}"
            )
        standardized = self.standardize(self.left_pad_context(series))
        inner, loc, scale = self.instance_normalize(standardized)
        if self.forecasts_by_masking:
            inner = self.append_future(inner)
        if self.channel_independent:
            inner = inner.fold_channels()
        if self.forecasts_by_masking and mask_future:
            tokens = self.tokenizer(self.mask_future(inner))
            if self.tokenizer.out.target_dim is not None:
                with torch.no_grad():
                    unmasked = self.tokenizer(inner)
                tokens = tokens.replace(target=unmasked.target, target_mask=unmasked.target_mask)
        else:
            tokens = self.tokenizer(inner)
        return StepOutput(
            series=inner,
            tokens=tokens,
            visible=tokens,
            queries=tokens,
            masked=torch.zeros_like(tokens.valid),
            linear_forecast=None if self.linear_map is None else self.linear_map(standardized),
            targets=self.pad_targets(standardized.y),
            weight=standardized.weight,
            loc=loc,
            scale=scale,
        )

    def left_pad_context(self, series: Series) -> Series:
        """Left-pad short contexts to the full length when forecasting; padded samples are unobserved."""
        padding = self.spec.length - series.x.shape[-1]
        if self.spec.horizon is None or not padding:
            return series
        return series.replace(x=F.pad(series.x, (padding, 0)), observed=F.pad(series.observed_mask, (padding, 0)))

    def pad_targets(self, y: Tensor | None) -> Tensor | None:
        """Pad a class per sample [B, T] to the length of the model with -1, as a head predicts it; others stay."""
        if y is None or self.task is None or self.task.target_type != "sample-class":
            return y
        return F.pad(y, (0, self.spec.length - y.shape[-1]), value=-1)

    def instance_normalize(self, series: Series) -> tuple[Series, Tensor | None, Tensor | None]:
        """Normalize each series by mean and deviation of its observed context.

        Returns:
            the series, and loc and scale [B, C, 1]; both None without instance normalization
        """
        if not self.instance_norm:
            return series, None, None
        observed = series.observed_mask
        count = observed.sum(-1, keepdim=True).clamp(min=1)
        loc = series.x.sum(-1, keepdim=True) / count
        centred = (series.x - loc) * observed
        degrees = (count - 1).clamp(min=1) if self.unbiased_norm else count
        scale = (centred.square().sum(-1, keepdim=True) / degrees + 1e-5).sqrt()
        y = series.y
        if y is not None and self.spec.horizon is not None:
            y = (y - loc) / scale
        return series.replace(x=centred / scale, y=y), loc, scale

    def append_future(self, series: Series) -> Series:
        """Append the future to the context; an unknown future is unobserved."""
        b, c, _ = series.x.shape
        y = series.x.new_full((b, c, self.spec.horizon or 0), torch.nan) if series.y is None else series.y
        observed = torch.cat([series.observed_mask, y.isfinite()], -1)
        return series.replace(x=torch.cat([series.x, y.nan_to_num()], -1), observed=observed, y=None)

    def mask_future(self, series: Series) -> Series:
        """Set the future to zeros that count as observed, so that its tokens are valid but carry no information."""
        past = torch.arange(series.x.shape[-1], device=series.x.device) < self.spec.length
        return series.replace(x=series.x * past, observed=series.observed_mask | ~past)

    def _get_sample_ids(self, series: Series) -> Tensor:
        if series.sample_id is not None:
            return series.sample_id
        return torch.arange(series.x.shape[0], device=series.x.device)

    # ---------------------------------------------------------------- postprocessing

    def postprocess(self, values: Tensor, step_output: StepOutput) -> Tensor:
        """Convert forecasts to standardized units: unfold channels, undo instance normalization, add the linear map.

        Args:
            values: [B, C, H], or [B*C, 1, H] with independent channels
            step_output: from `preprocess`

        Returns:
            [B, C, H]
        """
        if self.channel_independent:
            values = values.reshape(-1, self.spec.channels, values.shape[-1])
        if step_output.scale is not None:
            values = values * step_output.scale
        offset = step_output.loc if step_output.linear_forecast is None else step_output.linear_forecast
        return values if offset is None else values + offset

    def decode_future(self, step_output: StepOutput) -> Tensor:
        """Scatter the predictions onto the grid, convert it to samples, and return the last `horizon` samples."""
        predictions, queries = step_output.predictions, step_output.queries
        assert predictions is not None
        grid = queries.replace(values=predictions).to_grid((self.tokenizer.out.num_tokens,)).mT
        length = self.spec.length + (self.spec.horizon or 0)
        return self.tokenizer.targets_to_series(grid, length)[..., self.spec.length :]

    def unfold_channels(self, tokens: Tokens) -> Tokens:
        """With independent channels, concatenate the tokens of all channels; the channel becomes the last axis."""
        if not self.channel_independent:
            return tokens
        c = self.spec.channels

        def unfold(t: Tensor) -> Tensor:
            return t.reshape(-1, c * t.shape[1], *t.shape[2:])

        channel = torch.arange(c, device=tokens.pos.device).repeat(tokens.pos.shape[0] // c)[:, None]
        axis = channel[..., None].expand(*tokens.grid_index.shape, 1).to(tokens.pos.dtype)
        tokens = tokens.replace(pos=torch.cat([tokens.pos, axis], -1), grid_index=tokens.grid_index * c + channel)
        return tokens.map(unfold).replace(prefix=None if tokens.prefix is None else unfold(tokens.prefix))


def _build_linear_map(spec: Spec, head: Head | None, kind: str) -> LinearMap:
    """Return a map that repeats the last value, and let the head start at zero."""
    if head is None or spec.horizon is None:
        raise IncompatibleError(
            f"--linear-map {kind}: only a forecasting head can start from a linear map; use --head forecast on a table "
            "with dates"
        )
    head.zero_init_last_layer()
    return LinearMap.repeat_last_value(spec.channels if kind == "per-channel" else 1, spec.length, spec.horizon)


def is_channel_independent(spec: Spec, channels: str) -> bool:
    """Return whether each channel is treated as a separate series."""
    return channels == "independent" or (channels == "auto" and spec.horizon is not None)


def get_tokenizer_spec(spec: Spec, channels: str, has_head: bool) -> Spec:
    """Return the input Spec of the tokenizer.

    It has one channel if channels are independent. Forecasting without a head, the series is context and future.
    """
    length = spec.length + (spec.horizon or 0 if not has_head else 0)
    return spec.replace(channels=1 if is_channel_independent(spec, channels) else spec.channels, length=length)


def get_head_spec(spec: Spec, encoder_spec: Spec, channels: str, per_channel: bool) -> Spec:
    """Return the input Spec of a head: with independent channels and a head for all, the channel is the last axis."""
    if per_channel or not is_channel_independent(spec, channels):
        return encoder_spec
    return encoder_spec.replace(
        channels=spec.channels,
        grid_size=(*encoder_spec.grid_size, spec.channels),
        num_prefix_tokens=encoder_spec.num_prefix_tokens * spec.channels,
        channel_axis=True,
    )


def _find_masked(visible: Tokens, queries: Tokens) -> Tensor:
    """Return [B, M] bool, True for queries that are not visible."""
    size = int(max(visible.grid_index.max(), queries.grid_index.max())) + 1
    return queries.valid & ~visible.grid_mask((size,)).gather(1, queries.grid_index)
