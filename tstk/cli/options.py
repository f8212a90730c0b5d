"""Dynamic options: `--encoder bert` adds `--encoder.depth` and the other options of that component.

A `ConfigCommand` scans its raw arguments for components, config files and runs, resolves the config from those
(`tstk.config.resolve`) and builds a click option for each option of the selected components. These options are stored
on the context (`ctx.meta`), never on the command. Typed values become the config layer "flag". Signatures are read
from source, so neither help nor completion imports torch.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import click
import rich_click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from tstk.cli import completion
from tstk.config.resolve import (
    SECTIONS,
    Config,
    Layer,
    Table,
    find_config,
    get_signature,
    list_component_options,
    parse_overrides,
    resolve_component,
    resolve_config,
)
from tstk.config.toml import read_toml
from tstk.errors import OptionError, TstkError, UnknownNameError, get_close_matches
from tstk.plugins.hooks import SLOTS
from tstk.plugins.registry import get_registry
from tstk.plugins.signature import Option, read_signature

SECTION_PANELS = {"data": "data", "pipeline": "pipeline", "train": "training"}
COMMAND_LINE_KEY = "tstk.typed"
"""Key in `ctx.meta` of the complete command line as typed, shell-quoted."""
_OPTIONS_KEY = "tstk.options"
_RUN_ELSEWHERE = ("model", "checkpoint", "ckpt", "ckpt-path", "run", "weights")
"""Options by which other toolkits name what is the argument RUN here."""
_MAX_METAVAR_WIDTH = 30
"""Longest list of choices, in characters, that a help page shows beside the flag."""
_SLOT_HELP = {
    "tokenizer": "series to tokens",
    "encoder": "tokens to encoded tokens",
    "decoder": "predictions per token",
    "head": "predictions per series",
    "loss": "training objective",
}


class OptionType(click.ParamType):
    """Click type of a component's option; parses with `Option.parse`, as config files and Python do."""

    def __init__(self, option: Option, flag: str) -> None:
        self.option, self.flag, self.name = option, flag, option.type_label

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the parsed value, or raise an OptionError that names the flag."""
        return self.option.parse(value, self.flag)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete the option's choices, or runs, callbacks, slots or data sets for options that take those."""
        completers = {
            "init_from": completion.complete_runs,
            "callbacks": completion.complete_names("callback"),
            "augment": completion.complete_names("augmentation"),
            "freeze": completion.complete_choices(*SLOTS),
        }
        if self.option.entry_kind:
            completers[self.option.name] = completion.complete_names(self.option.entry_kind)
        completers |= dict.fromkeys(("train_data", "val_data", "test_data"), completion.complete_data_sets)
        return completers.get(self.option.name, completion.complete_choices(*map(str, self.option.choices)))(
            ctx, param, incomplete
        )


class ConfigOption(rich_click.RichOption):
    """Click option that sets one config value; `key` is its dotted path for `parse_overrides`."""

    def __init__(self, key: str, flag: str, **attrs: Any) -> None:
        self.key = key
        attrs.setdefault("show_default", attrs.get("default") not in (None, ()))
        super().__init__([flag, key.replace(".", "__")], **attrs)


class ConfigCommand(rich_click.RichCommand):
    """Command whose function receives a `config: Config`, resolved from options, config files and runs."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the command's static options and those of the selected components."""
        static = super().get_params(ctx)
        return [*static[:1], *ctx.meta.get(_OPTIONS_KEY, ()), *static[1:]]

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete option names; those of a component only after its prefix is typed, as there are many."""
        items = super().shell_complete(ctx, incomplete)
        if "." not in incomplete:
            return [item for item in items if "." not in item.value]
        hidden = [p for p in ctx.meta.get(_OPTIONS_KEY, ()) if p.hidden]
        names = [(o, p.help) for p in hidden for o in (*p.opts, *p.secondary_opts) if o.startswith(incomplete)]
        return items + [CompletionItem(name, help=text) for name, text in names]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Scan the arguments for components, build their options, then parse."""
        ctx.meta[COMMAND_LINE_KEY] = shlex.join([*ctx.command_path.split(), *args])
        typed_options = dict(_scan_options(args))
        files = [value for name, value in _scan_options(args) if name == "config"]
        config: Config | None = None
        # completion must not fail on an incomplete line
        with suppress(*((TstkError,) if ctx.resilient_parsing else ())):
            config = _resolve_components(self.read_layers(files), typed_options)
        ctx.meta[_OPTIONS_KEY] = [] if config is None else list(_build_options(config, typed_options))
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as e:
            raise OptionError(_explain_unknown_option(ctx, e.option_name, config)) from None

    def read_layers(self, files: Sequence[str]) -> list[Layer]:
        """Return the tables of config files, by path or name."""
        return [(name, read_toml(find_config(name))) for name in files]

    def invoke(self, ctx: click.Context) -> Any:
        """Resolve the config and call the function with it as `config`."""
        ctx.params["config"] = resolve_from_context(ctx)
        return super().invoke(ctx)


class ReaderCommand(rich_click.RichCommand):
    """Command with the option --reader, whose function receives the reader and its options as one table.

    The options of the reader that is selected are options of the command, as `--reader.delimiter`.
    """

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the command's static options and those of the selected reader."""
        static = super().get_params(ctx)
        return [*static[:-1], *ctx.meta.get(_OPTIONS_KEY, ()), *static[-1:]]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Scan the arguments for a reader, build its options, then parse."""
        name = dict(_scan_options(args)).get("reader", "none")
        if name != "none" and any(param.name == "reader" for param in self.params):
            with suppress(*((TstkError,) if ctx.resilient_parsing else ())):
                table = resolve_component("reader", name, "reader")
                ctx.meta[_OPTIONS_KEY] = list(_build_component_options("reader", table, "reader", hidden=False))
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as e:
            raise OptionError(_explain_unknown_option(ctx, e.option_name)) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Gather the options of the reader, then call the function."""
        options = {param.key.partition(".")[2]: ctx.params.pop(param.name) for param in ctx.meta.get(_OPTIONS_KEY, ())}
        if (name := ctx.params.get("reader")) is not None:
            ctx.params["reader"] = None if name == "none" else {"use": name, **options}
        return super().invoke(ctx)


class ImporterCommand(rich_click.RichCommand):
    """Command an argument of which names an importer, and whose function receives those of its options that were typed.

    They are options of the command, as `--heads`.
    """

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the command's static options and those of the importer."""
        static = super().get_params(ctx)
        return [*static[:-1], *ctx.meta.get(_OPTIONS_KEY, ()), *static[-1:]]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Find the importer among the arguments, build its options, then parse."""
        ctx.meta[COMMAND_LINE_KEY] = shlex.join([*ctx.command_path.split(), *args])
        values = [value for name, value in _scan_options(args) if name == "out"]
        for word in args:
            with suppress(UnknownNameError):
                if word in values:
                    continue
                entry = get_registry().find("importer", word)
                options = read_signature(entry.target).options.values()
                panel = f"importer {entry.name}"
                ctx.meta[_OPTIONS_KEY] = [_build_option(o.name, o, o.default, panel) for o in options]
                break
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as e:
            raise OptionError(_explain_unknown_option(ctx, e.option_name)) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Gather the options of the importer that were typed, then call the function."""
        typed = {}
        for param in ctx.meta.get(_OPTIONS_KEY, ()):
            value = ctx.params.pop(param.name)
            if ctx.get_parameter_source(param.name) == ParameterSource.COMMANDLINE:
                typed[param.key] = value
        ctx.params["options"] = typed
        return super().invoke(ctx)


def _explain_unknown_option(ctx: click.Context, name: str, config: Config | None = None) -> str:
    """Return the message for an unknown option; suggestions come from its own component first, then from all."""
    text, bare = f"No such option {name!r}.", name.lstrip("-")
    params = ctx.command.get_params(ctx)
    known = [o[2:] for p in params for o in (*p.opts, *p.secondary_opts) if o.startswith("--")]
    group, dot, leaf = bare.rpartition(".")
    siblings = [o for o in known if o.rpartition(".")[0] == group]
    near = [f"{group}{dot}{n}" for n in get_close_matches(leaf, [o.rpartition(".")[2] for o in siblings])]
    near = near or [o for o in known if o.rpartition(".")[2] == leaf]
    kind = bare.partition(".")[0]
    if bare in _RUN_ELSEWHERE and any(p.name == "run" for p in params):
        return f"{text} The run is an argument: {ctx.command_path} RUN"
    if dot and config and kind in SLOTS and not config.component(kind):
        return f"{text} This pipeline has no {kind}; select one with --{kind}."
    if dot and not siblings and kind in known and kind in list_component_options():
        return f"{text} No {kind} is selected; select one with --{kind}, such as --{kind} csv."
    if near:
        return f"{text} Did you mean {' or '.join(repr(f'--{n}') for n in near)}?"
    if dot and siblings:
        return f"{text} There are: {', '.join(f'--{o}' for o in siblings)}."
    return f"{text} See {ctx.command_path} --help"


def resolve_from_context(ctx: click.Context) -> Config:
    """Resolve the config of a `ConfigCommand` from its context, and remove the config options from `ctx.params`."""
    return resolve_config(*collect_layers(ctx))


def collect_layers(ctx: click.Context) -> list[Layer]:
    """Return the layers of the config of a `ConfigCommand`, and remove the config options from `ctx.params`."""
    flags = {}
    for param in ctx.meta[_OPTIONS_KEY]:
        value = ctx.params.pop(param.name)
        if ctx.get_parameter_source(param.name) == ParameterSource.COMMANDLINE:
            flags[param.key] = value
    assert isinstance(ctx.command, ConfigCommand)
    return [*ctx.command.read_layers(ctx.params["config"]), ("flag", parse_overrides(flags))]


def build_section_options(section: str, values: Mapping[str, Any] | None = None) -> Iterator[ConfigOption]:
    """Build the options of a config section that is not a slot, without prefix.

    Args:
        section: data, pipeline or train
        values: default values by option name; None uses those of the signature
    """
    for option in read_signature(SECTIONS[section]).options.values():
        value = option.default if values is None else values[option.name]
        if option.is_component:
            yield build_component_option(option.name, option, value, SECTION_PANELS[section])
            if value:
                yield from _build_component_options(option.type, value, option.name, hidden=False)
            continue
        yield _build_option(
            option.name, option, value, "start from" if option.name == "init_from" else SECTION_PANELS[section]
        )


def _scan_options(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (name without dashes, value) of every argument that looks like an option with a value."""
    for i, arg in enumerate(args):
        if arg == "--":
            return
        name, equals, value = arg.removeprefix("--").partition("=")
        if arg.startswith("--") and (equals or i + 1 < len(args)):
            yield name, value if equals else args[i + 1]


def _resolve_components(files: list[Layer], typed_options: Mapping[str, str]) -> Config:
    """Resolve the config from component names alone, to know which options exist."""
    names = (*SLOTS, "data", "init_from", *list_component_options())
    flags = {name: typed_options[name] for name in names if name in typed_options}
    if typed_options.get("horizon", "").isdigit():  # defaults depend on whether there is a horizon
        flags["horizon"] = typed_options["horizon"]
    while True:
        config = resolve_config(*files, ("flag", parse_overrides(flags)))
        nested_keys = [
            key for slot in SLOTS if slot in config.values for key in _list_nested_keys(slot, config.values[slot], slot)
        ]
        named = {key: typed_options[_key_to_flag(key)] for key in nested_keys if _key_to_flag(key) in typed_options}
        if named.keys() <= flags.keys():
            return config
        flags |= named


def _list_nested_keys(kind: str, table: Table, path: str) -> Iterator[str]:
    """Yield the dotted keys of options that take a component, at any depth."""
    for option in get_signature(kind, table["use"]).options.values():
        if option.is_component:
            yield f"{path}.{option.name}"
            if table[option.name]:
                yield from _list_nested_keys(option.type, table[option.name], f"{path}.{option.name}")


def _build_options(config: Config, typed_options: Mapping[str, str]) -> Iterator[ConfigOption]:
    """Yield all options in the order of the help page."""
    for slot in SLOTS:
        names = ", ".join(get_registry().list_names(slot))
        yield ConfigOption(
            slot,
            f"--{slot}",
            metavar="NAME|RUN|CLASS",
            default=config.component(slot),
            panel="slots",
            help=f"{_SLOT_HELP[slot]}: {names}",
            shell_complete=completion.complete_component(slot),
        )
    for slot in SLOTS:
        if slot in config.values:
            # the options of a default component work but are hidden from the help page, unless one of them is typed
            is_selected = config.sources[f"{slot}.use"] != "default" or any(
                n.startswith(f"{slot}.") for n in typed_options
            )
            yield from _build_component_options(slot, config.values[slot], slot, not is_selected)
    yield ConfigOption(
        "data",
        "--data",
        metavar="NAME|PATH",
        default=config.component("data"),
        panel="data",
        help="data set by name (tstk data list shows them), or a file or folder",
        shell_complete=completion.complete_data_sets,
    )
    for section in SECTIONS:
        yield from build_section_options(section, config.values[section])


def _build_component_options(kind: str, table: Table, path: str, hidden: bool) -> Iterator[ConfigOption]:
    panel = f"{_key_to_flag(path)}: {table['use']}"
    for option in get_signature(kind, table["use"]).options.values():
        key, value = f"{path}.{option.name}", table[option.name]
        if not option.is_component:
            yield _build_option(key, option, value, panel, hidden)
            continue
        yield build_component_option(key, option, value, panel, hidden)
        if value:
            yield from _build_component_options(option.type, value, key, hidden)


def build_component_option(
    key: str, option: Option, value: Table | None, panel: str, hidden: bool = False
) -> ConfigOption:
    """Build the option that selects a component, without the options of that component.

    Args:
        key: its dotted path, for `parse_overrides`
        option: of which the kind and the help are used
        value: the component that is selected, or None
        panel: of the help page
        hidden: leave it out of the help page
    """
    return ConfigOption(
        key,
        f"--{_key_to_flag(key)}",
        metavar="NAME",
        default=value["use"] if value else None,
        panel=panel,
        hidden=hidden,
        help=f"{option.help}: {', '.join(get_registry().list_names(option.type))}",
        shell_complete=completion.complete_names(option.type),
    )


def _build_option(key: str, option: Option, value: Any, panel: str, hidden: bool = False) -> ConfigOption:
    flag = _key_to_flag(key)
    attrs: dict[str, Any] = {"default": value, "help": option.help, "panel": panel, "hidden": hidden}
    if option.type == "bool" and not option.is_tuple:
        return ConfigOption(key, f"--{flag}/--no-{flag}", **attrs)
    if option.is_tuple and isinstance(value, tuple):
        attrs["show_default"] = ",".join(map(str, value)) or False
    metavar = option.type_label
    if len(metavar) > _MAX_METAVAR_WIDTH:
        metavar, attrs["help"] = "one of", f"{option.help}: {', '.join(map(str, option.choices))}"
    return ConfigOption(key, f"--{flag}", type=OptionType(option, f"--{flag}"), metavar=metavar, **attrs)


def _key_to_flag(key: str) -> str:
    return key.replace("_", "-")
