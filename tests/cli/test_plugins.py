"""`tstk plugins`: list, check and new."""

import json
import subprocess
import sys

import pytest


def test_check_counts_and_says_what_failed(tstk, monkeypatch):
    from tstk.testing import case

    def fails(plugin):
        raise AssertionError("it is too loud")

    monkeypatch.setattr(case, "COMPONENT_CHECKS", ())
    monkeypatch.setattr(case, "CHECKS_BY_KIND", {})
    assert tstk("plugins", "check", "tstk").stdout == "3 checks: 3 passed\n"
    monkeypatch.setattr(case, "PLUGIN_CHECKS", (*case.PLUGIN_CHECKS, fails))
    result = tstk("plugins", "check", "tstk")
    assert result.exit_code == 1
    assert "plugin:fails" in result.stdout
    assert "it is too loud" in result.stdout
    assert "tstk/builtin/plugin.py" in result.stdout  # where to look
    assert result.stdout.endswith("4 checks: 3 passed, 1 failed\n")
    states = [row["state"] for row in json.loads(tstk("plugins", "check", "tstk", "--json").stdout)]
    assert states.count("failed") == 1


def test_check_of_an_unknown_plugin_suggests(refused):
    assert "Did you mean 'tstk'?" in refused("plugins", "check", "tsk")


def test_new_prints_the_files_and_the_next_commands_and_extends_a_plugin(tstk, tmp_path, refused):
    assert tstk("plugins", "new", "foam", "--kind", "head").exit_code == 0
    said = tstk("plugins", "new", "spray", "--kind", "kernel", "--into", "foam").stdout.splitlines()
    assert said[:2] == ["foam/tstk_plugins_foam/spray_kernel.py", "foam/tstk_plugins_foam/plugin.py"]
    assert said[-2:] == ["  tstk show kernel nearest_code/spray", "  tstk plugins check tstk-plugins-foam"]
    assert "give one of them" in refused("plugins", "new", "a", "--out", "b", "--into", "foam")


LATER = """
import tstk.plugins.registry
tstk.plugins.registry.INTERFACE_VERSION = 2
from tstk.cli import cli
cli(sys.argv[1:], prog_name="tstk")
"""


@pytest.mark.slow
def test_a_later_tstk_lists_plugins_of_interface_version_1_as_broken_and_keeps_its_own_parts():
    def later(*words):
        return subprocess.run([sys.executable, "-c", f"import sys{LATER}", *words], capture_output=True, text=True)

    rows = {row["plugin"]: row for row in json.loads(later("plugins", "list", "--json").stdout)}
    assert rows["tstk"]["error"] == ""
    others = {row["error"] for name, row in rows.items() if name.startswith("tstk-plugins-")}
    assert others == {"needs interface version 1, and this tstk has 2"}
    assert "needs interface version 1, and this tstk has 2" in later("plugins", "list").stderr
    assert "bert" in later("list", "encoders").stdout
