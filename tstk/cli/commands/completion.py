"""`tstk completion`: the script that teaches a shell to complete."""

from __future__ import annotations

import click
import rich_click
from click.shell_completion import get_completion_class

from tstk.cli.output import examples

SHELLS = ("bash", "zsh", "fish")


@click.command(
    cls=rich_click.RichCommand,
    epilog=examples("tstk completion bash", 'eval "$(tstk completion bash)"'),
)
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print a script for a shell, after which TAB completes commands, components, their options, data sets and runs.

    To keep it, write the script to a file that the shell reads at its start: ~/.bashrc may hold the line of the second
    example, ~/.zshrc the same with zsh, and fish reads ~/.config/fish/completions/tstk.fish.
    """
    made = get_completion_class(shell)
    assert made is not None
    root = click.get_current_context().find_root()
    click.echo(made(root.command, {}, "tstk", "_TSTK_COMPLETE").source())
