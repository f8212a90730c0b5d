"""PatchTST (Nie et al., arXiv:2211.14730): patches of one channel, a linear embedding, Transformer layers.

The architecture of `PatchTSTModel` in the transformers library, whose checkpoints it loads. Its scaler is the instance
normalisation of the pipeline.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.core.types import Series, Spec, Tokens
from tstk.errors import OptionError
from tstk.nn.attention import Attention, check_heads, make_key_mask
from tstk.nn.blocks import Dropout
from tstk.nn.linear import Linear
from tstk.nn.positions import resize_pos_embed, sinusoidal_embedding
from tstk.plugins.ranges import PositiveInt
from tstk_plugins_zoo.base import PretrainedEncoder, PretrainedPatch
from tstk_plugins_zoo.config import ModelConfig, resolve_config
from tstk_plugins_zoo.norms import build_norm, normalise
from tstk_plugins_zoo.t5 import activate

_LAYER_NAMES = {
    "self_attn.q_proj": "attention.query",
    "self_attn.k_proj": "attention.key",
    "self_attn.v_proj": "attention.value",
    "self_attn.out_proj": "attention.out",
    "norm_sublayer1": "attention_norm",
    "norm_sublayer1.batchnorm": "attention_norm",
    "ff.0": "up",
    "ff.3": "down",
    "norm_sublayer3": "mlp_norm",
    "norm_sublayer3.batchnorm": "mlp_norm",
}


class PatchTSTTokenizer(PretrainedPatch):
    """A linear map of patches of one channel; with a checkpoint, the embedding of a PatchTST or PatchTSMixer.

    Nie et al., "A Time Series is Worth 64 Words" (arXiv:2211.14730). Unlike in the library, the last samples of a
    series whose length does not fit the stride are padded to a patch, where the library drops the first ones.

    Args:
        dim: width of a token; 128 if none
        window: samples per patch; if none, chosen for about 16 patches per series, at most 16 samples
        stride: samples from one patch to the next; `window` if none
    """

    def __init__(
        self,
        spec: Spec,
        *,
        pretrained: str | None = None,
        config: str | None = None,
        dim: PositiveInt | None = None,
        window: PositiveInt | None = None,
        stride: PositiveInt | None = None,
    ) -> None:
        resolved = resolve_config(
            "PatchTST or PatchTSMixer",
            ("model_type=patchtst", "model_type=patchtsmixer"),
            pretrained=pretrained,
            config=config,
            sizes={"dim": dim, "window": window, "stride": stride},
            fields={"d_model": dim or 128},
        )
        resolved.refuse("share_embedding", True, "each channel would have its own embedding")
        if pretrained is not None or config is not None:
            window, stride = resolved.integer("patch_length", 1), resolved.integer("patch_stride", 1)
        super().__init__(spec, resolved, pretrained, resolved.integer("d_model", 128), window, stride)

    def extract_features(self, series: Series) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the samples."""
        return series.x, {}

    @staticmethod
    def rename_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the input embedding of a PatchTST, or the patcher of a PatchTSMixer, as `project`."""
        renamed = {}
        for key, value in state.items():
            if match := re.fullmatch(r"(?:model\.)?encoder\.(?:embedder\.input_embedding|patcher)\.(\w+)", key):
                renamed[f"project.{match[1]}"] = value
        return renamed


class PatchTSTLayer(nn.Module):
    """Self-attention and an MLP with residual connections, normalised by batch or by layer.

    Args:
        config: of a PatchTST, with the names of the transformers library
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, heads = config.integer("d_model", 128), config.integer("num_attention_heads", 4)
        check_heads(heads, dim)
        hidden, bias = config.integer("ffn_dim", 512), config.flag("bias", True)
        norm = config.choice("norm_type", "batchnorm", ("batchnorm", "layernorm"))
        eps = config.number("norm_eps", 1e-5)
        self.activation = config.choice("activation_function", "gelu", ("gelu", "relu"))
        self.pre_norm = config.flag("pre_norm", True)
        self.attention = Attention(dim, heads, dropout=config.number("attention_dropout", 0.0, below=1))
        self.attention_norm, self.mlp_norm = build_norm(norm, dim, eps), build_norm(norm, dim, eps)
        self.up, self.down = Linear(dim, hidden, bias=bias), Linear(hidden, dim, bias=bias)
        self.path_dropout = Dropout(config.number("path_dropout", 0.0, below=1))
        self.mlp_dropout = Dropout(config.number("ff_dropout", 0.0, below=1))

    def forward(self, x: Tensor, valid: Tensor, mask: Tensor | None, statistics: list[Tensor]) -> Tensor:
        """Map [B, N, D] to [B, N, D]; `statistics` as for `normalise`, `mask` from `make_key_mask`."""

        def mlp(y: Tensor) -> Tensor:
            return self.down(self.mlp_dropout(activate(self.up(y), self.activation)))

        def norm(layer: nn.Module, y: Tensor) -> Tensor:
            return normalise(layer, y, valid, statistics)

        if self.pre_norm:
            x = x + self.path_dropout(self.attention(norm(self.attention_norm, x), mask=mask))
            return x + self.path_dropout(mlp(norm(self.mlp_norm, x)))
        x = norm(self.attention_norm, x + self.path_dropout(self.attention(x, mask=mask)))
        return norm(self.mlp_norm, x + self.path_dropout(mlp(x)))


class PatchTSTModel(nn.Module):
    """Positions, CLS token and layers of a PatchTST.

    Args:
        config: of a PatchTST, with the names of the transformers library
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dim = config.integer("d_model", 128)
        rows = count_patches(config)
        has_cls = config.flag("use_cls_token", False)
        self.cls = nn.Parameter(torch.empty(1, 1, self.dim)) if has_cls else None
        if self.cls is not None:
            nn.init.normal_(self.cls, std=0.02)
        if config.choice("positional_encoding_type", "sincos", ("sincos", "random")) == "random":
            self.positions: Tensor = nn.Parameter(torch.randn(rows + has_cls, self.dim))
        else:
            self.register_buffer("positions", scale_sinusoids(rows + has_cls, self.dim))
        self.dropout = Dropout(config.number("positional_dropout", 0.0, below=1))
        self.layers = nn.ModuleList(PatchTSTLayer(config) for _ in range(config.integer("num_hidden_layers", 3)))

    def look_up_positions(self, index: Tensor) -> Tensor:
        """Return the position embeddings of tokens at `index` [B, N] long, [B, N, D]."""
        return F.embedding(index + (self.cls is not None), self.positions)

    def forward(self, x: Tensor, index: Tensor, valid: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encode tokens.

        Args:
            x: [B, N, D], without positions
            index: [B, N] long, places in the grid
            valid: [B, N] bool

        Returns:
            [B, N, D], or [B, 1 + N, D] with a CLS token, and the statistics of batch norms in training
        """
        x = self.dropout(x + self.look_up_positions(index))
        if self.cls is not None:
            x = torch.cat([(self.cls + self.positions[0]).expand(x.shape[0], -1, -1), x], 1)
            valid = torch.cat([valid.new_ones(x.shape[0], 1), valid], 1)
        statistics: list[Tensor] = []
        mask = make_key_mask(valid)
        for layer in self.layers:
            x = layer(x, valid, mask, statistics)
        return x, statistics


class PatchTST(PretrainedEncoder):
    """The layers of a PatchTST, from scratch or with the weights of a checkpoint.

    Nie et al., "A Time Series is Worth 64 Words" (arXiv:2211.14730), as `PatchTSTModel` of the transformers library:
    batch norm before each sub-layer, fixed sinusoids of deviation 0.1. With the tokenizer `patchtst` of the same
    checkpoint and `--instance-norm`, the output equals the library's. Tokens are numbered by their place in the grid,
    and invalid ones are neither attended to nor counted by the batch norms. Linear layers are added before and after
    where widths differ.

    Args:
        dim: width of the layers; 128 if none
        depth: number of layers; 3 if none
        heads: attention heads; 4 if none
        hidden: hidden width of the MLP; 4 dim if none
        norm: batchnorm or layernorm; batchnorm if none
        cls: prepend a CLS token; false if none
    """

    model: PatchTSTModel

    def __init__(
        self,
        spec: Spec,
        *,
        pretrained: str | None = None,
        config: str | None = None,
        dim: PositiveInt | None = None,
        depth: PositiveInt | None = None,
        heads: PositiveInt | None = None,
        hidden: PositiveInt | None = None,
        norm: Literal["batchnorm", "layernorm"] | None = None,
        cls: bool | None = None,
        freeze: Literal["none", "all", "all-but-norms"] = "none",
        lr: float | None = None,
        out_dim: int | None = None,
    ) -> None:
        width = dim or 128
        fields = {
            "d_model": width,
            "num_hidden_layers": depth or 3,
            "num_attention_heads": heads or 4,
            "ffn_dim": hidden or 4 * width,
            "norm_type": norm or "batchnorm",
            "use_cls_token": bool(cls),
            "context_length": spec.num_tokens,
        }
        resolved = resolve_config(
            "PatchTST",
            ("model_type=patchtst",),
            pretrained=pretrained,
            config=config,
            sizes={"dim": dim, "depth": depth, "heads": heads, "hidden": hidden, "norm": norm, "cls": cls},
            fields=fields,
        )
        resolved.refuse("channel_attention", False, "tokens would attend to other channels")
        super().__init__(spec, resolved, pretrained, freeze, lr)
        if spec.num_tokens > count_patches(resolved):
            raise OptionError(describe_misfit("PatchTST", resolved, spec))
        self.model = PatchTSTModel(resolved)
        self.connect(self.model.dim, out_dim, int(self.model.cls is not None))

    def look_up_positions(self, tokens: Tokens) -> Tensor:
        """Return the position embedding of each token, [B, N, dim]."""
        return self.model.look_up_positions(tokens.grid_index)

    def forward(self, tokens: Tokens) -> Tokens:
        """Encode tokens [B, N, spec.dim] to [B, N, out.dim], zero where invalid; prefix [B, 1, out.dim] with cls."""
        x, statistics = self.model(self.project_tokens(tokens), tokens.grid_index, tokens.valid)
        if statistics:
            tokens = tokens.replace(statistics={**tokens.statistics, "encoder_norms": torch.stack(statistics)})
        start = self.out.num_prefix_tokens
        return self.replace_values(tokens, x[:, start:], x[:, :start] if start else None)

    def load_pretrained(self, state: Mapping[str, Tensor], old_spec: Spec) -> None:
        """Load a state dict strictly, after interpolating a position table of another length."""
        state, name = dict(state), "model.positions"
        start = self.out.num_prefix_tokens
        if name in state and len(state[name]) != len(self.model.positions):
            old_size, new_size = len(state[name]) - start, len(self.model.positions) - start
            state[name] = resize_pos_embed(state[name], (old_size,), (new_size,), start)
        super().load_pretrained(state, old_spec)

    @staticmethod
    def rename_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of `PatchTSTModel` with the names of this module's."""
        renamed = {}
        for key, value in state.items():
            name = key.removeprefix("model.").removeprefix("encoder.")
            match = re.fullmatch(r"layers\.(\d+)\.(.+)\.(\w+)", name)
            if match and match[2] in _LAYER_NAMES:
                renamed[f"layers.{match[1]}.{_LAYER_NAMES[match[2]]}.{match[3]}"] = value
            elif name == "positional_encoder.position_enc":
                renamed["positions"] = value
            elif name == "positional_encoder.cls_token":
                renamed["cls"] = value[0]
        return renamed


def count_patches(config: ModelConfig) -> int:
    """Return the number of patches that a PatchTST or PatchTSMixer was built for."""
    window, stride = config.integer("patch_length", 1), config.integer("patch_stride", 1)
    return (max(config.integer("context_length", 32), window) - window) // stride + 1


def describe_misfit(model: str, config: ModelConfig, spec: Spec) -> str:
    """Return a message that these are not the tokens that a PatchTST or PatchTSMixer was built for."""
    length = config.integer("context_length", 32)
    return (
        f"this {model} was made for series of {length} samples, {count_patches(config)} patches, and gets "
        f"{spec.num_tokens} tokens; state the length with --length {length} (--context to forecast), use the tokenizer "
        "'patchtst' with the same checkpoint, or choose another checkpoint"
    )


def scale_sinusoids(rows: int, dim: int) -> Tensor:
    """Return the fixed positions of the library, [rows, dim]: interleaved sinusoids with mean 0 and deviation 0.1."""
    with torch.device("cpu"):  # these functions import torch's compiler on the meta device
        table = sinusoidal_embedding(torch.arange(rows)[None, :, None], dim, interleaved=True)[0]
        table = table - table.mean()
        table /= table.std() * 10
    return torch.empty(rows, dim).copy_(table)
