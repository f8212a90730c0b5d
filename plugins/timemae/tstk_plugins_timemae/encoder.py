"""TimeMAE's encoder, and how to initialize it from a BERT checkpoint.

A block is a BERT layer with one learned factor per sub-layer. With factors of 1 and BERT's eps both compute the same
function, so the weights of BERT's layers can be copied unchanged.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from tstk.builtin.encoders.transformer import Transformer
from tstk.core.types import Spec
from tstk.nn.blocks import Dropout
from tstk.nn.pretrained import (
    convert_bert_layers,
    copy_parameters,
    iter_non_norm_parameters,
    load_bert_weights,
    resolve_bert_config,
)
from tstk.plugins.ranges import Depth, Fraction, PositiveInt
from tstk_plugins_timemae.init import double_mlp_dropout, init_xavier


class TimeMAEEncoder(Transformer):
    """Post-norm Transformer whose residual branches start near 0 (TimeMAE section 3.2), or with a BERT's layers.

    The output of each sub-layer is scaled by a learned factor that starts at `residual_scale`; `pretrained` sets it to
    1. Positions are a learned table. Unlike in the published code, dropout follows the MLP once, not twice in a row,
    unless `double_dropout`.

    Args:
        dim: width of a token; the tokenizer's (64 in the paper), or the checkpoint's
        depth: number of layers; 8, or the checkpoint's
        heads: attention heads; 4, or the checkpoint's
        hidden: width of the MLP; 4 dim, or the checkpoint's
        eps: eps of the layer norms; 1e-5, or the checkpoint's
        dropout: dropout on attention and on the output of each sub-layer
        double_dropout: drop the output of the MLP twice in a row, as the published code does
        residual_scale: initial value of the learned factor on each sub-layer
        init: published, linear layers Xavier-normal with biases 0.1 and a position table of standard deviation 1;
            standard, as in the encoder `transformer`
        pretrained: folder, or Hugging Face hub name, of a BERT checkpoint to copy the layers from
        freeze: freeze the layers: none, all, or all but their norms
        lr: learning rate of the layers (2e-5 to 1e-4 suits a checkpoint); the run's if none
    """

    source_options = {"pretrained": None}

    def __init__(
        self,
        spec: Spec,
        *,
        dim: PositiveInt | None = None,
        depth: Depth | None = None,
        heads: PositiveInt | None = None,
        hidden: PositiveInt | None = None,
        eps: float | None = None,
        dropout: Fraction = 0.2,
        double_dropout: bool = False,
        residual_scale: float = 1e-8,
        init: Literal["published", "standard"] = "published",
        pretrained: str | None = None,
        freeze: Literal["none", "all", "all-but-norms"] = "none",
        lr: float | None = None,
    ) -> None:
        options = {"dim": dim, "depth": depth, "heads": heads, "hidden": hidden, "eps": eps}
        resolved = resolve_bert_config(
            {k: v for k, v in options.items() if v is not None}, pretrained, with_pos_embed=False
        )
        sizes: dict[str, Any] = {"dim": spec.dim, "depth": 8, "heads": 4, "eps": 1e-5} | resolved
        super().__init__(
            spec, norm="post", residual_scale=residual_scale, dropout=dropout, attention_dropout=dropout, **sizes
        )
        if double_dropout:
            double_mlp_dropout(self.stack.blocks)
        self.dropout = Dropout(0.0)  # the paper has dropout inside the blocks only, not on the embeddings
        self.sizes, self.pretrained, self.freeze, self.lr = sizes, pretrained, freeze, lr
        if init == "published":
            init_xavier(self)
            assert self.table is not None
            nn.init.normal_(self.table)

    def init_from_pretrained(self) -> None:
        """Copy the checkpoint's layers and set all residual scales to 1; rebuilding the encoder needs no checkpoint.

        Raises:
            CheckpointError: a tensor of the layers is not in the checkpoint
        """
        if self.pretrained is None:
            return
        state_dict = {f"stack.{k}": v for k, v in convert_bert_layers(load_bert_weights(self.pretrained)).items()}
        names = [n for n, _ in self.named_parameters() if n.startswith("stack.")]
        copy_parameters(self, state_dict, [n for n in names if not n.endswith("_scale")], self.pretrained)
        with torch.no_grad():
            for name in names:
                if name.endswith("_scale"):
                    self.get_parameter(name).fill_(1.0)
        self.config_overrides = {"pretrained": None, **self.sizes}

    def pretrained_paths(self) -> tuple[str, ...]:
        """Return the path of the layers; positions and projection are not part of a checkpoint."""
        return ("stack",)

    def frozen_paths(self) -> tuple[str, ...]:
        """Return the paths of the layers that `freeze` selects."""
        if self.freeze == "all-but-norms":
            return tuple(n for n in iter_non_norm_parameters(self) if n.startswith("stack."))
        return ("stack",) if self.freeze == "all" else ()

    def lr_overrides(self) -> dict[str, float]:
        """Return `lr` for the layers, if set."""
        return {} if self.lr is None else {"stack": self.lr}
