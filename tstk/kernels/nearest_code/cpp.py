"""C++ backend of the search for AVX2 and AVX-512: no score leaves the registers (`search.cpp`).

Its scores are sums of blocks of 128 channels, each in the order of the channels with one rounding per channel. So are
those of the torch backend where MKL multiplies at least 12 codes per thread, so the two backends return the same ids to
the last near tie. Whether that holds on this machine is tested by `why_rounding_differs`; where it does not, `auto`
selects torch.
"""

from __future__ import annotations

from ctypes import c_float, c_int64, c_void_p
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from tstk.kernels.cpp import Library
from tstk.kernels.nearest_code.reference import MAX_SQUARED_DISTANCE
from tstk.kernels.nearest_code.torch import center, count_rows_per_chunk, make_table, search_by_products
from tstk.kernels.threads import MIN_PARALLEL_VALUES, map_row_slices

VALUES_PER_SCORE = 32
"""Width at which a score takes as long as the values that `map_row_slices` counts."""

LIBRARY = Library(
    Path(__file__).with_name("search.cpp"),
    {
        "panel_size": (c_int64, ()),
        "chunk_size": (c_int64, ()),
        "pack": (None, (c_void_p, c_void_p, c_int64, c_int64, c_void_p, c_void_p)),
        "search": (c_int64, (*(c_void_p,) * 4, *(c_int64,) * 3, c_float, *(c_void_p,) * 4)),
    },
)


def nearest_code(z: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """See `tstk.kernels.nearest_code`."""
    with torch.no_grad():
        x, c, code_mean = center(z, codes)
        squared_norms = c.square().sum(1)
        scores, norms, ids, rows_in_range = search(x, code_mean, c, squared_norms)
        squares = scores.add_(norms).clamp_(min=0)
        codes_in_range = squared_norms.max() <= MAX_SQUARED_DISTANCE  # False for NaN
        if not (rows_in_range and codes_in_range):
            in_range = codes_in_range & (norms <= MAX_SQUARED_DISTANCE)
            squares, ids = squares.where(in_range, torch.nan), ids.where(in_range, 0)
        return ids.reshape(z.shape[:-1]), squares.reshape(z.shape[:-1])


def search(x: Tensor, code_mean: Tensor, c: Tensor, squared_norms: Tensor) -> tuple[Tensor, Tensor, Tensor, bool]:
    """Return the lowest score of each row [N], its squared norm [N], the first index of that score, and if all hold.

    Args:
        x: [N, d] float32 vectors
        code_mean: [d] is subtracted from them
        c: [K, d] centred codes
        squared_norms: [K] of the centred codes
    """
    library = LIBRARY.load()
    x, c = x.resolve_neg().contiguous(), c.contiguous()
    (num_codes, width), panel_size = c.shape, library.panel_size()
    num_panels = -(-num_codes // panel_size)
    panels, norms = c.new_empty(num_panels, width, panel_size), c.new_empty(num_panels * panel_size)
    library.pack(c.data_ptr(), squared_norms.data_ptr(), num_codes, width, panels.data_ptr(), norms.data_ptr())
    scores, squares = c.new_empty(len(x)), c.new_empty(len(x))
    ids = c.new_empty(len(x), dtype=torch.long)

    def search_rows(rows: slice) -> int:
        inputs = (t.data_ptr() for t in (x[rows], code_mean, panels, norms))
        outputs = (t[rows].data_ptr() for t in (scores, squares, ids))
        size, buffer = rows.stop - rows.start, c.new_empty(library.chunk_size(), width)
        sizes = size, num_panels, width
        count: int = library.search(*inputs, *sizes, MAX_SQUARED_DISTANCE, *outputs, buffer.data_ptr())
        return count

    values = len(x) * num_codes * width // VALUES_PER_SCORE
    return scores, squares, ids, not any(map_row_slices(search_rows, len(x), values, x.device))


def why_rounding_differs(num_rows: int, num_codes: int, width: int) -> str:
    """Return "" if the scores of this backend are those of the torch backend, bit by bit; else the reason.

    Tested once per size of the codebook and number of threads, and for a few numbers of rows. The numbers are computed,
    not drawn, so the state of torch's generators does not change.
    """
    if num_rows * num_codes >= MIN_PARALLEL_VALUES:
        rows = 2 * count_rows_per_chunk(num_codes)  # as many as are divided among threads, too
    else:
        rows = 1 << num_rows.bit_length() - 1
    return _compare_rounding(rows + 5, num_codes, width, torch.get_num_threads())


@lru_cache(maxsize=256)
def _compare_rounding(num_rows: int, num_codes: int, width: int, threads: int) -> str:
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        steps = torch.arange((num_rows + num_codes) * width, dtype=torch.float64, device="cpu").add_(1)
        values = steps.square_().mul_(0.61803398875).sin_().float()
        x, c = values[: num_rows * width].view(num_rows, width), values[num_rows * width :].view(num_codes, width)
        code_mean, squared_norms = c.mean(0), c.square().sum(1)
        expected = search_by_products(x, code_mean, make_table(c, squared_norms))
        actual = search(x, code_mean, c, squared_norms)
        if torch.equal(expected[0], actual[0]) and torch.equal(expected[2], actual[2]):
            return ""
    return (
        f"the matrix product of this machine rounds otherwise for {num_codes} codes of width {width}, so that the ids"
        " of near ties would differ"
    )
