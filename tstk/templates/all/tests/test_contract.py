"""Conformance checks of this plugin, as run by `tstk plugins check tstk-plugins-sketch`."""

from tstk.testing import parametrize_with_checks


@parametrize_with_checks("tstk-plugins-sketch")
def test_contract(check):
    check()
