"""The table of checks by kind of entry, and the functions that list and run them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from unittest import SkipTest

from tstk.errors import OptionError, TstkError, UnknownNameError, did_you_mean
from tstk.plugins.hooks import SLOTS, Entry
from tstk.plugins.local import register_component
from tstk.plugins.location import locate_definition, locate_error
from tstk.plugins.registry import Plugin, get_registry
from tstk.testing import components, decoders, encoders, entries, gradients, heads, kernels, losses, tokenizers
from tstk.testing.assertions import ExpectedFailure, NotApplicable, expect
from tstk.testing.fixture import NoPipelineError, build_fixture, read_plugin_literal

Check = Callable[[Any], None]


def configures_existing_cases(plugin: Plugin) -> None:
    """Check that `SMALL_OPTIONS` and `EXPECTED_FAILED_CHECKS` refer to existing entries and checks."""
    known = {f"{e.kind}:{e.name}" for e in plugin.entries}
    cases = {str(case) for case in list_cases(plugin.dist)}
    for name, allowed in (("SMALL_OPTIONS", known), ("EXPECTED_FAILED_CHECKS", cases)):
        unknown = set(read_plugin_literal(plugin.dist, name)) - allowed
        expect(not unknown, f"{name} names {', '.join(sorted(unknown))}, which this plugin does not have")


PLUGIN_CHECKS: tuple[Check, ...] = (
    entries.imports_no_torch,
    entries.has_valid_names,
    configures_existing_cases,
)
COMPONENT_CHECKS: tuple[Check, ...] = (
    components.is_of_its_slot,
    components.documents_its_options,
    components.has_declared_shapes,
    components.provides_as_declared,
    components.is_reproducible,
    components.survives_save_and_load,
    components.has_finite_gradients,
    components.changes_only_its_own_state,
    components.keeps_no_graph,
    components.is_independent_of_batch,
    gradients.passes_gradcheck,
)
CHECKS_BY_KIND: dict[str, tuple[Check, ...]] = {
    "tokenizer": (
        tokenizers.has_valid_positions,
        tokenizers.marks_observed_tokens,
        tokenizers.inverts_targets,
        tokenizers.has_valid_codes,
        tokenizers.decodes_to_series,
    ),
    "encoder": (
        encoders.preserves_tokens,
        encoders.ignores_invalid_tokens,
        encoders.is_causal_as_declared,
        encoders.is_consistent_incrementally,
        encoders.is_permutation_equivariant,
        encoders.has_noticeable_positions,
    ),
    "decoder": (decoders.ignores_query_contents, decoders.attends_across_as_declared),
    "head": (heads.ignores_padding,),
    "loss": (losses.splits_valid_tokens, losses.prefers_perfect_predictions),
    "reader": (entries.reads_declared_suffixes,),
    "config": (entries.is_resolvable,),
    "recipe": (entries.has_valid_stages,),
    "command": (entries.is_a_command,),
    "callback": (entries.is_a_callback,),
    "probe": (entries.is_a_probe,),
    "task": (entries.is_a_task,),
    "report": (entries.is_a_report_section,),
    "masking": (entries.masks_valid_tokens,),
    "augmentation": (entries.is_independent_of_padding,),
    "tracker": (entries.takes_a_run_directory,),
    "importer": (entries.refuses_other_checkpoints,),
    "kernel": (kernels.matches_the_reference,),
}


@dataclass(frozen=True)
class Case:
    """One check of one entry or of the plugin as a whole; call it to run the check.

    Args:
        dist: distribution of the plugin
        check: check function
        entry: entry to check; None for the plugin itself
    """

    dist: str
    check: Check
    entry: Entry | None = None

    def __str__(self) -> str:
        """Return the key in `EXPECTED_FAILED_CHECKS`: `kind:name:check`, or `plugin:check` for the plugin."""
        subject = f"{self.entry.kind}:{self.entry.name}" if self.entry else "plugin"
        return f"{subject}:{self.check.__name__}"

    @property
    def expected_failure(self) -> str:
        """Reason why the check is expected to fail; empty if it is not."""
        return str(read_plugin_literal(self.dist, "EXPECTED_FAILED_CHECKS").get(str(self), ""))

    def __call__(self) -> None:
        """Run the check.

        Raises:
            AssertionError: the check failed, or passed although it is expected to fail
            SkipTest: the check does not apply, or failed as expected
        """
        try:
            self.check(self._get_target())
        except SkipTest:
            raise
        except Exception as e:
            if place := self.locate(e):
                e.add_note(f"see {place}")  # pytest prints notes
            if (
                isinstance(e, NoPipelineError) and self.check is not components.is_of_its_slot
            ):  # the one check that reports it
                raise NotApplicable("no pipeline of installed components accepts it") from e
            if self.expected_failure:
                raise ExpectedFailure(f"{self.expected_failure} ({type(e).__name__}: {e})") from None
            raise
        if self.expected_failure:
            raise AssertionError(f"{self} passes: remove it from EXPECTED_FAILED_CHECKS ({self.expected_failure})")

    def locate(self, error: Exception) -> str:
        """Return `FILE:LINE` in the plugin: where it raised the error, or else where what is checked is defined."""
        target = str(self.entry.target) if self.entry else find_plugin(self.dist).module
        return locate_error(error, target.partition(":")[0]) or locate_definition(target)

    def _get_target(self) -> Any:
        if self.entry is None:
            return find_plugin(self.dist)
        return build_fixture(self.entry) if self.entry.kind in SLOTS else self.entry


@dataclass(frozen=True)
class Outcome:
    """Result of one case.

    Args:
        case: the case
        state: "passed", "failed", "expected failure" or "not applicable"
        reason: reason of any state but "passed"
        location: if it failed, `FILE:LINE` in the plugin
    """

    case: Case
    state: str
    reason: str = ""
    location: str = ""


@dataclass
class Report:
    """Results of all cases of a plugin."""

    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def failed(self) -> list[Outcome]:
        """Outcomes with state "failed"."""
        return [o for o in self.outcomes if o.state == "failed"]

    def __str__(self) -> str:
        """Return a summary: `41 checks: 39 passed, 1 expected failure, 1 not applicable`."""
        counts = Counter(o.state for o in self.outcomes)
        summary = [f"{counts[s]} {s}" for s in ("passed", "failed", "expected failure", "not applicable") if counts[s]]
        return f"{len(self.outcomes)} checks: {', '.join(summary) or 'none'}"


def find_plugin(dist: str) -> Plugin:
    """Return an installed plugin by its distribution or the name of its entry point.

    Raises:
        UnknownNameError: it is not installed
        TstkError: it failed to load
    """
    matches = [p for p in get_registry().plugins if dist in (p.dist, p.name)]
    if not matches:
        names = [p.dist for p in get_registry().plugins]
        raise UnknownNameError(
            f"No plugin {dist!r} is installed.{did_you_mean(dist, names)} There are: {', '.join(names)}. "
            "To install a local one: pip install --editable FOLDER"
        )
    if matches[0].error:
        raise TstkError(f"{dist} failed to load: {matches[0].error}")
    return matches[0]


def list_cases(subject: str | type) -> list[Case]:
    """Return all cases of a plugin, its own and then those of each entry, or of a component of a script or notebook.

    Args:
        subject: distribution of the plugin, or the name of its entry point; or a class derived from a slot

    Raises:
        UnknownNameError: the plugin is not installed
        OptionError: the class is no component
    """
    if isinstance(subject, type):
        kind = getattr(subject, "kind", "")
        if kind not in SLOTS:
            bases = ", ".join(f"tstk.{slot.capitalize()}" for slot in SLOTS)
            raise OptionError(f"{subject.__name__} is no component; expected a class derived from one of {bases}")
        return _list_cases_of_entry(get_registry().find(kind, register_component(kind, subject)))
    plugin = find_plugin(subject)
    entries = [e for e in get_registry().list_entries() if e.dist == plugin.dist]
    cases = [Case(plugin.dist, check) for check in PLUGIN_CHECKS]
    return [*cases, *(case for entry in entries for case in _list_cases_of_entry(entry))]


def _list_cases_of_entry(entry: Entry) -> list[Case]:
    checks = (*(COMPONENT_CHECKS if entry.kind in SLOTS else ()), *CHECKS_BY_KIND.get(entry.kind, ()))
    return [Case(entry.dist, check, entry) for check in checks]


def run_checks(subject: str | type, on_outcome: Callable[[Outcome], None] = lambda outcome: None) -> Report:
    """Run all cases of a plugin or of a component: `print(run_checks(MyEncoder))`.

    Args:
        subject: as for `list_cases`
        on_outcome: called with each outcome as soon as it is known
    """
    report = Report()
    for case in list_cases(subject):
        report.outcomes.append(run_case(case))
        on_outcome(report.outcomes[-1])
    return report


def run_case(case: Case) -> Outcome:
    """Run one case and return its outcome."""
    try:
        case()
    except NotApplicable as e:
        return Outcome(case, "not applicable", str(e))
    except ExpectedFailure as e:
        return Outcome(case, "expected failure", str(e))
    except Exception as e:
        reason = str(e) if isinstance(e, AssertionError) else f"{type(e).__name__}: {e}"
        return Outcome(case, "failed", reason, case.locate(e))
    return Outcome(case, "passed")


def parametrize_with_checks(dist: str) -> Callable[[Any], Any]:
    """Return a decorator that parametrizes a pytest function with every case of a plugin, as `check`."""
    import pytest

    return pytest.mark.parametrize("check", list_cases(dist), ids=str)
