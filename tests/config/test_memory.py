"""What tstk may take of the memory: the variable, or what is free within the limits of container and process."""

import sys

import numpy as np
import pytest

from tstk.config import memory
from tstk.config.memory import format_size, get_available_memory, limit_allocations
from tstk.errors import OptionError


@pytest.mark.parametrize(
    ("text", "size"),
    [("500", 500), ("2k", 2048), ("1.5M", 1.5 * 2**20), ("8G", 2**33), ("8 GiB", 2**33), ("1T", 2**40)],
)
def test_the_variable_takes_sizes_with_and_without_a_unit(monkeypatch, text, size):
    monkeypatch.setenv("TSTK_MEMORY", text)
    assert get_available_memory() == size


@pytest.mark.parametrize("text", ["much", "-1", "1X", "G", "1e9"])
def test_a_variable_that_is_no_size_is_refused_with_an_example(monkeypatch, text):
    monkeypatch.setenv("TSTK_MEMORY", text)
    with pytest.raises(OptionError, match=r"TSTK_MEMORY=.*such as 500M or 8G"):
        get_available_memory()


@pytest.mark.parametrize(
    ("size", "text"), [(12, "12 bytes"), (2_340, "2.3 kB"), (450_000_000, "450 MB"), (3e12, "3.0 TB")]
)
def test_sizes_are_written_with_a_unit(size, text):
    assert format_size(size) == text


def test_the_cache_of_files_counts_as_free_in_a_container(tmp_path, monkeypatch):
    monkeypatch.delenv("TSTK_MEMORY", raising=False)
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    for name, text in (("max", "5000000"), ("current", "4000000"), ("stat", "anon 1\ninactive_file 3000000")):
        (tmp_path / f"memory.{name}").write_text(f"{text}\n")
    assert get_available_memory() == 4_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert get_available_memory() != 4_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="the addresses of a process are known on Linux alone")
def test_an_allocation_beyond_what_is_free_fails_inside_the_limit_alone(monkeypatch):
    import resource

    import torch

    monkeypatch.setenv("TSTK_MEMORY", "1G")
    before = resource.getrlimit(resource.RLIMIT_AS)
    with limit_allocations():
        np.empty(2**28, np.uint8)
        with pytest.raises(MemoryError):
            np.empty(2**33, np.uint8)
        with pytest.raises(RuntimeError, match=r"not enough memory|can't allocate memory"):
            torch.empty(2**33, dtype=torch.uint8)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
