"""The command line: a click group whose commands are registry entries, imported only when they are invoked.

User errors (`TstkError`, click's own errors, a file that cannot be opened) are printed on stderr, one line each, with
exit code 2; TSTK_STRICT=1 shows the traceback instead. Nothing here imports torch.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
import rich_click

from tstk.cli.output import echo
from tstk.errors import TstkError, did_you_mean
from tstk.files import DISK_FULL_ERRNOS, explain_os_error
from tstk.plugins.distribution import CORE_DISTRIBUTION
from tstk.plugins.registry import get_registry


class CommandGroup(rich_click.RichGroup):
    """Group of all commands; `get_command` reads names and summaries only, `resolve_command` imports the command."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return command names in registration order, without ambiguous ones (`tstk list command` shows those)."""
        return [name for name in get_registry().list_names("command") if "/" not in name]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a placeholder with name and summary, enough for help and completion."""
        entry = get_registry().find("command", cmd_name)
        return rich_click.RichCommand(name=cmd_name, short_help=entry.summary, help=entry.summary)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Import and return the command to invoke.

        Raises:
            UnknownNameError: no command has this name
        """
        if args[0].startswith("-"):
            raise click.NoSuchOption(args[0], ctx=ctx)
        if ctx.resilient_parsing and args[0] not in get_registry().list_names("command"):
            return None, None, args  # shell completion: unknown names must not raise
        return args[0], get_registry().load(get_registry().find("command", args[0])), args[1:]

    def main(self, args: Sequence[str] | None = None, standalone_mode: bool = True, **extra: Any) -> Any:  # type: ignore[override]
        """Run `click.Group.main`, and print user errors as one line each."""
        if not standalone_mode or os.environ.get("TSTK_STRICT") == "1":
            return super().main(args, standalone_mode=standalone_mode, **extra)
        try:
            code = super().main(args, standalone_mode=False, **extra)
            sys.stdout.flush()
        except TstkError as e:
            fail(*str(e).split("\n"))
        except click.NoSuchOption as e:
            fail(f"No such option {e.option_name!r}.{_suggest_name(e) or format_help_hint(e.ctx)}")
        except click.ClickException as e:
            fail(
                e.format_message().partition(" Did you mean")[0]
                + (_suggest_name(e) or format_help_hint(getattr(e, "ctx", None)))
            )
        except click.Abort as e:
            echo("Interrupted.", err=True)
            sys.exit(128 + getattr(e.__context__, "signum", signal.SIGINT))
        except OSError as e:
            if e.filename is not None:
                fail(str(explain_os_error(Path(os.fsdecode(e.filename)), e)))
            if e.errno not in DISK_FULL_ERRNOS:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python reports at exit that it cannot write the rest
            fail(f"standard output: {e.strerror}; free some space, or write elsewhere")
        sys.exit(code if isinstance(code, int) else 0)


def _suggest_name(e: click.ClickException) -> str:
    """Return a suggestion such as " Did you mean '--seed'?" for an unknown option or subcommand, else ""."""
    ctx = getattr(e, "ctx", None)
    if ctx is None:
        return ""
    if isinstance(e, click.NoSuchOption):
        known = [o for p in ctx.command.get_params(ctx) for o in (*p.opts, *p.secondary_opts) if o.startswith("--")]
        return did_you_mean(e.option_name, known) or _place_training_option(e.option_name, known, ctx)
    return did_you_mean(getattr(e, "command_name", ""), getattr(ctx.command, "commands", ()))


def _place_training_option(option: str, known: Sequence[str], ctx: click.Context) -> str:
    """Return where an option of training is given, if a command does not have it."""
    from tstk.config.resolve import SECTIONS, get_signature
    from tstk.plugins.hooks import SLOTS

    name = option.removeprefix("--").replace("-", "_")
    options = {name for section in SECTIONS for name in get_signature(section, None).options}
    if name.partition(".")[0] not in {*SLOTS, *options}:
        return ""
    if "--common" in known:
        return f" It is an option of training, for every method in --common '{option} ...'"
    if any(param.name == "run" for param in ctx.command.params):
        return f" It is an option of training, which the run keeps. See {ctx.command_path} --help"
    return ""


def format_help_hint(ctx: click.Context | None) -> str:
    """Return " See tstk train --help", to append to a message."""
    return f" See {ctx.command_path} --help" if ctx else ""


def fail(*lines: str) -> NoReturn:
    """Print one error per line on stderr and exit with code 2."""
    for line in lines:
        echo(line, lead="Error: ", fg="red", bold=True, err=True)
    sys.exit(2)


@click.group(
    cls=CommandGroup,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "rich_help_config": {
            "options_table_column_types": ["required", "opt_all_metavar", "help"],
            "style_options_panel_border": "dim",
            "style_commands_panel_border": "dim",
        },
    },
)
@click.version_option(package_name=CORE_DISTRIBUTION)
def cli() -> None:
    """Time-series tokenizers, encoders, heads and losses, mixed by name.

    `tstk list` shows what can be mixed; `tstk train --encoder bert --head cot` trains it on the embedded data.
    """


def main() -> None:
    """Run the console script."""
    shorten_openmp_spin()
    cli(prog_name="tstk")


def shorten_openmp_spin() -> None:
    """Reduce OpenMP busy-waiting; must run before torch is imported.

    The OpenMP runtime of torch's Linux builds spins for a long time by default. On shared cores, a spinning thread
    takes time from the thread it waits for: training with two threads beside two busy processes was 5 to 10 times
    slower. On idle cores the setting costs nothing. Values set by the user are kept.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
