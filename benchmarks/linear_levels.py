"""Should a linear forecast follow the level of its context? Three maps beside each other on the ETT tables.

    python -m benchmarks.linear_levels --data-root DIR

- follows: `fit_linear_map` with maps relative to the last value (constant contexts are continued exactly)
- free: an unconstrained map of the standardized context, whose ridge penalty draws it to 0.95 of the last value
- mean: the mean of both forecasts

Each map is one for all channels or one per channel, and has the ridge penalty, that are best on validation. Prints MSE
on the validation and the test split, in standard deviations of the training rows, as a Markdown table.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from tstk.data.config import DataConfig
from tstk.data.datasets import WindowDataset
from tstk.data.load import load_data
from tstk.evaluation.linear_forecast import compute_window_gram, fit_ridge, subtract_level

FREE_LEVEL = 0.95
MAPS = {"follows": (1.0, 0.0), "free": (0.0, 1.0), "mean": (0.5, 0.5)}
"""Name -> weights of the map relative to the last value and of the free map."""


def measure(data: str, context: int, horizon: int, data_root: str | None) -> dict[str, tuple[float, float]]:
    """Return {map: (MSE on validation, MSE on test)}.

    Args:
        data: name or path of a table
        context: T
        horizon: H
        data_root: folder of data sets
    """
    module = load_data(data, DataConfig(context=context, horizon=horizon, data_root=data_root))
    splits = [split for split in (module.train, module.val, module.test) if isinstance(split, WindowDataset)]
    tables = [((split.table - module.mean[:, None]) / module.std[:, None]).double() for split in splits]
    grams = torch.stack([torch.stack([compute_window_gram(row, context + horizon) for row in t]) for t in tables], 1)
    counts = [(table.shape[1] - context - horizon + 1) * horizon * len(table) for table in tables]
    scores: dict[str, list[tuple[float, float]]] = {name: [] for name in MAPS}
    for fit_grams in (grams.sum(0, keepdim=True), grams):  # one map for all channels, or one per channel
        operators = [
            torch.stack([fit_operator(gram[:2], context, fraction) for gram in fit_grams])
            for fraction in (1.0, FREE_LEVEL)
        ]
        for name, weights in MAPS.items():
            operator = weights[0] * operators[0] + weights[1] * operators[1]
            errors = compute_squared_errors(grams, operator)
            scores[name].append((errors[1] / counts[1], errors[2] / counts[2]))
    return {name: min(pairs) for name, pairs in scores.items()}


def fit_operator(grams: Tensor, context: int, fraction: float) -> Tensor:
    """Fit a map relative to a fraction of the last value and return it as a plain matrix [T, H].

    Args:
        grams: [2, L, L] Gram matrices of training and validation windows
        context: T
        fraction: of the last value
    """
    weights = fraction * torch.eye(context, dtype=grams.dtype)[-1]
    matrix = fit_ridge(torch.stack([subtract_level(gram, weights) for gram in grams]), context).matrix
    return matrix + weights[:, None] * (1 - matrix.sum(0))


def compute_squared_errors(grams: Tensor, operator: Tensor) -> list[float]:
    """Return the squared error of each split, summed over channels, windows and steps.

    Args:
        grams: [C, S, L, L] Gram matrices of the windows of S splits
        operator: [1 or C, T, H]
    """
    context = operator.shape[1]
    inputs, cross, targets = (
        grams[..., :context, :context],
        grams[..., :context, context:],
        grams[..., context:, context:],
    )
    weights = operator[:, None]
    errors = targets.diagonal(dim1=-2, dim2=-1).sum(-1) - 2 * (weights * cross).sum((-1, -2))
    return (errors + (inputs @ weights * weights).sum((-1, -2))).sum(0).tolist()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", help="folder of the data sets (default: TSTK_DATA)")
    parser.add_argument("--data", default="ETTh1,ETTm1", help="tables (default: %(default)s)")
    parser.add_argument("--contexts", default="336,512", help="(default: %(default)s)")
    parser.add_argument("--horizons", default="96,192,336,720", help="(default: %(default)s)")
    options = parser.parse_args()
    print(f"| data | context | horizon | {' | '.join(f'{name}: validation, test' for name in MAPS)} |")
    print("|---|---:|---:|" + "---|" * len(MAPS))
    for data in options.data.split(","):
        for context in map(int, options.contexts.split(",")):
            for horizon in map(int, options.horizons.split(",")):
                scores = measure(data, context, horizon, options.data_root)
                cells = " | ".join(f"{val:.3f}, {test:.3f}" for val, test in scores.values())
                print(f"| {data} | {context} | {horizon} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
