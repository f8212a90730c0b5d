"""Writes the pages of the documentation that are made of the code: `make docs`, or one: `generate.py api.pyi`.

docs/reference/python.md        the public classes and functions, from their docstrings
docs/reference/components.md    every component of the core and of the plugins in this repository
docs/reference/commands.md      every command
docs/mixes.md                   which components train together; tried, in a minute or two
docs/export.md                  which pipelines leave as a graph, and how far from themselves; tried, in some minutes
tstk/api.pyi                    the options of tstk.fit and tstk.build, for type checkers and editors
docs/notebooks/*.ipynb          the outputs of the notebooks, whose cells are written by hand; run, in some minutes

`python docs/generate.py python commands` writes these pages alone, `python docs/generate.py notebooks` those of a
folder. A test says when they are no longer what the code says. docs/figures.py draws docs/figures/.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import os
import re
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

import tstk
from tstk import api, errors, plot
from tstk.cli.commands.show import format_default, suggest_command
from tstk.core.interfaces import BasePipeline, Slot
from tstk.core.standardization import StandardizedModel
from tstk.data.containers import SeriesSet, Table
from tstk.plugins.hooks import SLOTS, Entry
from tstk.plugins.registry import get_registry
from tstk.plugins.signature import read_signature
from tstk.testing.exports import ExportTrial, try_export
from tstk.testing.fixture import ComponentFixture, build_fixture
from tstk.testing.mixes import Mix, try_mixes

HERE = Path(__file__).parent
RESULTS = HERE / "results.md"
GENERATED_NOTICE = "Made by `make docs` from the code; change it there."
ORDER = ("tokenizer", "encoder", "loss", "decoder", "head")
STEPS = 3
PYTHON_SECTIONS: dict[str, tuple[Any, ...]] = {
    "Functions": (tstk.fit, tstk.resume, tstk.load, tstk.build, tstk.build_component, tstk.list_components),
    "Records": (tstk.Spec, tstk.Series, tstk.Tokens, tstk.StepOutput),
    "Slots": (Slot, tstk.Tokenizer, tstk.Encoder, tstk.Decoder, tstk.Head, tstk.Loss),
    "Pipeline and random numbers": (tstk.Pipeline, BasePipeline, StandardizedModel, tstk.SampleRNG),
    "Figures": tuple(getattr(plot, name) for name in plot.__all__),
    "Plugins": (tstk.Entry, tstk.Callback),
    "Data": (SeriesSet, Table),
    "Errors": tuple(e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, tstk.TstkError)),
}
"""What the page of the Python interface describes."""


def list_own_distributions() -> set[str]:
    """The core, and the distributions of the plugins in this repository."""
    projects = (HERE.parent / "plugins").glob("*/pyproject.toml")
    return {"tstk", *(tomllib.loads(path.read_text(encoding="utf-8"))["project"]["name"] for path in projects)}


def render_python() -> str:
    """The page of the Python interface."""
    lines = ["# Python interface", "", GENERATED_NOTICE, ""]
    lines += [
        "Symbols: `B` batch, `C` channels, `T` samples, `N` and `M` tokens, `D` width of a token, `K` width of a "
        "target, `A` position axes, `H` horizon, `S` sample paths. Names without a module are imported from `tstk`.",
        "",
    ]
    for section, objects in PYTHON_SECTIONS.items():
        links = (f"[`{_get_name(o)}`](#{_get_name(o).lower().replace('.', '')})" for o in objects)
        lines += [f"- {section}: {', '.join(links)}"]
    for section, objects in PYTHON_SECTIONS.items():
        lines += ["", f"## {section}"]
        for o in objects:
            module = "" if hasattr(tstk, _get_name(o).partition(".")[0]) else f"`{o.__module__}`. "
            lines += [
                "",
                f"### {_get_name(o)}",
                "",
                *_render_signature(_get_name(o), o),
                "",
                *_render_docstring(o, module),
            ]
            if inspect.isclass(o):
                lines += [line for member in _render_members(o) for line in ("", *member)]
    return "\n".join(lines) + "\n"


def _get_name(obj: Any) -> str:
    """The name by which users reach a class or function: `fit`, or `plot.tokens`."""
    return f"plot.{obj.__name__}" if obj.__module__.startswith("tstk.plot") else obj.__name__


def _render_members(cls: type) -> Iterator[list[str]]:
    """Class attributes with a docstring, then public methods and properties, in the order of the source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    attributes = []
    for node, after in itertools.pairwise(body.body):
        if isinstance(node, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            declaration = re.sub(r"ClassVar\[(.*)\](?= =|$)", r"\1", ast.unparse(node))
            attributes.append(f"- `{declaration}`: {_escape_markdown(_join_lines(str(after.value.value)))}")
    if attributes:
        yield attributes
    for name, member in vars(cls).items():
        method = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if name.startswith("_") or not (inspect.isfunction(method) or isinstance(member, property)):
            continue
        title = f"{cls.__name__}.{name}"
        signature = ["Property."] if isinstance(member, property) else _render_signature(title, method, drop_first=True)
        yield [f"#### {title}", "", *signature, "", *_render_docstring(member)]


def _render_signature(name: str, obj: Callable[..., Any], drop_first: bool = False) -> list[str]:
    """The signature as a block of code, one parameter a line if it is long."""
    if isinstance(obj, type) and issubclass(obj, Exception):
        return ["```py", f"class {name}({', '.join(base.__name__ for base in obj.__bases__)})", "```"]
    signature = inspect.signature(obj)
    parameters = list(signature.parameters.values())[drop_first:]
    texts = [_render_parameter(p) for p in parameters]
    first = next((i for i, p in enumerate(parameters) if p.kind == p.KEYWORD_ONLY), None)
    if first is not None and not any(p.kind == p.VAR_POSITIONAL for p in parameters):
        texts.insert(first, "*")
    result = "" if inspect.isclass(obj) else f" -> {signature.return_annotation}"
    line = f"{name}({', '.join(texts)}){result}"
    if len(line) > 100:
        line = f"{name}(\n    " + ",\n    ".join(texts) + f",\n){result}"
    return ["```py", line, "```"]


def _render_parameter(parameter: inspect.Parameter) -> str:
    stars = (
        "*" if parameter.kind == parameter.VAR_POSITIONAL else "**" if parameter.kind == parameter.VAR_KEYWORD else ""
    )
    default = "{}" if repr(parameter.default) == "<factory>" else repr(parameter.default)
    return f"{stars}{parameter.name}: {parameter.annotation}" + (
        "" if parameter.default is parameter.empty else f" = {default}"
    )


def _render_docstring(obj: Any, prefix: str = "") -> list[str]:
    """A Google-style docstring: its text, then its sections as lists."""
    text, *sections = re.split(r"^(Args|Returns|Yields|Raises):\n", inspect.getdoc(obj) or "", flags=re.MULTILINE)
    lines = [prefix + _escape_markdown(_join_paragraphs(text))]
    for title, content in zip(sections[::2], sections[1::2], strict=True):
        content = textwrap.dedent(content.rstrip())
        if title in ("Returns", "Yields"):
            lines += ["", f"**{title}** {_escape_markdown(_join_lines(content))}"]
            continue
        lines += ["", f"**{title}**", ""]
        for item in re.split(r"\n(?=\S)", content):
            name, _, help_text = item.partition(": ")
            lines.append(f"- `{name}`: {_escape_markdown(_join_lines(help_text))}")
    return lines


def _escape_markdown(text: str) -> str:
    """Escape what Markdown would take for emphasis or HTML, outside of code."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([*<])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def render_components() -> str:
    """The page of all components."""
    lines = ["# Components", "", GENERATED_NOTICE, "", "`tstk show KIND NAME` says the same of what is installed.", ""]
    entries = [e for slot in SLOTS for e in get_registry().list_entries(slot) if e.dist in list_own_distributions()]
    for slot in SLOTS:
        lines += [
            f"- {slot}{'es' if slot == 'loss' else 's'}: "
            + ", ".join(f"[`{e.name}`](#{slot}-{e.name.replace('+', '')})" for e in entries if e.kind == slot)
        ]
    for entry in entries:
        lines += ["", *_render_component(entry)]
    return "\n".join(lines) + "\n"


def _render_component(entry: Entry) -> Iterator[str]:
    signature = read_signature(entry.target)
    yield from (f"## {entry.kind} {entry.name}", "", f"*{entry.summary}.* {_join_lines(signature.doc)}", "")
    if signature.options:
        yield from ("| option | type | default | what it does |", "|---|---|---|---|")
        for o in signature.options.values():
            cells = map(_escape_cell, (o.type_label, format_default(o), o.help))
            yield f"| `--{entry.kind}.{o.flag}` | {' | '.join(cells)} |"
        yield ""
    yield f"- shapes: {_describe_shapes(entry)}"
    for word, value in (
        ("needs", ", ".join(signature.class_attrs.get("needs", ()))),
        ("provides", ", ".join(sorted(entry.provides))),
        ("paper", entry.paper),
        ("plugin", entry.dist),
    ):
        if value:
            yield f"- {word}: {value}"
    yield f"- try: `{suggest_command(entry.kind, entry.name)}`"


def _describe_shapes(entry: Entry) -> str:
    """What `forward` says of itself, and what a small one did."""
    doc = inspect.getdoc(getattr(get_registry().load(entry), "forward", None)) or ""
    summary = _join_lines(doc.partition("\n\n")[0]).rstrip(".")
    try:
        it = build_fixture(entry)
    except AssertionError:
        return f"{summary}."
    return f"{summary}; for example {_describe_example_shapes(it)}"


def _describe_example_shapes(fixture: ComponentFixture) -> str:
    pipeline = fixture.build_pipeline()
    flow = fixture.run_step(pipeline)
    tokens = list(flow.tokens.values.shape)
    encoded = None if flow.encoded is None else list(flow.encoded.values.shape)
    if fixture.kind == "tokenizer":
        return f"{list(flow.series.x.shape)} → {tokens}"
    if fixture.kind == "encoder":
        return f"{list(flow.visible.values.shape)} → {encoded}"
    if fixture.kind == "decoder":
        assert flow.predictions is not None
        return f"{encoded}, asked at {flow.queries.grid_index.shape[1]} places → {list(flow.predictions.shape)}"
    if fixture.kind == "head":
        assert flow.head_output is not None
        return f"{encoded} → {list(flow.head_output.shape)}"
    return "terms " + ", ".join(f"`{name}`" for name in pipeline.loss(flow))


def render_commands() -> str:
    """The page of all commands."""
    lines = ["# Commands", "", GENERATED_NOTICE, "", "Each command says the same with `--help`.", ""]
    for entry in get_registry().list_entries("command"):
        if entry.dist in list_own_distributions():
            lines += _render_command(get_registry().load(entry), ["tstk", entry.name])
    return "\n".join(lines).rstrip() + "\n"


def _render_command(command: click.Command, words: list[str]) -> list[str]:
    ctx = command.make_context(" ".join(words), [], resilient_parsing=True)
    if isinstance(command, click.Group):
        return [line for name, inner in command.commands.items() for line in _render_command(inner, [*words, name])]
    params = command.get_params(ctx)
    wanted = " ".join(p.make_metavar(ctx) for p in params if isinstance(p, click.Argument))
    lines = [f"## {' '.join(words)}", "", f"`{' '.join(words)} [OPTIONS] {wanted}`".replace(" `", "`"), ""]
    lines += [_join_paragraphs(command.help or ""), ""]
    options = [p for p in params if isinstance(p, click.Option) and not p.hidden and p.name != "help"]
    if options:
        lines += ["| option | value | default | what it does |", "|---|---|---|---|"]
        for p in options:
            flags = " ".join(f"`{o}`" for o in (*p.opts, *p.secondary_opts))
            value = "" if p.is_flag else p.make_metavar(ctx)
            given = p.default if isinstance(p.default, str | int | float) and p.default is not False else ""
            lines.append(
                f"| {flags} | {_escape_cell(value)} | {_escape_cell(str(given))} | {_escape_cell(p.help or '')} |"
            )
        lines.append("")
    said = [line.removeprefix("$ ") for line in (command.epilog or "").splitlines() if line.startswith("$ ")]
    return [*lines, *(f"- `{line}`" for line in said), ""]


def render_mixes() -> str:
    """The page of all mixes, each tried now."""
    installed = [e for slot in SLOTS for e in get_registry().list_entries(slot) if e.dist in list_own_distributions()]
    every = {(e.kind, e.name) for e in installed}
    mixes = [m for m in try_mixes(steps=STEPS) if set(m.parts.items()) <= every]
    counts = {state: sum(m.state == state for m in mixes) for state in ("trained", "refused", "failed")}
    reasons = dict(zip(dict.fromkeys(_shorten_reason(m) for m in mixes if m.reason), _iterate_letters()))
    lines = [
        "# Mixes",
        "",
        GENERATED_NOTICE,
        "",
        f"Every combination of the components of the core and of the plugins in this repository, as small as can be: "
        f"{len(mixes)} mixes, of which {counts['trained']} trained {STEPS} steps, {counts['refused']} were refused "
        f"before any data were read, for the reason that the letter stands for, and {counts['failed']} failed. A mix "
        "is tried on the task that its loss and head are for; where the refusal advises a table "
        "to forecast, independent channels or a causal encoder, that is tried.",
        "",
    ]
    encoders = [e.name for e in installed if e.kind == "encoder"]
    for tokenizer in (e.name for e in installed if e.kind == "tokenizer"):
        lines += [f"## tokenizer {tokenizer}", "", "| loss | task | answered by | " + " | ".join(encoders) + " |"]
        lines += ["|---|---|---|" + ":-:|" * len(encoders)]
        rows: dict[tuple[str, str, str], dict[str, Mix]] = {}
        for m in mixes:
            if m.parts["tokenizer"] == tokenizer:
                key = m.parts["loss"], ", ".join(m.tasks) or "pretraining", _get_output_part(m)
                rows.setdefault(key, {})[m.parts["encoder"]] = m
        for (loss, task, answer), row in rows.items():
            cells = [_format_mix_cell(row.get(e), reasons) for e in encoders]
            lines.append(f"| {loss} | {task} | {answer} | " + " | ".join(cells) + " |")
        lines.append("")
    lines += ["## Why some are refused", ""]
    lines += [f"- **{letter}**: {reason}" for reason, letter in reasons.items()]
    return "\n".join(lines) + "\n"


def render_exports() -> str:
    """The page of all exports, each tried now."""
    mine = list_own_distributions()
    encoders, heads, tokenizers = (
        [e for e in get_registry().list_entries(slot) if e.dist in mine] for slot in ("encoder", "head", "tokenizer")
    )
    core = [e.name for e in encoders if e.dist == "tstk"]
    answers = [e.name for e in heads if e.dist == "tstk"]
    grid = {(e, h): try_export({"encoder": e, "head": h}) for e in core for h in answers}
    more = [try_export({"tokenizer": e.name, "encoder": "transformer", "head": "linear"}) for e in tokenizers]
    more += [try_export({"encoder": e.name, "head": "linear"}) for e in encoders if e.name not in core]
    worst = max(trial.max_error for trial in (*grid.values(), *more))
    reasons = dict.fromkeys(t.fixed_length_reason for t in (*grid.values(), *more) if t.fixed_length_reason)
    stars = {reason: "*" * (i + 1) for i, reason in enumerate(reasons)}
    lines = [
        "# Export",
        "",
        GENERATED_NOTICE,
        "",
        "`tstk export RUN --out model.pt2` (torch.export) or `--out model.onnx`. Every graph takes raw samples and any "
        "batch size. Each pipeline below, a very small one made for 32 samples, was exported both ways; the graphs "
        "were run on other batches and lengths than they were traced with and compared with the pipeline. The largest "
        f"difference found, relative to the largest answer, is {worst:.0e}; a graph that differs by more than 1e-4 is "
        "not written. A cell says how many samples a series may have.",
        "",
        "## Encoders and heads of the core, tokenizer patch",
        "",
        "| encoder | " + " | ".join(answers) + " |",
        "|---|" + ":-:|" * len(answers),
        *(f"| {e} | " + " | ".join(_format_export_cell(grid[e, h], stars) for h in answers) + " |" for e in core),
        "",
        "## Tokenizers, and encoders of plugins",
        "",
        "| tokenizer | encoder | head | samples | refused |",
        "|---|---|---|:-:|---|",
    ]
    for t in more:
        why = t.error or (f"ONNX: {t.onnx_error}" if t.onnx_error else "")
        cells = [
            t.parts.get("tokenizer", "patch"),
            t.parts["encoder"],
            t.parts["head"],
            _format_export_cell(t, stars),
            _escape_cell(why),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        *(f"{star.replace('*', chr(92) + '*')} one length alone: {why}." + "\n" for why, star in stars.items()),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _format_export_cell(trial: ExportTrial, stars: dict[str, str]) -> str:
    star = stars.get(trial.fixed_length_reason, "").replace("*", "\\*")
    return f"{trial.lengths}{star}" + (", no ONNX" if trial.onnx_error else "") if trial.lengths else "refused"


STUB = '''"""The types of `tstk.api`. Made by `make docs` from the options; change them there."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, overload

from tstk.config.records import RunResult
from tstk.config.resolve import Config
from tstk.core.frames import DataFrame
from tstk.core.interfaces import Decoder, Encoder, Head, Loss, Tokenizer
from tstk.core.pipeline import Pipeline
from tstk.core.types import Spec
from tstk.inference.frames import load as load
from tstk.report.hub import push as push
from tstk.runs.build import build_component as build_component
from tstk.runs.importing import import_run as import_run
from tstk.training.callbacks import Callback
from tstk.tuning.algorithms import PrunerName
from tstk.tuning.results import TuneResult

@overload
def list_components(kind: str) -> tuple[str, ...]: ...
@overload
def list_components(kind: None = None) -> dict[str, tuple[str, ...]]: ...
'''


def render_stub() -> str:
    """The stub of `tstk.api`: its functions, with the parameters that they have at run time."""
    return "\n".join(
        [STUB.rstrip("\n"), *(_render_function(getattr(api, name)) for name in ("build", "fit", "resume", "tune"))]
    )


def _render_function(function: Callable) -> str:
    signature = inspect.signature(function)
    lines, is_keyword_only = [f"def {function.__name__}("], False
    for p in signature.parameters.values():
        if p.kind is p.KEYWORD_ONLY and not is_keyword_only:
            lines, is_keyword_only = [*lines, "    *,"], True
        default = "" if p.default is p.empty else f" = {p.default!r}".replace("'", '"')
        lines.append(
            f"    {'**' if p.kind is p.VAR_KEYWORD else ''}{p.name}: {p.annotation}{default},".replace("'", '"')
        )
    docstring = inspect.cleandoc(function.__doc__).replace("\n", "\n    ").replace("\n    \n", "\n\n")
    return "\n".join([*lines, f") -> {signature.return_annotation}:", f'    """{docstring}', '    """', ""])


def _get_output_part(mix: Mix) -> str:
    slot, name = list(mix.parts.items())[-1]
    return "none" if slot == "loss" else f"{slot} {name}"


def _format_mix_cell(mix: Mix | None, reasons: dict[str, str]) -> str:
    if mix is None:
        return ""
    return (
        "✓"
        if mix.state == "trained"
        else f"**{reasons[_shorten_reason(mix)]}**"
        if mix.state == "refused"
        else "failed"
    )


def _shorten_reason(mix: Mix) -> str:
    """Why, without the name of the tokenizer, under which it stands."""
    return mix.reason.replace(f"tokenizer {mix.parts['tokenizer']!r}", "this tokenizer")


def _iterate_letters() -> Iterator[str]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    yield from letters
    yield from (a + b for a in letters for b in letters)


def _join_lines(text: str) -> str:
    return " ".join(text.replace("\b", "").split())


def _join_paragraphs(text: str) -> str:
    return "\n\n".join(_join_lines(part) for part in inspect.cleandoc(text).split("\n\n"))


def _escape_cell(text: str) -> str:
    return _join_lines(text).replace("|", "\\|")


def run_notebook(path: Path) -> str:
    """Run a notebook in a folder of its own, on one thread, and return it with its outputs."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    with TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}})
        client.extra_arguments = ["--log-level=ERROR"]  # of the kernel, which warns of its own connection
        client.execute(env={**os.environ, "OMP_NUM_THREADS": "1", "IPYTHONDIR": folder})
    for cell in notebook.cells:
        cell.metadata = {}
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return nbformat.writes(notebook) + "\n"


PAGES: dict[Path, Callable[[], str]] = {
    HERE / "reference" / "python.md": render_python,
    HERE / "reference" / "components.md": render_components,
    HERE / "reference" / "commands.md": render_commands,
    HERE / "mixes.md": render_mixes,
    HERE / "export.md": render_exports,
    HERE.parent / "tstk" / "api.pyi": render_stub,
    **{path: partial(run_notebook, path) for path in sorted((HERE / "notebooks").glob("*.ipynb"))},
}

if __name__ == "__main__":
    for page, make in PAGES.items():
        if sys.argv[1:] and not {page.name, page.stem, page.parent.name} & set(sys.argv[1:]):
            continue
        page.parent.mkdir(exist_ok=True)
        page.write_bytes(make().encode())
        print(page.relative_to(HERE.parent), file=sys.stderr)
