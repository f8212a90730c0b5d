"""Measure a few training steps on a CPU: time, share of the wavelet transform, memory.

python -m tstk_plugins_cwtmae.footprint --config cwtmae/published --batch 32 --length 3000 --gradient-checkpointing
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any, cast

import click
import torch

from tstk.cli.output import echo
from tstk.config.resolve import find_config, parse_overrides, resolve_config
from tstk.config.toml import read_toml
from tstk.core.pipeline import Pipeline
from tstk.core.rng import SampleRNG
from tstk.core.types import Series, Spec
from tstk.errors import OptionError
from tstk.nn.blocks import enable_gradient_checkpointing
from tstk.runs.build import build_pipeline
from tstk_plugins_cwtmae.tokenizer import CWT


def measure_footprint(
    config: str = "cwtmae/published",
    *,
    batch: int = 32,
    length: int = 3000,
    channels: int = 1,
    steps: int = 3,
    gradient_checkpointing: bool = True,
    bf16: bool = False,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Run training steps (forward, backward, AdamW) on random series and measure them.

    Args:
        config: name or file of a config
        batch: series per batch
        length: samples per series
        channels: channels per series
        steps: number of steps; the first one also creates FFT plans and optimizer state
        gradient_checkpointing: recompute blocks in the backward pass
        bf16: use bfloat16 autocast
        overrides: options that override the config, such as "tokenizer.scales=64"

    Returns:
        parameters; seconds and image_seconds of each step; before_bytes and peak_bytes, the peak memory of the process
        before the first step and after the last

    Raises:
        OptionError: the config has another tokenizer than `cwt`
    """
    pipeline = _build_cwt_pipeline(config, Spec(channels, length), overrides)
    tokenizer = cast(CWT, pipeline.tokenizer)
    optimizer = torch.optim.AdamW(pipeline.parameters(), 1e-4, fused=True)
    image_seconds = _time_calls(tokenizer, "compute_image")
    before_bytes, seconds = _read_peak_bytes(), []
    with enable_gradient_checkpointing(pipeline, gradient_checkpointing):
        for step in range(steps):
            series = Series(torch.randn(batch, channels, length), sample_id=torch.arange(batch))
            begin = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = pipeline(series, SampleRNG(0, step, series.sample_id)).loss  # type: ignore[arg-type]
            assert loss is not None
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(round(time.perf_counter() - begin, 3))
            image_seconds.append(0.0)
    return {
        "parameters": sum(p.numel() for p in pipeline.parameters()),
        "seconds": seconds,
        "image_seconds": [round(s, 3) for s in image_seconds[:-1]],
        "image_share": [round(s / t, 4) for s, t in zip(image_seconds, seconds, strict=False)],
        "image_bytes": batch * tokenizer.out.num_tokens * (tokenizer.out.target_dim or 0) * 4,
        "before_bytes": before_bytes,
        "peak_bytes": _read_peak_bytes(),
        "threads": torch.get_num_threads(),
    }


def _build_cwt_pipeline(config: str, spec: Spec, overrides: Sequence[str]) -> Pipeline:
    options = dict(override.split("=", 1) for override in overrides)
    resolved = resolve_config((config, read_toml(find_config(config))), ("--set", parse_overrides(options)))
    torch.manual_seed(0)
    pipeline_options = resolved.options("pipeline")
    pipeline = build_pipeline(
        resolved, spec, channels=pipeline_options["channels"], instance_norm=pipeline_options["instance_norm"]
    )
    pipeline.bind()
    if not isinstance(pipeline.tokenizer, CWT):
        raise OptionError(f"{config}: expected tokenizer 'cwt', whose wavelet transform is measured")
    return pipeline


def _time_calls(owner: Any, method_name: str) -> list[float]:
    """Return a list to whose last number the seconds of each call of a method are added."""
    seconds, method = [0.0], getattr(owner, method_name)

    def timed(*args: Any) -> Any:
        begin = time.perf_counter()
        result = method(*args)
        seconds[-1] += time.perf_counter() - begin
        return result

    setattr(owner, method_name, timed)
    return seconds


def _read_peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@click.command()
@click.option("--config", default="cwtmae/published", show_default=True, help="name or file of a config")
@click.option("--batch", default=32, show_default=True, help="series per batch")
@click.option("--length", default=3000, show_default=True, help="samples per series")
@click.option("--channels", default=1, show_default=True, help="channels per series")
@click.option("--steps", default=3, show_default=True, help="number of training steps")
@click.option(
    "--gradient-checkpointing/--no-gradient-checkpointing",
    default=True,
    show_default=True,
    help="recompute blocks in the backward pass",
)
@click.option("--bf16", is_flag=True, help="use bfloat16 autocast")
@click.option(
    "--set", "overrides", multiple=True, metavar="OPTION=VALUE", help="override an option: tokenizer.scales=64"
)
def main(**options: Any) -> None:
    """Run a few training steps on random series and print their time and memory."""
    echo(json.dumps(measure_footprint(options.pop("config"), **options), indent=2))


if __name__ == "__main__":
    main()
