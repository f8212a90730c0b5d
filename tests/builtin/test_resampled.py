"""Tokens of series of any length."""

import pytest
import torch

from tstk.builtin.tokenizers.resampled import Resampled
from tstk.core.types import Series, Spec
from tstk.errors import DataError, OptionError
from tstk.testing.fixture import make_series


def tokenizer(length=40, channels=1, **options):
    torch.manual_seed(0)
    return Resampled(
        Spec(channels=channels, length=length), **{"dim": 8, "width": 4, "samples": 64, "tokens": 4} | options
    )


def waves(length, batch=3):
    time = torch.linspace(0, 1, length)
    return torch.stack([(2 + row) * (3 * (1 + row) * time).sin() for row in range(batch)])[:, None]


def test_the_number_of_samples_changes_tokens_no_more_than_interpolation_does():
    make = tokenizer()
    fine, coarse = make(Series(waves(640))).values, make(Series(waves(320))).values
    assert fine.shape == (3, 4, 8)
    torch.testing.assert_close(coarse, fine, rtol=0, atol=0.05)
    assert not torch.allclose(make(Series(waves(640).flip(2))).values, fine, atol=0.5)


def test_what_follows_the_end_of_a_series_changes_nothing():
    make, x = tokenizer(channels=2), torch.randn(2, 2, 20, generator=torch.Generator().manual_seed(2))
    whole = make(Series(x))
    longer = torch.cat([x, torch.zeros(2, 2, 13)], 2)
    padded = make(Series(longer, torch.arange(33).expand(2, 2, 33) < 20))
    torch.testing.assert_close(padded.values, whole.values)
    torch.testing.assert_close(padded.target, whole.target)
    assert padded.valid.all()


def test_a_gap_is_bridged_and_tokens_inside_it_are_invalid():
    make, x = tokenizer(length=64), waves(64, 1)
    observed = torch.ones_like(x, dtype=torch.bool)
    observed[..., 14:40] = False
    tokens = make(Series(x * observed, observed))
    assert tokens.valid.tolist() == [[True, False, True, True]]
    line = torch.lerp(x[..., 13:14], x[..., 40:41], torch.arange(1, 27) / 27)
    bridged = make(Series(torch.cat([x[..., :14], line, x[..., 40:]], 2)))
    torch.testing.assert_close(tokens.values, bridged.values, rtol=0, atol=1e-4)


def test_shapes_do_not_depend_on_level_and_scale_but_tokens_do():
    make, x = tokenizer(), waves(40)
    plain, moved = make(Series(x)), make(Series(3 * x + 5))
    torch.testing.assert_close(moved.target, plain.target, rtol=0, atol=1e-3)
    assert not torch.allclose(moved.values, plain.values, atol=0.1)


def test_a_constant_series_has_finite_tokens():
    assert tokenizer()(Series(torch.full((1, 1, 5), 7.0))).values.isfinite().all()


@pytest.mark.parametrize("options", [{"samples": 60}, {"tokens": 0}, {"width": 0}], ids=str)
def test_sizes_that_do_not_divide_are_refused(options):
    with pytest.raises(OptionError, match=r"tokenizer\.samples"):
        tokenizer(**options)


def test_a_pipeline_takes_longer_series_than_it_was_built_for(pipelines):
    longer = make_series(Spec(channels=2, length=70, task="classification", num_outputs=3))
    assert pipelines("resampled")(longer).loss.isfinite()
    with pytest.raises(DataError, match="longer than the 24"):
        pipelines("patch")(longer)


def test_statistics_of_independent_channels_lie_side_by_side(pipelines):
    pipeline, batch = pipelines("resampled", channels="independent"), make_series(Spec(channels=2, length=24))
    with torch.no_grad():
        both = pipeline.embed_batch(batch, "statistics")
        assert both.shape == (3, 2 * 2 * 8)
        swapped = Series(batch.x.flip(1), batch.observed.flip(1), sample_id=batch.sample_id)
        observed = batch.observed[:, :1].any(2).all()
    assert observed
    one, two = both.chunk(2, 1)
    torch.testing.assert_close(pipeline.embed_batch(swapped, "statistics"), torch.cat([two, one], 1), rtol=0, atol=1e-5)
