"""The components of this plugin pass the checks for all components."""

import pytest

from tstk.testing import parametrize_with_checks

pytestmark = pytest.mark.slow  # many, and part of every whole run


@parametrize_with_checks("tstk-plugins-zoo")
def test_contract(check):
    check()
