"""TimeMAE's encoder, and the way of a BERT checkpoint into it.

A block is a BERT layer with one learned factor per sub-layer. With the factors at 1 and BERT's eps the two are the
same function, so the weights of BERT's layers move over as they are.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from tstk.builtin.encoders.transformer import Transformer
from tstk.core.types import Spec
from tstk.nn.pretrained import bert_blocks, bert_shape, bert_weights, fill, outside_norms
from tstk_plugins_timemae.init import xavier_with_bias


class TimeMAEEncoder(Transformer):
    """Post-norm Transformer whose sub-layers start closed (TimeMAE section 3.2), or with the layers of a BERT.

    Each sub-layer's sum has a learned factor that starts at `residual_scale`; `pretrained` sets it to 1. Positions
    are a learned table. Unlike the published code, each sub-layer has one dropout, not two in a row after the MLP.

    Args:
        dim: width of a token; the tokenizer's (64 in the paper), or the checkpoint's
        depth: number of layers; 8, or the checkpoint's
        heads: attention heads; 4, or the checkpoint's
        hidden: width of the MLP; 4 dim, or the checkpoint's
        eps: of the layer norms; 1e-5, or the checkpoint's
        dropout: of attention and what each sub-layer adds
        residual_scale: initial value of the learned factor on each sub-layer
        init: published, linear maps Xavier-normal with biases 0.1 and table of deviation 1; standard, the core's
        pretrained: folder, or Hugging Face hub name, of a BERT checkpoint whose layers to take
        freeze: keep the layers from learning, wholly or but for their norms
        lr: learning rate of the layers (2e-5 to 1e-4 suits a checkpoint); the run's if none
    """

    def __init__(
        self,
        spec: Spec,
        *,
        dim: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        hidden: int | None = None,
        eps: float | None = None,
        dropout: float = 0.2,
        residual_scale: float = 1e-8,
        init: Literal["published", "standard"] = "published",
        pretrained: str | None = None,
        freeze: Literal["none", "all", "all-but-norms"] = "none",
        lr: float | None = None,
    ) -> None:
        given = {"dim": dim, "depth": depth, "heads": heads, "hidden": hidden, "eps": eps}
        settled = bert_shape({k: v for k, v in given.items() if v is not None}, pretrained, whole=False)
        shape: dict[str, Any] = {"dim": spec.dim, "depth": 8, "heads": 4, "eps": 1e-5} | settled
        super().__init__(
            spec, norm="post", residual_scale=residual_scale, dropout=dropout, attention_dropout=dropout, **shape
        )
        self.dropout = nn.Dropout(0.0)  # the paper drops inside the blocks only, never whole embeddings
        self.shape, self.pretrained, self.freeze, self.lr = shape, pretrained, freeze, lr
        if init == "published":
            xavier_with_bias(self)
            assert self.table is not None
            nn.init.normal_(self.table)

    def warm_start(self) -> None:
        """Copy the checkpoint's layers and open every sub-layer; from then on a rebuild needs no checkpoint.

        Raises:
            CheckpointError: a tensor of the layers is not in the checkpoint
        """
        if self.pretrained is None:
            return
        found = {f"stack.{k}": v for k, v in bert_blocks(bert_weights(self.pretrained)).items()}
        own = [n for n, _ in self.named_parameters() if n.startswith("stack.")]
        fill(self, found, [n for n in own if not n.endswith("_scale")], self.pretrained)
        with torch.no_grad():
            for name in own:
                if name.endswith("_scale"):
                    self.get_parameter(name).fill_(1.0)
        self.rebuild = {"pretrained": None, **self.shape}

    def freezes(self) -> tuple[str, ...]:
        """The layers, as `freeze` says."""
        if self.freeze == "all-but-norms":
            return tuple(n for n in outside_norms(self) if n.startswith("stack."))
        return ("stack",) if self.freeze == "all" else ()

    def rates(self) -> dict[str, float]:
        """`lr` for the layers."""
        return {} if self.lr is None else {"stack": self.lr}
