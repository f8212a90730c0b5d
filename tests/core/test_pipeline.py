"""Properties of every pipeline: independence of the batch, of padding and of the future."""

import pytest
import torch

from tests.support.grids import slow_after
from tstk.core.pipeline import Pipeline
from tstk.core.rng import SampleRNG
from tstk.core.types import Series
from tstk.errors import DataError, IncompatibleError, OptionError
from tstk.plugins.registry import get_registry

ENCODERS = [e.name for e in get_registry().list_entries("encoder") if e.dist == "tstk"]
HEADS = ["linear", "cot", "residual-mlp"]
SIZES = {"bert": {"dim": 16, "depth": 1, "heads": 2}, "hf": {"dim": 16, "depth": 1, "heads": 2}}
TAIL = {"use": "masked", "policy": "tail"}
forecasters = pytest.mark.parametrize(
    "slots", [{"head": "forecast"}, {"decoder": "transformer", "loss": TAIL}], ids=["head", "mask"]
)


def encoder(name):
    return {"use": name, **SIZES.get(name, {})}


def assert_close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def select_row(series, i):
    """Return row i as a batch, cropped to its last observed sample."""
    observed = series.observed_mask[i : i + 1]
    length = int(observed.any(1).nonzero()[:, 1].max()) + 1
    y = None if series.y is None else series.y[i : i + 1]
    return Series(series.x[i : i + 1, :, :length], observed[..., :length], y, series.sample_id[i : i + 1])


def pad(series, more):
    return series.replace(
        x=torch.nn.functional.pad(series.x, (0, more)),
        observed=torch.nn.functional.pad(series.observed_mask, (0, more)),
    )


# ------------------------------------------------------------------ companions


@pytest.mark.parametrize("wiring", slow_after(1, [{}, {"channels": "independent"}, {"instance_norm": True}]), ids=str)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "hf" else []) for name in ENCODERS]
)
def test_padding_and_the_rest_of_the_batch_change_no_class_vector_or_token(build, labelled_spec, ragged, name, wiring):
    series = ragged()
    tokenizer = {"use": "inception", "dim": 16, "window": 4, "stride": 3, "width": 8, "depth": 4}
    pipeline = build(labelled_spec, wiring=wiring, tokenizer=tokenizer, encoder=encoder(name), head="cot").eval()
    logits, vectors, tokens = pipeline.predict_batch(series), pipeline.embed_batch(series), pipeline.encode(series)
    for i in range(len(series.x)):
        one = select_row(series, i)
        assert_close(pipeline.predict_batch(one)[0], logits[i])
        assert_close(pipeline.embed_batch(one)[0], vectors[i])
        small = pipeline.encode(one)
        where = small.valid[0]
        assert torch.equal(small.grid_index[0][where], tokens.grid_index[i][tokens.valid[i]])
        assert_close(small.values[0][where], tokens.values[i][tokens.valid[i]])


@pytest.mark.parametrize("head", HEADS)
def test_padding_changes_no_head(build, labelled_spec, ragged, head):
    pipeline = build(labelled_spec.replace(length=40), head=head).eval()
    assert_close(pipeline.predict_batch(ragged()), pipeline.predict_batch(pad(ragged(), 16)))


def test_padding_and_the_rest_of_the_batch_change_no_forecast(build, table_spec, windows):
    series = windows()
    for slots in ({"head": "forecast"}, {"decoder": "transformer", "loss": TAIL}):
        pipeline = build(table_spec, **slots).eval()
        whole = pipeline.predict_batch(series)
        for i in range(len(series.x)):
            row = slice(i, i + 1)
            assert_close(pipeline.predict_batch(Series(series.x[row], series.observed_mask[row]))[0], whole[i])


@pytest.mark.parametrize("garbage", [1e6, float("nan"), float("inf")])
def test_values_stored_where_nothing_was_observed_never_matter(build, labelled_spec, ragged, garbage):
    clean = ragged()
    dirty = clean.replace(x=clean.x.masked_fill(~clean.observed, garbage))
    for slots in ({"head": "linear"}, {"decoder": "cross"}):
        pipeline = build(labelled_spec, wiring={"instance_norm": True}, **slots).eval()
        a, b = (pipeline(s, SampleRNG(0, 0, s.sample_id)) for s in (clean, dirty))
        assert torch.equal(a.loss, b.loss)
        assert torch.equal(pipeline.embed_batch(clean), pipeline.embed_batch(dirty))


def test_a_series_without_any_observation_gives_numbers(build, labelled_spec, ragged):
    series = ragged()
    series.observed[1] = False
    for slots in ({"head": "cot"}, {"decoder": "transformer"}):
        pipeline = build(labelled_spec, wiring={"instance_norm": True}, **slots)
        step_output = pipeline(series, SampleRNG(0, 0, series.sample_id))
        step_output.loss.backward()
        assert step_output.loss.isfinite()
        assert all(p.grad.isfinite().all() for p in pipeline.parameters() if p.grad is not None)
        assert pipeline.embed_batch(series).isfinite().all()


def test_a_series_that_is_too_long_is_refused_with_both_numbers(build, labelled_spec, ragged):
    pipeline = build(labelled_spec, head="linear")
    with pytest.raises(DataError, match="40 samples is longer than the 24"):
        pipeline.predict_batch(pad(ragged(), 16))


# ------------------------------------------------------------------ the future


@pytest.mark.parametrize("instance_norm", [True, False])
@pytest.mark.parametrize("decoder", ["transformer", "cross"])
def test_forecasting_by_masking_never_sees_the_future(build, table_spec, windows, decoder, instance_norm):
    series = windows()
    other = series.replace(y=series.y * 7 + 100)
    # convolutions reach over the border between patches, so only blanking keeps the future out
    tokenizer = {"use": "inception", "dim": 16, "window": 5, "stride": 3, "width": 8, "depth": 1}
    slots = {"tokenizer": tokenizer, "decoder": decoder, "loss": TAIL}
    pipeline = build(table_spec, wiring={"instance_norm": instance_norm}, **slots).eval()
    assert torch.equal(pipeline.predict_batch(series), pipeline.predict_batch(other))
    assert torch.equal(pipeline.predict_batch(series), pipeline.predict_batch(series.replace(y=None)))
    a, b = (pipeline(s, SampleRNG(0, 0, s.sample_id)) for s in (series, other))
    assert torch.equal(a.predictions, b.predictions)
    assert not torch.equal(a.loss, b.loss)


def test_training_by_masking_asks_for_just_the_future(build, table_spec, windows):
    step_output = build(table_spec, decoder="cross", loss=TAIL)(windows())
    assert step_output.queries.valid.sum(1).eq(2).all()
    assert step_output.queries.grid_index[0].tolist() == [6, 7]
    assert step_output.visible.grid_index.max() == 5


def test_unobserved_future_samples_do_not_count(build, table_spec, windows):
    pipeline = build(table_spec, decoder="cross", loss=TAIL).eval()
    step_output = pipeline(windows())
    weight = step_output.queries.target_mask & step_output.queries.valid[..., None]
    assert weight.sum() == step_output.targets.isfinite().sum() == 4 * 2 * 8 - 1
    want = ((step_output.predictions - step_output.queries.target)[weight]).square().mean()
    assert_close(step_output.loss, want)


def test_a_short_context_ends_where_the_future_begins(build, table_spec, windows):
    series = windows()
    late = Series(series.x[..., 10:], series.observed_mask[..., 10:], series.y)
    blind = Series(series.x, series.observed_mask & (torch.arange(24) >= 10), series.y)
    for slots in ({"head": "forecast"}, {"decoder": "transformer", "loss": TAIL}):
        pipeline = build(table_spec, **slots).eval()
        assert_close(pipeline.predict_batch(late), pipeline.predict_batch(blind))
        assert torch.equal(pipeline.predict_batch(late), pipeline.predict_batch(late.replace(y=late.y * 7)))


def test_pretraining_on_a_table_without_asking_for_a_future_predicts_nothing(build, table_spec, windows):
    pipeline = build(table_spec, loss="reconstruct")
    assert pipeline(windows()).loss.isfinite()
    with pytest.raises(OptionError, match="--head forecast"):
        pipeline.predict_batch(windows())


def test_pretraining_on_labelled_series_predicts_nothing(build, labelled_spec, ragged):
    with pytest.raises(OptionError, match="--head linear"):
        build(labelled_spec, decoder="cross").predict_batch(ragged())


def test_forecasting_from_a_decoder_needs_a_tokenizer_that_can_be_inverted(build, table_spec):
    from tstk.builtin.tokenizers.patch import Patch

    class Oneway(Patch):
        invertible = False

    good = build(table_spec, decoder="cross", loss=TAIL)
    parts = (Oneway(good.tokenizer.spec, dim=16), good.encoder, good.loss, good.decoder)
    with pytest.raises(IncompatibleError, match="cannot turn predictions back into samples"):
        type(good)(table_spec, *parts)


def test_an_embedding_does_not_depend_on_the_future(build, table_spec, windows):
    pipeline, series = build(table_spec, decoder="cross", loss=TAIL).eval(), windows()
    assert torch.equal(pipeline.embed_batch(series), pipeline.embed_batch(series.replace(y=None)))


# ------------------------------------------------------------------ scale and channels


def test_instance_statistics_come_from_observed_samples_of_the_context(build, table_spec, windows):
    series = windows()
    step_output = build(table_spec, decoder="cross", loss=TAIL)(series)
    for i in range(4):
        for c in range(2):
            known = series.x[i, c][series.observed_mask[i, c]]
            assert_close(step_output.loc[i, c, 0], known.mean())
            assert_close(step_output.scale[i, c, 0], (known.var(correction=0) + 1e-5).sqrt())


@forecasters
@pytest.mark.parametrize("instance_norm", [True, False])
def test_predictions_are_in_the_units_of_the_data(build, table_spec, windows, slots, instance_norm):
    series = windows()
    pipeline = build(table_spec, wiring={"instance_norm": instance_norm}, **slots).eval()
    unit = pipeline.predict_batch(series)
    mean, std = torch.tensor([[5.0], [-2.0]]), torch.tensor([[10.0], [0.5]])
    pipeline.mean.copy_(mean)
    pipeline.std.copy_(std)
    raw = pipeline.predict_batch(Series(series.x * std + mean, series.observed_mask))
    torch.testing.assert_close(raw, unit * std + mean, rtol=1e-3, atol=1e-4)


@forecasters
def test_instance_normalisation_is_undone_on_the_way_out(build, table_spec, windows, slots):
    series = windows()
    pipeline = build(table_spec, wiring={"instance_norm": True}, **slots).eval()
    moved = pipeline.predict_batch(series.replace(x=series.x * 3 + 50))
    torch.testing.assert_close(moved, pipeline.predict_batch(series) * 3 + 50, rtol=1e-3, atol=1e-3)


@forecasters
def test_independent_channels_are_forecast_as_if_each_were_alone(build, table_spec, windows, slots):
    series = windows()
    both, single = build(table_spec, **slots).eval(), build(table_spec.replace(channels=1), **slots).eval()
    single.load_state_dict({k: v for k, v in both.state_dict().items() if k not in ("mean", "std")}, strict=False)
    whole = both.predict_batch(series)
    for c in range(2):
        assert_close(
            whole[:, c : c + 1],
            single.predict_batch(Series(series.x[:, c : c + 1], series.observed_mask[:, c : c + 1])),
        )


def test_independent_channels_do_not_see_one_another(build, labelled_spec, ragged):
    pipeline = build(labelled_spec, wiring={"channels": "independent"}, head="linear").eval()
    series, changed = ragged(), ragged()
    changed.x[:, 1] += 5
    a, b = pipeline.encode(series), pipeline.encode(changed)
    first = a.pos[0, :, -1] == 0
    assert torch.equal(a.values[:, first], b.values[:, first])
    assert not torch.equal(a.values[:, ~first], b.values[:, ~first])
    assert a.grid_index[0].unique().numel() == a.grid_index.shape[1] == 12


# ------------------------------------------------------------------ frozen


def test_frozen_means_eval_no_gradient_no_state_moved_and_penalties_only_logged(
    build, labelled_spec, ragged, syllables
):
    pipeline = build(labelled_spec, tokenizer=syllables, encoder="identity", loss="reconstruct", decoder="own")
    step_output = pipeline.train()(ragged())
    assert torch.equal(step_output.loss, step_output.losses["reconstruction"] + step_output.losses["commit"])
    pipeline.after_step([step_output])
    assert pipeline.tokenizer.steps == 1
    pipeline.freeze("tokenizer")
    step_output = pipeline.train()(ragged())
    assert torch.equal(step_output.loss, step_output.losses["reconstruction"])
    assert "commit" in step_output.losses
    pipeline.after_step([step_output])
    assert pipeline.tokenizer.steps == 1
    assert pipeline.training
    assert not any(m.training for m in pipeline.tokenizer.modules())
    assert not any(p.requires_grad for p in pipeline.tokenizer.parameters())


def test_a_part_of_a_slot_and_a_single_parameter_can_be_frozen(build, labelled_spec, ragged):
    pipeline = build(labelled_spec, head="linear")
    pipeline.freeze("encoder.stack")
    pipeline.freeze("encoder.table")
    pipeline.train()(ragged()).loss.backward()
    still = {n for n, p in pipeline.named_parameters() if p.grad is None}
    assert still == {n for n, _ in pipeline.named_parameters() if n.startswith(("encoder.stack.", "encoder.table"))}
    assert pipeline.encoder.training
    assert not pipeline.encoder.stack.training


@pytest.mark.parametrize("path", ["encodr", "decoder", "", "encoder.stakc"])
def test_freezing_what_is_not_there_is_refused(build, labelled_spec, path):
    with pytest.raises(OptionError, match="no such part"):
        build(labelled_spec, head="linear").freeze(path)


# ------------------------------------------------------------------ whole answers


def test_the_own_decoder_of_a_tokenizer_predicts_a_series(build, labelled_spec, ragged, syllables):
    series = ragged()
    pipeline = build(labelled_spec, tokenizer=syllables, encoder="identity", loss="reconstruct", decoder="own").eval()
    step_output = pipeline(series)
    assert step_output.predictions.shape == series.x.shape
    error = (step_output.predictions - step_output.series.x)[series.observed]
    assert_close(step_output.losses["reconstruction"], error.square().mean())
    assert not any(name.startswith("decoder") for name in pipeline.state_dict())


def test_a_decoder_of_series_is_refused_by_a_loss_over_tokens(build, labelled_spec, syllables):
    with pytest.raises(IncompatibleError):
        build(labelled_spec, tokenizer=syllables, encoder={"causal": True}, loss="next-code", decoder="own")
    with pytest.raises(IncompatibleError, match="has none"):
        build(labelled_spec, loss="reconstruct", decoder="own")


# ------------------------------------------------------------------ embeddings


def test_an_embedding_is_the_pool_of_valid_tokens(build, labelled_spec, ragged):
    pipeline = build(labelled_spec, encoder={"cls": True}, head="linear").eval()
    series = ragged()
    tokens = pipeline.encode(series)
    for i in range(4):
        values = tokens.values[i][tokens.valid[i]]
        assert_close(pipeline.embed_batch(series, "mean")[i], values.mean(0))
        assert_close(pipeline.embed_batch(series, "max")[i], values.amax(0))
    assert_close(pipeline.embed_batch(series, "cls"), tokens.prefix[:, 0])


def test_a_cls_embedding_without_a_cls_token_is_refused(build, labelled_spec, ragged):
    with pytest.raises(OptionError, match="no CLS token"):
        build(labelled_spec, head="linear").embed_batch(ragged(), "cls")


def test_a_decoder_that_predicts_states_cannot_forecast(build, table_spec, windows):
    parts = dict(build(table_spec, loss={"use": "masked"}).named_slots())
    assert Pipeline(table_spec, **parts).can_forecast
    parts["loss"].out = parts["loss"].out.replace(target_dim=None)
    pipeline = Pipeline(table_spec, **parts)
    assert not pipeline.can_forecast
    with pytest.raises(OptionError, match="--head forecast"):
        pipeline.predict_batch(windows())


def test_instance_normalization_divides_by_the_unbiased_deviation_on_request(build, labelled_spec, ragged):
    pipeline = build(labelled_spec, wiring={"instance_norm": True, "unbiased_norm": True}, head="linear").eval()
    raw = ragged()
    series, _, _ = pipeline.instance_normalize(raw)
    observed = raw.observed_mask
    for b in range(len(raw.x)):
        for c in range(raw.x.shape[1]):
            samples = raw.x[b, c, observed[b, c]].double()
            if len(samples) > 1:
                want = (samples - samples.mean()) / (samples.var(correction=1) + 1e-5).sqrt()
                torch.testing.assert_close(series.x[b, c, observed[b, c]].double(), want, atol=1e-5, rtol=1e-5)
    with pytest.raises(OptionError, match="--unbiased-norm has no effect"):
        build(labelled_spec, wiring={"unbiased_norm": True}, head="linear")
