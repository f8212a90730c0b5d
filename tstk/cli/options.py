"""Options that depend on what was chosen: `--encoder bert` brings `--encoder.depth` and its kin.

A `Configured` command looks ahead through its raw arguments for names of components, config files and runs, lets
`resolve` (tstk/config/resolve.py) say which components are in play, and makes a click option for each of their
options. These live on the context (`ctx.meta`), never on the command. What was typed becomes the layer "flag" of the
config.
Everything is read from source, so neither help nor completion imports torch.
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
from tstk.config.resolve import SECTIONS, Config, Layer, Table, chosen, find_config, read_toml, resolve, shape_of
from tstk.errors import OptionError, TstkError, nearest
from tstk.plugins.registry import SLOTS, registry
from tstk.plugins.signature import Option, outline

PANELS = {"data": "data", "pipeline": "pipeline", "train": "training"}
TYPED = "tstk.typed"
"""Where `ctx.meta` holds the whole command as it was typed, quoted for a shell."""
_META = "tstk.options"
_WIDE = 30
"""Characters of choices that a help page can show beside the flag."""
_SLOT_HELP = {
    "tokenizer": "makes tokens of a series",
    "encoder": "maps tokens to tokens",
    "decoder": "answers per token",
    "head": "answers per series",
    "loss": "poses the question and marks the answer",
}


class Value(click.ParamType):
    """The type of a component's option: flags, files and Python share `Option.convert`."""

    def __init__(self, option: Option, flag: str) -> None:
        self.option, self.flag, self.name = option, flag, option.hint

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value, or an OptionError that names the flag."""
        return self.option.convert(value, self.flag)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The choices, or what the option's name stands for."""
        known = {"from": completion.runs, "callbacks": completion.names("callback"), "freeze": completion.words(*SLOTS)}
        known |= dict.fromkeys(("train_data", "val_data", "test_data"), completion.data_sets)
        return known.get(self.option.name, completion.words(*map(str, self.option.choices)))(ctx, param, incomplete)


class Choice(rich_click.RichOption):
    """A click option that sets one value of the config; `key` is its name for `tstk.config.resolve.chosen`."""

    def __init__(self, key: str, flag: str, **attrs: Any) -> None:
        self.key = key
        attrs.setdefault("show_default", attrs.get("default") not in (None, ()))
        super().__init__([flag, key.replace(".", "__")], **attrs)


class Configured(rich_click.RichCommand):
    """A command that is given a `config: Config`, chosen by options, config files and runs."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The command's own options, and those of the components in play."""
        own = super().get_params(ctx)
        return [*own[:1], *ctx.meta.get(_META, ()), *own[1:]]

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names of options; those of a component only once its prefix is typed, as there are many."""
        found = super().shell_complete(ctx, incomplete)
        if "." not in incomplete:
            return [item for item in found if "." not in item.value]
        inner = [p for p in ctx.meta.get(_META, ()) if p.hidden]
        more = [(o, p.help) for p in inner for o in (*p.opts, *p.secondary_opts) if o.startswith(incomplete)]
        return found + [CompletionItem(name, help=about) for name, about in more]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Look ahead, then parse."""
        ctx.meta[TYPED] = shlex.join([*ctx.command_path.split(), *args])
        given = dict(_given(args))
        files = [value for name, value in _given(args) if name == "config"]
        found: Config | None = None
        # completion must not fail on a half-typed line
        with suppress(*((TstkError,) if ctx.resilient_parsing else ())):
            found = _in_play(_layers(files), given)
        ctx.meta[_META] = [] if found is None else list(_options(found, given))
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as e:
            raise OptionError(self._unknown(ctx, e.option_name, found)) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Resolve what was chosen and call the function with it as `config`."""
        ctx.params["config"] = configured(ctx)
        return super().invoke(ctx)

    def _unknown(self, ctx: click.Context, name: str, found: Config | None) -> str:
        """The sentence for an option that does not exist here: first its own component is searched, then all."""
        text, bare = f"No such option {name!r}.", name.lstrip("-")
        known = [o[2:] for p in self.get_params(ctx) for o in (*p.opts, *p.secondary_opts) if o.startswith("--")]
        group, dot, leaf = bare.rpartition(".")
        own = [o for o in known if o.rpartition(".")[0] == group]
        near = [f"{group}{dot}{n}" for n in nearest(leaf, [o.rpartition(".")[2] for o in own])]
        near = near or [o for o in known if o.rpartition(".")[2] == leaf]
        kind = bare.partition(".")[0]
        if dot and found and kind in SLOTS and not found.use(kind):
            return f"{text} This pipeline has no {kind}; name one with --{kind}."
        if near:
            return f"{text} Did you mean {' or '.join(repr(f'--{n}') for n in near)}?"
        if dot and own:
            return f"{text} There are: {', '.join(f'--{o}' for o in own)}."
        return f"{text} See {ctx.command_path} --help"


def configured(ctx: click.Context) -> Config:
    """What the words of a `Configured` command chose; its function gets the other parameters."""
    flags = {}
    for param in ctx.meta[_META]:
        value = ctx.params.pop(param.name)
        if ctx.get_parameter_source(param.name) == ParameterSource.COMMANDLINE:
            flags[param.key] = value
    return resolve(*_layers(ctx.params["config"]), ("flag", chosen(flags)))


def section_options(section: str, values: Mapping[str, Any] | None = None) -> Iterator[Choice]:
    """The options of a table that is not a slot, without prefix.

    Args:
        section: data, pipeline or train
        values: what holds if nothing is said; None means the defaults
    """
    for option in outline(SECTIONS[section]).options.values():
        value = option.default if values is None else values[option.name]
        yield _choice(option.name, option, value, "start from" if option.name == "from" else PANELS[section])


def _given(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What looks like options with a value: name without dashes, and the value."""
    for i, arg in enumerate(args):
        if arg == "--":
            return
        name, equals, value = arg.removeprefix("--").partition("=")
        if arg.startswith("--") and (equals or i + 1 < len(args)):
            yield name, value if equals else args[i + 1]


def _layers(files: Sequence[str]) -> list[Layer]:
    return [(name, read_toml(find_config(name))) for name in files]


def _in_play(files: list[Layer], given: Mapping[str, str]) -> Config:
    """The config as the names of components alone make it, for knowing which options there are."""
    flags = {name: given[name] for name in (*SLOTS, "data", "from") if name in given}
    if given.get("horizon", "").isdigit():  # whether there is a horizon decides about defaults
        flags["horizon"] = given["horizon"]
    while True:
        config = resolve(*files, ("flag", chosen(flags)))
        inner = [key for slot in SLOTS if slot in config.values for key in _nested(slot, config.values[slot], slot)]
        named = {key: given[_flag(key)] for key in inner if _flag(key) in given}
        if named.keys() <= flags.keys():
            return config
        flags |= named


def _nested(kind: str, table: Table, path: str) -> Iterator[str]:
    """The options that take a component, at any depth."""
    for option in shape_of(kind, table["use"]).options.values():
        if option.nested:
            yield f"{path}.{option.name}"
            if table[option.name]:
                yield from _nested(option.type, table[option.name], f"{path}.{option.name}")


def _options(config: Config, given: Mapping[str, str]) -> Iterator[Choice]:
    """All options in the order of the help page."""
    for slot in SLOTS:
        names = ", ".join(registry().names(slot))
        about = f"{_SLOT_HELP[slot]}: {names}"
        yield Choice(
            slot,
            f"--{slot}",
            metavar="NAME|RUN",
            default=config.use(slot),
            panel="slots",
            help=about,
            shell_complete=completion.component(slot),
        )
    for slot in SLOTS:
        if slot in config.values:
            # a component that nobody named keeps its options, but does not fill the help page with them
            named = config.sources[f"{slot}.use"] != "default" or any(n.startswith(f"{slot}.") for n in given)
            yield from _component(slot, config.values[slot], slot, not named)
    about = "data set by name (tstk data list shows them), or a file or folder"
    at = completion.data_sets
    use = config.use("data")
    yield Choice("data", "--data", metavar="NAME|PATH", default=use, panel="data", help=about, shell_complete=at)
    for section in SECTIONS:
        yield from section_options(section, config.values[section])


def _component(kind: str, table: Table, path: str, hidden: bool) -> Iterator[Choice]:
    panel = f"{_flag(path)}: {table['use']}"
    for option in shape_of(kind, table["use"]).options.values():
        key, value = f"{path}.{option.name}", table[option.name]
        if not option.nested:
            yield _choice(key, option, value, panel, hidden)
            continue
        about = f"{option.help}: {', '.join(registry().names(option.type))}"
        use = value["use"] if value else None
        attrs = {"panel": panel, "hidden": hidden, "help": about, "shell_complete": completion.names(option.type)}
        yield Choice(key, f"--{_flag(key)}", metavar="NAME", default=use, **attrs)
        if value:
            yield from _component(option.type, value, key, hidden)


def _choice(key: str, option: Option, value: Any, panel: str, hidden: bool = False) -> Choice:
    flag = _flag(key)
    about: dict[str, Any] = {"default": value, "help": option.help, "panel": panel, "hidden": hidden}
    if option.type == "bool" and not option.many:
        return Choice(key, f"--{flag}/--no-{flag}", **about)
    if option.many and isinstance(value, tuple):
        about["show_default"] = ",".join(map(str, value)) or False
    hint = option.hint
    if len(hint) > _WIDE:
        hint, about["help"] = "one of", f"{option.help}: {', '.join(map(str, option.choices))}"
    return Choice(key, f"--{flag}", type=Value(option, f"--{flag}"), metavar=hint, **about)


def _flag(key: str) -> str:
    return key.replace("_", "-")
