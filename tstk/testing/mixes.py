"""Test of all combinations ("mixes") of installed components: each trains for a few steps or is refused with a reason.

`tstk plugins check NAME --mixes` tests those that include a component of one plugin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import torch

from tstk.config.resolve import resolve_config
from tstk.core.pipeline import Pipeline
from tstk.core.rng import SampleRNG
from tstk.core.task import find_task, get_task
from tstk.core.types import Series, Spec
from tstk.errors import IncompatibleError, OptionError, TstkError
from tstk.plugins.hooks import Entry
from tstk.plugins.registry import get_registry
from tstk.plugins.signature import read_signature
from tstk.runs.build import build_pipeline, validate_on_meta
from tstk.testing.fixture import build_fixture, build_small_table, make_series


@dataclass(frozen=True)
class Mix:
    """One combination of components and its result.

    Args:
        parts: slot -> name; the last is the decoder or head, unless the loss consumes the encoder output
        state: "trained", "refused" or "failed"
        reason: error message, if refused or failed
        tasks: names of the tasks that it was tried on; empty for pretraining
    """

    parts: dict[str, str]
    state: str
    reason: str = ""
    tasks: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return it as flags: `--tokenizer patch --encoder bert ...`."""
        return " ".join(f"--{slot} {name}" for slot, name in self.parts.items())


def try_mixes(dist: str | None = None, steps: int = 1, on_mix: Callable[[Mix], None] = lambda mix: None) -> list[Mix]:
    """Try all combinations of tokenizer, encoder, loss, and decoder or head, with small options.

    Args:
        dist: only combinations with a component of this distribution
        steps: optimizer steps to train
        on_mix: called with each result as soon as it is known
    """
    results = []
    for parts in list_mixes(dist):
        results.append(try_mix(parts, steps))
        on_mix(results[-1])
    return results


def list_mixes(dist: str | None = None) -> Iterator[dict[str, Entry]]:
    """Yield every combination, as slot -> entry, with the decoder or head that its loss consumes."""
    for tokenizer, encoder, loss in product(*(list_importable(k) for k in ("tokenizer", "encoder", "loss"))):
        slot = read_signature(loss.target).class_attrs.get("consumes", "decoder")
        for predictor in [{}] if slot == "encoder" else [{slot: entry} for entry in list_importable(slot)]:
            parts = {"tokenizer": tokenizer, "encoder": encoder, "loss": loss, **predictor}
            if dist is None or any(e.dist == dist for e in parts.values()):
                yield parts


def list_importable(kind: str) -> list[Entry]:
    """Return the entries of a kind whose class can be imported; others lack an optional package."""
    entries = []
    for entry in get_registry().list_entries(kind):
        try:
            get_registry().load(entry)
        except TstkError:
            continue
        entries.append(entry)
    return entries


def try_mix(parts: dict[str, Entry], steps: int = 1) -> Mix:
    """Build and train one combination on each task that it serves; return the worst result.

    The advice of error messages is followed, such as other channels or a table to forecast.
    """
    names = {
        slot: next(n for n in (e.name, e.qualified_name) if _find_entry(slot, n) == e) for slot, e in parts.items()
    }
    tasks = list_tasks(parts)
    try:
        length = build_fixture(parts["tokenizer"]).spec.length
    except AssertionError as e:
        return Mix(names, "refused", str(e), tasks)
    results = [_try_spec(parts, _make_spec(task, length), steps) for task in tasks or ("classification",)]
    state, reason = max(results, key=lambda result: ("trained", "refused", "failed").index(result[0]))
    return Mix(names, state, reason, tasks)


def list_tasks(parts: Mapping[str, Entry]) -> tuple[str, ...]:
    """Return the core's tasks that loss and head both serve, else those of the loss; () for pretraining."""
    served = [
        types
        for slot in ("loss", "head")
        if slot in parts and (types := read_signature(parts[slot].target).class_attrs.get("target_types", ()))
    ]
    if not served:
        return ()
    shared = [t for t in served[0] if all(t in types for types in served)]
    return tuple(find_task(t) for t in shared or served[0])


def _make_spec(task: str, length: int) -> Spec:
    """Return the Spec of data for a task."""
    return Spec(2, length, task, *((None, 8) if get_task(task).target_type == "future" else (3,)))


def _try_spec(parts: dict[str, Entry], spec: Spec, steps: int) -> tuple[str, str]:
    """Train a combination on data of this Spec; return its state and the reason, as in `Mix`."""
    variant = _Variant(spec)
    while True:
        try:
            pipeline = _build_mix(parts, variant)
        except (IncompatibleError, OptionError) as e:
            if (next_variant := _apply_advice(str(e), variant, parts["encoder"])) is None:
                return "refused", str(e)
            variant = next_variant
            continue
        try:
            error = _train_mix(pipeline, make_series(variant.spec), steps)
        except Exception as e:
            error = f"{type(e).__name__}: {e}"
        return "failed" if error else "trained", error


@dataclass(frozen=True)
class _Variant:
    """Settings of a combination beside its components."""

    spec: Spec
    channels: Literal["auto", "independent"] = "auto"
    causal: bool = False


def _apply_advice(error: str, variant: _Variant, encoder: Entry) -> _Variant | None:
    """Return the variant that an error message suggests, or None: other channels, a causal encoder, a forecast."""
    if "--channels independent" in error and variant.channels == "auto":
        return replace(variant, channels="independent")
    options = read_signature(encoder.target).options
    if "(causal)" in error and "causal" in encoder.provides and "causal" in options and not variant.causal:
        return replace(variant, causal=True)
    if "horizon" in error and variant.spec.horizon is None:
        return _Variant(variant.spec.replace(task="forecasting", num_outputs=None, horizon=8))
    return None


def _build_mix(parts: dict[str, Entry], variant: _Variant) -> Pipeline:
    """Build the pipeline of a combination, with the same validation as training."""
    tables: dict[str, Any] = {slot: build_small_table(entry) for slot, entry in parts.items()}
    tables["encoder"] |= {"causal": True} if variant.causal else {}
    tables |= {"data": {"horizon": variant.spec.horizon}, "pipeline": {"channels": variant.channels}}
    torch.manual_seed(0)
    config = resolve_config(("mix", tables))
    validate_on_meta(config)
    pipeline = build_pipeline(config, variant.spec, channels=variant.channels)
    pipeline.bind()
    return pipeline


def _find_entry(slot: str, name: str) -> Entry | None:
    try:
        return get_registry().find(slot, name)
    except TstkError:
        return None


def _train_mix(pipeline: Pipeline, series: Series, steps: int) -> str:
    """Train, embed and predict; return what went wrong, or ""."""
    trainable = [p for p in pipeline.parameters() if p.requires_grad]
    if not trainable:
        return ""
    assert series.sample_id is not None
    optimizer = torch.optim.AdamW(trainable, lr=1e-3)
    for step in range(steps):
        step_output = pipeline.train()(series, SampleRNG(0, step, series.sample_id))
        if not step_output.loss.isfinite():
            return f"the loss is {float(step_output.loss)} at step {step + 1}"
        optimizer.zero_grad()
        step_output.loss.backward()
        non_finite = [n for n, p in pipeline.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
        if non_finite:
            return f"no finite gradient: {', '.join(non_finite)}"
        optimizer.step()
        pipeline.after_step([step_output])
    pipeline.eval()
    outputs = {"embedding": pipeline.embed_batch(series)}
    if pipeline.head is not None or pipeline.can_forecast:
        outputs["prediction"] = pipeline.predict_batch(series)
    return ", ".join(f"{name} is not finite" for name, value in outputs.items() if not value.isfinite().all())
