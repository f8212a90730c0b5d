"""The Dockerfile, as far as it can be checked without Docker: what it copies, installs and runs exists."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
INSTRUCTIONS = ("ARG", "FROM", "COPY", "WORKDIR", "RUN", "ENV", "USER", "ENTRYPOINT", "CMD")


@pytest.fixture(scope="module")
def instructions():
    """Return pairs (instruction, arguments), with continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = [line for line in re.sub(r"\\\n\s*", "", text).splitlines() if line.strip()]
    return [tuple(line.split(" ", 1)) for line in lines]


def test_every_line_is_an_instruction_and_every_command_is_valid_shell(instructions):
    assert {name for name, _ in instructions} == set(INSTRUCTIONS)
    for name, command in instructions:
        if name == "RUN":
            done = subprocess.run(["sh", "-n", "-c", command], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr


def test_what_is_copied_and_built_is_in_the_repository(instructions):
    copied = [words.split()[:-1] for name, words in instructions if name == "COPY" and "--from" not in words]
    assert [path for paths in copied for path in paths if not (ROOT / path).exists()] == []
    folders = sorted(path for path in ROOT.glob("plugins/*/") if path.is_dir())
    assert folders
    assert [path for path in folders if not (path / "pyproject.toml").is_file()] == [], "pip wheel builds all of them"
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert not {"README.md", "LICENSE", "tstk", "plugins", "constraints.txt"} & set(ignored), "the wheels need them"


def test_the_python_the_extras_and_the_command_are_those_of_the_project(instructions):
    defaults = dict(words.split("=", 1) for name, words in instructions if name == "ARG")
    assert SpecifierSet(PROJECT["requires-python"]).contains(defaults["PYTHON"])
    assert set(defaults["EXTRAS"].split(",")) <= set(PROJECT["optional-dependencies"])
    (entrypoint,) = [json.loads(words) for name, words in instructions if name == "ENTRYPOINT"]
    assert set(entrypoint) <= set(PROJECT["scripts"])
    assert f"{PROJECT['name'].replace('-', '_')}-*.whl" in (ROOT / "Dockerfile").read_text()


def test_the_container_runs_as_a_user_without_privileges_and_names_no_index(instructions):
    names = [name for name, _ in instructions]
    (user,) = [words for name, words in instructions if name == "USER"]
    assert user not in ("root", "0")
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert any(f"useradd --create-home {user}" in words for name, words in instructions if name == "RUN")
    assert "http" not in (ROOT / "Dockerfile").read_text()
