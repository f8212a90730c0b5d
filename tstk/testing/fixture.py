"""The component under test, in the smallest pipeline that accepts it.

The other slots are filled with built-in components, or with those of its plugin if the built-in ones do not fit.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import islice, product
from typing import Any

import torch
from torch import Tensor

from tstk.config.resolve import resolve_config
from tstk.core.interfaces import Slot
from tstk.core.pipeline import Pipeline
from tstk.core.rng import SampleRNG
from tstk.core.task import get_task
from tstk.core.types import Series, Spec, StepOutput, Tokens
from tstk.errors import TstkError
from tstk.plugins.hooks import Entry
from tstk.plugins.registry import get_registry
from tstk.plugins.signature import read_signature
from tstk.runs.build import build_pipeline, use_meta_device

SMALL_SIZES = {"dim": 16, "depth": 1, "heads": 2, "hidden": 32, "out_dim": 16, "dropout": 0.0}
"""Small values of options that many components have."""

TRIAL_SPECS = tuple(
    Spec(2, length, task, num_outputs, horizon)
    for length in (32, 128, 512)
    for task, num_outputs, horizon in (
        ("classification", 3, None),
        ("forecasting", None, 8),
        ("regression", 3, None),
        ("multilabel", 3, None),
        ("segmentation", 3, None),
    )
)
"""Specs of data to try a component on, in this order."""

_DEFAULT_PARTNERS = {
    "tokenizer": ("patch",),
    "encoder": ("transformer", "identity", "transformer-causal"),
    "loss": ("masked", "reconstruct", "cross-entropy", "forecast", "mse", "binary-cross-entropy", "next-code"),
    "decoder": ("transformer", "linear", "own"),
    "head": ("linear", "forecast", "per-token"),
}


def build_small_table(entry: Entry) -> dict[str, Any]:
    """Return a config table for a component, with options that make it small."""
    options = read_signature(entry.target).options
    sizes = {
        k: v
        for k, v in SMALL_SIZES.items()
        if k in options and not options[k].is_component and options[k].type != "bool"
    }
    return {
        "use": entry.qualified_name,
        **sizes,
        **read_plugin_literal(entry.dist, "SMALL_OPTIONS").get(f"{entry.kind}:{entry.name}", {}),
    }


def read_plugin_literal(dist: str, name: str) -> Mapping[str, Any]:
    """Return the literal `SMALL_OPTIONS` or `EXPECTED_FAILED_CHECKS` of `plugin.py`; empty if it has none."""
    values: dict[str, Any] = {}
    for plugin in get_registry().plugins:
        if plugin.dist == dist:
            values |= getattr(sys.modules.get(plugin.module), name, {})
    return values


def make_series(spec: Spec, seed: int = 0) -> Series:
    """Return three random series for a Spec: a complete one, one with a gap, and one that ends early."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, spec.channels, spec.length, generator=generator).cumsum(-1)
    observed = torch.ones_like(x, dtype=torch.bool)
    observed[1, :, spec.length // 4 : spec.length // 2] = False
    observed[1, 0, 0] = False
    if spec.horizon is None:
        observed[2, :, spec.length * 5 // 8 :] = False
        y = make_targets(spec, 3, generator)
    else:
        y = torch.randn(3, spec.channels, spec.horizon, generator=generator)
    return Series(x * observed, observed, y, torch.tensor([3, 14, 15]))


def make_targets(spec: Spec, count: int, generator: torch.Generator) -> Tensor:
    """Return targets of some series for a task other than forecasting; the last number or label is unknown."""
    target_type, num_outputs = "class" if spec.task is None else get_task(spec.task).target_type, spec.num_outputs or 1
    if target_type == "class":
        return torch.arange(count) % num_outputs
    if target_type == "sample-class":
        y = (torch.arange(count)[:, None] + torch.arange(spec.length) * 4 // spec.length) % num_outputs
        y[-1, -1] = -1
        return y
    numbers = torch.randn(count, num_outputs, generator=generator, dtype=torch.float64)
    unknown = torch.nan if target_type == "numbers" else -1
    y = numbers if target_type == "numbers" else (numbers > 0).long()
    y[-1, -1] = unknown
    return y


def randn_like(values: Tensor, seed: int = 1) -> Tensor:
    """Return seeded normal noise with standard deviation 3, of the shape and dtype of `values`."""
    return torch.randn(values.shape, generator=torch.Generator().manual_seed(seed)).to(values.dtype) * 3


@dataclass
class ComponentFixture:
    """A component under test, and the pipeline around it.

    Args:
        entry: entry of the component
        spec: Spec of the data
        tables: config tables of all slots of the pipeline
    """

    entry: Entry
    spec: Spec
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Slot of the component."""
        return self.entry.kind

    def build_unbound_pipeline(self, seed: int = 0, **options: Any) -> Pipeline:
        """Build the pipeline without calling `bind`; `options` override those of the component."""
        tables = {**self.tables, self.kind: {**self.tables[self.kind], **options}}
        torch.manual_seed(seed)
        return build_pipeline(resolve_config(("check", {**tables, "data": {"horizon": self.spec.horizon}})), self.spec)

    def build_pipeline(self, seed: int = 0, **options: Any) -> Pipeline:
        """Build and bind the pipeline, in eval mode."""
        pipeline = self.build_unbound_pipeline(seed, **options)
        pipeline.bind()
        return pipeline.eval()

    def get_component(self, pipeline: Pipeline) -> Any:
        """Return the component under test from a pipeline."""
        component: Slot = getattr(pipeline, self.kind)
        return component

    @cached_property
    def series(self) -> Series:
        """Three series: complete, with a gap, and one that ends early."""
        return make_series(self.spec)

    def run_step(self, pipeline: Pipeline, series: Series | None = None) -> StepOutput:
        """Run the pipeline forward with fixed random numbers.

        Raises:
            AssertionError: the tokens do not match `out` of the tokenizer
        """
        series = self.series if series is None else series
        assert series.sample_id is not None
        if self.kind == "tokenizer":  # check tokens first: otherwise a later component fails with a misleading error
            self.tokenize(pipeline, series)
        step_output: StepOutput = pipeline(series, SampleRNG(0, 1, series.sample_id))
        return step_output

    def tokenize(self, pipeline: Pipeline, series: Series | None = None) -> Tokens:
        """Return the detached tokens of the series, checked against `out` of the tokenizer."""
        with torch.no_grad():
            preprocessed = pipeline.preprocess(
                self.series if series is None else series, mask_future=pipeline.loss.masks_future
            )
        try:
            return preprocessed.tokens.check(pipeline.tokenizer.out, self.tables["tokenizer"]["use"].rpartition("/")[2])
        except ValueError as e:
            raise AssertionError(str(e)) from None


class NoPipelineError(AssertionError):
    """No pipeline of installed components accepts the component."""


def build_fixture(entry: Entry) -> ComponentFixture:
    """Return the fixture of the first pipeline and Spec that accept a component.

    Raises:
        NoPipelineError: there is none; the message has the first reason
    """
    result = _search_pipeline(entry, frozenset(get_registry().list_entries()))
    if isinstance(result, str):
        raise NoPipelineError(result)
    return result


@cache
def _search_pipeline(entry: Entry, installed: frozenset[Entry]) -> ComponentFixture | str:
    """Return the first fixture that can be built from the installed entries, or the first reason against one."""
    refusals: list[str] = []
    for spec in TRIAL_SPECS:
        # length matters to tokenizers only, and the first combinations cover those
        for tables in islice(_iterate_pipelines(entry), None if spec.length == TRIAL_SPECS[0].length else 30):
            fixture = ComponentFixture(entry, spec, tables)
            try:
                with use_meta_device():
                    fixture.build_unbound_pipeline()
                return fixture
            except TstkError as e:
                refusals.append(str(e))
    return f"no pipeline of installed components accepts it; the first error: {[*refusals, 'none'][0]}"


def _iterate_pipelines(entry: Entry) -> Iterator[dict[str, dict[str, Any]]]:
    for tokenizer, encoder, loss in product(*(_list_partners(k, entry) for k in ("tokenizer", "encoder", "loss"))):
        attrs = read_signature(get_registry().find("loss", loss["use"]).target).class_attrs
        slot = attrs.get("consumes", "decoder")
        if entry.kind in ("decoder", "head") and slot != entry.kind:
            continue
        if slot == "encoder":
            yield {"tokenizer": tokenizer, "encoder": encoder, "loss": loss}
            continue
        for partner in _list_partners(slot, entry, attrs.get("default_decoder") if slot == "decoder" else None):
            yield {"tokenizer": tokenizer, "encoder": encoder, "loss": loss, slot: partner}


def _list_partners(kind: str, entry: Entry, preferred: str | None = None) -> list[dict[str, Any]]:
    """Return the tables to try in a slot: the component itself, or built-in ones and then those of its plugin."""
    if kind == entry.kind:
        return [build_small_table(entry)]
    names = [n for n in (preferred, *_DEFAULT_PARTNERS[kind]) if n]
    tables = []
    for name in dict.fromkeys(names):
        bare = name.removesuffix("-causal")
        tables.append(build_small_table(get_registry().find(kind, bare)) | ({"causal": True} if name != bare else {}))
    siblings = [e for e in get_registry().list_entries(kind) if e.dist == entry.dist and e.name not in names]
    others = [
        e for e in get_registry().list_entries(kind) if e.dist not in (entry.dist, "tstk") and kind == "tokenizer"
    ]
    for e in (*siblings, *others):
        with suppress(TstkError):  # ignore components that are broken themselves
            tables.append(build_small_table(e))
    return tables
