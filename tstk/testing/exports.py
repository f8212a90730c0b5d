"""Test of which pipelines can be exported with torch.export and ONNX, for any batch size and length."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from tstk.config.resolve import resolve_config
from tstk.core.pipeline import Pipeline
from tstk.core.types import Spec
from tstk.errors import TstkError
from tstk.inference.export import ExportedGraph, check_against_pipeline, export_graph, to_onnx
from tstk.plugins.registry import get_registry
from tstk.runs.build import build_pipeline
from tstk.testing.fixture import build_small_table

CLASSIFICATION_SPEC = Spec(channels=1, length=32, task="classification", num_outputs=3)
FORECASTING_SPEC = Spec(channels=1, length=32, task="forecasting", horizon=8)
SEGMENTATION_SPEC = Spec(channels=1, length=32, task="segmentation", num_outputs=3)


@dataclass(frozen=True)
class ExportTrial:
    """Result of exporting one pipeline.

    Args:
        parts: slot -> name
        lengths: series lengths that the graph takes, such as "5 to 32"; empty if there is no graph
        fixed_length_reason: why it takes a single length; empty if it takes several
        max_error: largest difference of both graphs to the pipeline, relative to its largest output
        error: why there is no pipeline or no graph; empty if there is one
        onnx_error: why there is no ONNX graph; empty if there is one
    """

    parts: dict[str, str]
    lengths: str = ""
    fixed_length_reason: str = ""
    max_error: float = 0.0
    error: str = ""
    onnx_error: str = ""


def try_export(parts: Mapping[str, str]) -> ExportTrial:
    """Export a pipeline of these components, slot -> name; other slots have their defaults."""
    names = dict(parts)
    try:
        pipeline = _build_small_pipeline(names)
        exported = export_graph(pipeline)
    except Exception as e:  # tracing can raise any exception
        return ExportTrial(names, error=_format_root_cause(e))
    lengths = (
        f"{exported.min_length} to {exported.max_length}"
        if exported.min_length < exported.max_length
        else str(exported.max_length)
    )
    max_error, onnx_error = exported.max_relative_error, ""
    try:
        max_error = max(max_error, _measure_onnx_error(pipeline, exported))
    except Exception as e:
        onnx_error = _format_root_cause(e)
    return ExportTrial(names, lengths, exported.fixed_length_reason, max_error, onnx_error=onnx_error)


def _build_small_pipeline(parts: dict[str, str]) -> Pipeline:
    tables = {slot: build_small_table(get_registry().find(slot, name)) for slot, name in parts.items()}
    errors = []
    for spec in (CLASSIFICATION_SPEC, FORECASTING_SPEC, SEGMENTATION_SPEC):
        try:
            torch.manual_seed(0)
            pipeline = build_pipeline(resolve_config(("trial", {**tables, "data": {"horizon": spec.horizon}})), spec)
        except TstkError as e:
            errors.append(e)
            continue
        pipeline.bind()
        return pipeline.eval()
    raise errors[0]


def _measure_onnx_error(pipeline: Pipeline, exported: ExportedGraph) -> float:
    return check_against_pipeline(to_onnx(exported.program, io.BytesIO()), pipeline, exported)


def _format_root_cause(e: BaseException) -> str:
    """Return the first line of the original exception, without ANSI colours."""
    while e.__cause__ is not None and not isinstance(e, TstkError):
        e = e.__cause__
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(e)).strip().splitlines() or [""]
    return lines[0] if isinstance(e, TstkError) else f"{type(e).__name__}: {lines[0]}"
