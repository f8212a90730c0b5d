"""`tstk sketch`."""

import click


# The docstring is the help text. Import torch and tstk where they are needed, so that `tstk sketch --help` is fast.
@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False))
def command(run: str) -> None:
    """Count the parameters of RUN, a run directory."""
    import tstk

    pipeline = tstk.load(run)
    click.echo(f"{sum(p.numel() for p in pipeline.parameters()):,} parameters")
