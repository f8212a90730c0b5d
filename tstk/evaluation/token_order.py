"""Whether a classifier uses the order of time: its accuracy with the tokens of each series shuffled.

Contents move and places stay: tokens change places before the encoder adds positions to them, so a model whose answers
depend on what occurs, and not on when, scores as before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from tstk.core.pipeline import Pipeline
from tstk.core.rng import Draws
from tstk.core.types import Series, Tokens
from tstk.errors import DataError
from tstk.evaluation.evaluate import error_of_mean
from tstk.evaluation.formatting import number

DRAWS = 5
"""Random orders of each series."""
LEAST = 0.05
"""A smaller fall of accuracy is not called use of the order, even where it is more than chance."""


@dataclass(frozen=True)
class Order:
    """What shuffling does to an accuracy.

    Args:
        accuracy: of the series as they are
        shuffled: with tokens shuffled in time, mean over the draws
        deviation: over the draws
        drop_se: standard error of the difference of the two means, over the series
        draws: random orders of each series
    """

    accuracy: float
    shuffled: float
    deviation: float
    drop_se: float
    draws: int

    @property
    def used(self) -> bool:
        """The accuracy falls by at least `LEAST`, and by more than two standard errors."""
        return self.accuracy - self.shuffled >= max(LEAST, 2 * self.drop_se)

    @property
    def reading(self) -> str:
        """One sentence for the user."""
        fall = self.accuracy - self.shuffled
        values = f"accuracy {number(self.accuracy)} -> {number(self.shuffled)} ± {number(self.deviation)}"
        verdict = "uses" if self.used else "hardly uses" if fall > 2 * self.drop_se else "does not use"
        return f"{values} with tokens shuffled in time ({self.draws} draws): the model {verdict} the order"

    def record(self) -> dict[str, Any]:
        """For result files and `--json`."""
        return asdict(self) | {"uses_order": self.used, "reading": self.reading}


def no_order(pipeline: Pipeline) -> str | None:
    """Why shuffling tokens says nothing about this pipeline; None if it does."""
    spec = pipeline.tokenizer.out
    if pipeline.spec.horizon is not None:
        return "it asks whether a classifier uses the order of time, and this run forecasts"
    if pipeline.head is None:
        return "it asks whether a classifier uses the order of time, and this run was pretrained without a task"
    if not spec.ordered:
        return f"the tokens of {pipeline.tokenizer.called()} say themselves where they are, so they have no order"
    if spec.grid[0] < 2:
        return f"{pipeline.tokenizer.called()} makes one token of a whole series, so there is no order to shuffle"
    return None


@torch.no_grad()
def order(
    pipeline: Pipeline, batches: Iterable[Series], *, seed: int = 0, groups: Sequence[str] | None = None
) -> Order:
    """Score a classifier on series as they are and with their tokens shuffled in time.

    Args:
        batches: labelled series on the pipeline's device; those without a class do not count
        seed: of the shuffling, which does not depend on how series are batched
        groups: a name for each series, where some belong together

    Raises:
        DataError: the class of none of the series is known
    """
    was_training = pipeline.training
    pipeline.eval()
    plain, shuffled, known = [], [], []
    for series in batches:
        assert series.y is not None
        plain.append(pipeline.predict(series).argmax(1) == series.y)
        with_draws = []
        for draw in range(DRAWS):
            with shuffling(pipeline, seed, draw):
                with_draws.append(pipeline.predict(series).argmax(1) == series.y)
        shuffled.append(torch.stack(with_draws))
        known.append(series.y >= 0)
    pipeline.train(was_training)
    where = torch.cat(known).cpu()
    if not where.any():
        raise DataError("none of these series has a known class, so their order cannot be asked about")
    right, each = torch.cat(plain).cpu()[where].double(), torch.cat(shuffled, 1).cpu()[:, where].double()
    names = None if groups is None else [name for name, ok in zip(groups, where.tolist(), strict=True) if ok]
    return Order(
        accuracy=float(right.mean()),
        shuffled=float(each.mean()),
        deviation=float(each.mean(1).std()),
        drop_se=error_of_mean(right - each.mean(0), names),
        draws=DRAWS,
    )


@contextmanager
def shuffling(pipeline: Pipeline, seed: int, draw: int) -> Iterator[None]:
    """Shuffle what the tokenizer makes, while this context lasts; the channels of a series alike."""
    channels = pipeline.spec.channels if pipeline.independent else 1

    def change(module: Any, given: tuple[Series], tokens: Tokens) -> Tokens:
        key = given[0].key
        assert key is not None
        return shuffle(tokens, Draws(seed, draw, key // channels))

    handle = pipeline.tokenizer.register_forward_hook(change)
    try:
        yield
    finally:
        handle.remove()


def shuffle(tokens: Tokens, draws: Draws) -> Tokens:
    """Exchange the contents of the valid tokens of each series in time; places stay, and so do invalid tokens.

    On a grid of several axes whole columns move: the tokens of one time stay together.
    """
    times, time = tokens.pos[..., 0].unique(return_inverse=True)
    chance = torch.where(tokens.valid, draws.uniform(len(times)).gather(1, time), time.float())
    lane = _lanes(tokens)
    places = (lane * len(times) + time).argsort(1)
    drawn = chance.argsort(dim=1, stable=True)
    drawn = drawn.gather(1, lane.gather(1, drawn).argsort(dim=1, stable=True))
    rows = torch.empty_like(places).scatter(1, places, drawn)
    return tokens.at(rows).but(pos=tokens.pos, index=tokens.index, valid=tokens.valid)


def _lanes(tokens: Tokens) -> Tensor:
    """[B, N] which tokens differ in time alone; invalid ones form the last lane."""
    others = tokens.pos[..., 1:]
    names, lane = others.flatten(0, 1).unique(dim=0, return_inverse=True) if others.shape[-1] else ((0,), 0)
    lane = torch.as_tensor(lane, device=tokens.pos.device).expand(tokens.valid.numel()).view(tokens.valid.shape)
    return lane.masked_fill(~tokens.valid, len(names))
