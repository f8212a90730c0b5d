"""Chronos-Bolt: the encoder of a T5 over patches of a series and of its observed samples.

Ansari et al., "Chronos: Learning the Language of Time Series" (arXiv:2403.07815), and the model that followed it. The
architecture of `ChronosBoltModelForForecasting` in the package chronos-forecasting, without its decoder and output
layers. Its instance norm is that of the pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from tstk.core.types import Series, Spec, Tokens
from tstk.nn.blocks import Dropout
from tstk.nn.linear import Linear
from tstk.plugins.ranges import PositiveInt
from tstk_plugins_zoo.base import PretrainedEncoder, PretrainedPatch
from tstk_plugins_zoo.config import ModelConfig, resolve_config
from tstk_plugins_zoo.t5 import T5Stack, activate, rename_t5_weights

_MARKS = ("chronos_config",)
_EMBEDDING = {"hidden_layer": "up", "output_layer": "down", "residual_layer": "skip"}


class ResidualBlock(nn.Module):
    """An MLP beside a linear map, summed.

    Args:
        inputs: width of the input
        hidden: width of the MLP
        outputs: width of the output
        activation: name of the activation function
        dropout: dropout rate of the MLP's output
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.up, self.down, self.skip = Linear(inputs, hidden), Linear(hidden, outputs), Linear(inputs, outputs)
        self.activation, self.dropout = activation, Dropout(dropout)
        for layer in (self.up, self.down, self.skip):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., inputs] to [..., outputs]."""
        return self.dropout(self.down(activate(self.up(x), self.activation))) + self.skip(x)


class ChronosBoltTokenizer(PretrainedPatch):
    """Patches of one channel and of which samples were observed, embedded by an MLP beside a linear map.

    The input of Chronos-Bolt (after Ansari et al., arXiv:2403.07815). Unlike in the package, a series is padded to
    whole patches at its end, not at its start, and is normalised by the pipeline: `--instance-norm`.

    Args:
        dim: width of a token; 128 if none
        hidden: width of the MLP; 4 dim if none
        window: samples per patch; if none, chosen for about 16 patches per series, at most 16 samples
    """

    def __init__(
        self,
        spec: Spec,
        *,
        pretrained: str | None = None,
        config: str | None = None,
        dim: PositiveInt | None = None,
        hidden: PositiveInt | None = None,
        window: PositiveInt | None = None,
    ) -> None:
        width = dim or 128
        resolved = resolve_config(
            "Chronos-Bolt",
            _MARKS,
            pretrained=pretrained,
            config=config,
            sizes={"dim": dim, "hidden": hidden, "window": window},
            fields={"d_model": width, "d_ff": hidden or 4 * width, "chronos_config": {}},
        )
        patches = resolved.section("chronos_config")
        stride = window
        if pretrained is not None or config is not None:
            window = patches.integer("input_patch_size", 16)
            stride = patches.integer("input_patch_stride", 16)
        width = resolved.integer("d_model", 512)
        super().__init__(spec, resolved, pretrained, width, window, stride, num_features=2)
        activation = resolved.choice("dense_act_fn", "relu", ("relu", "gelu", "gelu_new", "silu"))
        self.project = ResidualBlock(
            2 * self.window,
            resolved.integer("d_ff", 2048),
            width,
            activation,
            resolved.number("dropout_rate", 0.1, below=1),
        )

    def extract_features(self, series: Series) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the samples and whether each was observed, [B, 2, T]."""
        return torch.cat([series.x, series.observed_mask.to(series.x.dtype)], 1), {}

    @staticmethod
    def rename_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the input patch embedding as `project`."""
        renamed = {}
        for key, value in state.items():
            part, _, name = key.removeprefix("input_patch_embedding.").partition(".")
            if key.startswith("input_patch_embedding.") and part in _EMBEDDING:
                renamed[f"project.{_EMBEDDING[part]}.{name}"] = value
        return renamed


class ChronosBoltModel(nn.Module):
    """T5's layers over tokens, and after the last place of the grid the token REG, if the model has one.

    Args:
        config: of a Chronos-Bolt
        num_tokens: places of the grid
    """

    def __init__(self, config: ModelConfig, num_tokens: int) -> None:
        super().__init__()
        self.stack = T5Stack(config)
        self.num_tokens = num_tokens
        has_reg = config.section("chronos_config").flag("use_reg_token", False)
        self.reg = nn.Parameter(torch.randn(1, 1, self.stack.dim)) if has_reg else None

    def forward(self, x: Tensor, index: Tensor, valid: Tensor) -> Tensor:
        """Encode tokens [B, N, D] at `index` [B, N]; the result is [B, N + 1, D] with REG, which is last."""
        if self.reg is not None:
            rows = x.shape[0]
            x = torch.cat([x, self.reg.expand(rows, -1, -1).to(x.dtype)], 1)
            index = torch.cat([index, index.new_full((rows, 1), self.num_tokens)], 1)
            valid = torch.cat([valid, valid.new_ones(rows, 1)], 1)
        encoded: Tensor = self.stack(x, index, valid)
        return encoded


class ChronosBolt(PretrainedEncoder):
    """The encoder of Chronos-Bolt, from scratch or with the weights of a checkpoint.

    After Ansari et al., "Chronos: Learning the Language of Time Series" (arXiv:2403.07815): layers of a T5 with
    relative positions, and a token REG after the last patch, which is the prefix of the output here (`cls`). With the
    tokenizer `chronos-bolt` of the same checkpoint and `--instance-norm`, the output equals that of the package
    chronos-forecasting. Its decoder and quantiles are left out. Linear layers are added before and after where widths
    differ.

    Args:
        dim: width of the layers; 128 if none
        depth: number of layers; 3 if none
        heads: attention heads; 4 if none
        head_dim: width of a head; dim / heads if none
        hidden: hidden width of the MLP; 4 dim if none
    """

    model: ChronosBoltModel

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
        resolved = resolve_config(
            "Chronos-Bolt",
            _MARKS,
            pretrained=pretrained,
            config=config,
            sizes={"dim": dim, "depth": depth, "heads": heads, "head_dim": head_dim, "hidden": hidden},
            fields={**make_t5_fields(dim, depth, heads, head_dim, hidden), "chronos_config": {"use_reg_token": True}},
        )
        super().__init__(spec, resolved, pretrained, freeze, lr)
        self.model = ChronosBoltModel(resolved, spec.num_tokens)
        self.connect(self.model.stack.dim, out_dim, int(self.model.reg is not None))

    def forward(self, tokens: Tokens) -> Tokens:
        """Encode tokens [B, N, spec.dim] to [B, N, out.dim], zero where invalid; prefix [B, 1, out.dim]: REG."""
        x = self.model(self.project_tokens(tokens), tokens.grid_index, tokens.valid)
        count = tokens.values.shape[1]
        return self.replace_values(tokens, x[:, :count], x[:, count:] if self.model.reg is not None else None)

    @staticmethod
    def rename_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of the encoder with the names of this module's."""
        renamed = {f"stack.{k}": v for k, v in rename_t5_weights(state).items()}
        shared = state.get("shared.weight", state.get("encoder.embed_tokens.weight"))
        if shared is not None:
            renamed["reg"] = shared[None, -1:]
        return renamed


def make_t5_fields(
    dim: int | None, depth: int | None, heads: int | None, head_dim: int | None, hidden: int | None
) -> dict[str, int]:
    """Return the fields of a T5 of these sizes; small where None."""
    width, count = dim or 128, heads or 4
    return {
        "d_model": width,
        "num_layers": depth or 3,
        "num_heads": count,
        "d_kv": head_dim or max(width // count, 1),
        "d_ff": hidden or 4 * width,
    }
