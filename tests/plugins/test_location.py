"""Where an author has to look: their own file and line, whoever noticed the fault."""

import importlib
import sys

import pytest

from tstk.plugins.location import locate_definition, locate_error
from tstk.plugins.registry import PluginSource, Registry

FILES = {
    "shore/__init__.py": "",
    "shore/head.py": """import json

LIMIT = 3


class Head:
    def forward(self, words):
        return json.loads(words)


def wrap(words):
    try:
        return Head().forward(words)
    except ValueError:
        return None.nothing
""",
    "shore/plugin.py": "from tstk import Entry, hookimpl\n\nEntry('head')\n",
    "shore/quick.toml": "",
    "shore/slip.py": "x = (\n",
}


@pytest.fixture
def shore(tmp_path, monkeypatch):
    """A package `shore` in the working directory."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [n for n in sys.modules if n.partition(".")[0] == "shore"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("target", "place"),
    [
        ("shore.head:Head", "shore/head.py:6"),
        ("shore.head:LIMIT", "shore/head.py:3"),
        ("shore.head:json", "shore/head.py:1"),
        ("shore.head:Tail", "shore/head.py"),
        ("shore.plugin", "shore/plugin.py"),
        ("shore:quick.toml", "shore/quick.toml"),
        ("shore.gone:Head", ""),
        ("shore.slip:Head", ""),
    ],
)
def test_a_definition_is_located_without_an_import(shore, target, place):
    assert locate_definition(target) == place
    assert "shore" not in sys.modules


def test_a_file_outside_the_working_directory_has_its_whole_path(shore, monkeypatch):
    monkeypatch.chdir(shore / "shore")
    assert locate_definition("shore.head:Head") == "head.py:6"
    monkeypatch.chdir("/")
    assert locate_definition("shore.head:Head") == str(shore / "shore" / "head.py").removeprefix("/") + ":6"


def error_of(call):
    try:
        call()
    except Exception as e:
        return e
    raise AssertionError("no error")


def test_an_error_is_located_at_the_innermost_line_of_the_package(shore):
    head = importlib.import_module("shore.head")
    assert locate_error(error_of(lambda: head.Head().forward("{")), "shore.head") == "shore/head.py:8"
    assert locate_error(error_of(lambda: head.wrap("{")), "shore") == "shore/head.py:15"
    assert locate_error(error_of(lambda: importlib.import_module("shore.slip")), "shore") == "shore/slip.py:1"
    assert locate_error(error_of(lambda: 1 / 0), "shore") == ""
    assert locate_error(error_of(lambda: 1 / 0), "nowhere") == ""


def test_the_cause_of_an_error_counts_if_it_was_raised_elsewhere(shore):
    head = importlib.import_module("shore.head")

    def wrapped():
        try:
            head.Head().forward("{")
        except ValueError as e:
            raise RuntimeError("it cannot be read") from e

    assert locate_error(error_of(wrapped), "shore") == "shore/head.py:8"


def test_a_plugin_that_fails_to_load_is_listed_with_its_line(shore):
    source = PluginSource("shore", "shore", "1", "shore.plugin", lambda: importlib.import_module("shore.plugin"))
    error = Registry([source]).plugins[0].error
    assert error.startswith("TypeError: ")
    assert error.endswith("(shore/plugin.py:3)")
