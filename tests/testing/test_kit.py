"""The conformance kit finds each fault, reports shapes, and counts skipped checks."""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path

import pytest

from tstk.builtin.encoders.transformer import Transformer
from tstk.errors import OptionError
from tstk.plugins.hooks import Entry
from tstk.plugins.registry import Plugin, get_registry
from tstk.testing import Case, NotApplicable, case, expect, list_cases, run_checks
from tstk.testing.assertions import ExpectedFailure

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
import faulty

sys.path.pop(0)
USUAL = {
    "tokenizer": frozenset({"target_dim", "stride", "ordered"}),
    "encoder": frozenset({"causal", "num_prefix_tokens"}),
}


@pytest.fixture
def register_plugin(monkeypatch):
    """Register a plugin `made-up` with these entries and module constants."""

    def announce(*entries, **literals):
        module = module_from_spec(ModuleSpec("made_up_plugin", None))
        vars(module).update(literals)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        plugin = Plugin("made", "made-up", "1", module.__name__, list(entries))
        monkeypatch.setattr(get_registry(), "plugins", [*get_registry().plugins, plugin])
        for entry in entries:
            monkeypatch.setitem(get_registry()._table, (entry.kind, entry.name), [entry])
        return plugin

    monkeypatch.setitem(sys.modules, "faulty", faulty)
    return announce


def entry_of(thing, kind=None):
    kind = kind or thing.kind
    name = thing.__name__.lower()
    provides = getattr(thing, "provides", USUAL.get(kind, frozenset()))
    return Entry(kind, name, f"faulty:{thing.__name__}", "Has a fault", provides, dist="made-up")


@pytest.mark.parametrize("thing", faulty.FAULTY, ids=lambda t: f"{t.__name__}-{t.caught}")
def test_each_fault_is_caught_by_the_check_that_is_there_for_it(thing, register_plugin, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(faulty.__file__).parent))
    entry = entry_of(thing)
    register_plugin(entry)
    check = next(c for c in list_cases("made-up") if c.check.__name__ == thing.caught and c.entry == entry)
    with pytest.raises(AssertionError, match=thing.says):
        check()


def always_fails(it):
    raise AssertionError("it rains")


def never_fails(it):
    """Pass."""


def not_applicable(it):
    raise NotApplicable("it has no roof")


def bug(it):
    return 1 / 0


@pytest.fixture
def only(monkeypatch):
    """Replace the checks by these."""
    return lambda *checks: [
        monkeypatch.setattr(case, "PLUGIN_CHECKS", checks),
        monkeypatch.setattr(case, "COMPONENT_CHECKS", ()),
        monkeypatch.setattr(case, "CHECKS_BY_KIND", {}),
    ]


def test_a_report_counts_passed_failed_expected_and_skipped_checks(register_plugin, only):
    register_plugin(EXPECTED_FAILED_CHECKS={"plugin:always_fails": "it is autumn"})
    only(always_fails, never_fails, not_applicable, bug)
    report = run_checks("made-up")
    assert str(report) == "4 checks: 1 passed, 1 failed, 1 expected failure, 1 not applicable"
    assert [o.reason for o in report.failed] == ["ZeroDivisionError: division by zero"]
    excused = next(o for o in report.outcomes if o.state == "expected failure")
    assert excused.reason == "it is autumn (AssertionError: it rains)"


def test_an_expected_failure_that_passes_is_a_failure(register_plugin, only):
    register_plugin(EXPECTED_FAILED_CHECKS={"plugin:never_fails": "just in case"})
    only(never_fails)
    assert "remove it from EXPECTED_FAILED_CHECKS (just in case)" in run_checks("made-up").failed[0].reason


def test_expected_failures_and_checks_that_do_not_apply_are_skips_to_any_test_runner(register_plugin, only):
    from unittest import SkipTest

    register_plugin(EXPECTED_FAILED_CHECKS={"plugin:always_fails": "it is autumn"})
    only(always_fails, not_applicable)
    for check, kind in zip(list_cases("made-up"), (ExpectedFailure, NotApplicable), strict=True):
        assert issubclass(kind, SkipTest)
        with pytest.raises(kind):
            check()


def test_expected_failures_and_sizes_must_name_existing_checks_and_components(register_plugin):
    register_plugin(EXPECTED_FAILED_CHECKS={"plugin:imports_no_trch": "a slip"})
    assert "EXPECTED_FAILED_CHECKS names plugin:imports_no_trch" in str(run_checks("made-up").failed[-1].reason)


@pytest.mark.slow
def test_a_component_that_fits_nowhere_fails_once_and_the_other_checks_are_skipped(register_plugin, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(faulty.__file__).parent))
    register_plugin(entry_of(faulty.Demanding))
    outcomes = [o for o in run_checks("made-up").outcomes if o.case.entry]
    assert [o.state for o in outcomes].count("failed") == 1
    assert "head 'demanding' needs" in outcomes[0].reason
    assert {o.state for o in outcomes[1:]} == {"not applicable"}


def test_a_failed_check_names_the_line_of_the_component_or_the_one_that_raised(register_plugin, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(faulty.__file__).parent))
    register_plugin(entry_of(faulty.Wide))
    lines = Path(faulty.__file__).read_text().splitlines()
    wide = next(c for c in list_cases("made-up") if str(c) == "tokenizer:wide:has_declared_shapes")
    place, _, line = case.run_case(wide).location.rpartition(":")
    assert place.endswith("tests/support/faulty.py")
    assert lines[int(line) - 1] == "class Wide(_P):"
    monkeypatch.setattr(faulty.Wide, "forward", faulty.Raising.forward)
    outcome = case.run_case(wide)
    assert outcome.reason == "RuntimeError: a bug"
    assert lines[int(outcome.location.rpartition(":")[2]) - 1].strip() == 'raise RuntimeError("a bug")'
    with pytest.raises(RuntimeError) as raised:
        wide()
    assert raised.value.__notes__ == [f"see {outcome.location}"]


def test_a_missing_plugin_is_an_error_with_a_suggestion():
    from tstk.errors import UnknownNameError

    with pytest.raises(UnknownNameError, match="Did you mean 'tstk-plugins-timae'"):
        list_cases("tstk-plugins-timea")


def test_a_case_is_named_by_kind_name_and_check():
    assert str(Case("x", never_fails)) == "plugin:never_fails"
    assert str(Case("x", never_fails, Entry("head", "cot", "a:b", "s"))) == "head:cot:never_fails"


def test_expect_fails_with_its_sentence():
    expect(True, "unsaid")
    with pytest.raises(AssertionError, match="said"):
        expect(False, "said")


@pytest.mark.slow
def test_a_component_whose_needs_no_check_can_meet_is_skipped_once(register_plugin, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(faulty.__file__).parent))
    register_plugin(
        entry_of(faulty.Demanding), EXPECTED_FAILED_CHECKS={"head:demanding:is_of_its_slot": "wants the moon"}
    )
    states = [o.state for o in run_checks("made-up").outcomes if o.case.entry]
    assert states[0] == "expected failure"
    assert set(states[1:]) == {"not applicable"}


@pytest.mark.slow
def test_a_class_of_a_script_or_notebook_is_checked_without_a_plugin():
    class Leaking(Transformer):
        """A transformer whose tokens see invalid ones."""

        def forward(self, tokens):
            values = super().forward(tokens).values
            return tokens.replace(values=values + tokens.values.mean(1, keepdim=True))

    report = run_checks(Leaking)
    assert {"is_independent_of_batch", "ignores_invalid_tokens"} <= {o.case.check.__name__ for o in report.failed}
    assert len(report.outcomes) > 10
    with pytest.raises(
        OptionError, match=r"dict is no component; expected a class derived from one of tstk\.Tokenizer, tstk\.Encoder"
    ):
        run_checks(dict)
