"""The one quantizer: vectors become the nearest of a set of codes, and the codes learn by gradient or by average.

`forward` moves nothing, so it may be run again (gradient checkpointing, validation). What gradients do not move, moves
in `after_step`, from what the caller kept of the forward passes of that step. In a tokenizer that puts its vectors into
`Tokens.attrs["z"]`:

    def after_step(self, flows):
        self.codebook.after_step([(f.tokens.attrs["z"], f.tokens.ids, f.tokens.valid) for f in flows])
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, distributed, nn

from tstk.errors import OptionError
from tstk.kernels.nearest_code import code_sums, entropy, nearest_code, quantize, soft_assignment
from tstk.nn.reduce import mean


class Quantized(NamedTuple):
    """What a codebook makes of vectors.

    Args:
        values: [..., dim] the codes, exactly, in the type of the vectors, with straight-through gradients
        ids: [...] int64
        aux: weighted penalties by name, scalars: `commitment`, `codebook`, `entropy`, as far as they count
    """

    values: Tensor
    ids: Tensor
    aux: dict[str, Tensor]


class Codebook(nn.Module):
    """Vector quantisation (van den Oord et al. 2017, arXiv:1711.00937), in float32 whatever autocast says.

    Averages are those of appendix A.1. Unlike the paper, counts are not smoothed: a code that nothing chose stays
    where it is. With several processes, statistics are of all their vectors and draws are made by the first, so all
    codebooks stay equal.

    Args:
        codes: number of codes
        dim: width of a code
        update: how codes learn: gradient, from the codebook and entropy terms; ema, each follows the running average
            of its vectors
        commitment: weight of the mean square that draws vectors to codes
        codebook: weight of the mean square that draws codes to vectors; with update ema the average does that
        entropy: weight of VQShape's term: the mean entropy of soft assignments, less gamma times that of their mean
        gamma: weight of the second half of the entropy term, which spreads vectors over codes
        temperature: of soft assignments, softmax(-|z - c|^2 / temperature)
        log_floor: least probability under a logarithm in the entropy term; VQShape's code has 1e-5
        decay: share of themselves that averages and counts keep in each step
        kmeans: rounds of k-means that place the codes after the first step that has vectors; 0 leaves them random
        revive: codes chosen less often than this share of the average code move to a vector of the step; 0 for never
    """

    codes: Tensor
    counts: Tensor
    draws: Tensor

    def __init__(
        self,
        codes: int,
        dim: int,
        *,
        update: Literal["gradient", "ema"] = "gradient",
        commitment: float = 0.25,
        codebook: float = 1.0,
        entropy: float = 0.0,
        gamma: float = 1.0,
        temperature: float = 0.01,
        log_floor: float = 0.0,
        decay: float = 0.99,
        kmeans: int = 0,
        revive: float = 0.0,
    ) -> None:
        super().__init__()
        for fine, fault in (
            (codes >= 2 and dim >= 1, f"codes={codes}, dim={dim}: expected at least 2 codes and width 1"),
            (update in ("gradient", "ema"), f"update={update!r}: expected gradient or ema"),
            (min(commitment, codebook, entropy) >= 0, "commitment, codebook, entropy: expected weights of 0 or more"),
            (temperature > 0, f"temperature={temperature}: expected more than 0"),
            (0 <= log_floor < 1, f"log_floor={log_floor}: expected 0 or more and less than 1"),
            (0 <= decay < 1, f"decay={decay}: expected 0 or more and less than 1"),
            (kmeans >= 0, f"kmeans={kmeans}: expected a number of rounds, 0 or more"),
            (0 <= revive < 1, f"revive={revive}: expected 0 or more and less than 1"),
        ):
            if not fine:
                raise OptionError(fault)
        self.update, self.decay, self.kmeans, self.revive = update, decay, kmeans, revive
        self.weights = {"commitment": commitment, "codebook": codebook, "entropy": entropy}
        self.gamma, self.temperature, self.log_floor = gamma, temperature, log_floor
        start = torch.empty(codes, dim).uniform_(-1 / codes, 1 / codes)
        if update == "gradient":
            self.codes = nn.Parameter(start)
        else:
            self.register_buffer("codes", start)
        self.register_buffer("counts", torch.zeros(codes))  # running averages, of vectors per step
        self.register_buffer("draws", torch.randint(2**31, ()))  # seed of the next draw

    def extra_repr(self) -> str:
        """Size and way of learning."""
        return f"{len(self.codes)}, {self.codes.shape[1]}, update={self.update}"

    def embed(self, ids: Tensor) -> Tensor:
        """Codes by number: [...] long -> [..., dim]."""
        return nn.functional.embedding(ids, self.codes)

    def forward(self, z: Tensor, valid: Tensor | None = None) -> Quantized:
        """Vectors [..., dim] -> codes.

        Args:
            z: [..., dim] vectors
            valid: [...] bool, False for what no penalty counts
        """
        with torch.autocast(z.device.type, enabled=False):
            values, ids, chosen = quantize(z, self.codes)
            z = z.to(torch.promote_types(z.dtype, torch.float32))
            where = None if valid is None else valid[..., None]
            aux = {}
            if self.weights["commitment"]:
                aux["commitment"] = self.weights["commitment"] * mean((chosen.detach() - z).square(), where)
            if self.weights["codebook"] and self.codes.requires_grad:
                aux["codebook"] = self.weights["codebook"] * mean((chosen - z.detach()).square(), where)
            if self.weights["entropy"]:
                each, share = self._soft(z, valid)
                aux["entropy"] = self.weights["entropy"] * (each - self.gamma * entropy(share, self.log_floor))
        return Quantized(values, ids, aux)

    def _soft(self, z: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """Entropy of assignments and share of codes, means over the vectors of all processes."""
        each, share = soft_assignment(
            z, self.codes, temperature=self.temperature, log_floor=self.log_floor, valid=valid
        )
        if not _several():
            return each, share
        count = each.new_tensor(float(z[..., 0].numel())) if valid is None else valid.sum().float()
        total = count.clone()
        distributed.all_reduce(total)
        part = torch.cat([each[None], share]) * (count / total.clamp(min=1))
        whole = part.detach().clone()
        distributed.all_reduce(whole)
        # the value is the whole; the gradient is the part's, which averaging over processes will divide
        both = whole + (part - part.detach()) * distributed.get_world_size()
        return both[0], both[1:]

    # ---------------------------------------------------------------- once per optimizer step

    @torch.no_grad()
    def after_step(self, passes: Iterable[tuple[Tensor, Tensor, Tensor | None]]) -> dict[str, Tensor]:
        """Move what gradients do not move: averages, the start from data, dead codes. Nothing moves in eval mode,
        and so nothing of a frozen codebook.

        Args:
            passes: (z, ids, valid) of each forward pass of the step; vectors that are not finite teach nothing

        Returns:
            what to watch, scalars: `usage` and `perplexity` of the step's vectors, as `spread` has them, and
            `revived`, the number of codes that were moved to where vectors are
        """
        rows = [(z.detach(), i, z.isfinite().all(-1) & (True if v is None else v)) for z, i, v in passes]
        x = torch.cat([z[ok] for z, _, ok in rows]).float()
        ids = torch.cat([i[ok] for _, i, ok in rows])
        sums, n = _over_processes(*code_sums(x, ids, len(self.codes)))
        revived = 0
        if self.training:
            if self.kmeans and not self.counts.any():
                self._start(x)
            else:
                self._follow(sums, n)
            if self.revive:
                revived = self._revive(x)
        return spread(n) | {"revived": n.new_tensor(float(revived))}

    def _follow(self, sums: Tensor, n: Tensor) -> None:
        """Running averages of counts and, with update ema, of vectors."""
        self.counts.mul_(self.decay).add_(n, alpha=1 - self.decay)
        if self.update == "ema":
            step = (1 - self.decay) * n / self.counts.clamp(min=1e-30)
            self.codes += step[:, None] * (sums / n.clamp(min=1)[:, None] - self.codes)

    def _start(self, x: Tensor) -> None:
        """Lloyd's k-means from vectors drawn at random; with fewer vectors than codes the other codes stay."""
        centres = self._drawn(x, len(self.codes))
        for _ in range(self.kmeans if len(centres) else 0):
            ids, _ = nearest_code(x, centres)
            sums, n = _over_processes(*code_sums(x, ids, len(centres)))
            centres = torch.where(n[:, None] > 0, sums / n.clamp(min=1)[:, None], centres)
            self.counts[: len(centres)] = n
        self.codes[: len(centres)] = centres

    def _revive(self, x: Tensor) -> int:
        """Codes that are hardly chosen move to vectors of this step, and count as average ones."""
        average = self.counts.mean()
        dead = (self.counts < self.revive * average).nonzero()[:, 0]
        if not len(dead):
            return 0
        drawn = self._drawn(x, len(dead))
        dead = dead[: len(drawn)]
        self.codes[dead] = drawn
        self.counts[dead] = average
        return len(dead)

    def _drawn(self, x: Tensor, most: int) -> Tensor:
        """Up to `most` different rows of x, drawn by the first process for all."""
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(int(self.draws)))[:most]
        self.draws += 1
        drawn = x[order.to(x.device)]
        if not _several():
            return drawn
        count = torch.tensor(len(drawn), device=x.device)
        distributed.broadcast(count, 0)
        told = x.new_zeros(most, x.shape[1])
        told[: len(drawn)] = drawn
        distributed.broadcast(told, 0)
        return told[: int(count)]


def spread(n: Tensor) -> dict[str, Tensor]:
    """How evenly codes are chosen.

    Args:
        n: [K] how often each was

    Returns:
        `usage`, the share of codes that were chosen at all, and `perplexity`, exp of the entropy of the choices: the
        number of codes that would be as many if all were chosen equally often
    """
    return {"usage": (n > 0).float().mean(), "perplexity": entropy(n / n.sum().clamp(min=1)).exp()}


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _over_processes(sums: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """Sums [K, d] and counts [K], as float32, of all processes."""
    both = torch.cat([sums, n[:, None].float()], 1)
    if _several():
        distributed.all_reduce(both)
    return both[:, :-1], both[:, -1]
