"""Forecasting all codes at once, as mixtures of codes: differentiable, so the error of a forecast teaches the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.builtin.losses.forecast import Forecast
from tstk.core.rng import Draws
from tstk.core.types import Flow, Spec, Tokens
from tstk.errors import OptionError
from tstk_plugins_vqvae.rollout import decoded, gumbel, known

if TYPE_CHECKING:
    from tstk.core.pipeline import Pipeline


class CodeSoft(Forecast):
    """The future as mixtures of codes, softmax(logits / temperature) of the codebook, decoded; its distance is marked.

    The context's tokens are followed by a learned placeholder for each code to come. As in `next-code`, a token answers
    for the one after it, so a pretrained encoder and decoder fit. The gradient reaches them through the tokenizer's
    decoder, whether or not that learns.

    Args:
        distance: mse, mean square; mae, mean absolute; huber, square below `delta` and linear above
        delta: where huber turns linear
        temperature: of the mixture; small ones approach the likeliest code
    """

    needs = ("vocab", "ordered", "horizon")  # type: ignore[assignment]
    reads = "decoder"
    decoder = "linear"
    blanks = True
    foretells = True

    def __init__(
        self,
        spec: Spec,
        *,
        distance: Literal["mse", "mae", "huber"] = "mse",
        delta: float = 1.0,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(spec, distance=distance, delta=delta)
        if temperature <= 0:
            raise OptionError(f"loss.temperature={temperature}: expected more than 0")
        self.temperature = temperature
        self.placeholder = nn.Parameter(torch.randn(spec.content or 0) * 0.02)
        self.out = spec.but(target=spec.vocab, aligned=True)

    def bind(self, pipeline: Pipeline) -> None:
        """Keep the pipeline, whose tokenizer decodes."""
        self._pipeline = [pipeline]

    def split(self, tokens: Tokens, draws: Draws) -> tuple[Tokens, Tokens]:
        """Seen: the context, then placeholders, all but the last; asked: all but the first."""
        batch, count = tokens.index.shape
        ahead = tokens.ends(self.spec) > self.spec.length - (self.spec.horizon or 0)
        blank = torch.where(ahead[..., None], self.placeholder.to(tokens.values.dtype), tokens.values)
        rows = torch.arange(count - 1, device=tokens.index.device).expand(batch, -1)
        return tokens.but(values=blank).at(rows), tokens.at(rows + 1)

    def foretell(self, flow: Flow, horizon: int, samples: int | None = None) -> Tensor:
        """[1, B, C, horizon]."""
        if horizon > (self.spec.horizon or 0):
            raise OptionError(
                f"--horizon {horizon}: this run forecasts {self.spec.horizon} samples at once; "
                f"train one with --horizon {horizon}, or with loss code-rollout, which goes on"
            )
        pipeline = self._pipeline[0]
        tokenizer = pipeline.tokenizer
        assert flow.decoded is not None
        past, ahead = known(flow.tokens, tokenizer.out, pipeline.spec.length, horizon)
        start = past.index.shape[1] - 1
        asked = flow.asked.map(lambda t: t[:, start : start + ahead])
        shares = self.shares(flow.decoded[:, start : start + ahead].float(), asked)
        book = tokenizer.embed(torch.arange(tokenizer.out.vocab or 0, device=shares.device))
        return decoded(pipeline, past.values, shares.to(book.dtype) @ book, horizon)[None]

    def shares(self, logits: Tensor, asked: Tokens) -> Tensor:
        """How much of each code: [B, M, K] -> [B, M, K]."""
        return (logits / self.temperature).softmax(-1)


class CodeGumbel(CodeSoft):
    """The future as single codes, drawn with Gumbel noise in training and the likeliest afterwards.

    Straight-through (Jang et al. 2017, arXiv:1611.01144): one code is decoded, and the gradient is that of the mixture.

    Args:
        distance: mse, mean square; mae, mean absolute; huber, square below `delta` and linear above
        delta: where huber turns linear
        temperature: of the mixture at first
        coldest: where the temperature ends
        cooling: share of the temperature that is left after each step
    """

    heat: Tensor

    def __init__(
        self,
        spec: Spec,
        *,
        distance: Literal["mse", "mae", "huber"] = "mse",
        delta: float = 1.0,
        temperature: float = 1.0,
        coldest: float = 0.3,
        cooling: float = 0.998,
    ) -> None:
        super().__init__(spec, distance=distance, delta=delta, temperature=temperature)
        if not 0 < coldest <= temperature or not 0 < cooling <= 1:
            raise OptionError(
                f"loss.coldest={coldest}, temperature={temperature}, cooling={cooling}: "
                "expected 0 < coldest <= temperature and 0 < cooling <= 1"
            )
        self.coldest, self.cooling = coldest, cooling
        self.register_buffer("heat", torch.tensor(temperature))

    def split(self, tokens: Tokens, draws: Draws) -> tuple[Tokens, Tokens]:
        """As for mixtures; in training with noise per code and token."""
        seen, asked = super().split(tokens, draws)
        if self.training:
            noise = gumbel(draws.uniform(asked.index.shape[1], self.spec.vocab or 0))
            asked = asked.but(attrs={**asked.attrs, "noise": noise})
        return seen, asked

    def shares(self, logits: Tensor, asked: Tokens) -> Tensor:
        """One code each, with the gradient of the mixture."""
        if not self.training:
            return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
        soft = ((logits + asked.attrs["noise"]) / self.heat).softmax(-1)
        hard = F.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)
        return hard + (soft - soft.detach())

    def after_step(self, flows: list[Flow]) -> None:
        """Cool down."""
        self.heat.copy_((self.heat * self.cooling).clamp(min=self.coldest))
