"""Diagnostics of the installation: a list of findings, with a remedy for each fault.

Every check runs in its own try block, so that a broken package does not hide the results of the others.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from tstk.config.memory import format_size, get_available_memory
from tstk.errors import did_you_mean
from tstk.plugins.distribution import CORE_DISTRIBUTION, format_install_command, get_distribution

EXTRAS = {
    "hf": "encoder hf: any Hugging Face encoder",
    "edf": ".edf and .bdf files",
    "plot": "reports, codebook plots and diagrams",
    "triton": "fast kernels on NVIDIA GPUs",
    "tensorboard": "--trackers tensorboard: log to TensorBoard",
    "wandb": "--trackers wandb: log to Weights & Biases",
    "mlflow": "--trackers mlflow: log to MLflow",
    "aeon": "tstk.aeon: estimators for aeon",
    "onnx": "tstk export to .onnx",
    "lora": "--lora: low-rank updates of pretrained encoders",
    "tune": "tstk tune: search for options with Optuna",
    "bench": "third-party kernels that `make bench` compares with",
}
"""Optional extra -> what it adds."""
ENVIRONMENT_VARIABLES = ("CACHE", "DATA", "KERNELS", "MEMORY", "OFFLINE", "PLUGINS", "STRICT")
LOW_SPACE = 1 << 30
"""Free bytes of disk or memory below which a run may fail."""


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Args:
        category: group of checks
        name: what was checked
        value: what was found
        remedy: how to repair it; empty if it is not a fault
    """

    category: str
    name: str
    value: str
    remedy: str = ""


def run_diagnostics() -> list[Finding]:
    """Run all checks and return their findings; those with a remedy are faults."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _check_versions,
        _check_torch,
        _check_cores,
        _check_extras,
        _check_plugins,
        _check_kernels,
        _check_variables,
        _check_data,
        _check_free_space,
        _check_write_access,
    )
    findings: list[Finding] = []
    for check in checks:
        try:
            findings += check()
        except Exception as e:  # a failing check must not hide the others
            name = check.__name__.strip("_")
            reason = " ".join(f"{type(e).__name__}: {e}".split())
            findings.append(
                Finding(name, "failed", reason, f"fix the reported error, or reinstall {CORE_DISTRIBUTION}")
            )
    return findings


def _check_versions() -> Iterator[Finding]:
    from tstk.diagnostics.plugin_checks import find_unmet_requirements, get_installed_version

    yield Finding("versions", "python", f"{platform.python_version()} in {sys.prefix}")
    yield Finding("versions", "system", platform.platform())
    unmet = find_unmet_requirements("tstk")
    for name in (CORE_DISTRIBUTION, "torch", "numpy", "scipy", "scikit-learn", "accelerate", "safetensors"):
        version = get_installed_version(name)
        if not version:
            yield Finding("versions", name, "is not installed", f"pip install {name}")
        elif all(name != u.name for u in unmet):
            yield Finding("versions", name, version)
    for u in unmet:
        value = f"{u.installed} is installed" if u.installed else "is not installed"
        yield Finding(
            "versions", u.name, f"{value}; {CORE_DISTRIBUTION} needs {u.requirement}", f"pip install '{u.requirement}'"
        )
    if other_version := get_installed_version("tstk"):
        yield Finding(
            "versions",
            "tstk",
            f"the distribution tstk {other_version} is another project or an old copy; its files overlap with those of "
            f"{CORE_DISTRIBUTION}",
            f"pip uninstall tstk, then pip install --force-reinstall --no-deps {CORE_DISTRIBUTION}",
        )


def _check_torch() -> Iterator[Finding]:
    try:
        import numpy
        import torch
    except Exception as e:
        reason = " ".join(f"{type(e).__name__}: {e}".split())
        yield Finding("torch", "import", reason, "reinstall torch: pip install --force-reinstall torch")
        return
    blas = torch.__config__.show().partition("BLAS_INFO=")[2].partition(",")[0] or "unknown"
    numpy_blas = numpy.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]
    yield Finding("torch", "blas", f"torch: {blas}; numpy: {numpy_blas}")
    yield Finding("torch", "threads", f"{torch.get_num_threads()} of {_count_usable_cores()} usable cores")
    if torch.get_num_threads() > _count_usable_cores():
        yield Finding(
            "torch",
            "threads",
            "more threads than usable cores, which is slow",
            f"set OMP_NUM_THREADS={_count_usable_cores()}",
        )
    cuda_version = torch.version.cuda or torch.version.hip
    if cuda_version and not torch.cuda.is_available():
        yield Finding(
            "torch", "cuda", f"torch was built for CUDA {cuda_version}, but no device is available; runs use the CPU"
        )
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        free = torch.cuda.mem_get_info(index)[0]
        yield Finding(
            "torch", f"cuda:{index}", f"{device.name}, {format_size(free)} of {format_size(device.total_memory)} free"
        )
        ones = torch.ones(64, 64, device=f"cuda:{index}")
        if float((ones @ ones).sum()) != 64**3:
            yield Finding("torch", f"cuda:{index}", "wrong result of a matrix product", "check the driver: nvidia-smi")
    if not torch.cuda.device_count():
        yield Finding("torch", "devices", "CPU only")


def _check_cores() -> Iterator[Finding]:
    yield Finding("machine", "cores", f"{os.cpu_count()}, {_count_usable_cores()} usable by this process")


def _count_usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_extras() -> Iterator[Finding]:
    from tstk.diagnostics.plugin_checks import find_unmet_requirements

    for extra, feature in EXTRAS.items():
        unmet = find_unmet_requirements("tstk", extra)
        for u in unmet:
            if u.installed:
                value = f"{u.installed} is installed, but {feature} needs {u.requirement}"
                yield Finding("extras", u.name, value, format_install_command(extra))
        if not unmet:
            yield Finding("extras", extra, f"installed: {feature}")
        elif not all(u.installed for u in unmet):
            yield Finding("extras", extra, f"not installed; adds {feature}: {format_install_command(extra)}")


def _check_plugins() -> Iterator[Finding]:
    from tstk.diagnostics.plugin_checks import find_faults, find_import_costs, try_import
    from tstk.plugins.registry import discover_plugins, get_registry

    for plugin in get_registry().plugins:
        faults = find_faults(plugin) if plugin.dist != "tstk" else []
        if plugin.error and plugin.dist == "tstk":
            faults = [plugin.error]
        if not faults:
            yield Finding("plugins", plugin.dist, f"{plugin.version}, {len(plugin.entries)} entries")
        for fault in faults:
            dist = get_distribution(plugin.dist)
            remedy = f"pip install --force-reinstall {dist}, or pip uninstall {dist}"
            yield Finding("plugins", plugin.dist, fault.partition(": pip install")[0], remedy)
        for cost in find_import_costs(plugin):
            yield Finding("plugins", plugin.dist, f"{cost}; report it to the plugin's author")
    loaded = {plugin.dist for plugin in get_registry().plugins}
    for source in discover_plugins():
        if source.dist not in loaded:
            fault = try_import(source)
            value = f"{source.version}, not loaded because of TSTK_PLUGINS" + (f": {fault}" if fault else "")
            yield Finding("plugins", source.dist, value, f"pip uninstall {source.dist}" if fault else "")


def _check_kernels() -> Iterator[Finding]:
    import_module("tstk.kernels")
    from tstk.kernels.dispatch import OPERATIONS, get_requested_backend

    for name, operation in OPERATIONS.items():
        states = [f"{b.name}: {why}" if (why := b.why_not_selected()) else b.name for b in operation.backends.values()]
        yield Finding("kernels", name, "; ".join(states))
        requested = get_requested_backend(name)
        if requested == "auto":
            continue
        backend = operation.backends.get(requested)
        why = f"there is no backend {requested!r}" if backend is None else backend.why_unavailable()
        if why:
            yield Finding("kernels", name, f"TSTK_KERNELS selects {requested}: {why}", "unset TSTK_KERNELS")


def _check_variables() -> Iterator[Finding]:
    known = [f"TSTK_{name}" for name in ENVIRONMENT_VARIABLES]
    for name, value in sorted(os.environ.items()):
        if name in known:
            yield Finding("variables", name, value)
        elif name.startswith("TSTK_") and (
            hint := did_you_mean(name, known)
        ):  # other names may be variables of plugins
            yield Finding("variables", name, "is not a variable of tstk", f"unset {name}.{hint}")


def _check_data() -> Iterator[Finding]:
    from tstk.data.catalog import list_datasets

    root = os.environ.get("TSTK_DATA")
    if not root:
        yield Finding("data", "TSTK_DATA", "not set: only embedded data sets are found by name")
    elif not Path(root).is_dir():
        yield Finding("data", "TSTK_DATA", f"{root} is not a folder", "set it to a folder with data sets, or unset it")
    else:
        yield Finding("data", "TSTK_DATA", f"{root}: {len(list_datasets(root)) - 1} data sets")


def _check_free_space() -> Iterator[Finding]:
    free = shutil.disk_usage(Path.cwd()).free
    remedy = "" if free >= LOW_SPACE else "free disk space, or work in another folder"
    yield Finding("free space", "disk", f"{format_size(free)} free in {Path.cwd()}", remedy)
    memory = get_available_memory()
    if memory is not None:
        remedy = "" if memory >= LOW_SPACE else "close other programs, or use a smaller batch size"
        yield Finding("free space", "memory", f"{format_size(memory)} free", remedy)


def _check_write_access() -> Iterator[Finding]:
    from tstk.files import get_cache_dir

    for name, folder in (("runs", Path("runs")), ("cache", get_cache_dir())):
        why = _why_unwritable(folder)
        remedy = {
            "runs": "work in another folder, or name one with --out",
            "cache": "set TSTK_CACHE to a writable folder",
        }
        yield Finding("write access", name, f"{folder.absolute()}: {why or 'writable'}", remedy[name] if why else "")


def _why_unwritable(folder: Path) -> str:
    """Return why no file can be created in a folder, or in its nearest existing parent; "" if it can."""
    while not folder.exists() and folder.parent != folder:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as e:
        return f"not writable ({e.strerror})"
