"""The commands `tstk text`, `text-synthetic` and `text-ablation`, for texts of series, and `tstk explain`."""

from __future__ import annotations

from typing import Literal

import click
import rich_click

from tstk.cli.files import add_force_option, resolve_output_path, validate_output_path, write_npz
from tstk.cli.output import echo, format_examples, print_json, print_note, print_table
from tstk.cli.run_options import RunCommand
from tstk.files import write_bytes

Source = Literal["labels", "notes", "captions"]


@click.command(
    cls=rich_click.RichCommand,
    epilog=format_examples(
        'tstk text BasicMotions --template "a person is {label}" --out texts.npz',
        "tstk text synthetic.npz --source notes --column note --encoder minilm --out texts.npz",
    ),
)
@click.argument("data", metavar="NAME|PATH")
@rich_click.option(
    "--source",
    type=click.Choice(["labels", "notes", "captions"]),
    default="labels",
    show_default=True,
    help="source of the texts: the class of each series, a column of the data, or a file",
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
    help="encoder of words: random vectors, MiniLM-L6, or any Hugging Face encoder",
)
@rich_click.option(
    "--words", type=click.IntRange(1), default=32, show_default=True, help="maximal number of words or word pieces"
)
@rich_click.option(
    "--control",
    type=click.Choice(["none", "shuffled", "random"]),
    default="none",
    show_default=True,
    help="for control experiments: shuffle the texts among series, or replace their states by random ones",
)
@rich_click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="random seed of the control")
@rich_click.option("--data-root", metavar="DIR", help="folder with data sets to be found by name")
@rich_click.option("--label-column", metavar="str", help="column or array of the labels, if it has an unusual name")
@rich_click.option("--out", required=True, metavar="FILE", help="output file: .npz, for --conditioning text=FILE")
@add_force_option
def text_command(
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
    label_column: str | None,
    out: str,
    force: bool,
) -> None:
    """Write the hidden states of a text for each series of a data set, for a tokenizer that attends to them.

    Train with it: tstk train --config vqshape/teacher --data NAME --conditioning text=FILE
    """
    from tstk.errors import OptionError
    from tstk_plugins_vqshape.text import encode_sentences, from_captions, from_labels, from_notes

    path = validate_output_path(out, (".npz",), force)
    if source == "labels":
        sentences = from_labels(data, template, data_root=data_root, label_column=label_column)
    elif source == "notes":
        sentences = from_notes(data, column, data_root=data_root, label_column=label_column)
    elif captions is None:
        raise OptionError("--source captions: name the file with --captions FILE.json")
    else:
        sentences = from_captions(data, captions, data_root=data_root, label_column=label_column)
    texts = encode_sentences(sentences, encoder, words)
    if control != "none":
        texts = texts.shuffle(seed) if control == "shuffled" else texts.randomize(seed)
    texts.save(path, replace=force)
    for sentence in texts.texts[:3]:
        print_note(f"{sentence!r}")
    if len(texts.texts) > 3:
        print_note("...")
    u, s, d = texts.states.shape
    echo(
        f"{path}: {u:,} different texts, {s} words of {d} numbers, for "
        + ", ".join(f"{len(rows):,} {part}" for part, rows in texts.rows.items())
    )


@click.command(cls=rich_click.RichCommand, epilog=format_examples("tstk text-synthetic synthetic.npz"))
@click.argument("out", metavar="FILE")
@rich_click.option("--train", type=click.IntRange(8), default=240, show_default=True, help="number of training series")
@rich_click.option("--test", type=click.IntRange(4), default=400, show_default=True, help="number of test series")
@rich_click.option(
    "--height",
    type=float,
    default=1.0,
    show_default=True,
    help="height of the event, in standard deviations of the noise",
)
@rich_click.option(
    "--note-accuracy",
    type=click.FloatRange(0, 1),
    default=0.9,
    show_default=True,
    help="share of notes that name the right event",
)
@rich_click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="random seed")
@add_force_option
def text_synthetic_command(
    out: str, train: int, test: int, height: float, note_accuracy: float, seed: int, force: bool
) -> None:
    """Write a synthetic data set: series with a small event in much noise, and notes that mostly name the event."""
    from tstk_plugins_vqshape.synthetic import make_synthetic

    path = validate_output_path(out, (".npz",), force)
    arrays = make_synthetic(train, test, height=height, note_accuracy=note_accuracy, seed=seed)
    write_npz(path, arrays, replace=force)
    echo(
        f"{path}: {train} and {test} series of four events, with notes\ntstk text {path} --source notes --out texts.npz"
    )


def _parse_seeds(context: click.Context, option: click.Parameter, value: str) -> list[int]:
    from tstk.errors import OptionError

    try:
        return [int(word) for word in value.split(",")]
    except ValueError:
        raise OptionError(f"--{option.name} {value}: expected whole numbers between commas, such as 0,1,2") from None


@click.command(
    cls=rich_click.RichCommand,
    epilog=format_examples("tstk text-ablation synthetic.npz --text texts.npz --steps 300 --out runs/ablation"),
)
@click.argument("data", metavar="NAME|PATH")
@rich_click.option(
    "--text", "text_file", required=True, metavar="FILE", help="file that tstk text wrote for these data"
)
@rich_click.option("--out", required=True, metavar="DIR", help="folder of the runs; existing runs are reused")
@rich_click.option(
    "--seeds",
    default="0,1,2,3,4",
    show_default=True,
    metavar="SEEDS",
    callback=_parse_seeds,
    help="random seeds; all models are trained for each",
)
@rich_click.option("--steps", type=click.IntRange(1), help="optimizer steps of each training")
@rich_click.option("--batch-size", type=click.IntRange(1), help="series per batch")
@rich_click.option(
    "--guide",
    type=click.Choice(["z", "z_mu_sigma"]),
    default="z",
    show_default=True,
    help="attributes of a token that depend on the text: z, its shape; z_mu_sigma, its shape, mean and scale",
)
@rich_click.option("--resize", type=click.IntRange(2), help="samples of each series")
@rich_click.option("--json", "json_", is_flag=True, help="print JSON")
def text_ablation_command(
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
    """Train teachers with right, shuffled, random and no texts, and a student of each, and probe them.

    This trains nine models per seed. Students get the series only. The columns "- no text" hold the difference from
    the model of the same kind without text, paired by seed, with a 95 % interval.
    """
    from tstk_plugins_vqshape.ablations import FEATURES, confidence_interval, run_ablations

    options = {"steps": steps, "batch_size": batch_size, "data__resize": resize}
    options = {name: value for name, value in options.items() if value is not None}
    rows = run_ablations(data, text_file, out, seeds=seeds, guide=guide, options=options, log=print_note)
    if json_:
        print_json(rows)
        return
    rows_by_model = {row["model"]: row for row in rows}

    def format_interval(values: list[float] | None, digits: int = 3, sign: str = "") -> str | None:
        if not values:
            return None
        mean, half = confidence_interval(values)
        return f"{mean:{sign}.{digits}f}" + (f" ± {half:.{digits}f}" if half == half else "")

    cells = []
    for row in rows:
        baseline = rows_by_model["student, no text" if row["model"].startswith("student") else "teacher, no text"]
        differences = [
            None
            if row is baseline
            else format_interval([a - b for a, b in zip(row[f], baseline[f], strict=True)], sign="+")
            for f in FEATURES
        ]
        accuracies = [format_interval(row[f]) for f in FEATURES]
        diagnostics = [format_interval(row.get("perplexity"), 1), format_interval(row.get("agreement"))]
        cells.append([row["model"], row["reads"], *accuracies, *differences, *diagnostics])
    header = ["model", "reads", *FEATURES, *(f"{f} - no text" for f in FEATURES), "perplexity", "agreement"]
    print_table(header, cells, right_aligned=header[2:])


@click.command(
    cls=RunCommand,
    epilog=format_examples(
        "tstk explain runs/histogram --index 17", "tstk explain runs/histogram --data new.npz --out why.png"
    ),
)
@click.argument("run", metavar="RUN")
@rich_click.option("--data", metavar="NAME|PATH", help="data to use; the run's own test split if not given")
@rich_click.option("--index", type=click.IntRange(0), default=0, show_default=True, help="index of the series, from 0")
@rich_click.option("--data-root", metavar="DIR", help="folder with data sets to be found by name")
@rich_click.option(
    "--out", metavar="FILE", help="output file: .png; explain-INDEX.png in the run directory if not given"
)
@add_force_option
def explain_command(
    run: str, data: str | None, index: int, data_root: str | None, out: str | None, force: bool
) -> None:
    """Draw a series with its shapes, and the attribution of each to the classifier's decision.

    Drawing requires matplotlib: pip install 'tstk-core[plot]'.
    """
    from tstk.inference.predict import open_run
    from tstk.plot.style import render_image
    from tstk_plugins_vqshape.explain import compute_figure_size, draw_explanation, explain

    path = resolve_output_path(run, f"explain-{index}.png", out, force)
    pipeline, split, run_config = open_run(run, data, data_root=data_root)
    result = explain(pipeline, split, index, tuple(run_config.classes), tuple(run_config.channels))
    image = render_image(lambda figure: draw_explanation(figure, result), compute_figure_size(result))
    write_bytes(path, image, replace=force or out is None)
    rows = []
    for rank, (c, n) in enumerate(result.select_strongest(), 1):
        covered = (~result.curves[c, n].isnan()).nonzero().flatten().tolist()
        samples = f"{covered[0]} to {covered[-1]}" if covered else None
        attribution = f"{float(result.attribution[c, n]):+.3f}"
        rows.append([rank, result.channels[c], int(result.ids[c, n]), samples, attribution])
    print_table(
        ["", "channel", "code", "samples", "attribution" if result.has_decision else "covers"],
        rows,
        right_aligned=["", "code"],
    )
    if result.has_decision:
        prediction, second, truth = result.classes
        label = "" if truth is None else f"; true class: {truth}"
        echo(f"\npredicted: {prediction}; second best: {second}{label}")
    echo(str(path))
