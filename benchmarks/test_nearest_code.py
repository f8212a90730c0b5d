"""The nearest entry of a codebook, and the sums an EMA codebook needs, against the usual ways."""

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
    Contender,
    ContenderUnavailableError,
    OutputCheck,
    Verdict,
    expand_thread_counts,
    import_peer,
    make_compiled_contender,
    make_contender,
    why_triton_unsupported,
)
from benchmarks.shapes import Codes
from tstk.kernels.nearest_code import nearest_code, nearest_code_op, sum_by_code

ULPS = 8
"""Another index than float64's will do where their distances differ by fewer float32 roundings of the norms."""
ROWS = 4096
"""That the gate looks at, spread over all."""


def inputs(shape: Codes, seed: int, device: str) -> tuple[Tensor, Tensor]:
    """Rows that lie around the codes, and the codes."""
    draw = torch.Generator(device).manual_seed(seed)
    codes = torch.randn(shape.codes, shape.width, generator=draw, device=device)
    rows = codes[torch.randint(shape.codes, (shape.rows,), generator=draw, device=device)] * 0.5
    rows += torch.randn(shape.rows, shape.width, generator=draw, device=device)
    return rows, codes


def gate(z: Tensor, codes: Tensor) -> OutputCheck:
    """Every index is that of float64, unless the distances are equal to within rounding."""
    rows = torch.linspace(0, len(z) - 1, min(len(z), ROWS), device=z.device).long()
    x, c = z[rows].double(), codes.double()
    distance = torch.cdist(x, c).square()
    best = distance.min(1).values
    allowed = ULPS * torch.finfo(torch.float32).eps

    def judge(answer: Sequence[Tensor]) -> Verdict:
        ids = answer[0].reshape(-1)[rows]
        norms = x.square().sum(1) + c[ids].square().sum(1)
        gap = (distance.gather(1, ids[:, None])[:, 0] - best) / norms
        wrong = int((gap > allowed).sum())
        worst = gap.max().item()
        return Verdict(
            worst, f"{wrong} of {len(rows)} indices are wrong, by up to {worst:.1e} of the norms" if wrong else ""
        )

    return judge


def expanded(z: Tensor, codes: Tensor) -> Tensor:
    """As VQShape and TOTEM write it."""
    distance = z.square().sum(1, keepdim=True) + codes.square().sum(1) - 2 * z @ codes.T
    return distance.argmin(1)


def product(z: Tensor, codes: Tensor) -> Tensor:
    """The fewest passes that plain torch allows: one product with the norms added, one reduction."""
    return torch.addmm(codes.square().sum(1), z, codes.T, alpha=-2).argmin(1)


def faiss(z: Tensor, codes: Tensor) -> Any:
    """A flat index, which holds the codes; on a GPU the package is another, which is not asked for."""
    library = import_peer("faiss")
    if z.is_cuda:
        raise ContenderUnavailableError("faiss-cpu has no GPU")
    library.omp_set_num_threads(torch.get_num_threads())
    index = library.IndexFlatL2(codes.shape[1])
    index.add(codes.numpy())
    return lambda z, codes: index.search(z.numpy(), 1)[1]


def lucidrains(z: Tensor, codes: Tensor) -> Any:
    """vector-quantize-pytorch as one calls it when the codebook is trained."""
    quantizer = import_peer("vector_quantize_pytorch").VectorQuantize(dim=codes.shape[1], codebook_size=len(codes))
    quantizer = quantizer.to(z.device).eval()
    quantizer._codebook.embed.data.copy_(codes[None])
    return lambda z, codes: quantizer(z[None])[1][0]


def search(shape: Codes, full: bool, device: str) -> Case:
    """Indices of the nearest codes."""
    table = {
        "tstk": make_contender(lambda z, codes: nearest_code(z, codes), "exact, with distances"),
        "addmm + argmin": make_contender(product),
        "addmm + argmin, compiled": make_compiled_contender(product, full),
        "cdist + argmin": make_contender(lambda z, codes: torch.cdist(z, codes).argmin(1)),
        "expanded, eager": make_contender(expanded, "as in VQShape and TOTEM"),
        "faiss": Contender(
            faiss, "IndexFlatL2, built outside", normalize_output=lambda ids: torch.from_numpy(ids)[:, 0]
        ),
        "vector-quantize-pytorch": Contender(lucidrains, "eval()"),
    }
    if device == "cuda":
        table["tstk, torch backend"] = make_contender(partial(nearest_code, backend="torch"))
    n, k, d = shape[1:]
    return Case(
        "nearest_code",
        shape.name,
        str(shape),
        partial(inputs, shape),
        table,
        gate,
        limit=("the product alone", make_contender(lambda z, codes: torch.mm(z, codes.T))),
        why_unsupported=partial(why_triton_unsupported, nearest_code_op, device=device),
        flops=2 * n * k * d,
        bytes=4 * (n * d + k * d) + 8 * n,
        device=device,
    )


def coded(shape: Codes, seed: int, device: str) -> tuple[Tensor, Tensor]:
    """Rows, and which code each has; some codes are used far more than others."""
    z, _ = inputs(shape, seed, device)
    draw = torch.Generator(device).manual_seed(seed)
    return z, (torch.rand(len(z), generator=draw, device=device).square() * shape.codes).long()


def sums_gate(z: Tensor, ids: Tensor, *, codes: int) -> OutputCheck:
    """Sums and counts against float64."""
    true = torch.zeros(codes, z.shape[1], dtype=torch.float64, device=z.device).index_add_(0, ids, z.double())
    counts = ids.bincount(minlength=codes)

    def judge(answer: Sequence[Tensor]) -> Verdict:
        error = ((answer[0] - true).abs().max() / true.abs().max()).item()
        if not torch.equal(answer[1].long(), counts):
            return Verdict(error, "the counts are wrong")
        return Verdict(error, f"sums off by {error:.1e} of the largest" if not error <= 3e-6 else "")

    return judge


def one_hot(z: Tensor, ids: Tensor, *, codes: int) -> tuple[Tensor, Tensor]:
    """As most EMA codebooks do."""
    used = F.one_hot(ids, codes).to(z.dtype)
    return used.T @ z, used.sum(0)


def segments(z: Tensor, ids: Tensor, *, codes: int) -> tuple[Tensor, Tensor]:
    """Sort the rows by code and add neighbours."""
    counts = ids.bincount(minlength=codes)
    return torch.segment_reduce(z[ids.argsort()], "sum", lengths=counts, unsafe=True), counts


def sums(shape: Codes, device: str) -> Case:
    """Sum and number of the rows that have each code."""
    k = shape.codes
    table = {
        "tstk": make_contender(partial(sum_by_code, num_codes=k)),
        "one-hot product": make_contender(partial(one_hot, codes=k), "as in vector-quantize-pytorch"),
        "sort + segment_reduce": make_contender(partial(segments, codes=k)),
    }
    return Case(
        "ema_sums",
        shape.name,
        str(shape),
        partial(coded, shape),
        table,
        partial(sums_gate, codes=k),
        flops=shape.rows * shape.width,
        bytes=4 * shape.rows * shape.width + 8 * shape.rows + 4 * k * shape.width,
        device=device,
    )


def cases(full: bool, device: str) -> list[Case]:
    """Both operations at every shape."""
    some = shapes.list_code_shapes(full, device)
    return expand_thread_counts(
        [*(search(s, full or device == "cuda", device) for s in some), *(sums(s, device) for s in some)]
    )


def test_nearest_code(duel, case, name):
    """Gate, time, and show beside the others."""
    duel(case, name)
