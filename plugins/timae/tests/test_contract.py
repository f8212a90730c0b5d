"""This plugin's parts do what every part must."""

from tstk.testing import contract


@contract("tstk-plugins-timae")
def test_contract(check):
    check()
