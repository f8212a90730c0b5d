"""Heads, losses, decoders and the patch tokenizer of the core, against brute force."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tstk.core.rng import SampleRNG
from tstk.core.types import Series, Spec, StepOutput, Tokens
from tstk.errors import DataError, IncompatibleError, OptionError
from tstk.plugins.registry import get_registry
from tstk.runs.build import build_component

HEADS = [e.name for e in get_registry().list_entries("head") if e.dist == "tstk"]


def assert_close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def tokens_of(spec, batch=3, seed=0, prefix=False):
    draw = torch.Generator().manual_seed(seed)
    index = torch.arange(spec.num_tokens).expand(batch, -1)
    summary = torch.randn(batch, 1, spec.dim, generator=draw) if prefix else None
    values = torch.randn(batch, spec.num_tokens, spec.dim, generator=draw)
    return Tokens(values, index[..., None].float(), index, torch.ones_like(index, dtype=torch.bool), prefix=summary)


# ------------------------------------------------------------------ heads

WIDE = Spec(channels=1, length=80, task="classification", num_outputs=10, dim=768, grid_size=(5,))
SLIM = Spec(channels=2, length=48, num_outputs=3, horizon=7, dim=16, grid_size=(6,), num_prefix_tokens=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("use", "options", "count"),
    [("cot", {"tokens": 8}, 9_465_610), ("residual-mlp", {"hidden": 512, "depth": 2}, 1_454_090)],
)
def test_heads_have_as_many_parameters_as_published(use, options, count):
    assert sum(p.numel() for p in build_component("head", use, WIDE, **options).parameters()) == count


@pytest.mark.parametrize("use", HEADS)
@pytest.mark.parametrize("garbage", [0.0, 1e3])
def test_heads_do_not_see_invalid_tokens(use, garbage):
    head = build_component("head", use, SLIM.replace(stride=8.0, patch_len=8.0)).eval()
    full = tokens_of(SLIM, prefix=True)
    where = torch.ones_like(full.valid)
    where[0, 4:] = where[1, 2] = False
    short = head(full.select(where))
    full.valid &= where
    full.values[~where] = garbage
    assert_close(head(full), short)


@pytest.mark.parametrize("pool", ["mean", "max", "cls", "flatten"])
def test_each_pool_of_the_linear_head_is_the_plain_formula(pool):
    head = build_component("head", "linear", SLIM, pool=pool).eval()
    tokens = tokens_of(SLIM, prefix=True)
    tokens.valid[1, 3:] = False
    for i in range(3):
        values = tokens.values[i][tokens.valid[i]]
        flat = F.pad(values.flatten(), (0, 16 * (6 - len(values))))
        pooled = {"mean": values.mean(0), "max": values.amax(0), "cls": tokens.prefix[i, 0], "flatten": flat}[pool]
        assert_close(head(tokens)[i], head.classify(pooled))


def test_pooling_a_cls_token_that_is_not_there_is_refused():
    with pytest.raises(IncompatibleError, match=r"--head\.pool mean"):
        build_component("head", "linear", SLIM.replace(num_prefix_tokens=0), pool="cls")


def test_a_standardising_head_does_not_care_for_the_sizes_of_features():
    torch.manual_seed(0)
    head = build_component("head", "linear", SLIM, standardize=True)
    values = torch.randn(6, SLIM.num_tokens, SLIM.dim)
    index = torch.arange(SLIM.num_tokens).expand(6, -1)
    tokens = Tokens(values, index[..., None].float(), index, torch.ones_like(index, dtype=torch.bool))
    torch.testing.assert_close(head(tokens), head(tokens.replace(values=values * 7 - 3)), atol=1e-4, rtol=1e-3)
    before = head.feature_norm.running_mean.clone()
    one = tokens.map(lambda t: t[:1])
    assert head(one).isfinite().all()
    assert torch.equal(head.feature_norm.running_mean, before)
    torch.testing.assert_close(head.eval()(tokens)[:1], head(one))


@pytest.mark.parametrize(("use", "lacks"), [("linear", "num_outputs"), ("cot", "num_outputs"), ("forecast", "horizon")])
def test_a_head_without_its_task_is_refused(use, lacks):
    with pytest.raises(IncompatibleError, match=f"head '{use}' needs"):
        build_component("head", use, SLIM.replace(**{lacks: None}))


def test_a_component_refuses_an_option_it_does_not_have():
    with pytest.raises(OptionError, match="Did you mean 'dropout'"):
        build_component("head", "cot", SLIM, dropuot=0.1)


# ------------------------------------------------------------------ losses of heads


def compute_losses(loss, output, truth):
    blank = tokens_of(SLIM)
    step_output = StepOutput(
        Series(torch.zeros(1)), blank, blank, blank, blank.valid, head_output=output, targets=truth
    )
    return loss(step_output)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_torchs_and_unlabelled_series_do_not_count(smoothing):
    loss = build_component("loss", "cross-entropy", SLIM, smoothing=smoothing)
    logits, labels = torch.randn(5, 3), torch.tensor([0, 2, -1, 1, 1])
    known = labels >= 0
    (value,) = compute_losses(loss, logits, labels).values()
    assert_close(value, F.cross_entropy(logits[known], labels[known], label_smoothing=smoothing))


def test_shares_of_classes_are_marked_as_the_classes_would_be():
    loss = build_component("loss", "cross-entropy", SLIM, smoothing=0.1)
    logits, labels = torch.randn(4, 3), torch.tensor([0, 2, -1, 1])
    shares = F.one_hot(labels.clamp(min=0), 3) * (labels >= 0)[:, None] * 1.0
    assert_close(
        compute_losses(loss, logits, shares)["cross_entropy"], compute_losses(loss, logits, labels)["cross_entropy"]
    )
    half = torch.tensor([[0.5, 0.5, 0.0]])
    each = [compute_losses(loss, logits[:1], torch.tensor([i]))["cross_entropy"] for i in range(2)]
    assert_close(compute_losses(loss, logits[:1], half)["cross_entropy"], sum(each) / 2)


def test_balanced_classes_are_weighted_by_inverse_frequency():
    counts = (90, 9, 1)
    loss = build_component("loss", "cross-entropy", SLIM.replace(class_counts=counts), balanced=True)
    weight = [min(max(100 / (3 * n), 0.1), 10) for n in counts]
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    each = [weight[y] * -F.log_softmax(row, 0)[y] for row, y in zip(logits, labels.tolist(), strict=True)]
    (value,) = compute_losses(loss, logits, labels).values()
    assert_close(value, torch.stack(each).mean())


@pytest.mark.parametrize("distance", ["mse", "mae", "huber"])
def test_a_forecast_is_marked_where_the_future_is_known(distance):
    loss = build_component("loss", "forecast", SLIM, distance=distance, delta=0.5)
    output, truth = torch.randn(3, 2, 7), torch.randn(3, 2, 7)
    truth[0, 1, 2:5] = truth[2] = torch.nan
    output.requires_grad_()
    ((name, value),) = compute_losses(loss, output, truth).items()
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


NUMBERS = SLIM.replace(task="regression", horizon=None)
LABELS = SLIM.replace(task="multilabel", horizon=None)


@pytest.mark.parametrize("use", ["mse", "mae", "huber"])
def test_errors_of_numbers_count_where_the_target_is_known(use):
    options = {"delta": 0.5} if use == "huber" else {}
    loss = build_component("loss", use, NUMBERS, **options)
    output, targets = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3)
    targets[1, 2] = targets[4] = torch.nan
    (value,) = compute_losses(loss, output, targets).values()
    errors = []
    for a, b in zip(output.detach().flatten().tolist(), targets.flatten().tolist(), strict=True):
        if not math.isnan(b):
            e = abs(a - b)
            huber = e * e / 2 if e < 0.5 else 0.5 * (e - 0.25)
            errors.append({"mse": e * e, "mae": e, "huber": huber}[use])
    assert float(value.detach()) == pytest.approx(np.mean(errors), rel=1e-5)
    value.backward()
    assert torch.equal(output.grad != 0, targets.isfinite())


def test_binary_cross_entropy_is_torchs_over_the_known_labels():
    loss = build_component("loss", "binary-cross-entropy", LABELS)
    loss.pos_weight.copy_(torch.tensor([1.0, 3.0, 0.5]))
    logits, targets = torch.randn(5, 3, requires_grad=True), torch.randint(0, 2, (5, 3))
    targets[1, 2] = targets[4, 0] = -1
    (value,) = compute_losses(loss, logits, targets).values()
    terms = [
        -loss.pos_weight[k] * F.logsigmoid(logits[i, k]) if targets[i, k] else -F.logsigmoid(-logits[i, k])
        for i in range(5)
        for k in range(3)
        if targets[i, k] >= 0
    ]
    assert_close(value, torch.stack(terms).mean())
    value.backward()
    assert torch.equal(logits.grad != 0, targets >= 0)


def test_an_unobserved_future_contributes_no_loss():
    loss = build_component("loss", "forecast", SLIM)
    output = torch.randn(1, 2, 7, requires_grad=True)
    (value,) = compute_losses(loss, output, torch.full((1, 2, 7), torch.nan)).values()
    value.backward()
    assert value == 0


# ------------------------------------------------------------------ losses of decoders


@pytest.mark.parametrize("num_masks", [1, 3])
@pytest.mark.parametrize("policy", ["random", "block", "tail", "column", "per-batch"])
def test_masked_counts_only_hidden_observed_samples(build, labelled_spec, ragged, policy, num_masks):
    series = ragged()
    loss = {"use": "masked", "ratio": 0.5, "policy": policy, "num_masks": num_masks}
    step_output = build(labelled_spec, loss=loss, decoder="transformer").eval()(
        series, SampleRNG(0, 1, series.sample_id)
    )
    errors, seen = [], 0
    for row in range(len(step_output.queries.valid)):
        x, observed = series.x[row % 4], series.observed[row % 4]
        slots = step_output.queries.grid_index[row][step_output.queries.valid[row]].tolist()
        visible = step_output.visible.grid_index[row][step_output.visible.valid[row]].tolist()
        real = [n for n in range(6) if observed[:, 4 * n : 4 * n + 4].any()]
        assert sorted(slots + visible) == real
        assert len(slots) == len(real) // 2
        for place, n in enumerate(slots):
            guess = step_output.predictions[row, place].reshape(2, 4)
            where = observed[:, 4 * n : 4 * n + 4]
            errors.append((guess - x[:, 4 * n : 4 * n + 4])[where])
        seen += len(visible)
    assert_close(step_output.losses["masked"], torch.cat(errors).square().mean())
    assert step_output.masked.sum() == sum(
        len(step_output.queries.grid_index[r][step_output.queries.valid[r]])
        for r in range(len(step_output.queries.valid))
    )


def test_masks_of_the_several_draws_of_a_series_differ(build, labelled_spec, ragged):
    series = ragged()
    loss = {"use": "masked", "ratio": 0.5, "num_masks": 2}
    step_output = build(labelled_spec, loss=loss, decoder="cross")(series, SampleRNG(0, 1, series.sample_id))
    assert not torch.equal(step_output.queries.grid_index[0], step_output.queries.grid_index[4])


@pytest.mark.parametrize("decoder", ["linear", "transformer", "cross"])
def test_reconstruct_counts_observed_samples(build, labelled_spec, ragged, decoder):
    series = ragged()
    step_output = build(labelled_spec, loss="reconstruct", decoder=decoder).eval()(series)
    errors = []
    for i in range(4):
        for n in range(6):
            where = series.observed[i, :, 4 * n : 4 * n + 4]
            errors.append((step_output.predictions[i, n].reshape(2, 4) - series.x[i, :, 4 * n : 4 * n + 4])[where])
    assert_close(step_output.losses["reconstruction"], torch.cat(errors).square().mean())
    assert not step_output.masked.any()


CAUSAL = {"use": "transformer", "causal": True}


def test_next_code_of_a_uniform_model_is_the_logarithm_of_the_vocabulary(build, labelled_spec, ragged, syllables):
    pipeline = build(labelled_spec, tokenizer={"use": syllables, "codes": 11}, encoder=CAUSAL, loss="next-code")
    torch.nn.init.zeros_(pipeline.decoder.project.weight)
    torch.nn.init.zeros_(pipeline.decoder.project.bias)
    assert float(pipeline(ragged()).losses["next_code"].detach()) == pytest.approx(math.log(11), rel=1e-6)


def test_next_code_never_sees_the_code_it_asks_for(build, labelled_spec, syllables):
    draw = torch.Generator().manual_seed(0)
    series = Series(torch.randn(2, 2, 24, generator=draw))
    pipeline = build(labelled_spec, tokenizer=syllables, encoder=CAUSAL, loss="next-code").eval()
    whole = pipeline(series)
    for n in range(1, 6):
        other = series.x.clone()
        other[..., 4 * n :] = torch.randn(2, 2, 24 - 4 * n, generator=draw) * 3
        changed = pipeline(Series(other))
        assert not torch.equal(changed.queries.ids[:, n - 1 :], whole.queries.ids[:, n - 1 :])
        assert_close(changed.predictions[:, :n], whole.predictions[:, :n])


@pytest.mark.parametrize(
    ("slots", "says"),
    [
        ({"encoder": CAUSAL, "loss": "next-code"}, "discrete tokens"),
        ({"tokenizer": "syllables", "loss": "next-code"}, "causal"),
        (
            {"tokenizer": "syllables", "encoder": CAUSAL, "loss": "next-code", "decoder": "transformer"},
            "later positions",
        ),
        ({"tokenizer": "syllables", "encoder": CAUSAL, "loss": "next-code", "decoder": "cross"}, "later positions"),
        ({"tokenizer": "syllables", "loss": "masked"}, "tokens that have a target"),
        ({"tokenizer": "syllables", "loss": "reconstruct"}, "tokens that have a target"),
        ({"loss": "masked", "decoder": "linear"}, "--decoder transformer or cross"),
        ({"loss": "cross-entropy", "decoder": "linear"}, "would have no use"),
        ({"loss": "masked", "head": "linear"}, "would have no use"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(build, labelled_spec, syllables, slots, says):
    with pytest.raises(IncompatibleError, match=says) as caught:
        build(labelled_spec, **slots)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"ratio": 0.0}, {"ratio": 1.0}, {"num_masks": 0}])
def test_a_share_or_count_that_cannot_be_is_refused(options):
    with pytest.raises(OptionError):
        build_component("loss", "masked", SLIM.replace(target_dim=4), **options)


# ------------------------------------------------------------------ decoders


def build_pipeline_that_queries(build, spec, decoder, **encoder):
    loss = "reconstruct" if decoder == "linear" else "masked"
    return build(spec, decoder=decoder, loss=loss, encoder=encoder).eval()


@pytest.mark.parametrize("decoder", ["linear", "transformer", "cross"])
@pytest.mark.parametrize("cls", [False, True])
def test_a_decoder_does_not_see_the_content_of_queries(build, labelled_spec, ragged, decoder, cls):
    pipeline, series = build_pipeline_that_queries(build, labelled_spec, decoder, cls=cls), ragged()
    step_output = pipeline(series, SampleRNG(0, 1, series.sample_id))
    asked = step_output.queries.replace(
        values=step_output.queries.values * torch.nan, target=step_output.queries.target * torch.nan
    )
    again = pipeline.decoder(step_output.encoded, asked, pipeline.encoder.pos_embed)
    assert torch.equal(again, step_output.predictions)


@pytest.mark.parametrize(
    "decoder",
    [{"use": "transformer", "positions": p} for p in ("learned", "sinusoidal", "rotary")] + [{"use": "cross"}],
)
@pytest.mark.parametrize("cls", [False, True])
def test_encoded_tokens_are_placed_by_index_not_by_row(build, labelled_spec, ragged, decoder, cls):
    pipeline, series = build_pipeline_that_queries(build, labelled_spec, decoder, cls=cls), ragged()
    step_output = pipeline(series, SampleRNG(0, 1, series.sample_id))
    n = step_output.encoded.grid_index.shape[1]
    shuffled = step_output.encoded.gather(torch.arange(n - 1, -1, -1).expand(4, n))
    again = pipeline.decoder(shuffled, step_output.queries, pipeline.encoder.pos_embed)
    where = step_output.queries.valid
    assert_close(again[where], step_output.predictions[where])


@pytest.mark.parametrize("decoder", ["linear", "transformer", "cross"])
def test_attends_across_tells_whether_a_prediction_depends_on_other_positions(build, labelled_spec, decoder):
    pipeline = build(labelled_spec, decoder=decoder, loss="reconstruct").eval()
    step_output = pipeline(Series(torch.randn(2, 2, 24)))
    values = step_output.encoded.values.clone()
    values[:, 3] += torch.randn(16)
    again = pipeline.decoder(
        step_output.encoded.replace(values=values), step_output.queries, pipeline.encoder.pos_embed
    )
    elsewhere = torch.arange(6) != 3
    assert (
        torch.allclose(again[:, elsewhere], step_output.predictions[:, elsewhere], atol=1e-5)
        != pipeline.decoder.attends_across
    )


@pytest.mark.parametrize("decoder", ["transformer", "cross"])
def test_invalid_visible_tokens_do_not_influence_predictions(build, labelled_spec, ragged, decoder):
    pipeline, series = build_pipeline_that_queries(build, labelled_spec, decoder), ragged()
    step_output = pipeline(series, SampleRNG(0, 1, series.sample_id))
    assert not step_output.encoded.valid.all()
    noisy = torch.where(step_output.encoded.valid[..., None], step_output.encoded.values, 100.0)
    again = pipeline.decoder(step_output.encoded.replace(values=noisy), step_output.queries, pipeline.encoder.pos_embed)
    assert_close(again[step_output.queries.valid], step_output.predictions[step_output.queries.valid])


def test_an_answer_of_the_cross_decoder_does_not_depend_on_the_other_questions(build, labelled_spec, ragged):
    pipeline, series = build_pipeline_that_queries(build, labelled_spec, "cross"), ragged()
    step_output = pipeline(series, SampleRNG(0, 1, series.sample_id))
    some = step_output.queries.gather(torch.tensor([[1, 0]]).expand(4, 2))
    again = pipeline.decoder(step_output.encoded, some, pipeline.encoder.pos_embed)
    assert_close(again, step_output.predictions[:, [1, 0]])


def test_an_answer_of_the_transformer_decoder_does_depend_on_the_other_questions(build, labelled_spec, ragged):
    pipeline, series = build_pipeline_that_queries(build, labelled_spec, "transformer"), ragged()
    step_output = pipeline(series, SampleRNG(0, 1, series.sample_id))
    one = step_output.queries.gather(torch.zeros(4, 1, dtype=torch.long))
    again = pipeline.decoder(step_output.encoded, one, pipeline.encoder.pos_embed)
    assert pipeline.decoder.attends_across
    assert not torch.allclose(again, step_output.predictions[:, :1], atol=1e-4)


# ------------------------------------------------------------------ patch

RAW = Spec(channels=2, length=23)


@pytest.mark.parametrize(
    "options", [{}, {"window": 4}, {"window": 6, "stride": 4}, {"window": 5, "stride": 1}, {"window": 23}]
)
@pytest.mark.parametrize("use", ["patch", "inception"])
def test_targets_of_patches_are_the_samples_and_invert_puts_them_back(options, use):
    tokenizer = build_component("tokenizer", use, RAW, dim=8, **options)
    x = torch.randn(3, 2, 23, generator=torch.Generator().manual_seed(0))
    tokens = tokenizer(Series(x)).check(tokenizer.out)
    assert tokens.valid.all()
    assert_close(tokenizer.targets_to_series(tokens.target, 23), x)
    for n in range(tokens.grid_index.shape[1]):
        start = n * tokenizer.stride
        for c in range(2):
            piece = x[:, c, start : start + tokenizer.window]
            assert_close(tokens.target[:, n].unflatten(1, (2, -1))[:, c, : piece.shape[-1]], piece)


def test_where_patches_overlap_the_answer_is_their_mean():
    tokenizer = build_component("tokenizer", "patch", RAW, dim=8, window=6, stride=4)
    answers = torch.randn(1, tokenizer.out.num_tokens, 12)
    total, count = np.zeros((2, 40)), np.zeros(40)
    for n in range(tokenizer.out.num_tokens):
        total[:, 4 * n : 4 * n + 6] += answers[0, n].reshape(2, 6).numpy()
        count[4 * n : 4 * n + 6] += 1
    assert_close(tokenizer.targets_to_series(answers, 23)[0], torch.tensor((total / count.clip(1))[:, :23]).float())


@pytest.mark.parametrize("use", ["patch", "inception"])
def test_a_series_shorter_than_a_window_is_one_patch(use):
    tokenizer = build_component("tokenizer", use, RAW, dim=8, window=8)
    short = torch.randn(1, 2, 3)
    tokens = tokenizer(Series(short)).check(tokenizer.out)
    assert tokens.grid_index.tolist() == [[0]]
    assert tokens.target_mask[0, 0].reshape(2, 8).sum(1).tolist() == [3, 3]
    assert_close(tokenizer.targets_to_series(tokens.target, 3), short)


def test_a_patch_is_valid_if_any_of_its_samples_was_observed():
    tokenizer = build_component("tokenizer", "patch", RAW, dim=8, window=4)
    observed = torch.zeros(1, 2, 23, dtype=torch.bool)
    observed[0, 1, 9] = observed[0, 0, 22] = True
    tokens = tokenizer(Series(torch.zeros(1, 2, 23), observed))
    assert tokens.valid[0].tolist() == [False, False, True, False, False, True]
    assert tokens.target_mask.sum() == 2


@pytest.mark.parametrize(
    ("options", "error"),
    [({"window": 24}, DataError), ({"window": 4, "stride": 5}, OptionError), ({"window": 0}, OptionError)],
)
def test_windows_that_cannot_be_are_refused(options, error):
    with pytest.raises(error, match="window"):
        build_component("tokenizer", "patch", RAW, **options)
