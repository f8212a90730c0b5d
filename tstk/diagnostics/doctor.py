"""What this machine offers tstk, and what is broken: a list of findings, each with the remedy where something is wrong.

Every check stands in a try of its own, so that whatever is broken, the others still answer.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from tstk.errors import did_you_mean
from tstk.plugins.distribution import CORE, distribution_of, install_command

EXTRAS = {
    "hf": "encoder hf: any Hugging Face encoder",
    "parquet": ".parquet files",
    "plot": "reports, codebooks and diagrams as pictures",
    "triton": "fast kernels on NVIDIA GPUs",
    "tensorboard": "--track tensorboard: curves while a run trains",
    "wandb": "--track wandb: the same at Weights & Biases",
    "mlflow": "--track mlflow: the same in MLflow",
    "download": "tstk data fetch: public data sets by name",
    "aeon": "the estimators as aeon's",
    "onnx": "tstk export to .onnx",
    "bench": "the peers that make bench compares kernels with",
}
"""Extra -> what it brings."""
VARIABLES = ("CACHE", "DATA", "KERNELS", "OFFLINE", "PLUGINS", "STRICT")
LOW = 1 << 30
"""Bytes of disk or memory below which a run may not finish."""


@dataclass(frozen=True)
class Finding:
    """One line.

    Args:
        about: which part of the machine
        name: what was looked at
        value: what was found
        remedy: what to do, if it is broken; empty if it is not
    """

    about: str
    name: str
    value: str
    remedy: str = ""


def examine() -> list[Finding]:
    """All findings; those with a remedy are faults."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _versions,
        _torch,
        _cores,
        _extras,
        _plugins,
        _kernels,
        _variables,
        _data,
        _room,
        _places,
    )
    found: list[Finding] = []
    for check in checks:
        try:
            found += check()
        except Exception as e:  # what is broken here must not hide the rest
            about = check.__name__.strip("_")
            why = " ".join(f"{type(e).__name__}: {e}".split())
            found.append(Finding(about, "failed", why, f"mend what the message names, or install {CORE} again"))
    return found


def _versions() -> Iterator[Finding]:
    from tstk.diagnostics.plugin_checks import installed_version, unmet

    yield Finding("versions", "python", f"{platform.python_version()} in {sys.prefix}")
    yield Finding("versions", "system", platform.platform())
    lacking = unmet("tstk")
    for name in (CORE, "torch", "numpy", "scipy", "scikit-learn", "accelerate", "safetensors"):
        version = installed_version(name)
        if not version:
            yield Finding("versions", name, "is not installed", f"pip install {name}")
        elif all(name != u.name for u in lacking):
            yield Finding("versions", name, version)
    for u in lacking:
        value = f"{u.installed} is installed" if u.installed else "is not installed"
        yield Finding("versions", u.name, f"{value}, and {CORE} needs {u.need}", f"pip install '{u.need}'")
    if stray := installed_version("tstk"):
        yield Finding(
            "versions",
            "tstk",
            f"the distribution tstk {stray} is another project's, or an old copy; its files and those of {CORE} mix",
            f"pip uninstall tstk, then pip install --force-reinstall --no-deps {CORE}",
        )


def _torch() -> Iterator[Finding]:
    try:
        import numpy
        import torch
    except Exception as e:
        why = " ".join(f"{type(e).__name__}: {e}".split())
        yield Finding("torch", "import", why, "install torch again: pip install --force-reinstall torch")
        return
    info = torch.__config__.show()
    blas = info.partition("BLAS_INFO=")[2].partition(",")[0] or "unknown"
    theirs = numpy.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]
    yield Finding("torch", "blas", f"torch: {blas}; numpy: {theirs}")
    yield Finding("torch", "threads", f"{torch.get_num_threads()} of {_usable()} usable cores")
    if torch.get_num_threads() > _usable():
        yield Finding(
            "torch", "threads", "more than there are cores, which is slow", f"set OMP_NUM_THREADS={_usable()}"
        )
    built = torch.version.cuda or torch.version.hip
    if built and not torch.cuda.is_available():
        yield Finding("torch", "cuda", f"torch was built for CUDA {built}, and no device answers; runs use the CPU")
    for at in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(at)
        free = torch.cuda.mem_get_info(at)[0]
        yield Finding("torch", f"cuda:{at}", f"{about.name}, {_size(free)} of {_size(about.total_memory)} free")
        one = torch.ones(64, 64, device=f"cuda:{at}")
        if float((one @ one).sum()) != 64**3:
            yield Finding("torch", f"cuda:{at}", "multiplies wrongly", "check the driver: nvidia-smi")
    if not torch.cuda.device_count():
        yield Finding("torch", "devices", "cpu alone")


def _cores() -> Iterator[Finding]:
    yield Finding("machine", "cores", f"{os.cpu_count()}, {_usable()} of them usable here")


def _usable() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _extras() -> Iterator[Finding]:
    from tstk.diagnostics.plugin_checks import unmet

    for extra, brings in EXTRAS.items():
        lacking = unmet("tstk", extra)
        for u in lacking:
            if u.installed:
                value = f"{u.installed} is installed, and {brings} needs {u.need}"
                yield Finding("extras", u.name, value, install_command(extra))
        if not lacking:
            yield Finding("extras", extra, f"installed: {brings}")
        elif not all(u.installed for u in lacking):
            yield Finding("extras", extra, f"would bring {brings}: {install_command(extra)}")


def _plugins() -> Iterator[Finding]:
    from tstk.diagnostics.plugin_checks import burdens, faults
    from tstk.plugins.registry import registry

    for plugin in registry().plugins:
        wrong = faults(plugin) if plugin.dist != "tstk" else []
        if plugin.error and plugin.dist == "tstk":
            wrong = [plugin.error]
        if not wrong:
            yield Finding("plugins", plugin.dist, f"{plugin.version}, {len(plugin.entries)} entries")
        for fault in wrong:
            dist = distribution_of(plugin.dist)
            named = f"pip install --force-reinstall {dist}, or pip uninstall {dist}"
            yield Finding("plugins", plugin.dist, fault.partition(": pip install")[0], named)
        for burden in burdens(plugin):
            yield Finding("plugins", plugin.dist, f"{burden}; tell its author")


def _kernels() -> Iterator[Finding]:
    import_module("tstk.kernels")
    from tstk.kernels.dispatch import OPERATIONS, wish

    for name, operation in OPERATIONS.items():
        said = [f"{b.name}: {why}" if (why := b.absent()) else b.name for b in operation.backends.values()]
        yield Finding("kernels", name, "; ".join(said))
        wanted = wish(name)
        if wanted == "auto":
            continue
        backend = operation.backends.get(wanted)
        why = f"there is no backend {wanted!r}" if backend is None else backend.absent()
        if why:
            yield Finding("kernels", name, f"TSTK_KERNELS asks for {wanted}: {why}", "unset TSTK_KERNELS")


def _variables() -> Iterator[Finding]:
    known = [f"TSTK_{name}" for name in VARIABLES]
    for name, value in sorted(os.environ.items()):
        if name in known:
            yield Finding("variables", name, value)
        elif name.startswith("TSTK_") and (
            hint := did_you_mean(name, known)
        ):  # plugins may have variables of their own
            yield Finding("variables", name, "means nothing to tstk", f"unset {name}.{hint}")


def _data() -> Iterator[Finding]:
    from tstk.data.catalog import available

    root = os.environ.get("TSTK_DATA")
    if not root:
        yield Finding("data", "TSTK_DATA", "not set: only the embedded set has a name")
    elif not Path(root).is_dir():
        yield Finding("data", "TSTK_DATA", f"{root} is no folder", "set it to a folder with data sets, or unset it")
    else:
        yield Finding("data", "TSTK_DATA", f"{root}: {len(available(root)) - 1} data sets")


def _room() -> Iterator[Finding]:
    free = shutil.disk_usage(Path.cwd()).free
    remedy = "" if free >= LOW else "remove what is not needed, or work elsewhere"
    yield Finding("room", "disk", f"{_size(free)} free in {Path.cwd()}", remedy)
    memory = _memory()
    if memory is not None:
        remedy = "" if memory >= LOW else "end other programs, or train on smaller batches"
        yield Finding("room", "memory", f"{_size(memory)} free", remedy)


def _memory() -> int | None:
    """Free bytes, within the limit of a container; None where nobody says."""
    free = []
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free.append(int(lines["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        return None
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # no container, or one without a limit
        free.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return min(free)


def _places() -> Iterator[Finding]:
    from tstk.data.download import cache

    for name, place in (("runs", Path("runs")), ("cache", cache())):
        why = _unwritable(place)
        remedy = {"runs": "work in another folder, or name one with --out", "cache": "set TSTK_CACHE to one that can"}
        yield Finding(
            "places",
            name,
            f"{place.absolute()}: {why or 'can be written'}",
            remedy[name] if why else "",
        )


def _unwritable(place: Path) -> str:
    """Why no file can be made in a folder that is there, or would be made; empty if one can."""
    while not place.exists() and place.parent != place:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            return ""
    except OSError as e:
        return f"cannot be written ({e.strerror})"


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB"
