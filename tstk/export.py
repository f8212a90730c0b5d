"""A trained pipeline as one graph, from raw samples to its answer, for programs that have no tstk."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from tstk.checkpoint import load
from tstk.errors import NeedsError, OptionError, TstkError
from tstk.pipeline import Pipeline
from tstk.records import Series
from tstk.rundir import write_bytes

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


def export(pipeline: Pipeline, length: int | None = None) -> ExportedProgram:
    """`Answer` as a graph for any batch of one length; save it with `torch.export.save`.

    It is compared with the pipeline on a batch of another size before it is returned.

    Args:
        pipeline: trained, in eval mode
        length: samples of a series; the longest that the pipeline takes unless given

    Raises:
        OptionError: the pipeline predicts nothing, or takes no series of this length
        TstkError: the graph answers differently
    """
    program = _traced(pipeline, length)
    difference(program.module(), pipeline, length)
    return program


def save(run: str | Path, out: str | Path, length: int | None = None) -> float:
    """Write a run as one file that needs no tstk.

    Args:
        run: its directory
        out: `.pt2` for `torch.export.load`, or `.onnx`, whose input is `x` and whose output is `answer`
        length: samples of a series; the longest that the run takes unless given

    Returns:
        the largest difference of the file's answers to the run's, as a share of the run's largest

    Raises:
        CheckpointError: the run cannot be loaded
        OptionError: it predicts nothing, takes no series of this length, or `out` has another suffix
        NeedsError: the packages that write ONNX are not installed
        TstkError: the file would answer differently
    """
    if Path(out).suffix not in (".pt2", ".onnx"):
        raise OptionError(f"--out {out}: the file must end in .pt2 (torch.export) or .onnx")
    pipeline = load(run)
    program, file = _traced(pipeline, length), io.BytesIO()
    if Path(out).suffix == ".pt2":
        torch.export.save(program, file)
        file.seek(0)
        loaded: Callable[[Tensor], Tensor] = torch.export.load(file).module()
    else:
        loaded = _to_onnx(program, file)
    apart = difference(loaded, pipeline, length)
    write_bytes(Path(out), file.getvalue())
    return apart


def difference(graph: Callable[[Tensor], Tensor], pipeline: Pipeline, length: int | None = None) -> float:
    """Largest difference to a pipeline's answers, as a share of the largest, on a batch of a size of its own.

    Raises:
        TstkError: it is above `TOLERANCE`
    """
    x = _like(pipeline, 5, length)
    want = Answer(pipeline)(x)
    apart = float((graph(x) - want).abs().max() / want.abs().max())
    if not apart <= TOLERANCE:
        raise TstkError(f"the exported graph differs from the pipeline by {apart:.2g}; please report this")
    return apart


def _traced(pipeline: Pipeline, length: int | None) -> ExportedProgram:
    answer, x = Answer(pipeline.eval()), _like(pipeline, 2, length)
    answer(x)  # says what is wrong before a tracer would
    return torch.export.export(answer, (x,), dynamic_shapes=({0: Dim("batch")},))


def _like(pipeline: Pipeline, rows: int, length: int | None) -> Tensor:
    shape = rows, pipeline.spec.channels, length or pipeline.spec.length
    return torch.randn(*shape, generator=torch.Generator().manual_seed(rows)).to(pipeline.mean.device)


def _to_onnx(program: ExportedProgram, file: io.BytesIO) -> Callable[[Tensor], Tensor]:
    """Write the graph; what comes back runs it as others will."""
    try:
        runtime = [import_module(name) for name in ("onnx", "onnxscript", "onnxruntime")][-1]
    except ImportError as e:
        raise NeedsError(f"ONNX files need packages that are not here ({e}): pip install 'tstk[onnx]'") from e
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of packages that nobody needs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = torch.onnx.export(program, input_names=["x"], output_names=["answer"], verbose=False)
    assert written is not None
    file.write(written.model_proto.SerializeToString())
    session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"x": x.cpu().numpy()})[0]).to(x.device)
