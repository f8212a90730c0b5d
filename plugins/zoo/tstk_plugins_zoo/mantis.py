"""Mantis (Feofanov et al., arXiv:2502.15637): tokens of convolutions and statistics of each patch, and a ViT.

The architecture of `MantisV1` (Mantis-8M) in the package mantis-tsfm, without the projector of its pretraining.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.builtin.tokenizers.patch import choose_window
from tstk.core.types import Series, Spec, Tokens
from tstk.errors import OptionError
from tstk.nn.blocks import Dropout
from tstk.nn.linear import Linear
from tstk.nn.positions import sinusoidal_embedding
from tstk.nn.resample import fill_gaps, interpolate_samples, observed_lengths
from tstk.plugins.ranges import PositiveInt
from tstk_plugins_zoo.attention import WideAttention, mask_scores
from tstk_plugins_zoo.base import PretrainedEncoder, PretrainedPatch
from tstk_plugins_zoo.config import ModelConfig, resolve_config

_MARKS = ("hidden_dim_scalar_enc", "transf_depth")
_SCALES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4)
_STD_EPS = 1e-5
_SCALAR_EPS = 1e-15
_LAYER_NAMES = {
    "0.norm": "attention_norm",
    "0.fn.to_out.0": "attention.out",
    "1.norm": "mlp_norm",
    "1.fn.net.0": "up",
    "1.fn.net.3": "down",
}


class ScalarEncoder(nn.Module):
    """An embedding of a number of any size: one per scale, weighted by how near the number is to the scale.

    After "Numerically Multi-scaled Embedding" (arXiv:2310.07402).

    Args:
        scales: positive, K of them
        dim: width D of the embedding
        epsilon: more than 1, keeps the weights finite
    """

    scales: Tensor

    def __init__(self, scales: list[float], dim: int, epsilon: float) -> None:
        super().__init__()
        self.register_buffer("scales", torch.tensor(scales))
        self.epsilon = epsilon
        self.slope, self.offset = nn.Parameter(torch.rand(len(scales), dim)), nn.Parameter(torch.rand(len(scales), dim))
        self.norm_weight = nn.Parameter(torch.ones(len(scales), dim))
        self.norm_bias = nn.Parameter(torch.zeros(len(scales), dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map numbers [..., 1] to embeddings [..., D]."""
        weights = 1 / (x.abs() / self.scales + self.epsilon).log().abs()
        weights = weights / weights.sum(-1, keepdim=True)
        embeddings = x[..., None] * self.slope + self.scales[:, None] * self.offset
        normed = F.layer_norm(embeddings, embeddings.shape[-1:], eps=_SCALAR_EPS) * self.norm_weight + self.norm_bias
        return (normed * weights[..., None]).sum(-2)


class PatchEmbedding(nn.Module):
    """Mean features of a patch, with the mean and the deviation of its samples, mapped to a token.

    Args:
        dim: width of a token, and of each of the two kinds of features
        window: samples per patch
        scalar_dim: width of the embedding of a statistic
        scales: of these embeddings
        epsilon: of these embeddings
    """

    def __init__(self, dim: int, window: int, scalar_dim: int, scales: list[float], epsilon: float) -> None:
        super().__init__()
        self.dim, self.window = dim, window
        self.mean, self.std = ScalarEncoder(scales, scalar_dim, epsilon), ScalarEncoder(scales, scalar_dim, epsilon)
        self.linear = Linear(2 * (dim + scalar_dim), dim)
        self.norm = nn.LayerNorm(dim, eps=_SCALAR_EPS)

    def forward(self, patches: Tensor) -> Tensor:
        """Map patches of features, samples and observed [..., (2 dim + 2) window] to tokens [..., dim]."""
        patches = patches.unflatten(-1, (-1, self.window))
        features, x, observed = patches.split([2 * self.dim, 1, 1], -2)
        features = (features * observed).sum(-1) / observed.sum(-1).clamp(min=1)
        mean, std = compute_mean_std(x, observed)
        statistics = torch.cat([self.mean(mean[..., 0]), self.std(std[..., 0])], -1)
        return self.norm(self.linear(torch.cat([features, statistics], -1)))


class MantisTokenizer(PretrainedPatch):
    """Tokens of a convolution over the samples, one over their differences, and the mean and deviation of each patch.

    Feofanov et al., "Mantis: Lightweight Calibrated Foundation Model for User-Friendly Time Series Classification"
    (arXiv:2502.15637). The released model was trained on series resampled to 512 samples: `samples=512`. A token
    depends on samples next to its patch, so use `patch` for masked pretraining. Missing samples are left out of all
    statistics and are zero in the convolutions; before resampling, gaps are filled by linear interpolation.

    Args:
        dim: width of a token; 128 if none
        window: samples per patch; if none, chosen for about 16 patches per series, at most 16 samples
        scalar_dim: width of the embeddings of mean and deviation; 32 if none
        samples: resample each series to this number of samples first, linearly; not at all if none
    """

    invertible = False  # patches may be of a resampled series

    def __init__(
        self,
        spec: Spec,
        *,
        pretrained: str | None = None,
        config: str | None = None,
        dim: PositiveInt | None = None,
        window: PositiveInt | None = None,
        scalar_dim: PositiveInt | None = None,
        samples: PositiveInt | None = None,
    ) -> None:
        resampled = spec.replace(length=samples or spec.length)
        resolved = resolve_config(
            "Mantis",
            _MARKS,
            pretrained=pretrained,
            config=config,
            sizes={"dim": dim, "window": window, "scalar_dim": scalar_dim},
            fields={
                "hidden_dim": dim or 128,
                "seq_len": window or choose_window(resampled.length),
                "num_patches": 1,
                "hidden_dim_scalar_enc": scalar_dim or 32,
            },
        )
        length, patches = resolved.integer("seq_len", 512), resolved.integer("num_patches", 32)
        if length % patches:
            raise OptionError(f"{resolved.source} has seq_len {length}, which is no multiple of num_patches {patches}")
        width, size = resolved.integer("hidden_dim", 256), length // patches
        if (epsilon := resolved.number("epsilon_scalar_enc", 1.1)) <= 1:
            raise OptionError(f"{resolved.source} has epsilon_scalar_enc {epsilon:g}; expected more than 1")
        super().__init__(resampled, resolved, pretrained, width, size)
        self.samples = samples
        if samples is not None:
            self.spec = spec
            self.out = self.out.replace(length=spec.length, stride=None, patch_len=None)
        kernel = size + 1 - size % 2
        self.conv_diff, self.conv = (nn.Conv1d(1, width, kernel, padding=kernel // 2) for _ in range(2))
        self.norm_diff, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project = PatchEmbedding(
            width,
            size,
            resolved.integer("hidden_dim_scalar_enc", 32),
            resolved.numbers("scalar_scales", _SCALES),
            epsilon,
        )

    def forward(self, series: Series) -> Tokens:
        """Return tokens [B, N, dim]; targets are the samples of the patch, after resampling."""
        if self.samples is not None:
            series = resample(series, self.samples)
        return super().forward(series)

    def extract_features(self, series: Series) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the features of differences and samples, the samples, and which were observed, [B, 2 dim + 2, T]."""
        observed = series.observed_mask.to(series.x.dtype)
        x = series.x * observed
        # the difference to the next sample, 0 at the last one and before a gap
        diff = F.pad(x.diff(dim=-1) * observed[..., 1:], (0, 1)) * observed
        features = [
            norm(conv(standardize(y, observed)).mT).mT
            for y, conv, norm in ((diff, self.conv_diff, self.norm_diff), (x, self.conv, self.norm))
        ]
        return torch.cat([*features, x, observed], 1), {}

    @staticmethod
    def rename_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of the token generator with the names of this tokenizer's."""
        state = {k.removeprefix("tokgen_unit."): v for k, v in state.items() if k.startswith("tokgen_unit.")}
        renamed = {}
        for index, name in enumerate(("conv_diff", "conv")):
            for leaf in ("weight", "bias"):
                renamed[f"{name}.{leaf}"] = state.get(f"convs.{index}.conv.{leaf}")
                renamed[f"{name.replace('conv', 'norm')}.{leaf}"] = state.get(f"layer_norms.{index}.{leaf}")
        for index, name in enumerate(("mean", "std")):
            prefix = f"scalar_encoders.{index}"
            renamed[f"project.{name}.scales"] = state.get(f"{prefix}.scales")
            for ours, theirs in (("slope", "w"), ("offset", "b")):
                renamed[f"project.{name}.{ours}"] = _stack(state, f"{prefix}.encoders", theirs, torch.cat)
            for leaf in ("weight", "bias"):
                rows = _stack(state, f"{prefix}.encoders", f"layer_norm.{leaf}", torch.stack)
                renamed[f"project.{name}.norm_{leaf}"] = rows
        for leaf in ("weight", "bias"):
            renamed[f"project.linear.{leaf}"] = state.get(f"linear_encoder.linear.{leaf}")
            renamed[f"project.norm.{leaf}"] = state.get(f"linear_encoder.layer_norm.{leaf}")
        return {k: v for k, v in renamed.items() if v is not None}


def _stack(state: Mapping[str, Tensor], prefix: str, name: str, join: Any) -> Tensor | None:
    """Return the tensors PREFIX.0.NAME, PREFIX.1.NAME, ... in one; None if there are none."""
    rows: list[Tensor] = []
    while (row := state.get(f"{prefix}.{len(rows)}.{name}")) is not None:
        rows.append(row)
    return join(rows) if rows else None


class MantisLayer(nn.Module):
    """Self-attention with wide heads, then an MLP; pre-norm.

    Args:
        config: of a Mantis
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, heads = config.integer("hidden_dim", 256), config.integer("transf_num_heads", 8)
        head_dim, hidden = config.integer("transf_dim_head", 128), config.integer("transf_mlp_dim", 512)
        dropout = config.number("transf_dropout", 0.1, below=1)
        if heads == 1 and head_dim == dim:
            raise OptionError(f"{config.source} has a single head as wide as a token, which is not supported; use 2")
        self.attention_norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = WideAttention(dim, heads, head_dim, scale=head_dim**-0.5, dropout=dropout, out_bias=True)
        self.up, self.down, self.dropout = Linear(dim, hidden), Linear(hidden, dim), Dropout(dropout)

    def forward(self, x: Tensor, scores: Tensor) -> Tensor:
        """Map [B, N, D] to [B, N, D]; `scores` as for `WideAttention`."""
        x = x + self.dropout(self.attention(self.attention_norm(x), scores))
        return x + self.dropout(self.down(self.dropout(F.gelu(self.up(self.mlp_norm(x))))))


class MantisModel(nn.Module):
    """The CLS token, sinusoids and layers of a Mantis.

    Args:
        config: of a Mantis
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dim = config.integer("hidden_dim", 256)
        self.cls = nn.Parameter(torch.randn(self.dim))
        self.layers = nn.ModuleList(MantisLayer(config) for _ in range(config.integer("transf_depth", 6)))
        self.dropout = Dropout(config.number("transf_dropout", 0.1, below=1))

    def look_up_positions(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """Return sinusoids, sines and cosines alternating, of places `index` [B, N] after the CLS token; [B, N, D]."""
        return sinusoidal_embedding(index[..., None] + 1, self.dim, interleaved=True).to(dtype)

    def forward(self, x: Tensor, index: Tensor, valid: Tensor) -> Tensor:
        """Encode tokens [B, N, D] at `index` [B, N], and the CLS token, which is first: [B, 1 + N, D]."""
        x = x + self.look_up_positions(index, x.dtype)
        start = self.cls + self.look_up_positions(index.new_full((1, 1), -1), x.dtype)
        x = self.dropout(torch.cat([start.expand(x.shape[0], -1, -1), x], 1))
        scores = mask_scores(None, torch.cat([valid.new_ones(x.shape[0], 1), valid], 1), x.dtype)
        for layer in self.layers:
            x = layer(x, scores)
        return x


class Mantis(PretrainedEncoder):
    """The ViT of a Mantis with its CLS token, from scratch or with the weights of a checkpoint.

    Feofanov et al., "Mantis: Lightweight Calibrated Foundation Model for User-Friendly Time Series Classification"
    (arXiv:2502.15637). With the tokenizer `mantis` of the same checkpoint, the CLS token equals the output of the
    package mantis-tsfm; `--head.pool cls` classifies by it. Linear layers are added before and after where widths
    differ.

    Args:
        dim: width of the layers; 128 if none
        depth: number of layers; 3 if none
        heads: attention heads; 4 if none
        head_dim: width of a head; dim / 2 if none
        hidden: hidden width of the MLP; 2 dim if none
    """

    model: MantisModel

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
        width = dim or 128
        resolved = resolve_config(
            "Mantis",
            _MARKS,
            pretrained=pretrained,
            config=config,
            sizes={"dim": dim, "depth": depth, "heads": heads, "head_dim": head_dim, "hidden": hidden},
            fields={
                "hidden_dim": width,
                "transf_depth": depth or 3,
                "transf_num_heads": heads or 4,
                "transf_dim_head": head_dim or max(width // 2, 1),
                "transf_mlp_dim": hidden or 2 * width,
            },
        )
        super().__init__(spec, resolved, pretrained, freeze, lr)
        self.model = MantisModel(resolved)
        self.connect(self.model.dim, out_dim, num_prefix_tokens=1)

    def look_up_positions(self, tokens: Tokens) -> Tensor:
        """Return the sinusoids of each token, [B, N, dim]."""
        return self.model.look_up_positions(tokens.grid_index, tokens.values.dtype)

    def forward(self, tokens: Tokens) -> Tokens:
        """Encode tokens [B, N, spec.dim] to [B, N, out.dim], zero where invalid; prefix [B, 1, out.dim]: CLS."""
        x = self.model(self.project_tokens(tokens), tokens.grid_index, tokens.valid)
        return self.replace_values(tokens, x[:, 1:], x[:, :1])

    @staticmethod
    def rename_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of the ViT with the names of this module's."""
        renamed = {}
        for key, value in state.items():
            name = re.sub(r"^(vit|transf)_unit\.", "", key)
            match = re.fullmatch(r"transformer\.layers\.(\d+)\.(.+)\.(\w+)", name)
            if name == "cls_token":
                renamed["cls"] = value
            elif match and match[2] == "0.fn.to_qkv":
                for ours, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                    renamed[f"layers.{match[1]}.attention.{ours}.weight"] = rows
            elif match and match[2] in _LAYER_NAMES:
                renamed[f"layers.{match[1]}.{_LAYER_NAMES[match[2]]}.{match[3]}"] = value
        return renamed


def resample(series: Series, samples: int) -> Series:
    """Interpolate each series, up to its last observed sample, as `torch.nn.functional.interpolate` does.

    A sample of the result [B, C, samples] is observed if one of its two neighbours was.
    """
    lengths = observed_lengths(series.observed_mask)[:, None]
    centres = (torch.arange(samples, device=series.x.device) + 0.5) / samples
    positions = (centres * lengths - 0.5).clamp(min=0).minimum((lengths - 1).clamp(min=0))
    observed = interpolate_samples(series.observed_mask.to(series.x.dtype), positions) > 0
    filled = series.x if series.observed is None else fill_gaps(series.x, series.observed)
    return series.replace(x=interpolate_samples(filled, positions), observed=observed)


def compute_mean_std(x: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the unbiased deviation of the observed samples along the last axis, [..., 1] each.

    Args:
        x: [..., T]
        observed: [..., T], ones and zeros
    """
    count = observed.sum(-1, keepdim=True)
    mean = (x * observed).sum(-1, keepdim=True) / count.clamp(min=1)
    squares = ((x - mean).square() * observed).sum(-1, keepdim=True)
    # the gradient of a root at 0 would be infinite
    std = torch.where(squares > 0, squares, 1).sqrt() * (squares > 0)
    return mean, std / (count - 1).clamp(min=1).sqrt()


def standardize(x: Tensor, observed: Tensor) -> Tensor:
    """Return the series [B, C, T] with mean 0 and deviation 1 over its observed samples, and 0 elsewhere."""
    mean, std = compute_mean_std(x, observed)
    return (x - mean) / (std + _STD_EPS) * observed
