"""Refuse results that are not finite, and name the series and the weights that cause them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from tstk.core.types import Series
from tstk.errors import DataError, NotFiniteError

MAX_STANDARDIZED = 1e18
"""Largest standardized sample: the square of a larger one, summed over a series, overflows float32."""
NOT_FINITE, TOO_LARGE = 1, 2
"""Why a row is bad: an output that is not finite, or a sample that is too large."""


def find_overflow(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return [B] bool, True for series [B, C, T] with a sample that float32 cannot compute with; NaN is ignored.

    Args:
        x: samples in the units of the data
        mean: [C, 1] that standardizes them
        std: [C, 1] likewise
    """
    return (((x - mean) / std).abs() > MAX_STANDARDIZED).flatten(1).any(1)


def find_bad_rows(series: Series, outputs: Sequence[Tensor | None], mean: Tensor, std: Tensor) -> Tensor:
    """Return [B] uint8 on the CPU: 0, `NOT_FINITE` for series whose output is not, `TOO_LARGE` for their samples.

    Args:
        series: the batch
        outputs: what was computed from it, each [B, ...]
        mean: see `find_overflow`
        std: see `find_overflow`
    """
    code = find_overflow(series.x, mean, std).to(torch.uint8) * TOO_LARGE
    for output in outputs:
        if output is not None:
            code |= (~output.isfinite()).reshape(len(code), -1).any(1).to(torch.uint8) * NOT_FINITE
    return code.cpu()


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
    """Raise an error that names the first bad row, and the cause: its samples, or weights that are not finite.

    Args:
        bad_rows: of each batch, from `find_bad_rows`
        pipeline: that computed the outputs
        source: the data, for the message
        quantity: what was computed, such as "predictions"
        name_series: returns how the message names the series at an index

    Raises:
        DataError: the samples of a row are too large
        NotFiniteError: an output is not finite for another reason
    """
    codes = torch.cat(list(bad_rows))
    rows = codes.nonzero().flatten().tolist()
    if not rows:
        return
    fault = f"{source}: {quantity} of {len(rows)} of {len(codes)} series are not finite, {name_series(rows[0])} first"
    if names := describe_bad_weights(pipeline.state_dict()):
        raise NotFiniteError(f"{fault}, as the weights hold values that are not finite: {names}", "train the run again")
    if codes[rows[0]] & TOO_LARGE:
        raise DataError(f"{fault}; its samples are damaged or too large: fix, rescale or remove it")
    raise NotFiniteError(
        f"{fault}, though its samples and the weights are",
        "a component divides by zero or overflows: correct it, or remove the series",
    )


def describe_bad_weights(state: dict[str, Tensor]) -> str:
    """Return the name of the first tensor that holds NaN or an infinite value, with the number of others; or ""."""
    names = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    return names[0] + (f" (and {len(names) - 1} more)" if len(names) > 1 else "") if names else ""
