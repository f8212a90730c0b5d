"""The wavelet image against explicit convolutions, and with missing samples."""

import numpy as np
import pytest
import torch
from tstk_plugins_cwtmae.tokenizer import CWT

from tstk.core.types import Series, Spec
from tstk.errors import DataError, OptionError
from tstk.runs.build import build_component

SPEC = Spec(channels=1, length=40)
SMALL = {"dim": 16, "patch_time": 8, "scales": 8, "min_scale": 1.0}


def assert_close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def ricker(taps, scale):
    """The published sampling of a wavelet."""
    t = (np.arange(taps) - (taps - 1) / 2) / scale
    return 2 / (np.sqrt(3 * scale) * np.pi**0.25 + 1e-6) * (1 - t**2) * np.exp(-(t**2) / 2)


def compute_published_image(x, scales, taps):
    """[3, scales, T] of one series in float64: views, correlation, normalisation."""
    first = np.diff(x, prepend=x[:1])
    padded = np.pad(x, 1, mode="edge")
    views = [x, first, padded[2:] - 2 * x + padded[:-2]]
    image = np.empty((3, len(scales), len(x)))
    for k, view in enumerate(views):
        for j, scale in enumerate(scales):
            image[k, j] = np.correlate(np.pad(view, taps // 2), ricker(taps, scale), "valid")[: len(x)]
    return (image - image.mean((1, 2), keepdims=True)) / image.std((1, 2), ddof=1, keepdims=True)


def compute_whole_image(tokenizer, series):
    """[B, C, 3, scales, columns * samples], the patches put together."""
    return tokenizer.unpatchify(tokenizer(series).target)


@pytest.mark.parametrize(
    ("length", "scales", "taps"),
    [(1000, 64, 630), (500, 16, 151), (128, 64, 129), (500, 64, 501)],
)
def test_the_published_image_is_that_of_the_original(length, scales, taps):
    patch = 16 if length == 128 else 50
    tokenizer = CWT(Spec(1, length), dim=8, patch_time=patch, scales=scales, min_scale=0.1, kernel="published")
    x = torch.randn(1, 1, length, generator=torch.Generator().manual_seed(0)).cumsum(-1)
    image = compute_whole_image(tokenizer, Series(x))[0, 0].numpy()
    expected = compute_published_image(x[0, 0].double().numpy(), [0.1 + j for j in range(scales)], taps)
    assert np.sqrt(np.mean((image - expected) ** 2)) < 1e-5


def test_the_smallest_published_scale_of_an_even_kernel_is_dead():
    tokenizer = CWT(Spec(1, 1000), dim=8, patch_time=50, min_scale=0.1, kernel="published")
    x = torch.randn(1, 1, 1000, generator=torch.Generator().manual_seed(0))
    image = compute_whole_image(tokenizer, Series(x))[0, 0, 0]
    assert image[0].std() < 1e-3
    assert image[10].std() > 0.3


def test_an_image_is_normal_over_scales_and_time_for_each_series_channel_and_view(make):
    tokenizer = CWT(Spec(2, 40), **SMALL)
    series = make()
    image = compute_whole_image(tokenizer, series.replace(x=series.x * torch.tensor([[[1.0], [1e3]]]) + 5))
    assert_close(image.mean((3, 4)), torch.zeros(3, 2, 3), 1e-4)
    assert_close(image.var((3, 4)), torch.ones(3, 2, 3), 1e-4)


def test_tokens_are_what_the_spec_promises_and_targets_are_patches_in_order(make):
    tokenizer = CWT(Spec(2, 44), **SMALL, patch_freq=2)
    series = make(length=44)
    tokens = tokenizer(series).check(tokenizer.out)
    assert tokenizer.out.grid_size == (6, 8)
    image, target = compute_whole_image(tokenizer, series), tokens.target.unflatten(-1, (3, 2, 8))
    for n, (time, row) in enumerate(tokens.pos[0].long().tolist()):
        channel, freq = divmod(row, 4)
        assert tokens.grid_index[0, n] == time * 8 + row
        assert_close(target[1, n], image[1, channel, :, 2 * freq : 2 * freq + 2, 8 * time : 8 * time + 8])
    assert_close(tokenizer.norm(tokenizer.project(tokens.target)), tokens.values)


def test_an_end_within_a_patch_is_padded_and_not_counted(make):
    tokenizer = CWT(Spec(2, 44), **SMALL)
    tokens = tokenizer(make(length=44))
    assert tokens.valid.all()
    last = (tokens.pos[..., 0] == 5)[0]
    weight = tokens.target_mask[0].unflatten(-1, (3, 4, 8))
    assert weight[~last].all()
    assert weight[last][..., :4].all()
    assert not weight[last][..., 4:].any()
    assert not tokens.target[0, last].unflatten(-1, (3, 4, 8))[..., 4:].any()


@pytest.mark.parametrize("kernel", ["odd", "published"])
def test_padding_at_the_end_changes_nothing(make, kernel):
    tokenizer = CWT(Spec(2, 64), **SMALL, kernel=kernel)
    for length in (40, 37):
        series = make(length=length)
        short = tokenizer(series)
        x = torch.cat([series.x, torch.full((3, 2, 64 - length), 9.0)], -1)
        observed = torch.arange(64).expand(3, 2, 64) < length
        long = tokenizer(Series(x * observed, observed))
        n = short.values.shape[1]
        assert not long.valid[:, n:].any()
        assert torch.equal(long.grid_index[:, :n], short.grid_index)
        assert_close(long.values[:, :n], short.values)
        assert_close(long.target[:, :n], short.target)


def test_a_gap_is_blanked_and_makes_no_edges_in_the_differences(make):
    tokenizer = CWT(Spec(1, 64), **SMALL)
    series = make(channels=1, length=64)
    observed = torch.ones_like(series.x, dtype=torch.bool)
    observed[..., 16:40] = False
    level = series.x * 0 + 7.0
    flat = tokenizer(Series(level * observed, observed))
    assert not flat.target.unflatten(-1, (3, -1))[:, :, 1:].any()
    tokens = tokenizer(Series(series.x * observed, observed))
    inside = ((tokens.pos[..., 0] >= 2) & (tokens.pos[..., 0] < 5))[0]
    assert not tokens.valid[:, inside].any()
    assert tokens.valid[:, ~inside].all()
    assert not tokens.target[:, inside].any()


def test_what_is_written_in_a_gap_does_not_matter(make):
    tokenizer = CWT(Spec(2, 40), **SMALL)
    series = make()
    observed = torch.ones_like(series.x, dtype=torch.bool)
    observed[0, 1, 5:20] = False
    a = tokenizer(series.replace(observed=observed))
    b = tokenizer(series.replace(observed=observed, x=series.x.masked_fill(~observed, 100.0)))
    assert_close(a.values, b.values, 0)
    other = a.pos[0, :, 1] < 2
    assert_close(a.values[0, other], tokenizer(series).values[0, other])


def test_half_precision_is_for_tokens_not_for_the_image(make):
    tokenizer = CWT(Spec(2, 40), **SMALL)
    series = make()
    with torch.autocast("cpu", torch.bfloat16):
        tokens = tokenizer(series)
    assert tokens.target.dtype == torch.float32
    assert_close(tokens.target, tokenizer(series).target, 0)


def test_scales_are_linear_or_logarithmic():
    assert CWT(SPEC, **SMALL).scales == tuple(float(a) for a in range(1, 9))
    scales = CWT(SPEC, dim=16, patch_time=8, scales=8, min_scale=1.0, max_scale=128.0, spacing="log").scales
    np.testing.assert_allclose(scales, [2.0**i for i in range(8)])
    np.testing.assert_allclose(CWT(SPEC, min_scale=0.1).scales, 0.1 + np.arange(64))


def test_patches_are_fifty_samples_or_a_sixteenth_of_the_series():
    assert [CWT(Spec(1, length)).patch_size for length in (3000, 500, 140, 5)] == [(4, 50), (4, 31), (4, 9), (4, 1)]


def test_what_cannot_be_is_refused_with_what_could():
    with pytest.raises(OptionError, match=r"patch_freq=3 does not divide tokenizer.scales=8; nearby: 2, 4"):
        CWT(SPEC, **SMALL, patch_freq=3)
    with pytest.raises(DataError, match=r"--tokenizer\.patch-time 50 is longer"):
        CWT(SPEC, patch_time=50)
    with pytest.raises(OptionError, match=r"min_scale=9\.0: expected at most 8"):
        CWT(SPEC, patch_time=8, min_scale=9.0, max_scale=8.0)
    with pytest.raises(OptionError, match=r"min_scale is 0\.0; expected float, more than 0"):
        build_component("tokenizer", "cwt", SPEC, min_scale=0.0)
    with pytest.raises(OptionError, match="patch_freq is 0; expected int, 1 or more"):
        build_component("tokenizer", "cwt", SPEC, patch_freq=0)


def test_gradients_reach_the_series():
    tokenizer = CWT(Spec(1, 16), dim=4, patch_time=8, scales=4, min_scale=1.0).double()
    x = torch.randn(1, 1, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: tokenizer(Series(x)).values, (x,))
