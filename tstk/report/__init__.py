"""`report`: all that is known of a run on one page that can be mailed; nothing in it is fetched from elsewhere.

A section is a function from what is known to a title and HTML, or to None where it has nothing to say. The parts of the
pipeline may have sections of their own (`Slot.section`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tstk.config.run_directory import run_folder, write_text
from tstk.errors import OptionError
from tstk.report.codes import codebook, rebuilt
from tstk.report.context import Known, know
from tstk.report.page import Section, page
from tstk.report.predictions import confusion, embeddings, futures, reconstructions
from tstk.report.summary import again, curves, opening, options, title

SECTIONS: list[Callable[[Known], Section | None]] = [
    opening,
    curves,
    confusion,
    futures,
    reconstructions,
    codebook,
    rebuilt,
    embeddings,
    options,
    again,
]
"""In the order of the page; those of parts come before the embeddings."""


def report(run: str | Path, out: str | Path | None = None, *, data_root: str | None = None) -> Path:
    """Write the report of a run.

    Args:
        run: its directory
        out: the file; `report.html` in the run directory if None
        data_root: folder with data sets to be found by name

    Returns:
        the file

    Raises:
        CheckpointError: the run cannot be loaded
        NameUnknown, DataError: its data cannot be read
        TstkError: matplotlib is not installed
    """
    if out is None and run_folder(run) != Path(run):
        raise OptionError(f"{run} comes with the package, where nothing is written; say where to: --out FILE")
    known = know(run, data_root)
    path = Path(run, "report.html") if out is None else Path(out)
    writers = list(SECTIONS)
    at = writers.index(embeddings)
    writers[at:at] = [part.section for _, part in known.pipeline.slots()]
    sections = [section for write in writers if (section := write(known)) is not None]
    write_text(path, page(title(known), sections))
    return path
