"""Sinusoids, rotary angles and tables that change size."""

import math

import pytest
import torch

from tstk.errors import CheckpointError, OptionError
from tstk.nn.positions import check_rotary, flatten_positions, resize_pos_embed, rotary_angles, sinusoidal_embedding


@pytest.mark.parametrize(("axes", "dim"), [(1, 1), (1, 7), (2, 2), (2, 7), (3, 7), (3, 12)])
def test_sinusoids_fill_any_width_and_tell_places_apart(axes, dim):
    pos = torch.cartesian_prod(*[torch.arange(3.0)] * axes).reshape(1, -1, axes)
    table = sinusoidal_embedding(pos, dim)
    assert table.shape == (1, 3**axes, dim)
    assert table.abs().max() <= 1
    gaps = torch.cdist(table, table)[0] + torch.eye(3**axes)
    assert gaps.min() > 1e-2


def test_sinusoids_are_the_published_formula():
    table = sinusoidal_embedding(torch.tensor([[[0.0], [2.5]]]), 6, theta=100.0)
    angle = [2.5 / 100 ** (i / 3) for i in range(3)]
    expected = [[0, 0, 0, 1, 1, 1], [*map(math.sin, angle), *map(math.cos, angle)]]
    torch.testing.assert_close(table, torch.tensor([expected]))


def test_angles_are_float32_whatever_the_coordinates():
    for dtype in (torch.long, torch.float64, torch.bfloat16):
        cos, sin = rotary_angles(torch.ones(2, 3, 2, dtype=dtype), 8)
        assert cos.dtype == sin.dtype == torch.float32
        assert cos.shape == (2, 1, 3, 4)
        torch.testing.assert_close(cos**2 + sin**2, torch.ones(2, 1, 3, 4))


def test_a_head_that_cannot_be_shared_among_axes_is_refused_with_those_nearby():
    check_rotary(16, 2)
    with pytest.raises(OptionError, match=r"over 3 axes .* multiple of 6, and it is 16; nearby: 12, 18"):
        check_rotary(16, 3)
    with pytest.raises(OptionError, match=r"nearby: 4$"):
        rotary_angles(torch.zeros(1, 1, 2), 2)


def test_a_table_for_an_equal_grid_is_returned_as_it_is():
    table = torch.randn(13, 5)
    assert resize_pos_embed(table, (3, 4), (3, 4), 1) is table


def test_prefix_rows_are_kept_and_a_line_stays_a_line():
    line = torch.linspace(0, 1, 9)[:, None] * torch.tensor([1.0, -2.0])
    table = torch.cat([torch.full((1, 2), 7.0), line])
    resized = resize_pos_embed(table, (9,), (17,), 1)
    assert resized.shape == (18, 2)
    torch.testing.assert_close(resized[0], table[0])
    inner = resized[2:-1]  # beyond the outermost cell centres the edge is repeated
    torch.testing.assert_close(inner.diff(dim=0), inner.diff(dim=0)[:1].expand(14, 2))


def test_two_axes_are_resized_each_on_its_own():
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(3.0), indexing="ij")
    table = torch.stack([rows, columns], -1).reshape(12, 2)
    resized = resize_pos_embed(table, (4, 3), (8, 3)).reshape(8, 3, 2)
    torch.testing.assert_close(resized[..., 1], torch.arange(3.0).expand(8, 3))
    torch.testing.assert_close(resized[..., 0], resized[:, :1, 0].expand(8, 3))
    assert (resized[1:, 0, 0] > resized[:-1, 0, 0]).all()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [((12,), (3, 4), "one axis"), ((2, 2, 3), (2, 2, 6), "one axis"), ((5,), (6,), "has 12 rows")],
)
def test_tables_that_cannot_be_resized_are_refused(old, new, message):
    with pytest.raises(CheckpointError, match=message):
        resize_pos_embed(torch.zeros(12, 2), old, new)


def test_a_line_numbers_a_grid_with_time_running_fastest():
    pos = torch.cartesian_prod(*map(torch.arange, (4, 3, 2)))[None].float()
    place = flatten_positions(pos, (4, 3, 2))[0, :, 0]
    assert sorted(place.tolist()) == list(range(24))
    assert place[pos[0, :, 1:].sum(1) == 0].tolist() == [0, 1, 2, 3]
    assert torch.equal(flatten_positions(pos[..., :1], (4,)), pos[..., :1])


@pytest.mark.parametrize("dim", [6, 7])
def test_interleaved_sinusoids_are_those_of_the_transformer_paper(dim):
    table = sinusoidal_embedding(torch.arange(5.0)[None, :, None], dim, interleaved=True)[0]
    for position in range(5):
        for i in range(dim):
            angle = position / 10000 ** (i // 2 / ((dim + 1) // 2))
            want = math.sin(angle) if i % 2 == 0 else math.cos(angle)
            assert table[position, i].item() == pytest.approx(want, abs=1e-5)


def test_rounded_angles_are_those_of_a_bfloat16_table():
    pos = torch.arange(900.0).reshape(1, -1, 1)
    exact, rounded = rotary_angles(pos, 64), rotary_angles(pos, 64, round_to_bf16=True)
    for a, b in zip(exact, rounded, strict=True):
        assert b.dtype == torch.float32
        assert torch.equal(b, a.to(torch.bfloat16).to(torch.float32))
        assert 1e-3 < (a - b).abs().max() < 2**-8
