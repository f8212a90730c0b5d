"""A synthetic data set: series with a small event in much noise, and a text that names the event."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LENGTH = 128
EVENTS = {
    "rise": ("a short rise", "the curve goes up and comes back", "a bump upwards"),
    "dip": ("a short dip", "the curve goes down and comes back", "a bump downwards"),
    "burst": ("a burst of oscillation", "rapid swings for a while", "a trembling stretch"),
    "step": ("a step to another level", "the level changes and stays", "a lasting change"),
}
FILLER_PHRASES = ("patient asleep", "patient awake", "after lunch", "device checked", "family present", "quiet night")


def make_synthetic(
    train: int = 240, test: int = 400, *, height: float = 1.0, note_accuracy: float = 0.9, seed: int = 0
) -> dict[str, Any]:
    """Return arrays for an `.npz` file: X, y and note for train and test.

    Args:
        train: number of training series
        test: number of test series
        height: height of the event, in standard deviations of the noise
        note_accuracy: share of notes that name the right event; half of the others name a wrong one, half name none
        seed: random seed
    """
    rng = np.random.default_rng(seed)
    arrays: dict[str, Any] = {}
    for part, count in (("train", train), ("test", test)):
        y = np.arange(count) % len(EVENTS)
        x = rng.normal(size=(count, 1, LENGTH))
        notes = []
        for row, kind in zip(x[:, 0], y, strict=True):
            row += height * _make_event(list(EVENTS)[kind], rng)
            notes.append(_make_note(int(kind), note_accuracy, rng))
        arrays |= {f"X_{part}": x.astype(np.float32), f"y_{part}": y, f"note_{part}": np.array(notes)}
    return arrays | {"classes": np.array(list(EVENTS))}


def _make_event(kind: str, rng: np.random.Generator) -> NDArray[np.float64]:
    time = np.arange(LENGTH)
    width, middle = rng.uniform(6, 12), rng.uniform(24, LENGTH - 24)
    hill = np.exp(-(((time - middle) / width) ** 2))
    if kind == "burst":
        return hill * np.sin((time - middle) * 2 * np.pi / 6 + rng.uniform(0, 2 * np.pi)) * 1.4
    if kind == "step":
        return np.where(time > middle, 0.5, -0.5)
    return hill if kind == "rise" else -hill


def _make_note(kind: int, note_accuracy: float, rng: np.random.Generator) -> str:
    draw, filler = rng.random(), rng.choice(FILLER_PHRASES)
    if draw > note_accuracy + (1 - note_accuracy) / 2:
        return f"{filler}; nothing to report"
    if draw > note_accuracy:
        kind = (kind + int(rng.integers(1, len(EVENTS)))) % len(EVENTS)
    description = rng.choice(list(EVENTS.values())[kind])
    return f"{filler}; {description}" if rng.random() < 0.5 else f"{description}, {filler}"
