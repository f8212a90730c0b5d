"""A VQ-VAE as tokenizer: a convolutional encoder, a codebook, and a convolutional decoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.core.interfaces import Tokenizer
from tstk.core.types import Series, Spec, StepOutput, Tokens
from tstk.errors import OptionError
from tstk.nn.codebook import Codebook
from tstk.plugins.ranges import Depth, PositiveInt
from tstk_plugins_vqvae.conv import ENCODERS, ConvDecoder, get_strides

PUBLISHED_KEYS = {
    "block_hidden_size": "hidden",
    "num_residual_layers": "res_layers",
    "res_hidden_size": "res_hidden",
    "embedding_dim": "dim",
    "num_embeddings": "codes",
    "commitment_cost": "commitment",
    "compression_factor": "factor",
}
"""Keys of a published `vqvae_config` -> options of `VQVAE`."""
IGNORED_KEYS = {"learning_rate", "num_training_updates"}
"""Keys about training, for which tstk has `--lr` and `--steps`."""


class VQVAE(Tokenizer):
    """Convolutions and a codebook that quantize a series to codes, each for `factor` samples (TOTEM's VQ-VAE).

    van den Oord et al. 2017 (arXiv:1711.00937); Talukder, Yue, Gkioxari, "TOTEM" (arXiv:2402.16412). All channels are
    encoded together; with `--channels independent`, each channel is a series of its own, as published. A series is
    padded to a whole number of codes with zeros that count as unobserved. Unlike the published code, codes are moving
    averages of their vectors, initialized by k-means, and rarely used codes are reset; `update=gradient kmeans_iters=0
    dead_code_threshold=0` is as published.

    Args:
        codes: number of codes
        dim: width of a code
        hidden: width of the convolutions
        res_hidden: inner width of the residual layers
        res_layers: residual layers in encoder and decoder each
        factor: samples per code: 4, 8, 12 or 16
        padding: samples that a code depends on besides its own: causal, earlier ones; published, earlier and later
            ones, which leaks the future; patch, none
        commitment: weight of the commitment loss
        update: how codes are updated: ema, as moving averages of their vectors; gradient, by a loss
        decay: decay of the moving averages
        kmeans_iters: k-means iterations that initialize the codes after the first step; 0 for random codes
        dead_code_threshold: reset codes used less often than this share of the average usage; 0 for never
        config: JSON file with a published `vqvae_config`, whose sizes override the other options
    """

    has_decoder = True

    def __init__(
        self,
        spec: Spec,
        *,
        codes: int = 256,
        dim: PositiveInt = 64,
        hidden: PositiveInt = 128,
        res_hidden: int = 64,
        res_layers: Depth = 2,
        factor: Literal[4, 8, 12, 16] = 4,
        padding: Literal["causal", "published", "patch"] = "causal",
        commitment: float = 0.25,
        update: Literal["ema", "gradient"] = "ema",
        decay: float = 0.95,
        kmeans_iters: int = 10,
        dead_code_threshold: float = 0.1,
        config: str | None = None,
    ) -> None:
        super().__init__(spec)
        sizes: dict[str, Any] = {"hidden": hidden, "res_hidden": res_hidden, "res_layers": res_layers, "factor": factor}
        sizes |= {"dim": dim, "codes": codes, "commitment": commitment}
        if config is not None:
            sizes |= read_published_config(config)
            self.config_overrides = {**sizes, "config": None}
        codes, commitment, self.factor = sizes.pop("codes"), sizes.pop("commitment"), sizes["factor"]
        if sizes["hidden"] % 2:
            raise OptionError(
                f"tokenizer.hidden={sizes['hidden']}: expected an even number; the first convolution has half the width"
            )
        get_strides(self.factor)
        self.encoder = ENCODERS[padding](spec.channels, **sizes)
        self.codebook = Codebook(
            codes,
            sizes["dim"],
            update=update,
            commitment=commitment,
            decay=decay,
            kmeans_iters=kmeans_iters,
            dead_code_threshold=dead_code_threshold,
        )
        self.decoder = ConvDecoder(spec.channels, **sizes)
        self.receptive_field = self.decoder.receptive_field
        count = -(-spec.length // self.factor)
        self.out = spec.replace(
            dim=sizes["dim"],
            grid_size=(count,),
            stride=float(self.factor),
            patch_len=float(self.factor),
            vocab_size=codes,
        )

    def forward(self, series: Series) -> Tokens:
        """Return tokens [B, N, dim]: codes with straight-through gradients, zero where nothing was observed."""
        x, observed, num_padding = series.x, series.observed, -series.x.shape[-1] % self.factor
        if num_padding:
            x, observed = F.pad(x, (0, num_padding)), F.pad(series.observed_mask, (0, num_padding))
        batch, count = x.shape[0], x.shape[-1] // self.factor
        valid, mask = torch.ones(batch, count, dtype=torch.bool, device=x.device), None
        if observed is not None:
            any_channel = observed.any(1, keepdim=True)
            valid, mask = any_channel.unflatten(-1, (-1, self.factor)).any(-1)[:, 0], any_channel.to(x.dtype)
        z = self.encoder(x, mask)
        quantized = self.codebook(z, None if mask is None else valid)
        values = quantized.values if mask is None else quantized.values * valid[..., None]
        index = torch.arange(count, device=x.device).expand(batch, -1)
        attrs = {"z": z.detach()} if self.codebook.training else {}
        return Tokens(
            values,
            index[..., None].to(x.dtype),
            index,
            valid,
            ids=quantized.ids,
            attrs=attrs,
            aux_losses=dict(quantized.aux_losses),
        )

    def after_step(self, step_outputs: list[StepOutput]) -> None:
        """Update the codebook, and log the usage of codes with every batch of the step."""
        batches = [(s.tokens.attrs["z"], s.tokens.ids, s.tokens.valid) for s in step_outputs if "z" in s.tokens.attrs]
        if batches:
            metrics = self.codebook.after_step(batches)  # type: ignore[arg-type]
            for step_output in step_outputs:
                step_output.metrics.update(metrics)

    def embed(self, ids: Tensor) -> Tensor:
        """Return the codes [B, N, dim] at ids [B, N]."""
        return self.codebook.embed(ids)

    def decode(self, values: Tensor, length: int) -> Tensor:
        """Decode [B, N, dim] to [B, C, length]; rows of zeros are invalid tokens, as `forward` returns them."""
        mask = None
        if not values[..., 0].all():  # else no row is zero, which takes less time to see
            valid = values.any(-1)
            mask = None if valid.all() else valid[:, None].to(values.dtype)
        return self.decoder(values, mask)[..., :length]


def read_published_config(path: str) -> dict[str, Any]:
    """Read options of `VQVAE` from a JSON file with a published `vqvae_config`, under that key or as the whole file.

    Raises:
        OptionError: the file does not exist, is not JSON, or has unknown keys
    """
    flag = f"--tokenizer.config {path}"
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise OptionError(f"{flag}: {e}") from None
    table = content.get("vqvae_config", content) if isinstance(content, dict) else content
    if not isinstance(table, dict):
        raise OptionError(f"{flag}: expected an object with the keys {', '.join(PUBLISHED_KEYS)}")
    if unknown := sorted(table.keys() - PUBLISHED_KEYS.keys() - IGNORED_KEYS):
        raise OptionError(
            f"{flag}: unknown {', '.join(unknown)}; known are {', '.join([*PUBLISHED_KEYS, *IGNORED_KEYS])}"
        )
    return {option: table[key] for key, option in PUBLISHED_KEYS.items() if key in table}
