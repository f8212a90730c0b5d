"""VQShape at width 256 with 512 codes: torch's transformer layers, attributes, a codebook and a shape decoder."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SHORTEST, MARGIN, POINTS = 1 / 64, 0.2, 128


def make_head(dim: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, outputs))


class ResBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.GroupNorm(16, inputs),
            nn.GELU(),
            nn.Conv1d(inputs, outputs, 3, padding=1),
            nn.GroupNorm(16, outputs),
            nn.GELU(),
            nn.Conv1d(outputs, outputs, 3, padding=1),
        )
        self.skip = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x) + self.skip(x)


class VQShape(nn.Module):
    def __init__(
        self,
        dim: int = 256,
        codes: int = 512,
        code_dim: int = 8,
        patch: int = 8,
        patches: int = 64,
        tokens: int = 64,
        heads: int = 8,
        depth: int = 4,
        decoder_depth: int = 2,
        width: int = 128,
    ) -> None:
        super().__init__()
        self.patch, self.num_dropped, self.code_dim = patch, patches // 4, code_dim
        sizes = {"d_model": dim, "nhead": heads, "dim_feedforward": 4 * dim, "activation": "gelu", "batch_first": True}
        self.project, self.positions = nn.Linear(patch, dim), nn.Parameter(torch.randn(patches, dim))
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(**sizes), depth)
        self.queries = nn.Parameter(torch.randn(1, tokens, dim) / dim)
        self.tokenizer = nn.TransformerDecoder(nn.TransformerDecoderLayer(**sizes), depth)
        self.z_head, self.place_head = make_head(dim, code_dim), make_head(dim, 2)
        self.mean_head, self.scale_head = make_head(dim, 1), make_head(dim, 1)
        self.codebook = nn.Embedding(codes, code_dim)
        nn.init.uniform_(self.codebook.weight, -1 / codes, 1 / codes)
        self.attribute_encoder = nn.Linear(code_dim + 4, dim)
        self.cls = nn.Parameter(torch.randn(1, 1, dim))
        self.decoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(**sizes), decoder_depth)
        self.out = nn.Linear(dim, patch)
        self.shape_decoder = nn.Sequential(
            nn.Linear(code_dim, 8 * width),
            nn.Unflatten(1, (width, 8)),
            ResBlock(width, width),
            nn.GELU(),
            nn.Upsample(scale_factor=4),
            nn.Conv1d(width, width, 3, padding=1),
            ResBlock(width, width // 2),
            nn.GELU(),
            nn.Upsample(scale_factor=4),
            nn.Conv1d(width // 2, width // 2, 3, padding=1),
            nn.GELU(),
            nn.Conv1d(width // 2, 1, 1),
        )

    def tokenize(self, x: Tensor) -> Tensor:
        """Return the states of the queries, [B, tokens, D]."""
        state = self.project(x.unflatten(-1, (-1, self.patch))) + self.positions
        keep = torch.rand(state.shape[:2]).argsort(1)[:, self.num_dropped :]
        state = self.encoder(state.gather(1, keep[..., None].expand(-1, -1, state.shape[-1])))
        return self.tokenizer(self.queries.expand(len(x), -1, -1), state)

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the codes with straight-through gradients, and the loss of the codebook."""
        codes = self.codebook.weight
        squares = z.square().sum(-1, keepdim=True) + codes.square().sum(-1) - 2 * z @ codes.t()
        quantized = self.codebook(squares.argmin(-1))
        p = (-squares / 0.01).softmax(-1)
        mean = p.mean((0, 1))
        entropy = -(p * p.clamp(min=1e-5).log()).sum(-1).mean() + (mean * mean.clamp(min=1e-5).log()).sum()
        loss = F.mse_loss(z, quantized.detach()) + 0.25 * F.mse_loss(quantized, z.detach()) + 0.1 * entropy
        return z + (quantized - z).detach(), loss

    def decode_shapes(self, codes: Tensor) -> Tensor:
        """Return curves of mean 0 and standard deviation 1, [B, tokens, points]."""
        curves = self.shape_decoder(codes.flatten(0, 1)).view(*codes.shape[:2], POINTS)
        return (curves - curves.mean(-1, keepdim=True)) / (curves.std(-1, keepdim=True) + 1e-8)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, 0]
        mean, std = x.mean(-1, keepdim=True), (x.var(-1, keepdim=True) + 1e-5).sqrt()
        normed = (x - mean) / std
        state = self.tokenize(normed)
        place = self.place_head(state).sigmoid()
        start = place[..., 0] * (1 - SHORTEST)
        length = place[..., 1] * (1 - start) + SHORTEST
        mu, sigma = self.mean_head(state)[..., 0], F.softplus(self.scale_head(state))[..., 0]
        codes, vq_loss = self.quantize(self.z_head(state))
        token = torch.cat([codes, torch.stack([mu, sigma, start, length], -1)], -1)
        embedded = torch.cat([self.cls.expand(len(x), -1, -1), self.attribute_encoder(token)], 1)
        series = self.out(self.decoder(embedded)[:, 1:]).flatten(1) * std + mean
        shapes = (self.decode_shapes(codes) * sigma[..., None] + mu[..., None]) * std[..., None] + mean[..., None]
        shape_loss = F.mse_loss(shapes, cut_segments(x, start, length))
        return F.mse_loss(series, x) + vq_loss + shape_loss + 0.8 * compute_diversity(start, length)


@torch.no_grad()
def cut_segments(x: Tensor, start: Tensor, length: Tensor) -> Tensor:
    """Interpolate series [B, T] at `POINTS` points of each segment, [B, tokens, POINTS]."""
    end = (start + length).clamp(max=1)
    points = start[..., None] + (end - start)[..., None] * torch.linspace(0, 1, POINTS)
    grid = torch.stack([2 * points - 1, torch.zeros_like(points)], -1)
    return F.grid_sample(x[:, None, None], grid, padding_mode="border", align_corners=True)[:, 0]


def compute_diversity(start: Tensor, length: Tensor) -> Tensor:
    radius = length.log() / math.log(SHORTEST)
    points = torch.stack([radius * (math.pi * start).cos(), radius * (math.pi * start).sin()], -1)
    hinge = F.relu(MARGIN - torch.cdist(points, points))
    return (hinge * (1 - torch.eye(hinge.shape[-1]))).mean()


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)


def train_step(model: VQShape, optimizer: torch.optim.Optimizer, x: Tensor) -> float:
    optimizer.zero_grad()
    loss = model(x)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()
