"""Gathering, padding and folding, against plain loops."""

import pytest
import torch

from tstk.core.types import Series, Spec, Tokens

SPEC = Spec(channels=1, length=20, dim=3, grid=(5, 2), target=4, vocab=7)


def tokens_of(batch=3, seed=0, **changes):
    draw = torch.Generator().manual_seed(seed)
    n = SPEC.tokens
    index = torch.arange(n).expand(batch, n)
    full = Tokens(
        torch.randn(batch, n, 3, generator=draw),
        torch.stack([index // 2, index % 2], -1).float(),
        index,
        torch.rand(batch, n, generator=draw) > 0.2,
        target=torch.randn(batch, n, 4, generator=draw),
        weight=torch.rand(batch, n, 4, generator=draw) > 0.5,
        ids=torch.randint(7, (batch, n), generator=draw),
        attrs={"start": torch.randn(batch, n, 1, generator=draw), "age": torch.randn(batch, n, generator=draw)},
        prefix=torch.randn(batch, 1, 3, generator=draw),
        aux={"commit": torch.tensor(2.0)},
    )
    return full.but(**changes)


def rows_of(tokens):
    """Every per-token field, attrs included, by name."""
    names = ("values", "pos", "index", "valid", "target", "weight", "ids")
    return {n: getattr(tokens, n) for n in names if getattr(tokens, n) is not None} | tokens.attrs


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_keep_takes_the_tokens_at_true_in_order_and_pads_short_rows_with_invalid_ones(share):
    tokens = tokens_of()
    where = torch.rand(3, 10, generator=torch.Generator().manual_seed(5)) < share
    kept = tokens.keep(where)
    assert kept.values.shape[1] == max(int(where.sum(1).max()), 1)
    for name, values in rows_of(kept).items():
        for i in range(3):
            want = [row for row, ok in zip(rows_of(tokens)[name][i], where[i], strict=True) if ok]
            for j, row in enumerate(want):
                assert torch.equal(values[i, j], row), (name, i, j)
    for i in range(3):
        assert not kept.valid[i, int(where[i].sum()) :].any()


def test_keep_of_everything_changes_nothing():
    tokens = tokens_of()
    kept = tokens.keep(torch.ones_like(tokens.valid))
    assert all(torch.equal(v, rows_of(tokens)[k]) for k, v in rows_of(kept).items())
    assert kept.prefix is tokens.prefix
    assert kept.aux == tokens.aux


def test_keep_passes_gradients_to_the_kept_tokens_alone():
    tokens = tokens_of()
    tokens.values.requires_grad_()
    where = torch.zeros_like(tokens.valid)
    where[0, 3] = where[2, 1] = where[2, 4] = True
    kept = tokens.keep(where)
    kept.values.sum().backward()
    grad = tokens.values.grad
    assert grad[0, 3].eq(1).all()
    assert grad[2, 1].eq(1).all()
    assert grad[2, 4].eq(1).all()


def test_at_gathers_any_rows_and_and_combines_validity():
    tokens = tokens_of()
    rows = torch.tensor([[9, 0, 0], [1, 2, 3], [5, 5, 4]])
    ok = torch.tensor([[True, False, True]] * 3)
    taken = tokens.at(rows, ok)
    for i in range(3):
        for j in range(3):
            assert torch.equal(taken.values[i, j], tokens.values[i, rows[i, j]])
            assert torch.equal(taken.attrs["age"][i, j], tokens.attrs["age"][i, rows[i, j]])
            assert taken.valid[i, j] == (tokens.valid[i, rows[i, j]] & ok[i, j])


def test_append_puts_one_after_the_other_and_drops_what_only_one_has():
    first, second = tokens_of(seed=1), tokens_of(seed=2, ids=None, attrs={"age": torch.zeros(3, 10)})
    both = first.append(second)
    for name in ("values", "pos", "index", "valid", "target", "weight"):
        assert torch.equal(getattr(both, name), torch.cat([getattr(first, name), getattr(second, name)], 1))
    assert both.ids is None
    assert both.attrs.keys() == {"age"}
    assert both.prefix is first.prefix


def test_repeat_stacks_whole_batches():
    tokens = tokens_of()
    twice = tokens.repeat(2)
    for name, values in rows_of(twice).items():
        assert torch.equal(values[:3], rows_of(tokens)[name])
        assert torch.equal(values[3:], rows_of(tokens)[name])
    assert len(twice.prefix) == 6
    assert tokens.repeat(1) is tokens


def test_ends_are_measured_in_samples():
    tokens = tokens_of()
    assert torch.equal(
        tokens.ends(Spec(1, 20, step=3.0, span=5.0))[0], torch.tensor([5, 5, 8, 8, 11, 11, 14, 14, 17, 17.0])
    )


def test_check_returns_what_keeps_its_promise():
    tokens = tokens_of()
    assert tokens.check(SPEC) is tokens


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"pos": torch.zeros(3, 10, 1)}, "pos"),
        ({"pos": None}, "pos is None"),
        ({"values": torch.zeros(3, 10, 9)}, "values"),
        ({"target": torch.zeros(3, 10, 9)}, "target"),
        ({"weight": torch.zeros(3, 10, 9)}, "weight"),
        ({"ids": None}, "ids"),
        ({"valid": torch.ones(3, 10)}, "valid is torch.float32"),
        ({"index": torch.zeros(3, 10)}, "index is torch.float32"),
        ({"index": torch.full((3, 10), 10)}, "index reaches 10"),
        ({"index": torch.full((3, 10), -1)}, "index reaches"),
    ],
)
def test_check_names_the_field_that_breaks_its_promise(changes, word):
    with pytest.raises(ValueError, match=word):
        tokens_of(**changes).check(SPEC, "mine")


def test_fold_makes_a_series_of_each_channel_and_gives_it_a_key_of_its_own():
    x = torch.randn(2, 3, 5)
    observed = torch.rand(2, 3, 5) > 0.3
    extra = {"text": (torch.randn(2, 4, 6), torch.ones(2, 4, dtype=torch.bool))}
    folded = Series(x, observed, torch.tensor([7, 8]), torch.tensor([4, 9]), extra).fold()
    for b in range(2):
        for c in range(3):
            row = b * 3 + c
            assert torch.equal(folded.x[row, 0], x[b, c])
            assert torch.equal(folded.observed[row, 0], observed[b, c])
            assert folded.y[row] == [7, 8][b]
            assert torch.equal(folded.extra["text"][0][row], extra["text"][0][b])
    assert folded.key.tolist() == [12, 13, 14, 27, 28, 29]


def test_fold_folds_a_future_with_its_channel():
    y = torch.randn(2, 3, 4)
    folded = Series(torch.randn(2, 3, 5), y=y).fold()
    assert folded.observed is None
    assert folded.key is None
    assert torch.equal(folded.y, y.reshape(6, 1, 4))


def test_moving_a_series_keeps_every_field():
    extra = {"text": (torch.randn(1, 4, 6), torch.ones(1, 4, dtype=torch.bool))}
    series = Series(torch.randn(1, 2, 3), torch.ones(1, 2, 3, dtype=torch.bool), torch.zeros(1), torch.zeros(1), extra)
    moved = series.to("meta")
    assert {moved.x.device, moved.observed.device, moved.y.device, moved.key.device, moved.extra["text"][0].device} == {
        torch.device("meta")
    }
    assert series.x.device.type == "cpu"


def test_mask_spells_out_that_everything_was_observed():
    assert Series(torch.zeros(1, 2, 3)).mask.all()
