"""`tstk train`: from options and config files to a run directory."""

from __future__ import annotations

import os
import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import rich_click
from click.core import ParameterSource

from tstk.cli.completion import names, runs
from tstk.cli.options import TYPED, Configured
from tstk.cli.output import as_json, baseline_notes, curve, examples, note, scores, table
from tstk.config.resolve import Config
from tstk.config.run_directory import read_config
from tstk.errors import OptionError, TstkError
from tstk.plugins.registry import SLOTS
from tstk.training.launcher import launch, launched

if TYPE_CHECKING:
    from tstk.core.pipeline import Pipeline
    from tstk.data.data_module import Dataset


@click.command(
    cls=Configured,
    epilog=examples(
        "tstk train --encoder bert --head cot",
        "tstk train --encoder bert --encoder.depth 2 --help",
        "tstk train --loss masked --epochs 20 --out runs/pretrained",
        "tstk train --from runs/pretrained --head linear",
    ),
)
@rich_click.option(
    "--config",
    multiple=True,
    metavar="NAME|FILE",
    shell_complete=names("config", files=True),
    panel="start from",
    help="a config file, or a config by name (tstk config list); later ones go on top",
)
@rich_click.option(
    "--out", metavar="DIR", panel="output", help="the run directory; runs/ENCODER-HEAD-DATA if not given"
)
@rich_click.option(
    "--resume",
    metavar="RUN",
    shell_complete=runs,
    panel="start from",
    help="go on with a run that was interrupted, with the options that it was started with",
)
@rich_click.option(
    "--devices",
    type=click.IntRange(min=1),
    default=1,
    metavar="int",
    panel="training",
    help="processes on this machine, a GPU each (or, with --device cpu, a share of the processor)",
)
@rich_click.option(
    "--dry-run",
    is_flag=True,
    panel="output",
    help="build everything, pass two series forward and backward, print the shapes, write nothing",
)
@rich_click.option(
    "--print-config",
    is_flag=True,
    panel="output",
    help="print every option with its source, as TOML that --config reads, and stop",
)
@rich_click.option(
    "--find-lr",
    is_flag=True,
    panel="output",
    help="try rates from 1e-6 to 1, a step each, draw the loss and suggest one for --lr; write nothing",
)
@rich_click.option("--json", "json_", is_flag=True, panel="output", help="print the result as JSON on stdout")
@rich_click.option("--quiet", is_flag=True, panel="output", help="print the run directory and nothing else")
def command(
    config: Config,
    out: str | None,
    resume: str | None,
    devices: int,
    dry_run: bool,
    print_config: bool,
    find_lr: bool,
    json_: bool,
    quiet: bool,
) -> None:
    """Train a pipeline on data and keep the best weights by validation.

    Name a component to see its options: tstk train --encoder bert --help. A slot takes the name of a component, or a
    run directory whose trained part it starts from. What goes wrong is said in one line, and nothing is written.
    """
    if print_config:
        for line in config.notes:
            note(f"note: {line}")
        click.echo(config.toml())
    elif dry_run:
        _dry_run(config, json_)
    elif find_lr:
        _find_lr(config, json_)
    elif devices > 1 and not launched():
        words = shlex.split(click.get_current_context().meta[TYPED])[1:]
        raise click.exceptions.Exit(launch(devices, words, cpu=_device(config, resume) == "cpu"))
    elif resume is not None:
        _alone(resume)
        _train(config, Path(resume), True, json_, quiet)
    else:
        from tstk.training.runs import default_out

        _train(config, default_out(config) if out is None else Path(out), False, json_, quiet)


def _device(config: Config, resume: str | None) -> str:
    """Where training happens."""
    values = config.values if resume is None else read_config(resume)["config"]
    return str(values["train"]["device"])


def _alone(resume: str) -> None:
    """Nothing that a resumed run could not heed stands beside it."""
    ctx = click.get_current_context()
    typed = [
        p for p in ctx.command.get_params(ctx) if ctx.get_parameter_source(str(p.name)) == ParameterSource.COMMANDLINE
    ]
    others = [p.opts[0] for p in typed if p.name not in ("resume", "devices", "quiet", "json_")]
    if others:
        raise OptionError(
            f"--resume {resume} goes on with the options that the run was started with; leave out {', '.join(others)}"
        )


def _train(config: Config, out: Path, again: bool, json_: bool, quiet: bool) -> None:
    from tstk.cli.progress import watcher
    from tstk.config.run_directory import WEIGHTS, is_unfinished
    from tstk.training.interrupt import Stopped
    from tstk.training.runs import resume, train

    first = not int(os.environ.get("RANK", 0))  # of several processes, one talks
    watch = watcher() if first and not quiet else None
    start = resume if again else partial(train, config, command=click.get_current_context().meta[TYPED])
    try:
        result = start(
            out=out,
            watcher=watch,
            say=(lambda line: None) if quiet else lambda line: note(f"note: {line}"),
            ready=None if quiet else lambda pipeline, data: note(describe(config, pipeline, data)),
        )
    except Stopped as e:
        if first:
            click.echo(f"Interrupted: {e}; continue with: tstk train --resume {shlex.quote(str(out))}", err=True)
        raise click.exceptions.Exit(128 + e.number) from None
    except KeyboardInterrupt:
        if is_unfinished(out):
            scored = f"{out} keeps the best weights so far; score them: tstk eval {out}; " * (out / WEIGHTS).is_file()
            click.echo(f"Interrupted. {scored}continue with: tstk train --resume {shlex.quote(str(out))}", err=True)
        else:
            click.echo("Interrupted. Nothing was kept.", err=True)
        raise click.exceptions.Exit(130) from None
    finally:
        if watch:
            watch.end()
    if not first:
        return
    if json_:
        as_json({"run": str(out), **result})
    elif quiet:
        click.echo(str(out))
    else:
        _report(result, out)


def _report(result: dict[str, Any], out: Path) -> None:
    scores({"test": result["test"], "val": result["val"], **result["baselines"]})
    selected = result["selected"]
    click.echo(
        f"\n{result['parameters']:,} parameters, {result['trainable']:,} of them trained, in "
        f"{result['seconds']:g} s; weights of epoch {selected['epoch']} of {selected['of']}\n"
    )
    if not selected["epoch"]:
        click.echo("On validation, training did not improve on the linear map: the run forecasts with the map alone.\n")
    run = shlex.quote(str(out))
    click.echo(f"The run is {click.style(str(out), bold=True)}. Next:")
    if result["task"] == "pretraining":
        head = "linear" if read_config(out)["spec"]["horizon"] is None else "forecast"
        click.echo(f"  tstk train --from {run} --head {head}")
    else:
        click.echo(
            f"  tstk eval {run}\n  tstk predict {run} --out predictions."
            + ("npz" if result["task"] == "forecasting" else "csv")
        )
    click.echo(f"  tstk embed {run} --out embeddings.npz")
    baseline_notes(result["test"], result)


def _dry_run(config: Config, json_: bool) -> None:
    from dataclasses import asdict

    from tstk.training.dry_run import dry_run

    report = dry_run(config, say=lambda line: note(f"note: {line}"))
    if json_:
        as_json(asdict(report))
        if report.faults:
            raise TstkError("\n".join(report.faults))
        return
    table(
        ["stage", "component", "out (B, N, D)", "parameters", "trainable"],
        [[s.slot, s.use, s.shape, f"{s.parameters:,}", f"{s.trainable:,}"] for s in report.stages],
        right=["parameters", "trainable"],
    )
    click.echo(
        f"\n{report.tokens} tokens per series"
        + (f", {report.target} numbers asked of each" if report.target else "")
        + f"; {report.terms}"
    )
    beside = "none" if report.positions is None else f"{report.positions:.2g} of the tokens (root mean squares)"
    click.echo(f"Positions that the encoder adds to the tokens: {beside}.")
    if report.faults:
        raise TstkError("\n".join(report.faults))
    click.echo("Every trainable parameter got a finite gradient, no frozen one got any. Nothing was written.")


def _find_lr(config: Config, json_: bool) -> None:
    from dataclasses import asdict
    from inspect import signature

    from tstk.training.lr_finder import find_rate
    from tstk.training.runs import prepare
    from tstk.training.small_data import settle

    pipeline, data = prepare(config, lambda line: note(f"note: {line}"))
    known = signature(find_rate).parameters
    options, _ = settle(config.options("train"), pipeline, data)
    sweep = find_rate(pipeline, data, **{k: v for k, v in options.items() if k in known})
    if json_:
        as_json(asdict(sweep))
        return
    click.echo(curve(sweep.rates, sweep.losses, sweep.suggestion))
    click.echo(f"\nThe loss falls most steeply at --lr {sweep.suggestion:.2g}. Nothing was written.")


def describe(config: Config, pipeline: Pipeline, data: Dataset) -> str:
    """What will be trained, on one line."""
    names = {s: str(config.use(s)).rpartition("/")[2] for s in SLOTS if config.use(s)}
    stages = " > ".join(name for slot, name in names.items() if slot != "loss")
    count = sum(p.numel() for p in pipeline.parameters())
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in data.parts.items())
    return f"{stages}, loss {names['loss']}: {count:,} parameters; {data.name}: {sizes}"
