"""Self-contained HTML pages: sections, tables, and figures embedded as SVG."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from tstk.plot.style import render_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CSS = """
:root { --ink: #1d2330; --dim: #667085; --line: #e2e6ec; --soft: #f6f7f9; --blue: #2563a8; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; color: var(--ink); background: #fff; font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 1.5rem 1.25rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; padding-bottom: .35rem; border-bottom: 1px solid var(--line); }
p { margin: .4rem 0 .9rem; max-width: 75ch; }
.dim, figcaption, caption { color: var(--dim); font-size: .875rem; }
.cards, .panels { display: grid; gap: 1rem; }
.cards { grid-template-columns: repeat(auto-fill, minmax(min(100%, 13rem), 1fr)); margin: 1.25rem 0; }
.card { padding: .8rem 1rem; border: 1px solid var(--line); border-radius: 8px; background: var(--soft); }
.card b { display: block; font-size: 1.7rem; line-height: 1.25; font-weight: 600; font-variant-numeric: tabular-nums; }
.panels { grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
.pairs { grid-template-columns: repeat(2, minmax(0, 1fr)); }
figure { margin: 0; min-width: 0; }
figcaption { margin-bottom: .15rem; }
img { display: block; width: 100%; height: auto; }
.scroll { overflow-x: auto; margin-bottom: 1rem; }
.scroll :is(td, th):first-child { position: sticky; left: 0; background: #fff; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .35rem; }
th, td { padding: .28rem .65rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 500; color: var(--dim); }
td.n, th.n { text-align: right; white-space: nowrap; }
td.value { overflow-wrap: anywhere; }
tr.default td { color: var(--dim); }
.matrix th, .matrix td { border: 1px solid #fff; min-width: 3.25rem; }
.matrix td { text-align: center; vertical-align: middle; }
.matrix thead th { vertical-align: bottom; text-align: center; }
.changed { width: 100%; max-width: 60rem; margin-bottom: 1rem; }
.changed td:first-child, .changed th:first-child { width: 34%; }
.changed td:last-child { color: var(--dim); }
summary { cursor: pointer; margin-bottom: 1rem; }
.options { columns: 26rem; column-gap: 2.5rem; }
.options table { width: 100%; break-inside: avoid; margin-bottom: 1.75rem; }
.options td:first-child { width: 34%; }
.options td:last-child { width: 28%; }
pre { margin: 0 0 1rem; padding: .75rem 1rem; background: var(--soft); border: 1px solid var(--line);
  border-radius: 8px; font: .85rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  .pairs { grid-template-columns: minmax(0, 1fr); }
  .wide { overflow-x: auto; }
  .wide img { width: 44rem; }
  main { padding: 1rem .75rem 2rem; }
  .matrix th, .matrix td { min-width: 2rem; padding: .28rem .3rem; }
  .matrix thead th { writing-mode: vertical-rl; vertical-align: bottom; text-align: left; white-space: nowrap; }
  .matrix thead th wbr { display: none; }
}
@media (min-width: 40rem) {
  .matrix tbody th { white-space: nowrap; }
  .matrix tbody th wbr { display: none; }
}
@media print { h2 { break-after: avoid; } figure, .card { break-inside: avoid; } }
"""

WIDE = 8
"""Inches from which on a figure is not scaled to the width of a phone."""


@dataclass
class Section:
    """A section of the page.

    Args:
        title: plain text; "" for no heading
        html: contents below the heading
    """

    title: str
    html: str


def render_page(title: str, sections: Iterable[Section]) -> str:
    """Render the HTML document.

    Args:
        title: plain text
        sections: sections in page order
    """
    parts = [f"<section>{f'<h2>{escape(s.title)}</h2>' if s.title else ''}{s.html}</section>" for s in sections]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def render_paragraph(text: str) -> str:
    """Render plain text as a paragraph in grey."""
    return f'<p class="dim">{escape(text)}</p>'


def render_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], right_aligned: Sequence[str] = ()) -> str:
    """Render a table of plain text.

    Args:
        columns: names of the columns
        rows: cells; None renders as an empty cell
        right_aligned: columns to align to the right
    """
    cell_class = [' class="n"' if name in right_aligned else "" for name in columns]
    header = "".join(f"<th{k}>{escape(name)}</th>" for k, name in zip(cell_class, columns, strict=True))
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{k}>{'' if cell is None else escape(str(cell))}</td>" for k, cell in zip(cell_class, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table></div>'


def render_panels(figures: Iterable[str], *, pairs: bool = False) -> str:
    """Render figures in a responsive grid; `pairs` places two in a row."""
    return f'<div class="panels{" pairs" if pairs else ""}">{"".join(figures)}</div>'


def render_panel(title: str, alt: str, draw: Callable[[Axes], None], height: float = 2.6) -> str:
    """Render a figure with a single pair of axes, 4.2 inches wide.

    Args:
        title: caption above the figure, plain text
        alt: alternative text for screen readers
        draw: function that draws on the axes
        height: height in inches

    Raises:
        TstkError: matplotlib is not installed
    """
    return render_figure(title, alt, lambda figure: draw(figure.subplots()), (4.2, height))


def render_figure(title: str, alt: str, draw: Callable[[Figure], None], size: tuple[float, float]) -> str:
    """Render a figure of any size and layout as inline SVG.

    Args:
        title: caption above the figure, plain text
        alt: alternative text for screen readers
        draw: function that draws on the figure
        size: width and height in inches
    """
    source = "data:image/svg+xml;base64," + b64encode(render_image(draw, size, "svg")).decode()
    kind = ' class="wide"' if size[0] > WIDE else ""  # which a phone scrolls
    return f'<figure{kind}><figcaption>{escape(title)}</figcaption><img src="{source}" alt="{escape(alt)}"></figure>'
