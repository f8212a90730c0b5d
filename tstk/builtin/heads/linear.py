"""A linear head on pooled tokens."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.core.batches import split_rows
from tstk.core.interfaces import BasePipeline, Head
from tstk.core.types import Spec, Split, Tokens
from tstk.errors import IncompatibleError
from tstk.nn.logistic_regression import LogisticRegression
from tstk.nn.reduce import pool_channels
from tstk.plugins.ranges import Fraction

ABSENT_CLASS_BIAS = -10.0
"""Initial bias of a class without training series, with weights from a logistic regression."""


class Linear(Head):
    """Linear layer on pooled tokens, for linear probes and fine-tuning.

    With `--channels independent` the tokens of each channel are pooled separately and the channels concatenated.

    Args:
        pool: mean or max of valid tokens; statistics, their mean and standard deviation; cls, the encoder's CLS token;
            flatten, all tokens concatenated
        dropout: dropout rate of the pooled vector
        init: random weights; or logistic, those of a logistic regression on the encoder's features before training,
            to be fine-tuned at a low learning rate (Kumar et al. 2022)
        standardize: batch-normalise the pooled vector, without learned parameters; for frozen features, whose scale
            is arbitrary
    """

    needs = ("num_outputs",)
    target_types = ("class", "labels", "numbers")

    def __init__(
        self,
        spec: Spec,
        *,
        pool: Literal["mean", "max", "statistics", "cls", "flatten"] = "mean",
        dropout: Fraction = 0.0,
        init: Literal["random", "logistic"] = "random",
        standardize: bool = False,
    ) -> None:
        super().__init__(spec)
        if pool == "cls" and not spec.num_prefix_tokens:
            raise IncompatibleError(
                "--head.pool cls needs a CLS token, but this encoder has none; add one with --encoder.cls, or use "
                "--head.pool mean"
            )
        self.pool, self.init = pool, init
        self.channels = spec.grid_size[-1] if spec.channel_axis else 1
        num_vectors = {"flatten": spec.num_tokens, "statistics": 2 * self.channels}.get(pool, self.channels)
        width = (spec.dim or 0) * num_vectors
        self.feature_norm = nn.BatchNorm1d(width, affine=False) if standardize else None
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(width, spec.num_outputs or 0)

    def init_from_data(self, pipeline: BasePipeline, train_split: Split) -> str:
        """Set the weights to those of a logistic regression if `init` is `logistic`; return a note for the user."""
        if self.init == "random":
            return ""
        assert train_split.y is not None
        if train_split.y.ndim > 1:
            raise IncompatibleError("--head.init logistic: is for classes; use --head.init random")
        was_training = pipeline.training
        pipeline.eval()
        with torch.no_grad():
            device = self.classify.weight.device
            batches = (train_split.batch(rows).to(device) for rows in split_rows(train_split, 256))
            pooled = torch.cat([self.pool_tokens(pipeline.encode(series)).cpu() for series in batches]).double()
            regression = LogisticRegression().fit(pooled, train_split.y, train_split.groups)
            model, mean, std = regression.model, regression.standardizer.mean, regression.standardizer.std
            if self.feature_norm is not None:
                self.feature_norm.load_state_dict({"running_mean": mean, "running_var": std.square()}, strict=False)
                mean, std = torch.zeros_like(mean), torch.ones_like(std)
            weight = model.weight / std[:, None]
            self.classify.weight.zero_()
            self.classify.bias.fill_(ABSENT_CLASS_BIAS)
            self.classify.weight[model.classes] = weight.T.to(self.classify.weight)
            self.classify.bias[model.classes] = (model.bias - mean @ weight).to(self.classify.bias)
        pipeline.train(was_training)
        return (
            f"the head is initialised by a logistic regression on the features of {len(train_split)} series "
            f"(C = {regression.C:g})"
        )

    def forward(self, tokens: Tokens) -> Tensor:
        """Return logits, or standardized numbers, [B, num_outputs]."""
        pooled = self.pool_tokens(tokens)
        if self.feature_norm is not None:
            # Running statistics are updated here, not in after_step, since a head is never run twice in a step. A batch
            # of one series has no variance, so it is normalised as in eval mode.
            running_stats = self.feature_norm.running_mean, self.feature_norm.running_var
            pooled = F.batch_norm(pooled, *running_stats, training=self.training and len(pooled) > 1)
        return self.classify(self.dropout(pooled))

    def pool_tokens(self, tokens: Tokens) -> Tensor:
        """Return one vector per series, [B, W]."""
        if self.pool == "cls":
            assert tokens.prefix is not None
            return tokens.prefix.unflatten(1, (self.channels, -1)).mean(2).flatten(1)
        if self.pool == "flatten":
            return tokens.to_grid((self.spec.num_tokens,)).mT.flatten(1)
        return pool_channels(tokens.values, tokens.valid, self.channels, self.pool)
