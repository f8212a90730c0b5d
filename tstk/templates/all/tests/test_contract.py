"""What every part of every plugin must do; `tstk plugins check tstk-plugins-sketch` runs the same."""

from tstk.testing import contract


@contract("tstk-plugins-sketch")
def test_contract(check):
    check()
