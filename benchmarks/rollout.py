"""How much keys and values kept save a rollout of codes: `python -m benchmarks.rollout`; needs the plugin vqvae.

A next-code model of the published size goes on for some codes, with the cache and encoding everything anew for each.
Both must choose the same codes.
"""

from __future__ import annotations

import argparse
import time

import torch


def main() -> None:
    """Print a table of seconds and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, default=512, help="samples seen")
    parser.add_argument("--horizons", type=int, nargs="+", default=[96, 192, 336, 720], help="samples to forecast")
    parser.add_argument("--series", type=int, default=32, help="series at a time")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    print(f"{args.series} series of {args.context} samples on {args.device}, {torch.get_num_threads()} threads")
    print("horizon  codes   kept s   anew s   ratio")
    for horizon in args.horizons:
        kept, anew = (timed(args.context, horizon, args.series, args.device, cache) for cache in (True, False))
        assert torch.equal(kept[1], anew[1]), "the two chose different codes"
        print(f"{horizon:7} {kept[1].shape[1]:6} {kept[0]:8.3f} {anew[0]:8.3f} {anew[0] / kept[0]:7.1f}")


@torch.no_grad()
def timed(context: int, horizon: int, series: int, device: str, cache: bool) -> tuple[float, torch.Tensor]:
    """Seconds of the better of two rollouts, and the codes."""
    from tstk_plugins_vqvae.rollout import known

    import tstk
    from tstk.core.types import Series, Spec

    torch.manual_seed(0)
    encoder = {"use": "transformer", "depth": 3, "heads": 8, "hidden": 256, "positions": "rotary", "causal": True}
    tables = {"tokenizer": "vqvae", "encoder": encoder, "loss": {"use": "code-rollout", "cache": cache}}
    pipeline = tstk.build(tables, Spec(channels=1, length=context, horizon=horizon)).to(device).eval()
    past, ahead = known(
        pipeline.tokenize(Series(torch.randn(series, 1, context, device=device))).tokens,
        pipeline.tokenizer.out,
        context,
        horizon,
    )
    best = float("inf")
    for _ in range(2):
        begin = time.perf_counter()
        codes = pipeline.loss.continued(pipeline.loss.begun(past), ahead, [])
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return best, codes


if __name__ == "__main__":
    main()
