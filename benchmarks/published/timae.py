"""Ti-MAE as its Lightning program trains it: points as tokens, attention without an output layer, one mask per step."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """A residual connection starts at the normalised input; scores are multiplied by the width of a head."""

    def __init__(self, dim: int, heads: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.dropout = nn.Dropout(dropout)

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (
            linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for linear in (self.query, self.key, self.value)
        )
        weights = (q @ k.transpose(-2, -1) * q.shape[-1]).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x)
        x = x + self.dropout(self.attend(x))
        x = self.norm2(x)
        return x + self.dropout(self.mlp(x))


class TiMAE(nn.Module):
    def __init__(
        self,
        channels: int = 1,
        length: int = 140,
        dim: int = 64,
        depth: int = 2,
        decoder_dim: int = 32,
        decoder_depth: int = 2,
        heads: int = 4,
        ratio: float = 0.75,
    ) -> None:
        super().__init__()
        self.num_visible = int(length * (1 - ratio))
        self.embed = nn.Conv1d(channels, dim, 3, padding=1)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer("positions", make_sinusoids(length + 1, dim))
        self.register_buffer("decoder_positions", make_sinusoids(length + 1, decoder_dim))
        self.encoder = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.decoder_embed = nn.Linear(dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        self.decoder = nn.Sequential(*(Block(decoder_dim, heads) for _ in range(decoder_depth)))
        self.decoder_norm = nn.LayerNorm(decoder_dim)
        self.predict = nn.Linear(decoder_dim, channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).transpose(1, 2) + self.positions[1:]
        batch, length, dim = tokens.shape
        order = torch.rand(batch, length, device=x.device).argsort(1)
        restore, keep = order.argsort(1), order[:, : self.num_visible]
        visible = tokens.gather(1, keep[..., None].expand(-1, -1, dim))
        cls = (self.cls + self.positions[:1]).expand(batch, -1, -1)
        encoded = self.decoder_embed(self.norm(self.encoder(torch.cat([cls, visible], 1))))
        mask_tokens = self.mask_token.expand(batch, length - self.num_visible, -1)
        full = torch.cat([encoded[:, 1:], mask_tokens], 1)
        full = full.gather(1, restore[..., None].expand(-1, -1, full.shape[-1]))
        full = torch.cat([encoded[:, :1], full], 1) + self.decoder_positions
        return F.mse_loss(self.predict(self.decoder_norm(self.decoder(full)))[:, 1:], x.transpose(1, 2))


def make_sinusoids(length: int, dim: int) -> Tensor:
    angles = torch.arange(length)[:, None] * 10000 ** (-torch.arange(0, dim, 2) / dim)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3)


def train_step(model: TiMAE, optimizer: torch.optim.Optimizer, x: Tensor) -> float:
    optimizer.zero_grad()
    loss = model(x)
    loss.backward()
    optimizer.step()
    return loss.item()
