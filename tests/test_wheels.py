"""tstk and every plugin of the repository as wheels, in a separate environment: what users install is complete.

The wheels are built without network or build isolation. The environment sees the libraries of this one (torch and the
rest), but of tstk and its plugins only the wheels.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from tempfile import gettempdir

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
PROJECTS = {"tstk": ROOT, **{f"tstk-plugins-{p.name}": p for p in sorted((ROOT / "plugins").iterdir())}}


def run(*words, **variables):
    """Run a command outside the repository; return what it prints."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "TSTK_DATA")} | variables
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, cwd=gettempdir(), env=environment)
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def _ignore_all_but_sources(source):
    """Ignore build products, and files at the top that are not part of the package, for `shutil.copytree`."""
    products = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
    beside = {"plugins", "tests", "runs"}
    return lambda folder, names: products(folder, names) | (beside if Path(folder) == Path(source) else set())


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Return the interpreter of an environment with the wheels."""
    folder = tmp_path_factory.mktemp("wheels")
    for name, source in PROJECTS.items():
        # building leaves traces in the source
        shutil.copytree(source, folder / "sources" / name, ignore=_ignore_all_but_sources(source))
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    offline = ("--no-deps", "--no-index")
    sources = [folder / "sources" / name for name in PROJECTS]
    run(*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", folder / "dist", *sources)
    venv.create(folder / "env", with_pip=False)
    inside = folder / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    site = Path(run(inside, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    run(*pip, "install", *offline, "--target", site, *sorted((folder / "dist").glob("*.whl")))
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")  # whose own .pth files are not followed
    return inside


WHOLE = """
import sys
from contextlib import suppress
from unittest import SkipTest
from tstk.testing import list_cases
CHECKS = {
    "imports_no_torch", "configures_existing_cases", "is_of_its_slot", "documents_its_options", "is_resolvable",
    "has_valid_stages", "is_a_command",
}
count = 0
for dist in sys.argv[1:]:
    for case in list_cases(dist):
        if case.check.__name__ in CHECKS:
            with suppress(SkipTest):
                case()
                count += 1
print(count)
"""
"""The checks that see whether modules, configs and recipes are in a wheel; the others are run from the source."""


def test_each_wheel_is_whole_in_an_environment_of_its_own(python):
    code = "import tstk, tstk_plugins_timae; print(tstk.__file__, tstk_plugins_timae.__file__)"
    assert all(str(python.parent.parent) in path for path in run(python, "-c", code).split())
    plugins = [name for name in PROJECTS if name != "tstk"]
    assert int(run(python, "-c", WHOLE, *plugins, OMP_NUM_THREADS="1")) > 10 * len(plugins)


def test_a_wheel_passes_the_whole_kit(python):
    said = run(python, "-m", "tstk", "plugins", "check", "tstk-plugins-timemae", OMP_NUM_THREADS="1")
    assert " checks: " in said
    assert "failed" not in said


def test_each_wheel_is_listed_with_its_version_and_licence_and_no_fault(python):
    rows = {row["plugin"]: row for row in json.loads(run(python, "-m", "tstk", "plugins", "list", "--json"))}
    assert rows.keys() >= PROJECTS.keys()
    for name in PROJECTS:
        burdens = [line for line in rows[name]["burdens"] if "s to import" not in line]  # it may be a crowded machine
        assert (rows[name]["faults"], burdens, rows[name]["licence"]) == ([], [], "Apache-2.0"), rows[name]
        assert rows[name]["version"]


def test_a_wheel_can_start_a_plugin_and_train_on_what_it_embeds(python, tmp_path):
    out = tmp_path / "waves"
    assert "tstk_plugins_waves/plugin.py" in run(python, "-m", "tstk", "plugins", "new", "waves", "--out", out)
    assert (out / ".github" / "workflows" / "tests.yml").is_file()
    words = ("train", "--encoder", "bert", "--head", "cot", "--dry-run")
    assert "finite gradient" in run(python, "-m", "tstk", *words, OMP_NUM_THREADS="1")


@pytest.mark.parametrize("kind", ["core", *(name.removeprefix("tstk-plugins-") for name in PROJECTS if name != "tstk")])
def test_a_run_of_each_wheel_goes_to_the_hub_and_comes_back_to_the_bit(python, tmp_path, kind):
    said = run(python, ROOT / "tests" / "support" / "hub_round_trip.py", kind, tmp_path).splitlines()
    assert sum(line.startswith("equal: ") for line in said) == len(said) == 6


OFFLINE = """
import socket, sys
def refused(*_):
    raise OSError("no network in this test")
socket.socket.connect = refused
from tstk.cli import main
sys.argv[1:] = sys.argv[1:] + ["--quiet"] * (sys.argv[1] == "train")
main()
"""


def test_the_pretrained_encoder_is_in_the_wheel_and_needs_no_network(python, tmp_path):
    locate = (
        "import tstk; from tstk.config.run_directory import resolve_run_dir; print(resolve_run_dir('pretrained/small'))"
    )
    code = f"{locate}; tstk.load('pretrained/small')"
    assert str(python.parent.parent) in run(python, "-c", code, OMP_NUM_THREADS="1")
    words = ("probe", "pretrained/small", "--data", "har-demo", "--pool", "statistics", "--param", "0.1", "--json")
    result = json.loads(run(python, "-c", OFFLINE, *words, OMP_NUM_THREADS="1"))
    assert result["results"][0]["accuracy"] > 0.7
    words = ("train", "--config", "finetune", "--init-from", "pretrained/small", "--data", "har-demo", "--steps", "1")
    run(python, "-c", OFFLINE, *words, "--device", "cpu", "--out", tmp_path / "tuned", OMP_NUM_THREADS="1")
    assert (tmp_path / "tuned" / "model.safetensors").is_file()
