"""Arrays as users pass them: masked, of any byte order, with reversed axes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tstk.errors import DataError


def fill_masked(x: Any) -> Any:
    """Return a masked array as a plain one, NaN where it is masked; return anything else unchanged."""
    if not isinstance(x, np.ma.MaskedArray) or x.dtype.kind not in "biuf":
        return x
    return np.ma.filled(x.astype(x.dtype if x.dtype.kind == "f" else np.float64), np.nan)


def to_numbers(x: ArrayLike) -> NDArray[Any]:
    """Return an array of numbers whose memory torch can take: in native byte order, no axis reversed.

    Args:
        x: numbers or nested lists of them; masked ones become NaN

    Raises:
        DataError: x holds complex numbers, objects or text, or lists of unequal lengths
    """
    try:
        array = np.asarray(fill_masked(x))
    except ValueError as e:
        raise DataError(f"x is not an array of numbers ({e}); pad series of unequal lengths with NaN") from None
    if array.dtype.kind not in "biuf":
        hint = "; make the real and the imaginary part channels of their own" if array.dtype.kind == "c" else ""
        raise DataError(f"x is not an array of numbers: its dtype is {array.dtype}{hint}")
    if min(array.strides, default=0) < 0:
        array = array.copy()
    is_long = array.dtype.kind == "f" and array.dtype.itemsize > 8
    return array.astype(np.float64 if is_long else array.dtype.newbyteorder("="), copy=False)
