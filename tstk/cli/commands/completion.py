"""`tstk completion`: print a shell completion script."""

from __future__ import annotations

import click
import rich_click
from click.shell_completion import get_completion_class

from tstk.cli.output import echo, format_examples

SHELLS = ("bash", "zsh", "fish")


@click.command(
    cls=rich_click.RichCommand, epilog=format_examples("tstk completion bash", 'eval "$(tstk completion bash)"')
)
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print a shell script that enables TAB completion of commands, components, options, data sets and runs.

    To enable it permanently, add the second example to ~/.bashrc (in ~/.zshrc with zsh instead of bash), or write the
    script for fish to ~/.config/fish/completions/tstk.fish.
    """
    completion_class = get_completion_class(shell)
    assert completion_class is not None
    root = click.get_current_context().find_root()
    echo(completion_class(root.command, {}, "tstk", "_TSTK_COMPLETE").source())
