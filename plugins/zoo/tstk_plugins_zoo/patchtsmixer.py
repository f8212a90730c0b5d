"""PatchTSMixer (Ekambaram et al., arXiv:2306.09364): MLPs that mix the patches, then the features of a patch.

The architecture of `PatchTSMixerModel` in the transformers library, whose checkpoints it loads. An MLP over patches has
a weight per pair of places, so tokens are put into their cells of the grid first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.core.types import Spec, Tokens
from tstk.errors import OptionError
from tstk.nn.blocks import Dropout
from tstk.nn.linear import Linear
from tstk.plugins.ranges import PositiveInt
from tstk_plugins_zoo.base import PretrainedEncoder
from tstk_plugins_zoo.config import ModelConfig, resolve_config
from tstk_plugins_zoo.norms import build_norm, normalise
from tstk_plugins_zoo.patchtst import count_patches, describe_misfit, scale_sinusoids

_MIXERS = {"patch_mixer": "patches", "feature_mixer": "features"}
_LAYERS = {"mlp.fc1": "up", "mlp.fc2": "down", "gating_block.attn_layer": "gate"}


class MixerMLP(nn.Module):
    """An MLP over the last axis with a softmax gate.

    Args:
        dim: length of the axis
        config: of a PatchTSMixer, with the names of the transformers library
    """

    def __init__(self, dim: int, config: ModelConfig) -> None:
        super().__init__()
        hidden = dim * config.integer("expansion_factor", 2)
        self.up, self.down = Linear(dim, hidden), Linear(hidden, dim)
        self.gate = Linear(dim, dim) if config.flag("gated_attn", True) else None
        self.dropout = Dropout(config.number("dropout", 0.2, below=1))

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., dim] to [..., dim]."""
        x = self.dropout(self.down(self.dropout(F.gelu(self.up(x)))))
        return x if self.gate is None else x * self.gate(x).softmax(-1)


class MixerLayer(nn.Module):
    """Mix the patches of each feature, then the features of each patch, with residual connections.

    Args:
        num_patches: N
        config: of a PatchTSMixer, with the names of the transformers library
    """

    def __init__(self, num_patches: int, config: ModelConfig) -> None:
        super().__init__()
        dim, eps = config.integer("d_model", 8), config.number("norm_eps", 1e-5)
        norm = config.choice("norm_mlp", "LayerNorm", ("LayerNorm", "BatchNorm")).lower()
        self.patches, self.features = MixerMLP(num_patches, config), MixerMLP(dim, config)
        self.patch_norm, self.feature_norm = build_norm(norm, dim, eps), build_norm(norm, dim, eps)

    def forward(self, x: Tensor, statistics: list[Tensor]) -> Tensor:
        """Map [B, N, D] to [B, N, D]; `statistics` as for `normalise`."""
        everywhere = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        x = x + self.patches(normalise(self.patch_norm, x, everywhere, statistics).mT).mT
        return x + self.features(normalise(self.feature_norm, x, everywhere, statistics))


class MixerModel(nn.Module):
    """The layers of a PatchTSMixer, and its positions, if it has any.

    Args:
        num_patches: N
        config: of a PatchTSMixer, with the names of the transformers library
    """

    def __init__(self, num_patches: int, config: ModelConfig) -> None:
        super().__init__()
        self.dim = config.integer("d_model", 8)
        self.positions: Tensor | None = None
        if config.flag("use_positional_encoding", False):
            if config.choice("positional_encoding_type", "sincos", ("sincos", "random")) == "random":
                self.positions = nn.Parameter(torch.randn(num_patches, self.dim))
            else:
                del self.positions
                self.register_buffer("positions", scale_sinusoids(num_patches, self.dim))
        self.layers = nn.ModuleList(MixerLayer(num_patches, config) for _ in range(config.integer("num_layers", 3)))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Map a grid [B, N, D] to [B, N, D], and return the statistics of batch norms in training."""
        statistics: list[Tensor] = []
        if self.positions is not None:
            x = x + self.positions
        for layer in self.layers:
            x = layer(x, statistics)
        return x, statistics


class PatchTSMixer(PretrainedEncoder):
    """The layers of a PatchTSMixer, from scratch or with the weights of a checkpoint.

    Ekambaram et al., "TSMixer: Lightweight MLP-Mixer Model for Multivariate Time Series Forecasting"
    (arXiv:2306.09364), as `PatchTSMixerModel` of the transformers library, each channel by itself (common_channel).
    With the tokenizer `patchtst` of the same checkpoint and `--instance-norm`, the output equals the library's. Places
    without a token hold zeros. Linear layers are added before and after where widths differ.

    Args:
        dim: width of the layers; 128 if none
        depth: number of layers; 3 if none
        expansion: hidden width of an MLP as a multiple of its input; 2 if none
        norm: batchnorm or layernorm; layernorm if none
    """

    model: MixerModel

    def __init__(
        self,
        spec: Spec,
        *,
        pretrained: str | None = None,
        config: str | None = None,
        dim: PositiveInt | None = None,
        depth: PositiveInt | None = None,
        expansion: PositiveInt | None = None,
        norm: Literal["batchnorm", "layernorm"] | None = None,
        freeze: Literal["none", "all", "all-but-norms"] = "none",
        lr: float | None = None,
        out_dim: int | None = None,
    ) -> None:
        fields = {
            "d_model": dim or 128,
            "num_layers": depth or 3,
            "expansion_factor": expansion or 2,
            "norm_mlp": "BatchNorm" if norm == "batchnorm" else "LayerNorm",
            "context_length": spec.num_tokens,
            "patch_length": 1,
            "patch_stride": 1,
        }
        resolved = resolve_config(
            "PatchTSMixer",
            ("model_type=patchtsmixer",),
            pretrained=pretrained,
            config=config,
            sizes={"dim": dim, "depth": depth, "expansion": expansion, "norm": norm},
            fields=fields,
        )
        resolved.refuse("mode", "common_channel", "tokens would be mixed with other channels")
        resolved.refuse("self_attn", False, "its layers have no attention here")
        super().__init__(spec, resolved, pretrained, freeze, lr)
        num_patches = count_patches(resolved)
        if spec.num_tokens != num_patches:
            raise OptionError(describe_misfit("PatchTSMixer", resolved, spec))
        self.model = MixerModel(num_patches, resolved)
        self.connect(self.model.dim, out_dim)

    def look_up_positions(self, tokens: Tokens) -> Tensor:
        """Return the position embedding of each token, [B, N, dim]; zeros if the model has none."""
        positions = self.model.positions
        return super().look_up_positions(tokens) if positions is None else F.embedding(tokens.grid_index, positions)

    def forward(self, tokens: Tokens) -> Tokens:
        """Encode tokens [B, N, spec.dim] to [B, N, out.dim], zero where invalid."""
        placed = tokens.replace(values=self.project_tokens(tokens))
        grid, statistics = self.model(placed.to_grid((self.spec.num_tokens,)).mT)
        encoded = placed.from_grid(grid.mT)
        if statistics:
            encoded = encoded.replace(statistics={**tokens.statistics, "encoder_norms": torch.stack(statistics)})
        return self.replace_values(encoded, encoded.values)

    @staticmethod
    def rename_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of `PatchTSMixerModel` with the names of this module's."""
        renamed = {}
        for key, value in state.items():
            name = key.removeprefix("model.").removeprefix("encoder.")
            if name == "positional_encoder.position_enc":
                renamed["positions"] = value
                continue
            match = re.fullmatch(r"mlp_mixer_encoder\.mixers\.(\d+)\.(\w+_mixer)\.(.+)\.(\w+)", name)
            if not match or match[2] not in _MIXERS:
                continue
            layer, mixer = f"layers.{match[1]}", _MIXERS[match[2]]
            if match[3] in ("norm.norm", "norm.norm.batchnorm"):
                renamed[f"{layer}.{match[2].removesuffix('_mixer')}_norm.{match[4]}"] = value
            elif match[3] in _LAYERS:
                renamed[f"{layer}.{mixer}.{_LAYERS[match[3]]}.{match[4]}"] = value
        return renamed
