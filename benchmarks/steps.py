"""Training steps of the five papers beside those of their published programs: `python -m benchmarks.steps`.

Each trains in a process of its own, step by step in turn, on the same random series: ours as `tstk train` does with the
config of the paper (`TrainStep`: gradients, clipping, optimizer, `after_step`), the published program as
`benchmarks/published` writes it down in plain torch, with torch's default optimizer. A ratio is the time of the
published step divided by that of ours in the same round; the median of the rounds and its 95 % interval are printed.
`--precision bf16` runs both under autocast, `bf16-ours` ours only. Denormals are flushed to zero in both, as `tstk
train` does; nothing is compiled. With `--one-process` both share a process, and so our settings of its memory.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from tstk.cli import shorten_openmp_spin

shorten_openmp_spin()  # as `tstk train` does, before torch is imported

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks.figures import compute_paired_ratio, interleave  # noqa: E402

Step = Callable[[], float]
"""Trains on one batch and returns the loss."""


class Paper(NamedTuple):
    """What is compared.

    Args:
        model: module and class in `benchmarks.published`, and arguments of the class
        config: of the plugin
        options: beside the config's
        shape: of a batch, [B, C, T]
        num_parameters: of the published model in pretraining
    """

    model: tuple[str, str, dict[str, Any]]
    config: str
    options: dict[str, dict[str, Any]]
    shape: tuple[int, int, int]
    num_parameters: int


TINY = {"length": 500, "scales": 16, "dim": 96, "depth": 2, "heads": 4}
TINY |= {"decoder_dim": 64, "decoder_depth": 1, "decoder_heads": 4}

PAPERS = {
    "vqvae": Paper(("vqvae", "VQVAE", {}), "vqvae/published-tokenizer", {}, (64, 1, 512), 296_001),
    "vqvae-causal": Paper(
        ("vqvae", "VQVAE", {}),
        "vqvae/published-tokenizer",
        {"tokenizer": {"padding": "causal"}},
        (64, 1, 512),
        296_001,
    ),
    "timemae": Paper(("timemae", "TimeMAE", {}), "timemae/published", {}, (128, 9, 128), 1_017_960),
    # the published program draws one mask per step, the paper thirty
    "timae": Paper(("timae", "TiMAE", {}), "timae/pretrain", {"loss": {"num_masks": 1}}, (64, 1, 140), 117_025),
    "cwtmae-tiny": Paper(("cwtmae", "CWTMAE", TINY), "cwtmae/tiny", {}, (64, 1, 500), 347_434),
    "cwtmae": Paper(("cwtmae", "CWTMAE", {}), "cwtmae/published", {}, (2, 1, 3000), 95_618_954),
    "vqshape": Paper(("vqshape", "VQShape", {}), "vqshape/pretrain", {}, (64, 1, 512), 9_478_997),
}


def build_published(paper: Paper, precision: str = "fp32") -> tuple[nn.Module, Callable[[Tensor], float]]:
    """Return the published model and its training step."""
    name, model_class, options = paper.model
    module = import_module(f"benchmarks.published.{name}")
    model = getattr(module, model_class)(**options)
    optimizer = module.make_optimizer(model)

    def step(x: Tensor) -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss: float = module.train_step(model, optimizer, x)
        return loss

    return model, step


def build_ours(paper: Paper, precision: str = "fp32") -> tuple[nn.Module, Callable[[Tensor], float]]:
    """Return our pipeline and its training step."""
    from tstk.config.resolve import find_config, resolve_config
    from tstk.config.toml import read_toml
    from tstk.core.types import Series, Spec
    from tstk.runs.build import build_pipeline
    from tstk.training.config import TrainConfig
    from tstk.training.devices import create_accelerator
    from tstk.training.step import TrainStep

    train = {"train": {"precision": precision, "grad_accum_steps": 1}}
    config = resolve_config(
        (paper.config, read_toml(find_config(paper.config))), ("benchmark", {**paper.options, **train})
    )
    batch, channels, length = paper.shape
    pipeline = build_pipeline(config, Spec(channels=channels, length=length), **config.options("pipeline"))
    pipeline.bind()
    accelerator = create_accelerator("cpu", precision)
    train_step = TrainStep(
        accelerator, pipeline, TrainConfig.from_config(config), lambda step: 1.0, lambda series, rng: series
    )
    pipeline.train()
    steps = 0

    def step(x: Tensor) -> float:
        nonlocal steps
        steps += 1
        (output,) = train_step(steps, [Series(x, None, None, torch.arange(batch))])
        assert output.loss is not None
        return output.loss.item()

    return pipeline, step


PRECISIONS = {"fp32": ("fp32", "fp32"), "bf16": ("bf16", "bf16"), "bf16-ours": ("fp32", "bf16")}
"""Option -> precision of the published program and of ours."""


CONTENDERS = ("published", "ours")


def build_steps(paper: Paper, precision: str = "fp32", contenders: Sequence[str] = CONTENDERS) -> dict[str, Step]:
    """Return the steps of the contenders, each with the same series in the same order."""
    torch.manual_seed(0)
    batches = torch.randn(4, *paper.shape).cumsum(-1)
    batches = (batches - batches.mean(-1, keepdim=True)) / batches.std(-1, keepdim=True)

    def bind(train_step: Callable[[Tensor], float]) -> Step:
        numbers: Iterator[int] = iter(range(1 << 62))
        return lambda: train_step(batches[next(numbers) % len(batches)])

    build = {"published": build_published, "ours": build_ours}
    precisions = dict(zip(CONTENDERS, PRECISIONS[precision], strict=True))
    return {contender: bind(build[contender](paper, precisions[contender])[1]) for contender in contenders}


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def make_clock(step: Step, read: Callable[[], float]) -> Callable[[], float]:
    """Return a function that runs a step and returns its seconds."""

    def clock() -> float:
        begin = read()
        step()
        return read() - begin

    return clock


@contextmanager
def configure(threads: int, contender: str = "ours") -> Iterator[None]:
    """Set the number of threads and flush denormals inside the context; for ours, keep freed memory."""
    from tstk.training.devices import flush_denormals, keep_freed_memory, limit_threads

    with ExitStack() as stack:
        stack.enter_context(limit_threads(threads))
        stack.enter_context(flush_denormals())
        if contender == "ours":
            stack.enter_context(keep_freed_memory())
        yield


def serve_steps(pipe: Connection, name: str, contender: str, threads: int, precision: str, clock: str) -> None:
    """Run a step of one contender for each message, and answer with its seconds."""
    with configure(threads, contender):
        run = make_clock(build_steps(PAPERS[name], precision, (contender,))[contender], CLOCKS[clock])
        while pipe.recv():
            pipe.send(run())


@contextmanager
def start_clocks(
    name: str, threads: int, precision: str, clock: str, one_process: bool
) -> Iterator[dict[str, Callable[[], float]]]:
    """Yield a function for each contender that runs a step, in a process of its own, and returns its seconds."""
    if one_process:
        with configure(threads):
            yield {k: make_clock(step, CLOCKS[clock]) for k, step in build_steps(PAPERS[name], precision).items()}
        return

    def bind(pipe: Connection) -> Callable[[], float]:
        def ask() -> float:
            pipe.send(True)
            seconds: float = pipe.recv()
            return seconds

        return ask

    context, pipes, workers = get_context("spawn"), {}, []
    for contender in CONTENDERS:
        pipes[contender], end = context.Pipe()
        arguments = (end, name, contender, threads, precision, clock)
        workers.append(context.Process(target=serve_steps, args=arguments, daemon=True))
        workers[-1].start()
        end.close()
    try:
        yield {contender: bind(pipe) for contender, pipe in pipes.items()}
    finally:
        for pipe in pipes.values():
            pipe.send(False)
        for worker in workers:
            worker.join()


def compare(
    name: str, threads: int, rounds: int, precision: str, clock: str = "wall", *, one_process: bool = False
) -> dict[str, Any]:
    """Measure one paper: medians in milliseconds, and the ratio published / ours with its interval."""
    with start_clocks(name, threads, precision, clock, one_process) as clocks:
        interleave(clocks, 2)
        times = interleave(clocks, rounds)
    milliseconds = {key: 1e3 * sorted(values)[len(values) // 2] for key, values in times.items()}
    ratio = compute_paired_ratio(times["published"], times["ours"])
    case = {"paper": name, "threads": threads, "precision": precision, "rounds": rounds, "clock": clock}
    return case | {"one_process": one_process} | milliseconds | ratio


def profile_step(name: str, threads: int, precision: str, contender: str = "ours", calls: int = 5) -> str:
    """Return a table of time per operation of torch over `calls` steps."""
    from torch.profiler import ProfilerActivity, profile

    with configure(threads, contender):
        step = build_steps(PAPERS[name], precision, (contender,))[contender]
        for _ in range(2):
            step()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(calls):
                step()
    return profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=50)


def format_row(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    return (
        f"| {row['paper']} | {row['precision']} | {row['threads']} | {row['published']:.1f} | {row['ours']:.1f} "
        f"| {row['ratio']:.2f} [{low:.2f}, {high:.2f}] |"
    )


def main() -> None:
    """Print a table of milliseconds per step and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--papers", nargs="+", default=list(PAPERS), choices=list(PAPERS))
    parser.add_argument("--threads", default="1,2", help="numbers of threads, separated by commas")
    parser.add_argument("--precision", nargs="+", default=["fp32"], choices=list(PRECISIONS))
    parser.add_argument("--rounds", type=int, default=15, help="steps of each")
    parser.add_argument(
        "--clock", default="wall", choices=list(CLOCKS), help="cpu: time of the process, on a machine with other work"
    )
    parser.add_argument("--one-process", action="store_true", help="run both in one process")
    parser.add_argument("--profile", choices=["ours", "published"], help="print where the time goes instead")
    parser.add_argument("--results", type=Path, help="JSON file for the results")
    arguments = parser.parse_args()
    threads = [int(number) for number in arguments.threads.split(",")]
    cases = [(name, n, p) for name in arguments.papers for p in arguments.precision for n in threads]
    if arguments.profile:
        for name, n, precision in cases:
            print(name, profile_step(name, n, precision, arguments.profile), sep="\n", flush=True)
        return
    print("| paper | precision | threads | published, ms | ours, ms | ratio |\n|---|---|---:|---:|---:|---:|")
    rows = []
    for name, n, precision in cases:
        rows.append(compare(name, n, arguments.rounds, precision, arguments.clock, one_process=arguments.one_process))
        print(format_row(rows[-1]), flush=True)
        if arguments.results:
            arguments.results.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
