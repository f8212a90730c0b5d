"""Report section on classes: confusion matrix, scores with their intervals, and curves of the probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tstk.config.records import ClassificationScores
from tstk.evaluation.calibration import softmax
from tstk.evaluation.classification import ECE_BINS, Ranking, bin_confidence
from tstk.evaluation.formatting import CLASS_SCORE_LABELS, PROBABILITY_SCORE_LABELS, format_number
from tstk.evaluation.probabilities import get_temperature, is_classifier, predict_logits, score_classifier
from tstk.evaluation.token_order import evaluate_token_order, why_order_undefined
from tstk.plot.style import BLUE, DIM, ORANGE, add_legend, get_colors
from tstk.report.context import RunContext
from tstk.report.page import Section, render_panel, render_panels, render_paragraph, render_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[Any]
MAX_LEGEND = 10
"""Curves of more classes are drawn in one colour, without a legend."""
BATCH_SIZE = 256
MAX_POINTS = 400
"""Points of a curve that are drawn."""


def render_classes(context: RunContext) -> Section | None:
    """Render the confusion matrix, scores of classes and probabilities, their curves, and the temporal order test."""
    pipeline, split = context.pipeline, context.split
    if not is_classifier(pipeline) or split.y is None:
        return None
    logits = predict_logits(pipeline, split, source=f"{context.split_name} split")
    result = score_classifier(pipeline, split, logits, seed=context.run_config.options("train")["seed"])
    if result is None:
        return None
    known = split.y.numpy() >= 0
    targets, probabilities = split.y.numpy()[known], softmax(logits[known], get_temperature(pipeline))
    panels = [*_plot_class_curves(targets, probabilities, result), _plot_reliability(targets, probabilities, result)]
    calibration = (
        ""
        if pipeline.temperature is None
        else f"Probabilities are calibrated by a temperature of {get_temperature(pipeline):.4g}."
    )
    html = (
        _render_matrix(np.array(result.confusion), result.classes)
        + _render_class_scores(result)
        + _render_scores(result)
        + "".join(render_paragraph(f"{note[0].upper()}{note[1:]}.") for note in (result.resampling, *result.notes))
        + (calibration and render_paragraph(calibration))
        + render_panels(panels)
        + _render_token_order(context)
    )
    return Section(f"Classes, {context.split_name} split", html)


def _render_scores(result: ClassificationScores) -> str:
    rows = [
        [PROBABILITY_SCORE_LABELS[name], format_number(value), _format_interval(result.intervals.get(name))]
        for name, value in result.scores.items()
    ]
    return render_table(["score", "value", "95 % interval"], rows, right_aligned=["value", "95 % interval"])


def _render_class_scores(result: ClassificationScores) -> str:
    columns = ["class", "series", *CLASS_SCORE_LABELS.values()]
    rows = []
    for name, counts in zip(result.classes, result.confusion, strict=True):
        values, intervals = result.per_class[name], result.per_class_intervals[name]
        cells = [
            f"{values[k]:.3f} {_format_interval(intervals.get(k), 3)}".strip() if k in values else None
            for k in CLASS_SCORE_LABELS
        ]
        rows.append([name, f"{sum(counts):,}", *cells])
    return render_table(columns, rows, right_aligned=columns[1:])


def _format_interval(ends: Sequence[float] | None, digits: int = 4) -> str:
    return "" if ends is None else f"[{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"


def _plot_class_curves(targets: Array, probabilities: Array, result: ClassificationScores) -> list[str]:
    """Plot the ROC and the precision-recall curve of each class that has them."""
    curves = {}
    for k, name in enumerate(result.classes):
        if "auroc" not in result.per_class[name]:
            continue
        ranking = Ranking(probabilities[:, k], targets == k)
        positive, negative = (counts[0] for counts in ranking.count_above(np.ones((1, len(targets)))))
        recall, precision = positive / positive[-1], positive / (positive + negative)
        curves[name] = np.append(0, negative / negative[-1]), np.append(0, recall), np.append(precision[0], precision)
    if not curves:
        return []
    roc = {name: (false_positive_rate, recall) for name, (false_positive_rate, recall, _) in curves.items()}
    precision_recall = {name: (recall, precision) for name, (_, recall, precision) in curves.items()}
    return [
        _plot_curves("ROC, one class against all others", "1 - specificity", "sensitivity", roc, result, "auroc"),
        _plot_curves(
            "Precision and recall, one class against all others",
            "recall",
            "precision",
            precision_recall,
            result,
            "auprc",
        ),
    ]


def _plot_curves(
    title: str,
    x_label: str,
    y_label: str,
    curves: dict[str, tuple[Array, Array]],
    result: ClassificationScores,
    area: str,
) -> str:
    label = CLASS_SCORE_LABELS[area]

    def draw(axes: Axes) -> None:
        for (name, (x, y)), class_color in zip(curves.items(), get_colors(len(curves)), strict=True):
            points = np.unique(np.linspace(0, len(x) - 1, MAX_POINTS).round().astype(int))
            color = class_color if len(curves) <= MAX_LEGEND else BLUE
            axes.plot(x[points], y[points], color=color, label=f"{name} {result.per_class[name][area]:.3f}")
        if len(curves) <= MAX_LEGEND:  # in the corner that good curves leave empty
            axes.legend(loc="lower right" if area == "auroc" else "lower left", fontsize=7, handlelength=1)
        axes.set(xlabel=x_label, ylabel=y_label, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))

    values = ", ".join(f"{name} {result.per_class[name][area]:.3f}" for name in curves)
    return render_panel(title, f"{title}: {label} {values}", draw, height=3.4)


def _plot_reliability(targets: Array, probabilities: Array, result: ClassificationScores) -> str:
    """Plot how often the predicted class is right, in bins of its probability, with the series in each bin."""
    confidence, is_correct = probabilities.max(1), probabilities.argmax(1) == targets
    bins = bin_confidence(confidence)
    counts = np.bincount(bins, minlength=ECE_BINS)
    filled = counts > 0
    accuracy = np.bincount(bins, is_correct, ECE_BINS)[filled] / counts[filled]
    mean_confidence = np.bincount(bins, confidence, ECE_BINS)[filled] / counts[filled]

    def draw(axes: Axes) -> None:
        centers = (np.arange(ECE_BINS) + 0.5) / ECE_BINS
        axes.bar(centers, counts / counts.sum(), 1 / ECE_BINS, color="#dbe5f1", label="fraction of series")
        axes.plot([0, 1], [0, 1], color=DIM, linestyle=":", zorder=0)
        axes.plot(mean_confidence, accuracy, color=ORANGE, marker="o", markersize=4, label="accuracy")
        add_legend(axes)
        axes.set(xlabel="probability of the predicted class", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))

    ece = format_number(result.scores["ece"])
    title = f"Reliability: expected calibration error {ece}"
    return render_panel(
        title, f"Accuracy by probability in {ECE_BINS} bins; expected calibration error {ece}", draw, 3.4
    )


def _render_token_order(context: RunContext) -> str:
    """Render the temporal order test; "" if it does not apply."""
    rows = context.sample_rows()
    assert context.split.y is not None
    if why_order_undefined(context.pipeline) is not None or not (context.split.y[rows] >= 0).any():
        return ""
    groups = None if context.split.groups is None else [context.split.groups[i] for i in rows.tolist()]
    seed = context.run_config.options("train")["seed"]
    device = context.pipeline.mean.device
    batches = (context.split.batch(index).to(device) for index in rows.split(BATCH_SIZE))
    summary = evaluate_token_order(context.pipeline, batches, seed=seed, groups=groups).summary
    return render_paragraph(f"Temporal order, {len(rows):,} series: {summary}.")


def _render_matrix(counts: Array, classes: Sequence[str]) -> str:
    """Render a confusion matrix, with cells shaded by their fraction of the row."""
    names = [escape(name).replace("_", "_<wbr>") for name in classes]
    header = "".join(f"<th>{name}</th>" for name in names)
    body = ""
    for name, row in zip(names, counts, strict=True):
        cells = ""
        for count in row:
            fraction = count / max(row.sum(), 1)
            text_color = "#fff" if fraction > 0.55 else "inherit"
            cells += f'<td style="background:rgba(37,99,168,{fraction:.2f});color:{text_color}">{count}</td>'
        body += f"<tr><th>{name}</th>{cells}</tr>"
    return (
        '<div class="scroll"><table class="matrix"><caption>rows: true class; columns: predicted class</caption>'
        f"<thead><tr><th></th>{header}</tr></thead><tbody>{body}</tbody></table></div>"
    )
