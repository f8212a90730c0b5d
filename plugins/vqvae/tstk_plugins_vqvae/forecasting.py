"""Functions shared by the forecasting losses: select the tokens of the context, decode the tokens of the future."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

from tstk.core.interfaces import BasePipeline
from tstk.core.types import Spec, Tokens


def uniform_to_gumbel(uniform: Tensor) -> Tensor:
    """Transform multiples of 2^-24 in [0, 1) to standard Gumbel noise, finite for each of them."""
    return -(-uniform.clamp(min=2**-25).log()).log()


def select_context(tokens: Tokens, spec: Spec, length: int, horizon: int) -> tuple[Tokens, int]:
    """Return the tokens that end within a context of `length` samples, and the number of tokens that follow.

    The tokens that follow cover the remaining samples of the context and `horizon` samples after it.
    """
    stride = spec.stride or 1
    count = int(length // stride)
    rows = torch.arange(count, device=tokens.grid_index.device).expand(len(tokens.grid_index), -1)
    return tokens.gather(rows), ceil((length + horizon) / stride) - count


def decode_forecast(pipeline: BasePipeline, context_values: Tensor, future_values: Tensor, horizon: int) -> Tensor:
    """Decode the future, [B, C, horizon], from token values of the context [B, N, D] and of the future [B, M, D].

    Only those tokens of the context are decoded that the future depends on.
    """
    tokenizer = pipeline.tokenizer
    stride, num_context = int(tokenizer.out.stride or 1), context_values.shape[1]
    reach = tokenizer.receptive_field
    count = num_context if reach is None else min(num_context, reach)
    begin = pipeline.spec.length - (num_context - count) * stride
    values = torch.cat([context_values[:, num_context - count :], future_values], 1)
    return tokenizer.decode(values, begin + horizon)[..., begin:]
