"""`tstk train`: train a pipeline and write a run directory."""

from __future__ import annotations

import os
import shlex
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import click
import rich_click
from click.core import ParameterSource

from tstk.cli.completion import complete_names, complete_runs
from tstk.cli.options import COMMAND_LINE_KEY, ConfigCommand
from tstk.cli.output import (
    echo,
    format_calibration,
    format_curve,
    format_examples,
    print_baseline_notes,
    print_json,
    print_note,
    print_scores,
    print_table,
)
from tstk.config.records import RunConfig, RunResult
from tstk.config.resolve import Config
from tstk.errors import OptionError, TstkError
from tstk.plugins.hooks import SLOTS
from tstk.plugins.local import format_import_path, is_local
from tstk.training.launcher import is_launched, launch_processes

if TYPE_CHECKING:
    from tstk.core.pipeline import Pipeline
    from tstk.data.data_module import DataModule
    from tstk.training.dry_run import DryRunReport


@click.command(
    cls=ConfigCommand,
    epilog=format_examples(
        "tstk train --encoder bert --head cot",
        "tstk train --encoder bert --encoder.depth 2 --help",
        "tstk train --loss masked --epochs 20 --out runs/pretrained",
        "tstk train --init-from runs/pretrained --head linear",
    ),
)
@rich_click.option(
    "--config",
    multiple=True,
    metavar="NAME|FILE",
    shell_complete=complete_names("config", files=True),
    panel="start from",
    help="config file, or config name (tstk config list); later ones override earlier ones",
)
@rich_click.option("--out", metavar="DIR", panel="output", help="run directory; runs/ENCODER-HEAD-DATA if not given")
@rich_click.option(
    "--resume",
    metavar="RUN",
    shell_complete=complete_runs,
    panel="start from",
    help="resume an interrupted run, with its original options",
)
@rich_click.option(
    "--devices",
    type=click.IntRange(min=1),
    default=1,
    metavar="int",
    panel="training",
    help="processes on this machine, one GPU each (with --device cpu, a share of the cores)",
)
@rich_click.option(
    "--dry-run",
    is_flag=True,
    panel="output",
    help="build the pipeline, try two series and one batch, print shapes, memory and time; write nothing",
)
@rich_click.option(
    "--print-config",
    is_flag=True,
    panel="output",
    help="print every option with its source, as TOML for --config, and exit",
)
@rich_click.option(
    "--find-lr",
    is_flag=True,
    panel="output",
    help="learning-rate range test from 1e-6 to 1: plot the loss and suggest a value for --lr; write nothing",
)
@rich_click.option("--json", "json_", is_flag=True, panel="output", help="print the result as JSON on stdout")
@rich_click.option("--quiet", is_flag=True, panel="output", help="print only the run directory")
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
    """Train a pipeline and keep the best weights by validation score.

    Select a component to see its options: tstk train --encoder bert --help. A slot takes the name of a component, a
    run directory to initialize the component from, or a class of your own as MODULE:CLASS or FILE.py:CLASS. A config
    with errors is refused before anything is written.
    """
    _reject_unused_options(config)
    if print_config:
        for line in config.notes:
            print_note(f"note: {line}")
        echo(config.to_toml())
    elif dry_run:
        _dry_run(config, json_)
    elif find_lr:
        _find_lr(config, json_)
    elif devices > 1 and not is_launched():
        words = shlex.split(click.get_current_context().meta[COMMAND_LINE_KEY])[1:]
        raise click.exceptions.Exit(launch_processes(devices, words, use_cpu=_read_device(config, resume) == "cpu"))
    else:
        _train(config, out, resume, json_, quiet)


def _read_device(config: Config, resume: str | None) -> str:
    """Return the value of --device, of the resumed run if there is one."""
    options = config.options("train") if resume is None else RunConfig.read(resume).options("train")
    return str(options["device"])


def _reject_unused_options(config: Config) -> None:
    """Raise if options are typed together of which one would have no effect."""
    ctx = click.get_current_context()
    typed = {
        str(p.name): p.opts[0]
        for p in ctx.command.get_params(ctx)
        if ctx.get_parameter_source(str(p.name)) == ParameterSource.COMMANDLINE
    }
    modes = [name for name in ("print_config", "dry_run", "find_lr") if name in typed]
    if modes:
        without_effect = [*modes[1:], "resume", "devices", "quiet", *(["json_"] if modes[0] == "print_config" else [])]
        if others := [typed[name] for name in without_effect if name in typed]:
            raise OptionError(f"{typed[modes[0]]} does not train; remove {', '.join(others)}")
    elif "resume" in typed:
        classes = {slot for slot in SLOTS if config.component(slot) and is_local(slot, str(config.component(slot)))}
        allowed = {"resume", "devices", "quiet", "json_", *classes}
        others = [flag for name, flag in typed.items() if name not in allowed]
        if others:
            raise OptionError(f"--resume uses the original options of the run; remove {', '.join(others)}")


def _train(config: Config, out: str | None, resume: str | None, json_: bool, quiet: bool) -> None:
    from tstk.cli.progress import make_progress_callback
    from tstk.training.interrupt import TrainingInterrupted
    from tstk.training.runs import resume_run, train

    is_main = not int(os.environ.get("RANK", 0))  # only the main process prints
    progress = make_progress_callback() if is_main and not quiet else None
    command_line = click.get_current_context().meta[COMMAND_LINE_KEY]

    def print_summary(pipeline: Pipeline, data: DataModule) -> None:
        print_note(summarize(config if resume is None else Config(RunConfig.read(resume).given), pipeline, data))

    start = partial(train, config, out, command=command_line) if resume is None else partial(resume_run, resume)
    try:
        result = start(
            callbacks=() if progress is None else (progress,),
            print_fn=(lambda line: None) if quiet else lambda line: print_note(f"note: {line}"),
            on_ready=None if quiet else print_summary,
        )
    except TrainingInterrupted as e:
        if is_main:
            echo(f"Interrupted: {e}; continue with: tstk train --resume {shlex.quote(str(e.run_dir))}", err=True)
        raise click.exceptions.Exit(128 + e.signum) from None
    except KeyboardInterrupt:
        echo("Interrupted. Nothing was saved.", err=True)
        raise click.exceptions.Exit(130) from None
    if not is_main:
        return
    if json_:
        print_json({"run": str(result.run_dir), **result.to_dict()})
    elif quiet:
        echo(str(result.run_dir))
    else:
        _print_result(result)


def _print_result(result: RunResult) -> None:
    print_scores({"test": result.test, "val": result.val, **result.baselines})
    selected, others = result.selected, "reading the data and testing" if result.test else "reading the data"
    echo(
        f"\n{result.parameters:,} parameters, {result.trainable:,} trainable; weights of epoch {selected.epoch} of "
        f"{selected.num_epochs}; {result.training_seconds:g} s of training and validation, {result.seconds:g} s with "
        f"{others}\n"
    )
    if result.calibration is not None:
        echo(f"{format_calibration(asdict(result.calibration))}\n")
    if not result.selected.epoch:
        echo("Training did not improve the validation score of the linear map: the run forecasts with the map alone.\n")
    echo(f"Run directory: {result.run_dir}. Next:")
    for line in _list_next_commands(result):
        echo(f"  {line}")
    print_baseline_notes(result.test, result.baselines, result.baselines_skipped, result.baselines_details)


def _list_next_commands(result: RunResult) -> list[str]:
    """Return the commands that use the run, with the classes of its components that belong to no plugin."""
    run_config = RunConfig.read(result.run_dir)
    classes = {
        slot: f" --{slot} {shlex.quote(format_import_path(record))}"
        for slot, record in run_config.local.items()
        if slot in SLOTS
    }
    run_dir = shlex.quote(str(result.run_dir))
    run = run_dir + "".join(classes.values())
    run_and_data = run if result.test else f"{run} --data FILE"  # there is no test split to apply it to
    commands = [f"tstk report {run}", f"tstk embed {run_and_data} --out embeddings.npz"]
    if result.task == "pretraining":
        from tstk.core.task import get_task

        task = run_config.input_schema["task"]
        kept = "".join(classes.get(slot, "") for slot in ("tokenizer", "encoder"))
        target = "--data FILE_WITH_LABELS --head linear" if task is None else f"--head {get_task(task).default_head}"
        return [f"tstk train --init-from {run_dir}{kept} {target}", *commands]
    forecasts = run_config.horizon is not None
    return [
        f"tstk eval {run_and_data}",
        *([f"tstk forecast {run} --out forecast.csv"] if forecasts else ()),
        f"tstk predict {run_and_data} --out predictions.{'npz' if forecasts else 'csv'}",
        *commands,
    ]


def _dry_run(config: Config, json_: bool) -> None:
    from tstk.training.dry_run import dry_run

    report = dry_run(config, print_fn=lambda line: print_note(f"note: {line}"))
    if json_:
        print_json(asdict(report))
        if report.gradient_faults:
            raise TstkError("\n".join(report.gradient_faults))
        return
    print_table(
        ["stage", "component", "out (B, N, D)", "parameters", "trainable"],
        [[s.slot, s.component, s.output_shape, f"{s.parameters:,}", f"{s.trainable:,}"] for s in report.stages],
        right_aligned=["parameters", "trainable"],
    )
    echo(
        f"\n{report.num_tokens} tokens per series"
        + (f", {report.target_dim} target values each" if report.target_dim else "")
        + f"; {report.losses}"
    )
    echo(_format_cost(report))
    pos_embed_ratio = (
        "none" if report.pos_embed_ratio is None else f"{report.pos_embed_ratio:.2g} of the tokens (RMS ratio)"
    )
    echo(f"Position embeddings added by the encoder: {pos_embed_ratio}.")
    if report.gradient_faults:
        raise TstkError("\n".join(report.gradient_faults))
    echo("All trainable parameters have finite gradients; frozen ones have none. Nothing was written.")


def _format_cost(report: DryRunReport) -> str:
    """Return the estimates of memory and time as two sentences."""
    from tstk.config.memory import format_size

    total = format_size(report.state_bytes + report.activation_bytes)
    available = f" of {format_size(report.memory_bytes)}" if report.memory_bytes else ""
    minutes = report.total_steps * report.seconds_per_step / 60
    duration = f"{minutes / 60:.2g} hours" if minutes > 90 else f"{minutes:.2g} minutes"
    return (
        f"Estimated memory: {total}{available} (weights and optimizer {format_size(report.state_bytes)}, activations "
        f"of {report.batch_size} series {format_size(report.activation_bytes)}), beside the data and the program.\n"
        f"Estimated time: {duration} for {report.total_steps:,} steps of {report.seconds_per_step:.2g} s on this CPU, "
        "without validation."
    )


def _find_lr(config: Config, json_: bool) -> None:
    from tstk.training.config import TrainConfig
    from tstk.training.lr_finder import lr_range_test
    from tstk.training.runs import prepare_training

    pipeline, data = prepare_training(config, lambda line: print_note(f"note: {line}"))
    sweep = lr_range_test(pipeline, data, TrainConfig.from_config(config))
    if json_:
        print_json(asdict(sweep))
        return
    echo(format_curve(sweep.lrs, sweep.losses, sweep.suggestion))
    echo(f"\nThe loss falls most steeply at --lr {sweep.suggestion:.2g}. Nothing was written.")


def summarize(config: Config, pipeline: Pipeline, data: DataModule) -> str:
    """Return one line: components, number of parameters, data set and split sizes."""
    names = {s: str(config.component(s)).rpartition("/")[2] for s in SLOTS if config.component(s)}
    stages = " > ".join(name for slot, name in names.items() if slot != "loss")
    count = sum(p.numel() for p in pipeline.parameters())
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in data.splits.items())
    return f"{stages}, loss {names['loss']}: {count:,} parameters; {data.name}: {sizes}"
