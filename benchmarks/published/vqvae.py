"""The VQ-VAE of TOTEM: strided convolutions, a codebook without moving averages, transposed convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.ReLU(inplace=True),
            nn.Conv1d(dim, hidden, 3, padding=1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv1d(hidden, dim, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class VQVAE(nn.Module):
    """Factor 4: two samples per convolution of stride 2."""

    def __init__(
        self, hidden: int = 128, res_hidden: int = 64, layers: int = 2, dim: int = 64, codes: int = 256
    ) -> None:
        super().__init__()
        self.down1 = nn.Conv1d(1, hidden // 2, 4, 2, 1)
        self.down2 = nn.Conv1d(hidden // 2, hidden, 4, 2, 1)
        self.conv = nn.Conv1d(hidden, hidden, 3, padding=1)
        self.encoder_stack = nn.Sequential(*(Residual(hidden, res_hidden) for _ in range(layers)))
        self.pre_vq = nn.Conv1d(hidden, dim, 1)
        self.codebook = nn.Embedding(codes, dim)
        nn.init.uniform_(self.codebook.weight, -1 / codes, 1 / codes)
        self.decoder_conv = nn.Conv1d(dim, hidden, 3, padding=1)
        self.decoder_stack = nn.Sequential(*(Residual(hidden, res_hidden) for _ in range(layers)))
        self.up1 = nn.ConvTranspose1d(hidden, hidden // 2, 4, 2, 1)
        self.up2 = nn.ConvTranspose1d(hidden // 2, 1, 4, 2, 1)

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the codes [B, D, N] with straight-through gradients, the loss and the perplexity."""
        rows = z.transpose(1, 2).contiguous()
        flat, codes = rows.view(-1, rows.shape[-1]), self.codebook.weight
        squares = flat.square().sum(1, keepdim=True) + codes.square().sum(1) - 2 * flat @ codes.t()
        ids = squares.argmin(1)
        quantized = self.codebook(ids).view_as(rows)
        loss = F.mse_loss(quantized, rows.detach()) + 0.25 * F.mse_loss(rows, quantized.detach())
        usage = F.one_hot(ids, len(codes)).float().mean(0)
        perplexity = torch.exp(-(usage * (usage + 1e-10).log()).sum())
        return (rows + (quantized - rows).detach()).transpose(1, 2), loss, perplexity

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.down2(F.relu(self.down1(x))))
        z = self.pre_vq(F.relu(self.encoder_stack(self.conv(h))))
        quantized, loss, _ = self.quantize(z)
        h = F.relu(self.decoder_stack(self.decoder_conv(quantized)))
        return loss + F.mse_loss(self.up2(F.relu(self.up1(h))), x)


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-3)


def train_step(model: VQVAE, optimizer: torch.optim.Optimizer, x: Tensor) -> float:
    optimizer.zero_grad()
    loss = model(x)
    loss.backward()
    optimizer.step()
    return loss.item()
