"""The core's own parts pass the kit that everybody's must pass."""

import pytest

from tstk.testing import parametrize_with_checks


@pytest.fixture(autouse=True)
def codes(syllables):
    """Next-code and `own` need a tokenizer with codes and a way back to samples; the core has none."""


@parametrize_with_checks("tstk")
def test_contract(check):
    check()
