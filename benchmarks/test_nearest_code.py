"""Codebook search, and the sums per code that an EMA codebook needs, against common implementations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import shapes
from benchmarks.harness import (
    Case,
    CheckResult,
    Contender,
    ContenderUnavailableError,
    OutputCheck,
    expand_thread_counts,
    import_peer,
    make_compiled_contender,
    make_contender,
    why_triton_unsupported,
)
from benchmarks.shapes import Codes
from tstk.kernels.nearest_code import nearest_code, nearest_code_op, sum_by_code

ULPS = 8
"""Two codes count as equally near if their distances differ by less than this many float32 ulps of the norms."""
ROWS = 4096
"""Rows that are checked, evenly spaced."""


def make_inputs(shape: Codes, seed: int, device: str) -> tuple[Tensor, Tensor]:
    """Return rows [N, D] near the codes, and the codes [K, D]."""
    draw = torch.Generator(device).manual_seed(seed)
    codes = torch.randn(shape.codes, shape.width, generator=draw, device=device)
    rows = codes[torch.randint(shape.codes, (shape.rows,), generator=draw, device=device)] * 0.5
    rows += torch.randn(shape.rows, shape.width, generator=draw, device=device)
    return rows, codes


def make_check(z: Tensor, codes: Tensor) -> OutputCheck:
    """Return a check that each index is that of float64, or of an equally near code."""
    rows = torch.linspace(0, len(z) - 1, min(len(z), ROWS), device=z.device).long()
    x, c = z[rows].double(), codes.double()
    distance = torch.cdist(x, c).square()
    best = distance.min(1).values
    allowed = ULPS * torch.finfo(torch.float32).eps

    def check(outputs: Sequence[Tensor]) -> CheckResult:
        ids = outputs[0].reshape(-1)[rows]
        norms = x.square().sum(1) + c[ids].square().sum(1)
        gap = (distance.gather(1, ids[:, None])[:, 0] - best) / norms
        wrong = int((gap > allowed).sum())
        worst = gap.max().item()
        return CheckResult(
            worst, f"{wrong} of {len(rows)} indices are wrong, by up to {worst:.1e} of the norms" if wrong else ""
        )

    return check


def search_expanded(z: Tensor, codes: Tensor) -> Tensor:
    """Search as VQShape and TOTEM do."""
    distance = z.square().sum(1, keepdim=True) + codes.square().sum(1) - 2 * z @ codes.T
    return distance.argmin(1)


def search_by_product(z: Tensor, codes: Tensor) -> Tensor:
    """Search with the fewest passes that plain torch allows: one product with the norms added, one reduction."""
    return torch.addmm(codes.square().sum(1), z, codes.T, alpha=-2).argmin(1)


def prepare_faiss(z: Tensor, codes: Tensor) -> Any:
    """Build a flat index of the codes; the package faiss-cpu has no GPU index."""
    library = import_peer("faiss")
    if z.is_cuda:
        raise ContenderUnavailableError("faiss-cpu has no GPU")
    library.omp_set_num_threads(torch.get_num_threads())
    index = library.IndexFlatL2(codes.shape[1])
    index.add(codes.numpy())
    return lambda z, codes: index.search(z.numpy(), 1)[1]


def prepare_lucidrains(z: Tensor, codes: Tensor) -> Any:
    """Build a trained codebook of vector-quantize-pytorch."""
    quantizer = import_peer("vector_quantize_pytorch").VectorQuantize(dim=codes.shape[1], codebook_size=len(codes))
    quantizer = quantizer.to(z.device).eval()
    quantizer._codebook.embed.data.copy_(codes[None])
    return lambda z, codes: quantizer(z[None])[1][0]


def make_search_case(shape: Codes, full: bool, device: str) -> Case:
    """Return the case of a search."""
    table = {
        "tstk": make_contender(lambda z, codes: nearest_code(z, codes), "exact, with distances"),
        "addmm + argmin": make_contender(search_by_product),
        "addmm + argmin, compiled": make_compiled_contender(search_by_product, full),
        "cdist + argmin": make_contender(lambda z, codes: torch.cdist(z, codes).argmin(1)),
        "expanded, eager": make_contender(search_expanded, "as in VQShape and TOTEM"),
        "faiss": Contender(
            prepare_faiss, "IndexFlatL2, built outside", normalize_output=lambda ids: torch.from_numpy(ids)[:, 0]
        ),
        "vector-quantize-pytorch": Contender(prepare_lucidrains, "eval()"),
    }
    table["tstk, torch backend"] = make_contender(partial(nearest_code, backend="torch"))
    n, k, d = shape[1:]
    return Case(
        "nearest_code",
        shape.name,
        str(shape),
        partial(make_inputs, shape),
        table,
        make_check,
        limit=("the product alone", make_contender(lambda z, codes: torch.mm(z, codes.T))),
        why_unsupported=partial(why_triton_unsupported, nearest_code_op, device=device),
        flops=2 * n * k * d,
        bytes=4 * (n * d + k * d) + 8 * n,
        device=device,
    )


def make_coded_inputs(shape: Codes, seed: int, device: str) -> tuple[Tensor, Tensor]:
    """Return rows [N, D] and their codes [N]; some codes are far more frequent than others."""
    z, _ = make_inputs(shape, seed, device)
    draw = torch.Generator(device).manual_seed(seed)
    return z, (torch.rand(len(z), generator=draw, device=device).square() * shape.codes).long()


def make_sums_check(z: Tensor, ids: Tensor, *, codes: int) -> OutputCheck:
    """Return a check of sums and counts against float64."""
    true = torch.zeros(codes, z.shape[1], dtype=torch.float64, device=z.device).index_add_(0, ids, z.double())
    counts = ids.bincount(minlength=codes)

    def check(outputs: Sequence[Tensor]) -> CheckResult:
        error = ((outputs[0] - true).abs().max() / true.abs().max()).item()
        if not torch.equal(outputs[1].long(), counts):
            return CheckResult(error, "the counts are wrong")
        return CheckResult(error, f"sums off by {error:.1e} of the largest" if not error <= 3e-6 else "")

    return check


def sum_by_one_hot(z: Tensor, ids: Tensor, *, codes: int) -> tuple[Tensor, Tensor]:
    """Sum as most EMA codebooks do."""
    used = F.one_hot(ids, codes).to(z.dtype)
    return used.T @ z, used.sum(0)


def sum_by_segments(z: Tensor, ids: Tensor, *, codes: int) -> tuple[Tensor, Tensor]:
    """Sum after sorting the rows by code."""
    counts = ids.bincount(minlength=codes)
    return torch.segment_reduce(z[ids.argsort()], "sum", lengths=counts, unsafe=True), counts


def make_sums_case(shape: Codes, device: str) -> Case:
    """Return the case of the sum and the number of rows per code."""
    k = shape.codes
    table = {
        "tstk": make_contender(partial(sum_by_code, num_codes=k)),
        "one-hot product": make_contender(partial(sum_by_one_hot, codes=k), "as in vector-quantize-pytorch"),
        "sort + segment_reduce": make_contender(partial(sum_by_segments, codes=k)),
    }
    return Case(
        "ema_sums",
        shape.name,
        str(shape),
        partial(make_coded_inputs, shape),
        table,
        partial(make_sums_check, codes=k),
        flops=shape.rows * shape.width,
        bytes=4 * shape.rows * shape.width + 8 * shape.rows + 4 * k * shape.width,
        device=device,
    )


def list_cases(full: bool, device: str) -> list[Case]:
    """Return the cases of both operations at every shape."""
    some = shapes.list_code_shapes(full, device)
    return expand_thread_counts(
        [
            *(make_search_case(s, full or device == "cuda", device) for s in some),
            *(make_sums_case(s, device) for s in some),
        ]
    )


def test_nearest_code(compare, case, name):
    """Check and time each contender."""
    compare(case, name)
