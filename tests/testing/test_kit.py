"""The kit finds what it is there to find, says it with shapes, and counts what it did not look at."""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path

import pytest

from tstk.plugins.hooks import Entry
from tstk.plugins.registry import Plugin, get_registry
from tstk.testing import Case, NotApplicable, expect, list_cases, run_checks
from tstk.testing import case as kit
from tstk.testing.assertions import ExpectedFailure

sys.path.insert(0, str(Path(__file__).parents[1] / "made_up"))
import faulty

sys.path.pop(0)
USUAL = {
    "tokenizer": frozenset({"target_dim", "stride", "ordered"}),
    "encoder": frozenset({"causal", "num_prefix_tokens"}),
}


@pytest.fixture
def announced(monkeypatch):
    """Make a plugin `made-up` known that has these entries, and these literals beside its hook."""

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
def test_each_fault_is_caught_by_the_check_that_is_there_for_it(thing, announced, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(faulty.__file__).parent))
    entry = entry_of(thing)
    announced(entry)
    case = next(c for c in list_cases("made-up") if c.check.__name__ == thing.caught and c.entry == entry)
    with pytest.raises(AssertionError, match=thing.says):
        case()


def always(it):
    raise AssertionError("it rains")


def never(it):
    """Nothing to complain of."""


def nowhere(it):
    raise NotApplicable("it has no roof")


def bug(it):
    return 1 / 0


@pytest.fixture
def only(monkeypatch):
    """These checks of a plugin and no others."""
    return lambda *checks: [
        monkeypatch.setattr(kit, "PLUGIN_CHECKS", checks),
        monkeypatch.setattr(kit, "COMPONENT_CHECKS", ()),
        monkeypatch.setattr(kit, "CHECKS_BY_KIND", {}),
    ]


def test_a_report_counts_what_passed_failed_was_excused_or_had_nothing_to_look_at(announced, only):
    announced(EXPECTED_FAILED_CHECKS={"plugin:always": "it is autumn"})
    only(always, never, nowhere, bug)
    report = run_checks("made-up")
    assert str(report) == "4 checks: 1 passed, 1 failed, 1 expected failure, 1 not applicable"
    assert [o.reason for o in report.failed] == ["ZeroDivisionError: division by zero"]
    excused = next(o for o in report.outcomes if o.state == "expected failure")
    assert excused.reason == "it is autumn (AssertionError: it rains)"


def test_an_excuse_that_is_not_needed_is_a_failure(announced, only):
    announced(EXPECTED_FAILED_CHECKS={"plugin:never": "just in case"})
    only(never)
    assert "remove it from EXPECTED_FAILED_CHECKS (just in case)" in run_checks("made-up").failed[0].reason


def test_what_is_excused_or_not_applicable_is_a_skip_to_any_test_runner(announced, only):
    from unittest import SkipTest

    announced(EXPECTED_FAILED_CHECKS={"plugin:always": "it is autumn"})
    only(always, nowhere)
    for case, kind in zip(list_cases("made-up"), (ExpectedFailure, NotApplicable), strict=True):
        assert issubclass(kind, SkipTest)
        with pytest.raises(kind):
            case()


def test_excuses_and_sizes_must_name_what_is_there(announced):
    announced(EXPECTED_FAILED_CHECKS={"plugin:imports_no_trch": "a slip"})
    assert "EXPECTED_FAILED_CHECKS names plugin:imports_no_trch" in str(run_checks("made-up").failed[-1].reason)


@pytest.mark.slow
def test_a_part_that_fits_nowhere_fails_once_and_the_rest_says_so(announced, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(faulty.__file__).parent))
    announced(entry_of(faulty.Demanding))
    outcomes = [o for o in run_checks("made-up").outcomes if o.case.entry]
    assert [o.state for o in outcomes].count("failed") == 1
    assert "head 'demanding' needs" in outcomes[0].reason
    assert {o.state for o in outcomes[1:]} == {"not applicable"}


def test_a_failed_check_names_the_line_of_the_component_or_the_one_that_raised(announced, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(faulty.__file__).parent))
    announced(entry_of(faulty.Wide))
    lines = Path(faulty.__file__).read_text().splitlines()
    wide = next(c for c in list_cases("made-up") if str(c) == "tokenizer:wide:has_declared_shapes")
    place, _, line = kit.run_case(wide).location.rpartition(":")
    assert place.endswith("tests/made_up/faulty.py")
    assert lines[int(line) - 1] == "class Wide(_P):"
    monkeypatch.setattr(faulty.Wide, "forward", faulty.Raising.forward)
    outcome = kit.run_case(wide)
    assert outcome.reason == "RuntimeError: a bug"
    assert lines[int(outcome.location.rpartition(":")[2]) - 1].strip() == 'raise RuntimeError("a bug")'
    with pytest.raises(RuntimeError) as raised:
        wide()
    assert raised.value.__notes__ == [f"see {outcome.location}"]


def test_a_plugin_that_is_not_there_is_answered_with_the_nearest():
    from tstk.errors import UnknownNameError

    with pytest.raises(UnknownNameError, match="Did you mean 'tstk-plugins-timae'"):
        list_cases("tstk-plugins-timea")


def test_a_case_is_named_by_kind_name_and_check():
    assert str(Case("x", never)) == "plugin:never"
    assert str(Case("x", never, Entry("head", "cot", "a:b", "s"))) == "head:cot:never"


def test_expect_fails_with_its_sentence():
    expect(True, "unsaid")
    with pytest.raises(AssertionError, match="said"):
        expect(False, "said")


@pytest.mark.slow
def test_a_part_that_needs_what_no_check_can_give_is_excused_once(announced, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(faulty.__file__).parent))
    announced(entry_of(faulty.Demanding), EXPECTED_FAILED_CHECKS={"head:demanding:is_of_its_slot": "wants the moon"})
    states = [o.state for o in run_checks("made-up").outcomes if o.case.entry]
    assert states[0] == "expected failure"
    assert set(states[1:]) == {"not applicable"}
