"""The VQ-VAE as a tokenizer: convolutions down to vectors, a codebook, convolutions back to samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.core.interfaces import Tokenizer
from tstk.core.types import Flow, Series, Spec, Tokens
from tstk.errors import OptionError
from tstk.nn.codebook import Codebook
from tstk_plugins_vqvae.conv import LOOKS, Decoder, strides

PUBLISHED = {
    "block_hidden_size": "hidden",
    "num_residual_layers": "res_layers",
    "res_hidden_size": "res_hidden",
    "embedding_dim": "dim",
    "num_embeddings": "codes",
    "commitment_cost": "commitment",
    "compression_factor": "factor",
}
"""Keys of a published `vqvae_config` and our options."""
TRAINING = {"learning_rate", "num_training_updates"}
"""Keys that say how to train, which is the run's business: `--lr`, `--steps`."""


class VQVAE(Tokenizer):
    """Convolutions and a codebook: a series becomes codes, each for `factor` samples (TOTEM's VQ-VAE).

    van den Oord et al. 2017 (arXiv:1711.00937); Talukder, Yue, Gkioxari, "TOTEM" (arXiv:2402.16412). Channels are
    taken together; with `--channels independent`, each is a series of its own, as published. Series that no whole
    number of codes covers are continued by zeros that count as unobserved. Unlike the published code, codes follow
    running averages of their vectors, start from k-means, and move when hardly chosen; `update=gradient kmeans=0
    revive=0` is as published.

    Args:
        codes: number of codes
        dim: width of a code
        hidden: width of the convolutions
        res_hidden: inner width of the residual layers
        res_layers: residual layers on either side
        factor: samples per code: 4, 8, 12 or 16
        look: what a code sees beside its own samples: causal, those before; published, on both sides, so that it knows
            of its future; patch, nothing
        commitment: weight of the term that draws vectors to their codes
        update: how codes learn: ema, as running averages of their vectors; gradient, from a loss term
        decay: share of themselves that running averages keep in each step
        kmeans: rounds of k-means that place the codes after the first step; 0 leaves them random
        revive: codes chosen less often than this share of the average code are moved; 0 for never
        config: JSON file with a published `vqvae_config`, whose sizes replace those given here
    """

    synthesises = True

    def __init__(
        self,
        spec: Spec,
        *,
        codes: int = 256,
        dim: int = 64,
        hidden: int = 128,
        res_hidden: int = 64,
        res_layers: int = 2,
        factor: Literal[4, 8, 12, 16] = 4,
        look: Literal["causal", "published", "patch"] = "causal",
        commitment: float = 0.25,
        update: Literal["ema", "gradient"] = "ema",
        decay: float = 0.95,
        kmeans: int = 10,
        revive: float = 0.1,
        config: str | None = None,
    ) -> None:
        super().__init__(spec)
        size: dict[str, Any] = {"hidden": hidden, "res_hidden": res_hidden, "res_layers": res_layers, "factor": factor}
        size |= {"dim": dim, "codes": codes, "commitment": commitment}
        if config is not None:
            size |= published(config)
            self.rebuild = {**size, "config": None}
        codes, commitment, self.factor = size.pop("codes"), size.pop("commitment"), size["factor"]
        if size["hidden"] % 2:
            raise OptionError(f"tokenizer.hidden={size['hidden']}: expected an even width, of which the first half is")
        strides(self.factor)
        self.encoder = LOOKS[look](spec.channels, **size)
        self.codebook = Codebook(
            codes, size["dim"], update=update, commitment=commitment, decay=decay, kmeans=kmeans, revive=revive
        )
        self.decoder = Decoder(spec.channels, **size)
        self.reach = self.decoder.reach
        count = -(-spec.length // self.factor)
        self.out = spec.but(
            dim=size["dim"], grid=(count,), step=float(self.factor), span=float(self.factor), vocab=codes
        )

    def forward(self, series: Series) -> Tokens:
        """Tokens [B, N, dim]: codes with straight-through gradients, 0 where nothing was observed."""
        x, observed, short = series.x, series.observed, -series.x.shape[-1] % self.factor
        if short:
            x, observed = F.pad(x, (0, short)), F.pad(series.mask, (0, short))
        batch, count = x.shape[0], x.shape[-1] // self.factor
        valid, mask = torch.ones(batch, count, dtype=torch.bool, device=x.device), None
        if observed is not None:
            some = observed.any(1, keepdim=True)
            valid, mask = some.unflatten(-1, (-1, self.factor)).any(-1)[:, 0], some.to(x.dtype)
        z = self.encoder(x, mask)
        chosen = self.codebook(z, None if mask is None else valid)
        values = chosen.values if mask is None else chosen.values * valid[..., None]
        index = torch.arange(count, device=x.device).expand(batch, -1)
        kept = {"z": z.detach()} if self.codebook.training else {}
        return Tokens(
            values, index[..., None].to(x.dtype), index, valid, ids=chosen.ids, attrs=kept, aux=dict(chosen.aux)
        )

    def after_step(self, flows: list[Flow]) -> None:
        """The codebook moves; how evenly codes are chosen is logged with every batch of the step."""
        passes = [(f.tokens.attrs["z"], f.tokens.ids, f.tokens.valid) for f in flows if "z" in f.tokens.attrs]
        if passes:
            seen = self.codebook.after_step(passes)  # type: ignore[arg-type]
            for flow in flows:
                flow.logs.update(seen)

    def embed(self, ids: Tensor) -> Tensor:
        """[B, N] -> [B, N, dim]."""
        return self.codebook.embed(ids)

    def decode(self, values: Tensor, length: int) -> Tensor:
        """[B, N, dim] -> [B, C, length]; rows of zeros stand for nothing, as `forward` leaves what is invalid."""
        there = values.any(-1)
        mask = None if there.all() else there[:, None].to(values.dtype)
        return self.decoder(values, mask)[..., :length]


def published(path: str) -> dict[str, Any]:
    """Our options from a published `vqvae_config`, a JSON file; the table may lie under that key or be the whole file.

    Raises:
        OptionError: there is no such file, it is not JSON, or it has keys that are not published ones
    """
    where = f"--tokenizer.config {path}"
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise OptionError(f"{where}: {e}") from None
    table = found.get("vqvae_config", found) if isinstance(found, dict) else found
    if not isinstance(table, dict):
        raise OptionError(f"{where}: expected an object with the keys {', '.join(PUBLISHED)}")
    if unknown := sorted(table.keys() - PUBLISHED.keys() - TRAINING):
        raise OptionError(f"{where}: unknown {', '.join(unknown)}; known are {', '.join([*PUBLISHED, *TRAINING])}")
    return {ours: table[theirs] for theirs, ours in PUBLISHED.items() if theirs in table}
