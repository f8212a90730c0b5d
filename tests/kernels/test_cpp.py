"""Compilation of C++ kernels: where they are kept, and what is said where that fails."""

import ctypes
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tstk.errors import IncompatibleError
from tstk.kernels import cpp, nearest_code
from tstk.kernels.cpp import Library
from tstk.kernels.dispatch import Backend
from tstk.kernels.nearest_code import nearest_code_op

SOURCE = """
extern "C" float add(float a, float b) { return a + b; }
"""
z, codes = torch.randn(40, 8, generator=torch.Generator().manual_seed(0)).split([24, 16])

pytestmark = pytest.mark.skipif(
    os.name != "posix" or torch.backends.cpu.get_cpu_capability() not in cpp.INSTRUCTION_SETS,
    reason="C++ kernels are for AVX2 and AVX-512 on Linux and macOS",
)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Return an empty cache folder."""
    monkeypatch.setenv("TSTK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def library(tmp_path, cache):
    """Return a small library that is not compiled yet."""
    (tmp_path / "add.cpp").write_text(SOURCE)
    return make_library(tmp_path / "add.cpp")


@pytest.fixture
def compiler():
    """Skip a test where there is no compiler."""
    if not cpp._find_compiler():
        pytest.skip("there is no C++ compiler")


def make_library(source):
    return Library(source, {"add": (ctypes.c_float, (ctypes.c_float, ctypes.c_float))})


def test_a_kernel_is_compiled_once_and_then_loaded_from_the_cache(library, cache, compiler, monkeypatch):
    assert not library.is_built()
    assert not cache.exists()
    assert library.load().add(1, 2) == 3
    assert [library.path] == list((cache / "kernels").iterdir())
    monkeypatch.setenv("CXX", "/bin/false")  # a second process does not compile
    assert make_library(library.source).load().add(1, 2) == 3


def test_a_changed_source_or_another_instruction_set_is_another_file(library, monkeypatch):
    before = library.path
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    avx2 = library.path
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert library.path != avx2
    assert before in (avx2, library.path)
    library.source.write_text(SOURCE + "// changed")
    cpp._name_library.cache_clear()
    assert library.path not in (avx2, before)


def test_without_a_compiler_the_reason_names_the_remedy(library, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    assert library.why_unavailable() == (
        "it needs a C++ compiler, and there is none of c++, g++, clang++ (on Debian: apt install g++)"
    )
    with pytest.raises(IncompatibleError, match=r"add\.cpp: it needs a C\+\+ compiler"):
        library.load()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            "echo 'ld: fatal error: disk on fire' >&2; exit 3",
            "failed with exit status 3: ld: fatal error: disk on fire",
        ),
        ("exit 1", "failed with exit status 1: it printed nothing"),
        ("exit 0", "file too short"),
    ],
)
def test_a_broken_compiler_is_tried_once_and_its_message_kept(library, cache, tmp_path, monkeypatch, script, reason):
    command = tmp_path / "broken"
    command.write_text(f"#!/bin/sh\necho called >> {tmp_path}/calls\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setenv("CXX", str(command))
    for _ in range(2):
        with pytest.raises(IncompatibleError, match=reason):
            library.load()
    assert (tmp_path / "calls").read_text() == "called\n"
    assert not library.path.exists()  # so that a repaired compiler is used by the next process
    assert reason in library.why_unavailable()


def test_a_cache_that_cannot_be_written_is_named(library, cache, monkeypatch, compiler):
    cache.write_text("a file where the folder should be")
    assert str(cache) in library.why_not_loaded()


def test_a_library_that_others_can_write_is_not_loaded(library, compiler):
    library.load()
    for mode in (0o666, 0o664):
        library.path.chmod(mode)
        assert "can be written by other users; delete it and set TSTK_CACHE" in (
            make_library(library.source).why_not_loaded()
        )
    library.path.chmod(0o644)
    assert not make_library(library.source).why_not_loaded()
    library.path.parent.chmod(0o777)  # in which anyone may replace the file
    assert "can be written by other users" in make_library(library.source).why_not_loaded()
    library.path.parent.chmod(0o1777)
    assert not make_library(library.source).why_not_loaded()


def test_a_library_is_loaded_whatever_the_umask(library, compiler):
    before = os.umask(0)
    try:
        assert not library.why_not_loaded()
    finally:
        os.umask(before)
    assert not make_library(library.source).why_not_loaded()


def test_a_damaged_library_is_compiled_again(library, compiler, monkeypatch):
    library.path.parent.mkdir(parents=True)
    library.path.write_bytes(b"")
    with monkeypatch.context() as context:
        context.setattr(cpp, "_find_compiler", list)
        assert "file too short" in make_library(library.source).why_not_loaded()
    assert library.load().add(1, 2) == 3


def test_a_table_of_backends_says_what_cannot_be_loaded(library):
    library.path.parent.mkdir(parents=True)
    library.path.write_bytes(b"")
    library.path.chmod(0o666)
    assert "can be written by other users" in Backend("cpp", "", get_library=lambda: library).why_not_selected()


@pytest.mark.parametrize("variable", ["no-such-compiler", 'g++ "'])
def test_a_variable_that_names_no_compiler_is_named(library, monkeypatch, variable):
    monkeypatch.setenv("CXX", variable)
    assert f"the variable CXX, {variable!r}, names no installed one" in library.why_unavailable()


def test_a_compiler_that_does_not_end_is_stopped(library, tmp_path, monkeypatch):
    command = tmp_path / "endless"
    command.write_text("#!/bin/sh\nexec sleep 100\n")
    command.chmod(0o755)
    monkeypatch.setenv("CXX", str(command))
    monkeypatch.setattr(cpp, "TIMEOUT", 0.05)
    assert library.why_not_loaded() == f"add.cpp: {command} was stopped after 0.05 s"


@pytest.mark.slow
def test_several_threads_and_processes_may_compile_at_once(library, cache, compiler):
    script = (
        "import sys, ctypes; from pathlib import Path; from tstk.kernels.cpp import Library\n"
        "f = ctypes.c_float; print(Library(Path(sys.argv[1]), {'add': (f, (f, f))}).load().add(1, 2))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(library.source)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda _: make_library(library.source).load().add(1, 2), range(2))) == [3, 3]
    assert [process.communicate()[0] for process in processes] == ["3.0\n"] * 2
    assert [library.path] == list((cache / "kernels").iterdir())


def test_a_search_without_a_compiler_uses_torch(cache, monkeypatch):
    module = sys.modules["tstk.kernels.nearest_code.cpp"] if nearest_code_op.backends["cpp"].function else None
    monkeypatch.setattr(module, "LIBRARY", Library(module.LIBRARY.source, module.LIBRARY.functions))
    monkeypatch.setattr(cpp, "_find_compiler", list)
    large = z.repeat(2**18 // len(z), 1), codes.repeat(8, 1)
    assert nearest_code_op.select(None, *large).name == "torch"
    nearest_code(z, codes)
    with pytest.raises(IncompatibleError, match=r"backend 'cpp' does not support this call: it needs a C\+\+ compiler"):
        nearest_code(z, codes, backend="cpp")
