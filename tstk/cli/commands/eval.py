"""`tstk eval`: score a run and its baselines."""

from __future__ import annotations

import click
import rich_click

from tstk.cli.output import echo, format_examples, print_baseline_notes, print_json, print_note, print_scores
from tstk.cli.run_options import RunCommand, add_run_options


@click.command(
    cls=RunCommand,
    epilog=format_examples(
        "tstk eval runs/a",
        "tstk eval runs/a --data new_labelled.csv --label-column activity",
        "tstk eval runs/a --shuffle-tokens",
    ),
)
@add_run_options
@rich_click.option(
    "--shuffle-tokens",
    is_flag=True,
    help="also score with the tokens of each series shuffled in time, to test whether the model uses their order",
)
@rich_click.option("--json", "json_", is_flag=True, help="print JSON")
def command(
    run: str,
    data: str | None,
    data_root: str | None,
    label_column: str | None,
    batch_size: int,
    shuffle_tokens: bool,
    json_: bool,
) -> None:
    """Score a run on its test split, or on any labelled data with the same channels and classes.

    A pretraining run is scored by its loss, with the same masks every time.
    """
    from tstk.inference.predict import score

    result = score(
        run, data, data_root=data_root, label_column=label_column, batch_size=batch_size, shuffle_tokens=shuffle_tokens
    )
    if json_:
        print_json(result)
        return
    print_scores({run: result["scores"], **result["baselines"]})
    echo(f"\n{result['size']:,} series or windows of {result['data']}")
    for note in result["notes"]:
        print_note(f"note: {note}")
    if shuffle_tokens:
        echo(result["order"]["reading"])
    print_baseline_notes(
        result["scores"], result["baselines"], result["baselines_skipped"], result["baselines_details"]
    )
