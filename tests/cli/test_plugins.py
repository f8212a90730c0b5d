"""`tstk plugins`: what authors and the curious see."""

import json


def test_check_counts_and_says_what_failed(tstk, monkeypatch):
    from tstk.testing import case as kit

    def fails(plugin):
        raise AssertionError("it is too loud")

    monkeypatch.setattr(kit, "COMPONENT", ())
    monkeypatch.setattr(kit, "KIND", {})
    assert tstk("plugins", "check", "tstk").stdout == "3 checks: 3 passed\n"
    monkeypatch.setattr(kit, "PLUGIN", (*kit.PLUGIN, fails))
    result = tstk("plugins", "check", "tstk")
    assert result.exit_code == 1
    assert "plugin:fails" in result.stdout
    assert "it is too loud" in result.stdout
    assert result.stdout.endswith("4 checks: 3 passed, 1 failed\n")
    states = [row["state"] for row in json.loads(tstk("plugins", "check", "tstk", "--json").stdout)]
    assert states.count("failed") == 1


def test_check_of_an_unknown_plugin_suggests(refused):
    assert "Did you mean 'tstk'?" in refused("plugins", "check", "tsk")
