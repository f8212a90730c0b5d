"""What is learnt over codes knows nothing of the future, and goes on into it in each of the ways there are."""

import pytest
import torch
from tstk_plugins_vqvae.rollout import gumbel

from tstk.config.resolve import resolve
from tstk.core.rng import Draws
from tstk.core.types import Series, Spec
from tstk.errors import NeedsError, OptionError
from tstk.runs.build import assemble

SPEC = Spec(channels=2, length=48, horizon=16)
SMALL = {
    "tokenizer": {"use": "vqvae", "codes": 16, "dim": 8, "hidden": 16, "res_hidden": 8},
    "encoder": {"use": "transformer", "dim": 16, "depth": 2, "heads": 2, "hidden": 32, "causal": True, "dropout": 0.0},
}
FORECASTS = {
    "code-rollout": {"loss": "code-rollout"},
    "code-soft": {"loss": "code-soft"},
    "code-gumbel": {"loss": "code-gumbel"},
    "code-forecast": {"loss": "forecast", "head": "code-forecast"},
}


def built(spec=SPEC, seed=0, **tables):
    chosen = {k: dict(v) for k, v in SMALL.items()}
    for slot, given in tables.items():
        table = {"use": given} if isinstance(given, str) else given
        chosen[slot] = {**chosen.get(slot, {}), **table}
    if "head" not in chosen:
        chosen.setdefault("decoder", {"use": "linear"})
    torch.manual_seed(seed)
    pipeline = assemble(resolve(("test", {**chosen, "data": {"horizon": spec.horizon}})), spec)
    with torch.no_grad():  # codes that lie where vectors do, so that small changes change them
        pipeline.tokenizer.codebook.codes.normal_(0, 0.1)
        for parameter in pipeline.tokenizer.encoder.parameters():
            parameter.mul_(1.5)
    pipeline.bind()
    return pipeline


def windows(batch=3, spec=SPEC, seed=0, **options):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, spec.channels, spec.length + spec.horizon, generator=draw).cumsum(-1)
    return Series(x[..., : spec.length], None, x[..., spec.length :], torch.arange(batch), **options)


# ------------------------------------------------------------------ the next code


@pytest.mark.parametrize(("look", "leaks"), [("published", True), ("causal", False), ("patch", False)])
def test_samples_after_a_position_change_its_logits_only_under_the_published_look(look, leaks):
    pipeline = built(loss="next-code", tokenizer={"look": look}).eval()
    series = windows(8)
    x = torch.cat([series.x, series.y], -1)

    def logits(x):  # scaled by the context, which is left alone
        flow = pipeline(Series(x[..., :48], None, x[..., 48:], series.key), Draws(0, 0, series.key))
        return flow.decoded

    before = logits(x)
    changed = x.clone()
    changed[..., 52:] += torch.randn(changed[..., 52:].shape, generator=torch.Generator().manual_seed(1)).mul(3)
    moved = (logits(changed) != before).any(-1).any(0)
    assert bool(moved[:13].any()) == leaks  # positions 0-12 end at sample 52 or before
    assert moved[13:].any()


def test_an_untrained_model_is_as_surprised_as_chance():
    pipeline = built(loss="next-code").eval()
    with torch.no_grad():
        pipeline.decoder.project.weight.zero_()
        pipeline.decoder.project.bias.zero_()
    series = windows()
    terms = pipeline(series, Draws(0, 0, series.key)).terms
    assert terms["next_code"].item() == pytest.approx(torch.tensor(16.0).log().item(), rel=1e-5)


def test_the_published_second_stage_has_its_parameters_and_a_frozen_tokenizer_leaves_the_rest():
    spec = Spec(channels=1, length=416, horizon=96)
    published = resolve(
        (
            "test",
            {
                "tokenizer": {"use": "vqvae", "look": "published", "update": "gradient"},
                "encoder": {
                    "use": "transformer",
                    "dim": 128,
                    "depth": 3,
                    "heads": 8,
                    "hidden": 256,
                    "norm": "post",
                    "positions": "sinusoidal",
                    "causal": True,
                },
                "loss": "next-code",
                "decoder": "linear",
                "data": {"horizon": 96},
            },
        )
    )
    pipeline = assemble(published, spec)
    pipeline.freeze("tokenizer.decoder")
    assert sum(p.numel() for p in pipeline.parameters() if p.requires_grad) == 611_456
    pipeline.freeze("tokenizer")
    assert sum(p.numel() for p in pipeline.parameters() if p.requires_grad) == 611_456 - 156_288 - 16_384


# ------------------------------------------------------------------ the future


@pytest.mark.parametrize("way", FORECASTS)
@pytest.mark.parametrize("look", ["published", "causal"])
def test_a_forecast_is_of_the_horizon_and_does_not_know_the_future(way, look):
    pipeline = built(**FORECASTS[way], tokenizer={"look": look}).eval()
    series = windows()
    said = pipeline.predict(series)
    assert said.shape == (3, 2, 16)
    assert torch.equal(pipeline.predict(series.but(y=None)), said)
    assert torch.equal(pipeline.predict(series.but(y=series.y + 100)), said)
    assert not torch.equal(pipeline.predict(series.but(x=series.x.flip(-1))), said)


@pytest.mark.parametrize("way", FORECASTS)
@pytest.mark.parametrize("spec", [Spec(channels=2, length=46, horizon=13), Spec(channels=1, length=9, horizon=30)])
def test_context_and_horizon_need_not_be_multiples_of_the_factor(way, spec):
    pipeline = built(spec, **FORECASTS[way])
    series = windows(1, spec)
    pipeline(series, Draws(0, 0, series.key)).total.backward()
    assert pipeline.eval().predict(series).shape == (1, spec.channels, spec.horizon)


@pytest.mark.parametrize("way", FORECASTS)
def test_a_forecast_follows_level_and_scale_of_its_context(way):
    pipeline = built(**FORECASTS[way]).eval()
    series = windows()
    said, moved = pipeline.predict(series), pipeline.predict(series.but(x=3 * series.x + 50))
    torch.testing.assert_close(moved, 3 * said + 50, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("way", ["code-soft", "code-gumbel"])
def test_the_error_of_a_forecast_reaches_the_model_through_a_frozen_tokenizer(way):
    pipeline = built(**FORECASTS[way])
    pipeline.freeze("tokenizer")
    series = windows()
    flow = pipeline.train()(series, Draws(0, 1, series.key))
    flow.total.backward()
    learns = {n for n, p in pipeline.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"loss.placeholder", "decoder.project.weight", "encoder.project.weight"} <= learns
    assert not any(n.startswith("tokenizer") for n in learns)
    assert {"mse", "commitment"} == flow.terms.keys()
    torch.testing.assert_close(flow.total, flow.terms["mse"])


def test_freezing_encoder_and_codebook_leaves_the_decoder_to_learn():
    pipeline = built(loss="code-soft", tokenizer={"update": "gradient"})
    pipeline.freeze("tokenizer.encoder")
    series = windows()
    pipeline.train()(series, Draws(0, 1, series.key)).total.backward()
    grads = {n: p.grad is not None and bool(p.grad.any()) for n, p in pipeline.named_parameters()}
    assert grads["tokenizer.decoder.conv.weight"]
    assert grads["tokenizer.codebook.codes"]
    assert not any(g for n, g in grads.items() if n.startswith("tokenizer.encoder"))


def test_the_value_of_a_straight_through_forecast_is_of_whole_codes_and_its_gradient_of_the_mixture():
    pipeline = built(loss="code-gumbel")
    series = windows()
    flow = pipeline.train()(series, Draws(0, 1, series.key))
    logits = flow.decoded.detach()[:, 11:15].requires_grad_()
    asked = flow.asked.map(lambda t: t[:, 11:15])
    shares = pipeline.loss.shares(logits, asked)
    torch.testing.assert_close(shares.detach(), shares.detach().round())
    towards = torch.randn(shares.shape, generator=torch.Generator().manual_seed(0))
    (got,) = torch.autograd.grad((shares * towards).sum(), logits)
    soft = ((logits + asked.attrs["noise"]) / pipeline.loss.heat).softmax(-1)
    (want,) = torch.autograd.grad((soft * towards).sum(), logits)
    torch.testing.assert_close(got, want)


def test_gumbel_noise_is_finite_for_whatever_is_drawn():
    ends = gumbel(torch.tensor([0.0, 2**-24, 0.5, 1 - 2**-24]))
    assert ends.isfinite().all()
    assert (ends.diff() > 0).all()
    noise = gumbel(Draws(0, 0, torch.arange(64)).uniform(4096))
    assert abs(float(noise.mean()) - 0.5772) < 0.01  # Euler's constant
    assert abs(float(noise.var()) - torch.pi**2 / 6) < 0.02


def test_gumbel_noise_cools_to_its_end():
    loss = built(loss={"use": "code-gumbel", "temperature": 1.0, "cooling": 0.5, "coldest": 0.2}).loss
    seen = []
    for _ in range(4):
        loss.after_step([])
        seen.append(round(float(loss.heat), 3))
    assert seen == [0.5, 0.25, 0.2, 0.2]


# ------------------------------------------------------------------ code after code


def test_a_rollout_starts_as_teacher_forcing_does_and_takes_the_likeliest_codes():
    pipeline = built(loss="code-rollout").eval()
    series = windows()
    loss = pipeline.loss
    flow = pipeline.answer(series)
    past = flow.tokens.map(lambda t: t[:, :12])
    ids = loss.continued(loss.begun(past), 4, [])
    assert ids.shape == (6, 4)
    whole = past
    for k in range(4):  # everything encoded anew each time
        encoded = pipeline.encoder(whole)
        best = pipeline.decoder(encoded, encoded, pipeline.encoder.place)[:, -1].argmax(-1)
        assert torch.equal(best, ids[:, k])
        index = torch.full((6, 1), 12 + k)
        values = pipeline.tokenizer.embed(best)[:, None]
        more = type(past)(values, index[..., None].float(), index, torch.ones(6, 1).bool(), ids=best[:, None])
        whole = whole.append(more)


@pytest.mark.parametrize("encoder", [{"positions": "learned"}, {"positions": "rotary"}])
@pytest.mark.parametrize("samples", [0, 5])
@pytest.mark.parametrize("horizon", [16, 100])
def test_keys_and_values_kept_change_nothing(encoder, samples, horizon):
    series = windows()
    kept, anew = (
        built(loss={"use": "code-rollout", "samples": samples, "cache": cache}, encoder=encoder).eval()
        for cache in (True, False)
    )
    torch.testing.assert_close(kept.answer(series, horizon).output, anew.answer(series, horizon).output)


def test_a_rollout_goes_beyond_the_positions_that_the_encoder_has():
    pipeline = built(loss="code-rollout").eval()
    assert pipeline.encoder.table.shape[0] == 16
    series = windows()
    long = pipeline.answer(series, 200).output
    assert long.shape == (3, 2, 200)
    assert long.isfinite().all()
    past = pipeline.answer(series).tokens.map(lambda t: t[:, :12])
    few, many = (pipeline.loss.continued(pipeline.loss.begun(past), ahead, []) for ahead in (5, 50))
    assert torch.equal(many[:, :5], few)


def test_drawn_paths_differ_and_are_the_same_in_any_company_and_at_every_call():
    pipeline = built(loss={"use": "code-rollout", "samples": 6, "temperature": 2.0}).eval()
    series = windows()
    flow = pipeline.answer(series)
    assert flow.futures.shape == (6, 3, 2, 16)
    assert flow.futures.std(0).max() > 0
    torch.testing.assert_close(flow.output, flow.futures.mean(0))
    torch.testing.assert_close(pipeline.answer(series).futures, flow.futures)
    last = Series(series.x[2:], None, series.y[2:], series.key[2:])
    torch.testing.assert_close(pipeline.answer(last).futures, flow.futures[:, 2:])


def test_top_one_is_greedy_and_a_low_temperature_nearly():
    series = windows()
    greedy = built(loss="code-rollout").eval().predict(series)
    for options in ({"top_k": 1}, {"temperature": 1e-4}):
        drawn = built(loss={"use": "code-rollout", "samples": 2, **options}).eval().predict(series)
        torch.testing.assert_close(drawn, greedy)


def test_ways_that_cannot_look_further_say_so():
    series = windows()
    for way in ("code-soft", "code-forecast"):
        with pytest.raises(OptionError, match="--horizon 40"):
            built(**FORECASTS[way]).eval().answer(series, 40)


def test_forecasting_with_codes_needs_codes_and_a_decoder():
    with pytest.raises(NeedsError, match="vocab"):
        assemble(resolve(("t", {"tokenizer": "patch", "loss": "code-soft", "data": {"horizon": 16}})), SPEC)
    with pytest.raises(NeedsError, match="horizon"):
        built(Spec(channels=1, length=48, classes=2), loss="code-rollout")
