"""Refuse results that are not finite, and name the series and the weights that cause them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from tstk.core.types import Series
from tstk.errors import CheckpointError, DataError

MAX_STANDARDIZED = 1e18
"""Largest standardized sample: the square of a larger one, summed over a series, overflows float32."""


def find_overflow(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return [B] bool, True for series [B, C, T] with a sample that float32 cannot compute with; NaN is ignored.

    Args:
        x: samples in the units of the data
        mean: [C, 1] that standardizes them
        std: [C, 1] likewise
    """
    return (((x - mean) / std).abs() > MAX_STANDARDIZED).flatten(1).any(1)


def find_bad_rows(series: Series, outputs: Tensor | None, mean: Tensor, std: Tensor) -> Tensor:
    """Return [B] bool on the CPU, True for series that are too large for float32 or whose output is not finite.

    Args:
        series: the batch
        outputs: [B, ...] what was computed from it
        mean: see `find_overflow`
        std: see `find_overflow`
    """
    is_bad = find_overflow(series.x, mean, std)
    if outputs is not None:
        is_bad = is_bad | ~outputs.isfinite().reshape(len(is_bad), -1).all(1)
    return is_bad.cpu()


def name_by_number(index: int) -> str:
    """Return how messages name the series at an index: its number, counted from 1."""
    return f"series {index + 1}"


def check_rows(
    bad_rows: Iterable[Tensor],
    pipeline: nn.Module,
    source: str,
    quantity: str,
    name_series: Callable[[int], str] = name_by_number,
) -> None:
    """Raise an error that names the first bad row, or the weights if they are not finite.

    Args:
        bad_rows: of each batch, from `find_bad_rows`
        pipeline: that computed the outputs
        source: the data, for the message
        quantity: what was computed, such as "predictions"
        name_series: returns how the message names the series at an index

    Raises:
        CheckpointError: a weight is not finite
        DataError: a row is bad
    """
    is_bad = torch.cat(list(bad_rows))
    rows = is_bad.nonzero().flatten().tolist()
    if not rows:
        return
    if names := describe_bad_weights(pipeline.state_dict()):
        raise CheckpointError(f"the weights hold values that are not finite: {names}; train the run again")
    raise DataError(
        f"{source}: {quantity} of {len(rows)} of {len(is_bad)} series are not finite, {name_series(rows[0])} first; "
        "its samples are damaged or too large: fix, rescale or remove it"
    )


def describe_bad_weights(state: dict[str, Tensor]) -> str:
    """Return the name of the first tensor that holds NaN or an infinite value, with the number of others; or ""."""
    names = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    return names[0] + (f" (and {len(names) - 1} more)" if len(names) > 1 else "") if names else ""
