"""Speedup of code rollouts by the KV cache: `python -m benchmarks.rollout`; needs the plugin vqvae.

A next-code model of the published size generates codes with the cache, and by encoding the whole context for each code.
Both must generate the same codes.
"""

from __future__ import annotations

import argparse
import time

import torch


def main() -> None:
    """Print a table of seconds and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, default=512, help="context length in samples")
    parser.add_argument("--horizons", type=int, nargs="+", default=[96, 192, 336, 720], help="samples to forecast")
    parser.add_argument("--series", type=int, default=32, help="series per batch")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    print(f"{args.series} series of {args.context} samples on {args.device}, {torch.get_num_threads()} threads")
    print("horizon  codes cached s  plain s   ratio")
    for horizon in args.horizons:
        cached, uncached = (
            time_rollout(args.context, horizon, args.series, args.device, cache) for cache in (True, False)
        )
        assert torch.equal(cached[1], uncached[1]), "rollouts with and without the cache differ"
        print(f"{horizon:7} {cached[1].shape[1]:6} {cached[0]:8.3f} {uncached[0]:8.3f} {uncached[0] / cached[0]:7.1f}")


@torch.no_grad()
def time_rollout(context: int, horizon: int, series: int, device: str, cache: bool) -> tuple[float, torch.Tensor]:
    """Return the seconds of the faster of two rollouts, and the codes."""
    from tstk_plugins_vqvae.rollout import select_context

    import tstk
    from tstk.core.types import Series, Spec

    torch.manual_seed(0)
    encoder = {"use": "transformer", "depth": 3, "heads": 8, "hidden": 256, "positions": "rotary", "causal": True}
    tables = {"tokenizer": "vqvae", "encoder": encoder, "loss": {"use": "code-rollout", "cache": cache}}
    pipeline = tstk.build(tables, Spec(channels=1, length=context, horizon=horizon)).to(device).eval()
    past, ahead = select_context(
        pipeline.tokenize(Series(torch.randn(series, 1, context, device=device))).tokens,
        pipeline.tokenizer.out,
        context,
        horizon,
    )
    best = float("inf")
    for _ in range(2):
        begin = time.perf_counter()
        codes = pipeline.loss.generate(pipeline.loss.encode_context(past), ahead, [])
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return best, codes


if __name__ == "__main__":
    main()
