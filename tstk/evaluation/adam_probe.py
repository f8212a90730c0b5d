"""A linear classifier trained by Adam with dropout on what it reads, in many settings at once (how VQShape is
scored)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

Array = NDArray[Any]

DECAYS = (100.0, 10.0, 1.0, 0.1, 0.01, 0.0)
DROPOUTS = (0.8, 0.5, 0.2, 0.0)
EPOCHS = 100
SEEDS = (0, 1234, 42, 8237, 2024)
"""The published grid, the stiffest first, and seeds."""


@dataclass(frozen=True)
class Setting:
    """One way of training.

    Args:
        decay: weight of half the squared norm, of all parameters
        dropout: share of the inputs that are zero in a step
        epochs: passes over the data
    """

    decay: float
    dropout: float
    epochs: int = EPOCHS


def grid() -> list[Setting]:
    """All published settings."""
    return [Setting(decay, dropout) for dropout, decay in product(DROPOUTS, DECAYS)]


def learn(
    x: Array, y: Array, judged: Array, truth: Array, settings: Sequence[Setting], seed: int, lr: float = 0.005
) -> tuple[Array, Array]:
    """Train every setting, from the same start on the same batches of 64.

    Args:
        x: [N, W] to learn from, scaled
        y: [N] their classes
        judged: [M, W] what to answer for after every epoch
        truth: [M] their classes
        settings: all combinations of some dropouts with some decays, as `grid` has them; equally many epochs each
        seed: of weights, batches and dropout
        lr: learning rate

    Returns:
        [epochs, settings] accuracy on what is judged, and [M, settings] the last answers
    """
    draw = torch.Generator().manual_seed(seed)
    dropouts = list(dict.fromkeys(s.dropout for s in settings))
    decays = [s.decay for s in settings[: len(settings) // len(dropouts)]]
    classes, width = int(max(y.max(), truth.max())) + 1, x.shape[1]
    keep = 1 - torch.tensor(dropouts)[:, None, None]
    decay = torch.tensor(decays).repeat_interleave(classes)
    start = (torch.rand(width + 1, classes, generator=draw) * 2 - 1) / width**0.5
    weight = start[:-1].repeat(len(dropouts), 1, len(decays)).requires_grad_()
    bias = start[-1:].repeat(len(dropouts), 1, len(decays)).requires_grad_()
    adam = torch.optim.Adam([weight, bias], lr=lr)
    inputs, labels, others = torch.from_numpy(x).float(), torch.from_numpy(y), torch.from_numpy(judged).float()
    told, guess = [], torch.zeros(0)
    for _ in range(settings[0].epochs):
        for rows in torch.randperm(len(inputs), generator=draw).split(64):
            batch = inputs[rows]
            seen = batch * (torch.rand(batch.shape, generator=draw) < keep) / keep
            logits = torch.baddbmm(bias, seen, weight).unflatten(-1, (len(decays), classes))
            target = labels[rows].expand(len(dropouts), len(decays), -1).transpose(1, 2)
            each = F.cross_entropy(logits.flatten(0, 2), target.flatten(), reduction="none")
            adam.zero_grad()
            (each.sum() / len(rows)).backward()
            for part in (weight, bias):
                assert part.grad is not None
                part.grad += decay * part.detach()
            adam.step()
        with torch.no_grad():
            answers = torch.baddbmm(bias, others.expand(len(dropouts), -1, -1), weight)
            guess = answers.unflatten(-1, (len(decays), classes)).argmax(-1).transpose(0, 1).flatten(1)
        told.append((guess.numpy() == truth[:, None]).mean(0))
    return np.stack(told), guess.numpy()
