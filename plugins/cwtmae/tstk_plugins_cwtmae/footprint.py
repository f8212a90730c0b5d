"""What a few training steps take on a CPU: time, share of the wavelet image, memory.

python -m tstk_plugins_cwtmae.footprint --config cwtmae/published --batch 32 --length 3000 --recompute
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any

import click
import torch

from tstk.config.resolve import chosen, find_config, read_toml, resolve
from tstk.core.rng import Draws
from tstk.core.types import Series, Spec
from tstk.errors import OptionError
from tstk.nn.blocks import recomputing
from tstk.runs.build import assemble
from tstk_plugins_cwtmae.tokenizer import CWT


def footprint(
    config: str = "cwtmae/published",
    *,
    batch: int = 32,
    length: int = 3000,
    channels: int = 1,
    steps: int = 3,
    recompute: bool = True,
    bf16: bool = False,
    changes: Sequence[str] = (),
) -> dict[str, Any]:
    """Train on random series, forward, backward and AdamW.

    Args:
        config: name or file
        batch: series
        length: samples of each
        channels: of each
        steps: to take; the first makes plans and optimizer state, too
        recompute: run blocks again on the way back
        bf16: under autocast
        changes: options over the config, as "tokenizer.scales=64"

    Returns:
        parameters; per step, seconds and image_seconds; peak_bytes of the whole process, and before_bytes, those before
        the first step
    """
    given = dict(change.split("=", 1) for change in changes)
    resolved = resolve((config, read_toml(find_config(config))), ("change", chosen(given)))
    torch.manual_seed(0)
    wiring = resolved.options("pipeline")
    pipeline = assemble(
        resolved, Spec(channels, length), channels=wiring["channels"], instance_norm=wiring["instance_norm"]
    )
    pipeline.bind()
    tokenizer = pipeline.tokenizer
    if not isinstance(tokenizer, CWT):
        raise OptionError(f"{config} has no tokenizer 'cwt', so there is no image to measure")
    optimizer = torch.optim.AdamW(pipeline.parameters(), 1e-4, fused=True)
    spent = [0.0]
    image = tokenizer.image

    def timed(series: Series) -> Any:
        begin = time.perf_counter()
        made = image(series)
        spent[-1] += time.perf_counter() - begin
        return made

    tokenizer.image = timed  # type: ignore[method-assign]
    before, seconds = _peak(), []
    with recomputing(pipeline, recompute):
        for step in range(steps):
            series = Series(torch.randn(batch, channels, length), key=torch.arange(batch))
            begin = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                flow = pipeline(series, Draws(0, step, series.key))  # type: ignore[arg-type]
            assert flow.total is not None
            flow.total.backward()
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(round(time.perf_counter() - begin, 3))
            spent.append(0.0)
    return {
        "parameters": sum(p.numel() for p in pipeline.parameters()),
        "seconds": seconds,
        "image_seconds": [round(s, 3) for s in spent[:-1]],
        "image_share": [round(s / t, 4) for s, t in zip(spent, seconds, strict=False)],
        "image_bytes": batch * tokenizer.out.tokens * (tokenizer.out.target or 0) * 4,
        "before_bytes": before,
        "peak_bytes": _peak(),
        "threads": torch.get_num_threads(),
    }


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@click.command()
@click.option("--config", default="cwtmae/published", show_default=True, help="name or file")
@click.option("--batch", default=32, show_default=True, help="series")
@click.option("--length", default=3000, show_default=True, help="samples of each")
@click.option("--channels", default=1, show_default=True, help="of each")
@click.option("--steps", default=3, show_default=True, help="to take")
@click.option("--recompute/--no-recompute", default=True, show_default=True, help="run blocks again on the way back")
@click.option("--bf16", is_flag=True, help="under autocast")
@click.option("--set", "changes", multiple=True, metavar="OPTION=VALUE", help="such as tokenizer.scales=64")
def main(**options: Any) -> None:
    """Take a few training steps on random series and say what they took."""
    click.echo(json.dumps(footprint(options.pop("config"), **options), indent=2))


if __name__ == "__main__":
    main()
