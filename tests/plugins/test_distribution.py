"""Names and version ranges of the distributions; CI and the documents name only what exists."""

import ast
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from tstk.plugins.distribution import CORE_DISTRIBUTION, format_install_command
from tstk.plugins.registry import get_registry
from tstk.runs.checkpoint import collect_versions

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LEFT_OUT = re.compile(r"\.git|\.venv.*|\..*_cache|\.benchmarks|__pycache__|.*\.egg-info|build|dist|runs|.*\.py[co]")
STALE = re.compile(
    r"""(?<![\w.-])tstk\\?\[              # an extra of it
    | (?<![\w.-])tstk[ ]?[<>=~!]=         # a range of it
    | \bpip[ ]install[ ]([^\n`'"]*[ ])?['"]?tstk(?![\w{/-])
    | dependencies[ ]=[ ]\[[^\]]*["']tstk["']
    | \b(version|requires|distribution)\(["']tstk["']\)""",
    re.VERBOSE,
)


def repository(folder=ROOT):
    """Yield the files of the repository, without build products."""
    for path in sorted(folder.iterdir()):
        if not LEFT_OUT.fullmatch(path.name):
            yield from repository(path) if path.is_dir() else [path]


def texts():
    for path in repository():
        if path.suffix in ("", ".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".cff", ".in", ".sh"):
            yield path, path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text",
    [
        "pip install 'tstk[hf]'",
        r"match=r'tstk\[plot\]'",
        'dependencies = ["tstk"]',
        '"tstk>=0.1,<2"',
        "pip install --upgrade tstk",
        "pip install tstk-plugins-waves tstk",
        'version("tstk")',
    ],
)
def test_a_stale_name_is_recognised(text):
    assert STALE.search(text)


@pytest.mark.parametrize("text", ["pip install 'tstk-core[hf]'", "tstk-core>=0.1", "pip install tstk-plugins-timae"])
def test_the_names_in_use_are_not_stale(text):
    assert not STALE.search(text)


@pytest.mark.slow
def test_nothing_installs_the_project_that_is_called_tstk_on_the_public_index():
    allowed = (
        Path(__file__),
        ROOT / "tstk" / "doctor.py",
        ROOT / "tests" / "diagnostics" / "test_doctor.py",
    )  # which look for it
    found = [f"{p}: {hit[0]}" for p, text in texts() if p not in allowed and (hit := STALE.search(text))]
    assert found == []


def test_every_extra_that_is_named_exists():
    named = {extra for _, text in texts() for extra in re.findall(rf"{CORE_DISTRIBUTION}\\?\[([\w-]+)", text)}
    named |= {extra for _, text in texts() for extra in re.findall(r"install_command\([\"']([\w-]+)[\"']\)", text)}
    assert {"hf", "plot", "onnx"} <= named <= PROJECT["optional-dependencies"].keys()


@pytest.mark.slow
def test_install_messages_come_from_one_function():
    places = []
    for path, text in texts():
        if path.suffix == ".py" and {"tests", "templates"}.isdisjoint(path.parts):
            tree = ast.parse(text)
            docs = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
            strings = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
            commands = [n for n in strings if id(n) not in docs and f"{CORE_DISTRIBUTION}[" in n.value]
            places += [f"{path}:{n.lineno}" for n in commands]
    assert places == []
    assert format_install_command("hf") == "pip install 'tstk-core[hf]'"


def test_the_core_is_installed_as_tstk_core_and_its_parts_are_qualified_as_tstk():
    assert PROJECT["name"] == CORE_DISTRIBUTION
    assert get_registry().find("tokenizer", "patch").qualified_name == "tstk/patch"
    assert collect_versions()["tstk"] == metadata.version(CORE_DISTRIBUTION)


@pytest.mark.parametrize(
    "folder", sorted(p.parent for p in ROOT.glob("plugins/*/pyproject.toml")), ids=lambda p: p.name
)
def test_a_plugin_requires_a_range_of_the_core_and_the_floors_of_the_core(folder):
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == f"tstk-plugins-{folder.name}"
    assert "tstk-core>=0.1,<2" in project["dependencies"]
    ours = {*PROJECT["dependencies"], *(r for group in PROJECT["optional-dependencies"].values() for r in group)}
    extras = [r for group in project.get("optional-dependencies", {}).values() for r in group]
    assert {*project["dependencies"], *extras} - ours == {"tstk-core>=0.1,<2"}


def test_the_lowest_versions_are_in_step_with_the_project(capsys):
    runpy.run_path(str(ROOT / ".ci" / "lowest_versions.py"), run_name="__main__")
    assert capsys.readouterr().out == (ROOT / "constraints-lowest.txt").read_text(), "make constraints-lowest.txt"


def test_every_dependency_has_a_floor_in_the_lowest_versions():
    from packaging.requirements import Requirement

    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()[1:]
    lowest = dict(line.split("==") for line in lines)
    needed = [
        *PROJECT["dependencies"],
        *(r for g in ("hf", "plot", "onnx", "lora") for r in PROJECT["optional-dependencies"][g]),
    ]
    for requirement in map(Requirement, needed):
        assert requirement.specifier.contains(lowest[requirement.name]), requirement


def test_the_selection_for_the_lowest_versions_names_tests_that_exist():
    lines = (ROOT / ".ci" / "lowest-tests.txt").read_text().splitlines()
    for path, _, name in (line.partition("::") for line in lines if not line.startswith("#")):
        assert f"def {name}(" in (ROOT / path).read_text() if name else (ROOT / path).is_file(), (path, name)


def test_ci_lints_compiles_runs_the_suite_and_tries_the_lowest_versions_here_and_on_a_public_forge():
    script = (ROOT / ".ci" / "run").read_text()
    steps = re.findall(r"^ *make (\S+)$", script, re.MULTILINE)
    assert steps == ["lint", "compile-kernels", "site", "test", "test-lowest"]
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert "bash .ci/run" in workflow
    assert '["3.11", "3.12", "3.13"]' in workflow


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", ".ci/run", "README.md"])
def test_a_page_names_only_make_targets_that_exist(page):
    targets = set(re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^ *\$ |^ {0,4}|`)make ([\w./-]+)(?=`| +#|$)", (ROOT / page).read_text(), re.MULTILINE))
    assert named
    assert named <= targets


def test_links_between_the_pages_of_the_root_lead_somewhere():
    for page in ROOT.glob("*.md"):
        for link in re.findall(r"\]\(([^)#:]+)(?:#[\w-]*)?\)", page.read_text(encoding="utf-8")):
            assert (ROOT / link).exists(), (page.name, link)


@pytest.mark.slow
def test_the_source_distribution_is_the_whole_repository(tmp_path):
    source = tmp_path / "source"
    for path in repository():
        (source / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, source / path.relative_to(ROOT))
    build = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    with tarfile.open(next(tmp_path.glob("tstk_core-*.tar.gz"))) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    expected = {str(p.relative_to(ROOT)) for p in repository()} - {".gitignore"}
    assert {"tests/plugins/test_distribution.py", "docs/results.md", "CHANGELOG.md", "constraints.txt"} <= expected
    assert expected <= packed
    assert [name for name in packed if "__pycache__" in name] == []
