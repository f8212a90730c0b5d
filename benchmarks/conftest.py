"""Contenders of one question, run in turn round by round and handed to pytest-benchmark for its tables."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

_MEASURED: dict[str, dict[str, list[float]]] = {}


@pytest.fixture
def duel(benchmark):
    """`duel(name, contenders, group)`: report one contender's rounds; all are run together, once per group."""

    def run(name: str, contenders: dict[str, Callable[[], object]], group: str, rounds: int = 7) -> dict[str, float]:
        if group not in _MEASURED:
            _MEASURED[group] = _rounds(contenders, rounds)
        times = _MEASURED[group]
        first = next(iter(contenders))
        benchmark.group = group
        ratios = sorted(a / b for a, b in zip(times[name], times[first], strict=True))
        benchmark.extra_info |= {f"paired ratio to {first}": round(ratios[len(ratios) // 2], 4), "rounds": rounds}
        replay = iter(times[name])
        clock = [0.0]

        def timer() -> float:
            return clock[0]

        def again() -> None:
            clock[0] += next(replay)

        benchmark._timer = timer
        benchmark.pedantic(again, rounds=rounds, iterations=1, warmup_rounds=0)
        return {other: sorted(times[other])[rounds // 2] for other in contenders}

    return run


def _rounds(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for contender in contenders.values():
        contender()  # warm up
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(contenders), len(contenders)):
            begin = time.perf_counter()
            contenders[name]()
            times[name].append(time.perf_counter() - begin)
    return times
