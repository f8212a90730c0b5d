"""`tstk eval`: how good a run is, beside the baselines."""

from __future__ import annotations

import click
import rich_click

from tstk.cli.output import as_json, baseline_notes, examples, scores
from tstk.cli.run_options import applied


@click.command(
    cls=rich_click.RichCommand,
    epilog=examples(
        "tstk eval runs/a",
        "tstk eval runs/a --data new_labelled.csv --label activity",
        "tstk eval runs/a --shuffle-tokens",
    ),
)
@applied
@rich_click.option(
    "--shuffle-tokens",
    is_flag=True,
    help="score once more with the tokens of each series shuffled in time: does the model use the order?",
)
@rich_click.option("--json", "json_", is_flag=True, help="print JSON")
def command(
    run: str,
    data: str | None,
    data_root: str | None,
    label: str | None,
    batch_size: int,
    shuffle_tokens: bool,
    json_: bool,
) -> None:
    """Score a run on data: its own test part, or any labelled data of the same channels and classes.

    A pretraining run is scored by its loss, under the same masks every time.
    """
    from tstk.inference.predict import score

    result = score(run, data, data_root=data_root, label=label, batch_size=batch_size, shuffle_tokens=shuffle_tokens)
    if json_:
        as_json(result)
        return
    scores({run: result["scores"], **result["baselines"]})
    click.echo(f"\n{result['size']:,} series or windows of {result['data']}")
    if shuffle_tokens:
        click.echo(result["order"]["reading"])
    baseline_notes(result["scores"], result)
