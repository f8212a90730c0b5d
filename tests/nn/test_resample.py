"""Interpolation of series."""

import numpy as np
import torch

from tstk.nn.resample import fill_gaps, interpolate_samples, observed_lengths


def test_values_between_samples_lie_on_a_line():
    draw = torch.Generator().manual_seed(0)
    x, places = torch.randn(3, 2, 11, generator=draw), torch.rand(3, 7, generator=draw) * 10
    places[0, :3] = torch.tensor([0.0, 10.0, 4.0])
    found = interpolate_samples(x, places)
    for row, at, got in zip(x, places, found, strict=True):
        want = [np.interp(at.numpy(), np.arange(11), channel.numpy()) for channel in row]
        np.testing.assert_allclose(got.numpy(), want, atol=1e-5)


def test_gaps_are_bridged_channel_by_channel_and_ends_repeat_the_nearest_sample():
    draw = torch.Generator().manual_seed(1)
    x, observed = torch.randn(4, 2, 15, generator=draw), torch.rand(4, 2, 15, generator=draw) < 0.5
    observed[3, 0] = False
    found = fill_gaps(x * observed, observed)
    for values, seen, got in zip(x.flatten(0, 1), observed.flatten(0, 1), found.flatten(0, 1), strict=True):
        at = np.flatnonzero(seen.numpy())
        want = np.interp(np.arange(15), at, values.numpy()[at]) if len(at) else np.zeros(15)
        np.testing.assert_allclose(got.numpy(), want, atol=1e-5)


def test_a_series_ends_where_its_last_channel_does():
    observed = torch.zeros(3, 2, 9, dtype=torch.bool)
    observed[0, 0, :4] = observed[0, 1, 2:7] = observed[1, 1, 0] = True
    assert observed_lengths(observed).tolist() == [7, 1, 0]
    assert observed_lengths(torch.ones_like(observed)).tolist() == [9, 9, 9]
