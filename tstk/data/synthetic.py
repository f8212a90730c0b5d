"""Generate series from random causal graphs of Gaussian processes, batch by batch and without storing them.

CauKer (arXiv:2508.02879) composes kernels as KernelSynth does (Chronos, arXiv:2403.07815, appendix A), samples the
roots of a causal graph from them, and passes these through random functions along its edges. Here each series is a
function of the seed and its index alone: a million series need no memory, and a series does not depend on its batch.
Kernels are stationary and of unit variance, so sampling is a product in the frequency domain (Dietrich and Newsam
1997); nonstationary components (trends, envelopes, regime changes, events) are added to the samples or multiplied
with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.core.rng import SampleRNG
from tstk.core.types import Spec
from tstk.data.catalog import SYNTHETIC
from tstk.data.config import DataConfig
from tstk.data.data_module import DataModule
from tstk.data.datasets import GeneratedDataset
from tstk.data.memory import require_memory
from tstk.errors import OptionError

NUM_ROOTS = 3
"""Nodes of a graph that are sampled from Gaussian processes."""
NUM_INNER = 5
"""Nodes of a graph that are functions of two earlier nodes."""
NUM_VALIDATION = 1024
"""Validation series: the first ones of the generator."""


def build_synthetic(config: DataConfig) -> DataModule:
    """Return a data set of generated, unlabelled series for training and validation.

    Their values are not standardized.

    Args:
        config: `length`, and the options that begin with synthetic

    Raises:
        OptionError: the length is less than 8, there are fewer nodes than channels, or another option is given
    """
    synthetic_options = ("synthetic_count", "synthetic_channels", "synthetic_kernels", "synthetic_seed")
    config.reject_except(f"for --data {SYNTHETIC}", "data_root", "length", "standardize", *synthetic_options)
    count, channels = config.synthetic_count or 1_000_000, config.synthetic_channels or 1
    length, seed = config.length or 512, config.synthetic_seed or 0
    if length < 8:
        raise OptionError(f"--length {length}: generated series have at least 8 samples")
    if channels > NUM_ROOTS + NUM_INNER:
        raise OptionError(f"--synthetic-channels {channels}: a graph has {NUM_ROOTS + NUM_INNER} nodes")
    kernels = config.synthetic_kernels or 4
    require_memory(24 * count, f"--synthetic-count {count}: the indices of the series", "give fewer")
    require_memory(6000 * length, f"--length {length}: the covariances of the kernels", "give less")
    require_memory(2**13 * kernels, f"--synthetic-kernels {kernels}: their weights", "give fewer")
    generator = CausalGraphGenerator(length, channels, kernels, seed)
    is_univariate = channels == 1
    return DataModule(
        name=SYNTHETIC,
        source=(SYNTHETIC,),
        spec=Spec(channels=channels, length=length),
        train=GeneratedDataset(generator.generate, count, length, start_index=NUM_VALIDATION),
        val=GeneratedDataset(generator.generate, NUM_VALIDATION, length),
        test=None,
        classes=(),
        channels=("any",) if is_univariate else tuple(map(str, range(channels))),
        mean=torch.zeros(channels),
        std=torch.ones(channels),
        notes=[f"series are generated: {count:,} from random causal graphs of Gaussian processes, seed {seed}"],
        split_description=f"validation: {NUM_VALIDATION:,} other series of the generator",
        split_channels=is_univariate,
    )


class CausalGraphGenerator:
    """Generator of series from random causal graphs whose roots are Gaussian processes.

    Args:
        length: samples per series, T
        channels: number of observed nodes, C
        max_kernels: maximum number of kernels composed for a root
        seed: random seed
    """

    def __init__(self, length: int, channels: int, max_kernels: int, seed: int) -> None:
        self.length, self.channels, self.max_kernels, self.seed = length, channels, max_kernels, seed

    def generate(self, index: Tensor) -> Tensor:
        """Return the series of these indices.

        Each channel is standardized, then given a random level and scale.

        Args:
            index: [B] long

        Returns:
            [B, C, T] float32
        """
        rng = SampleRNG(self.seed, 0, index)
        nodes = self._sample_roots(rng)
        for _ in range(NUM_INNER):
            nodes = torch.cat([nodes, _standardize(self._sample_inner_node(nodes, rng))[:, None]], 1)
        # observe inner nodes more often than roots, which are plain Gaussian processes
        order = (rng.uniform(nodes.shape[1]) + 0.3 * (torch.arange(nodes.shape[1]) >= NUM_ROOTS)).argsort(1)
        x = nodes.gather(1, order[:, -self.channels :, None].expand(-1, -1, self.length))
        level, scale = rng.normal(2, self.channels, 1).unbind(1)
        return _standardize(_simulate_measurement(x, rng)) * (0.5 * scale).exp() + 0.5 * level

    def _sample_roots(self, rng: SampleRNG) -> Tensor:
        """Sample the roots from composed kernels, with nonstationary components: [B, NUM_ROOTS, T]."""
        x = _sample_gaussian_process(self._sample_covariance(rng), rng)
        time = torch.linspace(0, 1, self.length)
        u = rng.uniform(NUM_ROOTS, 8)[..., None]
        # nonstationary envelope: a process times a line has the product of its kernel and the linear kernel
        x = torch.where(u[..., 0, :] < 0.1, x * (time - u[..., 1, :]) * 2, x)
        # regime change: one process up to some time, then another
        other = x.roll(1, 1)
        switch = torch.sigmoid((time - u[..., 3, :]) * 4 / (0.002 + 0.2 * u[..., 4, :].square()))
        x = torch.where(u[..., 2, :] < 0.15, torch.lerp(x, other, switch), x)
        # attenuate some processes, so that trend, seasonality and events dominate
        x = x * torch.where(u[..., 5, :] < 0.4, u[..., 6, :], 1)
        return _standardize(x + _sample_trend(rng, time) + _sample_seasonality(rng, time) + _sample_events(rng, time))

    def _sample_covariance(self, rng: SampleRNG) -> Tensor:
        """Compose kernels by sums and products: covariances of the roots at lags 0 to T, [B, NUM_ROOTS, T + 1]."""
        kernels, starts, sizes = _build_kernel_bank(self.length)
        u_family, u_member, weight, u_operation = rng.uniform(4, NUM_ROOTS, self.max_kernels).unbind(1)
        family = (u_family * len(starts)).long()
        kernel_index = starts[family] + (u_member * sizes[family]).long()
        num_extra = (rng.uniform(NUM_ROOTS) * self.max_kernels).long()
        covariance = kernels[kernel_index[..., 0]]
        for k in range(1, self.max_kernels):
            kernel = kernels[kernel_index[..., k]]
            composed = torch.where(
                u_operation[..., k, None] < 0.5,
                covariance * kernel,
                torch.lerp(covariance, kernel, weight[..., k, None]),
            )
            covariance = torch.where(k <= num_extra[..., None], composed, covariance)
        return covariance

    def _sample_inner_node(self, nodes: Tensor, rng: SampleRNG) -> Tensor:
        """Apply a random function to two earlier nodes, one of them possibly lagged: [B, N, T] -> [B, T]."""
        u, weight = rng.uniform(6), rng.normal(3)
        rows = torch.arange(len(nodes))
        parent, lagged_parent = ((u[:, i] * nodes.shape[1]).long() for i in range(2))
        lag = torch.where(u[:, 2] < 0.5, u[:, 3].square() * self.length / 4, 0).long()
        time = (torch.arange(self.length) - lag[:, None]).clamp(min=0)
        lagged = nodes[rows, lagged_parent].gather(1, time)
        z = weight[:, :1] * nodes[rows, parent] + weight[:, 1:2] * lagged + weight[:, 2:] / 2
        function_index = (u[:, 4] * len(_EDGE_FUNCTIONS)).long()
        x = (0.5 + 2.5 * u[:, 5:]) * z
        for i, function in enumerate(_EDGE_FUNCTIONS):
            selected = function_index == i
            x[selected] = function(x[selected])
        return x


_EDGE_FUNCTIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda z: z,
    torch.tanh,
    torch.sin,
    F.relu,
    torch.abs,
    lambda z: z.sign() * z.square(),
    lambda z: torch.sigmoid(8 * z),
    torch.round,
    lambda z: z - z.floor(),
    lambda z: z.clamp(max=4).exp(),
)
"""Functions from which those of the inner nodes are drawn."""


@cache
def _build_kernel_bank(length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return kernels at lags 0 to `length`, [K, length + 1], and the first index and size of each family."""
    lag = torch.arange(length + 1, dtype=torch.float64) / length

    def grid(low: float, high: float, count: int) -> Tensor:
        return torch.logspace(math.log10(low), math.log10(high), count, dtype=torch.float64)[:, None]

    scale = grid(0.015, 1, 32)
    scaled_lag = lag / grid(0.05, 3, 24)
    period = grid(10 / 512, 1, 32)
    sine = (math.pi * lag / period).sin().square()
    families = [
        (-0.5 * (lag / scale).square()).exp(),  # squared exponential
        (-scaled_lag).exp(),  # Ornstein-Uhlenbeck
        (1 + math.sqrt(3) * scaled_lag) * (-math.sqrt(3) * scaled_lag).exp(),  # Matern 3/2
        torch.cat([(1 + (lag / scale).square() / (2 * a)) ** -a for a in (0.2, 1.0)]),  # rational quadratic
        torch.cat([(-2 * sine / width**2).exp() for width in (0.3, 0.7, 1.5)]),  # periodic
        (2 * math.pi * lag / period).cos(),  # cosine
    ]
    sizes = torch.tensor([len(f) for f in families])
    return torch.cat(families).float(), sizes.cumsum(0) - sizes, sizes


def _sample_gaussian_process(covariance: Tensor, rng: SampleRNG) -> Tensor:
    """Sample Gaussian processes with these covariances at lags 0 to T: [B, R, T + 1] -> [B, R, T].

    Circulant embedding: the covariance, mirrored at lag T, is that of a periodic process of 2 T samples, of which the
    first half is returned. Negative eigenvalues of the embedding are set to 0.
    """
    roots, length = covariance.shape[1], covariance.shape[2] - 1
    mirrored = torch.cat([covariance, covariance[..., 1:-1].flip(-1)], -1)
    power = torch.fft.rfft(mirrored).real.clamp(min=0)
    power[..., [0, -1]] *= 2  # irfft uses only the real part of these bins
    u = rng.uniform(2, roots, length + 1)
    noise = torch.polar((-(1 - u[:, 0]).log()).sqrt(), 2 * math.pi * u[:, 1])
    return torch.fft.irfft(power.sqrt() * noise, n=2 * length, norm="ortho")[..., :length]


def _sample_trend(rng: SampleRNG, time: Tensor) -> Tensor:
    """Sample a linear, quadratic or exponential trend for some roots, and 0 for the others."""
    u, weight = rng.uniform(NUM_ROOTS, 2), rng.normal(NUM_ROOTS, 2)[..., None]
    kind = (u[..., :1] * 10).long()
    line = weight[..., 0, :] * 3 * (time - 0.5)
    parabola = weight[..., 1, :] * 8 * (time - u[..., 1:]).square()
    growth = weight[..., 0, :].sign() * (weight[..., 1, :].abs() * 3 * time).exp() / 4
    return (kind == 0) * line + (kind == 1) * (line + parabola) + (kind == 2) * growth.clamp(-20, 20)


def _sample_seasonality(rng: SampleRNG, time: Tensor) -> Tensor:
    """Sample a sine, square, sawtooth or pulse wave for some roots, whose period may change over time."""
    u = rng.uniform(NUM_ROOTS, 6)[..., None]
    cycles = (math.log(64) * u[..., 1, :]).exp()
    chirp = torch.where(u[..., 2, :] < 0.2, (u[..., 3, :] - 0.5) * 1.5, 0)
    phase = cycles * (time + chirp * time * (time - 1)) + u[..., 4, :]
    sine = (2 * math.pi * phase).sin()
    kind = (u[..., 5, :] * 4).long()
    wave = torch.where(kind == 1, (sine * 6).tanh(), torch.where(kind == 2, 3.4 * (phase - phase.floor() - 0.5), sine))
    wave = torch.where(kind == 3, 3 * (sine - 0.6).clamp(min=0), wave)
    return torch.where(u[..., 0, :] < 0.25, wave * (0.3 + 2 * u[..., 3, :]), 0)


def _sample_events(rng: SampleRNG, time: Tensor) -> Tensor:
    """Sample up to two bumps, steps or damped oscillations for some roots."""
    total = torch.zeros(())
    for _ in range(2):
        u, height = rng.uniform(NUM_ROOTS, 5)[..., None], 3 * rng.normal(NUM_ROOTS)[..., None]
        offset = (time - u[..., 1, :]) / (0.004 * (60 * u[..., 2, :] * math.log(60) / 60).exp())
        bump = (-0.5 * offset.square()).exp()
        step = torch.sigmoid(4 * offset)
        elapsed = offset.clamp(min=0)
        oscillation = (-elapsed / 4).exp() * (elapsed * (0.3 + 2 * u[..., 4, :])).sin() * (offset > 0)
        kind = (u[..., 3, :] * 3).long()
        shape = torch.where(kind == 0, bump, torch.where(kind == 1, step, oscillation))
        total = total + torch.where(u[..., 0, :] < 0.25, height * shape, 0)
    return total


def _simulate_measurement(x: Tensor, rng: SampleRNG) -> Tensor:
    """Simulate instruments: subsample some series [B, C, T] and interpolate them linearly, and add noise to others."""
    length = x.shape[2]
    u = rng.uniform(4)
    is_subsampled = u[:, 0] < 0.3
    num_samples = 8 + (length / 2 - 8) * u[:, 1].square()
    num_samples = torch.where(is_subsampled, num_samples, length).clamp(min=2).long()[:, None]
    position = torch.linspace(0, 1, length) * (num_samples - 1)
    previous = position.floor()
    spacing = (length - 1) / (num_samples - 1)
    start, end = (
        x.gather(2, (p * spacing).round().long().clamp(max=length - 1)[:, None].expand_as(x))
        for p in (previous, previous + 1)
    )
    noise_std = torch.where(u[:, 2] < 0.3, 0.3 * 0.03 ** u[:, 3], 0)[:, None, None]
    noisy = x + noise_std * rng.normal(*x.shape[1:])
    return torch.where(is_subsampled[:, None, None], torch.lerp(start, end, (position - previous)[:, None]), noisy)


def _standardize(x: Tensor) -> Tensor:
    """Scale to mean 0 and standard deviation 1 along time; a constant series becomes 0."""
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
