"""Trains every component in every variant for a few steps, and prints a fingerprint of the weights of each as JSON.

    fingerprints.py [WORDS]            only variants with one of these words in their names

Batches are large enough for torch to divide its work among threads: below 32768 numbers it does not.
"""

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tstk.config.resolve import resolve_config
from tstk.config.run_directory import WEIGHTS_FILE
from tstk.core.pipeline import Pipeline
from tstk.core.rng import SampleRNG
from tstk.core.types import Series, Spec
from tstk.errors import TstkError
from tstk.plugins.hooks import SLOTS, Entry
from tstk.plugins.registry import get_registry
from tstk.plugins.signature import read_signature
from tstk.runs.build import build_pipeline
from tstk.runs.checkpoint import save_run_config, save_weights
from tstk.testing.fixture import NoPipelineError, build_fixture, build_small_table, make_targets

FOLDER = tempfile.TemporaryDirectory()
NUMBERS = 70_000
"""In the tokens of a batch."""

STEPS = 2
TEXT = Spec(channels=1, length=32, task="classification", num_outputs=3, conditioning={"text": 4})
WANTED = {"dropout": 0.1, "ratio": 0.4, "codes": 8, "points": 32, "shape_width": 16, "query_depth": 1}
"""Values of options that many components have: what draws numbers does so, encoders get most of the tokens, and what is
large is small."""


@dataclass(frozen=True)
class Variant:
    """A component with one option other than its default, in a pipeline that accepts it.

    Args:
        entry: the component's
        spec: of the data
        tables: of all slots
        option: `name=value`, or nothing for the defaults
    """

    entry: Entry
    spec: Spec
    tables: dict[str, dict[str, Any]]
    option: str = ""

    def __str__(self) -> str:
        """`encoder:tstk/transformer cls=True`."""
        return f"{label(self.entry)} {self.option}".strip()

    def build(self, device: str = "cpu") -> Pipeline:
        """The pipeline, its parts bound."""
        torch.manual_seed(0)
        config = resolve_config(("here", {**self.tables, "data": {"horizon": self.spec.horizon}}))
        with torch.device(device):
            pipeline = build_pipeline(config, self.spec)
            if device == "cpu":
                pipeline.bind()
        return pipeline


def label(entry: Entry) -> str:
    """`encoder:tstk/transformer`."""
    return f"{entry.kind}:{entry.qualified_name}"


def components() -> list[Entry]:
    """Every component of every slot."""
    return [entry for entry in get_registry().list_entries() if entry.kind in SLOTS]


def variants(entry: Entry) -> Iterator[Variant]:
    """A component with its defaults, and with each other value of its options that are choices or switches."""
    spec, tables = surroundings(entry)
    yield Variant(entry, spec, tables)
    for option in read_signature(entry.target).options.values():
        for value in option.choices or ((not option.default,) if option.type == "bool" else ()):
            if option.is_component or value == option.default:
                continue
            changed = {**tables, entry.kind: {**tables[entry.kind], option.name: value}}
            data = TEXT if option.name == "guide" else spec
            variant = Variant(entry, data, changed, f"{option.name}={value}")
            try:
                variant.build("meta")
            except TstkError:  # it wants other partners, or a package that is not here
                continue
            yield variant


def surroundings(entry: Entry) -> tuple[Spec, dict[str, dict[str, Any]]]:
    """Data and parts with which a component works."""
    try:
        found = build_fixture(entry)
        return found.spec, {slot: adjust_options(slot, table) for slot, table in found.tables.items()}
    except NoPipelineError:  # it learns from texts
        parts = {"tokenizer": "vqshape", "encoder": "identity", "decoder": "vqshape"}
        tables = {
            slot: adjust_options(slot, build_small_table(get_registry().find(slot, name)))
            for slot, name in parts.items()
        }
        tables["tokenizer"]["guide"] = "z"
        return TEXT, {**tables, "loss": {**build_small_table(entry), **add_teacher(entry, tables)}}


def adjust_options(slot: str, table: dict[str, Any]) -> dict[str, Any]:
    """Return a table with those options of `WANTED` that its component has."""
    known = read_signature(get_registry().find(slot, table["use"]).target).options
    return {**table, **{k: v for k, v in WANTED.items() if k in known}}


def add_teacher(entry: Entry, tables: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The option `teacher` of a loss that has it: the run directory of an untrained pipeline."""
    if "teacher" not in read_signature(entry.target).options:
        return {}
    folder = Path(FOLDER.name)
    config = resolve_config(("here", {**tables, "loss": "reconstruct"}))
    torch.manual_seed(1)
    pipeline = build_pipeline(config, TEXT)
    save_run_config(folder, config, pipeline, {})
    save_weights(pipeline, folder / WEIGHTS_FILE)
    return {"teacher": str(folder)}


def series(spec: Spec, rows: int) -> Series:
    """Labelled series or contexts with futures, some of them with a hole, some short."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, spec.channels, spec.length, generator=draw)
    observed = torch.ones_like(x, dtype=torch.bool)
    observed[1::3, :, spec.length // 4 : spec.length // 2] = False
    if spec.horizon is None:
        observed[2::3, :, spec.length * 5 // 8 :] = False
        y = make_targets(spec, rows, draw)
    else:
        y = torch.randn(rows, spec.channels, spec.horizon, generator=draw)
    extra = {
        name: (torch.randn(rows, 5, width, generator=draw), torch.ones(rows, 5, dtype=torch.bool))
        for name, width in spec.conditioning.items()
    }
    return Series(x * observed, observed, y, torch.arange(rows), extra)


def train(variant: Variant, numbers: int, steps: int) -> dict[str, torch.Tensor]:
    """Train for some steps; return the weights and the outputs of the pipeline.

    Args:
        variant: what to train
        numbers: size of the tokens of a batch
        steps: of the optimizer
    """
    pipeline = variant.build().train()
    out = pipeline.tokenizer.out
    batch = series(variant.spec, max(6, numbers // (out.num_tokens * (out.dim or 1))))
    learning = [p for p in pipeline.parameters() if p.requires_grad]
    # plain descent: Adam's first steps hide small differences, as they take little but the sign of a gradient
    optimizer = torch.optim.SGD(learning, lr=0.1) if learning else None
    for step in range(steps):
        step_output = pipeline(batch, SampleRNG(0, step, batch.sample_id))
        if optimizer is not None:
            step_output.loss.backward()
            torch.nn.utils.clip_grad_norm_(learning, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        pipeline.after_step([step_output])
    pipeline.eval()
    with torch.no_grad():
        answers = {
            "loss": pipeline(batch, SampleRNG(0, 0, batch.sample_id)).loss,
            "embedding": pipeline.embed_batch(batch),
        }
        if pipeline.head is not None or pipeline.can_forecast:
            answers["prediction"] = pipeline.predict_batch(batch)
    return {**pipeline.state_dict(), **answers}


def fingerprint(tensors: dict[str, torch.Tensor]) -> str:
    """The SHA-256 of names and bytes."""
    digest = hashlib.sha256()
    for name, value in tensors.items():
        digest.update(name.encode())
        digest.update(value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def main(words: list[str]) -> None:
    """Print the fingerprints of the variants of each component; equal pipelines are trained once."""
    fingerprints: dict[str, dict[str, str]] = {}
    known: dict[str, str] = {}
    for entry in components():
        for variant in variants(entry):
            if words and not any(word in str(variant) for word in words):
                continue
            same = json.dumps([variant.tables, str(variant.spec)], sort_keys=True)
            if same not in known:
                known[same] = fingerprint(train(variant, NUMBERS, STEPS))
            fingerprints.setdefault(label(entry), {})[variant.option] = known[same]
    print(json.dumps(fingerprints, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
