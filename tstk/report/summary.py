"""What the files of a run tell: what was trained on what, its scores, its curves, its options, how to do it again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from statistics import median
from typing import TYPE_CHECKING, Any

from tstk.evaluation.formatting import beaten_by, number
from tstk.plugins.registry import SLOTS
from tstk.report.context import Known
from tstk.report.page import BLUE, DIM, ORANGE, Section, panel, panels, paragraph, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCORES = {"accuracy": "accuracy", "f1_macro": "macro F1", "mse": "mean square error", "mae": "mean absolute error"}


def title(known: Known) -> str:
    """What was trained on what, in a line."""
    names = {s: t["use"].rpartition("/")[2] for s, t in known.found["config"].items() if s in SLOTS}
    parts = [names[s] for s in ("tokenizer", "encoder", "head") if s in names]
    return f"{', '.join(parts if 'head' in names else [*parts, names['loss']])} on {known.data.name}"


def opening(known: Known) -> Section:
    """Title, score cards beside the baselines, and the facts."""
    result = known.result
    part, scores = _scores(known)
    trivial = result.get("baselines", {})
    cards = []
    for name in [n for n in SCORES if n in scores] or [n for n in scores if n == "loss" or not _same(scores, n)]:
        beside = ", ".join(f"{what} {number(scored[name])}" for what, scored in trivial.items() if name in scored)
        cards.append(
            f'<div class="card"><span class="dim">{escape(SCORES.get(name, name))}, {part}</span>'
            f'<b>{number(scores[name])}</b><span class="dim">{escape(beside)}</span></div>'
        )
    facts = {
        "run": known.run,
        "task": result.get("task"),
        "data": f"{known.data.name}: " + ", ".join(f"{len(p):,} {name}" for name, p in known.data.parts.items()),
        "split": known.data.split,
        "parameters": f"{result['parameters']:,}, of which {result['trainable']:,} learnt" if result else None,
        "weights kept": "epoch {epoch} of {of}, by {by}".format(**result["selected"]) if result else None,
        "time": f"{result['seconds']:,.1f} s" if result else None,
        **{f"baseline {name}": choice for name, choice in result.get("baselines_details", {}).items()},
        **{f"baseline {name}": f"skipped: {why}" for name, why in result.get("baselines_skipped", {}).items()},
    }
    rows = "".join(f'<tr><th>{k}</th><td class="value">{escape(str(v))}</td></tr>' for k, v in facts.items() if v)
    beaten = "".join(paragraph(sentence) for sentence in beaten_by(scores, trivial))
    unfinished = "" if result else paragraph("Training did not come to its end: the weights are the best so far.")
    return Section(
        "",
        f'<h1>{escape(title(known))}</h1>{unfinished}<div class="cards">{"".join(cards)}</div>{beaten}'
        f"<table>{rows}</table>",
    )


def _scores(known: Known) -> tuple[str, dict[str, float]]:
    """The part that was scored, and its scores."""
    if known.result.get("test"):
        return "test", known.result["test"]
    if known.result:
        return "validation", known.result["val"]
    return "validation, last epoch", known.history[-1]["val"] if known.history else {}


def curves(known: Known) -> Section | None:
    """Everything that was logged, epoch by epoch: each name a picture, the loss first and the learning rate last."""
    rows = known.history
    if not rows:
        return None
    epochs = [row["epoch"] for row in rows]
    kept = known.result["selected"]["epoch"] if known.result else None
    names = dict.fromkeys(["loss", *(n for row in rows for part in ("train", "val") for n in row[part])])
    figures = []
    for name in names:
        if name.endswith("_se"):
            continue  # the uncertainty of a score is no course to follow
        lines = {part: [row[part].get(name, math.nan) for row in rows] for part in ("train", "val")}
        if name != "loss" and all(
            row[part].get(name) == row[part].get("loss") for row in rows for part in ("train", "val")
        ):
            continue  # a loss of one term is drawn once
        figures.append(_curve(SCORES.get(name, name), epochs, lines, kept))
    figures.append(_curve("learning rate", epochs, {"train": [row["lr"] for row in rows]}, kept))
    legend = "Blue: training, orange: validation." if any(row["val"] for row in rows) else "Blue: training."
    if kept is not None:
        legend += f" The dotted line marks epoch {kept}, whose weights were kept."
    return Section("Training", paragraph(legend) + panels(figures))


def _same(scores: dict[str, float], name: str) -> bool:
    """Whether a name says what the loss says."""
    return name in scores and math.isclose(scores[name], scores["loss"], rel_tol=1e-4)


def _curve(name: str, epochs: Sequence[int], lines: dict[str, list[float]], kept: int | None) -> str:
    from matplotlib.ticker import MaxNLocator

    points = {
        part: [(e, v) for e, v in zip(epochs, line, strict=True) if math.isfinite(v)] for part, line in lines.items()
    }
    drawn = {part: [*zip(*pairs, strict=True)] for part, pairs in points.items() if pairs}
    middles = [median(values) for _, values in drawn.values()]
    positive = all(v > 0 for _, values in drawn.values() for v in values)
    apart = positive and max(middles, default=1.0) > 20 * min(middles, default=1.0)

    def draw(axes: Axes) -> None:
        for part, (at, values) in drawn.items():
            mark = "o" if len(at) < 20 else ""
            axes.plot(at, values, color={"train": BLUE, "val": ORANGE}[part], marker=mark, markersize=4)
        if kept is not None:
            axes.axvline(kept, color=DIM, linestyle=":", zorder=0)
        if apart:  # else the smaller of two courses would be a line at the bottom
            axes.set_yscale("log")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))

    ends = ", ".join(f"{part} from {number(v[0])} to {number(v[-1])}" for part, (_, v) in drawn.items())
    return panel(name, f"{name} over {len(epochs)} epochs: {ends}", draw)


def options(known: Known) -> Section:
    """The resolved config, with the source of every value."""
    tables = []
    for section, chosen in known.found["given"].items():
        rows = []
        for name, value in chosen.items():
            source = known.found["sources"].get(f"{section}.{name}", "")
            quiet = ' class="default"' if source == "default" else ""
            rows.append(
                f'<tr{quiet}><td>{escape(name)}</td><td class="value">{escape(_value(value))}</td>'
                f'<td class="value">{escape(source)}</td></tr>'
            )
        mounted = known.found["mounts"].get(section)
        caption = escape(section) + (f", weights from {escape(mounted)}" if mounted else "")
        head = "<thead><tr><th>option</th><th>value</th><th>source</th></tr></thead>"
        tables.append(f"<table><caption>{caption}</caption>{head}<tbody>{''.join(rows)}</tbody></table>")
    return Section("Config", f'<div class="options">{"".join(tables)}</div>')


def _value(value: Any) -> str:
    if value in (None, []):
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def again(known: Known) -> Section:
    """The command and the versions."""
    command = known.result.get("command")
    shown = f"<pre>{escape(command)}</pre>" if command else ""
    return Section("Again", shown + table(["package", "version"], known.found["versions"].items()))
