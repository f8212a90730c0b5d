"""CWT-MAE-RoPE, version 0.0.5: a masked autoencoder of wavelet images with low-rank MLPs and rotary positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def make_wavelets(scales: int, length: int) -> Tensor:
    """Sample Ricker wavelets of scales 0.1, 1.1, ... at as many points as the widest needs, [scales, 1, points]."""
    widths = torch.arange(scales)[:, None] + 0.1
    points = int(min(10 * (scales - 0.9), length))
    t = torch.arange(points) - (points - 1) / 2
    squares = (t / widths).square()
    return (2 / (math.pi**0.25 * (3 * widths).sqrt() + 1e-6) * (1 - squares) * torch.exp(-squares / 2))[:, None]


class LowRankLinear(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        rank = max(32, min(inputs, outputs) // 2)
        self.v, self.u = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.u(self.v(x))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, linear: type[nn.Module]) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(linear(dim, 4 * dim), nn.GELU(), linear(4 * dim, dim))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        y = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v)
        x = x + self.out(y.transpose(1, 2).reshape(batch, tokens, dim))
        return x + self.mlp(self.norm2(x))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def make_rotary_table(positions: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines [positions, head_dim], rounded to bfloat16."""
    frequencies = 10000 ** (-torch.arange(0, head_dim, 2) / head_dim)
    angles = torch.cat([torch.arange(positions)[:, None] * frequencies] * 2, -1)
    return angles.cos().bfloat16(), angles.sin().bfloat16()


class CWTMAE(nn.Module):
    def __init__(
        self,
        length: int = 3000,
        scales: int = 64,
        patch: tuple[int, int] = (4, 50),
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        ratio: float = 0.75,
    ) -> None:
        super().__init__()
        self.patch, self.grid = patch, (scales // patch[0], length // patch[1])
        num_patches = self.grid[0] * self.grid[1]
        self.num_visible = int(num_patches * (1 - ratio))
        self.register_buffer("wavelets", make_wavelets(scales, length))
        self.embed = nn.Conv2d(3, dim, patch, patch)
        self.embed_norm = nn.LayerNorm(dim)
        self.cls, self.mask_token = nn.Parameter(torch.zeros(1, 1, dim)), nn.Parameter(torch.zeros(1, 1, decoder_dim))
        self.positions = nn.Parameter(torch.zeros(1, num_patches + 1, dim))
        self.decoder_positions = nn.Parameter(torch.zeros(1, num_patches + 1, decoder_dim))
        self.blocks = nn.ModuleList(Block(dim, heads, LowRankLinear) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.decoder_embed = nn.Linear(dim, decoder_dim)
        self.decoder_blocks = nn.ModuleList(Block(decoder_dim, decoder_heads, nn.Linear) for _ in range(decoder_depth))
        self.decoder_norm = nn.LayerNorm(decoder_dim)
        self.to_patch = nn.Linear(decoder_dim, 3 * patch[0] * patch[1])
        self.scale_conv = nn.Conv2d(decoder_dim, decoder_dim, (self.grid[0], 1))
        self.to_samples = nn.Linear(decoder_dim, patch[1])
        self.rotary = make_rotary_table(num_patches + 1, dim // heads)
        self.decoder_rotary = make_rotary_table(num_patches + 1, decoder_dim // decoder_heads)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for parameter in (self.cls, self.mask_token, self.positions, self.decoder_positions):
            nn.init.normal_(parameter, std=0.02)

    @torch.no_grad()
    def compute_image(self, x: Tensor) -> Tensor:
        """Return the normalised wavelet image of a series [B, 1, T], [B, 3, scales, T]."""
        first = F.pad(x[..., 1:] - x[..., :-1], (1, 0))
        padded = F.pad(x, (1, 1), mode="replicate")
        second = padded[..., 2:] - 2 * x + padded[..., :-2]
        views = torch.cat([x, first, second], 1).flatten(0, 1)[:, None]
        image = F.conv1d(views, self.wavelets, padding=self.wavelets.shape[-1] // 2)[..., : x.shape[-1]]
        image = image.unflatten(0, (len(x), 3))
        std, mean = torch.std_mean(image, (2, 3), keepdim=True)
        return (image - mean) / std.clamp(min=1e-5)

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return CLS and the visible tokens, their rank in a random order, and which tokens are masked."""
        tokens = self.embed_norm(self.embed(image).flatten(2).transpose(1, 2)) + self.positions[:, 1:]
        batch, count, dim = tokens.shape
        order = torch.rand(batch, count).argsort(1)
        restore, keep = order.argsort(1), order[:, : self.num_visible]
        x = tokens.gather(1, keep[..., None].expand(-1, -1, dim))
        x = torch.cat([(self.cls + self.positions[:, :1]).expand(batch, -1, -1), x], 1)
        ids = torch.cat([keep.new_zeros(batch, 1), keep + 1], 1)
        cos, sin = (table[ids][:, None].to(x.dtype) for table in self.rotary)
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.norm(x), restore, restore >= self.num_visible

    def decode(self, encoded: Tensor, restore: Tensor) -> Tensor:
        """Return the states of all patches, [B, N, decoder_dim]."""
        x = self.decoder_embed(encoded)
        mask_tokens = self.mask_token.expand(len(x), restore.shape[1] - self.num_visible, -1)
        full = torch.cat([x[:, 1:], mask_tokens], 1)
        full = full.gather(1, restore[..., None].expand(-1, -1, x.shape[-1]))
        x = torch.cat([x[:, :1], full], 1) + self.decoder_positions
        cos, sin = (table[None, None].to(x.dtype) for table in self.decoder_rotary)
        for block in self.decoder_blocks:
            x = block(x, cos, sin)
        return self.decoder_norm(x)[:, 1:]

    def forward(self, x: Tensor) -> Tensor:
        image = self.compute_image(x)
        encoded, restore, masked = self.encode(image)
        states = self.decode(encoded, restore)
        (rows, columns), (height, width) = self.grid, self.patch
        target = (
            image.reshape(len(x), 3, rows, height, columns, width).permute(0, 2, 4, 1, 3, 5).flatten(1, 2).flatten(2)
        )
        squares = (self.to_patch(states) - target).square().mean(-1)
        spectrum = (squares * masked).sum() / masked.sum()
        grid = states.transpose(1, 2).unflatten(2, self.grid)
        reduced = F.gelu(self.scale_conv(grid))[:, :, 0].transpose(1, 2)
        std, mean = torch.std_mean(x, -1, keepdim=True)
        series = self.to_samples(reduced).flatten(1)[:, None]
        return spectrum + F.mse_loss(series, (x - mean) / (std + 1e-5))


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1.5e-4, weight_decay=0.05)


def train_step(model: CWTMAE, optimizer: torch.optim.Optimizer, x: Tensor) -> float:
    optimizer.zero_grad()
    loss = model(x)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 3.0)
    optimizer.step()
    return loss.item()
