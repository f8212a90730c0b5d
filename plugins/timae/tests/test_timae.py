"""Point tokens, masking after the encoder, and Ti-MAE as a whole: information leaks and parameter counts."""

import pytest
import torch
from tstk_plugins_timae.mamba2 import Mamba2
from tstk_plugins_timae.masked_latent import MaskedLatent
from tstk_plugins_timae.point import Point

from tstk.builtin.encoders.transformer import Transformer
from tstk.config.resolve import find_config, resolve_config
from tstk.config.toml import read_toml
from tstk.core.rng import SampleRNG
from tstk.core.types import Series, Spec
from tstk.errors import OptionError
from tstk.plugins.registry import get_registry
from tstk.runs.build import build_pipeline, validate_on_meta

CONFIGS = ["pretrain", "published", "finetune", "forecast", "forecast-head", "mamba", "mamba-published", "cross"]
SPEC = Spec(channels=2, length=30)


def batch(spec=SPEC, size=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, spec.channels, spec.length, generator=generator)
    observed = torch.ones_like(x, dtype=torch.bool)
    observed[0, :, 20:] = False
    observed[1, 0, 4:9] = False
    y = None
    if spec.horizon:
        y = torch.randn(size, spec.channels, spec.horizon, generator=generator)
    elif spec.num_outputs:
        y = torch.arange(size) % spec.num_outputs
    return Series(x * observed, observed, y, torch.arange(size))


def pipeline_of(name, spec, **changes):
    config = resolve_config((name, read_toml(find_config(f"timae/{name}"))), ("flag", changes))
    wiring = {k: v for k, v in config.options("pipeline").items() if k in ("channels", "instance_norm")}
    torch.manual_seed(0)
    pipeline = build_pipeline(config, spec, **wiring)
    pipeline.bind()
    return pipeline.eval()


# ---------------------------------------------------------------- point tokens


def test_there_is_a_token_per_sample_and_inversion_is_exact():
    tokenizer, series = Point(SPEC, dim=5), batch()
    tokens = tokenizer(series).check(tokenizer.out)
    assert torch.equal(tokenizer.targets_to_series(tokens.target, 30), series.x)
    assert torch.equal(tokens.valid, series.observed_mask.any(1))
    assert torch.equal(tokens.target_mask, series.observed_mask.transpose(1, 2))
    assert torch.equal(tokens.end_positions(tokenizer.out)[0], torch.arange(1.0, 31))


def test_a_token_is_the_weighted_sum_of_its_sample_and_its_neighbours():
    tokenizer, series = Point(SPEC, dim=5), batch()
    values = tokenizer(series).values
    weight, bias = tokenizer.conv.weight, tokenizer.conv.bias
    padded = torch.nn.functional.pad(series.x, (1, 1))
    for t in (0, 7, 29):
        expected = torch.einsum("dck,bck->bd", weight, padded[:, :, t : t + 3]) + bias
        torch.testing.assert_close(values[:, t], expected)


def test_padding_a_series_does_not_change_its_tokens():
    tokenizer, series = Point(SPEC, dim=5), batch()
    short = tokenizer(Series(series.x[:1, :, :20]))
    torch.testing.assert_close(tokenizer(series).values[:1, :20], short.values)


def test_an_even_kernel_is_refused():
    with pytest.raises(OptionError, match="kernel=4"):
        Point(SPEC, kernel=4)


# ---------------------------------------------------------------- masks after the encoder


def test_the_encoder_receives_all_tokens_and_the_decoder_those_that_are_not_queries():
    tokenizer = Point(SPEC, dim=5)
    loss = MaskedLatent(tokenizer.out, ratio=0.75, num_masks=3)
    tokens = tokenizer(batch())
    visible, queries = loss.split(tokens, SampleRNG(0, 0, torch.arange(3)))
    context = loss.decoder_context(visible, queries)
    assert torch.equal(visible.valid, tokens.valid)
    assert len(queries.grid_index) == len(context.grid_index) == 9
    for i in range(9):
        shown, masked = (set(t.grid_index[i, t.valid[i]].tolist()) for t in (context, queries))
        valid = set(tokens.grid_index[i % 3, tokens.valid[i % 3]].tolist())
        assert shown | masked == valid
        assert not shown & masked
        assert len(masked) == int(0.75 * len(valid))


def test_a_masked_future_is_hidden_from_the_encoder_too():
    tokenizer = Point(SPEC.replace(horizon=10), dim=5)
    loss = MaskedLatent(tokenizer.out, policy="tail")
    visible, queries = loss.split(tokenizer(batch()), SampleRNG(0, 0, torch.arange(3)))
    assert visible.grid_index[visible.valid].max() == 19
    assert queries.grid_index[queries.valid].min() == 20


@pytest.mark.parametrize("loss", ["masked", "masked-latent"])
@pytest.mark.parametrize("encoder", ["transformer", "mamba2"])
def test_every_encoder_trains_under_either_mask(loss, encoder):
    spec = Spec(channels=2, length=30)
    pipeline = pipeline_of("mamba", spec, loss={"use": loss, "num_masks": 2}, encoder={"use": encoder, "dim": 16})
    step_output = pipeline.train()(batch(spec))
    step_output.loss.backward()
    assert step_output.loss.isfinite()
    assert step_output.masked.any()
    assert [n for n, p in pipeline.named_parameters() if p.requires_grad and p.grad is None] == []


# ---------------------------------------------------------------- Ti-MAE


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_resolves_builds_and_is_registered(name):
    config = resolve_config((name, read_toml(find_config(f"timae/{name}"))))
    validate_on_meta(config)
    assert f"timae/{name}" in get_registry().list_names("config")
    assert {e.name for e in get_registry().list_entries("config") if e.name.startswith("timae/")} == {
        f"timae/{n}" for n in CONFIGS
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pretrain", "published", "finetune", "mamba", "mamba-published", "cross"])
def test_every_config_trains_a_step(name):
    spec = Spec(channels=2, length=30, task="classification", num_outputs=2)
    step_output = pipeline_of(name, spec).train()(batch(spec))
    step_output.loss.backward()
    assert step_output.loss.isfinite()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["forecast", "forecast-head"])
def test_every_forecasting_config_trains_a_step_and_predicts(name):
    spec = Spec(channels=2, length=30, task="forecasting", horizon=6)
    pipeline = pipeline_of(name, spec, data={"context": 30, "horizon": 6})
    series = batch(spec)
    pipeline.train()(series).loss.backward()
    assert pipeline.eval().predict_batch(series).shape == (3, 2, 6)


@pytest.mark.parametrize("encoder", ["transformer", "mamba2"])
@pytest.mark.parametrize("loss", ["masked", "masked-latent"])
def test_forecasts_and_decoder_predictions_do_not_depend_on_the_future(encoder, loss):
    spec = Spec(channels=2, length=30, task="forecasting", horizon=6)
    pipeline = pipeline_of("forecast", spec, encoder=encoder, loss={"use": loss, "policy": "tail"}, data={"horizon": 6})
    series = batch(spec)
    other = series.replace(y=series.y + 5)
    assert torch.equal(pipeline.predict_batch(series), pipeline.predict_batch(other))
    assert torch.equal(pipeline.predict_batch(series), pipeline.predict_batch(series.replace(y=None)))
    rng = SampleRNG(0, 0, series.sample_id)
    a, b = pipeline(series, rng), pipeline(other, rng)
    assert torch.equal(a.predictions, b.predictions)
    assert not torch.equal(a.loss, b.loss)


@pytest.mark.parametrize("name", ["pretrain", "mamba", "cross"])
def test_masked_samples_do_not_influence_predictions(name):
    pipeline, series = pipeline_of(name, SPEC, loss={"num_masks": 1}, tokenizer={"kernel": 1}), batch()
    rng = SampleRNG(0, 0, series.sample_id)
    step_output = pipeline(series, rng)
    masked = torch.zeros(3, 30).scatter_add(1, step_output.queries.grid_index, step_output.queries.valid.float()).bool()
    assert masked.sum() > 30
    changed = series.replace(x=torch.where(masked[:, None], series.x + 9, series.x) * series.observed)
    assert torch.equal(step_output.predictions, pipeline(changed, rng).predictions)


def test_the_loss_covers_masked_samples_only():
    pipeline, series = pipeline_of("pretrain", SPEC, loss={"num_masks": 1}), batch()
    step_output = pipeline(series, SampleRNG(0, 0, series.sample_id))
    errors = [
        (step_output.predictions[i, j] - series.x[i, :, t]).square()[series.observed[i, :, t]]
        for i in range(3)
        for j, t in enumerate(step_output.queries.grid_index[i].tolist())
        if step_output.queries.valid[i, j]
    ]
    torch.testing.assert_close(step_output.loss, torch.cat(errors).mean())


def test_the_encoder_has_the_published_parameters_plus_biases_and_output_projections():
    tokenizer = Point(Spec(channels=1, length=140))
    encoder = Transformer(tokenizer.out, dim=64, depth=2, heads=4, positions="sinusoidal", cls=True)
    ours = sum(p.numel() for part in (tokenizer, encoder) for p in part.parameters())
    outputs = 2 * (64 * 64 + 64)  # each layer's output projection of the attention
    biases = 2 * 3 * 64  # of queries, keys and values
    assert ours - outputs - biases == 91_712


def test_weights_trained_with_sinusoids_load_without_them():
    tokenizer = Point(SPEC, dim=16)
    trained = Transformer(tokenizer.out, dim=16, heads=2, positions="sinusoidal").eval()
    bare = Transformer(tokenizer.out, dim=16, heads=2, positions="none").eval()
    bare.load_pretrained(trained.state_dict(), trained.spec)
    tokens = tokenizer(batch())
    moved = tokens.replace(pos=tokens.pos + 3)
    torch.testing.assert_close(bare(tokens).values, bare(moved).values)
    assert (trained(tokens).values - trained(moved).values).abs().max() > 1e-3


def test_classes_provide_what_their_entries_declare():
    spec = Point(SPEC).out
    assert spec.stride
    assert spec.target_dim
    assert Mamba2(spec, cls=True).out.num_prefix_tokens
    assert Mamba2(spec).out.causal
    heavy = [p for p in get_registry().plugins if p.dist == "tstk-plugins-timae" and p.error]
    assert heavy == []


def test_the_published_number_of_samples_is_visible():
    spec = Spec(channels=1, length=150)
    x = torch.randn(3, 1, 150, generator=torch.Generator().manual_seed(0))
    series = Series(x, sample_id=torch.arange(3))
    for name, visible in (("pretrain", 38), ("published", int(150 * (1 - 0.75))), ("mamba-published", 37)):
        step_output = pipeline_of(name, spec, loss={"num_masks": 1})(series, SampleRNG(0, 0, series.sample_id))
        context = step_output.visible
        if name == "mamba-published":  # whose encoder receives all samples
            context = pipeline_of(name, spec).loss.decoder_context(step_output.encoded, step_output.queries)
        assert context.valid.sum(1).tolist() == [visible] * 3
        assert step_output.queries.valid.sum(1).tolist() == [150 - visible] * 3


def test_the_published_encoder_has_the_published_parameters_plus_output_projections():
    pipeline = pipeline_of("published", Spec(channels=1, length=140))
    ours = sum(p.numel() for part in (pipeline.tokenizer, pipeline.encoder) for p in part.parameters())
    assert ours - 2 * (64 * 64 + 64) == 91_712
