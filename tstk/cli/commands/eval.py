"""`tstk eval`: score a run and its baselines."""

from __future__ import annotations

import click
import rich_click

from tstk.cli.output import (
    echo,
    format_calibration,
    format_examples,
    print_baseline_notes,
    print_class_scores,
    print_json,
    print_note,
    print_scores,
    print_threshold_scores,
)
from tstk.cli.run_options import RunCommand, add_run_options
from tstk.data.columns import Reader


@click.command(
    cls=RunCommand,
    epilog=format_examples(
        "tstk eval runs/a",
        "tstk eval runs/a --data new_labelled.csv --label-column activity",
        "tstk eval runs/a --shuffle-tokens",
        "tstk eval runs/a --threshold-for sensitivity=0.95",
    ),
)
@add_run_options
@rich_click.option(
    "--shuffle-tokens",
    is_flag=True,
    help="also score with the tokens of each series shuffled in time, to test whether the model uses their order",
)
@rich_click.option(
    "--threshold-for",
    metavar="RATE=VALUE",
    help="of two classes, also score the threshold that reaches sensitivity=VALUE or specificity=VALUE on validation",
)
@rich_click.option("--json", "json_", is_flag=True, help="print JSON")
def command(
    run: str,
    data: str | None,
    data_root: str | None,
    reader: Reader | None,
    label_column: str | None,
    batch_size: int,
    shuffle_tokens: bool,
    threshold_for: str | None,
    json_: bool,
) -> None:
    """Score a run on its test split, or on any labelled data with the same channels and classes.

    A classifier is scored by its classes and probabilities, with bootstrap intervals by group where series have one. A
    pretraining run is scored by its loss, with the same masks every time.
    """
    from tstk.inference.predict import score

    result = score(
        run,
        data,
        data_root=data_root,
        reader=reader,
        label_column=label_column,
        batch_size=batch_size,
        shuffle_tokens=shuffle_tokens,
        threshold_for=threshold_for,
    )
    if json_:
        print_json(result)
        return
    print_scores({run: result["scores"], **result["baselines"]})
    if result.get("classification"):
        print_class_scores(result["classification"])
    if threshold_for:
        print_threshold_scores(result["threshold"])
    echo(f"\n{result['size']:,} series or windows of {result['data']}")
    if result.get("calibration"):
        echo(format_calibration(result["calibration"]))
    for note in result["notes"]:
        print_note(f"note: {note}")
    if shuffle_tokens:
        echo(result["order"]["reading"])
    print_baseline_notes(
        result["scores"], result["baselines"], result["baselines_skipped"], result["baselines_details"]
    )
