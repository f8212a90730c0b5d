"""VQShape's probe: a linear layer trained by Adam with input dropout, for a whole grid of hyperparameters at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from torch.nn import functional as F

from tstk.errors import OptionError
from tstk.evaluation.features import Features
from tstk.evaluation.probe_classifiers import Array, FeatureSet, ProbeClassifier, SelectOn

WEIGHT_DECAYS = (100.0, 10.0, 1.0, 0.1, 0.01, 0.0)
DROPOUTS = (0.8, 0.5, 0.2, 0.0)
EPOCHS = 100
SEEDS = (0, 1234, 42, 8237, 2024)
"""The published grid, strongest regularization first, and the published seeds."""


@dataclass(frozen=True)
class AdamConfig:
    """Hyperparameters of one linear probe.

    Args:
        weight_decay: L2 penalty added to the gradient, biases included (as in `torch.optim.Adam`)
        dropout: probability of zeroing an input feature
        epochs: passes over the data
    """

    weight_decay: float
    dropout: float
    epochs: int = EPOCHS


class AdamProbe(ProbeClassifier):
    """Linear layer with input dropout; decay, dropout and epoch are searched on the published grid."""

    is_random = True

    def __init__(self, param: float | None = None, select_on: SelectOn = "val", features: Features = "pooled") -> None:
        if select_on == "folds":
            raise OptionError("select_on=folds is for linear, knn and svm; with classifier adam use val or test")
        super().__init__(param, select_on, features)

    def predict(
        self, train: FeatureSet, val: FeatureSet, test: FeatureSet, seed: int
    ) -> tuple[dict[str, float], Array]:
        """Select hyperparameters and number of epochs, refit on train and validation, and predict test."""
        grid, train_and_val = build_grid(), train + val
        scores, _ = (
            self._fit(train_and_val, test, grid, seed)
            if self.select_on == "test"
            else self._fit(train, val, grid, seed)
        )
        # ties go to the latest epoch, then to the strongest regularization
        reversed_epoch, best_index = np.unravel_index(int(scores[::-1].argmax()), scores.shape)
        best = replace(grid[int(best_index)], epochs=len(scores) - int(reversed_epoch))
        _, predictions = self._fit(train_and_val, test, [best], seed)
        return {"decay": best.weight_decay, "dropout": best.dropout, "epochs": best.epochs}, predictions[:, 0]

    def _fit(
        self, rows: FeatureSet, eval_rows: FeatureSet, configs: Sequence[AdamConfig], seed: int
    ) -> tuple[Array, Array]:
        """Scale the features, codes to 0-1 and others by mean and deviation, and fit one classifier per config."""
        from sklearn.preprocessing import MinMaxScaler, StandardScaler

        scaler = (MinMaxScaler() if self.features in ("codes", "counts") else StandardScaler()).fit(rows.x)
        x_train, x_eval = scaler.transform(rows.x), scaler.transform(eval_rows.x)
        return fit_linear_classifiers(x_train, rows.y, x_eval, eval_rows.y, configs, seed)


def build_grid() -> list[AdamConfig]:
    """Return every combination of the published dropouts and weight decays."""
    return [AdamConfig(decay, dropout) for dropout, decay in product(DROPOUTS, WEIGHT_DECAYS)]


def fit_linear_classifiers(
    x_train: Array,
    y_train: Array,
    x_eval: Array,
    y_eval: Array,
    configs: Sequence[AdamConfig],
    seed: int,
    lr: float = 0.005,
) -> tuple[Array, Array]:
    """Train one linear classifier per config, all from the same initial weights on the same batches of 64.

    Args:
        x_train: [N, W] scaled training features
        y_train: [N] class index
        x_eval: [M, W] scaled features, scored after every epoch
        y_eval: [M] class index
        configs: every combination of some dropouts with some decays, in the order of `build_grid`, all with the same
            number of epochs
        seed: of weights, batches and dropout
        lr: learning rate

    Returns:
        [epochs, configs] accuracy on the evaluation rows, and [M, configs] the class predicted after the last epoch
    """
    generator = torch.Generator().manual_seed(seed)
    dropouts = list(dict.fromkeys(config.dropout for config in configs))
    decays = [config.weight_decay for config in configs[: len(configs) // len(dropouts)]]
    classes, width = int(max(y_train.max(), y_eval.max())) + 1, x_train.shape[1]
    keep = 1 - torch.tensor(dropouts)[:, None, None]
    decay = torch.tensor(decays).repeat_interleave(classes)
    initial = (torch.rand(width + 1, classes, generator=generator) * 2 - 1) / width**0.5
    weight = initial[:-1].repeat(len(dropouts), 1, len(decays)).requires_grad_()
    bias = initial[-1:].repeat(len(dropouts), 1, len(decays)).requires_grad_()
    optimizer = torch.optim.Adam([weight, bias], lr=lr)
    inputs, labels, eval_inputs = (
        torch.from_numpy(x_train).float(),
        torch.from_numpy(y_train),
        torch.from_numpy(x_eval).float(),
    )
    epoch_accuracies, predictions = [], torch.zeros(0)
    for _ in range(configs[0].epochs):
        for index in torch.randperm(len(inputs), generator=generator).split(64):
            batch = inputs[index]
            dropped_out = batch * (torch.rand(batch.shape, generator=generator) < keep) / keep
            logits = torch.baddbmm(bias, dropped_out, weight).unflatten(-1, (len(decays), classes))
            target = labels[index].expand(len(dropouts), len(decays), -1).transpose(1, 2)
            losses = F.cross_entropy(logits.flatten(0, 2), target.flatten(), reduction="none")
            optimizer.zero_grad()
            (losses.sum() / len(index)).backward()
            for parameter in (weight, bias):
                assert parameter.grad is not None
                parameter.grad += decay * parameter.detach()
            optimizer.step()
        with torch.no_grad():
            eval_logits = torch.baddbmm(bias, eval_inputs.expand(len(dropouts), -1, -1), weight)
            predictions = eval_logits.unflatten(-1, (len(decays), classes)).argmax(-1).transpose(0, 1).flatten(1)
        epoch_accuracies.append((predictions.numpy() == y_eval[:, None]).mean(0))
    return np.stack(epoch_accuracies), predictions.numpy()
