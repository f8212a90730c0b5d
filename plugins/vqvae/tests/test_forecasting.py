"""Next-code prediction, and forecasting with codes by each of the losses and the head."""

import pytest
import torch
from tstk_plugins_vqvae.forecasting import uniform_to_gumbel

from tests.support.grids import slow_after
from tstk.config.resolve import resolve_config
from tstk.core.rng import SampleRNG
from tstk.core.types import Series, Spec
from tstk.errors import IncompatibleError, OptionError
from tstk.runs.build import build_pipeline

SPEC = Spec(channels=2, length=48, task="forecasting", horizon=16)
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


def build_small(spec=SPEC, seed=0, **tables):
    chosen = {k: dict(v) for k, v in SMALL.items()}
    for slot, given in tables.items():
        table = {"use": given} if isinstance(given, str) else given
        chosen[slot] = {**chosen.get(slot, {}), **table}
    if "head" not in chosen:
        chosen.setdefault("decoder", {"use": "linear"})
    torch.manual_seed(seed)
    pipeline = build_pipeline(resolve_config(("test", {**chosen, "data": {"horizon": spec.horizon}})), spec)
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


@pytest.mark.parametrize(("padding", "leaks"), [("published", True), ("causal", False), ("patch", False)])
def test_later_samples_influence_logits_with_published_padding_only(padding, leaks):
    pipeline = build_small(loss="next-code", tokenizer={"padding": padding}).eval()
    series = windows(8)
    x = torch.cat([series.x, series.y], -1)

    def logits(x):  # scaled by the context, which is left alone
        step_output = pipeline(
            Series(x[..., :48], None, x[..., 48:], series.sample_id), SampleRNG(0, 0, series.sample_id)
        )
        return step_output.predictions

    before = logits(x)
    changed = x.clone()
    changed[..., 52:] += torch.randn(changed[..., 52:].shape, generator=torch.Generator().manual_seed(1)).mul(3)
    moved = (logits(changed) != before).any(-1).any(0)
    assert bool(moved[:13].any()) == leaks  # positions 0-12 end at sample 52 or before
    assert moved[13:].any()


def test_the_loss_of_uniform_predictions_is_the_log_of_the_number_of_codes():
    pipeline = build_small(loss="next-code").eval()
    with torch.no_grad():
        pipeline.decoder.project.weight.zero_()
        pipeline.decoder.project.bias.zero_()
    series = windows()
    terms = pipeline(series, SampleRNG(0, 0, series.sample_id)).losses
    assert terms["next_code"].item() == pytest.approx(torch.tensor(16.0).log().item(), rel=1e-5)


def test_the_published_second_stage_has_its_parameters_and_a_frozen_tokenizer_leaves_the_rest():
    spec = Spec(channels=1, length=416, task="forecasting", horizon=96)
    published = resolve_config(
        (
            "test",
            {
                "tokenizer": {"use": "vqvae", "padding": "published", "update": "gradient"},
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
    pipeline = build_pipeline(published, spec)
    pipeline.freeze("tokenizer.decoder")
    assert sum(p.numel() for p in pipeline.parameters() if p.requires_grad) == 611_456
    pipeline.freeze("tokenizer")
    assert sum(p.numel() for p in pipeline.parameters() if p.requires_grad) == 611_456 - 156_288 - 16_384


# ------------------------------------------------------------------ the future


@pytest.mark.parametrize("method", FORECASTS)
@pytest.mark.parametrize("padding", ["published", "causal"])
def test_a_forecast_has_the_length_of_the_horizon_and_does_not_depend_on_the_future(method, padding):
    pipeline = build_small(**FORECASTS[method], tokenizer={"padding": padding}).eval()
    series = windows()
    forecast = pipeline.predict_batch(series)
    assert forecast.shape == (3, 2, 16)
    assert torch.equal(pipeline.predict_batch(series.replace(y=None)), forecast)
    assert torch.equal(pipeline.predict_batch(series.replace(y=series.y + 100)), forecast)
    assert not torch.equal(pipeline.predict_batch(series.replace(x=series.x.flip(-1))), forecast)


@pytest.mark.parametrize("method", FORECASTS)
@pytest.mark.parametrize(
    "spec",
    [Spec(2, 46, "forecasting", horizon=13), Spec(1, 9, "forecasting", horizon=30)],
)
def test_context_and_horizon_need_not_be_multiples_of_the_factor(method, spec):
    pipeline = build_small(spec, **FORECASTS[method])
    series = windows(1, spec)
    pipeline(series, SampleRNG(0, 0, series.sample_id)).loss.backward()
    assert pipeline.eval().predict_batch(series).shape == (1, spec.channels, spec.horizon)


@pytest.mark.parametrize("method", FORECASTS)
def test_a_forecast_follows_level_and_scale_of_its_context(method):
    pipeline = build_small(**FORECASTS[method]).eval()
    series = windows()
    forecast, moved = pipeline.predict_batch(series), pipeline.predict_batch(series.replace(x=3 * series.x + 50))
    torch.testing.assert_close(moved, 3 * forecast + 50, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("method", ["code-soft", "code-gumbel"])
def test_the_error_of_a_forecast_reaches_the_model_through_a_frozen_tokenizer(method):
    pipeline = build_small(**FORECASTS[method])
    pipeline.freeze("tokenizer")
    series = windows()
    step_output = pipeline.train()(series, SampleRNG(0, 1, series.sample_id))
    step_output.loss.backward()
    learns = {n for n, p in pipeline.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"loss.placeholder", "decoder.project.weight", "encoder.project.weight"} <= learns
    assert not any(n.startswith("tokenizer") for n in learns)
    assert {"mse", "commitment"} == step_output.losses.keys()
    torch.testing.assert_close(step_output.loss, step_output.losses["mse"])


def test_freezing_encoder_and_codebook_leaves_the_decoder_to_learn():
    pipeline = build_small(loss="code-soft", tokenizer={"update": "gradient"})
    pipeline.freeze("tokenizer.encoder")
    series = windows()
    pipeline.train()(series, SampleRNG(0, 1, series.sample_id)).loss.backward()
    grads = {n: p.grad is not None and bool(p.grad.any()) for n, p in pipeline.named_parameters()}
    assert grads["tokenizer.decoder.conv.weight"]
    assert grads["tokenizer.codebook.codes"]
    assert not any(g for n, g in grads.items() if n.startswith("tokenizer.encoder"))


def test_the_value_of_a_straight_through_forecast_is_of_whole_codes_and_its_gradient_of_the_mixture():
    pipeline = build_small(loss="code-gumbel")
    series = windows()
    step_output = pipeline.train()(series, SampleRNG(0, 1, series.sample_id))
    logits = step_output.predictions.detach()[:, 11:15].requires_grad_()
    queries = step_output.queries.map(lambda t: t[:, 11:15])
    weights = pipeline.loss.compute_code_weights(logits, queries)
    torch.testing.assert_close(weights.detach(), weights.detach().round())
    towards = torch.randn(weights.shape, generator=torch.Generator().manual_seed(0))
    (got,) = torch.autograd.grad((weights * towards).sum(), logits)
    soft = ((logits + queries.attrs["noise"]) / pipeline.loss.current_temperature).softmax(-1)
    (want,) = torch.autograd.grad((soft * towards).sum(), logits)
    torch.testing.assert_close(got, want)


def test_gumbel_noise_is_finite_for_whatever_is_drawn():
    ends = uniform_to_gumbel(torch.tensor([0.0, 2**-24, 0.5, 1 - 2**-24]))
    assert ends.isfinite().all()
    assert (ends.diff() > 0).all()
    noise = uniform_to_gumbel(SampleRNG(0, 0, torch.arange(64)).uniform(4096))
    assert abs(float(noise.mean()) - 0.5772) < 0.01  # Euler's constant
    assert abs(float(noise.var()) - torch.pi**2 / 6) < 0.02


def test_the_temperature_is_annealed_to_its_minimum():
    loss = build_small(loss={"use": "code-gumbel", "temperature": 1.0, "anneal": 0.5, "min_temperature": 0.2}).loss
    seen = []
    for _ in range(4):
        loss.after_step([])
        seen.append(round(float(loss.current_temperature), 3))
    assert seen == [0.5, 0.25, 0.2, 0.2]


# ------------------------------------------------------------------ code after code


def test_a_rollout_starts_as_teacher_forcing_does_and_takes_the_likeliest_codes():
    pipeline = build_small(loss="code-rollout").eval()
    series = windows()
    loss = pipeline.loss
    step_output = pipeline.predict_step(series)
    past = step_output.tokens.map(lambda t: t[:, :12])
    ids = loss.generate(loss.encode_context(past), 4, [])
    assert ids.shape == (6, 4)
    whole = past
    for k in range(4):  # everything encoded anew each time
        encoded = pipeline.encoder(whole)
        best = pipeline.decoder(encoded, encoded, pipeline.encoder.pos_embed)[:, -1].argmax(-1)
        assert torch.equal(best, ids[:, k])
        index = torch.full((6, 1), 12 + k)
        values = pipeline.tokenizer.embed(best)[:, None]
        more = type(past)(values, index[..., None].float(), index, torch.ones(6, 1).bool(), ids=best[:, None])
        whole = whole.cat(more)


@pytest.mark.parametrize("encoder", [{"positions": "learned"}, {"positions": "rotary"}])
@pytest.mark.parametrize("samples", [0, 5])
@pytest.mark.parametrize("horizon", slow_after(1, [16, 100]))
def test_the_cache_does_not_change_forecasts(encoder, samples, horizon):
    series = windows()
    kept, anew = (
        build_small(loss={"use": "code-rollout", "num_samples": samples, "cache": cache}, encoder=encoder).eval()
        for cache in (True, False)
    )
    torch.testing.assert_close(
        kept.predict_step(series, horizon).head_output, anew.predict_step(series, horizon).head_output
    )


@pytest.mark.slow
def test_a_rollout_goes_beyond_the_positions_that_the_encoder_has():
    pipeline = build_small(loss="code-rollout").eval()
    assert pipeline.encoder.table.shape[0] == 16
    series = windows()
    long = pipeline.predict_step(series, 200).head_output
    assert long.shape == (3, 2, 200)
    assert long.isfinite().all()
    past = pipeline.predict_step(series).tokens.map(lambda t: t[:, :12])
    few, many = (pipeline.loss.generate(pipeline.loss.encode_context(past), ahead, []) for ahead in (5, 50))
    assert torch.equal(many[:, :5], few)


def test_sampled_paths_differ_and_do_not_depend_on_the_batch_or_the_call():
    pipeline = build_small(loss={"use": "code-rollout", "num_samples": 6, "temperature": 2.0}).eval()
    series = windows()
    step_output = pipeline.predict_step(series)
    assert step_output.forecast_samples.shape == (6, 3, 2, 16)
    assert step_output.forecast_samples.std(0).max() > 0
    torch.testing.assert_close(step_output.head_output, step_output.forecast_samples.mean(0))
    torch.testing.assert_close(pipeline.predict_step(series).forecast_samples, step_output.forecast_samples)
    last = Series(series.x[2:], None, series.y[2:], series.sample_id[2:])
    torch.testing.assert_close(pipeline.predict_step(last).forecast_samples, step_output.forecast_samples[:, 2:])


def test_top_one_is_greedy_and_a_low_temperature_nearly():
    series = windows()
    greedy = build_small(loss="code-rollout").eval().predict_batch(series)
    for options in ({"top_k": 1}, {"temperature": 1e-4}):
        sampled = build_small(loss={"use": "code-rollout", "num_samples": 2, **options}).eval().predict_batch(series)
        torch.testing.assert_close(sampled, greedy)


def test_a_horizon_beyond_that_of_training_is_an_error():
    series = windows()
    for method in ("code-soft", "code-forecast"):
        with pytest.raises(OptionError, match="--horizon 40"):
            build_small(**FORECASTS[method]).eval().predict_step(series, 40)


def test_forecasting_with_codes_needs_codes_and_a_decoder():
    with pytest.raises(IncompatibleError, match="vocab"):
        build_pipeline(
            resolve_config(("t", {"tokenizer": "patch", "loss": "code-soft", "data": {"horizon": 16}})), SPEC
        )
    with pytest.raises(IncompatibleError, match="horizon"):
        build_small(Spec(channels=1, length=48, task="classification", num_outputs=2), loss="code-rollout")
