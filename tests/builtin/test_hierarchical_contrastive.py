"""Tokens of two overlapping crops are told from those of other series and other times."""

import numpy as np
import pytest
import torch

from tstk.builtin.losses.hierarchical_contrastive import HierarchicalContrastive, draw_overlapping_crops
from tstk.core.rng import SampleRNG
from tstk.core.types import Series, Spec, StepOutput, Tokens
from tstk.errors import IncompatibleError, OptionError
from tstk.runs.build import build_component
from tstk.testing.fixture import make_series

SPEC = Spec(channels=2, length=24, dim=4, grid_size=(6, 2), stride=4.0)
BATCH = make_series(Spec(channels=2, length=24))


def rng(step=1, key=BATCH.sample_id):
    return SampleRNG(0, step, key)


def test_crops_overlap_by_the_smallest_share_and_stay_in_the_series():
    lengths = torch.arange(1, 201)
    (a, b), (c, d) = draw_overlapping_crops(lengths, 0.4, SampleRNG(0, 1, lengths))
    assert (a >= 0).all()
    assert (a <= c).all()
    assert (c < b).all()
    assert (b <= d).all()
    assert (d <= lengths).all()
    assert (b - c >= 0.6 * lengths - 1e-3).all()
    assert ((b - c)[100:] < 0.8 * lengths[100:]).any()
    assert (a < c).any()
    assert (d > b).any()


def test_views_keep_their_place_and_hide_samples_of_their_own():
    series = Series(torch.randn(40, 2, 50), sample_id=torch.arange(40))
    views = HierarchicalContrastive(SPEC, hide=0.3).make_views(series, rng(key=series.sample_id))
    assert views.x.shape == (80, 2, 50)
    assert torch.equal(views.x, series.x.repeat(2, 1, 1) * views.observed)
    assert torch.equal(views.observed[:, 0], views.observed[:, 1])  # all channels at once
    first, second = views.observed.chunk(2)
    assert not torch.equal(first, second)
    assert 0.3 < float(views.observed.float().mean()) < 0.7
    whole = HierarchicalContrastive(SPEC, crop=0.0, hide=0.0).make_views(series, rng(key=series.sample_id))
    assert whole.observed.all()


def test_a_view_depends_on_neither_its_batch_nor_padding():
    loss = HierarchicalContrastive(SPEC)
    together = loss.make_views(BATCH, rng()).x[2::3]
    short = int(BATCH.observed[2].any(0).sum())
    alone = Series(BATCH.x[2:, :, :short], BATCH.observed[2:, :, :short], sample_id=BATCH.sample_id[2:])
    views = loss.make_views(alone, rng(key=alone.sample_id)).x
    assert torch.equal(views, together[..., :short])
    assert not together[..., short:].any()


def step_output_of(values, valid):
    """Two views of tokens on the grid of `SPEC`, in a random order."""
    index = torch.randperm(12, generator=torch.Generator().manual_seed(4)).expand(valid.shape)
    tokens = Tokens(values, torch.zeros(*valid.shape, 2), torch.arange(12).expand(valid.shape), valid).gather(index)
    return StepOutput(BATCH, tokens, tokens, tokens, tokens.valid, encoded=tokens)


def slow_loss(z, valid):
    """(instance, temporal) of z [2, B, T, D] by equations 1 and 2, in plain loops over one of the other axes."""
    sums = []
    while True:
        batch, length = valid.shape
        terms = {"instance": [], "temporal": []}
        for i in range(batch):
            for t in range(length):
                if not valid[i, t]:
                    continue
                for v in (0, 1):
                    others = {
                        "instance": [(j, t) for j in range(batch) if valid[j, t]],
                        "temporal": [(i, s) for s in range(length) if valid[i, s]],
                    }
                    for name, places in others.items():
                        total = sum(np.exp(z[v, i, t] @ z[1 - v, j, s]) for j, s in places)
                        total += sum(np.exp(z[v, i, t] @ z[v, j, s]) for j, s in places if (j, s) != (i, t))
                        terms[name].append(np.log(total) - z[0, i, t] @ z[1, i, t])
        sums.append((terms["instance"], terms["temporal"] if length > 1 else []))
        if length == 1:
            return sums
        pairs = [list(range(s, min(s + 2, length))) for s in range(0, length, 2)]
        pooled = np.zeros((2, batch, len(pairs), z.shape[3]))
        for i in range(batch):
            for k, pair in enumerate(pairs):
                if kept := [s for s in pair if valid[i, s]]:
                    pooled[:, i, k] = z[:, i, kept].max(1)
        z, valid = pooled, np.stack([valid[:, pair].any(1) for pair in pairs], 1)


@pytest.mark.parametrize("temporal", [0.5, 0.25])
def test_the_loss_is_that_of_plain_loops_over_series_times_and_resolutions(temporal):
    generator = torch.Generator().manual_seed(0)
    values, valid = torch.randn(6, 12, 4, generator=generator), torch.rand(6, 12, generator=generator) < 0.8
    valid[1] = False  # the first view of the second series is empty, so that series does not count
    losses = HierarchicalContrastive(SPEC, temporal=temporal)(step_output_of(values, valid))
    z = values.double().numpy().reshape(2, 3, 6, 2, 4)
    both = valid.reshape(2, 3, 6, 2).all(0).numpy()
    levels = zip(*(slow_loss(z[:, :, :, axis], both[:, :, axis]) for axis in (0, 1)), strict=True)
    means = [[np.mean(a + b) if a + b else 0.0 for a, b in zip(*level, strict=True)] for level in levels]
    assert len(means) == 4  # 6, 3, 2 and 1 tokens
    assert float(losses["instance"]) == pytest.approx((1 - temporal) * sum(m[0] for m in means) / 4, rel=1e-5)
    assert float(losses["temporal"]) == pytest.approx(temporal * sum(m[1] for m in means) / 4, rel=1e-5)


def test_the_order_of_time_counts():
    values = torch.randn(3, 12, 4, generator=torch.Generator().manual_seed(1)).repeat(2, 1, 1)
    loss, valid = HierarchicalContrastive(SPEC), torch.ones(6, 12, dtype=torch.bool)
    aligned = loss(step_output_of(values, valid))
    swapped = values.clone()
    swapped[3:] = swapped[3:].flip(1)
    reversed_view = loss(step_output_of(swapped, valid))
    assert all(float(reversed_view[name]) > float(aligned[name]) + 0.1 for name in ("instance", "temporal"))


def test_gradients_are_finite_and_reach_only_tokens_that_both_views_have():
    generator = torch.Generator().manual_seed(2)
    values = (30 * torch.randn(6, 12, 4, generator=generator)).requires_grad_()
    valid = torch.rand(6, 12, generator=generator) < 0.7
    valid[:, :4] = False  # whole pairs of tokens are invalid
    sum(HierarchicalContrastive(SPEC)(step_output_of(values, valid)).values()).backward()
    both = valid.reshape(2, 3, 12).all(0).repeat(2, 1)
    assert values.grad.isfinite().all()
    assert not values.grad[~both].any()
    assert values.grad[both].any()


@pytest.mark.slow
@pytest.mark.parametrize("channels", ["mixed", "independent"])
def test_a_few_steps_of_training_lower_both_losses(pipelines, channels):
    options = {"use": "hierarchical-contrastive", "crop": 0.3, "hide": 0.1}
    pipeline = pipelines("patch", loss=options, channels=channels).train()
    series = Series(torch.randn(8, 2, 24, generator=torch.Generator().manual_seed(0)).cumsum(-1))
    series.sample_id = torch.arange(8)
    history = []
    for step in range(40):
        step_output = pipeline(series, rng(step, series.sample_id))
        gradients = torch.autograd.grad(step_output.loss, [p for p in pipeline.parameters() if p.requires_grad])
        with torch.no_grad():
            for parameter, gradient in zip(pipeline.parameters(), gradients, strict=True):
                parameter -= 0.01 * gradient.sign()
        history.append({name: float(value.detach()) for name, value in step_output.losses.items()})
    for name in ("instance", "temporal"):
        early, late = (np.mean([row[name] for row in rows]) for rows in (history[:8], history[-8:]))
        assert late < 0.85 * early, (name, early, late)


def test_tokens_that_are_not_laid_out_in_time_are_refused(pipelines):
    with pytest.raises(IncompatibleError, match="needs tokens at regular positions in time"):
        pipelines("resampled", loss={"use": "hierarchical-contrastive"})


@pytest.mark.parametrize("options", [{"crop": 1.0}, {"hide": -0.1}, {"temporal": 2.0}], ids=str)
def test_options_that_cannot_work_are_refused(options):
    with pytest.raises(OptionError, match=f"loss.{next(iter(options))}"):
        build_component("loss", "hierarchical-contrastive", SPEC, **options)
