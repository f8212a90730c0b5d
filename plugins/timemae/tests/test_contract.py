"""This plugin's parts do what every part must."""

from tstk.testing import contract


@contract("tstk-plugins-timemae")
def test_contract(check):
    check()
