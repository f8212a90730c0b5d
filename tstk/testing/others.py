"""Checks of what is no component: plugins, data readers, configs, recipes, commands, callbacks, kernels."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tstk.errors import TstkError
from tstk.plugins.registry import Entry, Plugin, registry
from tstk.plugins.signature import outline
from tstk.testing.expect import expect
from tstk.testing.subject import steering


def is_light(plugin: Plugin) -> None:
    """Importing the plugin's light module imports no torch and no numpy."""
    code = f"import sys, {plugin.module}; print(*sorted({{'torch', 'numpy'}} & sys.modules.keys()))"
    environment = {"PYTHONPATH": ":".join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment)
    expect(done.returncode == 0, f"{plugin.module} cannot be imported alone: {done.stderr.strip().splitlines()[-1:]}")
    heavy = done.stdout.strip()
    expect(not heavy, f"{plugin.module} imports {heavy}; import late, in the modules that entries name")


def is_named_well(plugin: Plugin) -> None:
    """Names are lower case without spaces, and each entry has a summary of one line."""
    for entry in plugin.entries:
        expect(
            entry.name == entry.name.lower() and not set(" _") & set(entry.name.rpartition("/")[2]),
            f"{entry.kind} {entry.name!r}: expected lower case with hyphens",
        )
        expect(
            bool(entry.summary) and "\n" not in entry.summary, f"{entry.kind} {entry.name!r}: no summary on one line"
        )


def names_its_parts(plugin: Plugin) -> None:
    """`SMALL` and `EXCUSES` name what the plugin has."""
    from tstk.testing.case import keys

    known = {f"{e.kind}:{e.name}" for e in plugin.entries}
    for name, allowed in (("SMALL", known), ("EXCUSES", keys(plugin.dist))):
        strange = set(steering(plugin.dist, name)) - allowed
        expect(not strange, f"{name} names {', '.join(sorted(strange))}, which this plugin does not have")


def reads_its_suffixes(entry: Entry) -> None:
    """A reader is a function of a path, and refuses a file of nonsense in one line that names the file."""
    reader = registry().load(entry)
    expect(bool(entry.provides), f"{entry.name}: provides is empty; expected the suffixes that it reads")
    odd = [s for s in entry.provides if not s.startswith(".") or s != s.lower()]
    expect(not odd, f"{entry.name}: provides {odd}; expected suffixes such as '.csv', in lower case")
    outline(entry.target)  # which says what is missing for `tstk show`
    names = list(inspect.signature(reader).parameters)
    expect(names == ["path", "label"], f"{entry.name}: reader({', '.join(names)}); expected reader(path, *, label)")
    for suffix in sorted(entry.provides):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"nonsense{suffix}")
            path.write_bytes(bytes(range(256)))
            try:
                reader(path, label=None)
            except TstkError as e:
                expect(str(path) in str(e), f"{entry.name}: {str(e)!r} does not name the file")
            except Exception as e:
                raise AssertionError(
                    f"{entry.name}: a file of nonsense raises {type(e).__name__}; expected a DataError that names it"
                ) from e
            else:
                raise AssertionError(f"{entry.name}: a file of nonsense was read; expected a DataError that names it")


def resolves(entry: Entry) -> None:
    """All tables, options and components of a config exist and fit together."""
    from tstk.config.resolve import read_toml, resolve, shipped
    from tstk.runs.build import rehearse

    try:
        rehearse(resolve((entry.name, read_toml(shipped(entry)))))
    except TstkError as e:
        raise AssertionError(str(e)) from None


def has_stages(entry: Entry) -> None:
    """The stages of a recipe and their configs exist."""
    from tstk.config.recipe import read_recipe
    from tstk.config.resolve import find_config

    try:
        for stage in read_recipe(entry.qualified):
            if stage.config:
                find_config(stage.config)
    except TstkError as e:
        raise AssertionError(str(e)) from None


def is_a_callback(entry: Entry) -> None:
    """The target is made without arguments and may be told of everything."""
    from tstk.training.callbacks import Callback

    found = registry().load(entry)
    expect(
        isinstance(found, type) and issubclass(found, Callback),
        f"{entry.target} is {found!r}; expected a class that extends tstk.Callback",
    )
    found()


def is_a_command(entry: Entry) -> None:
    """The target is a click command that explains itself."""
    import click

    found = registry().load(entry)
    expect(isinstance(found, click.Command), f"{entry.target} is {found!r}; expected a click.Command")
    expect(bool(found.help), f"{entry.name}: the command has no help; write a docstring")
