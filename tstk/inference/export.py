"""A trained pipeline as one graph, from raw samples to its answer, for programs that have no tstk."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from tstk.config.run_directory import write_bytes
from tstk.core.pipeline import Pipeline
from tstk.core.types import Series
from tstk.errors import NeedsError, OptionError, TstkError
from tstk.plugins.distribution import install_command
from tstk.runs.checkpoint import load

TOLERANCE = 1e-4
"""Largest difference from the pipeline, as a share of its largest answer, that a program may have."""


class Answer(nn.Module):
    """A pipeline as a function of samples alone.

    Args:
        pipeline: trained, with a head or able to forecast
    """

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        self.pipeline = pipeline

    def forward(self, x: Tensor) -> Tensor:
        """Raw samples [B, C, T], none missing -> logits [B, classes], or the future [B, C, H]."""
        return self.pipeline.predict(Series(x))


@dataclass(frozen=True)
class Graph:
    """What was exported.

    Args:
        program: the graph
        shortest: samples of the shortest series that it takes
        longest: of the longest
        why: why it takes one length alone; empty if it takes several
        apart: largest difference to the pipeline's answers, as a share of its largest answer
    """

    program: ExportedProgram
    shortest: int
    longest: int
    why: str = ""
    apart: float = 0.0

    def __str__(self) -> str:
        """The lengths that it takes, for people."""
        if self.shortest < self.longest:
            return f"{self.shortest} to {self.longest} samples"
        return f"{self.longest} samples" + (f" alone: {self.why}" if self.why else "")


def export(pipeline: Pipeline, length: int | None = None) -> ExportedProgram:
    """`Answer` as a graph for any batch; save it with `torch.export.save`.

    It takes series of any length up to the longest that the pipeline takes, where the parts allow that, and is compared
    with the pipeline on other batches and lengths than it was traced with before it is returned.

    Args:
        pipeline: trained, in eval mode
        length: samples of a series, for a graph of this length alone

    Raises:
        OptionError: the pipeline predicts nothing, or takes no series of this length
        TstkError: the graph answers differently
    """
    return graph(pipeline, length).program


def graph(pipeline: Pipeline, length: int | None = None) -> Graph:
    """As `export`, with what is known of the graph."""
    found = _traced(pipeline, length)
    return replace(found, apart=difference(found.program.module(), pipeline, found))


def save(run: str | Path, out: str | Path, length: int | None = None) -> Graph:
    """Write a run as one file that needs no tstk.

    Args:
        run: its directory
        out: `.pt2` for `torch.export.load`, or `.onnx`, whose input is `x` and whose output is `answer`
        length: samples of a series, for a graph of this length alone

    Returns:
        what was written; `apart` is of the file, read again

    Raises:
        CheckpointError: the run cannot be loaded
        OptionError: it predicts nothing, takes no series of this length, or `out` has another suffix
        NeedsError: the packages that write ONNX are not installed
        TstkError: the file would answer differently
    """
    if Path(out).suffix not in (".pt2", ".onnx"):
        raise OptionError(f"--out {out}: the file must end in .pt2 (torch.export) or .onnx")
    pipeline = load(run)
    found, file = _traced(pipeline, length), io.BytesIO()
    if Path(out).suffix == ".pt2":
        torch.export.save(found.program, file)
        file.seek(0)
        loaded: Callable[[Tensor], Tensor] = torch.export.load(file).module()
    else:
        loaded = to_onnx(found.program, file)
    apart = difference(loaded, pipeline, found)
    write_bytes(Path(out), file.getvalue())
    return replace(found, apart=apart)


@torch.no_grad()
def difference(run: Callable[[Tensor], Tensor], pipeline: Pipeline, found: Graph) -> float:
    """Largest difference to a pipeline's answers, as a share of the largest, on batches and lengths of their own.

    Raises:
        TstkError: it is above `TOLERANCE`
    """
    worst = 0.0
    for rows, length in enumerate(sorted({found.shortest, (found.shortest + found.longest) // 2, found.longest}), 3):
        x = _like(pipeline, rows, length)
        want = Answer(pipeline)(x)
        apart = float((run(x) - want).abs().max() / want.abs().max())
        if not apart <= TOLERANCE:
            raise TstkError(f"the exported graph differs from the pipeline by {apart:.2g}; please report this")
        worst = max(worst, apart)
    return worst


def _traced(pipeline: Pipeline, length: int | None) -> Graph:
    answer, longest = Answer(pipeline.eval()), length or pipeline.spec.length
    whole = _like(pipeline, 2, longest)
    answer(whole)  # says what is wrong before a tracer would
    why = ""
    if length is None:
        found = _any_length(answer, longest)
        if isinstance(found, Graph):
            return found
        why = found
    program = torch.export.export(answer, (whole,), dynamic_shapes=({0: Dim("batch")},))
    return Graph(program, longest, longest, why)


def _any_length(answer: Answer, longest: int) -> Graph | str:
    """A graph whose series may be shorter, or why there is none."""
    if answer.pipeline.spec.horizon is not None:
        return "a forecast looks back on the whole context"
    if longest < 4:
        return "shorter ones would hardly be series"
    # traced with a length that is none of those it must not be made for: the whole one above all
    x = _like(answer.pipeline, 2, longest - 1)
    try:
        program = torch.export.export(answer, (x,), dynamic_shapes=({0: Dim("batch"), 2: Dim.AUTO},))
    except Exception as e:  # tracers raise what they like
        return f"its parts cannot be traced for several ({type(e).__name__})"
    takes = program.module()

    def fits(length: int) -> bool:
        try:
            takes(_like(answer.pipeline, 3, length))
        except Exception:  # a guard that fails raises what it likes
            return False
        return True

    if not (fits(longest) and fits(longest // 2 + 1)):
        return "its parts compute with the length in a way that a graph has to fix"
    shortest = next(length for length in range(1, longest + 1) if fits(length))
    return Graph(program, shortest, longest)


def _like(pipeline: Pipeline, rows: int, length: int) -> Tensor:
    shape = rows, pipeline.spec.channels, length
    return torch.randn(*shape, generator=torch.Generator().manual_seed(rows)).to(pipeline.mean.device)


def to_onnx(program: ExportedProgram, file: io.BytesIO) -> Callable[[Tensor], Tensor]:
    """Write a graph as ONNX; what comes back runs it as others will.

    Raises:
        NeedsError: the packages that write ONNX are not installed
    """
    try:
        runtime = [import_module(name) for name in ("onnx", "onnxscript", "onnxruntime")][-1]
    except ImportError as e:
        raise NeedsError(f"ONNX files need packages that are not here ({e}): {install_command('onnx')}") from e
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of packages that nobody needs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = torch.onnx.export(program, input_names=["x"], output_names=["answer"], verbose=False)
    assert written is not None
    file.write(written.model_proto.SerializeToString())
    session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"x": x.cpu().numpy()})[0]).to(x.device)
