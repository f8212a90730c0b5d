"""HTML report of a run: one self-contained page that loads nothing from elsewhere.

A section is a function that maps a `RunContext` to a `Section`, or to None if it does not apply. Plugins register
theirs as entries of the kind `report`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tstk.config.run_directory import resolve_run_dir
from tstk.errors import OptionError
from tstk.files import check_new_file, write_text
from tstk.plugins.registry import get_registry
from tstk.report.classes import render_classes
from tstk.report.codes import render_codebook
from tstk.report.context import RunContext, Selection, load_context
from tstk.report.page import Section, render_page
from tstk.report.predictions import (
    render_embeddings,
    render_forecasts,
    render_labels,
    render_masked_reconstructions,
    render_numbers,
    render_reconstructions,
)
from tstk.report.segments import render_segments
from tstk.report.summary import format_title, render_config, render_curves, render_overview, render_reproduce

SECTIONS: list[Callable[[RunContext], Section | None]] = [
    render_overview,
    render_curves,
    render_classes,
    render_labels,
    render_segments,
    render_numbers,
    render_forecasts,
    render_masked_reconstructions,
    render_codebook,
    render_reconstructions,
    render_embeddings,
    render_config,
    render_reproduce,
]
"""Sections in page order; those of the registry come before the embeddings."""


def write_report(
    run: str | Path,
    out: str | Path | None = None,
    *,
    data_root: str | None = None,
    selection: Selection | None = None,
    force: bool = False,
) -> Path:
    """Write the report of a run as HTML.

    Args:
        run: run directory
        out: output file; `report.html` in the run directory if None
        data_root: folder to look up data sets by name in
        selection: channels, series and samples to show predictions of
        force: replace `out` if it exists; `report.html` in the run directory is always replaced

    Returns:
        path of the file

    Raises:
        CheckpointError: the run cannot be loaded
        UnknownNameError: its data set is not found
        DataError: its data cannot be read
        OptionError: the run is in the package or on the hub, and `out` is None; or there is no such channel or series,
            or no section shows it
        FileError: `out` exists, or cannot be written
        TstkError: matplotlib is not installed
    """
    if out is None and resolve_run_dir(run) != Path(run):
        raise OptionError(f"{run} is not in a folder of yours; name the file with --out FILE")
    path = Path(run, "report.html") if out is None else Path(out)
    replace = force or out is None
    if out is not None:
        check_new_file(path, force)
    context = load_context(run, data_root, selection)
    renderers = list(SECTIONS)
    index = renderers.index(render_embeddings)
    renderers[index:index] = [get_registry().load(entry) for entry in get_registry().list_entries("report")]
    sections = [section for render in renderers if (section := render(context)) is not None]
    context.check_selection()
    write_text(path, render_page(format_title(context), sections), replace=replace)
    return path
