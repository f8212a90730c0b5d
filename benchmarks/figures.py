"""Statistics of recorded rounds: dropped rounds, ratios with intervals, and validity of the run."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Clock = Callable[[], float]
"""Runs the timed call and returns its seconds."""
Times = dict[str, list[float]]

GEMM, FILL, LIMIT, CONTROL_CLOCK = "(machine: GEMM)", "(machine: fill)", "(limit)", "(ours again)"
"""Names of the clocks that are not contenders."""
MAX_SLOWDOWN = 1.5
"""A round is dropped if the machine was slower than its best by more than this factor."""
MIN_QUIET_ROUNDS = 5
"""Minimum number of remaining rounds for a valid result."""
CONTROL, CONTROL_TINY, TINY = (0.97, 1.03), (0.9, 1.1), 100e-6
"""Bounds of the ratio of our contender to itself; the wider ones apply to calls shorter than `TINY` seconds."""


def interleave(clocks: Mapping[str, Clock], rounds: int, seed: int = 0) -> Times:
    """Run every clock once per round, each round in a new random order."""
    order = random.Random(seed)
    times: Times = {name: [] for name in clocks}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for name in order.sample(list(clocks), len(clocks)):
                times[name].append(clocks[name]())
    finally:
        if collecting:
            gc.enable()
    return times


def drop_noisy_rounds(times: Times) -> Times:
    """Return the rounds in which no limit clock took more than `MAX_SLOWDOWN` times its minimum."""
    rounds = len(next(iter(times.values())))
    limits = [np.array(times[name]) for name in (GEMM, FILL) if name in times]
    keep = [r for r in range(rounds) if all(limit[r] <= MAX_SLOWDOWN * limit.min() for limit in limits)]
    return {name: [series[r] for r in keep] for name, series in times.items()}


def compute_paired_ratio(
    numerator: Sequence[float], denominator: Sequence[float], num_resamples: int = 2000
) -> dict[str, Any]:
    """Return the median over rounds of the ratio within a round, with a 95 % bootstrap interval."""
    ratios = np.array(numerator) / np.array(denominator)
    resamples = np.random.default_rng(0).integers(len(ratios), size=(num_resamples, len(ratios)))
    low, high = np.percentile(np.median(ratios[resamples], axis=1), [2.5, 97.5])
    return {"ratio": float(np.median(ratios)), "interval": [float(low), float(high)]}


def tabulate(times: Times, ours: str) -> dict[str, Any]:
    """Return the results table of one set of rounds.

    Args:
        times: seconds by clock and round, including `ours` and `CONTROL_CLOCK`
        ours: contender to compare with; ratios are time over its time
    """
    quiet = drop_noisy_rounds(times)
    rounds = len(quiet[ours])
    table: dict[str, Any] = {"rounds": rounds, "dropped": len(times[ours]) - rounds, "why_invalid": ""}
    if rounds < MIN_QUIET_ROUNDS:
        table["why_invalid"] = f"the machine was quiet in only {rounds} of {len(times[ours])} rounds"
        return table | {"contenders": {}}
    low, high = CONTROL_TINY if np.median(quiet[ours]) < TINY else CONTROL
    control = compute_paired_ratio(quiet[CONTROL_CLOCK], quiet[ours])
    if not low <= control["ratio"] <= high:
        table["why_invalid"] = f"our contender over itself is {control['ratio']:.3f}, outside [{low}, {high}]"
    table["control"] = control | {"bounds": [low, high]}
    table["machine"] = {name: _spread(quiet[name]) for name in (GEMM, FILL, LIMIT) if name in quiet}
    table["contenders"] = {}
    for name in (name for name in quiet if name not in (GEMM, FILL, LIMIT, CONTROL_CLOCK)):
        row = _spread(quiet[name]) | compute_paired_ratio(quiet[name], quiet[ours])
        if LIMIT in quiet:
            row["x_limit"] = compute_paired_ratio(quiet[name], quiet[LIMIT])["ratio"]
        table["contenders"][name] = row
    return table


def _spread(series: Sequence[float]) -> dict[str, float]:
    return {
        "median": float(np.median(series)),
        "min": float(np.min(series)),
        "p90": float(np.percentile(series, 90)),
    }
