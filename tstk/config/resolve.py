"""Configs: TOML tables laid over each other, checked option by option, with a note of where each value came from.

A config has one table per slot (`use` names the component) and the tables `data`, `pipeline` and `train`.
Precedence: defaults < a run given with `--from` < config files < flags. Options belong to the component they
were written for: where a higher layer names another component, the lower layer's table is set aside.
Nothing here imports torch.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tstk.errors import OptionError, TstkError, did_you_mean
from tstk.plugins.registry import SLOTS, Entry, registry, same
from tstk.plugins.signature import Outline, outline, source_file

SECTIONS = {"data": "tstk.data.load:load", "pipeline": "tstk.runs.build:assemble", "train": "tstk.training.loop:fit"}
"""Tables that are not slots: the options of each are the keyword-only parameters of a function."""

WIRING = ("channels", "instance_norm", "linear_map")
"""Options of `pipeline` that say how its parts are connected, and so belong to a trained model."""

Table = dict[str, Any]
Layer = tuple[str, Mapping[str, Any]]
"""Where values come from (for messages and `--print-config`), and nested tables of values."""


@dataclass
class Config:
    """A complete choice: every option of every component has a value and a source.

    Args:
        values: table name -> {"use": name, option: value}; a slot that is not used is absent
        sources: dotted option -> `default`, `flag`, the config's name or the run's
        mounts: slot -> run directory whose trained weights it starts from
        notes: what was set aside, for the user
    """

    values: dict[str, Table]
    sources: dict[str, str] = field(default_factory=dict)
    mounts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def options(self, section: str) -> Table:
        """The options of one table, without `use`."""
        return {k: v for k, v in self.values[section].items() if k != "use"}

    def use(self, section: str) -> str | None:
        """The name of the component (or data set) that a table chose."""
        return self.values.get(section, {}).get("use")

    def toml(self, provenance: bool = True) -> str:
        """As TOML that can be fed back; `provenance` adds where each value came from."""
        values = dict(self.values)
        for slot, run in self.mounts.items():
            if slot in values and run != self.options("pipeline").get("from"):
                values[slot] = {**values[slot], "use": run}
        return to_toml(values, self.sources if provenance else {})


def chosen(choices: Mapping[str, Any]) -> Table:
    """Flat choices as tables: `{"encoder": "bert", "encoder__depth": 4, "epochs": 9}`; a dot does for `__`.

    Raises:
        OptionError: no table has an option of this name
    """
    tables: Table = {}
    homes = {option: section for section in SECTIONS for option in shape_of(section, None).options}
    for name, value in choices.items():
        path = name.replace("__", ".").split(".")
        if path[0] not in (*SLOTS, "data"):
            if name.rstrip("_") not in homes:
                raise OptionError(f"there is no option {name!r}.{did_you_mean(name, [*homes, *SLOTS, 'data'])}")
            path = [homes[name.rstrip("_")], name.rstrip("_")]
        if len(path) == 1 and isinstance(value, Mapping):
            tables.setdefault(path[0], {}).update(value)
            continue
        table = tables.setdefault(path[0], {})
        for step in path[1:-1]:
            below = table.get(step)
            table[step] = below if isinstance(below, dict) else ({} if below is None else {"use": below})
            table = table[step]
        table[path[-1] if len(path) > 1 else "use"] = value
    return tables


def resolve(*layers: Layer) -> Config:
    """Lay tables over each other, later ones on top, and check every value.

    Args:
        layers: (source, tables) from the lowest precedence to the highest

    Raises:
        OptionError: all faults of names and values at once, a line each
        NameUnknown: a component does not exist
    """
    faults: list[str] = []
    for source, tables in layers:
        for name in tables:
            if name not in (*SLOTS, *SECTIONS):
                known = (*SLOTS, *SECTIONS)
                faults.append(
                    f"{source}: there is no table [{name}].{did_you_mean(name, known)} There are: {', '.join(known)}."
                )
    stack = [(source, {k: _table(v, f"{source}: {k}") for k, v in tables.items()}) for source, tables in layers]
    config = Config({})
    start = _said(stack, "pipeline", "from")
    if start is not None:
        stack.insert(0, (f"run {start}", _inherited(str(start), stack, config)))
    stack = [_mounted(layer, config) for layer in stack]
    stack.insert(0, ("default", _default_uses(stack)))
    for section in (*SLOTS, *SECTIONS):
        said = [(source, t[section]) for source, t in stack if section in t]
        if said or section in SECTIONS:
            config.values[section] = _component(section, said, section, config, faults)
    if faults:
        raise OptionError("\n".join(faults))
    _drop_mounts(config)
    return config


def _drop_mounts(config: Config) -> None:
    """Forget a run's weights for a slot that a higher layer gave to another component."""
    from tstk.config.run_directory import read_config

    for slot, run in list(config.mounts.items()):
        if not same(read_config(run)["config"][slot]["use"], str(config.use(slot))):
            del config.mounts[slot]


def _table(value: Any, where: str) -> Table:
    table = dict(value) if isinstance(value, Mapping) else {"use": value}
    use = table.get("use")
    if isinstance(use, os.PathLike):
        table["use"] = os.fspath(use)
    elif use is not None and not isinstance(use, str):
        raise OptionError(f"{where} is {use!r}; expected a name, or a table with use = NAME")
    return table


def _said(stack: Sequence[tuple[str, dict[str, Table]]], section: str, name: str) -> Any:
    """What the highest layer that mentions an option says, before it is checked; "none", as TOML spells it, is None."""
    said = [v for _, t in stack if (v := t.get(section, {}).get(name)) is not None]
    return said[-1] if said and said[-1] != "none" else None


def _component(kind: str, tables: Sequence[tuple[str, Table]], path: str, config: Config, faults: list[str]) -> Table:
    """One table: which component, and a checked value for each of its options."""
    use, source = next(((t["use"], s) for s, t in reversed(tables) if t.get("use") is not None), (None, ""))
    shape, who = _shape(kind, use)
    result: Table = {} if use is None else {"use": use}
    if use is not None:
        config.sources[f"{path}.use"] = source
    mine = []
    for s, table in tables:
        if kind in SLOTS and table.get("use") is not None and not same(table["use"], str(use)):
            if len(table) > 1:
                config.notes.append(
                    f"[{path}] of {s} is for {table['use']!r} and was set aside: {source} chose {use!r}"
                )
        else:
            mine.append((s, table))
            for name in table.keys() - shape.options.keys() - {"use"}:
                faults.append(
                    f"{who} has no option {name!r} (from {s}: {path}.{name})."
                    + (did_you_mean(name, shape.options) or _choices(shape))
                )
    for name, option in shape.options.items():
        dotted = f"{path}.{name}"
        given = [(s, t[name]) for s, t in mine if name in t]
        if option.nested:
            below = [(s, _table(v, f"{s}: {dotted}")) for s, v in given]
            if below and below[-1][1].get("use", "") in (None, "none") and len(below[-1][1]) == 1:
                below = []
            elif option.default is not None:
                below.insert(0, ("default", {"use": option.default}))
            result[name] = _component(option.type, below, dotted, config, faults) if below else None
            continue
        where, value = given[-1] if given else ("default", option.default)
        config.sources[dotted] = where
        try:
            result[name] = option.convert(value, dotted if where in ("default", "flag") else f"{dotted} (from {where})")
        except OptionError as e:
            faults.append(str(e))
    return result


def _choices(shape: Outline) -> str:
    return f" It has: {', '.join(shape.options)}." if shape.options else " It has none."


def _shape(kind: str, use: str | None) -> tuple[Outline, str]:
    if kind in SECTIONS:
        return outline(SECTIONS[kind]), f"[{kind}]"
    if use is None:
        raise OptionError(f"which {kind}? Say --{kind} NAME; there are: {', '.join(registry().names(kind))}")
    return outline(registry().find(kind, use).target), f"{kind} {use!r}"


def shape_of(kind: str, use: str | None) -> Outline:
    """The outline of a component by name, or of a table that is no slot."""
    return _shape(kind, use)[0]


def _inherited(run: str, stack: Sequence[tuple[str, dict[str, Table]]], config: Config) -> dict[str, Table]:
    """What `--from RUN` brings: its trained parts, as far as the new task keeps them, its data and wiring."""
    from tstk.config.run_directory import read_config

    old = read_config(run)["config"]
    asked = {s: t[s]["use"] for _, t in stack for s in ("head", "loss", "decoder") if t.get(s, {}).get("use")}
    same_task = all(same(old.get(s, {}).get("use", ""), u) for s, u in asked.items())
    kept = {s: dict(old[s]) for s in (SLOTS if same_task else ("tokenizer", "encoder")) if s in old}
    named = {s: t[s]["use"] for _, t in stack for s in SLOTS if t.get(s, {}).get("use")}
    for slot, table in kept.items():
        _sound(run, slot, table)
        if same(str(named.get(slot, table["use"])), table["use"]):
            config.mounts[slot] = run
    left = [f"{s} {t['use'].rpartition('/')[2]!r}" for s, t in old.items() if s in SLOTS and s not in config.mounts]
    if left:
        config.notes.append(f"of {run} the new task does not use: {', '.join(left)}")
    kept["pipeline"] = {k: v for k, v in old.get("pipeline", {}).items() if k in WIRING}
    if "head" not in config.mounts:
        kept["pipeline"].pop("linear_map", None)  # what a head adds to; another head may not forecast
    if not any(t.get("data", {}).get("use") for _, t in stack):
        kept["data"] = dict(old.get("data", {}))
        if not same_task and kept["data"].get("train_data") == "test":  # series without labels; the next task has some
            del kept["data"]["train_data"]
        if not same_task and kept["data"].get("univariate"):  # likewise
            del kept["data"]["univariate"]
    elif old.get("data", {}).get("resize"):  # parts that were trained on series of one length want that length
        kept["data"] = {"resize": old["data"]["resize"]}
    return kept


def _mounted(layer: tuple[str, dict[str, Table]], config: Config) -> tuple[str, dict[str, Table]]:
    """A slot given as a run directory: that run's component, options and weights."""
    from tstk.config.run_directory import is_run, read_config

    source, tables = layer
    tables = dict(tables)
    for slot in SLOTS:
        use = tables.get(slot, {}).get("use")
        if use and is_run(slot, str(use)):
            old = read_config(use)["config"]
            if slot not in old:
                has = ", ".join(s for s in SLOTS if s in old)
                raise OptionError(f"--{slot} {use}: that run has no {slot}; it has {has}")
            _sound(str(use), slot, old[slot])
            given = {k: v for k, v in tables[slot].items() if k != "use"}
            tables[slot] = {**old[slot], **given}
            config.mounts[slot] = str(use)
    return source, tables


def _sound(run: str, slot: str, table: Table) -> None:
    """Refuse a run whose config.json holds what cannot be, naming the run."""
    faults: list[str] = []
    try:
        _component(slot, [(f"run {run}", table)], slot, Config({}), faults)
    except TstkError as e:
        raise type(e)(f"run {run}: {e}") from None
    if faults:
        raise OptionError("\n".join(faults))


def _default_uses(stack: Sequence[tuple[str, dict[str, Table]]]) -> dict[str, Table]:
    """The components that were not named: what the named ones call for."""
    uses: dict[str, str | None] = dict.fromkeys(SLOTS)
    for _, tables in stack:
        uses |= {s: tables[s]["use"] for s in SLOTS if tables.get(s, {}).get("use")}
    horizon = _said(stack, "data", "horizon")
    added: dict[str, str] = {}

    def facts(kind: str) -> dict[str, Any]:
        use = uses[kind] or added.get(kind)
        return shape_of(kind, use).facts if use else {}

    if not uses["encoder"]:
        added["encoder"] = "transformer"
    if not uses["loss"]:
        if uses["head"]:
            added["loss"] = "forecast" if "horizon" in facts("head").get("needs", ()) else "cross-entropy"
        elif uses["decoder"]:
            added["loss"] = "masked"
        else:
            added["loss"] = "cross-entropy" if horizon is None else "forecast"
    if not uses["tokenizer"]:
        classifies = same(str(uses["loss"] or added["loss"]), "cross-entropy")
        added["tokenizer"] = "inception" if classifies else "patch"
    reads = facts("loss").get("reads", "decoder")
    if reads == "head" and not uses["head"]:
        added["head"] = "forecast" if "horizon" in facts("loss").get("needs", ()) else "linear"
    if reads == "decoder" and not uses["decoder"]:
        added["decoder"] = facts("loss").get("decoder", "linear")
    added["data"] = "har-demo"
    return {k: {"use": v} for k, v in added.items()}


# -------------------------------------------------------------------- files


def find_config(name: str) -> Path:
    """The file of a config: a path, or the name of one that a plugin ships.

    Raises:
        NameUnknown: neither
    """
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        if not path.is_file():
            raise OptionError(f"--config {name}: there is no such file")
        return path
    return shipped(registry().find("config", name))


def shipped(entry: Entry) -> Path:
    """The file behind an entry of kind config or recipe."""
    package, _, inner = entry.target.partition(":")
    return source_file(package).parent / inner


def read_toml(path: Path) -> Table:
    """A TOML file as tables.

    Raises:
        OptionError: it cannot be read; with file, line and column
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        raise OptionError(f"{path}: cannot be read ({e})") from None
    except tomllib.TOMLDecodeError as e:
        raise OptionError(f"{path}: not valid TOML: {e}") from None
    except RecursionError:
        raise OptionError(
            f"{path}: tables or arrays are nested too deeply; a config needs no more than a few"
        ) from None


def to_toml(values: Mapping[str, Mapping[str, Any]], sources: Mapping[str, str] | None = None) -> str:
    """Nested tables as TOML text; None, which TOML lacks, is written as "none"."""
    lines: list[str] = []

    def write(table: Mapping[str, Any], path: str) -> None:
        plain = {k: v for k, v in table.items() if not isinstance(v, Mapping)}
        lines.append(f"[{path}]")
        for key, value in plain.items():
            note = (sources or {}).get(f"{path}.{key}", "")
            lines.append(f"{key} = {_literal(value)}" + (f"  # {note}" if note else ""))
        lines.append("")
        for key, value in table.items():
            if isinstance(value, Mapping):
                write(value, f"{path}.{key}")

    for name, table in values.items():
        write(table, name)
    return "\n".join(lines)


def _literal(value: Any) -> str:
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
        return f'"{escaped}"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    if isinstance(value, int | float):
        return repr(value)
    raise TstkError(f"a config cannot hold {value!r}")
