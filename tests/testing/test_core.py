"""The components of the core pass the conformance kit."""

import pytest

from tstk.testing import parametrize_with_checks

pytestmark = pytest.mark.slow  # many, and part of every whole run


@pytest.fixture(autouse=True)
def codes(syllables):
    """Register a tokenizer with codes and a decoder, which `next-code` and `own` need."""


@parametrize_with_checks("tstk")
def test_contract(check):
    check()
