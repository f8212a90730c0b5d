"""The layout of the package; the order of its imports is checked by `lint-imports`."""

import ast
import tomllib
from pathlib import Path

import tstk

PACKAGE = Path(tstk.__file__).parent


def test_at_most_six_modules_are_at_the_top():
    modules = sorted(path.name for path in PACKAGE.glob("*.py"))
    assert len(modules) <= 6, modules


def test_no_import_is_exempt_from_the_contracts():
    contracts = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    assert len(contracts["contracts"]) >= 4
    assert [c["name"] for c in contracts["contracts"] if c.get("ignore_imports")] == []


def list_functions(folder):
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                yield f"{path.name}:{node.name}", node, [p.arg for p in parameters if p.arg not in ("self", "cls")]


def test_no_function_of_training_is_longer_than_a_screen_or_has_more_than_eight_parameters():
    functions = list(list_functions(PACKAGE / "training"))
    assert functions
    assert [name for name, node, _ in functions if node.end_lineno - node.lineno >= 60] == []
    assert [name for name, _, parameters in functions if len(parameters) > 8] == []


def test_the_optimizer_steps_in_one_place_of_training():
    calls = [
        name
        for name, node, _ in list_functions(PACKAGE / "training")
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("optimizer.step")
    ]
    assert calls == ["step.py:__call__"]
