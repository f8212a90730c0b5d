"""Export of a trained pipeline as one graph, from raw samples to predictions, that runs without tstk."""

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

from tstk.core.contract import describe_place
from tstk.core.finite import describe_bad_weights
from tstk.core.pipeline import Pipeline
from tstk.core.repr import ShortRepr
from tstk.core.types import Series
from tstk.errors import IncompatibleError, OptionError, TstkError
from tstk.files import check_new_file, write_bytes
from tstk.plugins.distribution import format_install_command
from tstk.runs.checkpoint import load

TOLERANCE = 1e-4
"""Largest allowed difference between graph and pipeline, relative to the largest absolute output."""


class PredictWrapper(nn.Module):
    """Module that maps samples alone to the predictions of a pipeline.

    Args:
        pipeline: trained, with a head or able to forecast
    """

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        self.pipeline = pipeline
        self.offset: Tensor | None
        offset = None if pipeline.offset is None else pipeline.offset[:, None].to(pipeline.mean.device)
        self.register_buffer("offset", offset, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map raw samples [B, C, T], none missing, to calibrated logits or numbers [B, K], or forecasts [B, C, H].

        Both are float64 if the pipeline subtracts an offset, which float32 could not hold.
        """
        if self.offset is None:
            return self.pipeline.predict_batch(Series(x))
        output = self.pipeline.predict_batch(Series((x - self.offset).float()))
        return output if self.pipeline.spec.horizon is None else output + self.offset


@dataclass(frozen=True, repr=False)
class ExportedGraph(ShortRepr):
    """An exported graph and its limits.

    Args:
        program: the graph
        min_length: length of the shortest series that it accepts
        max_length: length of the longest series that it accepts
        fixed_length_reason: why it accepts a single length; empty if it accepts several, or if one was requested
        max_relative_error: largest difference from the pipeline, relative to the largest absolute output
    """

    program: ExportedProgram
    min_length: int
    max_length: int
    fixed_length_reason: str = ""
    max_relative_error: float = 0.0

    def __str__(self) -> str:
        """Describe the accepted lengths."""
        if self.min_length < self.max_length:
            return f"{self.min_length} to {self.max_length} samples"
        return f"{self.max_length} samples" + (f" only: {self.fixed_length_reason}" if self.fixed_length_reason else "")


def export(pipeline: Pipeline, length: int | None = None) -> ExportedProgram:
    """Export a pipeline as a graph with dynamic batch size; save it with `torch.export.save`.

    If the components allow it, the length is dynamic too, up to the longest that the pipeline accepts. Before the graph
    is returned, it is compared with the pipeline on other batch sizes and lengths than it was traced with.

    Args:
        pipeline: trained, in eval mode
        length: samples per series, for a graph of a fixed length

    Raises:
        OptionError: the pipeline predicts nothing, or does not accept series of this length
        IncompatibleError: a component cannot be traced, or not for any batch size
        TstkError: the graph and the pipeline differ
    """
    return export_graph(pipeline, length).program


def export_graph(pipeline: Pipeline, length: int | None = None) -> ExportedGraph:
    """Export a pipeline like `export`, and return the graph with its limits.

    Args:
        pipeline: trained, in eval mode
        length: samples per series, for a graph of a fixed length
    """
    graph = _trace(pipeline, length)
    return replace(graph, max_relative_error=check_against_pipeline(graph.program.module(), pipeline, graph))


def export_run(run: str | Path, out: str | Path, length: int | None = None, *, force: bool = False) -> ExportedGraph:
    """Export a run to a file that runs without tstk.

    Args:
        run: run directory
        out: `.pt2` for `torch.export.load`, or `.onnx` with input `x` and output `answer`
        length: samples per series, for a graph of a fixed length
        force: replace `out` if it exists

    Returns:
        the graph; its `max_relative_error` is measured on the serialized program

    Raises:
        CheckpointError: the run cannot be loaded
        OptionError: it predicts nothing, does not accept series of this length, or `out` has another suffix
        FileError: `out` exists, or cannot be written
        IncompatibleError: the packages that write ONNX are not installed, or a component cannot be traced
        TstkError: the exported program and the pipeline differ
    """
    if Path(out).suffix not in (".pt2", ".onnx"):
        raise OptionError(f"--out {out}: the file must end in .pt2 (torch.export) or .onnx")
    check_new_file(Path(out), force)
    pipeline = load(run)
    graph, file = _trace(pipeline, length), io.BytesIO()
    if Path(out).suffix == ".pt2":
        torch.export.save(graph.program, file)
        file.seek(0)
        program: Callable[[Tensor], Tensor] = torch.export.load(file).module()
    else:
        program = to_onnx(graph.program, file)
    max_error = check_against_pipeline(program, pipeline, graph)
    write_bytes(Path(out), file.getvalue(), replace=force)
    return replace(graph, max_relative_error=max_error)


@torch.no_grad()
def check_against_pipeline(program: Callable[[Tensor], Tensor], pipeline: Pipeline, graph: ExportedGraph) -> float:
    """Compute the largest difference between a program and its pipeline, relative to the largest absolute output.

    Args:
        program: maps samples [B, C, T] to predictions
        pipeline: the exported pipeline
        graph: limits of the lengths to test; batch sizes differ from those used for tracing

    Raises:
        TstkError: the difference exceeds `TOLERANCE`
    """
    max_error = 0.0
    for batch_size, length in enumerate(
        sorted({graph.min_length, (graph.min_length + graph.max_length) // 2, graph.max_length}), 3
    ):
        x = _make_random_input(pipeline, batch_size, length)
        expected = PredictWrapper(pipeline)(x)
        if not expected.isfinite().all():
            reason = describe_bad_weights(pipeline.state_dict())
            raise TstkError(
                "the pipeline's predictions are not finite, so a graph would be useless"
                + (f": so are the weights of {reason}; train it again" if reason else "; train it with a lower --lr")
            )
        error = float((program(x) - expected).abs().max() / expected.abs().max())
        if not error <= TOLERANCE:
            raise TstkError(f"the exported graph differs from the pipeline by {error:.2g}; please report this")
        max_error = max(max_error, error)
    return max_error


def _trace(pipeline: Pipeline, length: int | None) -> ExportedGraph:
    wrapper, max_length = PredictWrapper(pipeline.eval()), length or pipeline.spec.length
    example = _make_random_input(pipeline, 2, max_length)
    wrapper(example)  # raises a clear error before the tracer raises an obscure one
    fixed_length_reason = ""
    if length is None:
        result = _trace_any_length(wrapper, max_length)
        if isinstance(result, ExportedGraph):
            return result
        fixed_length_reason = result
    try:
        program = torch.export.export(wrapper, (example,), dynamic_shapes=({0: Dim("batch")},))
    except Exception as e:  # tracers raise all kinds of exceptions
        raise IncompatibleError(_explain_failure(pipeline, e)) from e
    return ExportedGraph(program, max_length, max_length, fixed_length_reason)


def _explain_failure(pipeline: Pipeline, error: Exception) -> str:
    """Return why a pipeline cannot be traced, and in which classes outside the core to look first."""
    reason, remedy = (str(error).splitlines() or [""])[0], "write them as operations on tensors of any batch size"
    if "specialized" in str(error):
        reason = "a component works for one size of batch alone"
        remedy = "use no loop over the series of a batch, and no `int` or `if` of its size or of its values"
    traced = [part for name, part in pipeline.named_slots() if name != "loss" or pipeline.head is None]
    foreign = [part for part in traced if type(part).__module__.partition(".")[0] != "tstk"]
    parts = " or ".join(map(describe_place, foreign)) or "its components"
    return f"torch.export cannot trace this pipeline ({reason or type(error).__name__}); in {parts}: {remedy}"


def _trace_any_length(wrapper: PredictWrapper, max_length: int) -> ExportedGraph | str:
    """Trace a graph with dynamic length; return the reason if that is not possible."""
    if wrapper.pipeline.spec.horizon is not None:
        return "a forecast needs the whole context"
    if max_length < 4:
        return "series are too short for a dynamic length"
    # do not trace with the maximum length, so that the graph does not specialize on it
    x = _make_random_input(wrapper.pipeline, 2, max_length - 1)
    try:
        program = torch.export.export(wrapper, (x,), dynamic_shapes=({0: Dim("batch"), 2: Dim.AUTO},))
    except Exception as e:  # tracers raise all kinds of exceptions
        return f"its components cannot be traced with a dynamic length ({type(e).__name__})"
    module = program.module()

    def accepts(length: int) -> bool:
        try:
            module(_make_random_input(wrapper.pipeline, 3, length))
        except Exception:  # failing guards raise all kinds of exceptions
            return False
        return True

    if not (accepts(max_length) and accepts(max_length // 2 + 1)):
        return "its components compute with the length in a way that specializes the graph"
    min_length = next(length for length in range(1, max_length + 1) if accepts(length))
    return ExportedGraph(program, min_length, max_length)


def _make_random_input(pipeline: Pipeline, batch_size: int, length: int) -> Tensor:
    shape = batch_size, pipeline.spec.channels, length
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(batch_size))
    return pipeline.add_offset(x.to(pipeline.mean.device))


def to_onnx(program: ExportedProgram, file: io.BytesIO) -> Callable[[Tensor], Tensor]:
    """Write a graph as ONNX and return a function that runs it with ONNX Runtime.

    Args:
        program: the graph
        file: receives the ONNX model

    Raises:
        IncompatibleError: the packages that write ONNX are not installed
    """
    try:
        runtime = [import_module(name) for name in ("onnx", "onnxscript", "onnxruntime")][-1]
    except ImportError as e:
        raise IncompatibleError(
            f"ONNX export needs packages that are not installed ({e}): {format_install_command('onnx')}"
        ) from e
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns about optional packages
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onnx_program = torch.onnx.export(program, input_names=["x"], output_names=["answer"], verbose=False)
    assert onnx_program is not None
    file.write(onnx_program.model_proto.SerializeToString())
    session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"x": x.cpu().numpy()})[0]).to(x.device)
