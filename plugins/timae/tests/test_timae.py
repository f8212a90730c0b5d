"""Point tokens, masks after the encoder, and Ti-MAE put together: what may be seen, and how large it is."""

import pytest
import torch
from tstk_plugins_timae.mamba2 import Mamba2
from tstk_plugins_timae.masked_latent import MaskedLatent
from tstk_plugins_timae.point import Point

from tstk.builtin.encoders.transformer import Transformer
from tstk.config.resolve import find_config, read_toml, resolve
from tstk.core.rng import Draws
from tstk.core.types import Series, Spec
from tstk.errors import OptionError
from tstk.plugins.registry import registry
from tstk.runs.build import assemble, rehearse

CONFIGS = ["pretrain", "finetune", "forecast", "forecast-head", "mamba", "mamba-published", "cross"]
SPEC = Spec(channels=2, length=30)


def batch(spec=SPEC, size=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(size, spec.channels, spec.length, generator=draw)
    observed = torch.ones_like(x, dtype=torch.bool)
    observed[0, :, 20:] = False
    observed[1, 0, 4:9] = False
    y = None
    if spec.horizon:
        y = torch.randn(size, spec.channels, spec.horizon, generator=draw)
    elif spec.classes:
        y = torch.arange(size) % spec.classes
    return Series(x * observed, observed, y, torch.arange(size))


def pipeline_of(name, spec, **changes):
    config = resolve((name, read_toml(find_config(f"timae/{name}"))), ("flag", changes))
    wiring = {k: v for k, v in config.options("pipeline").items() if k in ("channels", "instance_norm")}
    torch.manual_seed(0)
    pipeline = assemble(config, spec, **wiring)
    pipeline.bind()
    return pipeline.eval()


# ---------------------------------------------------------------- point tokens


def test_there_is_a_token_per_sample_and_inversion_is_exact():
    tokenizer, series = Point(SPEC, dim=5), batch()
    tokens = tokenizer(series).check(tokenizer.out)
    assert torch.equal(tokenizer.invert(tokens.target, 30), series.x)
    assert torch.equal(tokens.valid, series.mask.any(1))
    assert torch.equal(tokens.weight, series.mask.transpose(1, 2))
    assert torch.equal(tokens.ends(tokenizer.out)[0], torch.arange(1.0, 31))


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


def test_the_encoder_reads_all_and_the_decoder_gets_what_is_not_asked():
    tokenizer = Point(SPEC, dim=5)
    loss = MaskedLatent(tokenizer.out, ratio=0.75, draws=3)
    tokens = tokenizer(batch())
    seen, asked = loss.split(tokens, Draws(0, 0, torch.arange(3)))
    given = loss.reveal(seen, asked)
    assert torch.equal(seen.valid, tokens.valid)
    assert len(asked.index) == len(given.index) == 9
    for i in range(9):
        shown, hidden = (set(t.index[i, t.valid[i]].tolist()) for t in (given, asked))
        real = set(tokens.index[i % 3, tokens.valid[i % 3]].tolist())
        assert shown | hidden == real
        assert not shown & hidden
        assert len(hidden) == int(0.75 * len(real))


def test_where_the_future_is_hidden_the_encoder_does_not_read_it():
    tokenizer = Point(SPEC.but(horizon=10), dim=5)
    loss = MaskedLatent(tokenizer.out, policy="tail")
    seen, asked = loss.split(tokenizer(batch()), Draws(0, 0, torch.arange(3)))
    assert seen.index[seen.valid].max() == 19
    assert asked.index[asked.valid].min() == 20


@pytest.mark.parametrize("loss", ["masked", "masked-latent"])
@pytest.mark.parametrize("encoder", ["transformer", "mamba2"])
def test_every_encoder_trains_under_either_mask(loss, encoder):
    spec = Spec(channels=2, length=30)
    pipeline = pipeline_of("mamba", spec, loss={"use": loss, "draws": 2}, encoder={"use": encoder, "dim": 16})
    flow = pipeline.train()(batch(spec))
    flow.total.backward()
    assert flow.total.isfinite()
    assert flow.hidden.any()
    assert [n for n, p in pipeline.named_parameters() if p.requires_grad and p.grad is None] == []


# ---------------------------------------------------------------- Ti-MAE


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_resolves_fits_together_and_is_announced(name):
    config = resolve((name, read_toml(find_config(f"timae/{name}"))))
    rehearse(config)
    assert f"timae/{name}" in registry().names("config")
    assert {e.name for e in registry().entries("config") if e.name.startswith("timae/")} == {
        f"timae/{n}" for n in CONFIGS
    }


@pytest.mark.parametrize("name", ["pretrain", "finetune", "mamba", "mamba-published", "cross"])
def test_every_config_trains_a_step(name):
    spec = Spec(channels=2, length=30, classes=2)
    flow = pipeline_of(name, spec).train()(batch(spec))
    flow.total.backward()
    assert flow.total.isfinite()


@pytest.mark.parametrize("name", ["forecast", "forecast-head"])
def test_every_forecasting_config_trains_a_step_and_predicts(name):
    spec = Spec(channels=2, length=30, horizon=6)
    pipeline = pipeline_of(name, spec, data={"context": 30, "horizon": 6})
    series = batch(spec)
    pipeline.train()(series).total.backward()
    assert pipeline.eval().predict(series).shape == (3, 2, 6)


@pytest.mark.parametrize("encoder", ["transformer", "mamba2"])
@pytest.mark.parametrize("loss", ["masked", "masked-latent"])
def test_a_forecast_and_what_the_decoder_answers_do_not_depend_on_the_future(encoder, loss):
    spec = Spec(channels=2, length=30, horizon=6)
    pipeline = pipeline_of("forecast", spec, encoder=encoder, loss={"use": loss, "policy": "tail"}, data={"horizon": 6})
    series = batch(spec)
    other = series.but(y=series.y + 5)
    assert torch.equal(pipeline.predict(series), pipeline.predict(other))
    assert torch.equal(pipeline.predict(series), pipeline.predict(series.but(y=None)))
    draws = Draws(0, 0, series.key)
    a, b = pipeline(series, draws), pipeline(other, draws)
    assert torch.equal(a.decoded, b.decoded)
    assert not torch.equal(a.total, b.total)


@pytest.mark.parametrize("name", ["pretrain", "mamba", "cross"])
def test_hidden_samples_never_matter_beyond_the_reach_of_the_convolution(name):
    pipeline, series = pipeline_of(name, SPEC, loss={"draws": 1}, tokenizer={"kernel": 1}), batch()
    draws = Draws(0, 0, series.key)
    flow = pipeline(series, draws)
    hidden = torch.zeros(3, 30).scatter_add(1, flow.asked.index, flow.asked.valid.float()).bool()
    assert hidden.sum() > 30
    changed = series.but(x=torch.where(hidden[:, None], series.x + 9, series.x) * series.observed)
    assert torch.equal(flow.decoded, pipeline(changed, draws).decoded)


def test_the_loss_counts_hidden_samples_alone():
    pipeline, series = pipeline_of("pretrain", SPEC, loss={"draws": 1}), batch()
    flow = pipeline(series, Draws(0, 0, series.key))
    errors = [
        (flow.decoded[i, j] - series.x[i, :, t]).square()[series.observed[i, :, t]]
        for i in range(3)
        for j, t in enumerate(flow.asked.index[i].tolist())
        if flow.asked.valid[i, j]
    ]
    torch.testing.assert_close(flow.total, torch.cat(errors).mean())


def test_the_encoder_has_the_published_parameters_and_what_the_published_one_lacks():
    tokenizer = Point(Spec(channels=1, length=140))
    encoder = Transformer(tokenizer.out, dim=64, depth=2, heads=4, positions="sinusoidal", cls=True)
    ours = sum(p.numel() for part in (tokenizer, encoder) for p in part.parameters())
    outputs = 2 * (64 * 64 + 64)  # each layer's map from the heads back to the tokens
    biases = 2 * 3 * 64  # of queries, keys and values
    assert ours - outputs - biases == 91_712


def test_weights_made_with_sinusoids_serve_without_them():
    tokenizer = Point(SPEC, dim=16)
    trained = Transformer(tokenizer.out, dim=16, heads=2, positions="sinusoidal").eval()
    bare = Transformer(tokenizer.out, dim=16, heads=2, positions="none").eval()
    bare.load(trained.state_dict(), trained.spec)
    tokens = tokenizer(batch())
    moved = tokens.but(pos=tokens.pos + 3)
    torch.testing.assert_close(bare(tokens).values, bare(moved).values)
    assert (trained(tokens).values - trained(moved).values).abs().max() > 1e-3


def test_classes_say_what_their_entries_promise():
    spec = Point(SPEC).out
    assert spec.step
    assert spec.target
    assert Mamba2(spec, cls=True).out.prefix
    assert Mamba2(spec).out.causal
    heavy = [p for p in registry().plugins if p.dist == "tstk-plugins-timae" and p.error]
    assert heavy == []
