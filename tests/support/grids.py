"""Grids of parameters, of which `make test-quick` tries a part and `make test` all."""

import pytest


def slow_after(count, values):
    """Mark all but the first `count` values of a parameter as slow.

    Args:
        count: number of values that stay quick
        values: the values; a tuple has one value per argument
    """
    rest = [pytest.param(*(v if isinstance(v, tuple) else (v,)), marks=pytest.mark.slow) for v in values[count:]]
    return [*values[:count], *rest]
