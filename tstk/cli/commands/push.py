"""`tstk push`: share a run on the Hugging Face hub."""

from __future__ import annotations

import click
import rich_click

from tstk.cli.completion import complete_runs
from tstk.cli.output import echo, format_examples
from tstk.cli.run_options import RunCommand


@click.command(
    cls=RunCommand,
    epilog=format_examples(
        "tstk push runs/a me/gestures --license apache-2.0", "tstk push runs/a me/gestures --private --revision second"
    ),
)
@click.argument("run", metavar="RUN", shell_complete=complete_runs)
@click.argument("repo", metavar="OWNER/NAME")
@rich_click.option("--private", is_flag=True, help="create a repository that only its owner sees, or use such a one")
@rich_click.option("--revision", metavar="BRANCH", help="branch to upload to, created if needed")
@rich_click.option("--license", metavar="NAME", help="licence of the weights, for the card, such as apache-2.0")
@rich_click.option("--message", metavar="TEXT", default="Upload a run of tstk", help="message of the commit")
def command(run: str, repo: str, private: bool, revision: str | None, license: str | None, message: str) -> None:
    """Upload a finished run to the Hugging Face hub, with a model card.

    Others use it as they use a run: tstk predict hf://OWNER/NAME. Absolute paths in its records are shortened to
    their last part. Log in first with: hf auth login
    """
    from tstk.config.records import RunResult
    from tstk.report.hub import push

    address = push(run, repo, private=private, revision=revision, license=license, message=message)
    place = f"{repo}@{revision}" if revision else repo
    command = RunResult.read(run).get_use_command(f"hf://{place.removeprefix('hf://')}")
    echo(f"{address}\nNext:\n  {command}")
