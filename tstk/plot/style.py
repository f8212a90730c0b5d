"""The look of all figures: colours, matplotlib settings, legends above the axes, and the axis of samples or dates."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tstk.errors import TstkError, escape_control_characters
from tstk.plugins.distribution import format_install_command

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]

BLUE, ORANGE, INK, DIM, PALE = "#2563a8", "#d9722b", "#1d2330", "#98a2b3", "#e6eaf0"

STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": DIM,
    "axes.labelcolor": "#667085",
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "xtick.color": "#667085",
    "ytick.color": "#667085",
    "axes.grid": True,
    "grid.color": "#eceff3",
    "axes.axisbelow": True,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "axes.formatter.limits": (-3, 4),
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
}
"""Settings of matplotlib for figures that tstk makes; axes of a user keep their own."""

SIZE = (7.0, 2.8)
"""Width and height of a new figure in inches."""
LEGEND_CHARACTERS = 16
"""Characters of a legend that fit into an inch."""
LEGEND_ROW = 13
"""Height of a row of a legend in points."""
MAX_COLORS = 20


def require_matplotlib() -> None:
    """Raise TstkError with the command that installs matplotlib if it is missing."""
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError as e:
        raise TstkError(f"figures need {e.name}, which is not installed: {format_install_command('plot')}") from e


@contextmanager
def open_axes(ax: Axes | None, size: tuple[float, float] = SIZE) -> Iterator[Axes]:
    """Yield the axes to draw on: `ax`, or those of a new pyplot figure in the style of the reports.

    Args:
        ax: axes of the user; None makes a figure
        size: of the figure, width and height in inches
    """
    from matplotlib import rc_context

    if ax is not None:
        with rc_context({"text.parse_math": False}):
            yield ax
        return
    from matplotlib import pyplot

    with rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=size, layout="constrained")
        try:
            yield axes
        except BaseException:  # a notebook would show what was drawn so far
            pyplot.close(figure)
            raise


def save_figure(figure: Figure, format: str = "png", dpi: int = 150) -> bytes:
    """Return a figure as the contents of a file, the same ones for the same figure.

    Args:
        figure: drawn in `STYLE`
        format: png, svg or pdf
        dpi: dots per inch of a png
    """
    from matplotlib import rc_context
    from matplotlib.text import Text

    for text in figure.findobj(Text):  # names with control characters; they are not XML, and no font has them
        text.set_text(escape_control_characters(text.get_text()))
    metadata = {"svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None, "Creator": None}}
    file = io.BytesIO()
    # a fixed salt and no metadata make the SVG deterministic
    with rc_context(STYLE | {"svg.fonttype": "none", "svg.hashsalt": "tstk"}):
        figure.savefig(file, format=format, dpi=dpi, metadata=metadata.get(format))
    return file.getvalue()


def render_image(draw: Callable[[Figure], None], size: tuple[float, float], format: str = "png") -> bytes:
    """Draw a figure and return the image file.

    Args:
        draw: function that draws on the figure
        size: width and height in inches
        format: png, svg or pdf

    Raises:
        TstkError: matplotlib is not installed
    """
    require_matplotlib()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
    return save_figure(figure, format)


def add_legend(axes: Axes) -> None:
    """Add a legend above the axes, where it hides nothing; on the right, since the exponent of the scale is left."""
    if columns := _count_columns(axes):
        place: Any = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "borderaxespad": 0.2}
        axes.legend(**place, ncols=columns, columnspacing=1.2, handlelength=1.3, handletextpad=0.5, frameon=False)


def set_title(axes: Axes, title: str) -> None:
    """Set a title above the legend, if there is one."""
    columns = _count_columns(axes) if axes.get_legend() else 0
    rows = -(-len(axes.get_legend_handles_labels()[1]) // columns) if columns else 0
    axes.set_title(title, loc="left", pad=6 + LEGEND_ROW * rows)


def _count_columns(axes: Axes) -> int:
    """Return the number of columns of a legend that fits above the axes; 0 if nothing has a label."""
    labels = axes.get_legend_handles_labels()[1]
    if not labels:
        return 0
    room = axes.figure.get_figwidth() * axes.get_position().width * LEGEND_CHARACTERS  # type: ignore[union-attr]
    for columns in range(min(len(labels), 6), 1, -1):
        widths = [6 + max(map(len, part)) for part in np.array_split(np.array(labels, object), columns)]
        if sum(widths) <= room:
            return columns
    return 1


def get_colors(count: int) -> list[Any]:
    """Return a colour per class; they repeat after 20."""
    from matplotlib import colormaps

    colors: Sequence[Any] = colormaps["tab10" if count <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    return [colors[k % len(colors)] for k in range(count)]


class SampleAxis:
    """The horizontal axis of a series: numbers of samples, dates, or other times.

    Args:
        length: number of samples
        first: number of the first one
        times: [length] datetime64 or numbers, if the data have times
        label: of the axis, where there are no times
    """

    def __init__(self, length: int, *, first: float = 0, times: Array | None = None, label: str = "sample") -> None:
        self.is_date = times is not None and times.dtype.kind == "M"
        self.name = label if times is None else "" if self.is_date else "time"
        if times is None:
            self.coordinates: Array = first + np.arange(length)
        elif self.is_date:
            from matplotlib.dates import date2num

            self.coordinates = np.asarray(date2num(times))
        else:
            self.coordinates = times.astype(np.float64)

    def locate(self, positions: ArrayLike) -> Array:
        """Return the coordinates of samples, counted from 0; also between samples and beyond both ends."""
        at, axis = np.asarray(positions, np.float64), self.coordinates
        if len(axis) < 2:
            return axis[0] + at
        coordinates = np.interp(at, np.arange(len(axis)), axis)
        before, after = np.minimum(at, 0), np.maximum(at - (len(axis) - 1), 0)
        return coordinates + before * (axis[1] - axis[0]) + after * (axis[-1] - axis[-2])

    def apply(self, axes: Axes) -> None:
        """Label the horizontal axis of `axes`, with dates if there are any."""
        axes.set_xlabel(self.name)
        if self.is_date:
            from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

            axes.xaxis_date()
            locator = AutoDateLocator(minticks=3, maxticks=7)
            axes.xaxis.set_major_locator(locator)
            axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
