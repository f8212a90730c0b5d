"""`tstk text`, `text-made`, `text-controls`: texts for series, a set to try them on, and what they are worth; and
`tstk explain`: why a series was taken for its class."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click
import rich_click

from tstk.cli.files import target
from tstk.cli.output import as_json, examples, note, table

Source = Literal["labels", "notes", "captions"]


@click.command(
    cls=rich_click.RichCommand,
    epilog=examples(
        'tstk text BasicMotions --template "a person is {label}" --out texts.npz',
        "tstk text made.npz --source notes --column note --encoder minilm --out texts.npz",
    ),
)
@click.argument("data", metavar="NAME|PATH")
@rich_click.option(
    "--source",
    type=click.Choice(["labels", "notes", "captions"]),
    default="labels",
    show_default=True,
    help="the class of each series, a column of the data, or a file",
)
@rich_click.option(
    "--template",
    default="a recording of {label}",
    show_default=True,
    metavar="TEXT|FILE",
    help="for labels: a sentence with {label}, or a .json of label -> sentence or sentences",
)
@rich_click.option("--column", default="note", show_default=True, metavar="NAME", help="for notes: column or array")
@rich_click.option("--captions", metavar="FILE", help="for captions: .json of part -> list of sentences")
@rich_click.option(
    "--encoder",
    default="hash",
    show_default=True,
    metavar="hash|minilm|FOLDER|HUB",
    help="what makes states of words: random vectors, MiniLM-L6, or any Hugging Face encoder",
)
@rich_click.option("--words", type=click.IntRange(1), default=32, show_default=True, help="word pieces that count")
@rich_click.option(
    "--control",
    type=click.Choice(["none", "shuffled", "random"]),
    default="none",
    show_default=True,
    help="give each series the text of another one, or states that mean nothing",
)
@rich_click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="of the control")
@rich_click.option("--data-root", metavar="DIR", help="folder with data sets to be found by name")
@rich_click.option("--label", metavar="str", help="column or array of the labels, if it has an unusual name")
@rich_click.option("--out", required=True, metavar="FILE", help="what to write: .npz, for --extra text=FILE")
def text(
    data: str,
    source: Source,
    template: str,
    column: str,
    captions: str | None,
    encoder: str,
    words: int,
    control: str,
    seed: int,
    data_root: str | None,
    label: str | None,
    out: str,
) -> None:
    """Give each series of a data set a text, as states that a guided tokenizer attends to.

    Train with it: tstk train --config vqshape/teacher --data NAME --extra text=FILE
    """
    from tstk.errors import OptionError
    from tstk_plugins_vqshape.text import encoded, from_captions, from_labels, from_notes

    path = target(out, (".npz",))
    if source == "labels":
        sentences = from_labels(data, template, data_root=data_root, label=label)
    elif source == "notes":
        sentences = from_notes(data, column, data_root=data_root, label=label)
    elif captions is None:
        raise OptionError("--source captions: name the file with --captions FILE.json")
    else:
        sentences = from_captions(data, captions, data_root=data_root, label=label)
    texts = encoded(sentences, encoder, words)
    if control != "none":
        texts = texts.shuffled(seed) if control == "shuffled" else texts.randomised(seed)
    texts.save(path)
    for sentence in texts.texts[:3]:
        note(f"{sentence!r}")
    if len(texts.texts) > 3:
        note("...")
    u, s, d = texts.states.shape
    click.echo(
        f"{path}: {u:,} different texts, {s} words of {d} numbers, for "
        + ", ".join(f"{len(rows):,} {part}" for part, rows in texts.rows.items())
    )


@click.command(cls=rich_click.RichCommand, epilog=examples("tstk text-made made.npz"))
@click.argument("out", metavar="FILE")
@rich_click.option("--train", type=click.IntRange(8), default=240, show_default=True, help="series to learn from")
@rich_click.option("--test", type=click.IntRange(4), default=400, show_default=True, help="series to report on")
@rich_click.option(
    "--height", type=float, default=1.0, show_default=True, help="of the event, in deviations of the noise"
)
@rich_click.option(
    "--honest", type=click.FloatRange(0, 1), default=0.9, show_default=True, help="share of notes that are right"
)
@rich_click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="of everything")
def made(out: str, train: int, test: int, height: float, honest: float, seed: int) -> None:
    """Write a constructed set: series with a small event in much noise, each with a note that mostly names it."""
    import numpy as np

    from tstk_plugins_vqshape.made import made as arrays

    path = target(out, (".npz",))
    np.savez_compressed(path, **arrays(train, test, height=height, honest=honest, seed=seed))
    click.echo(
        f"{path}: {train} and {test} series of four events, with notes\ntstk text {path} --source notes --out texts.npz"
    )


def _numbers(context: click.Context, option: click.Parameter, given: str) -> list[int]:
    from tstk.errors import OptionError

    try:
        return [int(word) for word in given.split(",")]
    except ValueError:
        raise OptionError(f"--{option.name} {given}: expected whole numbers between commas, such as 0,1,2") from None


@click.command(
    cls=rich_click.RichCommand,
    epilog=examples("tstk text-controls made.npz --text texts.npz --steps 300 --out runs/controls"),
)
@click.argument("data", metavar="NAME|PATH")
@rich_click.option("--text", "text_file", required=True, metavar="FILE", help="what tstk text wrote for these data")
@rich_click.option("--out", required=True, metavar="DIR", help="folder of the runs; those that are there are kept")
@rich_click.option(
    "--seeds", default="0,1,2,3,4", show_default=True, metavar="SEEDS", callback=_numbers, help="of all trainings"
)
@rich_click.option("--steps", type=click.IntRange(1), help="optimizer steps of each training")
@rich_click.option("--batch-size", type=click.IntRange(1), help="series per batch")
@rich_click.option(
    "--guide", type=click.Choice(["z", "z_mu_sigma"]), default="z", show_default=True, help="what reads the text"
)
@rich_click.option("--resize", type=click.IntRange(2), help="samples of each series")
@rich_click.option("--json", "json_", is_flag=True, help="print JSON")
def controls(
    data: str,
    text_file: str,
    out: str,
    seeds: list[int],
    steps: int | None,
    batch_size: int | None,
    guide: str,
    resize: int | None,
    json_: bool,
) -> None:
    """Train teachers with the right text, a shuffled one, a random one and none, and a student of each, and probe them.

    Per seed nine trainings. Students read the series alone. The last column compares a row with the no-text row of its
    kind, seed by seed, with a 95 % interval.
    """
    from tstk_plugins_vqshape.controls import FEATURES, interval
    from tstk_plugins_vqshape.controls import controls as run

    given = {"steps": steps, "batch_size": batch_size, "data__resize": resize}
    choices = {name: value for name, value in given.items() if value is not None}
    rows = run(data, text_file, out, seeds=seeds, guide=guide, choices=choices, say=note)
    if json_:
        as_json(rows)
        return
    plain = {row["model"]: row for row in rows}

    def shown(values: list[float] | None, digits: int = 3, sign: str = "") -> str | None:
        if not values:
            return None
        mean, half = interval(values)
        return f"{mean:{sign}.{digits}f}" + (f" ± {half:.{digits}f}" if half == half else "")

    cells = []
    for row in rows:
        base = plain["student, no text" if row["model"].startswith("student") else "teacher, no text"]
        differences = [
            None if row is base else shown([a - b for a, b in zip(row[f], base[f], strict=True)], sign="+")
            for f in FEATURES
        ]
        shares = [shown(row[f]) for f in FEATURES]
        cells.append(
            [
                row["model"],
                row["reads"],
                *shares,
                *differences,
                shown(row.get("perplexity"), 1),
                shown(row.get("agreement")),
            ]
        )
    head = ["model", "reads", *FEATURES, *(f"{f} - no text" for f in FEATURES), "perplexity", "agreement"]
    table(head, cells, right=head[2:])


@click.command(
    cls=rich_click.RichCommand,
    epilog=examples(
        "tstk explain runs/histogram --index 17", "tstk explain runs/histogram --data new.npz --out why.png"
    ),
)
@click.argument("run", metavar="RUN")
@rich_click.option("--data", metavar="NAME|PATH", help="data to use; the run's own test part if not given")
@rich_click.option("--index", type=click.IntRange(0), default=0, show_default=True, help="which series, from 0")
@rich_click.option("--data-root", metavar="DIR", help="folder with data sets to be found by name")
@rich_click.option(
    "--out", metavar="FILE", help="what to write: .png; explain-INDEX.png in the run directory if not given"
)
def explain(run: str, data: str | None, index: int, data_root: str | None, out: str | None) -> None:
    """Draw a series with its shapes in place, and what each did to the classifier's decision.

    Drawing takes matplotlib: pip install 'tstk-core[plot]'.
    """
    from tstk.inference.predict import opened
    from tstk.report.page import picture
    from tstk_plugins_vqshape.explain import draw, size
    from tstk_plugins_vqshape.explain import explain as explained

    path = Path(run, f"explain-{index}.png") if out is None else target(out, (".png",))
    pipeline, part, facts = opened(run, data, data_root=data_root)
    told = explained(pipeline, part, index, tuple(facts["classes"]), tuple(facts["channels"]))
    path.write_bytes(picture(lambda figure: draw(figure, told), size(told)))
    rows = []
    for rank, (c, n) in enumerate(told.strongest(), 1):
        where = (~told.curves[c, n].isnan()).nonzero().flatten().tolist()
        place = f"{where[0]} to {where[-1]}" if where else None
        rows.append([rank, told.channels[c], int(told.ids[c, n]), place, f"{float(told.weight[c, n]):+.3f}"])
    table(["", "channel", "code", "samples", "for the answer" if told.decided else "covers"], rows, right=["", "code"])
    if told.decided:
        answer, second, truth = told.classes
        click.echo(f"\n{answer}, before {second}" + ("" if truth is None else f"; it is {truth}"))
    click.echo(str(path))
