"""Rows in chunks that fit the cache, divided over threads once; the scores of a chunk are one matrix product.

`[x, 1] @ [-2 c, |c|^2]` is the squared distance less |x|^2, which no comparison and no softmax needs. Both sides are
centred on the mean of the codes, so a common offset costs no digits.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.kernels.nearest_code.reference import LARGEST
from tstk.kernels.threads import divide

LOWEST = -60.0
"""Smallest exponent: e^-60 adds nothing to a sum, and what is computed from it is not denormal, hence not slow."""


def nearest_code(z: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """As `tstk.kernels.nearest_code`."""
    with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
        x, c, middle = _centred(z, codes)
        lengths = c.square().sum(1)
        served = lengths.max() <= LARGEST  # no if one is not a number
        if torch.compiler.is_compiling():  # which does its own tiling, and exports to any batch
            x = x - middle
            squares = x.square().sum(1)
            score, ids = torch.addmm(lengths, x, c.t(), alpha=-2).min(1)
        else:
            score, squares, ids = _search(x, middle, torch.cat([-2 * c, lengths[:, None]], 1).t())
        served = served & (squares <= LARGEST)
        squares = (score + squares).clamp(min=0)
        if torch.compiler.is_compiling() or squares.device.type != "cpu" or not served.all():
            squares, ids = squares.where(served, torch.nan), ids.where(served, 0)
        return ids.reshape(z.shape[:-1]), squares.reshape(z.shape[:-1])


def _search(x: Tensor, middle: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The least score of each row [N], the square of its length [N], and the first place that has the score [N]."""
    width, codes = table.shape
    scores, squares = middle.new_empty(2, len(x)).unbind()
    ids = middle.new_empty(len(x), dtype=torch.long)

    def search(part: slice) -> None:
        parts = x[part], scores[part], squares[part], ids[part]
        most = _rows(parts[0], codes)
        lifted, products = middle.new_ones(most, width), middle.new_empty(most, codes)
        for rows, least, square, best in zip(*(t.split(most) for t in parts), strict=True):
            here, product = lifted[: len(rows)], products[: len(rows)]
            torch.linalg.vector_norm(torch.sub(rows, middle, out=here[:, :-1]), dim=1, out=square)
            torch.mm(here, table, out=product)
            if product.device.type == "cpu":  # where this is six times as fast as torch's
                np.argmin(product.numpy(), 1, out=best.numpy())
                torch.gather(product, 1, best[:, None], out=least[:, None])
            else:
                torch.min(product, 1, out=(least, best))  # half the time of argmin
        squares[part].square_()

    divide(search, len(x), len(x) * codes, x.device)
    return scores, squares, ids


def soft_assignment(
    z: Tensor, codes: Tensor, weight: Tensor, temperature: float, log_floor: float
) -> tuple[Tensor, Tensor]:
    """As `tstk.kernels.nearest_code.soft_assignment`, for z [N, d] and weight [N]."""
    with torch.autocast(z.device.type, enabled=False):
        floor = math.log(log_floor) if log_floor else -math.inf
        if torch.compiler.is_compiling():
            x, c, middle = _centred(z, codes)
            score = torch.addmm(c.square().sum(1), x - middle, c.t(), alpha=-2)
            log_p = (-score / temperature).log_softmax(1).clamp(min=LOWEST)
            p = log_p.exp()
            return -(weight @ (p * log_p.clamp(min=floor)).sum(1)), weight @ p
        out: tuple[Tensor, Tensor] = SoftAssignment.apply(z, codes, weight, temperature, floor)
        return out


class SoftAssignment(torch.autograd.Function):
    """p = softmax(-|z - c|^2 / temperature), recomputed in the backward instead of kept."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, codes: Tensor, weight: Tensor, temperature: float, floor: float
    ) -> tuple[Tensor, Tensor]:
        """Entropy [] and share [K], see above; `floor` is the least logarithm."""
        x, c, middle = _centred(z, codes)
        table = torch.cat([2 * c, -c.square().sum(1, keepdim=True)], 1) / temperature
        log_z = middle.new_empty(len(x))

        def assign(part: slice) -> tuple[Tensor, Tensor]:
            parts = x[part], weight[part], log_z[part]
            entropy, share = middle.new_zeros(()), middle.new_zeros(len(c))
            most = _rows(parts[0], len(c))
            scores, p = middle.new_empty(2, most, len(c)).unbind()
            for rows, w, norm in zip(*(t.split(most) for t in parts), strict=True):
                s, e = scores[: len(rows)], p[: len(rows)]
                torch.mm(_with(rows - middle, 1), table.t(), out=s)
                top = s.amax(1, keepdim=True)
                torch.exp(s.sub_(top).clamp_(min=LOWEST), out=e)
                total = e.sum(1)
                log_total = total.log()
                torch.add(top[:, 0], log_total, out=norm)
                s.sub_(log_total[:, None])
                if floor > -math.inf:
                    s.clamp_(min=floor)
                w = w / total
                share += w @ e
                entropy -= w @ e.mul_(s).sum(1)
            return entropy, share

        sums = zip(*divide(assign, len(x), len(x) * len(c), x.device), strict=True)
        entropy, share = (torch.stack(each).sum(0) for each in sums)
        ctx.save_for_backward(z, codes, weight, log_z)
        ctx.chosen = temperature, floor
        return entropy, share

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, ...]:
        """With u = d/dp up to a constant per row, the gradient of a score is w p (u - <p, u>)."""
        to_entropy, to_share = above
        z, codes, weight, log_z = ctx.saved_tensors
        temperature, floor = ctx.chosen
        with torch.autocast(z.device.type, enabled=False):
            x, c, middle = _centred(z, codes)
            table = torch.cat([2 * c, -c.square().sum(1, keepdim=True)], 1) / temperature
            table = torch.cat([table, table.new_ones(len(c), 1)], 1)
            dx = torch.empty_like(x)

            def pull(part: slice) -> tuple[Tensor, Tensor]:
                parts = x[part], weight[part], log_z[part], dx[part]
                dc, column = torch.zeros_like(c), c.new_zeros(len(c))
                most = _rows(parts[0], len(c))
                scores, p = middle.new_empty(2, most, len(c)).unbind()
                for rows, w, norm, slope in zip(*(t.split(most) for t in parts), strict=True):
                    here = rows - middle
                    s, e = scores[: len(rows)], p[: len(rows)]
                    torch.mm(_with(_with(here, 1), -norm), table.t(), out=s)  # log p
                    torch.exp(torch.clamp(s, min=LOWEST, out=e), out=e)
                    if floor > -math.inf:
                        # d/dp of p log(max(p, floor)), less 1
                        s = F.threshold(s, floor, floor - 1, inplace=True)
                    torch.addcmul(to_share, s, to_entropy, value=-1, out=s).mul_(e)
                    # p sums to 1 only as exactly as log_z is known
                    s.addcmul_(e, s.sum(1, keepdim=True) / e.sum(1, keepdim=True), value=-1)
                    torch.mm(s, c, out=slope)
                    slope *= w[:, None] * (2 / temperature)
                    if ctx.needs_input_grad[1]:
                        dc.addmm_(s.t(), here * w[:, None])
                        column += w @ s
                return dc, column

            sums = zip(*divide(pull, len(x), len(x) * len(c), x.device), strict=True)
            dc, column = (torch.stack(each).sum(0) for each in sums)
            dc = (dc - column[:, None] * c) * (2 / temperature)
        return dx.to(z.dtype), dc.to(codes.dtype), None, None, None


def _centred(z: Tensor, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """z as rows [N, d], the centred codes [K, d] and what was subtracted [d], all in float32."""
    c = codes.float()
    middle = c.mean(0)
    return z.reshape(-1, z.shape[-1]).float(), c - middle, middle


def _with(x: Tensor, last: Tensor | float) -> Tensor:
    """x with one more column."""
    wide = x.new_empty(len(x), x.shape[1] + 1)
    wide[:, :-1] = x
    wide[:, -1] = last
    return wide


def _rows(x: Tensor, codes: int) -> int:
    """Rows of a chunk: about 1 MB of scores; a GPU is not filled by that."""
    many = max(256, 2**18 // codes) if x.device.type == "cpu" else max(1024, 2**26 // codes)
    return max(1, min(many, len(x)))
