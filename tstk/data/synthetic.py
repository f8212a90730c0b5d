"""Series from random causal graphs of Gaussian processes, made when a batch asks for them and kept nowhere.

CauKer (arXiv:2508.02879) composes kernels as KernelSynth does (Chronos, arXiv:2403.07815, appendix A), draws the roots
of a causal graph from them, and passes these through random functions along its edges. Here all of it is a function of
(seed, number of the series): a million series need no memory, and a series does not depend on its batch. Kernels are
stationary and of unit variance, so a draw is a product in the frequency domain (Dietrich and Newsam 1997); what is not
stationary (trends, envelopes, changes of regime, events) is added to the draws or multiplied with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.core.rng import Draws
from tstk.core.types import Spec
from tstk.data.data_module import Dataset
from tstk.data.datasets import Generated
from tstk.errors import OptionError

ROOTS = 3
"""Nodes of a graph that are drawn from Gaussian processes."""
INNER = 5
"""Nodes that are functions of two nodes before them."""
VALIDATION = 1024
"""Series to validate on, the first that the generator makes."""


def synthetic(
    *, count: int = 1_000_000, length: int = 512, channels: int = 1, kernels: int = 4, seed: int = 0
) -> Dataset:
    """Return unlabelled series to train on, and others to validate on.

    Args:
        count: series to train on
        length: samples of each
        channels: nodes of one graph that are observed together
        kernels: most kernels that are composed for a root
        seed: of everything

    Raises:
        OptionError: a number is too small, or there are fewer nodes than channels
    """
    least = {"count": (count, 1), "channels": (channels, 1), "kernels": (kernels, 1), "seed": (seed, 0)}
    for name, (value, low) in {**{f"synthetic-{k}": v for k, v in least.items()}, "length": (length, 8)}.items():
        if value < low:
            raise OptionError(f"--{name} {value}: expected at least {low}")
    if channels > ROOTS + INNER:
        raise OptionError(f"--synthetic-channels {channels}: a graph has {ROOTS + INNER} nodes")
    graphs = Graphs(length, channels, kernels, seed)
    one = channels == 1
    return Dataset(
        name="synthetic",
        source=("synthetic",),
        task="unlabelled",
        spec=Spec(channels=channels, length=length),
        train=Generated(graphs.series, count, length, first=VALIDATION),
        val=Generated(graphs.series, VALIDATION, length),
        test=None,
        classes=(),
        channels=("any",) if one else tuple(map(str, range(channels))),
        mean=torch.zeros(channels),
        std=torch.ones(channels),
        notes=[f"series are generated: {count:,} from random causal graphs of Gaussian processes, seed {seed}"],
        split=f"validation: {VALIDATION:,} other series of the generator",
        univariate=one,
    )


class Graphs:
    """Random causal graphs whose roots are Gaussian processes.

    Args:
        length: samples of a series, T
        channels: nodes that are observed, C
        kernels: most kernels that are composed for a root
        seed: of all series
    """

    def __init__(self, length: int, channels: int, kernels: int, seed: int) -> None:
        self.length, self.channels, self.kernels, self.seed = length, channels, kernels, seed

    def series(self, number: Tensor) -> Tensor:
        """The series of these numbers, each channel with mean 0 and deviation 1.

        Args:
            number: [B] long

        Returns:
            [B, C, T] float32
        """
        draws = Draws(self.seed, 0, number)
        nodes = self._roots(draws)
        for _ in range(INNER):
            nodes = torch.cat([nodes, _standard(self._inner(nodes, draws))[:, None]], 1)
        # inner nodes are observed more often than roots, which stand there as they were drawn
        order = (draws.uniform(nodes.shape[1]) + 0.3 * (torch.arange(nodes.shape[1]) >= ROOTS)).argsort(1)
        x = nodes.gather(1, order[:, -self.channels :, None].expand(-1, -1, self.length))
        level, scale = draws.normal(2, self.channels, 1).unbind(1)
        return _standard(_measured(x, draws)) * (0.5 * scale).exp() + 0.5 * level

    def _roots(self, draws: Draws) -> Tensor:
        """Draws from composed kernels, with what is not stationary: [B, ROOTS, T]."""
        x = _gaussian(self._covariance(draws), draws)
        time = torch.linspace(0, 1, self.length)
        u = draws.uniform(ROOTS, 8)[..., None]
        # a process that is multiplied with a line has the product of both kernels
        x = torch.where(u[..., 0, :] < 0.1, x * (time - u[..., 1, :]) * 2, x)
        # up to some time one process, then another
        other = x.roll(1, 1)
        switch = torch.sigmoid((time - u[..., 3, :]) * 4 / (0.002 + 0.2 * u[..., 4, :].square()))
        x = torch.where(u[..., 2, :] < 0.15, torch.lerp(x, other, switch), x)
        # what remains of a process may be small beside trend, seasonality and events
        x = x * torch.where(u[..., 5, :] < 0.4, u[..., 6, :], 1)
        return _standard(x + _trend(draws, time) + _seasons(draws, time) + _events(draws, time))

    def _covariance(self, draws: Draws) -> Tensor:
        """Covariances of each root at lags 0 to T: [B, ROOTS, T + 1]; sums and products of kernels of the bank."""
        table, starts, sizes = _bank(self.length)
        family, member, weight, both = draws.uniform(4, ROOTS, self.kernels).unbind(1)
        kind = (family * len(starts)).long()
        which = starts[kind] + (member * sizes[kind]).long()
        used = (draws.uniform(ROOTS) * self.kernels).long()
        r = table[which[..., 0]]
        for k in range(1, self.kernels):
            next = table[which[..., k]]
            composed = torch.where(both[..., k, None] < 0.5, r * next, torch.lerp(r, next, weight[..., k, None]))
            r = torch.where(k <= used[..., None], composed, r)
        return r

    def _inner(self, nodes: Tensor, draws: Draws) -> Tensor:
        """A function of two nodes, one of them perhaps earlier in time: [B, N, T] -> [B, T]."""
        u, weight = draws.uniform(6), draws.normal(3)
        rows = torch.arange(len(nodes))
        one, two = ((u[:, i] * nodes.shape[1]).long() for i in range(2))
        lag = torch.where(u[:, 2] < 0.5, u[:, 3].square() * self.length / 4, 0).long()
        time = (torch.arange(self.length) - lag[:, None]).clamp(min=0)
        z = weight[:, :1] * nodes[rows, one] + weight[:, 1:2] * nodes[rows, two].gather(1, time) + weight[:, 2:] / 2
        kind = (u[:, 4] * len(_FUNCTIONS)).long()
        gain = (0.5 + 2.5 * u[:, 5:]) * z
        for i, function in enumerate(_FUNCTIONS):
            at = kind == i
            gain[at] = function(gain[at])
        return gain


_FUNCTIONS: tuple[Callable[[Tensor], Tensor], ...] = (
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
"""What an edge of the graph may do."""


@cache
def _bank(length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Kernels at lags 0 to `length`, [K, length + 1]; where each family begins, and how many kernels it has."""
    lag = torch.arange(length + 1, dtype=torch.float64) / length

    def grid(low: float, high: float, count: int) -> Tensor:
        return torch.logspace(math.log10(low), math.log10(high), count, dtype=torch.float64)[:, None]

    scale = grid(0.015, 1, 32)
    rough = lag / grid(0.05, 3, 24)
    period = grid(10 / 512, 1, 32)
    sine = (math.pi * lag / period).sin().square()
    families = [
        (-0.5 * (lag / scale).square()).exp(),  # squared exponential
        (-rough).exp(),  # Ornstein and Uhlenbeck
        (1 + math.sqrt(3) * rough) * (-math.sqrt(3) * rough).exp(),  # Matern 3/2
        torch.cat([(1 + (lag / scale).square() / (2 * a)) ** -a for a in (0.2, 1.0)]),  # rational quadratic
        torch.cat([(-2 * sine / width**2).exp() for width in (0.3, 0.7, 1.5)]),  # periodic
        (2 * math.pi * lag / period).cos(),
    ]
    sizes = torch.tensor([len(f) for f in families])
    return torch.cat(families).float(), sizes.cumsum(0) - sizes, sizes


def _gaussian(covariance: Tensor, draws: Draws) -> Tensor:
    """Gaussian processes with these covariances at lags 0 to T: [B, R, T + 1] -> [B, R, T].

    The covariance, mirrored at lag T, is that of a process on a circle of 2 T samples; half of it is what is wanted.
    Where the mirrored covariance is none, its negative eigenvalues count as 0.
    """
    roots, length = covariance.shape[1], covariance.shape[2] - 1
    mirrored = torch.cat([covariance, covariance[..., 1:-1].flip(-1)], -1)
    power = torch.fft.rfft(mirrored).real.clamp(min=0)
    power[..., [0, -1]] *= 2  # of these bins the real part alone is taken
    u = draws.uniform(2, roots, length + 1)
    noise = torch.polar((-(1 - u[:, 0]).log()).sqrt(), 2 * math.pi * u[:, 1])
    return torch.fft.irfft(power.sqrt() * noise, n=2 * length, norm="ortho")[..., :length]


def _trend(draws: Draws, time: Tensor) -> Tensor:
    """A line, a parabola or a growth for some roots, nothing for the others."""
    u, weight = draws.uniform(ROOTS, 2), draws.normal(ROOTS, 2)[..., None]
    kind = (u[..., :1] * 10).long()
    centred = time - 0.5
    line = weight[..., 0, :] * 3 * centred
    bent = weight[..., 1, :] * 8 * (time - u[..., 1:]).square()
    growth = weight[..., 0, :].sign() * (weight[..., 1, :].abs() * 3 * time).exp() / 4
    return (kind == 0) * line + (kind == 1) * (line + bent) + (kind == 2) * growth.clamp(-20, 20)


def _seasons(draws: Draws, time: Tensor) -> Tensor:
    """A wave of sines, steps or teeth for some roots, whose period may change with time."""
    u = draws.uniform(ROOTS, 6)[..., None]
    cycles = (math.log(64) * u[..., 1, :]).exp()
    chirp = torch.where(u[..., 2, :] < 0.2, (u[..., 3, :] - 0.5) * 1.5, 0)
    phase = cycles * (time + chirp * time * (time - 1)) + u[..., 4, :]
    sine = (2 * math.pi * phase).sin()
    kind = (u[..., 5, :] * 4).long()
    wave = torch.where(kind == 1, (sine * 6).tanh(), torch.where(kind == 2, 3.4 * (phase - phase.floor() - 0.5), sine))
    wave = torch.where(kind == 3, 3 * (sine - 0.6).clamp(min=0), wave)
    return torch.where(u[..., 0, :] < 0.25, wave * (0.3 + 2 * u[..., 3, :]), 0)


def _events(draws: Draws, time: Tensor) -> Tensor:
    """Up to two bumps, steps or damped oscillations for some roots."""
    total = torch.zeros(())
    for _ in range(2):
        u, height = draws.uniform(ROOTS, 5)[..., None], 3 * draws.normal(ROOTS)[..., None]
        away = (time - u[..., 1, :]) / (0.004 * (60 * u[..., 2, :] * math.log(60) / 60).exp())
        bump = (-0.5 * away.square()).exp()
        step = torch.sigmoid(4 * away)
        late = away.clamp(min=0)
        ringing = (-late / 4).exp() * (late * (0.3 + 2 * u[..., 4, :])).sin() * (away > 0)
        kind = (u[..., 3, :] * 3).long()
        shape = torch.where(kind == 0, bump, torch.where(kind == 1, step, ringing))
        total = total + torch.where(u[..., 0, :] < 0.25, height * shape, 0)
    return total


def _measured(x: Tensor, draws: Draws) -> Tensor:
    """As an instrument sees it: some series at few places with lines between them, some with noise. [B, C, T]."""
    length = x.shape[2]
    u = draws.uniform(4)
    few = 8 + (length / 2 - 8) * u[:, 1].square()
    count = torch.where(u[:, 0] < 0.3, few, length).clamp(min=2).long()[:, None]
    where = torch.linspace(0, 1, length) * (count - 1)
    low = where.floor()
    spread = (length - 1) / (count - 1)
    before, after = ((p * spread).round().long().clamp(max=length - 1) for p in (low, low + 1))
    one, two = (x.gather(2, i[:, None].expand_as(x)) for i in (before, after))
    noise = torch.where(u[:, 2] < 0.3, 0.3 * 0.03 ** u[:, 3], 0)[:, None, None]
    noisy = x + noise * draws.normal(*x.shape[1:])
    return torch.where((u[:, 0] < 0.3)[:, None, None], torch.lerp(one, two, (where - low)[:, None]), noisy)


def _standard(x: Tensor) -> Tensor:
    """Mean 0 and deviation 1 along time; a constant becomes 0."""
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
