"""`tstk kernels`: the backends of this machine, as text and as JSON."""

import json
from importlib import import_module

import pytest

from tstk.kernels import cpp, dispatch


def test_every_backend_of_every_operation_is_listed_in_the_order_of_choice(tstk):
    found = [(row["operation"], row["backend"]) for row in json.loads(tstk("kernels", "--json").stdout)]
    assert found == [(name, b) for name, operation in dispatch.OPERATIONS.items() for b in operation.backends]
    assert ("rope_attention", "reference") in found


def test_an_unsupported_call_raises_the_reason(tstk, monkeypatch):
    monkeypatch.setattr(dispatch, "_HAS_TRITON", False)
    lines = tstk("kernels").stdout.splitlines()[2:]
    rows = [line.strip().removesuffix("tstk").strip().split(maxsplit=2) for line in lines]
    assert ["rope_attention", "triton", "triton is not installed"] in rows
    assert ["rope_attention", "torch", "yes"] in rows
    monkeypatch.setattr(dispatch, "_HAS_TRITON", True)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    absent = {r["backend"]: r["absent"] for r in json.loads(tstk("kernels", "--json").stdout)}
    assert absent["triton"] == "Triton's interpreter (TRITON_INTERPRET=1) is used only if requested by name"


def test_a_choice_by_the_environment_is_mentioned(tstk, monkeypatch):
    monkeypatch.delenv("TSTK_KERNELS", raising=False)
    assert tstk("kernels").stderr == ""
    monkeypatch.setenv("TSTK_KERNELS", "reference")
    assert "TSTK_KERNELS=reference" in tstk("kernels").stderr


@pytest.mark.slow
def test_build_compiles_what_a_call_would_compile_later(tstk, monkeypatch, tmp_path):
    module = import_module("tstk.kernels.nearest_code.cpp")
    library = cpp.Library(module.LIBRARY.source, module.LIBRARY.functions)
    if library.why_unavailable():
        pytest.skip(library.why_unavailable())
    monkeypatch.setenv("TSTK_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "LIBRARY", library)
    assert "yes, once compiled: `tstk kernels --build`" in tstk("kernels").stdout
    assert not library.is_built()
    assert "once compiled" not in tstk("kernels", "--build").stdout
    assert library.path.is_file()


def test_a_compiler_that_fails_is_told_in_a_line(tstk, monkeypatch, tmp_path):
    module = import_module("tstk.kernels.nearest_code.cpp")
    library = cpp.Library(module.LIBRARY.source, module.LIBRARY.functions)
    if library.why_unavailable():
        pytest.skip(library.why_unavailable())
    assert tstk("kernels", "--build").exit_code == 0  # so that no other library is left to compile
    monkeypatch.setenv("TSTK_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "false")
    monkeypatch.setattr(module, "LIBRARY", library)
    result = tstk("kernels", "--build")
    assert result.exit_code
    assert "search.cpp: false failed with exit status 1" in result.stderr
    assert "nearest_code" in tstk("kernels").stdout
    assert "failed with exit status 1" in tstk("kernels").stdout
