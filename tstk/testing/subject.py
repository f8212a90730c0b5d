"""One part in the smallest pipeline that it works in: what the checks look at.

The other slots are filled by the core's parts, or by the plugin's own where those do not fit.
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

from tstk.config.resolve import resolve
from tstk.core.interfaces import Slot
from tstk.core.pipeline import Pipeline
from tstk.core.rng import Draws
from tstk.core.types import Flow, Series, Spec, Tokens
from tstk.errors import TstkError
from tstk.plugins.registry import Entry, registry
from tstk.plugins.signature import outline
from tstk.runs.build import assemble, without_values

SIZES = {"dim": 16, "depth": 1, "heads": 2, "hidden": 32, "out_dim": 16, "dropout": 0.0}
"""Small values of options that many parts have."""

SPECS = tuple(
    Spec(channels=2, length=length, classes=classes, horizon=horizon)
    for length in (32, 128, 512)
    for classes, horizon in ((3, None), (None, 8))
)
"""Data to try a part on, the first that it accepts."""

_FIRST = {
    "tokenizer": ("patch",),
    "encoder": ("transformer", "identity", "transformer-causal"),
    "loss": ("masked", "reconstruct", "cross-entropy", "forecast", "next-code"),
    "decoder": ("transformer", "linear", "own"),
    "head": ("linear", "forecast"),
}


def small(entry: Entry) -> dict[str, Any]:
    """A table for a component: its name, and options that make it tiny."""
    known = outline(entry.target).options
    sizes = {k: v for k, v in SIZES.items() if k in known and not known[k].nested and known[k].type != "bool"}
    return {"use": entry.qualified, **sizes, **steering(entry.dist, "SMALL").get(f"{entry.kind}:{entry.name}", {})}


def steering(dist: str, name: str) -> Mapping[str, Any]:
    """The literal `SMALL` or `EXCUSES` of a plugin's light module; empty if it has none."""
    found: dict[str, Any] = {}
    for plugin in registry().plugins:
        if plugin.dist == dist:
            found |= getattr(sys.modules.get(plugin.module), name, {})
    return found


def series(spec: Spec, seed: int = 0) -> Series:
    """Three series for a Spec: whole, with a hole, and one that ends early."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(3, spec.channels, spec.length, generator=draw).cumsum(-1)
    observed = torch.ones_like(x, dtype=torch.bool)
    observed[1, :, spec.length // 4 : spec.length // 2] = False
    observed[1, 0, 0] = False
    if spec.horizon is None:
        observed[2, :, spec.length * 5 // 8 :] = False
        y = torch.arange(3) % (spec.classes or 1)
    else:
        y = torch.randn(3, spec.channels, spec.horizon, generator=draw)
    return Series(x * observed, observed, y, torch.tensor([3, 14, 15]))


@dataclass
class Subject:
    """A part, and the pipeline around it.

    Args:
        entry: the part's
        spec: of the data
        tables: of all slots of the pipeline
    """

    entry: Entry
    spec: Spec
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Which slot the part fills."""
        return self.entry.kind

    def assembled(self, seed: int = 0, **options: Any) -> Pipeline:
        """The pipeline, before its parts have met; `options` are more of the part's own."""
        tables = {**self.tables, self.kind: {**self.tables[self.kind], **options}}
        torch.manual_seed(seed)
        return assemble(resolve(("check", {**tables, "data": {"horizon": self.spec.horizon}})), self.spec)

    def pipeline(self, seed: int = 0, **options: Any) -> Pipeline:
        """The pipeline in eval mode, its parts bound."""
        made = self.assembled(seed, **options)
        made.bind()
        return made.eval()

    def part(self, pipeline: Pipeline) -> Any:
        """This part of a pipeline."""
        part: Slot = getattr(pipeline, self.kind)
        return part

    @cached_property
    def series(self) -> Series:
        """Three series, one with a hole, one short."""
        return series(self.spec)

    def flow(self, pipeline: Pipeline, given: Series | None = None) -> Flow:
        """One pass with fixed draws.

        Raises:
            AssertionError: tokens are not what the tokenizer's `out` promises
        """
        given = self.series if given is None else given
        assert given.key is not None
        if self.kind == "tokenizer":  # or the next part would stumble over it, and say something else
            self.tokens(pipeline, given)
        out: Flow = pipeline(given, Draws(0, 1, given.key))
        return out

    def tokens(self, pipeline: Pipeline, given: Series | None = None) -> Tokens:
        """What the tokenizer makes of the series, detached; checked against its `out`."""
        with torch.no_grad():
            entered = pipeline._enter(self.series if given is None else given, blank=pipeline.loss.blanks)
        try:
            return entered.tokens.check(pipeline.tokenizer.out, self.tables["tokenizer"]["use"].rpartition("/")[2])
        except ValueError as e:
            raise AssertionError(str(e)) from None


class Lonely(AssertionError):
    """No pipeline of installed parts accepts a part."""


def subject(entry: Entry) -> Subject:
    """The first pipeline, over a few data, in which a part works.

    Raises:
        Lonely: there is none; with the reason of the most usual one
    """
    found = _search(entry, frozenset(registry().entries()))
    if isinstance(found, str):
        raise Lonely(found)
    return found


@cache
def _search(entry: Entry, installed: frozenset[Entry]) -> Subject | str:
    """Try pipelines of the installed entries; the first that works, or why the first did not."""
    refusals: list[str] = []
    for spec in SPECS:
        # length matters to tokenizers, and those come with the first partners
        for tables in islice(_around(entry), None if spec.length == SPECS[0].length else 30):
            one = Subject(entry, spec, tables)
            try:
                with without_values():
                    one.assembled()
                return one
            except TstkError as e:
                refusals.append(str(e))
    return f"no pipeline of installed parts accepts it; the first refusal: {[*refusals, 'none'][0]}"


def _around(entry: Entry) -> Iterator[dict[str, dict[str, Any]]]:
    for tokenizer, encoder, loss in product(*(_partners(k, entry) for k in ("tokenizer", "encoder", "loss"))):
        seen = outline(registry().find("loss", loss["use"]).target).facts
        slot = seen.get("reads", "decoder")
        if entry.kind in ("decoder", "head") and slot != entry.kind:
            continue
        if slot == "encoder":
            yield {"tokenizer": tokenizer, "encoder": encoder, "loss": loss}
            continue
        for answer in _partners(slot, entry, seen.get("decoder") if slot == "decoder" else None):
            yield {"tokenizer": tokenizer, "encoder": encoder, "loss": loss, slot: answer}


def _partners(kind: str, entry: Entry, usual: str | None = None) -> list[dict[str, Any]]:
    """Tables to try in a slot: the part itself, or the core's usual ones and then the plugin's own."""
    if kind == entry.kind:
        return [small(entry)]
    names = [n for n in (usual, *_FIRST[kind]) if n]
    found = []
    for name in dict.fromkeys(names):
        bare = name.removesuffix("-causal")
        found.append(small(registry().find(kind, bare)) | ({"causal": True} if name != bare else {}))
    own = [e for e in registry().entries(kind) if e.dist == entry.dist and e.name not in names]
    others = [e for e in registry().entries(kind) if e.dist not in (entry.dist, "tstk") and kind == "tokenizer"]
    for e in (*own, *others):
        with suppress(TstkError):  # somebody's broken part is not this one's fault
            found.append(small(e))
    return found
