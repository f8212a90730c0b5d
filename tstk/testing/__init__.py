"""Conformance checks for the components of a plugin, as plain functions without pytest fixtures.

In a plugin's own tests, one case per (entry, check):

    from tstk.testing import parametrize_with_checks

    @parametrize_with_checks("tstk-plugins-mine")
    def test_contract(check):
        check()

`tstk plugins check tstk-plugins-mine` runs the same list, and `run_checks(MyEncoder)` the checks of a class in a script
or notebook. Two optional literals in `plugin.py` configure it:

    SMALL_OPTIONS = {"tokenizer:mine": {"codes": 8}}  # options that make a component small
    EXPECTED_FAILED_CHECKS = {"encoder:mine:is_permutation_equivariant": "reads tokens in order"}  # check -> reason

A check that is expected to fail but passes counts as a failure.
"""

from tstk.testing.assertions import NotApplicable, expect
from tstk.testing.case import Case, Outcome, Report, list_cases, parametrize_with_checks, run_checks
from tstk.testing.fixture import ComponentFixture, build_fixture

__all__ = [
    "Case",
    "NotApplicable",
    "Outcome",
    "Report",
    "ComponentFixture",
    "list_cases",
    "parametrize_with_checks",
    "run_checks",
    "expect",
    "build_fixture",
]
