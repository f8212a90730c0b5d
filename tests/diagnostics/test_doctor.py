"""`tstk doctor` finds faults, prints remedies, and does not fail on a broken installation."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner

from tstk.cli import cli
from tstk.diagnostics import plugin_checks
from tstk.diagnostics.doctor import ENVIRONMENT_VARIABLES, EXTRAS, run_diagnostics
from tstk.plugins.registry import discover_plugins

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def plain(monkeypatch, tmp_path):
    for name in os.environ:
        if name.startswith("TSTK_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TSTK_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def faults(about):
    return [f for f in run_diagnostics() if f.remedy and f.category == about]


def test_every_extra_of_the_project_is_known_with_what_it_brings():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras.keys() - {"test", "dev"} == EXTRAS.keys()


@pytest.mark.slow
def test_each_part_of_the_machine_is_reported_and_nothing_is_written(tmp_path):
    found = run_diagnostics()
    assert {"versions", "torch", "machine", "extras", "plugins", "kernels", "data", "free space", "write access"} <= {
        f.category for f in found
    }
    assert [f for f in found if f.remedy and f.category not in ("plugins", "versions")] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "value", "about", "said"),
    [
        ("TSTK_DATA", "/nowhere", "data", "/nowhere is not a folder"),
        ("TSTK_CACHE", "/dev/null/cache", "write access", "not writable"),
        ("TSTK_OFLINE", "1", "variables", "is not a variable of tstk"),
    ],
)
def test_a_setting_that_cannot_work_is_a_fault_with_a_remedy(monkeypatch, variable, value, about, said):
    monkeypatch.setenv(variable, value)
    (fault,) = faults(about)
    assert said in fault.value
    assert fault.remedy


@pytest.mark.slow
def test_a_requested_backend_that_is_unavailable_is_a_fault(monkeypatch):
    import tstk.kernels

    with tstk.kernels.use_backend("nonsense"):
        assert "no backend 'nonsense'" in faults("kernels")[0].value


@pytest.mark.slow
def test_a_full_disk_is_a_fault(monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(5000))
    assert [f.name for f in faults("free space")] == ["disk"]


@pytest.mark.slow
def test_a_torch_that_cannot_be_imported_is_a_fault_and_hides_nothing_else(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert any(f.name == "import" for f in faults("torch"))
    assert {"plugins", "data", "write access"} <= {f.category for f in run_diagnostics()}


@pytest.mark.slow
def test_the_exit_code_says_whether_something_is_broken(monkeypatch):
    sound = CliRunner().invoke(cli, ["doctor", "--json"])
    found = json.loads(sound.stdout)
    assert sound.exit_code == (found["faults"] > 0)
    monkeypatch.setenv("TSTK_DATA", "/nowhere")
    broken = CliRunner().invoke(cli, ["doctor"])
    assert broken.exit_code == 1
    assert "Broken: data, TSTK_DATA: /nowhere is not a folder. set it" in broken.stdout


def install_plugin(folder, code):
    """Install a plugin `sick` with this source, and return the PYTHONPATH that finds it."""
    (folder / "sick").mkdir()
    (folder / "sick" / "__init__.py").write_text(code)
    info = folder / "sick-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sick\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tstk]\nsick = sick\n")
    return os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")])


HARMFUL = {
    "hangs": ("import time; time.sleep(600)", "was not imported within 2 s"),
    "ends the process": ("import os; os._exit(0)", "ends the process at import, with exit code 0"),
    "kills the process": ("import os; os.kill(os.getpid(), 9)", "ends the process at import, with exit code -9"),
    "raises": ("raise BaseException('boom')", "BaseException: boom"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("code", "fault"), HARMFUL.values(), ids=HARMFUL)
def test_a_plugin_that_takes_programs_down_is_found_without_importing_it_here(tmp_path, monkeypatch, code, fault):
    path = install_plugin(tmp_path, code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setattr(plugin_checks, "IMPORT_LIMIT_SECONDS", 2.0 if "within" in fault else 60.0)
    (source,) = [s for s in discover_plugins() if s.dist == "sick"]
    assert fault in plugin_checks.try_import(source)


@pytest.mark.slow
def test_without_plugins_the_doctor_runs_and_names_the_harmful_one(tmp_path):
    path = install_plugin(tmp_path, "import os; os._exit(7)")
    env = {**os.environ, "PYTHONPATH": path}
    doctor = [sys.executable, "-m", "tstk", "doctor"]
    assert subprocess.run(doctor, capture_output=True, env=env).returncode == 7  # it cannot be caught
    done = subprocess.run(doctor, capture_output=True, text=True, env={**env, "TSTK_PLUGINS": "none"})
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("Broken: plugins, sick")]
    assert "not loaded because of TSTK_PLUGINS: ends the process at import, with exit code 7. pip uninstall" in line


@pytest.mark.slow
def test_a_plugin_that_fails_to_load_is_named_with_its_reason(tmp_path):
    path = install_plugin(tmp_path, "raise RuntimeError('no luck')")
    done = subprocess.run(
        [sys.executable, "-m", "tstk", "doctor"], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 1, done.stderr
    assert "Broken: plugins, sick: failed to load: RuntimeError: no luck (" in done.stdout
    assert "sick/__init__.py:1). pip install --force-reinstall sick" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "version", "about", "needs", "remedy"),
    [
        ("scikit-learn", "1.4.0", "versions", "tstk-core needs scikit-learn>=1.6", "pip install 'scikit-learn>=1.6'"),
        ("torch", "2.6.0", "versions", "tstk-core needs torch>=2.9", "pip install 'torch>=2.9'"),
        ("transformers", "4.45.0", "extras", "encoder hf", "pip install 'tstk-core[hf]'"),
        ("onnxscript", "0.5.0", "extras", "tstk export to .onnx", "pip install 'tstk-core[onnx]'"),
    ],
)
def test_a_package_that_is_too_old_is_a_fault_that_says_for_what(package, version, about, needs, remedy, monkeypatch):
    installed = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: version if name == package else installed(name))
    (fault,) = (f for f in faults(about) if f.name == package)
    assert version in fault.value
    assert needs in fault.value
    assert fault.remedy == remedy


def test_an_extra_that_is_not_installed_is_no_fault(monkeypatch):
    def version(name):
        if name == "transformers":
            raise metadata.PackageNotFoundError(name)
        return "99"

    monkeypatch.setattr(metadata, "version", version)
    (line,) = (f for f in run_diagnostics() if f.name == "hf")
    assert (line.remedy, "pip install 'tstk-core[hf]'" in line.value) == ("", True)


@pytest.mark.slow
def test_the_project_of_the_same_name_is_a_fault(monkeypatch):
    installed = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.3" if name == "tstk" else installed(name))
    assert [f.remedy for f in faults("versions") if f.name == "tstk"] == [
        "pip uninstall tstk, then pip install --force-reinstall --no-deps tstk-core"
    ]


def test_every_variable_that_the_package_reads_is_known():
    text = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "tstk").rglob("*.py"))
    assert set(re.findall(r"(?<!_)TSTK_([A-Z]+)", text)) == set(ENVIRONMENT_VARIABLES)


@pytest.mark.slow
def test_the_memory_that_may_be_taken_is_shown_and_a_wrong_size_is_a_fault(monkeypatch):
    monkeypatch.setenv("TSTK_MEMORY", "3G")
    assert any(f.value == "3.2 GB free" for f in run_diagnostics() if f.name == "memory")
    monkeypatch.setenv("TSTK_MEMORY", "much")
    assert any("TSTK_MEMORY=much: expected a size" in f.value for f in run_diagnostics() if f.remedy)
