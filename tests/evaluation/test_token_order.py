"""Shuffling tokens in time permutes their contents and nothing else."""

import pytest
import torch

from tstk.core.rng import SampleRNG
from tstk.core.types import Tokens
from tstk.errors import DataError
from tstk.evaluation.classification import standard_error_of_mean
from tstk.evaluation.token_order import (
    TokenOrderResult,
    evaluate_token_order,
    shuffle_tokenizer_output,
    shuffle_tokens,
    why_order_undefined,
)


def make_grid_tokens(times=6, lanes=3, batch=4):
    """Tokens of a grid, time first; of the second series the last two times are padding."""
    time, lane = torch.meshgrid(torch.arange(times), torch.arange(lanes), indexing="ij")
    pos = torch.stack([time, lane], -1).flatten(0, 1).float()[:, : 1 + (lanes > 1)].expand(batch, -1, -1)
    index = torch.arange(times * lanes).expand(batch, -1)
    valid = torch.ones(batch, times * lanes, dtype=torch.bool)
    valid[1, (times - 2) * lanes :] = False
    # what a token holds tells where it came from: its series, its time, its lane
    values = torch.cat(
        [torch.arange(batch)[:, None, None].expand(-1, times * lanes, 1), pos.long(), index[..., None]], -1
    )
    return Tokens(values.float(), pos, index, valid, ids=index)


@pytest.mark.parametrize("lanes", [1, 3])
def test_contents_move_within_their_series_and_places_stay(lanes):
    tokens = make_grid_tokens(lanes=lanes)
    moved = shuffle_tokens(tokens, SampleRNG(0, 0, torch.arange(4)))
    for name in ("pos", "grid_index", "valid"):
        assert torch.equal(getattr(moved, name), getattr(tokens, name))
    for b in range(4):
        valid = tokens.valid[b]
        assert sorted(moved.ids[b][valid].tolist()) == tokens.ids[b][valid].tolist()
        assert torch.equal(moved.ids[b][~valid], tokens.ids[b][~valid])
    assert torch.equal(moved.values[..., -1].long(), moved.ids)
    assert torch.equal(moved.values[..., 0], tokens.values[..., 0])
    assert not torch.equal(moved.ids, tokens.ids)


def test_columns_of_a_grid_stay_together():
    tokens = make_grid_tokens(lanes=3)
    moved = shuffle_tokens(tokens, SampleRNG(0, 0, torch.arange(4))).values.unflatten(1, (6, 3))
    assert torch.equal(moved[..., 2], tokens.values.unflatten(1, (6, 3))[..., 2])
    assert (moved[..., 1] == moved[..., :1, 1]).all()


def test_an_order_belongs_to_a_series_not_to_its_batch_and_differs_between_draws():
    tokens, key = make_grid_tokens(times=8, lanes=1), torch.arange(4)
    together = shuffle_tokens(tokens, SampleRNG(0, 0, key)).ids
    alone = torch.cat(
        [shuffle_tokens(tokens.map(lambda t, b=b: t[b : b + 1]), SampleRNG(0, 0, key[b : b + 1])).ids for b in range(4)]
    )
    assert torch.equal(together, alone)
    assert not torch.equal(together, shuffle_tokens(tokens, SampleRNG(0, 1, key)).ids)


def test_tokens_of_one_time_have_no_order():
    tokens = make_grid_tokens(times=1, lanes=3).replace(valid=torch.ones(4, 3, dtype=torch.bool))
    assert torch.equal(shuffle_tokens(tokens, SampleRNG(0, 0, torch.arange(4))).ids, tokens.ids)


@pytest.mark.parametrize("channels", ["mixed", "independent"])
def test_what_pools_tokens_alone_scores_the_same_and_the_tokenizer_is_left_as_it_was(
    build, labelled_spec, ragged, channels
):
    parts = {"encoder": "identity", "head": "linear"}
    pipeline, series = build(labelled_spec, wiring={"channels": channels}, **parts), ragged(batch=12)
    before = pipeline.predict_batch(series)
    result = evaluate_token_order(pipeline, [series])
    assert result.shuffled == result.accuracy
    assert not result.uses_order
    assert "does not use the order" in result.summary
    assert torch.equal(pipeline.predict_batch(series), before)


def test_channels_of_a_series_are_shuffled_alike(build, labelled_spec, ragged):
    pipeline = build(labelled_spec, head="linear", wiring={"channels": "independent"}).eval()
    series = ragged()
    series = series.replace(x=series.x[:, :1].expand(-1, 2, -1), observed=series.observed[:, :1].expand(-1, 2, -1))
    with shuffle_tokenizer_output(pipeline, 0, 0):
        tokens = pipeline.tokenize(series).tokens
    assert torch.equal(tokens.values[0::2], tokens.values[1::2])


def test_a_fall_counts_if_it_is_large_and_more_than_chance():
    readings = {
        TokenOrderResult(0.9, 0.5, 0.01, 0.02, 5): "uses the order",
        TokenOrderResult(0.9, 0.87, 0.01, 0.001, 5): "hardly uses the order",
        TokenOrderResult(0.9, 0.8, 0.01, 0.2, 5): "does not use the order",
        TokenOrderResult(0.8, 0.9, 0.01, 0.001, 5): "does not use the order",
    }
    for result, verdict in readings.items():
        assert result.summary.endswith(f"the model {verdict}")
        assert result.uses_order == (verdict == "uses the order")


def test_the_error_of_a_mean_is_over_groups_where_there_are_some():
    values = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    assert standard_error_of_mean(values) == pytest.approx((2 / 3 * 1 / 3 / 6) ** 0.5)
    assert standard_error_of_mean(values, list("aabbcc")) == pytest.approx(
        torch.tensor([0.5, 0.5, 1.0]).std().item() / 3**0.5
    )


def test_pipelines_that_shuffling_cannot_test_are_refused_with_the_reason(build, labelled_spec, table_spec, ragged):
    assert why_order_undefined(build(labelled_spec, head="linear")) is None
    assert "forecasts" in why_order_undefined(build(table_spec, head="forecast"))
    assert "without a task" in why_order_undefined(build(labelled_spec, loss="masked", decoder="transformer"))
    assert "one token" in why_order_undefined(build(labelled_spec, head="linear", tokenizer={"window": 24}))
    unlabelled = ragged().replace(y=torch.full((4,), -1))
    with pytest.raises(DataError, match="known class"):
        evaluate_token_order(build(labelled_spec, head="linear"), [unlabelled])


def test_the_order_of_tokens_is_tested_for_classifiers_alone(build, labelled_spec):
    pipeline = build(labelled_spec.replace(task="regression"), head="linear", loss="mse")
    assert "is for classifiers" in why_order_undefined(pipeline)
