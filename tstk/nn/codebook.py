"""Vector quantisation with a codebook that learns by gradient or by exponential moving averages (EMA).

`forward` changes no state, so it may be run again (gradient checkpointing, validation). Whatever is not updated by
gradients is updated in `after_step`, from the vectors of the forward passes of that step. In a tokenizer that puts its
vectors into `Tokens.attrs["z"]`:

    def after_step(self, step_outputs):
        self.codebook.after_step([(s.tokens.attrs["z"], s.tokens.ids, s.tokens.valid) for s in step_outputs])
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, distributed, nn

from tstk.errors import OptionError
from tstk.kernels.nearest_code import nearest_code, sum_by_code
from tstk.kernels.vector_quantize import LossOptions, QuantizerOutput, entropy, vector_quantize
from tstk.nn.devices import is_distributed


class VQOutput(NamedTuple):
    """The output of `Codebook.forward`.

    Args:
        values: [..., dim] quantised vectors: exactly the codes, in the dtype of the input, with straight-through
            gradients
        ids: [...] int64 indices of the codes
        aux_losses: weighted scalar losses: `commitment`, `codebook` and `entropy`, where their weight is not 0
    """

    values: Tensor
    ids: Tensor
    aux_losses: dict[str, Tensor]


class Codebook(nn.Module):
    """Vector quantisation (van den Oord et al. 2017, arXiv:1711.00937), in float32 even under autocast.

    EMA updates follow appendix A.1. Unlike the paper, counts are not smoothed: a code without vectors does not change.
    With several processes, statistics cover the vectors of all of them and random vectors are drawn by the first, so
    all codebooks stay equal.

    Args:
        num_codes: number of codes K
        dim: width of a code
        update: how codes learn: `gradient`, from the codebook and entropy losses; `ema`, each code follows the moving
            average of its vectors
        commitment: weight of the commitment loss, which moves vectors towards codes
        codebook: weight of the codebook loss, which moves codes towards vectors; unused with update `ema`
        entropy: weight of VQShape's loss: mean entropy of soft assignments minus gamma times the entropy of their mean
        gamma: weight of the second part of the entropy loss, which makes all codes be used
        temperature: temperature of soft assignments, softmax(-|z - c|^2 / temperature)
        log_floor: lower bound of probabilities in the logarithms of the entropy loss; VQShape's code has 1e-5
        decay: decay of the moving averages per step
        kmeans_iters: iterations of k-means that initialise the codes after the first step with vectors; 0 for random
            codes
        dead_code_threshold: reset codes used less often than this fraction of the mean code to vectors of the step; 0
            for never
    """

    codes: Tensor
    counts: Tensor
    next_seed: Tensor

    def __init__(
        self,
        num_codes: int,
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
        kmeans_iters: int = 0,
        dead_code_threshold: float = 0.0,
    ) -> None:
        super().__init__()
        for is_valid, fault in (
            (num_codes >= 2 and dim >= 1, f"num_codes={num_codes}, dim={dim}: expected at least 2 codes and width 1"),
            (update in ("gradient", "ema"), f"update={update!r}: expected gradient or ema"),
            (min(commitment, codebook, entropy) >= 0, "commitment, codebook, entropy: expected weights of 0 or more"),
            (temperature > 0, f"temperature={temperature}: expected more than 0"),
            (0 <= log_floor < 1, f"log_floor={log_floor}: expected 0 or more and less than 1"),
            (0 <= decay < 1, f"decay={decay}: expected 0 or more and less than 1"),
            (kmeans_iters >= 0, f"kmeans_iters={kmeans_iters}: expected a number of iterations, 0 or more"),
            (
                0 <= dead_code_threshold < 1,
                f"dead_code_threshold={dead_code_threshold}: expected 0 or more and less than 1",
            ),
        ):
            if not is_valid:
                raise OptionError(fault)
        self.update, self.decay = update, decay
        self.kmeans_iters, self.dead_code_threshold = kmeans_iters, dead_code_threshold
        self.loss_options = LossOptions(commitment, codebook, entropy, gamma, temperature, log_floor)
        codes = torch.empty(num_codes, dim).uniform_(-1 / num_codes, 1 / num_codes)
        if update == "gradient":
            self.codes = nn.Parameter(codes)
        else:
            self.register_buffer("codes", codes)
        self.register_buffer("counts", torch.zeros(num_codes))  # moving average of the number of vectors per step
        self.register_buffer("next_seed", torch.randint(2**31, ()))  # seed of the next draw

    def extra_repr(self) -> str:
        """Return the size and the update rule, for `repr`."""
        return f"{len(self.codes)}, {self.codes.shape[1]}, update={self.update}"

    def embed(self, ids: Tensor) -> Tensor:
        """Return the codes of indices [...], as [..., dim]."""
        return nn.functional.embedding(ids, self.codes)

    def forward(self, z: Tensor, valid: Tensor | None = None) -> VQOutput:
        """Quantise vectors to their nearest codes.

        Args:
            z: [..., dim] vectors
            valid: [...] bool, False for vectors to leave out of the losses
        """
        options = self.loss_options
        if not self.codes.requires_grad:
            options = options._replace(codebook=0.0)
        if is_distributed():
            # The entropy of the mean of p needs the vectors of all processes, so its weight waits for them.
            out = vector_quantize(z, self.codes, options._replace(gamma=0.0), valid=valid)
            out = self._average_over_processes(out, out.ids.numel() if valid is None else valid.sum())
        else:
            out = vector_quantize(z, self.codes, options, valid=valid)
        aux = {name: getattr(out, name) for name in ("commitment", "codebook", "entropy") if getattr(options, name)}
        return VQOutput(out.values, out.ids, aux)

    def _average_over_processes(self, out: QuantizerOutput, count: Tensor | int) -> QuantizerOutput:
        """Return the losses over the vectors of all processes, given those over the `count` vectors of this one.

        Gradients are those of this process's terms times the world size, because they are averaged over processes.
        """
        share = out.mean_probs.new_tensor(float(count))
        total = share.clone()
        distributed.all_reduce(total)
        share = share / total.clamp(min=1)
        world = distributed.get_world_size()
        local_term = torch.cat([out.entropy[None], out.mean_probs]) * share
        means = local_term.detach().clone()
        distributed.all_reduce(means)
        means = means + (local_term - local_term.detach()) * world
        options = self.loss_options
        return out._replace(
            commitment=out.commitment * share * world,
            codebook=out.codebook * share * world,
            entropy=means[0] - options.entropy * options.gamma * entropy(means[1:], options.log_floor),
        )

    # ---------------------------------------------------------------- once per optimizer step

    @torch.no_grad()
    def after_step(self, passes: Iterable[tuple[Tensor, Tensor, Tensor | None]]) -> dict[str, Tensor]:
        """Apply the updates that are not made by gradients: moving averages, k-means initialisation, dead codes.

        Nothing changes in eval mode, hence nothing in a frozen codebook.

        Args:
            passes: (z, ids, valid) of each forward pass of the step; vectors that are not finite are ignored

        Returns:
            scalar metrics: `usage` and `perplexity` of the step's vectors, as in `code_usage`, and `revived`, the
            number of dead codes that were reset
        """
        batches = [_select_vectors(z.detach(), i, v) for z, i, v in passes]
        x = torch.cat([z for z, _ in batches]).float()
        ids = torch.cat([i for _, i in batches])
        sums, counts = _all_reduce_sums(*sum_by_code(x, ids, len(self.codes)))
        num_reset = 0
        if self.training:
            if self.kmeans_iters and not self.counts.any():
                self.kmeans_init(x)
            else:
                self.ema_update(sums, counts)
            if self.dead_code_threshold:
                num_reset = self.reset_dead_codes(x)
        return code_usage(counts) | {"revived": counts.new_tensor(float(num_reset))}

    def ema_update(self, sums: Tensor, counts: Tensor) -> None:
        """Update the moving averages of the counts and, with update `ema`, the codes.

        Args:
            sums: [K, dim] sum of the vectors of each code
            counts: [K] number of vectors of each code
        """
        self.counts.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        if self.update == "ema":
            step = (1 - self.decay) * counts / self.counts.clamp(min=1e-30)
            self.codes += step[:, None] * (sums / counts.clamp(min=1)[:, None] - self.codes)

    def kmeans_init(self, x: Tensor) -> None:
        """Initialise the codes by Lloyd's k-means on vectors x [N, dim], starting from random ones of them.

        With fewer vectors than codes, the remaining codes do not change.
        """
        centroids = self._draw_rows(x, len(self.codes))
        for _ in range(self.kmeans_iters if len(centroids) else 0):
            ids, _ = nearest_code(x, centroids)
            sums, counts = _all_reduce_sums(*sum_by_code(x, ids, len(centroids)))
            centroids = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centroids)
            self.counts[: len(centroids)] = counts
        self.codes[: len(centroids)] = centroids

    def reset_dead_codes(self, x: Tensor) -> int:
        """Reset rarely used codes to random vectors of x [N, dim], with the mean count; return their number."""
        mean_count = self.counts.mean()
        dead_ids = (self.counts < self.dead_code_threshold * mean_count).nonzero()[:, 0]
        if not len(dead_ids):
            return 0
        rows = self._draw_rows(x, len(dead_ids))
        dead_ids = dead_ids[: len(rows)]
        self.codes[dead_ids] = rows
        self.counts[dead_ids] = mean_count
        return len(dead_ids)

    def _draw_rows(self, x: Tensor, max_rows: int) -> Tensor:
        """Return up to `max_rows` different rows of x, drawn by the first process and broadcast to all."""
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(int(self.next_seed)))[:max_rows]
        self.next_seed += 1
        rows = x[order.to(x.device)]
        if not is_distributed():
            return rows
        count = torch.tensor(len(rows), device=x.device)
        distributed.broadcast(count, 0)
        buffer = x.new_zeros(max_rows, x.shape[1])
        buffer[: len(rows)] = rows
        distributed.broadcast(buffer, 0)
        return buffer[: int(count)]


def _select_vectors(z: Tensor, ids: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the finite, valid vectors [N, dim] and their ids [N]."""
    if (valid is None or valid.all()) and z.sum(dtype=torch.float32).isfinite():  # finite only if all numbers are
        return z.reshape(-1, z.shape[-1]), ids.flatten()
    where = z.isfinite().all(-1) & (True if valid is None else valid)
    return z[where], ids[where]


def code_usage(counts: Tensor) -> dict[str, Tensor]:
    """Return how evenly codes are used.

    Args:
        counts: [K] number of vectors of each code

    Returns:
        `usage`, the fraction of codes used at least once, and `perplexity`, exp of the entropy of the code frequencies
    """
    return {"usage": (counts > 0).float().mean(), "perplexity": entropy(counts / counts.sum().clamp(min=1)).exp()}


def _all_reduce_sums(sums: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return sums [K, d] and counts [K] added over all processes, as float32."""
    buffer = torch.cat([sums, counts[:, None].float()], 1)
    if is_distributed():
        distributed.all_reduce(buffer)
    return buffer[:, :-1], buffer[:, -1]
