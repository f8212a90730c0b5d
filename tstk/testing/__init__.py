"""The conformance kit: what every plugin's parts must do, as plain functions that need no fixture of ours.

In a plugin's own tests, one case per (entry, check):

    from tstk.testing import contract

    @contract("tstk-plugins-mine")
    def test_contract(check):
        check()

`tstk plugins check tstk-plugins-mine` runs the same list. Two literals beside the hook in `plugin.py` may steer it:

    SMALL = {"tokenizer:mine": {"codes": 8}}                    # options that make a part tiny
    EXCUSES = {"encoder:mine:permutes": "reads tokens in order"}    # what a part need not do, and why

An excuse for what does not fail is a failure itself.
"""

from tstk.testing.case import Case, Outcome, Report, cases, contract, examine
from tstk.testing.expect import NotApplicable, expect
from tstk.testing.subject import Subject, subject

__all__ = [
    "Case",
    "NotApplicable",
    "Outcome",
    "Report",
    "Subject",
    "cases",
    "contract",
    "examine",
    "expect",
    "subject",
]
