"""Checks that apply to the components of all slots."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import fields, is_dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from tstk.core import interfaces
from tstk.core.pipeline import Pipeline
from tstk.core.task import get_task
from tstk.core.types import Series, Spec, StepOutput
from tstk.errors import TstkError
from tstk.plugins.registry import get_registry
from tstk.plugins.signature import read_signature
from tstk.runs.checkpoint import save_weights
from tstk.testing.assertions import NotApplicable, assert_close, expect
from tstk.testing.entries import load_subclass
from tstk.testing.fixture import ComponentFixture
from tstk.training.dry_run import find_gradient_faults

_DECLARED_FIELDS = {"tokenizer": ("target_dim", "vocab_size", "stride"), "encoder": ("causal", "num_prefix_tokens")}
"""Spec fields that a tokenizer or encoder must list in `provides` if it sets them."""


def is_of_its_slot(fixture: ComponentFixture) -> None:
    """Check that the target is a subclass of the slot's interface."""
    name = fixture.kind.capitalize()
    load_subclass(fixture.entry, getattr(interfaces, name), f"tstk.{name}")


def documents_its_options(fixture: ComponentFixture) -> None:
    """Check that the constructor takes a Spec and keyword-only options, each documented in `Args:`."""
    signature = read_signature(fixture.entry.target)
    expect(bool(signature.doc), f"{fixture.entry.target} has no docstring")
    undocumented = [o.name for o in signature.options.values() if not o.help]
    expect(not undocumented, f"no line in the docstring's Args: for the options {', '.join(undocumented)}")
    parameters = list(inspect.signature(get_registry().load(fixture.entry)).parameters.values())
    positional = [p.name for p in parameters[1:] if p.kind is not p.KEYWORD_ONLY]
    expect(
        bool(parameters) and not positional,
        f"the constructor takes ({', '.join(map(str, parameters))}); expected (spec, *, ...): a Spec, then "
        "keyword-only options",
    )


def has_declared_shapes(fixture: ComponentFixture) -> None:
    """Check that outputs have the shapes declared by `out`."""
    pipeline = fixture.build_pipeline()
    step_output, component = fixture.run_step(pipeline), fixture.get_component(pipeline)
    name = fixture.entry.name
    if fixture.kind == "tokenizer":
        return  # run_step has checked the tokens
    if fixture.kind == "encoder":
        _expect_encoder_shapes(name, component, step_output)
    elif fixture.kind == "decoder":
        assert step_output.predictions is not None
        expected = [*step_output.queries.grid_index.shape, component.out.dim]
        if component.predicts_series:
            expected = list(step_output.series.x.shape)
        actual = list(step_output.predictions.shape)
        expect(actual == expected, f"{name}: predictions are {actual}; expected {expected}")
    elif fixture.kind == "head":
        assert step_output.head_output is not None
        spec = fixture.spec
        per_series: tuple[int | None, ...] = (
            (spec.num_outputs,) if spec.horizon is None else (spec.channels, spec.horizon)
        )
        if spec.task is not None and get_task(spec.task).target_type == "sample-class":
            per_series = (spec.num_outputs, spec.length)
        expected, actual = [len(fixture.series.x), *per_series], list(step_output.head_output.shape)
        expect(actual == expected, f"{name}: the output is {actual}; expected {expected}")
    else:
        losses = component(step_output)
        expect(isinstance(losses, dict) and bool(losses), f"{name}: {losses!r}; expected a dict of named scalars")
        wrong = {k: list(v.shape) for k, v in losses.items() if v.ndim or not v.isfinite()}
        expect(not wrong, f"{name}: losses {wrong}; expected finite scalars")


def _expect_encoder_shapes(name: str, encoder: interfaces.Encoder, step_output: StepOutput) -> None:
    encoded, out = step_output.encoded, encoder.out
    assert encoded is not None
    try:
        encoded.replace(target=None, target_mask=None).check(out.replace(vocab_size=None), name)
    except ValueError as e:
        raise AssertionError(str(e)) from None
    actual = list(encoder.pos_embed(step_output.visible).shape)
    expected = [*step_output.visible.grid_index.shape, out.dim]
    expect(actual == expected, f"{name}: pos_embed returns {actual}; expected {expected}, [B, N, out.dim]")
    num_prefix = 0 if encoded.prefix is None else encoded.prefix.shape[1]
    expect(
        num_prefix == out.num_prefix_tokens,
        f"{name}: {num_prefix} prefix tokens; expected out.num_prefix_tokens = {out.num_prefix_tokens}",
    )


def provides_as_declared(fixture: ComponentFixture) -> None:
    """Check that `provides` lists every field set by default, and only fields that some option value sets."""
    known = {f.name for f in fields(Spec)}
    unknown = fixture.entry.provides - known
    expect(not unknown, f"provides {sorted(unknown)}, which are no fields of Spec: {', '.join(sorted(known))}")
    if fixture.kind not in _DECLARED_FIELDS:
        expect(
            not fixture.entry.provides,
            f"provides {sorted(fixture.entry.provides)}; only tokenizers and encoders provide fields",
        )
        return
    default = _list_set_fields(fixture.build_pipeline(), fixture)
    undeclared = default & set(_DECLARED_FIELDS[fixture.kind]) - fixture.entry.provides
    expect(not undeclared, f"sets {sorted(undeclared)}, which provides does not list; add it")
    missing = fixture.entry.provides - default
    for option in read_signature(fixture.entry.target).options.values():
        for value in (not option.default,) if option.type == "bool" else option.choices:
            if missing:
                try:
                    missing = missing - _list_set_fields(fixture.build_pipeline(**{option.name: value}), fixture)
                except TstkError:
                    continue
    expect(not missing, f"provides {sorted(missing)}, but no option value sets it in out")


def _list_set_fields(pipeline: Pipeline, fixture: ComponentFixture) -> set[str]:
    component = fixture.get_component(pipeline)
    return {f.name for f in fields(Spec) if getattr(component.out, f.name) not in (None, False, 0, ())}


def is_reproducible(fixture: ComponentFixture) -> None:
    """Check that the same seed gives the same weights and the same loss."""
    first, second = fixture.build_pipeline(), fixture.build_pipeline()
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        expect(
            bool(torch.equal(a, b)),
            f"{name} differs between two builds with the same seed; initialize weights with torch's generator",
        )
    for train in (False, True):
        losses = []
        for pipeline in (first, second):
            torch.manual_seed(0)
            losses.append(fixture.run_step(pipeline.train(train)).loss)
        a, b = losses
        assert a is not None
        assert b is not None
        assert_close(
            a, b, f"two forward passes with the same seed ({'training' if train else 'evaluation'}) differ", 1e-6
        )


def survives_save_and_load(fixture: ComponentFixture) -> None:
    """Check that outputs are unchanged after saving and loading into a pipeline with other weights."""
    original, restored = fixture.build_pipeline(seed=0), fixture.build_unbound_pipeline(seed=1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights.safetensors")
        try:
            save_weights(original, path)
        except RuntimeError as e:
            raise AssertionError(f"cannot be saved: {str(e).splitlines()[0]}; register shared tensors once") from None
        try:
            restored.load_state_dict(load_file(path))
        except RuntimeError as e:
            raise AssertionError(f"cannot be loaded again: {' '.join(str(e).split())}") from None
    restored.bind()
    restored.eval()
    # non-persistent modules, such as an EMA teacher, are created by bind() and not loaded: compare parameters only
    if fixture.kind == "loss" and original.loss.non_persistent:
        for (name, saved), loaded in zip(original.loss.named_parameters(), restored.loss.parameters(), strict=True):
            assert_close(loaded.detach(), saved.detach(), f"{name} after loading", 1e-6)
        return
    for a, b in zip(_collect_outputs(fixture, original), _collect_outputs(fixture, restored), strict=True):
        assert_close(b, a, "outputs change after saving and loading; keep all state in parameters or buffers", 1e-6)


def _collect_outputs(fixture: ComponentFixture, pipeline: Pipeline) -> list[Tensor]:
    with torch.no_grad():
        step_output = fixture.run_step(pipeline)
    return [
        t
        for t in (step_output.tokens.values, step_output.predictions, step_output.head_output, step_output.loss)
        if t is not None
    ]


def has_finite_gradients(fixture: ComponentFixture) -> None:
    """Check that trainable parameters get finite gradients, and frozen ones none."""
    pipeline = fixture.build_pipeline().train()
    step_output = fixture.run_step(pipeline)
    assert step_output.loss is not None
    if not any(p.requires_grad for p in fixture.get_component(pipeline).parameters()):
        raise NotApplicable("it has no parameters")
    step_output.loss.backward()
    wrong = [line for line in find_gradient_faults(pipeline) if line.startswith(f"{fixture.kind}.")]
    expect(not wrong, "; ".join(wrong))


def changes_only_its_own_state(fixture: ComponentFixture) -> None:
    """Check that `forward` changes no state, and `after_step` only that of its own component."""
    pipeline = fixture.build_pipeline().train()
    before = {k: v.clone() for k, v in pipeline.state_dict().items()}
    step_output = fixture.run_step(pipeline)
    changed = [
        k
        for k, v in fixture.get_component(pipeline).state_dict(prefix=f"{fixture.kind}.").items()
        if not _is_equal(before[k], v)
    ]
    expect(not changed, f"forward changed {', '.join(changed)}; change state in after_step only")
    with torch.no_grad():
        fixture.get_component(pipeline).after_step([step_output])
    foreign = [
        k
        for k, v in pipeline.state_dict().items()
        if not k.startswith(f"{fixture.kind}.") and not _is_equal(before[k], v)
    ]
    expect(not foreign, f"after_step changed {', '.join(foreign)}, which belong to other components")


def keeps_no_graph(fixture: ComponentFixture) -> None:
    """Check that no module keeps a tensor with a graph of gradients after a step, and that the pipeline can be copied.

    Such a tensor breaks copies of the pipeline, and the second backward pass through it.
    """
    pipeline = fixture.build_pipeline().train()
    step_output = fixture.run_step(pipeline)
    assert step_output.loss is not None
    if step_output.loss.requires_grad:
        step_output.loss.backward()
    with torch.no_grad():
        pipeline.after_step([step_output])
    names = list(iter_tensors_with_graph(fixture.get_component(pipeline)))
    expect(
        not names,
        f"after a step, {', '.join(names)} {'is' if len(names) == 1 else 'are'} part of a graph of gradients; pass "
        "results on instead of keeping them, and compute what is kept under torch.no_grad()",
    )
    deepcopy(pipeline)


def iter_tensors_with_graph(module: torch.nn.Module) -> Iterator[str]:
    """Iterate over the names of tensors that modules keep, in attributes or containers, and that have a graph."""
    for path, submodule in module.named_modules():
        attributes = {**vars(submodule), **submodule._parameters, **submodule._buffers}
        for name, value in attributes.items():
            if any(t.grad_fn is not None for t in _iter_tensors(value)):
                yield f"{path}.{name}".lstrip(".")


def _iter_tensors(value: object) -> Iterator[Tensor]:
    """Iterate over a tensor, or the tensors in a container and in the fields of a record."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _iter_tensors(item)
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from _iter_tensors(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _iter_tensors(getattr(value, field.name))


def _is_equal(a: Tensor, b: Tensor) -> bool:
    return bool(((a == b) | (a.isnan() & b.isnan())).all()) if a.dtype.is_floating_point else bool(torch.equal(a, b))


def is_independent_of_batch(fixture: ComponentFixture) -> None:
    """Check that outputs for a series do not depend on the other series of the batch, nor on padding."""
    pipeline = fixture.build_pipeline()
    with torch.no_grad():
        batched = fixture.run_step(pipeline)
        for i in range(len(fixture.series.x)):
            single = fixture.run_step(
                pipeline, _select_series(fixture.series, i, trim_padding=fixture.spec.horizon is None)
            )
            assert single.loss is not None
            expect(bool(single.loss.isfinite()), f"the loss of a single series is {float(single.loss)}")
            if fixture.kind in ("tokenizer", "encoder", "head"):
                _expect_equal_outputs(fixture, batched, single, i)


def _expect_equal_outputs(fixture: ComponentFixture, batched: StepOutput, single: StepOutput, i: int) -> None:
    problem = "changes with the rest of the batch or with padding"
    if fixture.kind == "head":
        assert batched.head_output is not None
        assert single.head_output is not None
        assert_close(single.head_output[0], batched.head_output[i], f"{fixture.entry.name}: the output {problem}")
        return
    rows = len(batched.tokens.values) // len(batched.targets if batched.targets is not None else batched.series.x)
    for row in range(max(rows, 1)):  # one row per channel if channels are independent
        a, b = (f.tokens if fixture.kind == "tokenizer" else f.encoded for f in (single, batched))
        assert a is not None
        assert b is not None
        if fixture.kind == "encoder" and b.values.shape[0] != batched.tokens.values.shape[0]:
            return
        valid_single, valid_batched = a.valid[row], b.valid[i * rows + row]
        message = f"{fixture.entry.name}: the set of valid tokens {problem}"
        assert_close(a.grid_index[row][valid_single], b.grid_index[i * rows + row][valid_batched], message)
        assert_close(
            a.values[row][valid_single],
            b.values[i * rows + row][valid_batched],
            f"{fixture.entry.name}: a token {problem}",
        )


def _select_series(series: Series, i: int, trim_padding: bool) -> Series:
    """Return series i, without its padding if `trim_padding`."""
    observed = series.observed_mask[i].any(0).nonzero()
    end = int(observed.max()) + 1 if trim_padding else series.x.shape[-1]
    y, sample_id = series.y, series.sample_id
    assert y is not None
    assert sample_id is not None
    return Series(
        series.x[i : i + 1, :, :end], series.observed_mask[i : i + 1, :, :end], y[i : i + 1], sample_id[i : i + 1]
    )
