"""PyTorch backend: the search of `nearest_code`, and soft assignments of rows in chunks that fit the cache.

Vectors and codes are centred on the mean of the codes, so that a common offset costs no precision.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.kernels.nearest_code.torch import center, choose_chunk_size
from tstk.kernels.threads import map_row_slices
from tstk.kernels.vector_quantize import LossOptions, entropy, quantize

MIN_EXPONENT = -60.0
"""Lower bound of exponents: e^-60 is negligible in a sum, and avoids denormal numbers, which are slow."""


def vector_quantize(
    z: Tensor, codes: Tensor, valid: Tensor | None, options: LossOptions
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `tstk.kernels.vector_quantize`."""
    with torch.autocast(z.device.type, enabled=False):
        outputs = quantize(z, codes, valid, options)
        x = z.float() if valid is None else z.float().where(valid[..., None], 0)
        mean_entropy, mean_probs = soft_assignment(x, codes, valid, options.temperature, options.log_floor)
        spread = mean_entropy - options.gamma * entropy(mean_probs, options.log_floor)
        return *outputs, options.entropy * spread, mean_probs


def soft_assignment(
    z: Tensor, codes: Tensor, valid: Tensor | None, temperature: float, log_floor: float
) -> tuple[Tensor, Tensor]:
    """Return the mean entropy [] and the mean [K] of soft assignments; z [..., d] is finite where it is not valid."""
    rows = z.reshape(-1, z.shape[-1])
    weight = rows.new_ones(rows.shape[0], dtype=torch.float32) if valid is None else valid.reshape(-1).float()
    weight = weight / weight.sum().clamp(min=1)
    floor = math.log(log_floor) if log_floor else -math.inf
    if torch.compiler.is_compiling():
        x, c, code_mean = center(rows, codes)
        score = torch.addmm(c.square().sum(1), x - code_mean, c.t(), alpha=-2)
        log_p = (-score / temperature).log_softmax(1).clamp(min=MIN_EXPONENT)
        p = log_p.exp()
        return -(weight @ (p * log_p.clamp(min=floor)).sum(1)), weight @ p
    out: tuple[Tensor, Tensor] = SoftAssignment.apply(rows, codes, weight, temperature, floor)
    return out


class SoftAssignment(torch.autograd.Function):
    """p = softmax(-|z - c|^2 / temperature), recomputed in the backward instead of kept."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, codes: Tensor, weight: Tensor, temperature: float, floor: float
    ) -> tuple[Tensor, Tensor]:
        """Return the mean entropy [] and the mean of p [K]; `floor` is the lower bound of logarithms."""
        x, c, code_mean = center(z, codes)
        table = torch.cat([2 * c, -c.square().sum(1, keepdim=True)], 1) / temperature
        log_z = code_mean.new_empty(len(x))

        def assign(row_slice: slice) -> tuple[Tensor, Tensor]:
            tensors = x[row_slice], weight[row_slice], log_z[row_slice]
            entropy, mean_probs = code_mean.new_zeros(()), code_mean.new_zeros(len(c))
            chunk_size = choose_chunk_size(tensors[0], len(c))
            s_buffer, p_buffer = code_mean.new_empty(2, chunk_size, len(c)).unbind()
            for rows, w, log_z_chunk in zip(*(t.split(chunk_size) for t in tensors), strict=True):
                s, p = s_buffer[: len(rows)], p_buffer[: len(rows)]  # p is not normalized
                torch.mm(_append_column(rows - code_mean, 1), table.t(), out=s)
                m_i = s.amax(1, keepdim=True)
                torch.exp(s.sub_(m_i).clamp_(min=MIN_EXPONENT), out=p)
                l_i = p.sum(1)
                log_l_i = l_i.log()
                torch.add(m_i[:, 0], log_l_i, out=log_z_chunk)
                s.sub_(log_l_i[:, None])
                if floor > -math.inf:
                    s.clamp_(min=floor)
                w = w / l_i
                mean_probs += w @ p
                entropy -= w @ p.mul_(s).sum(1)
            return entropy, mean_probs

        sums = zip(*map_row_slices(assign, len(x), len(x) * len(c), x.device), strict=True)
        entropy, mean_probs = (torch.stack(partial_sums).sum(0) for partial_sums in sums)
        ctx.save_for_backward(z, codes, weight, log_z)
        ctx.options = temperature, floor
        return entropy, mean_probs

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients: that of a score is w p (u - <p, u>), with u that of p up to a constant per row."""
        grad_entropy, grad_mean_probs = grad_outputs
        z, codes, weight, log_z = ctx.saved_tensors
        temperature, floor = ctx.options
        with torch.autocast(z.device.type, enabled=False):
            x, c, code_mean = center(z, codes)
            table = torch.cat([2 * c, -c.square().sum(1, keepdim=True)], 1) / temperature
            table = torch.cat([table, table.new_ones(len(c), 1)], 1)
            dx = torch.empty_like(x)

            def backpropagate(row_slice: slice) -> tuple[Tensor, Tensor]:
                tensors = x[row_slice], weight[row_slice], log_z[row_slice], dx[row_slice]
                dc, ds_sum = torch.zeros_like(c), c.new_zeros(len(c))
                chunk_size = choose_chunk_size(tensors[0], len(c))
                s_buffer, p_buffer = code_mean.new_empty(2, chunk_size, len(c)).unbind()
                for rows, w, log_z_chunk, dx_chunk in zip(*(t.split(chunk_size) for t in tensors), strict=True):
                    centered = rows - code_mean
                    s, p = s_buffer[: len(rows)], p_buffer[: len(rows)]
                    torch.mm(_append_column(_append_column(centered, 1), -log_z_chunk), table.t(), out=s)  # log p
                    torch.exp(torch.clamp(s, min=MIN_EXPONENT, out=p), out=p)
                    if floor > -math.inf:
                        # d/dp of p log(max(p, floor)), less 1
                        s = F.threshold(s, floor, floor - 1, inplace=True)
                    ds = torch.addcmul(grad_mean_probs, s, grad_entropy, value=-1, out=s).mul_(p)
                    # p sums to 1 only up to the rounding of log_z
                    ds.addcmul_(p, ds.sum(1, keepdim=True) / p.sum(1, keepdim=True), value=-1)
                    torch.mm(ds, c, out=dx_chunk)
                    dx_chunk *= w[:, None] * (2 / temperature)
                    if ctx.needs_input_grad[1]:
                        dc.addmm_(ds.t(), centered * w[:, None])
                        ds_sum += w @ ds
                return dc, ds_sum

            sums = zip(*map_row_slices(backpropagate, len(x), len(x) * len(c), x.device), strict=True)
            dc, ds_sum = (torch.stack(partial_sums).sum(0) for partial_sums in sums)
            dc = (dc - ds_sum[:, None] * c) * (2 / temperature)
        return dx.to(z.dtype), dc.to(codes.dtype), None, None, None


def _append_column(x: Tensor, column: Tensor | float) -> Tensor:
    """Return x with a column appended."""
    out = x.new_empty(len(x), x.shape[1] + 1)
    out[:, :-1] = x
    out[:, -1] = column
    return out
