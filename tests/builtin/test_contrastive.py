"""The contrastive loss: views, gaps and values."""

import numpy as np
import pytest
import torch

from tstk.builtin.losses.contrastive import Contrastive, random_resized_crop
from tstk.core.rng import SampleRNG
from tstk.core.types import Series, Spec, StepOutput, Tokens
from tstk.errors import IncompatibleError, OptionError
from tstk.runs.build import build_component
from tstk.testing.fixture import make_series

SPEC = Spec(channels=2, length=24, dim=8)
BATCH = make_series(Spec(channels=2, length=24))


def make_rng(step=1, key=BATCH.sample_id):
    return SampleRNG(0, step, key)


def test_the_views_of_a_batch_are_stacked_and_differ():
    views = Contrastive(SPEC).make_views(BATCH, make_rng())
    assert views.x.shape == (6, 2, 24)
    assert views.sample_id.unique().numel() == 6
    one, two = views.x.chunk(2)
    assert not torch.equal(one, two)
    assert not torch.equal(Contrastive(SPEC).make_views(BATCH, make_rng(2)).x, views.x)


def test_a_view_without_crop_and_jitter_is_the_series():
    found = Contrastive(SPEC, crop=0.0).make_views(BATCH, make_rng())
    torch.testing.assert_close(found.x, BATCH.x.repeat(2, 1, 1))
    assert torch.equal(found.observed, BATCH.observed.repeat(2, 1, 1))


def test_a_crop_is_a_stretch_of_the_series_resized_to_its_length():
    line = torch.arange(24.0).expand(50, 1, 24)
    key = torch.arange(50)
    x, observed = random_resized_crop(Series(line, sample_id=key), 0.5, SampleRNG(0, 1, key))
    steps = x.diff(dim=2)
    torch.testing.assert_close(steps, steps[..., :1].expand_as(steps), rtol=0, atol=1e-4)
    assert observed is None
    assert (steps >= 0.5 - 1e-5).all()
    assert (steps <= 1 + 1e-5).all()
    assert steps.max() - steps.min() > 0.4
    assert x.min() >= 0
    assert x.max() <= 23


@pytest.mark.parametrize("jitter", [0.0, 0.3])
def test_a_view_depends_on_neither_its_batch_nor_padding(jitter):
    loss = Contrastive(SPEC, jitter=jitter)
    together = loss.make_views(BATCH, make_rng()).x[2::3]
    short = int(BATCH.observed[2].any(0).sum())
    alone = Series(BATCH.x[2:, :, :short], BATCH.observed[2:, :, :short], sample_id=BATCH.sample_id[2:])
    found = loss.make_views(alone, make_rng(key=alone.sample_id)).x
    torch.testing.assert_close(found, together[..., :short], rtol=0, atol=1e-5)
    assert not together[..., short:].any()


def test_what_is_unobserved_is_zero_in_a_view_and_gaps_remain():
    views = Contrastive(SPEC, jitter=0.3).make_views(BATCH, make_rng())
    assert not views.x[~views.observed].any()
    assert (~views.observed[1::3]).sum() > 4
    spoilt = Series(torch.where(BATCH.observed, BATCH.x, 99.0), BATCH.observed, sample_id=BATCH.sample_id)
    again = Contrastive(SPEC, jitter=0.3).make_views(spoilt, make_rng())
    torch.testing.assert_close(again.x, views.x)


def flow_of(values, valid):
    tokens = Tokens(values, torch.zeros(*valid.shape, 1), torch.zeros_like(valid, dtype=torch.long), valid)
    return StepOutput(BATCH, tokens, tokens, tokens, valid, encoded=tokens)


def test_the_loss_is_the_cross_entropy_of_similarities_from_both_sides():
    draw = torch.Generator().manual_seed(0)
    values, valid = torch.randn(8, 5, 8, generator=draw), torch.rand(8, 5, generator=draw) < 0.7
    valid[1] = False  # the first view of the second series is empty, so that series does not count
    loss = Contrastive(SPEC, temperature=0.2)
    step_output = flow_of(values, valid)
    actual = float(loss(step_output)["contrastive"].detach())
    pooled = torch.stack([v[w].mean(0) if w.any() else v[0] * 0 for v, w in zip(values, valid, strict=True)])
    z = loss.project(pooled).detach().double().numpy()
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    one, two = z[[0, 2, 3]], z[[4, 6, 7]]
    terms = []
    for a, b in ((one, two), (two, one)):
        for i in range(3):
            p = np.exp(b @ a[i] / 0.2)
            terms.append(-np.log(p[i] / p.sum()))
    assert actual == pytest.approx(np.mean(terms), rel=1e-4)
    assert 0 <= float(step_output.metrics["agreement"]) <= 1


def test_hidden_tokens_are_not_seen(pipelines):
    pipeline = pipelines("patch", loss={"use": "contrastive", "ratio": 0.5})
    step_output = pipeline(BATCH, make_rng())
    assert (
        step_output.visible.valid.sum(1) == step_output.tokens.valid.sum(1) - step_output.tokens.valid.sum(1) // 2
    ).all()
    assert not torch.equal(
        step_output.visible.grid_index[0], step_output.visible.grid_index[3]
    )  # each view hides its own


def test_views_repeat_with_the_draws_and_serve_independent_channels(pipelines):
    pipeline = pipelines("resampled", channels="independent")
    one, two, other = (pipeline(BATCH, make_rng(step)) for step in (1, 1, 2))
    assert one.encoded.values.shape[0] == 2 * 3 * 2
    assert torch.equal(one.loss, two.loss)
    assert not torch.equal(one.loss, other.loss)
    one.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in pipeline.parameters())


def test_it_takes_neither_decoder_nor_head():
    import tstk

    for slot in ("head", "decoder"):
        with pytest.raises(IncompatibleError, match=f"output of the encoder, so --{slot} linear would have no use"):
            tstk.build(
                spec=Spec(2, 24, "classification", 3),
                loss="contrastive",
                **{slot: "linear"},
            )


@pytest.mark.parametrize("options", [{"crop": 1.0}, {"ratio": -0.1}, {"temperature": 0.0}, {"jitter": -1.0}], ids=str)
def test_options_that_cannot_work_are_refused(options):
    with pytest.raises(OptionError, match=f"loss.{next(iter(options))}"):
        build_component("loss", "contrastive", SPEC, **options)
