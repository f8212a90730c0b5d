"""What is asked, what counts, and who learns."""

import pytest
import torch
from torch.nn import functional as F

from tstk.core.rng import Draws
from tstk.core.types import Series, Spec
from tstk.errors import NeedsError

SPEC = Spec(channels=2, length=40, classes=3)


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def test_three_quarters_are_hidden_and_all_are_asked(build, make):
    series = make()
    flow = build(SPEC)(series, Draws(0, 1, series.key))
    assert flow.tokens.index.shape[1] == 20
    assert flow.seen.values.shape[1] == 5
    assert flow.asked.values.shape[1] == 20
    assert (flow.hidden.sum(1) == 15).all()
    assert set(flow.terms) == {"spectrum", "time"}


def test_a_column_is_hidden_whole(build, make):
    series = make()
    flow = build(SPEC, loss={"policy": "column"})(series, Draws(0, 1, series.key))
    hidden = torch.zeros(3, 20, dtype=torch.bool).scatter(1, flow.asked.index, flow.hidden).unflatten(1, (5, 4))
    assert (hidden.all(2) == hidden.any(2)).all()
    assert (hidden.all(2).sum(1) == 3).all()


def test_the_image_term_is_the_mean_over_hidden_patches_alone(build, make):
    pipeline, series = build(SPEC), make()
    flow = pipeline(series, Draws(0, 1, series.key))
    pipeline.loss.reduce.weight.data.zero_()  # or the time term would move too
    before = pipeline.loss(flow)
    patches, _ = pipeline.loss.answers(flow)
    error = (patches - flow.asked.target).square().mean(2)
    close(before["spectrum"], (error * flow.hidden).sum() / flow.hidden.sum())
    noise = torch.randn_like(flow.decoded) * ~flow.hidden[..., None]
    flow.decoded = flow.decoded + noise
    close(pipeline.loss(flow)["spectrum"], before["spectrum"], 0)
    flow.decoded = flow.decoded + 1.0
    assert abs(pipeline.loss(flow)["spectrum"] - before["spectrum"]) > 1e-4


def test_the_time_term_reads_whole_columns_of_every_channel(build, make):
    pipeline, series = build(SPEC, loss={"time": 0.5}), make()
    flow = pipeline(series, Draws(0, 1, series.key))
    loss = pipeline.loss
    samples = torch.empty(3, 2, 40)
    for column in range(5):
        for channel in range(2):
            at = column * 4 + channel * 2
            states = flow.decoded[:, at : at + 2]  # [B, rows, D]
            mixed = torch.einsum("brd,odr->bo", states, loss.reduce.weight[..., 0]) + loss.reduce.bias
            samples[:, channel, column * 8 : column * 8 + 8] = loss.to_samples(F.gelu(mixed))
    close(loss.answers(flow)[1], samples)
    close(flow.terms["time"], 0.5 * (samples - series.x).square().mean())


def test_missing_samples_are_neither_seen_nor_counted(build, make):
    pipeline, series = build(SPEC), make()
    observed = torch.ones_like(series.x, dtype=torch.bool)
    observed[0, 1, 16:] = False
    observed[1, :, 20:] = False
    series = series.but(observed=observed, x=series.x * observed)
    flow = pipeline(series, Draws(0, 1, series.key))
    assert (flow.hidden.sum(1) == torch.tensor([10, 9, 15])).all()
    other = pipeline(series.but(x=series.x.masked_fill(~observed, 55.0)), Draws(0, 1, series.key))
    close(flow.total, other.total, 0)
    _, samples = pipeline.loss.answers(flow)
    close(flow.terms["time"], (samples - series.x).square()[observed].mean())


def test_a_batch_shorter_than_the_longest_series_is_marked_alike(build, make):
    pipeline, series = build(SPEC), make(length=24)
    long = Series(F.pad(series.x, (0, 16)), (torch.arange(40) < 24).expand(3, 2, 40), None, series.key)
    flow, other = (pipeline(s, Draws(0, 1, series.key)) for s in (series, long))
    for name in ("spectrum", "time"):
        close(flow.terms[name], other.terms[name])


def test_every_part_learns_from_both_terms(build, make):
    pipeline, series = build(SPEC), make()
    for term in ("spectrum", "time"):
        pipeline.zero_grad(set_to_none=True)
        pipeline(series, Draws(0, 1, series.key)).terms[term].backward()
        still = {n for n, p in pipeline.named_parameters() if p.grad is None or not p.grad.any()}
        others = ("loss.reduce", "loss.to_samples") if term == "spectrum" else ("loss.to_patch",)
        assert all(name.startswith(others) for name in still), still


def test_a_grid_without_scales_is_refused(build):
    with pytest.raises(NeedsError, match="such as --tokenizer cwt"):
        build(SPEC, tokenizer=None)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", [{"rope": "flat"}, {"positions": "sinusoidal"}])
@pytest.mark.parametrize("policy", ["random", "column"])
def test_the_loss_falls(build, make, encoder, policy):
    pipeline, series = build(SPEC, encoder=encoder, loss={"policy": policy}), make(batch=32)
    optimizer = torch.optim.AdamW(pipeline.parameters(), 3e-3)
    totals = []
    for step in range(60):
        flow = pipeline(series, Draws(0, step, series.key))
        flow.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        totals.append(flow.total.item())
    assert sum(totals[-5:]) < 0.85 * sum(totals[:5])
