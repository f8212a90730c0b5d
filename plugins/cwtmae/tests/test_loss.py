"""The loss: its queries, its values, and its gradients."""

import pytest
import torch
from torch.nn import functional as F

from tstk.core.rng import SampleRNG
from tstk.core.types import Series, Spec
from tstk.errors import IncompatibleError

SPEC = Spec(channels=2, length=40, task="classification", num_outputs=3)


def assert_close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def test_three_quarters_are_masked_and_all_tokens_are_queries(build, make):
    series = make()
    step_output = build(SPEC)(series, SampleRNG(0, 1, series.sample_id))
    assert step_output.tokens.grid_index.shape[1] == 20
    assert step_output.visible.values.shape[1] == 5
    assert step_output.queries.values.shape[1] == 20
    assert (step_output.masked.sum(1) == 15).all()
    assert set(step_output.losses) == {"spectrum", "time"}


def test_columns_are_masked_as_a_whole(build, make):
    series = make()
    step_output = build(SPEC, loss={"policy": "column"})(series, SampleRNG(0, 1, series.sample_id))
    masked = (
        torch.zeros(3, 20, dtype=torch.bool)
        .scatter(1, step_output.queries.grid_index, step_output.masked)
        .unflatten(1, (5, 4))
    )
    assert (masked.all(2) == masked.any(2)).all()
    assert (masked.all(2).sum(1) == 3).all()


def test_the_spectrum_loss_is_the_mean_over_masked_patches_only(build, make):
    pipeline, series = build(SPEC), make()
    step_output = pipeline(series, SampleRNG(0, 1, series.sample_id))
    pipeline.loss.scale_conv.weight.data.zero_()  # or the time term would move too
    before = pipeline.loss(step_output)
    patches, _ = pipeline.loss.reconstruct(step_output)
    error = (patches - step_output.queries.target).square().mean(2)
    assert_close(before["spectrum"], (error * step_output.masked).sum() / step_output.masked.sum())
    noise = torch.randn_like(step_output.predictions) * ~step_output.masked[..., None]
    step_output.predictions = step_output.predictions + noise
    assert_close(pipeline.loss(step_output)["spectrum"], before["spectrum"], 0)
    step_output.predictions = step_output.predictions + 1.0
    assert abs(pipeline.loss(step_output)["spectrum"] - before["spectrum"]) > 1e-4


def test_the_time_term_reads_whole_columns_of_every_channel(build, make):
    pipeline, series = build(SPEC, loss={"time": 0.5}), make()
    step_output = pipeline(series, SampleRNG(0, 1, series.sample_id))
    loss = pipeline.loss
    samples = torch.empty(3, 2, 40)
    for column in range(5):
        for channel in range(2):
            at = column * 4 + channel * 2
            states = step_output.predictions[:, at : at + 2]  # [B, rows, D]
            mixed = torch.einsum("brd,odr->bo", states, loss.scale_conv.weight[..., 0]) + loss.scale_conv.bias
            samples[:, channel, column * 8 : column * 8 + 8] = loss.to_samples(F.gelu(mixed))
    assert_close(loss.reconstruct(step_output)[1], samples)
    assert_close(step_output.losses["time"], 0.5 * (samples - series.x).square().mean())


def test_missing_samples_are_neither_seen_nor_counted(build, make):
    pipeline, series = build(SPEC), make()
    observed = torch.ones_like(series.x, dtype=torch.bool)
    observed[0, 1, 16:] = False
    observed[1, :, 20:] = False
    series = series.replace(observed=observed, x=series.x * observed)
    step_output = pipeline(series, SampleRNG(0, 1, series.sample_id))
    assert (step_output.masked.sum(1) == torch.tensor([10, 9, 15])).all()
    other = pipeline(series.replace(x=series.x.masked_fill(~observed, 55.0)), SampleRNG(0, 1, series.sample_id))
    assert_close(step_output.loss, other.loss, 0)
    _, samples = pipeline.loss.reconstruct(step_output)
    assert_close(step_output.losses["time"], (samples - series.x).square()[observed].mean())


def test_a_batch_shorter_than_the_longest_series_is_marked_alike(build, make):
    pipeline, series = build(SPEC), make(length=24)
    long = Series(F.pad(series.x, (0, 16)), (torch.arange(40) < 24).expand(3, 2, 40), None, series.sample_id)
    step_output, other = (pipeline(s, SampleRNG(0, 1, series.sample_id)) for s in (series, long))
    for name in ("spectrum", "time"):
        assert_close(step_output.losses[name], other.losses[name])


def test_every_part_learns_from_both_terms(build, make):
    pipeline, series = build(SPEC), make()
    for term in ("spectrum", "time"):
        pipeline.zero_grad(set_to_none=True)
        pipeline(series, SampleRNG(0, 1, series.sample_id)).losses[term].backward()
        still = {n for n, p in pipeline.named_parameters() if p.grad is None or not p.grad.any()}
        others = ("loss.scale_conv", "loss.to_samples") if term == "spectrum" else ("loss.to_patch",)
        assert all(name.startswith(others) for name in still), still


def test_a_grid_without_scales_is_refused(build):
    with pytest.raises(IncompatibleError, match="such as --tokenizer cwt"):
        build(SPEC, tokenizer=None)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", [{"rope": "flat"}, {"positions": "sinusoidal"}])
@pytest.mark.parametrize("policy", ["random", "column"])
def test_the_loss_falls(build, make, encoder, policy):
    pipeline, series = build(SPEC, encoder=encoder, loss={"policy": policy}), make(batch=32)
    optimizer = torch.optim.AdamW(pipeline.parameters(), 3e-3)
    totals = []
    for step in range(60):
        step_output = pipeline(series, SampleRNG(0, step, series.sample_id))
        step_output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        totals.append(step_output.loss.item())
    assert sum(totals[-5:]) < 0.85 * sum(totals[:5])


def test_missing_samples_do_not_enter_the_mean_and_deviation_of_a_series(build, make):
    pipeline, series = build(SPEC, loss={"z_score": True}), make()
    observed = torch.ones_like(series.x, dtype=torch.bool)
    observed[0, 1, 16:] = False
    observed[1, :, 20:] = False
    losses = []
    for filler in (0.0, 55.0):
        x = series.x.masked_fill(~observed, filler)
        step_output = pipeline(series.replace(x=x, observed=observed), SampleRNG(0, 1, series.sample_id))
        losses.append(step_output.losses["time"])
    assert_close(*losses, 0)
    _, samples = pipeline.loss.reconstruct(step_output)
    errors = []
    for b in range(3):
        for c in range(2):
            where = observed[b, c]
            x = series.x[b, c, where]
            errors.append((samples[b, c, : len(where)][where] - (x - x.mean()) / x.std()).square())
    assert_close(losses[0], torch.cat(errors).mean())
