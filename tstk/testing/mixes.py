"""Every mix of installed components, tried: it trains a few steps, or is refused for a stated reason.

`tstk plugins check NAME --mixes` tries those that have a part of one plugin in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import torch

from tstk.config.resolve import resolve
from tstk.core.pipeline import Pipeline
from tstk.core.rng import Draws
from tstk.core.types import Series, Spec
from tstk.errors import NeedsError, OptionError, TstkError
from tstk.plugins.registry import Entry, registry
from tstk.plugins.signature import outline
from tstk.runs.build import assemble, rehearse
from tstk.testing.subject import series, small, subject


@dataclass(frozen=True)
class Mix:
    """One combination, and what became of it.

    Args:
        parts: slot -> name; the last is the decoder or the head, unless the loss reads the encoder
        state: trained, refused, or failed
        reason: why it was refused or how it failed
    """

    parts: dict[str, str]
    state: str
    reason: str = ""

    def __str__(self) -> str:
        """As it is typed: `--tokenizer patch --encoder bert ...`."""
        return " ".join(f"--{slot} {name}" for slot, name in self.parts.items())


def mixes(dist: str | None = None, steps: int = 1, told: Callable[[Mix], None] = lambda mix: None) -> list[Mix]:
    """Try all combinations of tokenizer, encoder, loss, and decoder or head, each as small as can be.

    Args:
        dist: only those with a part of this distribution
        steps: optimizer steps to train
        told: receives each as it comes
    """
    found = []
    for parts in combinations(dist):
        found.append(attempt(parts, steps))
        told(found[-1])
    return found


def combinations(dist: str | None = None) -> Iterator[dict[str, Entry]]:
    """Slot -> entry of every combination whose loss marks the kind of answer that it has."""
    for tokenizer, encoder, loss in product(*(loadable(k) for k in ("tokenizer", "encoder", "loss"))):
        slot = outline(loss.target).facts.get("reads", "decoder")
        for answer in [{}] if slot == "encoder" else [{slot: entry} for entry in loadable(slot)]:
            parts = {"tokenizer": tokenizer, "encoder": encoder, "loss": loss, **answer}
            if dist is None or any(e.dist == dist for e in parts.values()):
                yield parts


def loadable(kind: str) -> list[Entry]:
    """The entries of a kind whose class can be imported here; others lack an optional package."""
    found = []
    for entry in registry().entries(kind):
        try:
            registry().load(entry)
        except TstkError:
            continue
        found.append(entry)
    return found


def attempt(parts: dict[str, Entry], steps: int = 1) -> Mix:
    """Build one combination, for classification unless a refusal advises otherwise, and train it."""
    names = {slot: next(n for n in (e.name, e.qualified) if _found(slot, n) == e) for slot, e in parts.items()}
    try:
        length = subject(parts["tokenizer"]).spec.length
    except AssertionError as e:
        return Mix(names, "refused", str(e))
    choice = _Choice(Spec(2, length, classes=3))
    while True:
        try:
            pipeline = _built(parts, choice)
        except (NeedsError, OptionError) as e:
            if (advised := _advised(str(e), choice, parts["encoder"])) is None:
                return Mix(names, "refused", str(e))
            choice = advised
            continue
        try:
            wrong = _trained(pipeline, series(choice.spec), steps)
        except Exception as e:
            wrong = f"{type(e).__name__}: {e}"
        return Mix(names, "failed" if wrong else "trained", wrong)


@dataclass(frozen=True)
class _Choice:
    """What may be said beside the names of the parts."""

    spec: Spec
    channels: Literal["auto", "independent"] = "auto"
    causal: bool = False


def _advised(refusal: str, choice: _Choice, encoder: Entry) -> _Choice | None:
    """What a refusal advises, if it has not been tried: other channels, a causal encoder, data for the other task."""
    if "--channels independent" in refusal and choice.channels == "auto":
        return replace(choice, channels="independent")
    known = outline(encoder.target).options
    if "(causal)" in refusal and "causal" in encoder.provides and "causal" in known and not choice.causal:
        return replace(choice, causal=True)
    if ("horizon" in refusal or "class labels" in refusal) and choice.spec.horizon is None:
        return _Choice(choice.spec.but(classes=None, horizon=8))
    return None


def _built(parts: dict[str, Entry], choice: _Choice) -> Pipeline:
    """The pipeline of a mix, refused as training would refuse it."""
    tables: dict[str, Any] = {slot: small(entry) for slot, entry in parts.items()}
    tables["encoder"] |= {"causal": True} if choice.causal else {}
    tables |= {"data": {"horizon": choice.spec.horizon}, "pipeline": {"channels": choice.channels}}
    torch.manual_seed(0)
    config = resolve(("mix", tables))
    rehearse(config)
    pipeline = assemble(config, choice.spec, channels=choice.channels)
    pipeline.bind()
    return pipeline


def _found(slot: str, name: str) -> Entry | None:
    try:
        return registry().find(slot, name)
    except TstkError:
        return None


def _trained(pipeline: Pipeline, given: Series, steps: int) -> str:
    """What went wrong in training and afterwards, or nothing."""
    learning = [p for p in pipeline.parameters() if p.requires_grad]
    if not learning:
        return ""
    assert given.key is not None
    optimizer = torch.optim.AdamW(learning, lr=1e-3)
    for step in range(steps):
        flow = pipeline.train()(given, Draws(0, step, given.key))
        if not flow.total.isfinite():
            return f"the loss is {float(flow.total)} at step {step + 1}"
        optimizer.zero_grad()
        flow.total.backward()
        endless = [n for n, p in pipeline.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
        if endless:
            return f"no finite gradient: {', '.join(endless)}"
        optimizer.step()
        pipeline.after_step([flow])
    pipeline.eval()
    answers = {"embedding": pipeline.embed(given)}
    if pipeline.head is not None or pipeline.foretells:
        answers["prediction"] = pipeline.predict(given)
    return ", ".join(f"{name} is not finite" for name, value in answers.items() if not value.isfinite().all())
