"""Pool, then one matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.core.interfaces import Head
from tstk.core.types import Spec, Tokens
from tstk.errors import NeedsError
from tstk.nn.reduce import pool_channels

if TYPE_CHECKING:
    from tstk.core.pipeline import Pipeline
    from tstk.data.datasets import Part

ABSENT = -10.0
"""Initial bias of a class without training series, where the weights come from a regression."""


class Linear(Head):
    """One linear layer over pooled tokens: the probe and the plain classifier.

    With `--channels independent` the tokens of each channel are pooled alone, and channels stand side by side.

    Args:
        pool: mean or max of valid tokens; statistics, their mean and deviation; cls, the encoder's CLS token; flatten,
            all tokens side by side
        dropout: on the pooled vector
        start: random weights; or logistic, those of a logistic regression on the features that the encoder has before
            training, which a low rate then changes little (Kumar et al. 2022)
        standardise: bring each of its numbers to mean 0 and deviation 1 first, as in a batch while training and as on
            average afterwards; for frozen features, whose sizes mean nothing
    """

    needs = ("classes",)

    def __init__(
        self,
        spec: Spec,
        *,
        pool: Literal["mean", "max", "statistics", "cls", "flatten"] = "mean",
        dropout: float = 0.0,
        start: Literal["random", "logistic"] = "random",
        standardise: bool = False,
    ) -> None:
        super().__init__(spec)
        if pool == "cls" and not spec.prefix:
            raise NeedsError(
                "--head.pool cls needs a CLS token, and this encoder adds none; switch it on with "
                "--encoder.cls, or use --head.pool mean"
            )
        self.pool, self.begin = pool, start
        self.channels = spec.grid[-1] if spec.channel_axis else 1
        vectors = {"flatten": spec.tokens, "statistics": 2 * self.channels}.get(pool, self.channels)
        width = (spec.dim or 0) * vectors
        self.scale = nn.BatchNorm1d(width, affine=False) if standardise else None
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(width, spec.classes or 0)

    def start(self, pipeline: Pipeline, train: Part) -> str:
        """Take the weights of a logistic regression, if asked."""
        if self.begin == "random":
            return ""
        from tstk.evaluation.evaluate import in_order
        from tstk.evaluation.simple_classifiers import Logistic

        assert train.y is not None
        mode = pipeline.training
        pipeline.eval()
        with torch.no_grad():
            device = self.classify.weight.device
            pooled = torch.cat([self.pooled(pipeline.encode(s)).cpu() for s in in_order(train, 256, device)]).double()
            fitted = Logistic().fit(pooled, train.y, train.groups)
            model, mean, std = fitted.model, fitted.mean, fitted.std
            if self.scale is not None:
                self.scale.load_state_dict({"running_mean": mean, "running_var": std.square()}, strict=False)
                mean, std = torch.zeros_like(mean), torch.ones_like(std)
            weight = model.weight / std[:, None]
            self.classify.weight.zero_()
            self.classify.bias.fill_(ABSENT)
            self.classify.weight[model.classes] = weight.T.to(self.classify.weight)
            self.classify.bias[model.classes] = (model.bias - mean @ weight).to(self.classify.bias)
        pipeline.train(mode)
        return f"the head starts from a logistic regression of {len(train)} series' features (C = {fitted.C:g})"

    def forward(self, tokens: Tokens) -> Tensor:
        """Logits [B, classes]."""
        pooled = self.pooled(tokens)
        if self.scale is not None:
            # statistics move here, not in after_step: a head is not run twice; and one series alone has no deviation
            known = self.scale.running_mean, self.scale.running_var
            pooled = F.batch_norm(pooled, *known, training=self.training and len(pooled) > 1)
        return self.classify(self.dropout(pooled))

    def pooled(self, tokens: Tokens) -> Tensor:
        """One vector per series, [B, W]."""
        if self.pool == "cls":
            assert tokens.prefix is not None
            return tokens.prefix.unflatten(1, (self.channels, -1)).mean(2).flatten(1)
        if self.pool == "flatten":
            return laid_out(tokens, self.spec.tokens).flatten(1)
        return pool_channels(tokens.values, tokens.valid, self.channels, self.pool)


def laid_out(tokens: Tokens, slots: int) -> Tensor:
    """Values on the whole grid, [B, slots, D]: each valid token at its index, zeros elsewhere."""
    values = tokens.values * tokens.valid[..., None]
    grid = torch.zeros(values.shape[0], slots, values.shape[-1], dtype=values.dtype, device=values.device)
    return grid.scatter_add(1, tokens.index[..., None].expand_as(values), values)
