"""This plugin's parts do what every part must."""

from tstk.testing import contract


@contract("tstk-plugins-vqshape")
def test_contract(check):
    check()
