"""Heads, losses, decoders and the patch tokenizer of the core, against brute force."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tstk.core.rng import Draws
from tstk.core.types import Flow, Series, Spec, Tokens
from tstk.errors import DataError, NeedsError, OptionError
from tstk.plugins.registry import registry
from tstk.runs.build import create

HEADS = [e.name for e in registry().entries("head") if e.dist == "tstk"]


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def tokens_of(spec, batch=3, seed=0, prefix=False):
    draw = torch.Generator().manual_seed(seed)
    index = torch.arange(spec.tokens).expand(batch, -1)
    summary = torch.randn(batch, 1, spec.dim, generator=draw) if prefix else None
    values = torch.randn(batch, spec.tokens, spec.dim, generator=draw)
    return Tokens(values, index[..., None].float(), index, torch.ones_like(index, dtype=torch.bool), prefix=summary)


# ------------------------------------------------------------------ heads

WIDE = Spec(channels=1, length=80, classes=10, dim=768, grid=(5,))
SLIM = Spec(channels=2, length=48, classes=3, horizon=7, dim=16, grid=(6,), prefix=1)


@pytest.mark.parametrize(
    ("use", "options", "count"),
    [("cot", {"tokens": 8}, 9_465_610), ("residual-mlp", {"hidden": 512, "depth": 2}, 1_454_090)],
)
def test_heads_have_as_many_parameters_as_published(use, options, count):
    assert sum(p.numel() for p in create("head", use, WIDE, **options).parameters()) == count


@pytest.mark.parametrize("use", HEADS)
@pytest.mark.parametrize("garbage", [0.0, 1e3])
def test_heads_do_not_see_invalid_tokens(use, garbage):
    head = create("head", use, SLIM).eval()
    full = tokens_of(SLIM, prefix=True)
    where = torch.ones_like(full.valid)
    where[0, 4:] = where[1, 2] = False
    short = head(full.keep(where))
    full.valid &= where
    full.values[~where] = garbage
    close(head(full), short)


@pytest.mark.parametrize("pool", ["mean", "max", "cls", "flatten"])
def test_each_pool_of_the_linear_head_is_the_plain_formula(pool):
    head = create("head", "linear", SLIM, pool=pool).eval()
    tokens = tokens_of(SLIM, prefix=True)
    tokens.valid[1, 3:] = False
    for i in range(3):
        values = tokens.values[i][tokens.valid[i]]
        flat = F.pad(values.flatten(), (0, 16 * (6 - len(values))))
        pooled = {"mean": values.mean(0), "max": values.amax(0), "cls": tokens.prefix[i, 0], "flatten": flat}[pool]
        close(head(tokens)[i], head.classify(pooled))


def test_pooling_a_cls_token_that_is_not_there_is_refused():
    with pytest.raises(NeedsError, match=r"--head\.pool mean"):
        create("head", "linear", SLIM.but(prefix=0), pool="cls")


def test_a_standardising_head_does_not_care_for_the_sizes_of_features():
    torch.manual_seed(0)
    head = create("head", "linear", SLIM, standardise=True)
    values = torch.randn(6, SLIM.tokens, SLIM.dim)
    index = torch.arange(SLIM.tokens).expand(6, -1)
    tokens = Tokens(values, index[..., None].float(), index, torch.ones_like(index, dtype=torch.bool))
    torch.testing.assert_close(head(tokens), head(tokens.but(values=values * 7 - 3)), atol=1e-4, rtol=1e-3)
    before = head.scale.running_mean.clone()
    one = tokens.map(lambda t: t[:1])
    assert head(one).isfinite().all()
    assert torch.equal(head.scale.running_mean, before)
    torch.testing.assert_close(head.eval()(tokens)[:1], head(one))


@pytest.mark.parametrize(("use", "lacks"), [("linear", "classes"), ("cot", "classes"), ("forecast", "horizon")])
def test_a_head_without_its_task_is_refused(use, lacks):
    with pytest.raises(NeedsError, match=f"head '{use}' needs"):
        create("head", use, SLIM.but(**{lacks: None}))


def test_a_component_refuses_an_option_it_does_not_have():
    with pytest.raises(OptionError, match="Did you mean 'dropout'"):
        create("head", "cot", SLIM, dropuot=0.1)


# ------------------------------------------------------------------ losses of heads


def marked(loss, output, truth):
    blank = tokens_of(SLIM)
    flow = Flow(Series(torch.zeros(1)), blank, blank, blank, blank.valid, output=output, truth=truth)
    return loss(flow)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_torchs_and_unlabelled_series_do_not_count(smoothing):
    loss = create("loss", "cross-entropy", SLIM, smoothing=smoothing)
    logits, labels = torch.randn(5, 3), torch.tensor([0, 2, -1, 1, 1])
    known = labels >= 0
    (value,) = marked(loss, logits, labels).values()
    close(value, F.cross_entropy(logits[known], labels[known], label_smoothing=smoothing))


def test_shares_of_classes_are_marked_as_the_classes_would_be():
    loss = create("loss", "cross-entropy", SLIM, smoothing=0.1)
    logits, labels = torch.randn(4, 3), torch.tensor([0, 2, -1, 1])
    shares = F.one_hot(labels.clamp(min=0), 3) * (labels >= 0)[:, None] * 1.0
    close(marked(loss, logits, shares)["cross_entropy"], marked(loss, logits, labels)["cross_entropy"])
    half = torch.tensor([[0.5, 0.5, 0.0]])
    each = [marked(loss, logits[:1], torch.tensor([i]))["cross_entropy"] for i in range(2)]
    close(marked(loss, logits[:1], half)["cross_entropy"], sum(each) / 2)


def test_balanced_classes_are_weighted_by_inverse_frequency():
    counts = (90, 9, 1)
    loss = create("loss", "cross-entropy", SLIM.but(counts=counts), balanced=True)
    weight = [min(max(100 / (3 * n), 0.1), 10) for n in counts]
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    each = [weight[y] * -F.log_softmax(row, 0)[y] for row, y in zip(logits, labels.tolist(), strict=True)]
    (value,) = marked(loss, logits, labels).values()
    close(value, torch.stack(each).mean())


@pytest.mark.parametrize("distance", ["mse", "mae", "huber"])
def test_a_forecast_is_marked_where_the_future_is_known(distance):
    loss = create("loss", "forecast", SLIM, distance=distance, delta=0.5)
    output, truth = torch.randn(3, 2, 7), torch.randn(3, 2, 7)
    truth[0, 1, 2:5] = truth[2] = torch.nan
    output.requires_grad_()
    ((name, value),) = marked(loss, output, truth).items()
    errors = []
    for guess, real in zip(output.detach().flatten().tolist(), truth.flatten().tolist(), strict=True):
        e = abs(guess - real)
        if not math.isnan(e):
            huber = e * e / 2 if e < 0.5 else 0.5 * (e - 0.25)
            errors.append({"mse": e * e, "mae": e, "huber": huber}[distance])
    assert name == distance
    assert float(value.detach()) == pytest.approx(np.mean(errors), rel=1e-5)
    value.backward()
    assert output.grad.isfinite().all()


def test_a_future_that_nobody_knows_costs_nothing():
    loss = create("loss", "forecast", SLIM)
    output = torch.randn(1, 2, 7, requires_grad=True)
    (value,) = marked(loss, output, torch.full((1, 2, 7), torch.nan)).values()
    value.backward()
    assert value == 0


# ------------------------------------------------------------------ losses of decoders


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("policy", ["random", "block", "tail", "column", "per_batch"])
def test_masked_counts_only_hidden_observed_samples(build, labelled_spec, ragged, policy, draws):
    series = ragged()
    loss = {"use": "masked", "ratio": 0.5, "policy": policy, "draws": draws}
    flow = build(labelled_spec, loss=loss, decoder="transformer").eval()(series, Draws(0, 1, series.key))
    errors, seen = [], 0
    for row in range(len(flow.asked.valid)):
        x, observed = series.x[row % 4], series.observed[row % 4]
        slots = flow.asked.index[row][flow.asked.valid[row]].tolist()
        given = flow.seen.index[row][flow.seen.valid[row]].tolist()
        real = [n for n in range(6) if observed[:, 4 * n : 4 * n + 4].any()]
        assert sorted(slots + given) == real
        assert len(slots) == len(real) // 2
        for place, n in enumerate(slots):
            guess = flow.decoded[row, place].reshape(2, 4)
            where = observed[:, 4 * n : 4 * n + 4]
            errors.append((guess - x[:, 4 * n : 4 * n + 4])[where])
        seen += len(given)
    close(flow.terms["masked"], torch.cat(errors).square().mean())
    assert flow.hidden.sum() == sum(len(flow.asked.index[r][flow.asked.valid[r]]) for r in range(len(flow.asked.valid)))


def test_masks_of_the_several_draws_of_a_series_differ(build, labelled_spec, ragged):
    series = ragged()
    loss = {"use": "masked", "ratio": 0.5, "draws": 2}
    flow = build(labelled_spec, loss=loss, decoder="cross")(series, Draws(0, 1, series.key))
    assert not torch.equal(flow.asked.index[0], flow.asked.index[4])


@pytest.mark.parametrize("decoder", ["linear", "transformer", "cross"])
def test_reconstruct_counts_observed_samples(build, labelled_spec, ragged, decoder):
    series = ragged()
    flow = build(labelled_spec, loss="reconstruct", decoder=decoder).eval()(series)
    errors = []
    for i in range(4):
        for n in range(6):
            where = series.observed[i, :, 4 * n : 4 * n + 4]
            errors.append((flow.decoded[i, n].reshape(2, 4) - series.x[i, :, 4 * n : 4 * n + 4])[where])
    close(flow.terms["reconstruction"], torch.cat(errors).square().mean())
    assert not flow.hidden.any()


CAUSAL = {"use": "transformer", "causal": True}


def test_next_code_of_a_uniform_model_is_the_logarithm_of_the_vocabulary(build, labelled_spec, ragged, syllables):
    pipeline = build(labelled_spec, tokenizer={"use": syllables, "codes": 11}, encoder=CAUSAL, loss="next-code")
    torch.nn.init.zeros_(pipeline.decoder.project.weight)
    torch.nn.init.zeros_(pipeline.decoder.project.bias)
    assert float(pipeline(ragged()).terms["next_code"].detach()) == pytest.approx(math.log(11), rel=1e-6)


def test_next_code_never_sees_the_code_it_asks_for(build, labelled_spec, syllables):
    draw = torch.Generator().manual_seed(0)
    series = Series(torch.randn(2, 2, 24, generator=draw))
    pipeline = build(labelled_spec, tokenizer=syllables, encoder=CAUSAL, loss="next-code").eval()
    whole = pipeline(series)
    for n in range(1, 6):
        other = series.x.clone()
        other[..., 4 * n :] = torch.randn(2, 2, 24 - 4 * n, generator=draw) * 3
        changed = pipeline(Series(other))
        assert not torch.equal(changed.asked.ids[:, n - 1 :], whole.asked.ids[:, n - 1 :])
        close(changed.decoded[:, :n], whole.decoded[:, :n])


@pytest.mark.parametrize(
    ("slots", "says"),
    [
        ({"encoder": CAUSAL, "loss": "next-code"}, "discrete tokens"),
        ({"tokenizer": "syllables", "loss": "next-code"}, "causal"),
        ({"tokenizer": "syllables", "encoder": CAUSAL, "loss": "next-code", "decoder": "transformer"}, "later places"),
        ({"tokenizer": "syllables", "encoder": CAUSAL, "loss": "next-code", "decoder": "cross"}, "later places"),
        ({"tokenizer": "syllables", "loss": "masked"}, "tokens that can be asked about"),
        ({"tokenizer": "syllables", "loss": "reconstruct"}, "tokens that can be asked about"),
        ({"loss": "masked", "decoder": "linear"}, "--decoder transformer or cross"),
        ({"loss": "cross-entropy", "decoder": "linear"}, "would have no use"),
        ({"loss": "masked", "head": "linear"}, "would have no use"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(build, labelled_spec, syllables, slots, says):
    with pytest.raises(NeedsError, match=says) as caught:
        build(labelled_spec, **slots)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"ratio": 0.0}, {"ratio": 1.0}, {"draws": 0}])
def test_a_share_or_count_that_cannot_be_is_refused(options):
    with pytest.raises(OptionError):
        create("loss", "masked", SLIM.but(target=4), **options)


# ------------------------------------------------------------------ decoders


def asked_pipeline(build, spec, decoder, **encoder):
    loss = "reconstruct" if decoder == "linear" else "masked"
    return build(spec, decoder=decoder, loss=loss, encoder=encoder).eval()


@pytest.mark.parametrize("decoder", ["linear", "transformer", "cross"])
@pytest.mark.parametrize("cls", [False, True])
def test_a_decoder_is_blind_to_the_content_it_is_asked_for(build, labelled_spec, ragged, decoder, cls):
    pipeline, series = asked_pipeline(build, labelled_spec, decoder, cls=cls), ragged()
    flow = pipeline(series, Draws(0, 1, series.key))
    asked = flow.asked.but(values=flow.asked.values * torch.nan, target=flow.asked.target * torch.nan)
    again = pipeline.decoder(flow.encoded, asked, pipeline.encoder.place)
    assert torch.equal(again, flow.decoded)


@pytest.mark.parametrize(
    "decoder",
    [{"use": "transformer", "positions": p} for p in ("learned", "sinusoidal", "rotary")] + [{"use": "cross"}],
)
@pytest.mark.parametrize("cls", [False, True])
def test_encoded_tokens_are_placed_by_index_not_by_row(build, labelled_spec, ragged, decoder, cls):
    pipeline, series = asked_pipeline(build, labelled_spec, decoder, cls=cls), ragged()
    flow = pipeline(series, Draws(0, 1, series.key))
    n = flow.encoded.index.shape[1]
    shuffled = flow.encoded.at(torch.arange(n - 1, -1, -1).expand(4, n))
    again = pipeline.decoder(shuffled, flow.asked, pipeline.encoder.place)
    where = flow.asked.valid
    close(again[where], flow.decoded[where])


@pytest.mark.parametrize("decoder", ["linear", "transformer", "cross"])
def test_mixes_tells_whether_an_answer_looks_at_other_places(build, labelled_spec, decoder):
    pipeline = build(labelled_spec, decoder=decoder, loss="reconstruct").eval()
    flow = pipeline(Series(torch.randn(2, 2, 24)))
    values = flow.encoded.values.clone()
    values[:, 3] += torch.randn(16)
    again = pipeline.decoder(flow.encoded.but(values=values), flow.asked, pipeline.encoder.place)
    elsewhere = torch.arange(6) != 3
    assert torch.allclose(again[:, elsewhere], flow.decoded[:, elsewhere], atol=1e-5) != pipeline.decoder.mixes


@pytest.mark.parametrize("decoder", ["transformer", "cross"])
def test_invalid_seen_tokens_do_not_influence_answers(build, labelled_spec, ragged, decoder):
    pipeline, series = asked_pipeline(build, labelled_spec, decoder), ragged()
    flow = pipeline(series, Draws(0, 1, series.key))
    assert not flow.encoded.valid.all()
    noisy = torch.where(flow.encoded.valid[..., None], flow.encoded.values, 100.0)
    again = pipeline.decoder(flow.encoded.but(values=noisy), flow.asked, pipeline.encoder.place)
    close(again[flow.asked.valid], flow.decoded[flow.asked.valid])


def test_an_answer_of_the_cross_decoder_does_not_depend_on_the_other_questions(build, labelled_spec, ragged):
    pipeline, series = asked_pipeline(build, labelled_spec, "cross"), ragged()
    flow = pipeline(series, Draws(0, 1, series.key))
    some = flow.asked.at(torch.tensor([[1, 0]]).expand(4, 2))
    again = pipeline.decoder(flow.encoded, some, pipeline.encoder.place)
    close(again, flow.decoded[:, [1, 0]])


def test_an_answer_of_the_transformer_decoder_does_depend_on_the_other_questions(build, labelled_spec, ragged):
    pipeline, series = asked_pipeline(build, labelled_spec, "transformer"), ragged()
    flow = pipeline(series, Draws(0, 1, series.key))
    one = flow.asked.at(torch.zeros(4, 1, dtype=torch.long))
    again = pipeline.decoder(flow.encoded, one, pipeline.encoder.place)
    assert pipeline.decoder.mixes
    assert not torch.allclose(again, flow.decoded[:, :1], atol=1e-4)


# ------------------------------------------------------------------ patch

RAW = Spec(channels=2, length=23)


@pytest.mark.parametrize(
    "options", [{}, {"window": 4}, {"window": 6, "stride": 4}, {"window": 5, "stride": 1}, {"window": 23}]
)
@pytest.mark.parametrize("use", ["patch", "inception"])
def test_targets_of_patches_are_the_samples_and_invert_puts_them_back(options, use):
    tokenizer = create("tokenizer", use, RAW, dim=8, **options)
    x = torch.randn(3, 2, 23, generator=torch.Generator().manual_seed(0))
    tokens = tokenizer(Series(x)).check(tokenizer.out)
    assert tokens.valid.all()
    close(tokenizer.invert(tokens.target, 23), x)
    for n in range(tokens.index.shape[1]):
        start = n * tokenizer.stride
        for c in range(2):
            piece = x[:, c, start : start + tokenizer.window]
            close(tokens.target[:, n].unflatten(1, (2, -1))[:, c, : piece.shape[-1]], piece)


def test_where_patches_overlap_the_answer_is_their_mean():
    tokenizer = create("tokenizer", "patch", RAW, dim=8, window=6, stride=4)
    answers = torch.randn(1, tokenizer.out.tokens, 12)
    total, count = np.zeros((2, 40)), np.zeros(40)
    for n in range(tokenizer.out.tokens):
        total[:, 4 * n : 4 * n + 6] += answers[0, n].reshape(2, 6).numpy()
        count[4 * n : 4 * n + 6] += 1
    close(tokenizer.invert(answers, 23)[0], torch.tensor((total / count.clip(1))[:, :23]).float())


@pytest.mark.parametrize("use", ["patch", "inception"])
def test_a_series_shorter_than_a_window_is_one_patch(use):
    tokenizer = create("tokenizer", use, RAW, dim=8, window=8)
    short = torch.randn(1, 2, 3)
    tokens = tokenizer(Series(short)).check(tokenizer.out)
    assert tokens.index.tolist() == [[0]]
    assert tokens.weight[0, 0].reshape(2, 8).sum(1).tolist() == [3, 3]
    close(tokenizer.invert(tokens.target, 3), short)


def test_a_patch_is_valid_if_any_of_its_samples_was_observed():
    tokenizer = create("tokenizer", "patch", RAW, dim=8, window=4)
    observed = torch.zeros(1, 2, 23, dtype=torch.bool)
    observed[0, 1, 9] = observed[0, 0, 22] = True
    tokens = tokenizer(Series(torch.zeros(1, 2, 23), observed))
    assert tokens.valid[0].tolist() == [False, False, True, False, False, True]
    assert tokens.weight.sum() == 2


@pytest.mark.parametrize(
    ("options", "error"),
    [({"window": 24}, DataError), ({"window": 4, "stride": 5}, OptionError), ({"window": 0}, OptionError)],
)
def test_windows_that_cannot_be_are_refused(options, error):
    with pytest.raises(error, match="window"):
        create("tokenizer", "patch", RAW, **options)
