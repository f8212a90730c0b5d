"""Every tile configuration fits every supported GPU: kernels are compiled for them, without a GPU."""

import importlib.util
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from benchmarks.compile import ARCHITECTURES, OUT, find_faults, find_stale_entries, relocate

ROOT = Path(__file__).parents[2]
KNOWN = importlib.util.find_spec("triton") is not None

pytestmark = pytest.mark.skipif(not KNOWN or sys.platform != "linux", reason="Triton's compiler is not installed")

COMPILE = """
import json, sys
from benchmarks import compile as c
c.simulate_gpu({arch})
from tstk.kernels.nearest_code import triton as codes
from tstk.kernels.rope_attention import triton as attention
rows = list(c.compile_calls([call for op in c.OPERATIONS for call in c.list_largest_calls(op)], {arch}))
{change}
larger = c.compile_calls([call for call in c.list_largest_calls({op!r}) if call.key == {key}], {arch})
json.dump([rows, c.find_faults(rows), c.find_faults(larger)], open(sys.argv[1], "w"))
"""


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Where Triton keeps what these tests compile; TRITON_CACHE_DIR if that is set."""
    return os.environ.get("TRITON_CACHE_DIR") or str(tmp_path_factory.mktemp("triton"))


@pytest.fixture
def compiled(cache, tmp_path):
    """`compiled(arch)`: rows and faults of the largest programs, and faults after a change; in a process of its own."""

    def run(arch, op="", key=(), change=""):
        code = COMPILE.format(arch=arch, op=op or "nearest_code", key=key, change=change)
        environment = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "TSTK_KERNELS")}
        environment |= {"TRITON_CACHE_DIR": cache, "OMP_NUM_THREADS": "1"}
        out = tmp_path / "rows.json"
        command = [sys.executable, "-c", code, str(out)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
        if "is not defined for option 'gpu-name'" in done.stderr:
            pytest.skip(f"Triton's assembler does not know sm_{arch}")
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(out.read_text())

    return run


@pytest.mark.slow
def test_every_entry_of_the_tables_was_compiled_as_it_is_now_and_fits():
    page = json.loads(OUT.read_text())
    assert find_stale_entries(page) == [], "run `python -m benchmarks.compile`, then `python -m benchmarks.render`"
    assert {row["arch"] for row in page["rows"]} == set(ARCHITECTURES)
    assert find_faults(page["rows"]) == []


@pytest.mark.slow
def test_the_largest_programs_fit_the_smallest_gpu_and_one_made_larger_is_reported(compiled):
    change = 'codes.CONFIGS["search", 128] |= {"num_stages": 3}'
    rows, wrong, larger = compiled(89, "nearest_code", ("search", 128), change)
    assert {row["op"] for row in rows} == {"rope_attention", "nearest_code", "vector_quantize", "ricker_cwt"}
    assert {row["kernel"] for row in rows} >= {
        "_forward_kernel",
        "_backward_kernel",
        "_search_wide_kernel",
        "_losses_kernel",
        "_frames_matmul_kernel",
        "_transposed_matmul_kernel",
    }
    assert wrong == []
    assert larger
    assert all(
        fault.startswith("nearest_code._search_wide_kernel [search 128] float32, width 512, sm_89: ")
        for fault in larger
    )
    assert any("KiB of shared memory; there are 99" in fault for fault in larger)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_largest_programs_fit_every_gpu_and_take_what_the_stored_table_says(compiled, arch):
    change = "attention.CONFIGS[64, 128, 2] = (attention.TileConfig(64, 1), *attention.CONFIGS[64, 128, 2][1:])"
    rows, wrong, larger = compiled(arch, "rope_attention", (64, 128, 2), change)
    assert wrong == []
    assert any(fault.startswith("rope_attention._forward_kernel [64 128 2]") for fault in larger)
    page = json.loads(OUT.read_text())
    if page["triton"] == version("triton"):
        stored = [row | {"variant": ""} for row in page["rows"]]
        assert [row for row in rows if row | {"variant": ""} not in stored] == []


@pytest.mark.slow
def test_the_cache_for_a_gpu_holds_what_self_tests_launch(cache):
    code = """
from benchmarks import compile as c
c.simulate_gpu(90)
rows = list(c.compile_calls(c.list_self_tests("ricker_cwt"), 90))
print(*sorted({row["kernel"] for row in rows}))
"""
    environment = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "TSTK_KERNELS")}
    environment |= {"TRITON_CACHE_DIR": cache, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.stdout.split() == ["_frames_matmul_kernel", "_transposed_matmul_kernel"], done.stderr[-3000:]


@pytest.mark.slow
def test_a_changed_table_or_kernel_makes_the_stored_result_stale(monkeypatch):
    from tstk.kernels.ricker_cwt import triton

    page = json.loads(OUT.read_text())
    larger = triton.CONFIGS["frames", 64] | {"BLOCK_R": 128}
    monkeypatch.setitem(triton.CONFIGS, ("frames", 64), larger)
    assert [line for line in find_stale_entries(page) if f"ricker_cwt [frames 64] {larger!r} for sm_89" in line]
    page["digests"]["rope_attention"] = "another"
    assert "rope_attention: its kernels have changed" in find_stale_entries(page)


def test_what_does_not_fit_or_spills_is_named_with_the_limit():
    row = {"op": "o", "kernel": "k", "key": "64", "variant": "float32", "arch": 89, "shared": 100 * 1024}
    row |= {"local": 0, "tensor": 0}
    assert find_faults([row]) == ["o.k [64] float32, sm_89: 100 KiB of shared memory; there are 99"]
    assert find_faults([row | {"arch": 90}]) == []
    assert find_faults([row | {"arch": 100, "tensor": 600}]) == [
        "o.k [64] float32, sm_100: 600 columns of tensor memory; there are 512"
    ]
    assert find_faults([row | {"arch": 90, "local": 4000}]) == [
        "o.k [64] float32, sm_90: spills 4000 bytes per thread; at most 384"
    ]


def test_a_cache_that_was_copied_elsewhere_is_found_again(tmp_path):
    folder = tmp_path / "ABC"
    folder.mkdir()
    (folder / "__grp___k.json").write_text(json.dumps({"child_paths": {"_k.cubin": "/gone/ABC/_k.cubin"}}))
    assert relocate(tmp_path) == 1
    assert json.loads((folder / "__grp___k.json").read_text()) == {
        "child_paths": {"_k.cubin": str(folder / "_k.cubin")}
    }
