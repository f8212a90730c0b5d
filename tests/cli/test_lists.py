"""The commands list, show, config, data and plugins, as text and as JSON."""

import json
import tomllib

import pytest

from tests.support.grids import slow_after
from tstk.cli import cli
from tstk.plugins.hooks import KINDS, Entry
from tstk.plugins.registry import Plugin, get_registry


def test_every_command_has_a_help_page_that_ends_with_examples_of_itself(tstk):
    def walk(command, words):
        if hasattr(command, "commands"):
            for name, inner in command.commands.items():
                yield from walk(inner, [*words, name])
        else:
            yield words

    for entry in get_registry().list_entries("command"):
        for words in walk(get_registry().load(entry), [entry.name]):
            result = tstk(*words, "--help")
            assert result.exit_code == 0, result.output
            assert f"$ tstk {' '.join(words)}" in result.stdout.rpartition("Examples:")[2]


def test_the_group_lists_commands_with_their_summaries(tstk):
    text = tstk("--help").stdout
    assert all(e.name in text and e.summary in text for e in get_registry().list_entries("command"))


def test_a_command_of_a_plugin_is_called_like_our_own(tstk, tmp_path, monkeypatch):
    (tmp_path / "greeting_cli.py").write_text(
        "import click\n@click.command()\n@click.argument('name')\ndef command(name):\n    click.echo('Hello ' + name)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    entry = Entry("command", "greet", "greeting_cli:command", "Greet someone")
    monkeypatch.setitem(get_registry()._table, ("command", "greet"), [entry])
    assert tstk("greet", "you").stdout == "Hello you\n"
    assert "Greet someone" in tstk("--help").stdout


@pytest.mark.parametrize("kind", slow_after(1, ["losses", "encoder", "Readers"]))
def test_a_list_takes_a_kind_in_singular_or_plural(tstk, kind):
    one = {"losses": "loss", "Readers": "reader"}.get(kind, kind.lower())
    names = [e["name"] for e in json.loads(tstk("list", kind, "--json").stdout)]
    assert names == get_registry().list_names(one)
    assert all(name in tstk("list", kind).stdout for name in names)


def test_a_list_without_a_kind_is_of_everything(tstk):
    found = {(e["kind"], e["name"]) for e in json.loads(tstk("list", "--json").stdout)}
    assert found == {(e.kind, e.name) for e in get_registry().list_entries()}
    assert tstk("list").exit_code == 0


def test_an_unknown_kind_is_an_error_with_a_suggestion(refused):
    assert "Did you mean 'decoder'?" in refused("list", "decodr")
    assert all(tstk_kind in refused("list", "zzz") for tstk_kind in KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_everything_that_has_a_name_can_be_shown(tstk, kind):
    for entry in get_registry().list_entries(kind):
        result = tstk("show", entry.kind, entry.name)
        assert result.exit_code == 0, result.output
        assert entry.summary in result.stdout
        assert entry.paper in result.stdout
        assert json.loads(tstk("show", entry.kind, entry.name, "--json").stdout)["name"] == entry.name


def test_show_has_options_with_defaults_and_an_example_that_works(tstk):
    text = tstk("show", "head", "cot").stdout
    row = next(line for line in text.splitlines() if line.startswith("tokens "))
    assert row.split()[:3] == ["tokens", "int", "8"]
    assert "needs:     num_outputs" in text
    words = text.rpartition("try:")[2].split()
    assert tstk(*words[1:]).exit_code == 0


def test_show_of_an_unknown_name_suggests(refused):
    assert "Did you mean 'bert'?" in refused("show", "encoder", "brt")


def test_a_config_can_be_shown_copied_and_trained_from(tstk, refused, tmp_path):
    (tmp_path / "a.toml").write_text('# mine\n[encoder]\nuse = "identity"\n')
    assert tstk("config", "show", "a.toml").stdout == (tmp_path / "a.toml").read_text()
    assert tstk("config", "copy", "a.toml", "b.toml").exit_code == 0
    assert (tmp_path / "b.toml").read_text() == (tmp_path / "a.toml").read_text()
    assert "b.toml: already exists" in refused("config", "copy", "a.toml", "b.toml")
    assert "No config is called 'zzz'" in refused("config", "show", "zzz")
    values = tomllib.loads(tstk("train", "--config", "b.toml", "--print-config").stdout)
    assert values["encoder"]["use"] == "identity"


def test_data_sets_are_listed_and_reported_on(tstk, npz, csv):
    assert "har-demo" in [row["name"] for row in json.loads(tstk("data", "list", "--json").stdout)]
    facts = json.loads(tstk("data", "info", npz, "--json").stdout)
    assert facts["parts"]["test"]["size"] == 12
    text = tstk("data", "info", npz).stdout
    assert "class 2" in text
    assert "forecasting" in tstk("data", "info", csv, "--context", 20, "--horizon", 5).stdout


def test_data_info_says_each_thing_once(tstk, tmp_path):
    result = tstk("data", "info", "har-demo")
    assert result.output.count("held out from the training split") == 1
    assert result.output.count("body_acc_x") == 1
    assert result.output.count("128") == 1, "all series have this length"
    assert "length:     128 samples each" in result.stdout
    (tmp_path / "ragged.csv").write_text("id,x\na,1\na,2\na,3\nb,4\nb,5\nc,6\nc,7\n")
    ragged = tstk("data", "info", "ragged.csv").stdout
    assert "samples, shortest" in ragged
    assert "3 samples at most" in ragged


def test_data_sets_are_converted_and_never_overwritten(tstk, refused):
    written = tstk("data", "convert", "har-demo", "har.npz").stdout
    assert written == "har.npz: X_train 252 x 9 x 128\nhar.npz: X_test 108 x 9 x 128\n"
    assert json.loads(tstk("data", "info", "har.npz", "--json").stdout)["parts"]["test"]["size"] == 108
    assert "har.npz: already exists" in refused("data", "convert", "har-demo", "har.npz")
    assert "Did you mean 'har-demo'?" in refused("data", "convert", "har-dmo", "new")


def test_data_info_refuses_what_train_would_refuse(refused, npz):
    message = "--context 96 and --horizon 5 take 101 rows, and there are 16 in the longest series"
    assert message in refused("data", "info", npz, "--horizon", 5)
    assert message in refused("train", "--data", npz, "--horizon", 5, "--head", "forecast", "--out", "run")


@pytest.mark.slow
def test_plugins_are_listed_with_everything_broken(tstk, monkeypatch):
    broken = Plugin("ghost", "tstk-ghost", "0.1", "ghost.plugin", error="ModuleNotFoundError: No module named 'boo'")
    heavy = Plugin("lead", "tstk-lead", "0.2", "lead.plugin", load_ms=900.0, imports_torch=True)
    monkeypatch.setattr(get_registry(), "plugins", [*get_registry().plugins, broken, heavy])
    result = tstk("plugins", "list")
    assert result.exit_code == 0
    assert "broken" in next(line for line in result.stdout.splitlines() if "tstk-ghost" in line)
    assert "No module named 'boo'" in result.stderr
    assert "tstk-lead: imports torch" in result.stderr
    rows = {row["plugin"]: row for row in json.loads(tstk("plugins", "list", "--json").stdout)}
    assert rows["tstk-ghost"]["error"].startswith("ModuleNotFoundError")
    assert rows["tstk-lead"]["heavy"] is True
    assert "tstk-ghost" not in tstk("list").output


def test_the_version_is_that_of_the_distribution(tstk):
    from importlib.metadata import version

    assert version("tstk-core") in tstk("--version").stdout


def test_names_are_listed_without_importing_their_commands():
    import click

    with click.Context(cli) as ctx:
        stand_in = cli.get_command(ctx, "train")
        assert stand_in.callback is None
        assert cli.resolve_command(ctx, ["train"])[1].callback is not None
