"""The probe of the paper: a grid of linear layers at once equals torch's own Adam, one at a time."""

import numpy as np
import pytest
import torch
from tstk_plugins_vqshape.adam_probe import AdamConfig, AdamProbe, build_grid, fit_linear_classifiers

from tstk.errors import OptionError
from tstk.evaluation.probe_classifiers import FeatureSet


@pytest.mark.slow
def test_adam_learns_what_can_be_learnt_in_every_setting_alike_or_alone():
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=90)
    x = np.eye(3)[y] * 4 + rng.normal(size=(90, 3))
    settings = [AdamConfig(decay, dropout, 30) for dropout in (0.5, 0.0) for decay in (10.0, 0.0)]
    scores, predictions = fit_linear_classifiers(x[:60], y[:60], x[60:], y[60:], settings, seed=1, lr=0.05)
    assert scores.shape == (30, 4)
    assert scores[-1, 3] > 0.9
    np.testing.assert_array_equal((predictions == y[60:, None]).mean(0), scores[-1])
    alone = fit_linear_classifiers(x[:60], y[:60], x[60:], y[60:], settings[1:2], seed=1, lr=0.05)
    np.testing.assert_array_equal(alone[1][:, 0], predictions[:, 1])
    assert len(build_grid()) == 24


def test_one_setting_of_adam_is_torchs_own():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 5)), rng.integers(3, size=40)
    y[:3] = 0, 1, 2
    _, predictions = fit_linear_classifiers(x, y, x, y, [AdamConfig(0.3, 0.0, 6)], seed=4, lr=0.02)
    draw = torch.Generator().manual_seed(4)
    start = (torch.rand(6, 3, generator=draw) * 2 - 1) / 5**0.5
    linear = torch.nn.Linear(5, 3)
    with torch.no_grad():
        linear.weight.copy_(start[:-1].T)
        linear.bias.copy_(start[-1])
    optimizer = torch.optim.Adam(linear.parameters(), lr=0.02, weight_decay=0.3)
    inputs = torch.from_numpy(x).float()
    for _ in range(6):
        for rows in torch.randperm(40, generator=draw).split(64):
            torch.rand(len(rows), 5, generator=draw)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(linear(inputs[rows]), torch.from_numpy(y)[rows]).backward()
            optimizer.step()
    np.testing.assert_array_equal(linear(inputs).argmax(1).numpy(), predictions[:, 0])


@pytest.mark.parametrize(
    ("options", "message"), [({"select_on": "folds"}, "use val or test"), ({"param": 1.0}, "no effect")]
)
def test_an_option_without_effect_is_refused(options, message):
    with pytest.raises(OptionError, match=message):
        AdamProbe(**options)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_predictions_and_another_seed_others():
    rng = np.random.default_rng(0)
    train, val, test = (FeatureSet(rng.normal(size=(20, 4)), np.arange(20) % 3) for _ in range(3))
    first, again, other = (AdamProbe().predict(train, val, test, seed)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
