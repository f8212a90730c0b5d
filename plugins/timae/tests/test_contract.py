"""The components of this plugin pass the checks for all components."""

from tstk.testing import parametrize_with_checks


@parametrize_with_checks("tstk-plugins-timae")
def test_contract(check):
    check()
