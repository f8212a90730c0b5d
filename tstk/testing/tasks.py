"""Checks of tasks."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.core.task import Task
from tstk.testing.assertions import expect


def check_scores(name: str, task: Task) -> None:
    """Check that perfect predictions have a better main metric than noise, and that unknown targets are left out.

    Tasks that forecast accumulate metrics of their own and are not checked.
    """
    if task.target_type == "future":
        return
    targets, perfect, unknown = make_targets_and_outputs(task)
    noise = torch.randn(perfect.shape, generator=torch.Generator().manual_seed(0), dtype=perfect.dtype)
    names = tuple(str(i) for i in range(perfect.shape[1]))
    best, worst = (task.score(outputs, targets, names).get(task.main_metric, math.nan) for outputs in (perfect, noise))
    is_better = best > worst if task.higher_is_better else best < worst
    expect(is_better, f"{name}: {task.main_metric} is {best:.4g} for perfect predictions and {worst:.4g} for noise")
    expect(task.score(perfect, unknown, names) == {}, f"{name}: `score` returns metrics although no target is known")


def make_targets_and_outputs(task: Task) -> tuple[Tensor, Tensor, Tensor]:
    """Return targets of a type, the outputs of a perfect head, and targets that are all unknown."""
    labels = torch.arange(24) % 3
    one_hot = F.one_hot(labels, 3)
    if task.target_type == "class":
        return labels, 20.0 * one_hot, torch.full_like(labels, -1)
    if task.target_type == "sample-class":
        return labels.view(4, 6), 20.0 * one_hot.view(4, 6, 3).mT, torch.full((4, 6), -1)
    if task.target_type == "labels":
        return one_hot, 40.0 * one_hot - 20, torch.full_like(one_hot, -1)
    numbers = torch.arange(72, dtype=torch.float64).reshape(24, 3).sin()
    return numbers, numbers, torch.full_like(numbers, torch.nan)
