"""MOMENT (Goswami et al., arXiv:2402.03885): the encoder of a Flan-T5 over patches of 8 samples.

The architecture of `MOMENT` in the package momentfm. Its RevIN is the instance normalisation of the pipeline, and
masked patches are left out by the losses, so its mask embedding is not used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from tstk.core.types import Series, Spec, Tokens
from tstk.nn.blocks import Dropout
from tstk.nn.linear import Linear
from tstk.nn.positions import sinusoidal_embedding
from tstk.plugins.ranges import PositiveInt
from tstk_plugins_zoo.base import PretrainedEncoder, PretrainedPatch
from tstk_plugins_zoo.chronos_bolt import make_t5_fields
from tstk_plugins_zoo.config import ModelConfig, resolve_config
from tstk_plugins_zoo.t5 import T5Stack, rename_t5_weights

_MARKS = ("t5_config",)
_GAIN = 1.41
"""Of the orthogonal initial weights of the embedding."""


class MomentTokenizer(PretrainedPatch):
    """A linear map of patches of one channel, without bias; with a checkpoint, the embedding of a MOMENT.

    Goswami et al., "MOMENT: A Family of Open Time-series Foundation Models" (arXiv:2402.03885). The released models
    were trained on 512 samples. Unlike in the package, a patch that misses some samples is embedded with zeros there
    instead of masked, and the series is normalised by the pipeline: `--instance-norm`.

    Args:
        dim: width of a token; 128 if none
        window: samples per patch; 8, as in the paper, if none
    """

    def __init__(
        self,
        spec: Spec,
        *,
        pretrained: str | None = None,
        config: str | None = None,
        dim: PositiveInt | None = None,
        window: PositiveInt | None = None,
    ) -> None:
        size = window or min(8, spec.length)
        resolved = resolve_config(
            "MOMENT",
            _MARKS,
            pretrained=pretrained,
            config=config,
            sizes={"dim": dim, "window": window},
            fields={"t5_config": {"d_model": dim or 128}, "patch_len": size, "patch_stride_len": size},
        )
        resolved.refuse("value_embedding_bias", False, "the embedding has no bias here")
        width = read_width(resolved)
        size, stride = resolved.integer("patch_len", 8), resolved.integer("patch_stride_len", 8)
        super().__init__(spec, resolved, pretrained, width, size, stride)
        self.project = Linear(self.window, width, bias=False)
        nn.init.orthogonal_(self.project.weight, gain=_GAIN)

    def extract_features(self, series: Series) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the samples."""
        return series.x, {}

    @staticmethod
    def rename_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the value embedding as `project`."""
        name = "patch_embedding.value_embedding.weight"
        return {"project.weight": state[name]} if name in state else {}


class MomentModel(nn.Module):
    """T5's layers.

    Args:
        config: of a MOMENT
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.stack = T5Stack(config.section("t5_config"))
        self.has_positions = config.flag("add_positional_embedding", True)
        self.dropout = Dropout(config.number("patch_dropout", 0.1, below=1))

    def look_up_positions(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """Return sinusoids, sines and cosines alternating, of places `index` [B, N]; [B, N, D]."""
        if not self.has_positions:
            return torch.zeros(*index.shape, self.stack.dim, dtype=dtype, device=index.device)
        return sinusoidal_embedding(index[..., None], self.stack.dim, interleaved=True).to(dtype)

    def forward(self, x: Tensor, index: Tensor, valid: Tensor) -> Tensor:
        """Encode tokens [B, N, D] at `index` [B, N]."""
        encoded: Tensor = self.stack(self.dropout(x + self.look_up_positions(index, x.dtype)), index, valid)
        return encoded


class Moment(PretrainedEncoder):
    """The encoder of a MOMENT, from scratch or with the weights of a checkpoint.

    Goswami et al., "MOMENT: A Family of Open Time-series Foundation Models" (arXiv:2402.03885): sinusoids, and the
    layers of a Flan-T5 with relative positions. With the tokenizer `moment` of the same checkpoint and
    `--instance-norm`, the output equals that of the package momentfm. Linear layers are added before and after where
    widths differ.

    Args:
        dim: width of the layers; 128 if none
        depth: number of layers; 3 if none
        heads: attention heads; 4 if none
        head_dim: width of a head; dim / heads if none
        hidden: hidden width of the gated MLP; 4 dim if none
    """

    model: MomentModel

    def __init__(
        self,
        spec: Spec,
        *,
        pretrained: str | None = None,
        config: str | None = None,
        dim: PositiveInt | None = None,
        depth: PositiveInt | None = None,
        heads: PositiveInt | None = None,
        head_dim: PositiveInt | None = None,
        hidden: PositiveInt | None = None,
        freeze: Literal["none", "all", "all-but-norms"] = "none",
        lr: float | None = None,
        out_dim: int | None = None,
    ) -> None:
        layers = {**make_t5_fields(dim, depth, heads, head_dim, hidden), "feed_forward_proj": "gated-gelu"}
        resolved = resolve_config(
            "MOMENT",
            _MARKS,
            pretrained=pretrained,
            config=config,
            sizes={"dim": dim, "depth": depth, "heads": heads, "head_dim": head_dim, "hidden": hidden},
            fields={"t5_config": layers},
        )
        read_width(resolved)
        resolved.refuse("transformer_type", "encoder_only", "only encoders are")
        super().__init__(spec, resolved, pretrained, freeze, lr)
        self.model = MomentModel(resolved)
        self.connect(self.model.stack.dim, out_dim)

    def look_up_positions(self, tokens: Tokens) -> Tensor:
        """Return the sinusoids of each token, [B, N, dim]."""
        return self.model.look_up_positions(tokens.grid_index, tokens.values.dtype)

    def forward(self, tokens: Tokens) -> Tokens:
        """Encode tokens [B, N, spec.dim] to [B, N, out.dim], zero where invalid."""
        return self.replace_values(tokens, self.model(self.project_tokens(tokens), tokens.grid_index, tokens.valid))

    @staticmethod
    def rename_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of the encoder with the names of this module's."""
        return {f"stack.{k}": v for k, v in rename_t5_weights(state).items()}


def read_width(config: ModelConfig) -> int:
    """Return the width of a MOMENT, that of its T5 where `d_model` is null.

    Raises:
        OptionError: they differ
    """
    width = config.section("t5_config").integer("d_model", 512)
    config.refuse("d_model", width, f"its T5 has {width}")
    return width
