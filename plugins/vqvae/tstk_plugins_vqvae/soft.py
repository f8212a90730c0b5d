"""Forecasting all codes at once as mixtures of codes, so that the forecast error can be backpropagated."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Gt, Le
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.builtin.losses.forecast import Forecast
from tstk.core.interfaces import BasePipeline
from tstk.core.rng import SampleRNG
from tstk.core.types import Spec, StepOutput, Tokens
from tstk.errors import OptionError
from tstk.plugins.ranges import PositiveFloat
from tstk_plugins_vqvae.forecasting import decode_forecast, select_context, uniform_to_gumbel


class CodeSoft(Forecast):
    """Forecast error of decoded mixtures of codes, softmax(logits / temperature) @ codebook.

    The tokens of the context are followed by a learned placeholder for each code of the future. As in `next-code`, the
    prediction at a token is for the next one, so a pretrained encoder and decoder can be reused. The gradient reaches
    them through the tokenizer's decoder, frozen or not.

    Args:
        distance: mse, mean squared; mae, mean absolute; huber, squared below `delta` and linear above
        delta: threshold between the squared and linear parts of huber
        temperature: temperature of the softmax; the smaller, the closer to the most probable code
    """

    needs = ("vocab_size", "ordered", "horizon")  # type: ignore[assignment]
    consumes = "decoder"
    default_decoder = "linear"
    masks_future = True
    can_forecast = True

    def __init__(
        self,
        spec: Spec,
        *,
        distance: Literal["mse", "mae", "huber"] = "mse",
        delta: float = 1.0,
        temperature: PositiveFloat = 1.0,
    ) -> None:
        super().__init__(spec, distance=distance, delta=delta)
        self.temperature = temperature
        self.placeholder = nn.Parameter(torch.randn(spec.tokenizer_dim or 0) * 0.02)
        self.out = spec.replace(target_dim=spec.vocab_size, predicts_in_place=True)

    def bind(self, pipeline: BasePipeline) -> None:
        """Keep a reference to the pipeline, to decode in `forecast`."""
        self._pipeline = [pipeline]

    def split(self, tokens: Tokens, rng: SampleRNG) -> tuple[Tokens, Tokens]:
        """Return the context and placeholders but the last as visible tokens, and all but the first as queries."""
        batch, count = tokens.grid_index.shape
        is_future = tokens.end_positions(self.spec) > self.spec.length - (self.spec.horizon or 0)
        values = torch.where(is_future[..., None], self.placeholder.to(tokens.values.dtype), tokens.values)
        rows = torch.arange(count - 1, device=tokens.grid_index.device).expand(batch, -1)
        return tokens.replace(values=values).gather(rows), tokens.gather(rows + 1)

    def forecast(self, step_output: StepOutput, horizon: int, num_samples: int | None = None) -> Tensor:
        """Forecast [1, B, C, horizon].

        Raises:
            OptionError: the horizon is longer than that of the training
        """
        if horizon > (self.spec.horizon or 0):
            raise OptionError(
                f"--horizon {horizon}: this run forecasts at most {self.spec.horizon} samples; "
                f"train with --horizon {horizon}, or with --loss code-rollout, which forecasts any horizon"
            )
        pipeline = self._pipeline[0]
        tokenizer = pipeline.tokenizer
        assert step_output.predictions is not None
        context, num_new_tokens = select_context(step_output.tokens, tokenizer.out, pipeline.spec.length, horizon)
        start = context.grid_index.shape[1] - 1
        future = slice(start, start + num_new_tokens)
        queries = step_output.queries.map(lambda t: t[:, future])
        weights = self.compute_code_weights(step_output.predictions[:, future].float(), queries)
        codebook = tokenizer.embed(torch.arange(tokenizer.out.vocab_size or 0, device=weights.device))
        return decode_forecast(pipeline, context.values, weights.to(codebook.dtype) @ codebook, horizon)[None]

    def compute_code_weights(self, logits: Tensor, queries: Tokens) -> Tensor:
        """Compute the weight of each code in the mixtures, [B, M, K], from logits [B, M, K]."""
        return (logits / self.temperature).softmax(-1)


class CodeGumbel(CodeSoft):
    """Forecast error of decoded single codes: sampled by Gumbel-softmax in training, the most probable in evaluation.

    Straight-through (Jang et al. 2017, arXiv:1611.01144): one code is decoded, and the gradient is that of the mixture.

    Args:
        distance: mse, mean squared; mae, mean absolute; huber, squared below `delta` and linear above
        delta: threshold between the squared and linear parts of huber
        temperature: initial temperature of the softmax
        min_temperature: lower bound of the annealed temperature
        anneal: factor on the temperature after each step
    """

    current_temperature: Tensor

    def __init__(
        self,
        spec: Spec,
        *,
        distance: Literal["mse", "mae", "huber"] = "mse",
        delta: float = 1.0,
        temperature: PositiveFloat = 1.0,
        min_temperature: PositiveFloat = 0.3,
        anneal: Annotated[float, Gt(0), Le(1)] = 0.998,
    ) -> None:
        super().__init__(spec, distance=distance, delta=delta, temperature=temperature)
        if min_temperature > temperature:
            raise OptionError(f"loss.min_temperature={min_temperature}: expected at most temperature={temperature}")
        self.min_temperature, self.anneal = min_temperature, anneal
        self.register_buffer("current_temperature", torch.tensor(temperature))

    def split(self, tokens: Tokens, rng: SampleRNG) -> tuple[Tokens, Tokens]:
        """Split as `CodeSoft` does; in training, add Gumbel noise for each code and query."""
        visible, queries = super().split(tokens, rng)
        if self.training:
            noise = uniform_to_gumbel(rng.uniform(queries.grid_index.shape[1], self.spec.vocab_size or 0))
            queries = queries.replace(attrs={**queries.attrs, "noise": noise})
        return visible, queries

    def compute_code_weights(self, logits: Tensor, queries: Tokens) -> Tensor:
        """Compute one-hot weights [B, M, K] with the gradient of the mixture."""
        if not self.training:
            return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
        soft = ((logits + queries.attrs["noise"]) / self.current_temperature).softmax(-1)
        hard = F.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)
        return hard + (soft - soft.detach())

    def after_step(self, step_outputs: list[StepOutput]) -> None:
        """Anneal the temperature."""
        self.current_temperature.copy_((self.current_temperature * self.anneal).clamp(min=self.min_temperature))
