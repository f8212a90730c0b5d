"""`tstk probe`: what a run's features know of classes, its weights left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import click
import rich_click

from tstk.cli.output import as_json, baseline_notes, examples, note, table
from tstk.cli.run_options import Features, Pool, applied, featured
from tstk.errors import OptionError
from tstk.evaluation.formatting import number

Classifier = Literal["linear", "knn", "svm", "adam"]
Choose = Literal["val", "folds", "test"]


def _several(kind: type) -> Callable[[click.Context, click.Parameter, str], list[Any]]:
    """Numbers between commas."""

    def read(context: click.Context, option: click.Parameter, text: str) -> list[Any]:
        try:
            return [kind(word) for word in text.split(",")]
        except ValueError:
            raise OptionError(
                f"--{option.name} {text}: expected numbers between commas, such as {option.get_default(context)}"
            ) from None

    return read


@click.command(
    cls=rich_click.RichCommand,
    epilog=examples(
        "tstk probe runs/pretrained --untrained",
        "tstk probe runs/pretrained --labels 1.0,0.1 --seeds 0,1,2 --classifier svm",
    ),
)
@applied
@rich_click.option(
    "--classifier", type=click.Choice(get_args(Classifier)), default="linear", show_default=True, help="what to fit"
)
@rich_click.option(
    "--choose",
    type=click.Choice(get_args(Choose)),
    default="val",
    show_default=True,
    help="the part by which settings are chosen: val, five folds of train and val together, or test, which is how "
    "some papers report, and flatters",
)
@featured
@rich_click.option(
    "--labels",
    default="1.0",
    show_default=True,
    metavar="SHARES",
    callback=_several(float),
    help="shares of the labels to learn from, such as 1.0,0.1",
)
@rich_click.option(
    "--seeds",
    default="0",
    show_default=True,
    metavar="SEEDS",
    callback=_several(int),
    help="of the choice of labels and of untrained weights, such as 0,1,2",
)
@rich_click.option(
    "--setting",
    type=float,
    help="of the classifier, instead of choosing it by validation: C of linear and svm, neighbours of knn",
)
@rich_click.option("--untrained", is_flag=True, help="score the same architecture with fresh weights beside it")
@rich_click.option("--json", "json_", is_flag=True, help="print JSON")
def command(
    run: str,
    data: str | None,
    data_root: str | None,
    label: str | None,
    batch_size: int,
    classifier: Classifier,
    choose: Choose,
    features: Features,
    pool: Pool,
    labels: list[float],
    seeds: list[int],
    setting: float | None,
    untrained: bool,
    json_: bool,
) -> None:
    """Fit classifiers on a run's frozen features and score them on test.

    The data are those of the run, or any labelled data with the same channels, with their training and test parts.
    Settings of the classifier are chosen by validation; test labels serve the last score alone.
    """
    from tstk.evaluation.probe import probe

    result = probe(
        run,
        data,
        data_root=data_root,
        label=label,
        classifier=classifier,
        features=features,
        pool=pool,
        labels=labels,
        seeds=seeds,
        setting=setting,
        choose=choose,
        untrained=untrained,
        batch_size=batch_size,
        say=note,
    )
    if json_:
        as_json(result)
        return
    _show(result)


def _show(result: dict[str, Any]) -> None:
    rows = []
    for row in result["results"]:
        labels = [f"{row['labels']:.3g}", f"{row['count']:,}"]
        margin = f"{round(row['margin_accuracy'], 4) + 0.0:+.4f}" if "margin_accuracy" in row else None
        settings = ", ".join(f"{name} {value:.3g}" for name, value in row["trials"][0]["chosen"].items())
        rows.append([row["weights"], *labels, _spread(row, "accuracy"), _spread(row, "f1_macro"), margin, settings])
        for name, scored in row.get("baselines", {}).items():
            rows.append([name, *labels, number(scored["accuracy"]), number(scored["f1_macro"]), None, None])
    head = ["weights", "share", "labels", "accuracy", "f1_macro", "margin", "chosen"]
    table(head, rows, right=head[1:6])
    sizes = ", ".join(f"{size:,} {part}" for part, size in result["sizes"].items())
    how = f"{result['pool']}-pooled features" if result["pool"] else result["features"]
    click.echo(f"\n{result['classifier']} on {how}, {result['width']:,} numbers a series, of {result['data']}: {sizes}")
    for row in result["results"]:
        if "baselines" in row:
            baseline_notes(row, row, of=f"With {row['count']:,} labels: " if len(rows) > 1 else "")


def _spread(row: dict[str, Any], score: str) -> str:
    deviation = row[score + "_deviation"]
    return number(row[score]) + ("" if deviation is None else f" ± {deviation:.4f}")
