"""Write a new plugin package, or add an entry to one, from the files in `templates/`; both pass their checks unchanged.

The templates are a working package called `sketch`, whose names are replaced. `templates/all` has the files of every
plugin, `templates/KIND` those that a kind adds, and `_ENTRIES` the entry that `plugin.py` yields for it.
"""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

from tstk.errors import OptionError, did_you_mean
from tstk.files import atomic_folder, check_new_folder, write_text
from tstk.plugins.hooks import KINDS, SLOTS
from tstk.plugins.registry import get_registry

TEMPLATES = Path(__file__).parents[1] / "templates"

_ENTRIES = {
    "tokenizer": ("tokenizer:Sketch", "Linear projection of windows of samples", '{"target_dim", "stride", "ordered"}'),
    "encoder": ("encoder:Sketch", "Mixes each token with the mean of all"),
    "decoder": ("decoder:Sketch", "A small MLP for each token"),
    "head": ("head:Sketch", "Linear layer over mean and maximum of the tokens"),
    "loss": ("loss:Sketch", "Masked reconstruction with the Huber loss"),
    "task": ("task:Sketch", "Positive numbers, such as counts, on a logarithmic scale"),
    "reader": ("reader:read", "Text files: one series a line, its label first", '{".sketch"}'),
    "config": ("configs/sketch.toml", "Patches, a small transformer and a linear head"),
    "recipe": ("recipes/sketch.toml", "Pretrain by masking, then classify"),
    "command": ("command:command", "Count the parameters of a run"),
    "callback": ("callback:Sketch", "Log the norm of the weights"),
    "probe": ("probe:Sketch", "The nearest class mean"),
    "report": ("report:render_section", "Parameters of each component"),
    "kernel": ("kernel:backend", "Codes in blocks of 1,024 vectors"),
    "masking": ("masking:mask_earliest", "The earliest tokens"),
    "augmentation": ("augmentation:flip_sign", "Negate series at random"),
    "tracker": ("tracker:create_tracker", "Append metrics to a file of text"),
    "importer": ("importer:Sketch", "A linear layer over windows, and one back to samples"),
}
"""Kind -> target inside the package, summary, and what it provides, if anything."""

_TRIAL_COMMANDS = {
    "reader": "tstk data info FILE.NAME",
    "decoder": "tstk train --loss masked --decoder NAME --dry-run",
    "recipe": "tstk run NAME",
    "task": "tstk train --task NAME --data FILE --dry-run",
    "command": "tstk NAME --help",
    "callback": "tstk train --callbacks NAME --steps 20",
    "probe": "tstk probe RUN --classifier NAME",
    "report": "tstk report RUN",
    "kernel": "tstk kernels",
    "masking": "tstk train --loss masked --loss.policy NAME --dry-run",
    "augmentation": "tstk train --augment NAME --steps 20",
    "tracker": "tstk train --trackers NAME --steps 20",
    "importer": "tstk import NAME FILE.pt",
}


def write_plugin(name: str, kind: str, folder: Path) -> list[Path]:
    """Write a plugin package with one working component.

    Args:
        name: of the component; the distribution is called tstk-plugins-NAME
        kind: one of `KINDS`
        folder: must not exist yet, or be empty

    Returns:
        the files written

    Raises:
        OptionError: the kind is unknown, the name is not allowed or taken, or the folder is not empty
        FileError: it cannot be written
    """
    name = name.removeprefix("tstk-plugins-")
    _check_name(name, kind)
    if folder.is_dir() and any(folder.iterdir()):
        raise OptionError(f"{folder} already exists; choose another name, remove it, or add to it with --into {folder}")
    check_new_folder(folder)
    replacements = _get_replacements(name, kind, f"tstk_plugins_{name.replace('-', '_')}")
    files = {}
    for template, relative_path in _list_templates(kind):
        inner = "/".join(_substitute(part, replacements).replace("dot_", ".") for part in relative_path.parts)
        text = template.read_text(encoding="utf-8")
        if relative_path.name == "plugin.py":
            text += _format_entry(kind)
            if kind in SLOTS:
                text += _format_entry("config").replace(_ENTRIES["config"][1], "Example config")
        files[inner] = _substitute(text, replacements)
    with atomic_folder(folder) as new_folder:
        for inner, text in files.items():
            write_text(new_folder / inner, text)
    return [folder / inner for inner in files]


def add_to_plugin(name: str, kind: str, folder: Path) -> list[Path]:
    """Add a working component to a plugin: its file, its entry in `plugin.py`, and the contract test if there is none.

    Args:
        name: of the component
        kind: one of `KINDS`
        folder: of the plugin, with its `pyproject.toml`

    Returns:
        the files written, `plugin.py` among them

    Raises:
        OptionError: the kind is unknown, the name is not allowed or taken, the folder is no plugin, the file exists, or
            `plugin.py` has to be changed by hand
    """
    _check_name(name, kind)
    dist, plugin_file = find_plugin_file(folder)
    package, templates = plugin_file.parent, TEMPLATES / kind / "tstk_plugins_sketch"
    module = f"{name.replace('-', '_')}_{kind}"
    replacements = {
        f"tstk_plugins_sketch.{kind}": f"{package.name}.{module}",
        "tstk-plugins-sketch": dist,
        **_get_replacements(name, kind, package.name),
    }
    if (template := templates / f"{kind}.py").is_file():
        path = package / f"{module}.py"
    else:
        template, path = templates / f"{kind}s" / "sketch.toml", package / f"{kind}s" / f"{name}.toml"
    if path.exists():
        raise OptionError(f"{path} already exists; choose another name")
    texts = {path: template.read_text(encoding="utf-8")}
    if not (contract_test := folder / "tests" / "test_contract.py").exists():
        texts[contract_test] = (TEMPLATES / "all" / "tests" / "test_contract.py").read_text(encoding="utf-8")
    texts = {path: _substitute(text, replacements) for path, text in texts.items()}
    texts[plugin_file] = _insert_entry(plugin_file, kind, replacements)
    for path, text in texts.items():
        write_text(path, text, replace=path == plugin_file)
    return list(texts)


def _check_name(name: str, kind: str) -> None:
    if kind not in KINDS:
        raise OptionError(f"--kind {kind}: expected one of {', '.join(KINDS)}.{did_you_mean(kind, KINDS)}")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        suggestion = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789")
        hint = suggestion and f", such as {suggestion!r}"
        raise OptionError(f"{name!r} cannot be the name of a {kind}; expected lower case with hyphens{hint}")
    if namesakes := [e for e in get_registry().list_entries(kind) if e.name == name]:
        raise OptionError(f"{namesakes[0].dist} already has a {kind} {name!r}; choose another name")


def _get_replacements(name: str, kind: str, package: str) -> dict[str, str]:
    return {
        "tstk_plugins_sketch": package,
        "Sketch": "".join(part.capitalize() for part in name.split("-")),
        "sketch": name,
        "KIND": kind,
        "TRY": _TRIAL_COMMANDS.get(kind, f"tstk train --{kind} NAME --dry-run").replace("NAME", name),
    }


def find_plugin_file(folder: Path) -> tuple[str, Path]:
    """Return the distribution of a plugin, and the path of the module that its entry point names."""
    project_file = folder / "pyproject.toml"
    try:
        project = tomllib.loads(project_file.read_text(encoding="utf-8"))["project"]
        for module in project["entry-points"]["tstk"].values():
            for root in (folder, folder / "src"):
                if (path := root.joinpath(*module.split(".")).with_suffix(".py")).is_file():
                    return project["name"], path
    except (OSError, KeyError, tomllib.TOMLDecodeError) as e:
        reason = f"has no {e}" if isinstance(e, KeyError) else str(e)
        raise OptionError(f"{folder} is not the folder of a plugin: {project_file}: {reason}") from None
    raise OptionError(f"{project_file}: the module under [project.entry-points.tstk] is not in {folder}")


def _insert_entry(plugin_file: Path, kind: str, replacements: dict[str, str]) -> str:
    """Return the text of a `plugin.py`, with the template's entry of a kind as the last that `tstk_entries` yields."""
    new_lines = _substitute(_format_entry(kind), replacements)
    text = plugin_file.read_text(encoding="utf-8")
    try:
        hook = _find_hook(text)
    except (SyntaxError, StopIteration):
        hook = None
    if hook is None or "yield Entry(" not in ast.unparse(hook.body[-1]):
        raise OptionError(
            f"{plugin_file}: expected a function tstk_entries that ends with `yield Entry(...)`; "
            "add this entry by hand: " + " ".join(new_lines.split())
        )
    lines = text.splitlines()
    indent = " " * hook.body[-1].col_offset
    lines[hook.end_lineno : hook.end_lineno] = [indent + line.removeprefix("    ") for line in new_lines.splitlines()]
    return "\n".join(lines) + "\n"


def _format_entry(kind: str) -> str:
    """Return the lines of `plugin.py` that yield the template's entry of a kind."""
    target, summary, *provides = _ENTRIES[kind]
    name = "nearest_code/sketch" if kind == "kernel" else "sketch"
    path = f"tstk_plugins_sketch:{target}" if "/" in target else f"tstk_plugins_sketch.{target}"
    lines = [f'"{value}"' for value in (kind, name, path, summary)] + [f"provides={value}" for value in provides]
    return "\n".join(["    yield Entry(", *(f"        {line}," for line in [*lines, "interface_version=1"]), "    )\n"])


def _find_hook(text: str) -> ast.FunctionDef:
    return next(n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef) and n.name == "tstk_entries")


def _list_templates(kind: str) -> list[tuple[Path, Path]]:
    """Return the template files of a kind, each with its path inside the new package."""
    roots = (TEMPLATES / "all", TEMPLATES / kind)
    files = [(path, path.relative_to(root)) for root in roots for path in root.rglob("*")]
    return sorted((p, relative) for p, relative in files if p.is_file() and "__pycache__" not in p.parts)


def _substitute(text: str, replacements: dict[str, str]) -> str:
    pattern = "|".join(re.escape(word) for word in replacements)
    return re.sub(pattern, lambda match: replacements[match[0]], text)
