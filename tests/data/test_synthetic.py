"""Series that are generated."""

import subprocess
import sys

import pytest
import torch

from tstk.core.rng import SampleRNG
from tstk.data import DataConfig, load_data
from tstk.data.synthetic import CausalGraphGenerator, _build_kernel_bank, _sample_gaussian_process
from tstk.errors import OptionError


def test_a_series_is_a_function_of_the_seed_and_its_number_alone():
    data = load_data("synthetic", DataConfig(synthetic_count=40, length=64))
    together = data.train.batch(torch.arange(40))
    torch.testing.assert_close(data.train.batch(torch.tensor([31, 7])).x, together.x[[31, 7]], rtol=0, atol=1e-5)
    again, other = (load_data("synthetic", DataConfig(synthetic_count=40, length=64, synthetic_seed=s)) for s in (0, 1))
    assert torch.equal(again.train.batch(torch.arange(40)).x, together.x)
    assert not torch.allclose(other.train.batch(torch.arange(40)).x, together.x)
    assert together.sample_id.tolist() == list(range(40))


def test_training_and_validation_have_no_series_in_common():
    data = load_data("synthetic", DataConfig(synthetic_count=30, length=32))
    some, others = (part.batch(torch.arange(30)).x.flatten(1) for part in (data.train, data.val))
    assert torch.cdist(some, others).min() > 0.1
    assert torch.pdist(some).min() > 0.1


def test_series_are_finite_and_keep_the_size_that_was_asked_for():
    data = load_data("synthetic", DataConfig(synthetic_count=300, synthetic_channels=3, length=50))
    x = data.train.batch(torch.arange(300)).x
    assert x.shape == (300, 3, 50)
    assert x.isfinite().all()
    assert (x.std(2) > 0.05).float().mean() > 0.98
    assert data.spec.channels == 3
    assert not data.split_channels
    assert load_data("synthetic", DataConfig(synthetic_count=5)).split_channels


def test_channels_of_one_series_are_related():
    x = CausalGraphGenerator(128, 4, 3, 0).generate(torch.arange(400))
    x = (x - x.mean(2, keepdim=True)) / x.std(2, keepdim=True).clamp(min=1e-6)
    within = (x[:, 0] * x[:, 1]).mean(1).abs().mean()
    between = (x[:, 0] * x[:, 1].roll(1, 0)).mean(1).abs().mean()
    assert within > 1.2 * between


def test_gaussian_draws_have_the_covariance_of_their_kernel():
    length, count = 32, 4000
    lag = torch.arange(length + 1.0)
    apart = (lag[:-1] - lag[:-1, None]).abs().long()
    for r in ((-lag / 5).exp(), (2 * torch.pi * lag / 16).cos(), (-0.5 * (lag / 4).square()).exp(), (lag == 0).float()):
        x = _sample_gaussian_process(r.expand(count, 1, -1), SampleRNG(0, 0, torch.arange(count)))[:, 0].double()
        assert ((x.T @ x / count - r.double()[apart]).abs() < 0.12).all()


def test_every_kernel_has_unit_variance():
    table, starts, sizes = _build_kernel_bank(64)
    assert torch.allclose(table[:, 0], torch.ones(len(table)))
    assert int(sizes.sum()) == len(table) == int(starts[-1] + sizes[-1])
    assert (table.abs() <= 1 + 1e-5).all()


@pytest.mark.parametrize(
    "options",
    [{"synthetic_count": 0}, {"synthetic_channels": 99}, {"synthetic_kernels": 0}, {"length": 4}],
    ids=str,
)
def test_a_number_that_the_generator_cannot_use_is_refused_by_name(options):
    name = next(iter(options)).replace("_", "-")
    with pytest.raises(OptionError, match=f"--{name}"):
        load_data("synthetic", DataConfig(**options))


@pytest.mark.parametrize("name", ["count", "channels", "kernels", "seed"])
def test_options_of_the_generator_are_refused_for_other_data(name):
    with pytest.raises(OptionError, match=f"--synthetic-{name} 3 .*; it is for --data synthetic"):
        load_data("har-demo", DataConfig(**{f"synthetic_{name}": 3}))


def test_generated_series_are_not_learnt_from_together_with_others():
    with pytest.raises(OptionError, match="synthetic series are generated"):
        load_data("har-demo, synthetic")


def test_generated_series_are_described():
    facts = load_data("synthetic", DataConfig(synthetic_count=100, length=32)).describe()
    assert facts["parts"]["train"]["size"] == 100
    assert facts["parts"]["train"]["missing"] == 0


@pytest.mark.slow
def test_a_seed_gives_the_same_series_in_another_process():
    code = (
        "import torch; torch.set_num_threads(1); from tstk.data import DataConfig, load_data;"
        "data = load_data('synthetic', DataConfig(synthetic_count=9, length=32));"
        "print(data.train.batch(torch.arange(9)).x.double().sum().item())"
    )
    results = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)
    ]
    assert results[0].stdout == results[1].stdout
