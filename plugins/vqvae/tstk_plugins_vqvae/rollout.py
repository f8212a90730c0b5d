"""Autoregressive forecasting with codes: codes are generated one after the other, then decoded together."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tstk.builtin.losses.next_code import NextCode
from tstk.core.interfaces import BasePipeline
from tstk.core.rng import SampleRNG
from tstk.core.types import Spec, StepOutput, Tokens
from tstk.errors import OptionError
from tstk.nn.cache import KVCache
from tstk_plugins_vqvae.forecasting import decode_forecast, select_context, uniform_to_gumbel

MAX_PATHS = 512
"""Maximal number of paths generated at a time: more are no faster on a CPU, whose caches they would not fit."""


class RolloutState(NamedTuple):
    """An encoded context, from which any number of paths can be generated.

    Args:
        visible: tokens of the context
        encoder_state: state of the encoder after them, for `forward_incremental`
        logits: [B, K] logits of the next code
    """

    visible: Tokens
    encoder_state: Any
    logits: Tensor


class CodeRollout(NextCode):
    """Next-code prediction that forecasts autoregressively.

    Training is that of `next-code`. A forecast appends codes to those of the context one at a time, each chosen from
    the predictions for all codes before it, and decodes them together with the end of the context. Keys and values of
    earlier codes are cached. A sequence longer than the encoder was built for is truncated: when the context window is
    full, its older half is dropped.

    Args:
        num_samples: sample paths per series, whose mean is the forecast; 0 always takes the most probable code
        temperature: sampling temperature; less than 1 favours probable codes
        top_k: sample from the k most probable codes; from all if none
        cache: cache keys and values; otherwise all codes are encoded again for each new one
    """

    needs = ("vocab_size", "causal", "ordered", "horizon")  # type: ignore[assignment]
    can_forecast = True

    def __init__(
        self,
        spec: Spec,
        *,
        num_samples: int = 0,
        temperature: float = 1.0,
        top_k: int | None = None,
        cache: bool = True,
    ) -> None:
        super().__init__(spec)
        if temperature <= 0:
            raise OptionError(
                f"loss.temperature={temperature}: expected more than 0; num_samples=0 takes the most probable code"
            )
        self.default_num_samples, self.temperature = num_samples, temperature
        self.top_k, self.cache = top_k, cache

    def bind(self, pipeline: BasePipeline) -> None:
        """Keep a reference to the pipeline, to encode and decode in `forecast`."""
        self._pipeline = [pipeline]

    @torch.no_grad()
    def forecast(self, step_output: StepOutput, horizon: int, num_samples: int | None = None) -> Tensor:
        """Forecast sample paths [S, B, C, horizon]; the random draws are the same at every call."""
        tokenizer, length = self._pipeline[0].tokenizer, self._pipeline[0].spec.length
        context, num_new_tokens = select_context(step_output.tokens, tokenizer.out, length, horizon)
        sample_id = step_output.series.sample_id
        if sample_id is None:
            sample_id = torch.arange(len(context.values), device=context.values.device)
        rollout_state, forecasts = self.encode_context(context), []
        num_samples = num_samples or self.default_num_samples or 0
        for paths in torch.arange(max(num_samples, 1)).split(max(1, MAX_PATHS // len(sample_id))):
            rngs = [SampleRNG(0, path, sample_id) for path in paths.tolist()] if num_samples else []
            ids = self.generate(rollout_state, num_new_tokens, rngs)
            values = tokenizer.embed(ids)
            x = decode_forecast(self._pipeline[0], context.values.repeat(len(paths), 1, 1), values, horizon)
            forecasts.append(x.unflatten(0, (len(paths), -1)))
        return torch.cat(forecasts)

    def encode_context(self, context: Tokens) -> RolloutState:
        """Encode a context, truncated if it fills the encoder's context window."""
        window = self.spec.num_tokens
        visible = context if context.grid_index.shape[1] < window else last_tokens(context, window // 2)
        return RolloutState(visible, *self._predict_next(visible, None))

    def generate(self, rollout_state: RolloutState, num_new_tokens: int, rngs: list[SampleRNG]) -> Tensor:
        """Generate the codes that follow, [paths * B, num_new_tokens] long.

        Args:
            rollout_state: encoded contexts of B series
            num_new_tokens: number of codes to generate
            rngs: one generator per path; if empty, one path of the most probable codes
        """
        window, embed = self.spec.num_tokens, self._pipeline[0].tokenizer.embed
        visible, state, logits = rollout_state
        if len(rngs) > 1:
            visible, logits = visible.repeat(len(rngs)), logits.repeat(len(rngs), 1)
            state = _repeat_state(state, len(rngs))
        ids = [self._sample_codes(logits, rngs)]
        while len(ids) < num_new_tokens:
            new_tokens = next_token(visible, embed(ids[-1])[:, None], ids[-1][:, None])
            visible = visible.replace(attrs={}).cat(new_tokens)
            if visible.grid_index.shape[1] > window:
                visible = new_tokens = last_tokens(visible, max(window // 2, 1))
                state = None
            elif not self.cache:
                new_tokens, state = visible, None
            state, logits = self._predict_next(new_tokens, state)
            ids.append(self._sample_codes(logits, rngs))
        return torch.stack(ids, 1)

    def _predict_next(self, new_tokens: Tokens, state: Any) -> tuple[Any, Tensor]:
        """Return the encoder's state after `new_tokens`, and the logits of the next code, [B, K]."""
        pipeline = self._pipeline[0]
        assert pipeline.decoder is not None
        encoded, state = pipeline.encoder.forward_incremental(new_tokens, state)
        last = last_tokens(encoded, 1, renumber=False)
        return state, pipeline.decoder(last, last, pipeline.encoder.pos_embed)[:, 0].float()

    def _sample_codes(self, logits: Tensor, rngs: list[SampleRNG]) -> Tensor:
        """Sample codes, [B] long, from logits [B, K]; take the most probable ones if `rngs` is empty."""
        if not rngs:
            return logits.argmax(-1)
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            threshold = logits.topk(self.top_k, -1).values[:, -1:]
            logits = logits.masked_fill(logits < threshold, -torch.inf)
        uniform = torch.cat([rng.uniform(logits.shape[-1]) for rng in rngs])
        return (logits / self.temperature + uniform_to_gumbel(uniform)).argmax(-1)


def last_tokens(tokens: Tokens, count: int, renumber: bool = True) -> Tokens:
    """Return the last `count` tokens; with `renumber`, positions are counted from the first of them."""
    tokens = tokens.map(lambda t: t[:, -count:]).replace(prefix=None)
    if not renumber:
        return tokens
    first = tokens.grid_index[:, :1]
    return tokens.replace(pos=tokens.pos - first[..., None], grid_index=tokens.grid_index - first)


def next_token(tokens: Tokens, values: Tensor, ids: Tensor) -> Tokens:
    """Return the token with `values` [B, 1, D] and `ids` [B, 1] at the position after the last of `tokens`."""
    index = tokens.grid_index[:, -1:] + 1
    return Tokens(values, tokens.pos[:, -1:] + 1, index, torch.ones_like(index, dtype=torch.bool), ids=ids)


def _repeat_state(state: Any, times: int) -> Any:
    """Repeat an encoder's state, tensors [B, ...] in lists and tuples, `times` times along the batch."""
    if isinstance(state, KVCache):
        return state.repeat(times)
    if isinstance(state, Tensor):
        return state.repeat(times, *[1] * (state.ndim - 1))
    return type(state)(_repeat_state(part, times) for part in state)
