"""Results on disk: one JSON file per operation, rewritten after each case so that interrupted runs keep theirs."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Case, Record

FORMAT = 1
ROOT = Path(__file__).parents[1]
PACKAGES = ["torch", "triton", "numpy", "faiss-cpu", "vector-quantize-pytorch", "ptwt", "PyWavelets", "flash-attn"]
PACKAGES += ["liger-kernel"]
VARIABLES: tuple[str, ...] = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "KMP_AFFINITY", "GOMP_CPU_AFFINITY", "TSTK_KERNELS")
VARIABLES += ("ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "FAISS_SIMD_LEVEL")


class Results:
    """Records of one run, stored in a folder.

    Args:
        folder: folder for the files; None stores nothing
        run: name of the run; processes with the same name share its files, another name replaces them
    """

    def __init__(self, folder: str | Path | None, run: str = "") -> None:
        self.folder = Path(folder) if folder else None
        self.run = run or f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        self._environment = describe_environment() if folder else {}

    def __contains__(self, case: Case) -> bool:
        """Return whether this run has already measured a case."""
        return any(table["case"] == str(case) for table in self._tables(case.op))

    def add(self, record: Record) -> None:
        """Store the record of a case, unless our contender was not timed."""
        if self.folder is None or not record.tables:
            return
        tables = self._tables(record.case.op) + record.tables
        page = {"format": FORMAT, "run": self.run, "environment": self._environment, "tables": tables}
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{record.case.op}.json"
        path.with_suffix(".part").write_text(json.dumps(page, indent=1) + "\n")
        path.with_suffix(".part").replace(path)

    def _tables(self, op: str) -> list[dict[str, Any]]:
        if self.folder is None or not (path := self.folder / f"{op}.json").exists():
            return []
        page = json.loads(path.read_text())
        if page["run"] != self.run:
            return []
        if (then := page["environment"]["commit"]) != (now := self._environment["commit"]):
            raise ValueError(f"run {self.run!r} began at commit {then}, but this is {now}; use another run name")
        return page["tables"]


def describe_environment() -> dict[str, Any]:
    """Return the environment that timings depend on besides the code."""
    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: installed for name in PACKAGES if (installed := _version(name))},
        "processor": _processor(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "gpu": gpu and gpu.name,
        "cuda": torch.version.cuda,
    }


def _commit() -> str:
    if commit := os.environ.get("COMMIT"):
        return commit
    try:
        revision = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=ROOT, capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return revision.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    if (table := Path("/proc/cpuinfo")).exists():
        for line in table.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
