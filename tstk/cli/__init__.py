"""The command line: a group whose commands are registry entries, each imported only when it is called.

A user's mistake (`TstkError`, click's own errors, a file that cannot be opened) ends as one line per fault on stderr
and exit code 2; with TSTK_STRICT=1 the traceback stays. Nothing here imports torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click
import rich_click

from tstk.errors import TstkError, did_you_mean
from tstk.plugins.distribution import CORE
from tstk.plugins.registry import registry


class Verbs(rich_click.RichGroup):
    """The group of all commands. `get_command` answers from names and summaries; `resolve_command` imports."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands, in the order of their registration; `tstk list command` has the clashing ones too."""
        return [name for name in registry().names("command") if "/" not in name]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A stand-in that has a name and a summary, for help and completion."""
        entry = registry().find("command", cmd_name)
        return rich_click.RichCommand(name=cmd_name, short_help=entry.summary, help=entry.summary)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command itself, for calling it.

        Raises:
            NameUnknown: there is none of this name
        """
        if args[0].startswith("-"):
            raise click.NoSuchOption(args[0], ctx=ctx)
        if ctx.resilient_parsing and args[0] not in registry().names("command"):
            return None, None, args  # a shell completes; it must not be told of mistakes
        return args[0], registry().load(registry().find("command", args[0])), args[1:]

    def main(self, args: Sequence[str] | None = None, standalone_mode: bool = True, **extra: Any) -> Any:  # type: ignore[override]
        """As `click.Group.main`, with our manners towards errors."""
        if not standalone_mode or os.environ.get("TSTK_STRICT") == "1":
            return super().main(args, standalone_mode=standalone_mode, **extra)
        try:
            code = super().main(args, standalone_mode=False, **extra)
        except TstkError as e:
            fail(*str(e).splitlines())
        except click.NoSuchOption as e:
            fail(f"No such option {e.option_name!r}.{_meant(e) or help_of(e.ctx)}")
        except click.ClickException as e:
            fail(e.format_message().partition(" Did you mean")[0] + (_meant(e) or help_of(getattr(e, "ctx", None))))
        except click.Abort:
            click.echo("Interrupted.", err=True)
            sys.exit(130)
        except OSError as e:
            if e.filename is None:
                raise
            fail(f"{e.filename}: {e.strerror}")
        sys.exit(code if isinstance(code, int) else 0)


def _meant(e: click.ClickException) -> str:
    """' Did you mean '--seed'?' where an option or a command of a group does not exist."""
    ctx = getattr(e, "ctx", None)
    if ctx is None:
        return ""
    if isinstance(e, click.NoSuchOption):
        known = [o for p in ctx.command.get_params(ctx) for o in (*p.opts, *p.secondary_opts) if o.startswith("--")]
        return did_you_mean(e.option_name, known)
    return did_you_mean(getattr(e, "command_name", ""), getattr(ctx.command, "commands", ()))


def help_of(ctx: click.Context | None) -> str:
    """' See tstk train --help', to append to a message."""
    return f" See {ctx.command_path} --help" if ctx else ""


def fail(*lines: str) -> NoReturn:
    """Print a line per fault on stderr and exit with 2."""
    for line in lines:
        click.echo(click.style("Error: ", fg="red", bold=True) + line, err=True)
    sys.exit(2)


@click.group(
    cls=Verbs,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "rich_help_config": {
            "options_table_column_types": ["required", "opt_all_metavar", "help"],
            "style_options_panel_border": "dim",
            "style_commands_panel_border": "dim",
        },
    },
)
@click.version_option(package_name=CORE)
def cli() -> None:
    """Time-series tokenizers, encoders, heads and losses, mixed by name.

    `tstk list` shows what can be mixed; `tstk train --encoder bert --head cot` trains it on the embedded data.
    """


def main() -> None:
    """The console script."""
    share_cores()
    cli(prog_name="tstk")


def share_cores() -> None:
    """Let CPU threads sleep soon when they wait for each other; must happen before torch is imported.

    By default the OpenMP of torch's Linux builds spins for long. On cores that other programs use as well, each spin
    takes time from the thread it waits for: training with two threads beside two busy processes took 5 to 10 times as
    long. On idle cores this costs nothing. What the user has set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
