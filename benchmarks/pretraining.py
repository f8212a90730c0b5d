"""Speedup of a training step by the fused quantizer: `python -m benchmarks.pretraining`; needs the plugin vqshape.

Training steps of VQShape (forward, backward, AdamW) alternate between our quantizer and one as published, which
materializes every matrix of rows by codes for autograd. Denormals are flushed to zero, as `tstk train` does.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from torch import Tensor

from tstk.kernels.dispatch import OPERATIONS, Backend, use_backend
from tstk.kernels.vector_quantize import LossOptions, entropy

OURS, PUBLISHED = "auto", "vector_quantize=plain"


def vector_quantize(z: Tensor, codes: Tensor, valid: Tensor | None, options: LossOptions) -> tuple[Tensor, ...]:
    """Compute all distances and probabilities, with logarithms clamped as in the published code."""
    where = ... if valid is None else valid
    squares = z.square().sum(-1, keepdim=True) + codes.square().sum(-1) - 2 * z @ codes.T
    ids = squares.argmin(-1)
    selected = codes[ids]
    p = torch.softmax(-squares[where].reshape(-1, len(codes)) / options.temperature, -1)
    mean_probs, floor = p.mean(0), options.log_floor
    mean_entropy = -(p * p.clamp(min=floor).log()).sum(-1).mean()
    commitment = options.commitment * (z - selected.detach())[where].square().mean()
    codebook = options.codebook * (z.detach() - selected)[where].square().mean()
    spread = options.entropy * (mean_entropy - options.gamma * entropy(mean_probs, floor))
    return z + (selected - z).detach(), ids, commitment, codebook, spread, mean_probs


def main() -> None:
    """Print a table of milliseconds per step and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=["vqshape/small", "vqshape/pretrain"])
    parser.add_argument("--batch", type=int, default=64, help="series of one channel")
    parser.add_argument("--rounds", type=int, default=10, help="pairs of steps")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    OPERATIONS["vector_quantize"].backends["plain"] = Backend("plain", f"{__name__}:vector_quantize")
    print(f"batch {args.batch} on {args.device}, {torch.get_num_threads()} threads; ms per step, median")
    print("config              ours   as published   ratio")
    for config in args.configs:
        ours, published, ratio = time_steps(config, args.batch, args.rounds, args.device)
        print(f"{config:16} {ours:7.0f} {published:14.0f} {ratio:7.2f}")


def time_steps(config: str, batch: int, rounds: int, device: str) -> tuple[float, float, float]:
    """Return milliseconds per step of both quantizers, and the median of the ratios."""
    from tstk.config.resolve import find_config, resolve_config
    from tstk.config.toml import read_toml
    from tstk.core.rng import SampleRNG
    from tstk.core.types import Series, Spec
    from tstk.runs.build import build_pipeline

    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    config_values = resolve_config((config, read_toml(find_config(config))))
    length = int(config_values.options("data")["resize"])
    pipeline = build_pipeline(
        config_values, Spec(channels=1, length=length), channels="independent", instance_norm=True
    ).to(device)
    pipeline.bind()
    optimizer = torch.optim.AdamW(pipeline.parameters(), lr=1e-4, fused=True)
    sample_id = torch.arange(batch)
    series = Series(torch.randn(batch, 1, length, device=device).cumsum(-1), None, None, sample_id)

    def step(number: int, backend: str) -> float:
        begin = time.perf_counter()
        with use_backend(backend):
            pipeline(series, SampleRNG(0, number, sample_id)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device != "cpu":
            torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - begin)

    for number in range(3):
        step(number, OURS)
        step(number, PUBLISHED)
    pairs = [(step(i, OURS), step(i, PUBLISHED)) for i in range(3, rounds + 3)]
    ours, published = (median(times) for times in zip(*pairs, strict=True))
    return ours, published, median(b / a for a, b in pairs)


if __name__ == "__main__":
    main()
