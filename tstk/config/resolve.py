"""Config resolution: merge layers of tables, validate every option, and record the source of each value.

A config has one table per slot (`use` names the component) and the tables `data`, `pipeline` and `train`.
Precedence: defaults < the run of `--init-from` < config files < flags. Options belong to the component that they were
written for: if a higher layer selects another component, the lower layer's table is not used.
Nothing here imports torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tstk.config.records import RunConfig
from tstk.config.run_directory import is_run_dir
from tstk.config.toml import to_toml
from tstk.errors import IncompatibleError, OptionError, TstkError, did_you_mean
from tstk.plugins.hooks import SLOTS, Entry
from tstk.plugins.local import ImportPath, mark_import_path, register_component, require_components
from tstk.plugins.location import find_source_file
from tstk.plugins.registry import get_registry, is_same_component
from tstk.plugins.signature import Option, Signature, read_signature

SECTIONS = {
    "data": "tstk.data.config:DataConfig",
    "pipeline": "tstk.runs.build:build_pipeline",
    "train": "tstk.training.config:TrainConfig",
}
"""Tables that are not slots -> dataclass or function that defines their options."""

ROLE_OPTIONS = (
    *("label_column", "label_separator", "target_columns", "group_column", "id_column", "time_column"),
    *("channel_columns", "drop_columns", "reader"),
)
"""Options of `data` that say what the columns or arrays of a file are: those of a run hold for like files too."""
MODEL_OPTIONS = ("channels", "instance_norm", "unbiased_norm", "linear_map")
"""Options of `pipeline` that belong to the model: a trained run keeps them."""

Table = dict[str, Any]
Layer = tuple[str, Mapping[str, Any]]
"""The source of values (for messages and `--print-config`), and nested tables of values."""


@dataclass
class Config:
    """A resolved config: every option of every component has a value and a source.

    Args:
        values: table name -> {"use": name, option: value}; a slot that is not used is absent
        sources: dotted option -> `default`, `flag`, or the name of a config or run
        init_from: slot -> run directory whose trained weights it starts from
        notes: lines for the user about tables and components that are not used
    """

    values: dict[str, Table]
    sources: dict[str, str] = field(default_factory=dict)
    init_from: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def options(self, section: str) -> Table:
        """Return the options of one table, without `use`."""
        return {k: v for k, v in self.values[section].items() if k != "use"}

    def component(self, section: str) -> str | None:
        """Return the name of the component (or data set) that a table selects."""
        return self.values.get(section, {}).get("use")

    def to_toml(self, provenance: bool = True) -> str:
        """Return the config as TOML that `resolve_config` accepts; `provenance` adds the source of each value."""
        values = dict(self.values)
        for slot, run in self.init_from.items():
            if slot in values and run != self.options("pipeline").get("init_from"):
                values[slot] = {**values[slot], "use": run}
        return to_toml(values, self.sources if provenance else {})


def parse_overrides(overrides: Mapping[str, Any]) -> Table:
    """Return flat options as tables: `{"encoder": "bert", "encoder__depth": 4, "epochs": 9}`.

    Two underscores or a dot separate a table from its option; options of sections need no table. A component may be a
    class or an import path.

    Raises:
        OptionError: no table has an option of this name
    """
    tables: Table = {}
    section_by_option = {option: section for section in SECTIONS for option in get_signature(section, None).options}
    component_options = list_component_options()
    for name, value in overrides.items():
        path = name.replace("__", ".").split(".")
        if path[0] in SLOTS:
            value = mark_import_path(value)
        if path[0] not in (*SLOTS, "data"):
            if name not in section_by_option and path[0] not in component_options:
                known = [*section_by_option, *SLOTS, "data"]
                raise OptionError(f"there is no option {name!r}.{did_you_mean(name, known)}")
            path = [section_by_option[path[0]], *path]
        if len(path) == 1 and isinstance(value, Mapping):
            tables.setdefault(path[0], {}).update(value)
            continue
        table = tables.setdefault(path[0], {})
        for key in path[1:-1]:
            nested = table.get(key)
            table[key] = nested if isinstance(nested, dict) else ({} if nested is None else {"use": nested})
            table = table[key]
        key = path[-1] if len(path) > 1 else "use"
        if isinstance(table.get(key), dict) and not isinstance(value, Mapping) and value is not None:
            table[key] = {**table[key], "use": value}  # its options came first
        else:
            table[key] = value
    return tables


def list_component_options() -> dict[str, Option]:
    """Return the options of sections whose value is a component, such as the reader of the data."""
    sections = (get_signature(section, None) for section in SECTIONS)
    return {name: option for section in sections for name, option in section.options.items() if option.is_component}


def resolve_component(kind: str, value: Any, label: str) -> Table:
    """Return a component with all of its options, checked; for dataclasses that have it as an option.

    Args:
        kind: of the component
        value: its name, or a table of `use` and options
        label: what messages call it

    Raises:
        OptionError: an option is unknown, or its value is not valid
        UnknownNameError: there is no such component
    """
    faults: list[str] = []
    table = _resolve_component(kind, [("flag", _to_table(value, kind, label))], label, Config({}), faults)
    if faults:
        raise OptionError("\n".join(faults))
    return table


def resolve_config(*layers: Layer) -> Config:
    """Merge layers of tables and validate every value.

    Args:
        layers: (source, tables) from the lowest precedence to the highest

    Raises:
        OptionError: unknown tables, unknown options and invalid values, one line each
        UnknownNameError: a component does not exist
    """
    known = (*SLOTS, *SECTIONS)
    faults = [
        f"{source}: there is no table [{name}].{did_you_mean(name, known)} There are: {', '.join(known)}."
        + (" A table [search] is for tstk tune." if name == "search" else "")
        for source, tables in layers
        for name in tables
        if name not in known
    ]
    stack = [(source, {k: _to_table(v, k, f"{source}: {k}") for k, v in tables.items()}) for source, tables in layers]
    config = Config({})
    run_dir = _get_option(stack, "pipeline", "init_from")
    inherited = [] if run_dir is None else [(f"run {run_dir}", _inherit_run(str(run_dir), stack, config))]
    # only the user may name another run; a name in a run leads nowhere
    stack = [*inherited, *(_expand_run_dirs(layer, config) for layer in stack)]
    stack.insert(0, ("default", _infer_components(stack)))
    for section in known:
        section_layers = [(source, tables[section]) for source, tables in stack if section in tables]
        if section_layers or section in SECTIONS:
            config.values[section] = _resolve_component(section, section_layers, section, config, faults)
    if faults:
        raise OptionError("\n".join(faults))
    _drop_replaced_init_from(config)
    return config


def _drop_replaced_init_from(config: Config) -> None:
    """Do not load a run's weights into slots for which a higher layer selects another component."""
    for slot, run in list(config.init_from.items()):
        if not is_same_component(str(RunConfig.read(run).component(slot)), str(config.component(slot))):
            del config.init_from[slot]


def _to_table(value: Any, kind: str, label: str) -> Table:
    """Return a component as a table with its name; a class, or an import path that the user typed, is registered."""
    table = dict(value) if isinstance(value, Mapping) else {"use": value}
    use = table.get("use")
    if isinstance(use, type | ImportPath) and kind in SLOTS:
        table["use"] = register_component(kind, use)
    elif isinstance(use, os.PathLike):
        table["use"] = os.fspath(use)
    elif use is not None and not isinstance(use, str):
        if kind == "data":
            raise OptionError(
                f"{label} is a {type(use).__name__}, and a run records the files of its data: save it with "
                "numpy.savez('x.npz', X_train=..., y_train=...) and give that path, or give tstk.fit(data=...) a "
                "data frame, or use the estimators of tstk.sklearn"
            )
        raise OptionError(f"{label} is {use!r}; expected a name, a class, or a table with use = NAME")
    return table


def _get_option(layers: Sequence[tuple[str, dict[str, Table]]], section: str, option: str) -> Any:
    """Return the value of an option in the highest layer that has it, unvalidated; None for "none" or if absent."""
    values = [v for _, tables in layers if (v := tables.get(section, {}).get(option)) is not None]
    return values[-1] if values and values[-1] != "none" else None


def _resolve_component(
    kind: str, layers: Sequence[tuple[str, Table]], path: str, config: Config, faults: list[str]
) -> Table:
    """Merge the layers of one table and validate each of its options.

    Args:
        kind: slot or section
        layers: (source, table) from the lowest precedence to the highest
        path: dotted name of the table, for messages and sources
        config: receives sources and notes
        faults: receives a line for each invalid name or value
    """
    use, use_source = next(((t["use"], s) for s, t in reversed(layers) if t.get("use") is not None), (None, ""))
    signature, owner = _find_signature(kind, use)
    result: Table = {}
    if use is not None:
        result["use"] = use
        config.sources[f"{path}.use"] = use_source
    own_layers = []
    for source, table in layers:
        if kind not in SECTIONS and table.get("use") is not None and not is_same_component(table["use"], str(use)):
            if len(table) > 1:
                config.notes.append(
                    f"[{path}] of {source} is for {table['use']!r} and is not used: {use_source} selects {use!r}"
                )
            continue
        own_layers.append((source, table))
        for name in table.keys() - signature.options.keys() - {"use"}:
            hint = did_you_mean(name, signature.options) or _format_option_names(signature)
            faults.append(f"{owner} has no option {name!r} (from {source}: {path}.{name}).{hint}")
    for name, option in signature.options.items():
        dotted = f"{path}.{name}"
        values = [(source, table[name]) for source, table in own_layers if name in table]
        if option.is_component:
            result[name] = _resolve_nested_component(option, values, dotted, config, faults)
            if result[name] is None:
                config.sources[dotted] = values[-1][0] if values else "default"
            continue
        source, value = values[-1] if values else ("default", option.default)
        config.sources[dotted] = source
        try:
            result[name] = option.parse(value, dotted if source in ("default", "flag") else f"{dotted} (from {source})")
        except OptionError as e:
            faults.append(str(e))
    return result


def _resolve_nested_component(
    option: Option, values: Sequence[tuple[str, Any]], path: str, config: Config, faults: list[str]
) -> Table | None:
    """Resolve an option whose value is a component; None if the highest layer sets it to none."""
    layers = [(source, _to_table(value, option.type, f"{source}: {path}")) for source, value in values]
    if layers and layers[-1][1].get("use", "") in (None, "none") and len(layers[-1][1]) == 1:
        layers = []
    elif option.default is not None:
        layers.insert(0, ("default", {"use": option.default}))
    return _resolve_component(option.type, layers, path, config, faults) if layers else None


def _format_option_names(signature: Signature) -> str:
    return f" It has: {', '.join(signature.options)}." if signature.options else " It has none."


def _find_signature(kind: str, component: str | None) -> tuple[Signature, str]:
    if kind in SECTIONS:
        return read_signature(SECTIONS[kind]), f"[{kind}]"
    if component is None:
        raise OptionError(
            f"no {kind} is selected; use --{kind} with one of: {', '.join(get_registry().list_names(kind))}"
        )
    return read_signature(get_registry().find(kind, component).target), f"{kind} {component!r}"


def get_signature(kind: str, component: str | None) -> Signature:
    """Return the signature of a component by name, or of a section if `kind` is one."""
    return _find_signature(kind, component)[0]


def _inherit_run(run_dir: str, layers: Sequence[tuple[str, dict[str, Table]]], config: Config) -> dict[str, Table]:
    """Return the layer of `--init-from RUN`: the components that the new task keeps, the data and the model options."""
    run_config = RunConfig.read(run_dir)
    trained = run_config.values
    selected = {s: tables[s]["use"] for _, tables in layers for s in SLOTS if tables.get(s, {}).get("use")}
    same_task = all(
        is_same_component(trained.get(s, {}).get("use", ""), use)
        for s, use in selected.items()
        if s in ("head", "loss", "decoder")
    )
    layer = {s: dict(trained[s]) for s in (SLOTS if same_task else ("tokenizer", "encoder")) if s in trained}
    for slot, table in layer.items():
        if is_same_component(str(selected.get(slot, table["use"])), table["use"]):
            require_components(run_dir, run_config.local, (slot,))
            _validate_run_table(run_dir, slot, table)
            config.init_from[slot] = run_dir
    unused = [
        f"{slot} {table['use'].rpartition('/')[2]!r}"
        for slot, table in trained.items()
        if slot in SLOTS and slot not in config.init_from
    ]
    if unused:
        config.notes.append(f"of {run_dir} the new task does not use: {', '.join(unused)}")
    layer["pipeline"] = {k: v for k, v in trained.get("pipeline", {}).items() if k in MODEL_OPTIONS}
    if "head" not in config.init_from:
        layer["pipeline"].pop("linear_map", None)  # the run's head was trained on top of it; a new one may not forecast
    layer |= _inherit_data(trained.get("data", {}), layers, same_task)
    return layer


def _inherit_data(
    trained_data: Table, layers: Sequence[tuple[str, dict[str, Table]]], same_task: bool
) -> dict[str, Table]:
    """Return the `data` table that a run passes on: if a layer selects other data, `resize` and the roles of columns.

    `read_data` leaves out those roles that the other data do not have.
    """
    tables_of_data = [tables.get("data", {}) for _, tables in layers]
    if any(table.get("use") for table in tables_of_data):
        # components that were trained on series of one length need series of that length
        names = ["resize", *ROLE_OPTIONS]
        targets = ("label_column", "label_separator", "target_columns")
        if any(table.get(name) is not None for table in tables_of_data for name in targets):
            names = [name for name in names if name not in targets]
        kept = {name: trained_data[name] for name in names if trained_data.get(name)}
        return {"data": kept} if kept else {}
    data = dict(trained_data)
    if not same_task:  # pretraining may read the test split, without its labels, and single channels; the next task not
        if data.get("train_data") == "test":
            del data["train_data"]
        if data.get("split_channels"):
            del data["split_channels"]
    return {"data": data}


def _expand_run_dirs(layer: tuple[str, dict[str, Table]], config: Config) -> tuple[str, dict[str, Table]]:
    """Replace a run directory given as a slot by that run's component and options, and note its weights."""
    source, tables = layer
    tables = dict(tables)
    for slot in SLOTS:
        use = tables.get(slot, {}).get("use")
        if use and is_run_dir(slot, str(use)):
            run_config = RunConfig.read(use)
            trained = run_config.values
            if slot not in trained:
                slots = ", ".join(s for s in SLOTS if s in trained)
                raise OptionError(f"--{slot} {use}: that run has no {slot}; it has {slots}")
            require_components(use, run_config.local, (slot,))
            _validate_run_table(str(use), slot, trained[slot])
            tables[slot] = {**trained[slot], **{k: v for k, v in tables[slot].items() if k != "use"}}
            config.init_from[slot] = str(use)
    return source, tables


def _validate_run_table(run_dir: str, slot: str, table: Table) -> None:
    """Raise an error that names the run if its config.json has unknown or invalid options for a slot."""
    faults: list[str] = []
    try:
        _resolve_component(slot, [(f"run {run_dir}", table)], slot, Config({}), faults)
    except TstkError as e:
        raise type(e)(f"run {run_dir}: {e}") from None
    if faults:
        raise OptionError("\n".join(faults))


def _infer_components(layers: Sequence[tuple[str, dict[str, Table]]]) -> dict[str, Table]:
    """Return the components that no layer selects: those that the selected ones name as their defaults."""
    names: dict[str, str] = {}
    for _, tables in layers:
        names |= {s: tables[s]["use"] for s in SLOTS if tables.get(s, {}).get("use")}
    selected = dict(names)

    def get_class_attrs(kind: str) -> dict[str, Any]:
        return _get_class_attrs(kind, names[kind])

    names.setdefault("encoder", "transformer")
    if "loss" not in names:
        predictor = next((slot for slot in ("head", "decoder") if slot in names), None)
        names["loss"] = get_class_attrs(predictor)["default_loss"] if predictor else "cross-entropy"
        task = _infer_task(layers)
        if task is not None and predictor != "decoder":
            names["loss"] = _choose_loss(names["loss"], task)
    loss = get_class_attrs("loss")
    names.setdefault("tokenizer", loss["default_tokenizer"])
    if loss["consumes"] not in ("decoder", "head", "encoder"):
        raise IncompatibleError(
            f"loss {names['loss']!r} consumes {loss['consumes']!r}; expected 'decoder', 'head' or 'encoder'"
        )
    if loss["consumes"] != "encoder" and loss["consumes"] not in names:
        names[loss["consumes"]] = loss[f"default_{loss['consumes']}"]
        if loss["consumes"] == "head" and (task := _infer_task(layers)) is not None:
            task_attrs = read_signature(get_registry().find("task", task).target).class_attrs
            if task_attrs["target_type"] not in get_class_attrs("head")["target_types"]:
                names["head"] = task_attrs.get("default_head", names["head"])
    inferred = {slot: name for slot, name in names.items() if slot not in selected}
    return {slot: {"use": name} for slot, name in {**inferred, "data": "har-demo"}.items()}


def _get_class_attrs(kind: str, component: str) -> dict[str, Any]:
    """Return the class attributes of a component, with those of its base class."""
    base = read_signature(f"tstk.core.interfaces:{kind.capitalize()}")  # which the source may reach in ways unread
    return base.class_attrs | get_signature(kind, component).class_attrs


def _choose_loss(loss: str, task: str) -> str:
    """Return the default loss of a task, or this loss if it serves the task."""
    attrs = read_signature(get_registry().find("task", task).target).class_attrs
    is_served = attrs["target_type"] in _get_class_attrs("loss", loss)["target_types"]
    return loss if is_served else str(attrs["default_loss"])


def select_for_task(config: Config, task: str | None) -> list[str]:
    """Give a config the default head and loss of the task that the data turned out to have, where no layer selects one.

    Those that serve the task stay, as do losses without types of targets, such as those of pretraining.

    Args:
        config: resolved before the data were read; its tables `head` and `loss` are replaced
        task: of the data; None if they have no targets

    Returns:
        a line for the user for each that was replaced

    Raises:
        OptionError: the head or loss of the task has no such option as one that was set
    """
    if task is None:
        return []
    attrs = read_signature(get_registry().find("task", task).target).class_attrs
    notes, faults = [], list[str]()
    for slot in [slot for slot in ("head", "loss") if slot in config.values]:
        types = _get_class_attrs(slot, str(config.component(slot)))["target_types"]
        if config.sources.get(f"{slot}.use") != "default" or not types or attrs["target_type"] in types:
            continue
        name = attrs.get(f"default_{slot}", config.component(slot))
        set_options = [
            (source, {option: value})
            for option, value in config.options(slot).items()
            if (source := config.sources[f"{slot}.{option}"]) != "default"
        ]
        config.values[slot] = _resolve_component(slot, [("data", {"use": name}), *set_options], slot, config, faults)
        notes.append(f"--{slot} {name}, as these data are for {task}; --{slot} selects another")
    if faults:
        raise OptionError("\n".join(faults))
    return notes


def _infer_task(layers: Sequence[tuple[str, dict[str, Table]]]) -> str | None:
    """Return the task that the options of the data imply; None if only the data themselves can tell."""
    if (task := _get_option(layers, "data", "task")) is not None:
        return str(task)
    implied = {"horizon": "forecasting", "label_separator": "multilabel", "target_columns": "regression"}
    return next((task for option, task in implied.items() if _get_option(layers, "data", option)), None)


def iter_components(values: Mapping[str, Table]) -> Iterator[tuple[str, str, Table]]:
    """Yield dotted path, kind and table of every component of a config, with those inside components."""

    def walk(kind: str, table: Table, path: str) -> Iterator[tuple[str, str, Table]]:
        yield path, kind, table
        for option in get_signature(kind, table["use"]).options.values():
            if option.is_component and table.get(option.name):
                yield from walk(option.type, table[option.name], f"{path}.{option.name}")

    for slot in SLOTS:
        if slot in values:
            yield from walk(slot, values[slot], slot)


# -------------------------------------------------------------------- files


def find_config(name: str) -> Path:
    """Return the file of a config: a path, or the name of one that a plugin ships.

    Raises:
        OptionError: the path does not exist
        UnknownNameError: no plugin ships a config of this name
    """
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        if not path.is_file():
            raise OptionError(f"--config {name}: there is no such file")
        return path
    return get_entry_file(get_registry().find("config", name))


def get_entry_file(entry: Entry) -> Path:
    """Return the file of an entry of kind config or recipe."""
    package, _, relative_path = entry.import_path.partition(":")
    return find_source_file(package).parent / relative_path
