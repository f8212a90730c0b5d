"""Every encoder with every head learns classes that differ only in the order of patches, from scratch and after every
pretraining.

A series has eight patches: one rises and one falls, the others are noise. In one class the rise is in the first half
and the fall in the second, in the other class it is the other way round; both hold the same patches equally often.
"""

import pytest
import torch

from tstk.config.resolve import resolve_config
from tstk.core.rng import SampleRNG
from tstk.core.types import Series, Spec
from tstk.errors import IncompatibleError, TstkError
from tstk.evaluation.token_order import evaluate_token_order
from tstk.plugins.registry import get_registry
from tstk.plugins.signature import read_signature
from tstk.runs.build import build_pipeline
from tstk.training.dry_run import compute_pos_embed_ratio

PATCH, PATCHES = 4, 8
SPEC = Spec(channels=1, length=PATCH * PATCHES, task="classification", num_outputs=2)
SMALL = {"dim": 32, "depth": 1, "heads": 2, "hidden": 64}
STEPS, BATCH, LR = 100, 32, 5e-3

ORDER_FREE = {
    ("encoder", "identity"): "it leaves tokens as they are, without positions; heads that pool them see what occurs",
    ("head", "histogram"): "it counts codes",
}
"""Components that do not see the order of tokens by design, with the reason."""

ORDERED_BY_OTHER_MEANS = ("identity", "patchtsmixer", "chronos-bolt")
"""Encoders that add no positions: one without any, one that mixes tokens by their places, one with relative ones."""

SMALL_POSITIONS = {"patchtst": 0.1}
"""Encoders with smaller fixed positions, as published -> the least ratio; the test of order shows that they see it."""

PRETRAINING = {
    "timemae": {"encoder": "timemae", "decoder": "timemae"},
    "next-code": {
        "tokenizer": {"use": "vqvae", "codes": 32, "dim": 32, "hidden": 32, "res_hidden": 16, "padding": "patch"},
        "encoder": {"use": "transformer", "causal": True},
    },
    "spectrum+time": {"tokenizer": {"use": "cwt", "dim": 32, "patch_time": PATCH, "patch_freq": 4, "scales": 8}},
}
"""Components for a loss that does not work with patches, a Transformer and its default decoder."""

NO_PRETRAINING = {
    "distill": "needs the run of a teacher",
    "consistent": "needs texts beside the series",
    "code-rollout": "forecasts",
    "code-soft": "forecasts",
    "code-gumbel": "forecasts",
}
"""Losses that consume predictions but do not pretrain a classifier of plain series, with the reason."""


def batch(count, seed):
    """Return series of alternating classes."""
    draw = torch.Generator().manual_seed(seed)
    x = 0.3 * torch.randn(count, PATCHES, PATCH, generator=draw)
    y = torch.arange(count) % 2
    rise = torch.linspace(-1.5, 1.5, PATCH)
    half = PATCHES // 2
    rows, early, late = torch.arange(count), *torch.randint(half, (2, count), generator=draw)
    x[rows, torch.where(y == 0, early, half + late)] += rise
    x[rows, torch.where(y == 0, half + late, early)] -= rise
    return Series(x.reshape(count, 1, -1), y=y, sample_id=seed * count + torch.arange(count))


def small_table(kind, name, /, **more):
    """Return the table of a component with small sizes and defaults otherwise."""
    options = read_signature(get_registry().find(kind, name).target).options
    sizes = {k: v for k, v in SMALL.items() if k in options and not options[k].is_component}
    return {"use": name, **(sizes if kind != "tokenizer" else {}), **more}


def built(**tables):
    """Return a bound pipeline, on patches by default."""
    torch.manual_seed(0)
    tables = {"tokenizer": {"use": "patch", "dim": 32, "window": PATCH}, **tables}
    for kind, table in tables.items():
        table = {"use": table} if isinstance(table, str) else table
        tables[kind] = small_table(kind, table["use"], **table)
    pipeline = build_pipeline(resolve_config(("test", tables)), SPEC)
    pipeline.bind()
    return pipeline


def train_steps(pipeline, steps=STEPS):
    """Train for some steps on new series; return the pipeline in eval mode."""
    optimizer = torch.optim.AdamW([p for p in pipeline.parameters() if p.requires_grad], lr=LR)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
    pipeline.train()
    for step in range(steps):
        series = batch(BATCH, seed=step)
        step_output = pipeline(series, SampleRNG(0, step, series.sample_id))
        optimizer.zero_grad()
        step_output.loss.backward()
        torch.nn.utils.clip_grad_norm_(pipeline.parameters(), 1.0)
        optimizer.step()
        rates.step()
        pipeline.after_step([step_output])
    return pipeline.eval()


def load_parts(pipeline, parts, freeze=False):
    """Load the weights of components into a pipeline."""
    for name, part in parts.items():
        getattr(pipeline, name).load_pretrained(part.state_dict(), part.spec)
        if freeze:
            pipeline.freeze(name)
    return pipeline


def score_order(pipeline):
    """Score new series, with their tokens in order and shuffled."""
    return evaluate_token_order(pipeline, [batch(256, seed=10_000)])


def names(kind):
    """Yield the components of a kind whose dependencies are installed."""
    for name in get_registry().list_names(kind):
        try:
            get_registry().load(get_registry().find(kind, name))
        except TstkError:
            continue
        yield name


def classifiers():
    """Yield the heads that classify."""
    for name in names("head"):
        if "class" in get_registry().load(get_registry().find("head", name)).target_types:
            yield name


def losses():
    """Return the losses that consume a decoder's predictions."""
    needing_decoder = [
        name for name in names("loss") if get_registry().load(get_registry().find("loss", name)).consumes == "decoder"
    ]
    return [name for name in needing_decoder if name not in NO_PRETRAINING]


def check(encoder, head):
    try:
        pipeline = built(encoder=encoder, head=head)
    except IncompatibleError:
        if ("head", head) in ORDER_FREE:
            return
        raise
    result = score_order(train_steps(pipeline))
    if {("encoder", encoder), ("head", head)} & ORDER_FREE.keys():
        assert result.accuracy < 0.65, f"{encoder} with {head} is called order-free: {result.summary}"
    else:
        assert result.accuracy > 0.9, f"{encoder} with {head}: {result.summary}"
        assert result.shuffled < 0.65, f"{encoder} with {head}: {result.summary}"
        assert result.uses_order


@pytest.mark.slow
@pytest.mark.parametrize(("encoder", "head"), [("transformer", "linear"), ("bert", "cot"), ("identity", "linear")])
def test_the_default_classifiers_solve_a_task_that_depends_on_order_alone(encoder, head):
    check(encoder, head)


@pytest.mark.slow
@pytest.mark.parametrize("head", list(classifiers()))
@pytest.mark.parametrize("encoder", list(names("encoder")))
def test_every_encoder_with_every_head_solves_a_task_that_depends_on_order_alone(encoder, head):
    check(encoder, head)


@pytest.mark.slow
@pytest.mark.parametrize("loss", losses())
def test_order_is_still_found_after_every_pretraining(loss):
    part = get_registry().load(get_registry().find("loss", loss))
    tables = {"encoder": "transformer", **PRETRAINING.get(loss, {})}
    learnt = {}
    if "vocab_size" in part.needs:  # codes are learnt first, and then stay
        pytest.importorskip("tstk_plugins_vqvae")
        coder = built(tokenizer=tables["tokenizer"], encoder="identity", loss="reconstruct", decoder="own")
        learnt["tokenizer"] = train_steps(coder).tokenizer
    before = train_steps(
        load_parts(built(**{"decoder": part.default_decoder, **tables}, loss=loss), learnt, freeze=True)
    )
    parts = {kind: tables[kind] for kind in ("tokenizer", "encoder") if kind in tables}
    learnt = {"tokenizer": before.tokenizer, "encoder": before.encoder}
    pipeline = load_parts(built(head="linear", **parts), learnt)
    result = score_order(train_steps(pipeline))
    assert result.accuracy > 0.9, f"after {loss}: {result.summary}"
    assert result.uses_order


@pytest.mark.parametrize("encoder", list(names("encoder")))
def test_positions_start_as_large_as_the_tokens_beside_them(encoder):
    pipeline = built(encoder=encoder, head="linear")
    tokens = pipeline.tokenize(batch(32, seed=0)).tokens
    ratio = compute_pos_embed_ratio(pipeline.encoder, tokens)
    if encoder in ORDERED_BY_OTHER_MEANS:
        assert ratio is None
    else:
        assert SMALL_POSITIONS.get(encoder, 0.3) < ratio < 3
