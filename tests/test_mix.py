"""Every combination of what is installed either trains one step or is refused, with a reason, before any data flow."""

import os
from itertools import product
from random import Random

import pytest
import torch

from tstk.config.resolve import resolve_config
from tstk.core.rng import SampleRNG
from tstk.errors import IncompatibleError, OptionError, TstkError
from tstk.plugins.registry import get_registry
from tstk.plugins.signature import read_signature
from tstk.runs.build import build_pipeline, validate_on_meta
from tstk.testing.fixture import make_series

SMALL = {"dim": 16, "depth": 1, "heads": 2, "hidden": 32, "out_dim": 16}
VARIANTS = {
    ("encoder", "transformer"): [{}, {"causal": True}, {"cls": True}],
    ("encoder", "bert"): [{}, {"cls": True}],
    ("head", "linear"): [{}, {"pool": "cls"}, {"pool": "flatten"}],
    ("loss", "masked"): [{}, {"policy": "tail"}, {"num_masks": 2}],
}


OWN = ("tstk", "made-up")
SAMPLE = 100


def choices(kind):
    """A table for every component of a kind that can be loaded, made small, in each of its variants."""
    for name in get_registry().list_names(kind):
        entry = get_registry().find(kind, name)
        try:
            get_registry().load(entry)
        except TstkError:
            if entry.dist in OWN:
                raise
            continue
        options = read_signature(entry.target).options
        sizes = {k: v for k, v in SMALL.items() if k in options and not options[k].is_component}
        for variant in VARIANTS.get((kind, name), [{}]):
            yield {"use": name, **sizes, **variant}


def combinations(every):
    """Tables of all combinations of core components, and of some (TSTK_MIX=all: all) of those with plugins.

    Args:
        every: False takes a sample of the core's combinations too
    """
    own, foreign = [], []
    for tokenizer, encoder, loss in product(choices("tokenizer"), choices("encoder"), choices("loss")):
        slot = read_signature(get_registry().find("loss", loss["use"]).target).class_attrs["consumes"]
        for answer in [{}] if slot == "encoder" else [{slot: table} for table in choices(slot)]:
            tables = {"tokenizer": tokenizer, "encoder": encoder, "loss": loss, **answer}
            dists = {get_registry().find(kind, table["use"]).dist for kind, table in tables.items()}
            (own if dists <= set(OWN) else foreign).append(tables)
    if os.environ.get("TSTK_MIX") == "all":
        return own + foreign
    return (own if every else sample_combinations(own)) + sample_combinations(foreign)


def sample_combinations(combinations):
    """Return a fixed sample of the combinations."""
    return combinations if len(combinations) <= SAMPLE else Random(0).sample(combinations, SAMPLE)


def step(pipeline, series):
    """Train one step; return what went wrong, or ''."""
    optimizer = torch.optim.AdamW([p for p in pipeline.parameters() if p.requires_grad], lr=1e-3)
    step_output = pipeline.train()(series, SampleRNG(0, 1, series.sample_id))
    if not step_output.loss.isfinite():
        return f"the loss is {float(step_output.loss)}"
    step_output.loss.backward()
    grads = {n: p.grad for n, p in pipeline.named_parameters() if p.requires_grad}
    non_finite = [n for n, g in grads.items() if g is not None and not g.isfinite().all()]
    if non_finite:
        return f"no finite gradient: {non_finite}"
    if all(g is None or not g.any() for g in grads.values()):
        return "no gradient at all"
    optimizer.step()
    pipeline.after_step([step_output])
    return ""


def afterwards(pipeline, series):
    """Evaluate, save and load a trained pipeline; return what went wrong, or ''."""
    pipeline.eval()
    with torch.no_grad():
        outputs = {
            "loss": pipeline(series, SampleRNG(0, 0, series.sample_id)).loss,
            "embedding": pipeline.embed_batch(series),
        }
        if pipeline.head is not None or pipeline.can_forecast:
            outputs["prediction"] = pipeline.predict_batch(series)
            spec = pipeline.spec
            want = (spec.num_outputs,) if spec.horizon is None else (spec.channels, spec.horizon)
            if outputs["prediction"].shape[1:] != want:
                return f"a prediction of shape {list(outputs['prediction'].shape)}"
    return ", ".join(f"{name} is not finite" for name, value in outputs.items() if not value.isfinite().all())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "channels", "usual"),
    [
        ("classification", "mixed", True),
        ("classification", "independent", False),
        ("forecasting", "independent", True),
        ("forecasting", "mixed", False),
        ("regression", "mixed", False),
        ("multilabel", "independent", False),
    ],
)
def test_every_combination_trains_or_is_refused_at_once(
    task, channels, usual, labelled_spec, table_spec, ragged, windows, syllables
):
    spec, series = (labelled_spec, ragged()) if task == "classification" else (table_spec, windows())
    if task in ("regression", "multilabel"):
        spec = labelled_spec.replace(task=task)
        series = make_series(spec)
    failures, refusals, worked, trained = [], [], set(), 0
    for tables in combinations(every=usual):
        torch.manual_seed(0)
        try:
            config = resolve_config(
                ("test", {**tables, "data": {"horizon": spec.horizon}, "pipeline": {"channels": channels}})
            )
            validate_on_meta(config)
            pipeline = build_pipeline(config, spec, channels=channels)
            pipeline.bind()
        except (IncompatibleError, OptionError) as refusal:
            refusals.append(str(refusal))
            continue
        if not any(p.requires_grad for p in pipeline.parameters()):
            continue
        try:
            wrong = step(pipeline, series) or afterwards(pipeline, series)
        except Exception as error:
            wrong = f"{type(error).__name__}: {error}"
        if wrong:
            failures.append(f"{tables}: {wrong}")
        else:
            trained += 1
            worked |= {(kind, table["use"]) for kind, table in tables.items()}
    print(f"{task}, {channels}: {trained} combinations trained, {len(refusals)} refused")
    assert not failures, "\n".join([f"{len(failures)} of {trained + len(failures)} failed", *failures[:10]])
    assert all(reason and "\n" not in reason for reason in refusals)
    own = {(e.kind, e.name) for e in get_registry().list_entries() if e.dist in OWN}
    missing = {(kind, name) for kind, name in own - worked if kind in ("tokenizer", "encoder", "decoder")}
    assert not (missing and usual), f"never trained: {missing}"


@pytest.mark.slow
def test_every_head_and_loss_trains_with_something(build, labelled_spec, table_spec, ragged, windows, syllables):
    worked = set()
    for kind in ("head", "loss"):
        for table in choices(kind):
            per_series = [labelled_spec.replace(task=task) for task in ("regression", "multilabel", "segmentation")]
            with_targets = [(spec, make_series(spec)) for spec in per_series]
            for spec, series in ((labelled_spec, ragged()), (table_spec, windows()), *with_targets):
                for more in ({}, {"tokenizer": syllables, "encoder": {"use": "transformer", "causal": True}}):
                    try:
                        pipeline = build(spec, **{kind: table}, **more)
                    except (IncompatibleError, OptionError):
                        continue
                    assert step(pipeline, series) == ""
                    worked.add((kind, table["use"]))
    assert worked >= {
        (e.kind, e.name) for k in ("head", "loss") for e in get_registry().list_entries(k) if e.dist in OWN
    }
