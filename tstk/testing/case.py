"""Which checks there are, for whom, and how they went: `cases`, `examine`, `contract`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from unittest import SkipTest

from tstk.errors import NameUnknown, TstkError, did_you_mean
from tstk.plugins.registry import SLOTS, Entry, Plugin, registry
from tstk.testing import answers, components, encoders, gradients, kernels, others, tokenizers
from tstk.testing.expect import Excused, NotApplicable
from tstk.testing.subject import Lonely, steering, subject

Check = Callable[[Any], None]

PLUGIN: tuple[Check, ...] = (others.is_light, others.is_named_well, others.names_its_parts)
COMPONENT: tuple[Check, ...] = (
    components.loads,
    components.explains_its_options,
    components.keeps_the_promised_shapes,
    components.provides_what_it_says,
    components.repeats_itself,
    components.survives_a_checkpoint,
    components.learns,
    components.moves_only_itself,
    components.serves_one_series,
    gradients.differentiates,
)
KIND: dict[str, tuple[Check, ...]] = {
    "tokenizer": (
        tokenizers.places_its_tokens,
        tokenizers.marks_what_was_observed,
        tokenizers.inverts,
        tokenizers.has_codes,
        tokenizers.synthesises,
    ),
    "encoder": (
        encoders.keeps_its_tokens,
        encoders.ignores_invalid_tokens,
        encoders.is_causal_if_it_says_so,
        encoders.extends,
        encoders.permutes,
        encoders.shows_positions,
    ),
    "decoder": (answers.is_blind_to_the_answer, answers.mixes_as_it_says),
    "head": (answers.ignores_padding,),
    "loss": (answers.splits_what_it_was_given, answers.prefers_the_truth),
    "data": (others.reads_its_suffixes,),
    "config": (others.resolves,),
    "recipe": (others.has_stages,),
    "command": (others.is_a_command,),
    "callback": (others.is_a_callback,),
    "kernel": (kernels.answers_as_the_reference,),
}


@dataclass(frozen=True)
class Case:
    """One check of one entry, or of the plugin as a whole; to be called.

    Args:
        dist: the plugin's distribution
        check: a function of the kit
        entry: what it looks at; None for the plugin
    """

    dist: str
    check: Check
    entry: Entry | None = None

    def __str__(self) -> str:
        """`kind:name:check`, by which `EXCUSES` names it; `plugin:check` for the plugin."""
        who = f"{self.entry.kind}:{self.entry.name}" if self.entry else "plugin"
        return f"{who}:{self.check.__name__}"

    @property
    def excuse(self) -> str:
        """Why it may fail; empty if it may not."""
        return str(steering(self.dist, "EXCUSES").get(str(self), ""))

    def __call__(self) -> None:
        """Run the check.

        Raises:
            AssertionError: what was found and what was expected; or that an excuse is no longer needed
            SkipTest: not applicable, or excused
        """
        try:
            self.check(self._looked_at())
        except SkipTest:
            raise
        except Exception as e:
            if isinstance(e, Lonely) and self.check is not components.loads:  # which says so, once
                raise NotApplicable("it works in no pipeline of installed parts") from e
            if self.excuse:
                raise Excused(f"{self.excuse} ({type(e).__name__}: {e})") from None
            raise
        if self.excuse:
            raise AssertionError(f"{self} passes: remove its excuse ({self.excuse})")

    def _looked_at(self) -> Any:
        if self.entry is None:
            return plugin_of(self.dist)
        return subject(self.entry) if self.entry.kind in SLOTS else self.entry


@dataclass(frozen=True)
class Outcome:
    """How one case went.

    Args:
        case: which
        state: passed, failed, excused, or not applicable
        reason: why, where there is something to say
    """

    case: Case
    state: str
    reason: str = ""


@dataclass
class Report:
    """How all cases of a plugin went."""

    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def failed(self) -> list[Outcome]:
        """The cases that failed."""
        return [o for o in self.outcomes if o.state == "failed"]

    def __str__(self) -> str:
        """`41 checks: 39 passed, 1 excused, 1 not applicable`."""
        counts = Counter(o.state for o in self.outcomes)
        told = [f"{counts[s]} {s}" for s in ("passed", "failed", "excused", "not applicable") if counts[s]]
        return f"{len(self.outcomes)} checks: {', '.join(told) or 'none'}"


def plugin_of(dist: str) -> Plugin:
    """The installed plugin of a distribution, by its name or the name of its entry point.

    Raises:
        NameUnknown: it is not installed
        TstkError: it is, but failed to load
    """
    found = [p for p in registry().plugins if dist in (p.dist, p.name)]
    if not found:
        names = [p.dist for p in registry().plugins]
        raise NameUnknown(
            f"No plugin {dist!r} is installed.{did_you_mean(dist, names)} There are: {', '.join(names)}. "
            "To install one that you write: pip install --editable FOLDER"
        )
    if found[0].error:
        raise TstkError(f"{dist} failed to load: {found[0].error}")
    return found[0]


def cases(dist: str) -> list[Case]:
    """All cases of a plugin: of itself, then of each entry in turn.

    Raises:
        NameUnknown: it is not installed
    """
    plugin = plugin_of(dist)
    found = [Case(plugin.dist, check) for check in PLUGIN]
    for entry in registry().entries():
        if entry.dist == plugin.dist:
            checks = (*(COMPONENT if entry.kind in SLOTS else ()), *KIND.get(entry.kind, ()))
            found += [Case(plugin.dist, check, entry) for check in checks]
    return found


def keys(dist: str) -> set[str]:
    """The names of all cases of a plugin."""
    return {str(case) for case in cases(dist)}


def examine(dist: str, told: Callable[[Outcome], None] = lambda outcome: None) -> Report:
    """Run all cases of a plugin.

    Args:
        dist: its distribution, or the name of its entry point
        told: receives each outcome as it comes
    """
    report = Report()
    for case in cases(dist):
        report.outcomes.append(outcome(case))
        told(report.outcomes[-1])
    return report


def outcome(case: Case) -> Outcome:
    """Run one case and say how it went."""
    try:
        case()
    except NotApplicable as e:
        return Outcome(case, "not applicable", str(e))
    except Excused as e:
        return Outcome(case, "excused", str(e))
    except AssertionError as e:
        return Outcome(case, "failed", str(e))
    except Exception as e:
        return Outcome(case, "failed", f"{type(e).__name__}: {e}")
    return Outcome(case, "passed")


def contract(dist: str) -> Callable[[Any], Any]:
    """A decorator that gives a pytest function every case of a plugin, one by one, as `check`."""
    import pytest

    return pytest.mark.parametrize("check", cases(dist), ids=str)
