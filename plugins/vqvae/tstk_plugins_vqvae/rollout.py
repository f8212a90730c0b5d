"""Forecasting code by code: the next code is chosen, appended, and asked about in turn; then all are decoded."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from tstk.builtin.losses.next_code import NextCode
from tstk.core.rng import Draws
from tstk.core.types import Flow, Spec, Tokens
from tstk.errors import OptionError
from tstk.nn.cache import Kept

if TYPE_CHECKING:
    from tstk.core.pipeline import Pipeline

ROWS = 512
"""Paths that are followed at a time: more take no less time on a CPU, where their keys and values leave the caches."""


class Begun(NamedTuple):
    """Where paths start.

    Args:
        seen: the tokens of the context
        state: the encoder's, after them
        logits: [B, K] of the code that follows
    """

    seen: Tokens
    state: Any
    logits: Tensor


class CodeRollout(NextCode):
    """Next-code prediction that also forecasts, one code after the other.

    Training is that of `next-code`. A forecast appends codes to those of the context, each chosen from the model's
    answer to all before it, and decodes them together with the end of the context. Keys and values of earlier codes
    are kept. What is longer than the series the encoder was built for goes through a window: when it is full, its older
    half is forgotten.

    Args:
        samples: paths drawn per series, whose mean is the forecast; 0 follows the most probable code
        temperature: of drawn codes; less than 1 prefers probable ones
        top_k: draw from so many most probable codes; all if none
        cache: keep keys and values; without, all codes are encoded anew for each one
    """

    needs = ("vocab", "causal", "ordered", "horizon")  # type: ignore[assignment]
    foretells = True

    def __init__(
        self,
        spec: Spec,
        *,
        samples: int = 0,
        temperature: float = 1.0,
        top_k: int | None = None,
        cache: bool = True,
    ) -> None:
        super().__init__(spec)
        if temperature <= 0:
            raise OptionError(f"loss.temperature={temperature}: expected more than 0; samples=0 takes the likeliest")
        self.samples, self.temperature, self.top_k, self.cache = samples, temperature, top_k, cache

    def bind(self, pipeline: Pipeline) -> None:
        """Keep the pipeline, whose encoder and tokenizer go on."""
        self._pipeline = [pipeline]

    @torch.no_grad()
    def foretell(self, flow: Flow, horizon: int, samples: int | None = None) -> Tensor:
        """[S, B, C, horizon]; the draws are the same at every call."""
        tokenizer, length = self._pipeline[0].tokenizer, self._pipeline[0].spec.length
        past, ahead = known(flow.tokens, tokenizer.out, length, horizon)
        key = flow.series.key
        key = torch.arange(len(past.values), device=past.values.device) if key is None else key
        start, futures = self.begun(past), []
        samples = samples or self.samples or 0
        for paths in torch.arange(max(samples, 1)).split(max(1, ROWS // len(key))):
            draws = [Draws(0, path, key) for path in paths.tolist()] if samples else []
            ids = self.continued(start, ahead, draws)
            values = tokenizer.embed(ids)
            x = decoded(self._pipeline[0], past.values.repeat(len(paths), 1, 1), values, horizon)
            futures.append(x.unflatten(0, (len(paths), -1)))
        return torch.cat(futures)

    def begun(self, past: Tokens) -> Begun:
        """A context, encoded; any number of paths may start from it."""
        room = self.spec.tokens
        seen = past if past.index.shape[1] < room else latest(past, room // 2)
        return Begun(seen, *self._asked(seen, None))

    def continued(self, start: Begun, ahead: int, draws: list[Draws]) -> Tensor:
        """The codes that follow: [paths * B, ahead] long.

        Args:
            start: the context of B series
            ahead: codes to choose
            draws: a source per path; none for one path of the likeliest codes
        """
        room, embed = self.spec.tokens, self._pipeline[0].tokenizer.embed
        seen, state, logits = start
        if len(draws) > 1:
            seen, state, logits = seen.repeat(len(draws)), _repeated(state, len(draws)), logits.repeat(len(draws), 1)
        ids = [self._chosen(logits, draws)]
        while len(ids) < ahead:
            fresh = following(seen, embed(ids[-1])[:, None], ids[-1][:, None])
            seen = seen.but(attrs={}).append(fresh)
            if seen.index.shape[1] > room:
                seen = fresh = latest(seen, max(room // 2, 1))
                state = None
            elif not self.cache:
                fresh, state = seen, None
            state, logits = self._asked(fresh, state)
            ids.append(self._chosen(logits, draws))
        return torch.stack(ids, 1)

    def _asked(self, fresh: Tokens, state: Any) -> tuple[Any, Tensor]:
        """The encoder's state after more tokens, and what it says of the code that follows: [B, K]."""
        pipeline = self._pipeline[0]
        assert pipeline.decoder is not None
        encoded, state = pipeline.encoder.extend(fresh, state)
        last = latest(encoded, 1, renumber=False)
        return state, pipeline.decoder(last, last, pipeline.encoder.place)[:, 0].float()

    def _chosen(self, logits: Tensor, draws: list[Draws]) -> Tensor:
        """[B] long from [B, K]."""
        if not draws:
            return logits.argmax(-1)
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k, -1).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        uniform = torch.cat([source.uniform(logits.shape[-1]) for source in draws])
        return (logits / self.temperature + gumbel(uniform)).argmax(-1)


def gumbel(uniform: Tensor) -> Tensor:
    """Standard Gumbel noise from multiples of 2^-24 in [0, 1), finite for each of them."""
    return -(-uniform.clamp(min=2**-25).log()).log()


def known(tokens: Tokens, spec: Spec, length: int, horizon: int) -> tuple[Tokens, int]:
    """The tokens that end within a context of `length` samples, and how many more `horizon` samples take."""
    step = spec.step or 1
    count = int(length // step)
    rows = torch.arange(count, device=tokens.index.device).expand(len(tokens.index), -1)
    return tokens.at(rows), ceil((length + horizon) / step) - count


def decoded(pipeline: Pipeline, past: Tensor, ahead: Tensor, horizon: int) -> Tensor:
    """Samples of the future, [B, C, horizon], from token values of the context [B, N, D] and after it [B, M, D].

    Of the context only that is decoded which the future depends on.
    """
    tokenizer = pipeline.tokenizer
    step = int(tokenizer.out.step or 1)
    count = past.shape[1] if tokenizer.reach is None else min(past.shape[1], tokenizer.reach)
    begin = pipeline.spec.length - (past.shape[1] - count) * step
    values = torch.cat([past[:, past.shape[1] - count :], ahead], 1)
    return tokenizer.decode(values, begin + horizon)[..., begin:]


def latest(tokens: Tokens, count: int, renumber: bool = True) -> Tokens:
    """The last `count` tokens; renumbered, as if the series began with them."""
    tokens = tokens.map(lambda t: t[:, -count:]).but(prefix=None)
    if not renumber:
        return tokens
    first = tokens.index[:, :1]
    return tokens.but(pos=tokens.pos - first[..., None], index=tokens.index - first)


def following(tokens: Tokens, values: Tensor, ids: Tensor) -> Tokens:
    """The token after the last one."""
    index = tokens.index[:, -1:] + 1
    return Tokens(values, tokens.pos[:, -1:] + 1, index, torch.ones_like(index, dtype=torch.bool), ids=ids)


def _repeated(state: Any, times: int) -> Any:
    """An encoder's state, tensors [B, ...] in lists and tuples, for `times` as many rows."""
    if isinstance(state, Kept):
        return state.repeat(times)
    if isinstance(state, Tensor):
        return state.repeat(times, *[1] * (state.ndim - 1))
    return type(state)(_repeated(part, times) for part in state)
