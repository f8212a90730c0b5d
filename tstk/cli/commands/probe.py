"""`tstk probe`: fit classifiers on the frozen features of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import click
import rich_click

from tstk.cli.completion import complete_names
from tstk.cli.output import echo, format_examples, print_baseline_notes, print_json, print_note, print_table
from tstk.cli.run_options import Features, Pool, RunCommand, add_feature_options, add_run_options
from tstk.data.columns import Reader
from tstk.errors import OptionError
from tstk.evaluation.formatting import MAIN_METRICS, format_number

SelectOn = Literal["val", "folds", "test"]


def _make_list_parser(number_type: type) -> Callable[[click.Context, click.Parameter, str], list[Any]]:
    """Return a click callback that parses comma-separated numbers."""

    def parse(context: click.Context, option: click.Parameter, text: str) -> list[Any]:
        try:
            return [number_type(word) for word in text.split(",")]
        except ValueError:
            raise OptionError(
                f"{option.opts[0]} {text}: expected comma-separated numbers, such as {option.get_default(context)}"
            ) from None

    return parse


@click.command(
    cls=RunCommand,
    epilog=format_examples(
        "tstk probe runs/pretrained --untrained",
        "tstk probe runs/pretrained --label-fraction 1.0,0.1 --seeds 0,1,2 --classifier svm",
    ),
)
@add_run_options
@rich_click.option(
    "--classifier",
    metavar="NAME",
    shell_complete=complete_names("probe"),
    help="model to fit: linear, knn, svm, ridge (for numbers), multilabel (for several labels), or another that "
    "tstk list probes names; that of the task if not given",
)
@rich_click.option(
    "--select-on",
    type=click.Choice(get_args(SelectOn)),
    default="val",
    show_default=True,
    help="data that selects the classifier's hyperparameters: val, five-fold cross-validation over train and val, or "
    "test, as some papers do (optimistic)",
)
@add_feature_options
@rich_click.option(
    "--label-fraction",
    default="1.0",
    show_default=True,
    metavar="SHARES",
    callback=_make_list_parser(float),
    help="fractions of the training labels to use, such as 1.0,0.1",
)
@rich_click.option(
    "--seeds",
    default="0",
    show_default=True,
    metavar="SEEDS",
    callback=_make_list_parser(int),
    help="seeds of the label subsets and of untrained weights, such as 0,1,2",
)
@rich_click.option(
    "--param",
    type=float,
    help="hyperparameter of the classifier, instead of selecting it: C of linear, svm and multilabel, number of "
    "neighbours of knn, alpha of ridge",
)
@rich_click.option("--untrained", is_flag=True, help="also score the same architecture with random weights")
@rich_click.option("--json", "json_", is_flag=True, help="print JSON")
def command(
    run: str,
    data: str | None,
    data_root: str | None,
    reader: Reader | None,
    label_column: str | None,
    batch_size: int,
    classifier: str | None,
    select_on: SelectOn,
    features: Features,
    pool: Pool,
    label_fraction: list[float],
    seeds: list[int],
    param: float | None,
    untrained: bool,
    json_: bool,
) -> None:
    """Fit classifiers on the frozen features of a run and score them on the test split.

    The data are those of the run, or any labelled data with the same channels. Hyperparameters of the classifier are
    selected by --select-on; by default, test labels are used for the final score only.
    """
    from tstk.evaluation.probe import probe

    result = probe(
        run,
        data,
        data_root=data_root,
        reader=reader,
        label_column=label_column,
        classifier=classifier,
        features=features,
        pool=pool,
        label_fraction=label_fraction,
        seeds=seeds,
        param=param,
        select_on=select_on,
        untrained=untrained,
        batch_size=batch_size,
        print_fn=print_note,
    )
    if json_:
        print_json(result)
        return
    _print_results(result)


def _print_results(result: dict[str, Any]) -> None:
    rows = []
    metrics = [name.removesuffix("_deviation") for name in result["results"][0] if name.endswith("_deviation")]
    metrics = [name for name in MAIN_METRICS if name in metrics]
    for row in result["results"]:
        labels = [f"{row['label_fraction']:.3g}", f"{row['count']:,}"]
        margin = row.get(f"margin_{metrics[0]}")
        hyperparameters = ", ".join(f"{name} {value:.3g}" for name, value in row["trials"][0]["chosen"].items())
        rows.append(
            [
                row["weights"],
                *labels,
                *(_format_mean(row, metric) for metric in metrics),
                None if margin is None else f"{round(margin, 4) + 0.0:+.4f}",
                hyperparameters,
            ]
        )
        for name, scores in row.get("baselines", {}).items():
            rows.append(
                [name, *labels, *(format_number(scores[m]) if m in scores else None for m in metrics), None, None]
            )
    head = ["weights", "fraction", "labels", *metrics, "margin", "chosen"]
    print_table(head, rows, right_aligned=head[1:-1])
    sizes = ", ".join(f"{size:,} {split}" for split, size in result["sizes"].items())
    features = f"{result['pool']}-pooled features" if result["pool"] else result["features"]
    echo(f"\n{result['classifier']} on {features}, {result['width']:,} per series, of {result['data']}: {sizes}")
    for row in result["results"]:
        if "baselines" in row:
            prefix = f"With {row['count']:,} labels: " if len(rows) > 1 else ""
            print_baseline_notes(row, row["baselines"], row["baselines_skipped"], {}, prefix)


def _format_mean(row: dict[str, Any], score: str) -> str:
    deviation = row[score + "_deviation"]
    return format_number(row[score]) + ("" if deviation is None else f" ± {deviation:.4f}")
