"""Gathering, padding and folding, against plain loops."""

import pytest
import torch

from tstk.core.types import Series, Spec, Tokens

SPEC = Spec(channels=1, length=20, dim=3, grid_size=(5, 2), target_dim=4, vocab_size=7)


def tokens_of(batch=3, seed=0, **changes):
    draw = torch.Generator().manual_seed(seed)
    n = SPEC.num_tokens
    index = torch.arange(n).expand(batch, n)
    full = Tokens(
        torch.randn(batch, n, 3, generator=draw),
        torch.stack([index // 2, index % 2], -1).float(),
        index,
        torch.rand(batch, n, generator=draw) > 0.2,
        target=torch.randn(batch, n, 4, generator=draw),
        target_mask=torch.rand(batch, n, 4, generator=draw) > 0.5,
        ids=torch.randint(7, (batch, n), generator=draw),
        attrs={"start": torch.randn(batch, n, 1, generator=draw), "age": torch.randn(batch, n, generator=draw)},
        prefix=torch.randn(batch, 1, 3, generator=draw),
        aux_losses={"commit": torch.tensor(2.0)},
    )
    return full.replace(**changes)


def rows_of(tokens):
    """Every per-token field, attrs included, by name."""
    names = ("values", "pos", "grid_index", "valid", "target", "target_mask", "ids")
    return {n: getattr(tokens, n) for n in names if getattr(tokens, n) is not None} | tokens.attrs


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_select_keeps_the_order_and_pads_short_rows_with_invalid_tokens(share):
    tokens = tokens_of()
    where = torch.rand(3, 10, generator=torch.Generator().manual_seed(5)) < share
    selected = tokens.select(where)
    assert selected.values.shape[1] == max(int(where.sum(1).max()), 1)
    for name, values in rows_of(selected).items():
        for i in range(3):
            want = [row for row, ok in zip(rows_of(tokens)[name][i], where[i], strict=True) if ok]
            for j, row in enumerate(want):
                assert torch.equal(values[i, j], row), (name, i, j)
    for i in range(3):
        assert not selected.valid[i, int(where[i].sum()) :].any()


def test_selecting_everything_changes_nothing():
    tokens = tokens_of()
    selected = tokens.select(torch.ones_like(tokens.valid))
    assert all(torch.equal(v, rows_of(tokens)[k]) for k, v in rows_of(selected).items())
    assert selected.prefix is tokens.prefix
    assert selected.aux_losses == tokens.aux_losses


def test_select_passes_gradients_to_the_selected_tokens_only():
    tokens = tokens_of()
    tokens.values.requires_grad_()
    where = torch.zeros_like(tokens.valid)
    where[0, 3] = where[2, 1] = where[2, 4] = True
    selected = tokens.select(where)
    selected.values.sum().backward()
    grad = tokens.values.grad
    assert grad[0, 3].eq(1).all()
    assert grad[2, 1].eq(1).all()
    assert grad[2, 4].eq(1).all()


def test_gather_takes_any_rows_and_combines_validity():
    tokens = tokens_of()
    rows = torch.tensor([[9, 0, 0], [1, 2, 3], [5, 5, 4]])
    ok = torch.tensor([[True, False, True]] * 3)
    taken = tokens.gather(rows, ok)
    for i in range(3):
        for j in range(3):
            assert torch.equal(taken.values[i, j], tokens.values[i, rows[i, j]])
            assert torch.equal(taken.attrs["age"][i, j], tokens.attrs["age"][i, rows[i, j]])
            assert taken.valid[i, j] == (tokens.valid[i, rows[i, j]] & ok[i, j])


def test_cat_concatenates_and_drops_fields_that_only_one_has():
    first, second = tokens_of(seed=1), tokens_of(seed=2, ids=None, attrs={"age": torch.zeros(3, 10)})
    both = first.cat(second)
    for name in ("values", "pos", "grid_index", "valid", "target", "target_mask"):
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


def test_end_positions_are_measured_in_samples():
    tokens = tokens_of()
    assert torch.equal(
        tokens.end_positions(Spec(1, 20, stride=3.0, patch_len=5.0))[0],
        torch.tensor([5, 5, 8, 8, 11, 11, 14, 14, 17, 17.0]),
    )


def test_check_returns_tokens_that_match_their_spec():
    tokens = tokens_of()
    assert tokens.check(SPEC) is tokens


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"pos": torch.zeros(3, 10, 1)}, "pos"),
        ({"pos": None}, "pos is None"),
        ({"values": torch.zeros(3, 10, 9)}, "values"),
        ({"target": torch.zeros(3, 10, 9)}, "target"),
        ({"target_mask": torch.zeros(3, 10, 9)}, "target_mask"),
        ({"ids": None}, "ids"),
        ({"valid": torch.ones(3, 10)}, "valid is torch.float32"),
        ({"grid_index": torch.zeros(3, 10)}, "grid_index is torch.float32"),
        ({"grid_index": torch.full((3, 10), 10)}, "grid_index ranges from 10 to 10"),
        ({"grid_index": torch.full((3, 10), -1)}, "grid_index ranges from -1"),
    ],
)
def test_check_names_the_field_that_does_not_match_the_spec(changes, word):
    with pytest.raises(ValueError, match=word):
        tokens_of(**changes).check(SPEC, "mine")


def test_fold_channels_makes_each_channel_a_series_with_its_own_sample_id():
    x = torch.randn(2, 3, 5)
    observed = torch.rand(2, 3, 5) > 0.3
    extra = {"text": (torch.randn(2, 4, 6), torch.ones(2, 4, dtype=torch.bool))}
    folded = Series(x, observed, torch.tensor([7, 8]), torch.tensor([4, 9]), extra).fold_channels()
    for b in range(2):
        for c in range(3):
            row = b * 3 + c
            assert torch.equal(folded.x[row, 0], x[b, c])
            assert torch.equal(folded.observed[row, 0], observed[b, c])
            assert folded.y[row] == [7, 8][b]
            assert torch.equal(folded.conditioning["text"][0][row], extra["text"][0][b])
    assert folded.sample_id.tolist() == [12, 13, 14, 27, 28, 29]


def test_fold_channels_folds_a_future_with_its_channel():
    y = torch.randn(2, 3, 4)
    folded = Series(torch.randn(2, 3, 5), y=y).fold_channels()
    assert folded.observed is None
    assert folded.sample_id is None
    assert torch.equal(folded.y, y.reshape(6, 1, 4))


def test_moving_a_series_keeps_every_field():
    extra = {"text": (torch.randn(1, 4, 6), torch.ones(1, 4, dtype=torch.bool))}
    series = Series(torch.randn(1, 2, 3), torch.ones(1, 2, 3, dtype=torch.bool), torch.zeros(1), torch.zeros(1), extra)
    moved = series.to("meta")
    assert {
        moved.x.device,
        moved.observed.device,
        moved.y.device,
        moved.sample_id.device,
        moved.conditioning["text"][0].device,
    } == {torch.device("meta")}
    assert series.x.device.type == "cpu"


def test_observed_mask_is_all_true_by_default():
    assert Series(torch.zeros(1, 2, 3)).observed_mask.all()


def test_to_grid_puts_each_valid_token_into_its_cell_and_from_grid_reads_it_back():
    tokens = tokens_of().gather(torch.randperm(10, generator=torch.Generator().manual_seed(3)).expand(3, 10))
    tokens.values[~tokens.valid] = torch.nan  # invalid values are never used
    tokens.values.requires_grad_()
    grid, mask = tokens.to_grid(SPEC.grid_size), tokens.grid_mask(SPEC.grid_size)
    want, filled = torch.zeros(3, 3, 5, 2), torch.zeros(3, 5, 2, dtype=torch.bool)
    for i in range(3):
        for j in range(10):
            if tokens.valid[i, j]:
                cell = divmod(int(tokens.grid_index[i, j]), 2)
                want[(i, slice(None), *cell)] = tokens.values[i, j].detach()
                filled[(i, *cell)] = True
    assert torch.equal(grid, want)
    assert torch.equal(mask, filled)
    assert torch.equal(tokens.to_grid((10,)), want.flatten(2))
    back = tokens.from_grid(grid)
    assert torch.equal(back.values[tokens.valid], tokens.values[tokens.valid])
    assert torch.equal(back.pos, tokens.pos)
    (back.values * torch.arange(10.0)[:, None]).sum().backward()
    assert torch.equal(tokens.values.grad, torch.where(tokens.valid, torch.arange(10.0), 0)[..., None].expand(3, 10, 3))
