"""Checks of every component, whatever its slot."""

from __future__ import annotations

import inspect
import tempfile
from dataclasses import fields
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from tstk.core import interfaces
from tstk.core.pipeline import Pipeline
from tstk.core.types import Flow, Series, Spec
from tstk.errors import TstkError
from tstk.plugins.registry import registry
from tstk.plugins.signature import outline
from tstk.runs.checkpoint import save_weights
from tstk.testing.expect import NotApplicable, close, expect
from tstk.testing.subject import Subject
from tstk.training.dry_run import faults

_CLAIMS = {"tokenizer": ("target", "vocab", "step"), "encoder": ("causal", "prefix")}
"""What a tokenizer or encoder must announce in `provides` when it sets it."""


def loads(it: Subject) -> None:
    """The target is a class of the slot that the entry names."""
    found, base = registry().load(it.entry), getattr(interfaces, it.kind.capitalize())
    expect(
        isinstance(found, type) and issubclass(found, base),
        f"{it.entry.target} is {found!r}; expected a class that extends tstk.{base.__name__}",
    )


def explains_its_options(it: Subject) -> None:
    """The constructor takes a Spec, then keyword-only options, each with a line in the docstring's `Args:`."""
    found = outline(it.entry.target)
    expect(bool(found.doc), f"{it.entry.target} has no docstring")
    bare = [o.name for o in found.options.values() if not o.help]
    expect(not bare, f"no line in the docstring's Args: for the options {', '.join(bare)}")
    parameters = list(inspect.signature(registry().load(it.entry)).parameters.values())
    loose = [p.name for p in parameters[1:] if p.kind is not p.KEYWORD_ONLY]
    expect(
        bool(parameters) and not loose,
        f"the constructor takes ({', '.join(map(str, parameters))}); expected (spec, *, ...): what is chosen is "
        "keyword-only, what is wired comes first and is the Spec alone",
    )


def keeps_the_promised_shapes(it: Subject) -> None:
    """What comes out has the shapes that `out` promised."""
    pipeline = it.pipeline()
    flow, part, out = it.flow(pipeline), it.part(pipeline), it.part(pipeline).out
    if it.kind == "tokenizer":
        return  # checked on its way
    if it.kind == "encoder":
        assert flow.encoded is not None
        try:
            flow.encoded.but(target=None, weight=None).check(out.but(vocab=None), it.entry.name)
        except ValueError as e:
            raise AssertionError(str(e)) from None
        place = list(part.place(flow.seen).shape)
        want = [*flow.seen.index.shape, out.dim]
        expect(place == want, f"{it.entry.name}: place is {place}; expected {want}, [B, N, out.dim]")
        got = 0 if flow.encoded.prefix is None else flow.encoded.prefix.shape[1]
        expect(got == out.prefix, f"{it.entry.name}: a prefix of {got} tokens; expected out.prefix = {out.prefix}")
    elif it.kind == "decoder":
        assert flow.decoded is not None
        want = [*flow.asked.index.shape, out.dim]
        if part.whole:
            want = list(flow.series.x.shape)
        expect(list(flow.decoded.shape) == want, f"{it.entry.name}: {list(flow.decoded.shape)}; expected {want}")
    elif it.kind == "head":
        assert flow.output is not None
        spec = it.spec
        want = [len(it.series.x), *((spec.classes,) if spec.horizon is None else (spec.channels, spec.horizon))]
        expect(list(flow.output.shape) == want, f"{it.entry.name}: {list(flow.output.shape)}; expected {want}")
    else:
        terms = part(flow)
        expect(isinstance(terms, dict) and bool(terms), f"{it.entry.name}: {terms!r}; expected named scalars")
        odd = {k: list(v.shape) for k, v in terms.items() if v.ndim or not v.isfinite()}
        expect(not odd, f"{it.entry.name}: terms {odd}; expected finite scalars")


def provides_what_it_says(it: Subject) -> None:
    """Each field in `provides` is set by some setting of the options, and what the defaults set is announced."""
    known = {f.name for f in fields(Spec)}
    strange = it.entry.provides - known
    expect(not strange, f"provides {sorted(strange)}, which are no fields of Spec: {', '.join(sorted(known))}")
    if it.kind not in _CLAIMS:
        expect(not it.entry.provides, f"provides {sorted(it.entry.provides)}; only tokenizers and encoders provide")
        return
    default = _set_by(it.pipeline(), it)
    silent = default & set(_CLAIMS[it.kind]) - it.entry.provides
    expect(not silent, f"sets {sorted(silent)} without saying so; add it to provides")
    missing = it.entry.provides - default
    for option in outline(it.entry.target).options.values():
        for value in (not option.default,) if option.type == "bool" else option.choices:
            if missing:
                try:
                    missing = missing - _set_by(it.pipeline(**{option.name: value}), it)
                except TstkError:
                    continue
    expect(not missing, f"provides {sorted(missing)}, but no setting of its options sets it in out")


def _set_by(pipeline: Pipeline, it: Subject) -> set[str]:
    part = it.part(pipeline)
    return {f.name for f in fields(Spec) if getattr(part.out, f.name) not in (None, False, 0, ())}


def repeats_itself(it: Subject) -> None:
    """The same seed gives the same weights, and the same draws the same numbers."""
    one, two = it.pipeline(), it.pipeline()
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        expect(bool(torch.equal(a, b)), f"{name} differs between two builds with one seed; draw weights from torch")
    for train in (False, True):
        totals = []
        for pipeline in (one, two):
            torch.manual_seed(0)
            totals.append(it.flow(pipeline.train(train)).total)
        a, b = totals
        assert a is not None
        assert b is not None
        close(a, b, f"two passes with one seed ({'training' if train else 'evaluation'}) differ", 1e-6)


def survives_a_checkpoint(it: Subject) -> None:
    """Saved and loaded into a pipeline of other weights, it says the same again."""
    one, two = it.pipeline(seed=0), it.assembled(seed=1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights.safetensors")
        try:
            save_weights(one, path)
        except RuntimeError as e:
            raise AssertionError(f"cannot be saved: {str(e).splitlines()[0]}; register what is shared once") from None
        try:
            two.load_state_dict(load_file(path))
        except RuntimeError as e:
            raise AssertionError(f"cannot be loaded again: {' '.join(str(e).split())}") from None
    two.bind()
    two.eval()
    # a teacher is made when the parts meet, not read from the file, so it does not count here
    if it.kind == "loss" and one.loss.transient:
        for (name, saved), loaded in zip(one.loss.named_parameters(), two.loss.parameters(), strict=True):
            close(loaded.detach(), saved.detach(), f"{name} after loading", 1e-6)
        return
    for a, b in zip(_answers(it, one), _answers(it, two), strict=True):
        close(b, a, "answers change when saved and loaded; keep what matters in parameters or buffers", 1e-6)


def _answers(it: Subject, pipeline: Pipeline) -> list[Tensor]:
    with torch.no_grad():
        flow = it.flow(pipeline)
    return [t for t in (flow.tokens.values, flow.decoded, flow.output, flow.total) if t is not None]


def learns(it: Subject) -> None:
    """Every parameter that may learn gets a finite gradient, and frozen ones none."""
    pipeline = it.pipeline().train()
    flow = it.flow(pipeline)
    assert flow.total is not None
    if not any(p.requires_grad for p in it.part(pipeline).parameters()):
        raise NotApplicable("it has no parameters")
    flow.total.backward()
    wrong = [line for line in faults(pipeline) if line.startswith(f"{it.kind}.")]
    expect(not wrong, "; ".join(wrong))


def moves_only_itself(it: Subject) -> None:
    """Forward changes no state, and `after_step` none but its own."""
    pipeline = it.pipeline().train()
    before = {k: v.clone() for k, v in pipeline.state_dict().items()}
    flow = it.flow(pipeline)
    moved = [k for k, v in it.part(pipeline).state_dict(prefix=f"{it.kind}.").items() if not _same(before[k], v)]
    expect(not moved, f"forward changed {', '.join(moved)}; state moves in after_step alone")
    with torch.no_grad():
        it.part(pipeline).after_step([flow])
    foreign = [
        k for k, v in pipeline.state_dict().items() if not k.startswith(f"{it.kind}.") and not _same(before[k], v)
    ]
    expect(not foreign, f"after_step changed {', '.join(foreign)}, which belong to other parts")


def _same(a: Tensor, b: Tensor) -> bool:
    return bool(((a == b) | (a.isnan() & b.isnan())).all()) if a.dtype.is_floating_point else bool(torch.equal(a, b))


def serves_one_series(it: Subject) -> None:
    """A series alone gets the answer that it gets in company, and padding changes nothing."""
    pipeline = it.pipeline()
    with torch.no_grad():
        together = it.flow(pipeline)
        for i in range(len(it.series.x)):
            alone = it.flow(pipeline, _alone(it.series, i, cut=it.spec.horizon is None))
            assert alone.total is not None
            expect(bool(alone.total.isfinite()), f"the loss of one series alone is {float(alone.total)}")
            if it.kind in ("tokenizer", "encoder", "head"):
                _compare(it, together, alone, i)


def _compare(it: Subject, together: Flow, alone: Flow, i: int) -> None:
    what = "changes with its companions or with padding"
    if it.kind == "head":
        assert together.output is not None
        assert alone.output is not None
        close(alone.output[0], together.output[i], f"{it.entry.name}: an answer {what}")
        return
    rows = len(together.tokens.values) // len(together.truth if together.truth is not None else together.series.x)
    for row in range(max(rows, 1)):  # a channel each, where channels are independent
        a, b = (f.tokens if it.kind == "tokenizer" else f.encoded for f in (alone, together))
        assert a is not None
        assert b is not None
        if it.kind == "encoder" and b.values.shape[0] != together.tokens.values.shape[0]:
            return
        mine, ours = a.valid[row], b.valid[i * rows + row]
        n = f"{it.entry.name}: which tokens are valid {what}"
        close(a.index[row][mine], b.index[i * rows + row][ours], n)
        close(a.values[row][mine], b.values[i * rows + row][ours], f"{it.entry.name}: a token {what}")


def _alone(series: Series, i: int, cut: bool) -> Series:
    """Row i, without its padding where the length may vary."""
    seen = series.mask[i].any(0).nonzero()
    end = int(seen.max()) + 1 if cut else series.x.shape[-1]
    y, key = series.y, series.key
    assert y is not None
    assert key is not None
    return Series(series.x[i : i + 1, :, :end], series.mask[i : i + 1, :, :end], y[i : i + 1], key[i : i + 1])
