"""An augmentation of training series: negate some of them."""

from typing import Annotated

from annotated_types import Gt, Le

from tstk import SampleRNG, Series


def flip_sign(series: Series, rng: SampleRNG, *, strength: Annotated[float, Gt(0), Le(1)] = 0.5) -> Series:
    """Negate each series, x [B, C, T] standardized, with a probability.

    Args:
        series: the batch
        rng: one number per series is drawn
        strength: the probability
    """
    is_flipped = rng.uniform() < strength
    return series.replace(x=series.x.where(~is_flipped[:, None, None], -series.x))
