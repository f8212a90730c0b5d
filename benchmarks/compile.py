"""Compilation of every Triton kernel for GPUs that are not installed: `python -m benchmarks.compile`.

Functions are called as on a GPU, but Triton's driver is replaced by a stub: kernels are compiled to machine
code for the architecture that the stub reports, and never launched. Their resource usage (registers, shared memory,
local memory) is read from the machine code and compared with the limits of that GPU.

Each architecture is compiled in a separate process, as the stub and the tables of tile sizes are global. With
`--cache`, Triton's cache is filled for a machine with such a GPU.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tokenize
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

SHARED = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
"""KiB of shared memory that one program may have (A100, RTX 3090, RTX 4090, H100, B200, RTX 5090)."""
ARCHITECTURES = (80, 89, 90, 100)
TENSOR = 512
"""Columns of tensor memory of GPUs with compute capability 10.0 or higher."""
LOCAL = 384
"""Limit of local memory in bytes per thread; a kernel that spills more is slow."""
OPERATIONS = ("rope_attention", "nearest_code", "vector_quantize", "ricker_cwt")
KERNELS = Path(__file__).parents[1] / "tstk" / "kernels"
OUT = Path(__file__).parent / "results" / "compiled.json"

Row = dict[str, Any]
"""A compiled kernel: its call, and its resource usage."""
Page = dict[str, Any]
"""Stored result: rows, Triton's version, and a digest of the kernels of each operation."""


class Call(NamedTuple):
    """A call that compiles kernels.

    Args:
        op: the operation's folder
        key: the entry of its table of tile sizes that the call looks up; empty if kernels have fixed sizes
        variant: types, and what else the code depends on
        run: makes the call
    """

    op: str
    key: tuple[Any, ...]
    variant: str
    run: Callable[[], object]

    def __str__(self) -> str:
        return f"{self.op} {format_key(self.key)} {self.variant}"


def format_key(key: Iterable[Any]) -> str:
    """Return a table key as text."""
    return " ".join(map(str, key))


# ---------------------------------------------------------------- what is compiled


def list_calls(op: str, full: bool = False) -> list[Call]:
    """Return calls that together look up every entry of an operation's tables, forward and backward.

    Args:
        full: all types, causal or not, padded or not, at each entry; else two of these combinations, which differ in
            everything
    """
    return {
        "rope_attention": _list_attention_calls,
        "nearest_code": _list_search_calls,
        "vector_quantize": _list_quantizer_calls,
        "ricker_cwt": _list_wavelet_calls,
    }[op](full)


def _list_attention_calls(full: bool) -> list[Call]:
    import torch

    from tstk.kernels.rope_attention import rope_attention
    from tstk.kernels.rope_attention.triton import CONFIGS

    def run(tokens: int, width: int, dtype: torch.dtype, causal: bool, padded: bool) -> None:
        packed = torch.zeros(2, tokens, 3, 3, width, dtype=dtype).permute(2, 0, 3, 1, 4)
        q, k, v = (x.detach().requires_grad_() for x in packed)
        angles = 2 * (torch.zeros(1 + padded, 1, tokens, width // 2),)
        valid = torch.ones(2, tokens, dtype=torch.bool) if padded else None
        out = rope_attention(q, k, v, angles, valid=valid, causal=causal)
        out.backward(torch.zeros_like(out))

    half, flags = (torch.bfloat16, torch.float16), [(False, False), (True, True), (True, False), (False, True)]
    calls = []
    for key in CONFIGS:
        keys, width, size = key
        types = half if size == 2 else (torch.float32,)
        if full:
            variants = [(dtype, *flag) for dtype in types for flag in flags]
        else:
            variants = [(types[0], *flags[0]), (types[-1], *flags[1])]
        for dtype, causal, padded in variants:
            # where there is padding, neither the tokens nor the width fill their tiles, and 64 stands for several tiles
            tokens = keys + (64 if keys == 64 else 0) - 1
            shape = (tokens, width - width // 4 if width > 16 else width) if padded else (keys, width)
            variant = ", ".join([_short(dtype), *["causal"] * causal, *["padded"] * padded])
            args = *shape, dtype, causal, padded
            calls.append(Call("rope_attention", key, variant, lambda a=args: run(*a)))
    for dtype in (*half, torch.float32):  # rows that are long: rotated in one pass
        for width in (16, 48, 128) if full else (48, 128):
            args = 600, width, dtype, False, False
            calls.append(Call("rope_attention", (), f"{_short(dtype)}, width {width}", lambda a=args: run(*a)))
    return calls


def _list_search_calls(full: bool) -> list[Call]:
    import torch

    from tstk.kernels.nearest_code import nearest_code
    from tstk.kernels.nearest_code.triton import CONFIGS, MIN_PROGRAMS

    def search(rows: int, width: int, dtype: torch.dtype) -> None:
        for num_codes in (48, 4800) if rows < 480 else (48,):  # with many codes, and few rows, in splits
            nearest_code(torch.zeros(rows, width, dtype=dtype), torch.zeros(num_codes, width))

    types, calls = (torch.float32, torch.bfloat16, torch.float16), []
    for key in CONFIGS:
        kernel, block = key
        widths = {10: (8, 10, 3), 20: (16, 13, 20), 32: (32, 24), 64: (64, 48)}
        widths[128] = (128, 65, 100, 256, 512, 1000)
        for i, width in enumerate(widths[block] if full or block == 128 else widths[block][:2]):
            for dtype in types if full else types[i % 2 :: 2]:
                rows = 64 * MIN_PROGRAMS if kernel == "search" else 480
                args = (rows if i % 2 == 0 else rows - 3, width, dtype)
                calls.append(Call("nearest_code", key, f"{_short(dtype)}, width {width}", lambda a=args: search(*a)))
    return calls


def _list_quantizer_calls(full: bool) -> list[Call]:
    import torch

    from tstk.kernels.vector_quantize import LossOptions, vector_quantize
    from tstk.kernels.vector_quantize.triton import CONFIGS

    def run(width: int, dtype: torch.dtype, ragged: bool) -> None:
        rows = 480 - 3 * ragged
        z, codes = torch.zeros(rows, width, dtype=dtype), torch.zeros(48 + ragged, width)
        valid = torch.ones(rows, dtype=torch.bool) if ragged else None
        out = vector_quantize(
            z.requires_grad_(), codes.requires_grad_(not ragged), LossOptions(entropy=0.1), valid=valid
        )
        loss = out.values.sum() + out.commitment + out.codebook + out.entropy
        (loss + out.mean_probs.sum() if ragged else loss).backward()

    types, calls = (torch.float32, torch.bfloat16, torch.float16), []
    for key in CONFIGS:
        if key[0] == "backward":  # the forward's calls launch it too
            continue
        widths = {10: (8, 10, 3), 20: (16, 13, 20), 32: (32, 24), 64: (64, 48)}[key[1]]
        for i, width in enumerate(widths if full else widths[:2]):
            for dtype in types if full else types[i : i + 1]:
                variant = ", ".join([_short(dtype), f"width {width}", *["masked"] * (i % 2)])
                args = width, dtype, bool(i % 2)
                calls.append(Call("vector_quantize", key, variant, lambda a=args: run(*a)))
    return calls


def _list_wavelet_calls(full: bool) -> list[Call]:
    import torch

    from tstk.kernels.ricker_cwt import ricker_cwt
    from tstk.kernels.ricker_cwt.triton import CONFIGS

    def run(scales: Sequence[float], samples: int, patch: tuple[int, int] | None) -> None:
        x = torch.zeros(4, samples, requires_grad=True)
        ricker_cwt(x, scales, patch=patch).sum().backward()

    # columns of a level: as many as the patches have numbers, or 16 where a level smooths first
    shapes = {16: ([0.5, 9.0], 200, (1, 10)), 32: ([0.5], 96, None), 64: ([0.5, 1.5], 97, None)}
    shapes |= {128: ([0.5, 1.0, 1.5, 1.7], 96, None)}
    calls = [
        Call("ricker_cwt", key, f"{len(shapes[key[1]][0])} scales", lambda a=shapes[key[1]]: run(*a))
        for key in CONFIGS
        if key[0] == "transposed"  # the forward looks up the others
    ]
    wide = [0.1 + i for i in range(64)], 1000
    more = [(*wide, None), (*wide, (4, 50)), (*wide, (64, 1000))] if full else [(*wide, (4, 50))]
    for args in more:
        calls.append(Call("ricker_cwt", (), f"64 scales, patch {args[2]}", lambda a=args: run(*a)))
    return calls


def list_self_tests(op: str) -> list[Call]:
    """Return the self-tests of an operation, which a process runs before any other call on a GPU."""
    import torch

    from tstk.kernels import self_test

    return [Call(op, (), op, lambda: getattr(self_test, f"check_{op}")(torch.device("cpu")))]


def _short(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def list_largest_calls(op: str) -> list[Call]:
    """Return the calls with the largest programs, the first to exceed a limit."""
    largest = {
        "rope_attention": [((64, 128, 2), "float16, causal, padded")],
        "nearest_code": [(("search", 128), "float32, width 512")],
        "vector_quantize": [(("forward", 64), "float32, width 64")],
        "ricker_cwt": [(("transposed", 128), "4 scales")],
    }[op]
    return [call for call in list_calls(op) if (call.key, call.variant) in largest]


# ---------------------------------------------------------------- how


def simulate_gpu(arch: int) -> None:
    """Make Triton assume a GPU of this architecture; cannot be undone in this process."""
    if os.environ.get("TRITON_INTERPRET", "0") != "0":
        raise RuntimeError("with TRITON_INTERPRET nothing is compiled")
    import torch
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    class Driver:
        """The part of a driver that compilation uses."""

        @staticmethod
        def get_current_target() -> GPUTarget:
            return GPUTarget("cuda", arch, 32)

        get_current_device = staticmethod(lambda: 0)
        get_current_stream = staticmethod(lambda device: 0)
        get_active_torch_device = staticmethod(lambda: torch.device("cpu"))

    driver.set_active(Driver())
    from tstk.kernels import dispatch, tuning

    tuning.get_compute_capability = lambda: f"{arch // 10}.{arch % 10}"
    dispatch.is_triton_interpreted = lambda: True  # registers the kernels for CPU tensors
    modules = [import_module(f"tstk.kernels.{op}.triton") for op in OPERATIONS]
    for module in modules:
        vars(module)["is_triton_interpreted"] = lambda: False  # but compiles them as for a GPU
    vars(modules[0])["attend"] = lambda q, k, v, *args, **options: q + k + v  # torch's attention is not ours to compile


def compile_calls(calls: Iterable[Call], arch: int, log: Callable[[str], object] = lambda line: None) -> Iterator[Row]:
    """Yield a row for each kernel that the calls compile. Call `simulate_gpu` first."""
    import torch
    from triton.runtime.jit import JITFunction

    run, rows, seen = JITFunction.run, [], set()
    tables = {op: LastKeyTable(import_module(f"tstk.kernels.{op}.triton").CONFIGS) for op in OPERATIONS}
    call: Call

    def record(self: Any, *args: Any, grid: Any, warmup: bool = False, **options: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        for x in args:
            if isinstance(x, torch.Tensor) and x.dtype == torch.int64:
                x.zero_()  # indices that were not computed are used all the same
        key = tables[call.op].last
        if (kernel.hash, key) not in seen:
            seen.add((kernel.hash, key))
            sizes = repr(tables[call.op].get(key))
            row = {
                "op": call.op,
                "kernel": self.__name__,
                "key": format_key(key),
                "sizes": sizes,
                "variant": call.variant,
            }
            rows.append(row | {"arch": arch} | read_resource_usage(kernel))
        return kernel

    JITFunction.run = record
    for op, table in tables.items():
        import_module(f"tstk.kernels.{op}.triton").CONFIGS = table
    from tstk.kernels import use_backend

    try:
        with use_backend("triton"):
            for call in calls:
                tables[call.op].last, begin, before = (), time.process_time(), len(rows)
                try:
                    call.run()
                except Exception as error:
                    raise RuntimeError(f"{call} does not compile for sm_{arch}: {error}") from error
                log(f"sm_{arch} {call}: {time.process_time() - begin:.1f} s, {len(rows) - before} kernels")
                yield from rows[before:]
    finally:
        JITFunction.run = run


class LastKeyTable(dict[Any, Any]):
    """Dict that records the last key looked up."""

    last: tuple[Any, ...] = ()

    def __getitem__(self, key: Any) -> Any:
        self.last = key
        return super().__getitem__(key)


def read_resource_usage(kernel: Any) -> Row:
    """Return registers and local bytes per thread, and shared bytes per program, of a compiled kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        tool = Path(import_module("triton").__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        result = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True)
    match = re.search(r"REG:(\d+) STACK:(\d+)", result.stdout + result.stderr)
    if not match:
        raise RuntimeError(f"cuobjdump reports no registers: {result.stdout}{result.stderr}")
    return {
        "registers": int(match[1]),
        "local": int(match[2]),
        "shared": kernel.metadata.shared,
        "warps": kernel.metadata.num_warps,
        "tensor": getattr(kernel.metadata, "tmem_size", None) or 0,
    }


def find_faults(rows: Iterable[Row]) -> list[str]:
    """Return one line per kernel that exceeds a limit of its architecture."""
    faults = []
    for row in rows:
        kernel = "{op}.{kernel} [{key}] {variant}, sm_{arch}".format(**row)
        if row["shared"] > (limit := SHARED[row["arch"]] * 1024):
            faults.append(f"{kernel}: {row['shared'] / 1024:.0f} KiB of shared memory; there are {limit // 1024}")
        if row["tensor"] > TENSOR:
            faults.append(f"{kernel}: {row['tensor']} columns of tensor memory; there are {TENSOR}")
        if row["local"] > LOCAL:
            faults.append(f"{kernel}: spills {row['local']} bytes per thread; at most {LOCAL}")
    return faults


def digest(op: str) -> str:
    """Return a digest of the kernels' source, without comments and blank lines, and of those that they import."""
    import ast

    skipped = tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT
    checksum = hashlib.sha256()
    for folder in ("nearest_code", op) if op == "vector_quantize" else (op,):
        text = (KERNELS / folder / "triton.py").read_text(encoding="utf-8")
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef) and node.decorator_list:
                tokens = tokenize.generate_tokens(io.StringIO(ast.get_source_segment(text, node) or "").readline)
                checksum.update(" ".join(token.string for token in tokens if token.type not in skipped).encode())
    return checksum.hexdigest()[:16]


def find_stale_entries(page: Page) -> list[str]:
    """Return table entries for which the stored rows are missing or outdated."""
    stale = []
    for op in OPERATIONS:
        if page["digests"].get(op) != digest(op):
            stale.append(f"{op}: its kernels have changed")
        rows = {(row["arch"], row["key"], row["sizes"]) for row in page["rows"] if row["op"] == op}
        for key, sizes in import_module(f"tstk.kernels.{op}.triton").CONFIGS.items():
            stale += [
                f"{op} [{format_key(key)}] {sizes!r} for sm_{arch}"
                for arch in ARCHITECTURES
                if (arch, format_key(key), repr(sizes)) not in rows
            ]
    return stale


# ---------------------------------------------------------------- the command


def run_in_subprocess(arch: int, *options: str, **variables: str) -> None:
    """Run this command for one architecture in a separate process."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | variables
    command = [sys.executable, "-m", "benchmarks.compile", "--only", str(arch), *options]
    subprocess.run(command, env=environment, cwd=KERNELS.parents[1], check=True)


def compile_for(arch: int, *options: str) -> list[Row]:
    """Compile for one architecture and return its rows."""
    with tempfile.TemporaryDirectory() as folder:
        run_in_subprocess(arch, *options, "--out", f"{folder}/rows.json")
        rows: list[Row] = json.loads(Path(folder, "rows.json").read_text())
        return rows


def relocate(folder: Path) -> int:
    """Rewrite the paths in a Triton cache that was copied from another folder; return its number of kernels.

    Triton stores absolute paths of a kernel's files, and ignores a kernel whose files do not exist.
    """
    groups = list(folder.glob("*/__grp__*.json"))
    for path in groups:
        page = json.loads(path.read_text())
        files = {file: str(path.parent / file) for file in page["child_paths"]}
        if files != page["child_paths"]:
            path.write_text(json.dumps(page | {"child_paths": files}))
    return len(groups)


def fill_cache(operations: Sequence[str], arch: int) -> None:
    """Compile the kernels that the self-tests and the benchmark cases need on a GPU. Call `simulate_gpu` first."""
    from benchmarks.harness import bind_inputs

    def run(case: Any) -> None:
        inputs = case.inputs(0, "cpu")
        for label, contender in case.contenders.items():
            if label.startswith("tstk") and "torch" not in label:
                bind_inputs(case, contender.prepare(*inputs), inputs)()

    calls = [call for op in operations for call in list_self_tests(op)]
    for _ in compile_calls(calls, arch, lambda line: print(line, flush=True)):
        pass
    for op in operations:
        grid = "quantizer_step" if op == "vector_quantize" else op
        cases = import_module(f"benchmarks.test_{grid}").list_cases(False, "cuda")
        calls = [Call(op, (), str(case), lambda case=case: run(case)) for case in cases if case.op == grid]
        for _ in compile_calls(calls, arch, lambda line: print(line, flush=True)):
            pass


def merge_pages(before: Page, page: Page) -> Page:
    """Return the stored result with the rows of some operations replaced."""
    if before["triton"] != page["triton"]:
        raise SystemExit(
            f"the others were compiled by Triton {before['triton']}, these by {page['triton']}: compile all"
        )
    others = [row for row in before["rows"] if row["op"] not in page["digests"]]
    rows = sorted(others + page["rows"], key=lambda row: OPERATIONS.index(row["op"]))
    return {"triton": page["triton"], "digests": before["digests"] | page["digests"], "rows": rows}


def main() -> int:
    """Compile, write the resource usage, and report kernels that exceed a limit; return 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.compile")
    parser.add_argument("operations", nargs="*", default=OPERATIONS, metavar="OPERATION", help=", ".join(OPERATIONS))
    parser.add_argument("--arch", nargs="+", type=int, default=ARCHITECTURES, help="compute capabilities, such as 89")
    parser.add_argument("--full", action="store_true", help="every type, causal and padded or not; takes half an hour")
    parser.add_argument("--quick", action="store_true", help="only the largest programs")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="fill Triton's cache there with what the benchmarks need"
    )
    parser.add_argument("--relocate", type=Path, metavar="DIR", help="make a cache usable that was copied to DIR")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.relocate:
        print(f"{relocate(args.relocate.resolve())} kernels in {args.relocate}")
        return 0
    if args.only:
        simulate_gpu(args.only)
        if args.cache:
            fill_cache(args.operations, args.only)
            return 0
        calls = [
            call
            for op in args.operations
            for call in (list_largest_calls(op) if args.quick else list_calls(op, args.full))
        ]
        rows = list(compile_calls(calls, args.only, lambda line: print(line, flush=True)))
        args.out.write_text(json.dumps(rows))
        return 0
    if args.cache:
        for arch in args.arch:
            place = str(args.cache.resolve())
            run_in_subprocess(
                arch, *args.operations, "--cache", place, TRITON_CACHE_DIR=place, TRITON_STORE_BINARY_ONLY="1"
            )
        return 0
    options = [*args.operations, *["--full"] * args.full, *["--quick"] * args.quick]
    page = {"triton": version("triton"), "digests": {op: digest(op) for op in args.operations}}
    page["rows"] = [row for arch in args.arch for row in compile_for(arch, *options)]
    if set(args.operations) < set(OPERATIONS) and args.out.exists():
        page = merge_pages(json.loads(args.out.read_text()), page)
    rows = page["rows"]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(map(json.dumps, rows))
    args.out.write_text(json.dumps(page | {"rows": []}).replace('"rows": []', f'"rows": [\n{lines}\n]') + "\n")
    print(f"{len(rows)} kernels", *(found := find_faults(rows)), sep="\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
