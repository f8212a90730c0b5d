"""From recorded rounds to figures: what is dropped, which ratio, how sure, and whether the run may be believed."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Clock = Callable[[], float]
"""Runs what it times, and says the seconds of one call."""
Times = dict[str, list[float]]

GEMM, FILL, LIMIT, AGAIN = "(machine: GEMM)", "(machine: fill)", "(limit)", "(ours again)"
"""Clocks beside the contenders' own."""
RESTLESS = 1.5
"""A round is dropped in which the machine was slower than its best by more than this."""
FEWEST = 5
"""Rounds that must be left for figures to count."""
CONTROL, CONTROL_TINY, TINY = (0.97, 1.03), (0.9, 1.1), 100e-6
"""Bounds of the ratio of our contender to itself; the wider where a call takes fewer seconds than `TINY`."""


def interleave(clocks: Mapping[str, Clock], rounds: int, seed: int = 0) -> Times:
    """Every clock once per round, each round in another random order."""
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


def quiet(times: Times) -> Times:
    """The rounds in which no limit of the machine was beyond `RESTLESS` times its minimum."""
    rounds = len(next(iter(times.values())))
    limits = [np.array(times[name]) for name in (GEMM, FILL) if name in times]
    keep = [r for r in range(rounds) if all(limit[r] <= RESTLESS * limit.min() for limit in limits)]
    return {name: [series[r] for r in keep] for name, series in times.items()}


def paired(above: Sequence[float], below: Sequence[float], draws: int = 2000) -> dict[str, Any]:
    """Median over rounds of the ratio within a round, with a bootstrap interval of 95 %."""
    ratios = np.array(above) / np.array(below)
    chosen = np.random.default_rng(0).integers(len(ratios), size=(draws, len(ratios)))
    low, high = np.percentile(np.median(ratios[chosen], axis=1), [2.5, 97.5])
    return {"ratio": float(np.median(ratios)), "interval": [float(low), float(high)]}


def tabulate(times: Times, ours: str) -> dict[str, Any]:
    """What a record says of one set of rounds.

    Args:
        times: seconds by clock and round; must hold `ours` and `AGAIN`
        ours: the contender that the others are compared with; their ratios are their time over ours
    """
    kept = quiet(times)
    rounds = len(kept[ours])
    table: dict[str, Any] = {"rounds": rounds, "dropped": len(times[ours]) - rounds, "why_invalid": ""}
    if rounds < FEWEST:
        table["why_invalid"] = f"the machine was quiet in only {rounds} of {len(times[ours])} rounds"
        return table | {"contenders": {}}
    low, high = CONTROL_TINY if np.median(kept[ours]) < TINY else CONTROL
    control = paired(kept[AGAIN], kept[ours])
    if not low <= control["ratio"] <= high:
        table["why_invalid"] = f"our contender over itself is {control['ratio']:.3f}, outside [{low}, {high}]"
    table["control"] = control | {"bounds": [low, high]}
    table["machine"] = {name: _spread(kept[name]) for name in (GEMM, FILL, LIMIT) if name in kept}
    table["contenders"] = {}
    for name in (name for name in kept if name not in (GEMM, FILL, LIMIT, AGAIN)):
        row = _spread(kept[name]) | paired(kept[name], kept[ours])
        if LIMIT in kept:
            row["x_limit"] = paired(kept[name], kept[LIMIT])["ratio"]
        table["contenders"][name] = row
    return table


def _spread(series: Sequence[float]) -> dict[str, float]:
    return {
        "median": float(np.median(series)),
        "min": float(np.min(series)),
        "p90": float(np.percentile(series, 90)),
    }
