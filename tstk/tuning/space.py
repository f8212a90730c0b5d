"""The search space of `tstk tune`: options with a range or with choices, checked before anything is trained.

A range is written LOW..HIGH, LOW..HIGH:log or LOW..HIGH:STEP, choices as a,b,c. Types and bounds are those of the
option's signature. An option of a component that only some pipelines have, such as `tokenizer.patch_len` if
`tokenizer` is searched too, is drawn only for those. Nothing here imports torch or Optuna.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tstk.config.resolve import (
    SECTIONS,
    Config,
    Layer,
    get_signature,
    list_component_options,
    parse_overrides,
    resolve_config,
)
from tstk.errors import OptionError, TstkError, did_you_mean
from tstk.plugins.hooks import SLOTS
from tstk.plugins.registry import is_same_component
from tstk.plugins.signature import Option

if TYPE_CHECKING:
    from optuna import Trial

SEARCH_TABLE = "search"
"""Name of the table of a config file that has the search space."""
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(?::(.+))?")
_EXPECTED = "expected a range such as 1..4, 1e-4..1e-2:log or 64..256:64, or choices such as a,b"
_NOT_SEARCHED = {
    **dict.fromkeys(
        (
            *("data", "data_root", "train_data", "val_data", "test_data", "val_fraction", "test_fraction", "folds"),
            *("fold", "split_seed", "label_column", "label_separator", "target_columns", "task", "horizon", "stride"),
        ),
        "it decides what is validated, so the scores of trials could not be compared",
    ),
    "seed": "a seed that validates best is chance",
    "init_from": "other runs have other options; tune from each in turn",
    **dict.fromkeys(
        ("device", "threads", "deterministic", "trackers", "callbacks"), "it says how to run, not what to train"
    ),
}
"""Options that are not searched, and why."""


@dataclass(frozen=True)
class Dimension:
    """One option of a search space.

    Args:
        path: of the option, such as lr or encoder.depth, or a slot
        text: the range or the choices, as written
        low: smallest value of a range
        high: largest value of a range
        step: from one value of a range to the next; None if every number between the ends is one
        log: whether the logarithm is drawn uniformly
        choices: as text, as on the command line; empty for a range
        is_integer: whether the values of a range are integers
    """

    path: str
    text: str
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False
    choices: tuple[str, ...] = ()
    is_integer: bool = False

    def suggest(self, trial: Trial) -> Any:
        """Draw a value: a number of the range, or the text of a choice."""
        if self.choices:
            return trial.suggest_categorical(self.path, self.choices)
        if self.is_integer:
            step = 1 if self.step is None else int(self.step)
            return trial.suggest_int(self.path, int(self.low), int(self.high), step=step, log=self.log)
        return trial.suggest_float(self.path, self.low, self.high, step=self.step, log=self.log)

    def find_value(self, value: Any, option: Option | None) -> Any:
        """Return what `suggest` would return for the value of an option (None: the name of a component).

        Raises:
            LookupError: the value is not in the space
        """
        if self.choices:
            for choice in self.choices:
                if is_same_component(choice, str(value)) if option is None else option.parse(choice) == value:
                    return choice
        elif isinstance(value, int | float) and self.low <= value <= self.high and self._is_on_a_step(value):
            return value
        raise LookupError(self.path)

    def _is_on_a_step(self, value: float) -> bool:
        count = 0.0 if self.step is None else (value - self.low) / self.step
        return abs(count - round(count)) < 1e-9


def parse_search(items: Mapping[str, Any] | Sequence[str]) -> list[Dimension]:
    """Parse a search space.

    Args:
        items: option -> range or choices, as text or a list, perhaps in tables of components; or texts OPTION=VALUES

    Raises:
        OptionError: all faults, one line each
    """
    pairs = list(_flatten(items)) if isinstance(items, Mapping) else [_split_flag(text) for text in items]
    dimensions: dict[str, Dimension] = {}
    faults = []
    for name, value in pairs:
        path = name.strip().lstrip("-").replace("-", "_").replace("__", ".")
        try:
            dimensions[path] = _parse_dimension(path, value)
        except OptionError as e:
            faults.append(str(e))
    if faults:
        raise OptionError("\n".join(faults))
    return list(dimensions.values())


def _split_flag(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise OptionError(f"--search {text}: {_EXPECTED}, as --search lr=1e-4..1e-2:log")
    return name, value


def _flatten(table: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        name = ".".join(filter(None, (path, "" if path and key == "use" else key)))
        if isinstance(value, Mapping):
            yield from _flatten(value, name)
        else:
            yield name, value


def _parse_dimension(path: str, value: Any) -> Dimension:
    """Parse a range or choices by their form alone; `SearchSpace` checks them against the option."""
    if path in _NOT_SEARCHED:
        raise OptionError(f"search {path}: {_NOT_SEARCHED[path]}; give it one value, without --search")
    if isinstance(value, str):
        if match := _RANGE.fullmatch(value.strip()):
            return _parse_range(path, value, *match.groups())
        choices = [choice.strip() for choice in value.split(",")]
    elif isinstance(value, list | tuple):
        choices = [_format_choice(choice) for choice in value]
    else:
        choices = [_format_choice(value)]
    text = ",".join(choices)
    if not choices or "" in choices:
        raise OptionError(f"search {path}={value}: a choice is empty; {_EXPECTED}")
    if len(set(choices)) < len(choices):
        raise OptionError(f"search {path}={text}: a choice occurs twice")
    return Dimension(path, text, choices=tuple(choices))


def _format_choice(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_format_choice, value))
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _parse_range(path: str, text: str, low: str, high: str, scale: str | None) -> Dimension:
    label, ends = f"search {path}={text}", (float(low), float(high))
    if ends[0] >= ends[1]:
        raise OptionError(f"{label}: the first end of a range is the smaller one")
    if scale == "log":
        if ends[0] <= 0:
            raise OptionError(
                f"{label}: a logarithm needs ends above 0; use {low}..{high}, or a small number for {low}"
            )
        return Dimension(path, text, *ends, log=True)
    if scale is None:
        return Dimension(path, text, *ends)
    if not re.fullmatch(_NUMBER, scale) or float(scale) <= 0:
        raise OptionError(f"{label}: {scale} is neither log nor a step; {_EXPECTED}")
    step = float(scale)
    count = (ends[1] - ends[0]) / step
    if abs(count - round(count)) > 1e-9:
        below = ends[0] + int(count) * step
        raise OptionError(f"{label}: steps of {scale} do not end at {high}; nearby ends: {below:g}, {below + step:g}")
    return Dimension(path, text, *ends, step=step)


class SearchSpace:
    """Configs that differ in some options.

    Args:
        layers: of the config that all trials share, as for `resolve_config`
        dimensions: the options to search

    Raises:
        OptionError: an option does not exist, or a value is not one of its values; all faults, one line each
        UnknownNameError: a component does not exist
    """

    def __init__(self, layers: Sequence[Layer], dimensions: Sequence[Dimension]) -> None:
        self.layers = list(layers)
        if not dimensions:
            raise OptionError(f"nothing to search: give --search OPTION=VALUES; {_EXPECTED}")
        # components first, the outer before the inner, since they decide which other options exist
        self.dimensions = sorted(dimensions, key=lambda d: d.path.count("."))
        self.base = self.resolve({})
        self._check()

    def resolve(self, values: Mapping[str, Any]) -> Config:
        """Return the config of a trial.

        Args:
            values: option -> what `Dimension.suggest` returned
        """
        return resolve_config(*self.layers, (SEARCH_TABLE, parse_overrides(values)))

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Draw a value for each option that the pipeline of the trial has.

        Raises:
            TstkError: the components that were drawn do not fit together
        """
        values: dict[str, Any] = {}
        for dimension in self.components:
            if self._has(self.resolve(values), dimension.path):
                values[dimension.path] = dimension.suggest(trial)
        config = self.resolve(values)
        for dimension in self.dimensions:
            if dimension not in self.components and self._has(config, dimension.path):
                values[dimension.path] = dimension.suggest(trial)
        return values

    def describe_base(self) -> tuple[dict[str, Any], list[str]]:
        """Return the values that the shared config has, as a trial, and a line for each that is not in the space."""
        values, missing = {}, []
        for dimension in self.dimensions:
            option, value = find_option(self.base, dimension.path)
            if option is None and value is None:
                continue
            try:
                is_name = option is None or option.is_component
                values[dimension.path] = dimension.find_value(value, None if is_name else option)
            except LookupError:
                missing.append(f"{dimension.path} is {_format_choice(value)}, which is not in {dimension.text}")
        return values, missing

    @staticmethod
    def _has(config: Config, path: str) -> bool:
        option, _ = find_option(config, path)
        return option is not None or path in SLOTS

    def _check(self) -> None:
        """Give each dimension the type of its option; raise if one has no such option or value."""
        variants: list[dict[str, Any]] = [{}]
        checked, faults = [], []
        self.components: list[Dimension] = []
        for dimension in self.dimensions:
            configs = [self.resolve(values) for values in variants]
            options = [option for config in configs if (option := find_option(config, dimension.path)[0]) is not None]
            if dimension.path in SLOTS or (options and options[0].is_component):
                faults += self._add_variants(dimension, variants)
                self.components.append(dimension)
            elif options:
                try:
                    dimension = _set_type(dimension, options)
                except TstkError as e:
                    faults.append(str(e))
            else:
                faults.append(_explain_unknown(dimension.path, configs))
            checked.append(dimension)
        if faults:
            raise OptionError("\n".join(dict.fromkeys(faults)))
        self.dimensions = checked

    def _add_variants(self, dimension: Dimension, variants: list[dict[str, Any]]) -> list[str]:
        """Add a variant of the pipeline for each component that a dimension names; return faults."""
        if not dimension.choices:
            return [f"search {dimension.path}={dimension.text}: name components, such as {dimension.path}=a,b"]
        faults = []
        slot = dimension.path.partition(".")[0]
        for values in list(variants):
            if any(path.partition(".")[0] != slot for path in values):
                continue  # components of other slots do not decide which options exist
            if not self._has(self.resolve(values), dimension.path):
                continue
            for choice in dimension.choices:
                try:
                    self.resolve({**values, dimension.path: choice})
                except TstkError as e:
                    faults.append(f"search {dimension.path}={choice}: {e}")
                else:
                    variants.append({**values, dimension.path: choice})
        return faults


def _set_type(dimension: Dimension, options: Sequence[Option]) -> Dimension:
    """Return a dimension with the type of its options, one for each component that has it, and check its values."""
    label = f"search {dimension.path}={dimension.text}"
    option = options[0]
    for value in dimension.choices:
        for each in options:
            each.parse(value, label)
    if dimension.choices:
        return dimension
    if option.type not in ("int", "float") or option.is_tuple:
        values = "true,false" if option.type == "bool" else ",".join(map(str, option.choices)) or "a,b"
        raise OptionError(
            f"{label}: this option is {option.type_label} and has no range; give choices, such as {values}"
        )
    is_integer = all(each.type == "int" for each in options)
    if is_integer and dimension.step is not None and dimension.step % 1:
        raise OptionError(f"{label}: the option is an integer, and {dimension.step:g} is no integer step")
    for end in (dimension.low, dimension.high):
        for each in options:
            each.parse(int(end) if each.type == "int" and end % 1 == 0 else end, label)
    return replace(dimension, is_integer=is_integer)


def find_option(config: Config, path: str) -> tuple[Option | None, Any]:
    """Return an option and its value; of a slot, None and the name of its component; None twice if there is none."""
    head, *rest = path.split(".")
    if head in SLOTS:
        if not rest:
            return None, config.component(head)
        kind, table = head, config.values.get(head)
    else:
        section = next((s for s in SECTIONS if head in get_signature(s, None).options), None)
        if section is None:
            return None, None
        kind, table, rest = section, config.values[section], [head, *rest]
    for i, name in enumerate(rest):
        if table is None:
            return None, None
        option = get_signature(kind, table.get("use")).options.get(name)
        if option is None:
            return None, None
        value = table[name]
        if i == len(rest) - 1:
            return option, value["use"] if option.is_component and value else value
        if not option.is_component:
            return None, None
        kind, table = option.type, value
    return None, None


def _explain_unknown(path: str, configs: Sequence[Config]) -> str:
    """Return the message for an option that no pipeline of the search has."""
    head, dot, leaf = path.rpartition(".")
    text = f"search {path}: there is no such option."
    slot = path.partition(".")[0]
    if not dot:
        known = [name for section in SECTIONS for name in get_signature(section, None).options]
        return text + did_you_mean(path, [*known, *SLOTS, *list_component_options()])
    if slot in SLOTS and not any(config.component(slot) for config in configs):
        return f"{text} No pipeline of this search has a {slot}; select one with --{slot}."
    if slot in SECTIONS:
        return f"{text} Options of [{slot}] have no prefix: {leaf}."
    names: dict[str, None] = {}
    for config in configs:
        component = config.component(head) if head in SLOTS else find_option(config, head)[1]
        kind = head if head in SLOTS else getattr(find_option(config, head)[0], "type", None)
        if component and kind:
            names |= dict.fromkeys(get_signature(kind, component).options)
    hint = did_you_mean(leaf, names)
    return text + (hint or (f" {head} has: {', '.join(names)}." if names else ""))
