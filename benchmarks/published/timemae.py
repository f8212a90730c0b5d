"""TimeMAE at the sizes of HAR: 16 windows of 8 samples and 9 channels, width 64, 8 + 4 blocks, 192 codewords."""

from __future__ import annotations

import random
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOMENTUM, TOP = 0.99, 10


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.linears = nn.ModuleList(nn.Linear(dim, dim) for _ in range(3))
        self.out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = (
            linear(t).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for linear, t in zip(self.linears, (x, context, context), strict=True)
        )
        weights = self.dropout((q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1))
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class Residual(nn.Module):
    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.dropout = nn.LayerNorm(dim), nn.Dropout(dropout)
        self.a = nn.Parameter(torch.tensor(1e-8))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.norm(x + self.dropout(self.a * y))


class Block(nn.Module):
    """Self-attention, or cross-attention to a context, and an MLP with two dropouts in a row."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(dim, heads, dropout)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim), nn.Dropout(dropout))
        self.skip1, self.skip2 = Residual(dim, dropout), Residual(dim, dropout)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = self.skip1(x, self.attention(x, x if context is None else context))
        return self.skip2(x, self.mlp(x))


class TimeMAE(nn.Module):
    def __init__(
        self,
        channels: int = 9,
        length: int = 128,
        window: int = 8,
        dim: int = 64,
        depth: int = 8,
        decoder_depth: int = 4,
        heads: int = 4,
        codes: int = 192,
        ratio: float = 0.6,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.ratio = ratio
        self.project = nn.Conv1d(channels, dim, window, window)
        self.positions = nn.Embedding(length // window, dim)
        self.mask_token = nn.Parameter(torch.randn(dim))
        self.encoder = nn.Sequential(*(Block(dim, heads, dropout) for _ in range(depth)))
        self.teacher = deepcopy(self.encoder)
        self.center = nn.Linear(dim, codes)
        self.decoder = nn.ModuleList(Block(dim, heads, 0.1) for _ in range(decoder_depth))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                nn.init.constant_(module.bias, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.project(x).transpose(1, 2)
        ids = F.gumbel_softmax(self.center(tokens), dim=-1).argmax(-1)
        positions = self.positions.weight
        tokens = tokens + positions
        index = list(range(tokens.shape[1]))
        random.shuffle(index)
        count = len(index) - int(self.ratio * len(index))
        visible, masked = index[:count], index[count:]
        encoded = self.encoder(tokens[:, visible])
        with torch.no_grad():
            target = self.teacher(tokens[:, masked])
        queries = (self.mask_token + positions[masked]).expand(len(x), -1, -1)
        for block in self.decoder:
            queries = block(queries, encoded)
        logits, ids = self.center(queries), ids[:, masked]
        self.hits, self.gain = score(logits.detach(), ids)
        cross_entropy = F.cross_entropy(logits.flatten(0, 1), ids.flatten(), label_smoothing=0.2)
        return 5 * F.mse_loss(queries, target) + cross_entropy


def score(logits: Tensor, ids: Tensor) -> tuple[float, float]:
    """Return the number of hits, and the mean discounted gain of the ten most probable codewords."""
    hits = (logits.argmax(-1) == ids).sum().item()
    matches = logits.topk(TOP, -1).indices == ids[..., None]
    return hits, (matches / torch.arange(2.0, TOP + 2).log2()).sum(-1).mean().item()


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for n, p in model.named_parameters() if not n.startswith("teacher.")], lr=1e-3)


def train_step(model: TimeMAE, optimizer: torch.optim.Optimizer, x: Tensor) -> float:
    optimizer.zero_grad()
    loss = model(x)
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for teacher, student in zip(model.teacher.parameters(), model.encoder.parameters(), strict=True):
            teacher.copy_(MOMENTUM * teacher + (1 - MOMENTUM) * student)
    return loss.item()
