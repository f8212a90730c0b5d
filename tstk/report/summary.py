"""Report sections from the files of a run: overview, training curves, config, and how to reproduce it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from statistics import median
from typing import TYPE_CHECKING, Any

from tstk.config.records import RunResult
from tstk.evaluation.formatting import describe_better_baselines, format_number
from tstk.plot.plot_data import SPLIT_NAMES
from tstk.plot.style import BLUE, DIM, ORANGE, add_legend
from tstk.plugins.hooks import SLOTS
from tstk.report.context import RunContext
from tstk.report.page import Section, render_panel, render_panels, render_paragraph, render_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METRIC_LABELS = {
    "accuracy": "accuracy",
    "f1_macro": "macro F1",
    "f1_micro": "micro F1",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "r2": "R2",
    "rmse": "root mean square error",
    "mse": "mean square error",
    "mae": "mean absolute error",
}


def format_title(context: RunContext) -> str:
    """Return the page title: the main components and the data set."""
    names = {s: use.rpartition("/")[2] for s in SLOTS if (use := context.run_config.component(s))}
    parts = [names[s] for s in ("tokenizer", "encoder", "head") if s in names]
    return f"{', '.join(parts if 'head' in names else [*parts, names['loss']])} on {context.data.name}"


def render_overview(context: RunContext) -> Section:
    """Render the title, the scores with those of the baselines, and a table of key facts."""
    result = context.result
    split_name, scores = _get_scores(context)
    baselines = result.baselines if result else {}
    cards = []
    for name in [n for n in METRIC_LABELS if n in scores] or [
        n for n in scores if n == "loss" or not _is_same_as_loss(scores, n)
    ]:
        baseline_text = ", ".join(
            f"{baseline} {format_number(baseline_scores[name])}"
            for baseline, baseline_scores in baselines.items()
            if name in baseline_scores
        )
        cards.append(
            f'<div class="card"><span class="dim">{escape(METRIC_LABELS.get(name, name))}, {split_name}</span>'
            f'<b>{format_number(scores[name])}</b><span class="dim">{escape(baseline_text)}</span></div>'
        )
    facts = {
        "run": context.run_dir,
        "task": result.task if result else None,
        "data": f"{context.data.name}: " + ", ".join(f"{len(p):,} {name}" for name, p in context.data.splits.items()),
        "split": context.data.split_description,
        **(_describe_result(result) if result else {}),
    }
    rows = "".join(f'<tr><th>{k}</th><td class="value">{escape(str(v))}</td></tr>' for k, v in facts.items() if v)
    better_baselines = "".join(render_paragraph(sentence) for sentence in describe_better_baselines(scores, baselines))
    unfinished = "" if result else render_paragraph("Training did not finish: these are the best weights so far.")
    title, grid = f"<h1>{escape(format_title(context))}</h1>", f'<div class="cards">{"".join(cards)}</div>'
    return Section("", f"{title}{unfinished}{grid}{better_baselines}<table>{rows}</table>")


def _describe_result(result: RunResult) -> dict[str, str]:
    selected = result.selected
    return {
        "parameters": f"{result.parameters:,}, of which {result.trainable:,} trainable",
        "weights kept": f"epoch {selected.epoch} of {selected.num_epochs}, by {selected.by}",
        "time": f"{result.seconds:,.1f} s",
        **{f"baseline {name}": details for name, details in result.baselines_details.items()},
        **{f"baseline {name}": f"skipped: {reason}" for name, reason in result.baselines_skipped.items()},
    }


def _get_scores(context: RunContext) -> tuple[str, dict[str, float]]:
    """Return the name of the split that was scored, and its scores."""
    if context.result:
        return ("test", context.result.test) if context.result.test else ("validation", context.result.val)
    return "validation, last epoch", context.history[-1]["val"] if context.history else {}


def render_curves(context: RunContext) -> Section | None:
    """Render a curve for each logged metric, the loss first and the learning rate last."""
    rows = context.history
    if not rows:
        return None
    epochs = [row["epoch"] for row in rows]
    selected_epoch = context.result.selected.epoch if context.result else None
    names = dict.fromkeys(["loss", *(n for row in rows for split in ("train", "val") for n in row[split])])
    figures = []
    for name in names:
        if name.endswith("_se"):
            continue  # standard errors are not plotted
        lines = {split: [row[split].get(name, math.nan) for row in rows] for split in ("train", "val")}
        if name != "loss" and all(
            row[split].get(name) == row[split].get("loss") for row in rows for split in ("train", "val")
        ):
            continue  # a loss with a single term is plotted once
        figures.append(_plot_curve(METRIC_LABELS.get(name, name), epochs, lines, selected_epoch))
    figures.append(_plot_curve("learning rate", epochs, {"train": [row["lr"] for row in rows]}, selected_epoch))
    text = "" if selected_epoch is None else render_paragraph(f"The weights of epoch {selected_epoch} were kept.")
    return Section("Training", text + render_panels(figures))


def _is_same_as_loss(scores: dict[str, float], name: str) -> bool:
    """Whether a metric equals the loss."""
    return name in scores and math.isclose(scores[name], scores["loss"], rel_tol=1e-4)


def _plot_curve(name: str, epochs: Sequence[int], lines: dict[str, list[float]], selected_epoch: int | None) -> str:
    from matplotlib.ticker import LogFormatter, MaxNLocator

    points = {
        split: [(e, v) for e, v in zip(epochs, line, strict=True) if math.isfinite(v)] for split, line in lines.items()
    }
    finite_curves = {split: [*zip(*pairs, strict=True)] for split, pairs in points.items() if pairs}
    medians = [median(values) for _, values in finite_curves.values()]
    positive = all(v > 0 for _, values in finite_curves.values() for v in values)
    use_log_scale = positive and max(medians, default=1.0) > 20 * min(medians, default=1.0)

    def draw(axes: Axes) -> None:
        for split, (epochs_drawn, values) in finite_curves.items():
            marker = "o" if len(epochs_drawn) < 20 else ""
            style: Any = {"color": {"train": BLUE, "val": ORANGE}[split], "label": SPLIT_NAMES[split]}
            axes.plot(epochs_drawn, values, marker=marker, markersize=4, **style)
        if selected_epoch is not None:
            axes.axvline(selected_epoch, color=DIM, linestyle=":", zorder=0, label="weights kept")
        add_legend(axes)
        if use_log_scale:  # otherwise the smaller of two curves would be flat
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(LogFormatter())  # plain text, since figures interpret no math in names
            axes.yaxis.set_minor_formatter(LogFormatter())
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))

    ends = ", ".join(
        f"{split} from {format_number(v[0])} to {format_number(v[-1])}" for split, (_, v) in finite_curves.items()
    )
    return render_panel(name, f"{name} over {len(epochs)} epochs: {ends}", draw)


def render_config(context: RunContext) -> Section:
    """Render the resolved config: what differs from the defaults, and folded below it every option with its source."""
    tables, changed = [], []
    for section, options in context.run_config.given.items():
        weights_source = context.run_config.init_from.get(section)
        weights = f", weights from {escape(weights_source)}" if weights_source else ""
        body = ""
        for name, value in options.items():
            source = context.run_config.sources.get(f"{section}.{name}", "")
            row_class = ' class="default"' if source == "default" else ""
            cells = f'<td class="value">{escape(_format_value(value))}</td><td class="value">{escape(source)}</td></tr>'
            body += f"<tr{row_class}><td>{escape(name)}</td>{cells}"
            if source != "default":
                changed.append(f"<tr><td>{escape(section)}.{escape(name)}</td>{cells}")
        table_header = "<thead><tr><th>option</th><th>value</th><th>source</th></tr></thead>"
        tables.append(
            f"<table><caption>{escape(section)}{weights}</caption>{table_header}<tbody>{body}</tbody></table>"
        )
    header = "<thead><tr><th>option that is not at its default</th><th>value</th><th>source</th></tr></thead>"
    own = f'<table class="changed">{header}<tbody>{"".join(changed)}</tbody></table>' if changed else ""
    count = sum(map(len, context.run_config.given.values()))
    folded = f'<details><summary>All {count} options</summary><div class="options">{"".join(tables)}</div></details>'
    return Section("Config", own + folded)


def _format_value(value: Any) -> str:
    if value in (None, []):
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def render_reproduce(context: RunContext) -> Section:
    """Render the command and the package versions."""
    command = context.run_config.command
    command_html = f"<pre>{escape(command)}</pre>" if command else ""
    return Section(
        "Reproduce", command_html + render_table(["package", "version"], context.run_config.versions.items())
    )
