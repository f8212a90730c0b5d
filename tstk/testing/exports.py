"""Which pipelines leave as a graph, tried as small as can be: torch.export and ONNX, any batch, any length."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from tstk.config.resolve import resolve
from tstk.core.pipeline import Pipeline
from tstk.core.types import Spec
from tstk.errors import TstkError
from tstk.inference.export import Graph, difference, graph, to_onnx
from tstk.plugins.registry import registry
from tstk.runs.build import assemble
from tstk.testing.subject import small

LABELLED = Spec(channels=1, length=32, classes=3)
TABLE = Spec(channels=1, length=32, horizon=8)


@dataclass(frozen=True)
class Trial:
    """What became of one pipeline.

    Args:
        parts: slot -> name
        lengths: the graph's, as "5 to 32"; empty if there is none
        alone: why it takes one length alone; empty if it takes several
        apart: the larger of the differences of both graphs to the pipeline, as a share of its largest answer
        refused: why there is no pipeline or no graph; empty if there is
        onnx: likewise for ONNX
    """

    parts: dict[str, str]
    lengths: str = ""
    alone: str = ""
    apart: float = 0.0
    refused: str = ""
    onnx: str = ""


def attempt(parts: Mapping[str, str]) -> Trial:
    """Export one pipeline of these parts, slot -> name; what is not named is the usual."""
    names = dict(parts)
    try:
        pipeline = _pipeline(names)
        found = graph(pipeline)
    except Exception as e:  # a tracer raises what it likes
        return Trial(names, refused=_why(e))
    lengths = f"{found.shortest} to {found.longest}" if found.shortest < found.longest else str(found.longest)
    apart, onnx = found.apart, ""
    try:
        apart = max(apart, _through_onnx(pipeline, found))
    except Exception as e:
        onnx = _why(e)
    return Trial(names, lengths, found.why, apart, onnx=onnx)


def _pipeline(parts: dict[str, str]) -> Pipeline:
    tables = {slot: small(registry().find(slot, name)) for slot, name in parts.items()}
    refusals = []
    for spec in (LABELLED, TABLE):
        try:
            torch.manual_seed(0)
            pipeline = assemble(resolve(("trial", {**tables, "data": {"horizon": spec.horizon}})), spec)
        except TstkError as e:
            refusals.append(e)
            continue
        pipeline.bind()
        return pipeline.eval()
    raise refusals[0]


def _through_onnx(pipeline: Pipeline, found: Graph) -> float:
    return difference(to_onnx(found.program, io.BytesIO()), pipeline, found)


def _why(e: BaseException) -> str:
    """The first line of what started it, without colours."""
    while e.__cause__ is not None and not isinstance(e, TstkError):
        e = e.__cause__
    said = re.sub(r"\x1b\[[0-9;]*m", "", str(e)).strip().splitlines() or [""]
    return said[0] if isinstance(e, TstkError) else f"{type(e).__name__}: {said[0]}"
