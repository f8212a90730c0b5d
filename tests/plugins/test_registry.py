"""Discovery of plugins: isolation, clashes, suggestions and selection."""

import signal
import sys
import threading
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

import tstk.builtin.plugin
from tstk.errors import TstkError, UnknownNameError
from tstk.plugins import import_watch, registry
from tstk.plugins.hooks import INTERFACE_VERSION, KINDS, Entry, hookimpl
from tstk.plugins.registry import PluginSource, Registry, discover_plugins, get_registry


def plugin(*entries, dist="tstk-plugins-mine", name="mine"):
    """A plugin that yields these entries, and raises an exception among them."""

    @hookimpl
    def tstk_entries():
        for entry in entries:
            if isinstance(entry, BaseException):
                raise entry
            yield entry

    module = ModuleType(f"{dist}.plugin")
    module.tstk_entries = tstk_entries
    return PluginSource(name, dist, "1.2", module.__name__, lambda: module)


def raising(error, dist="tstk-plugins-bad"):
    def load():
        raise error

    return PluginSource("bad", dist, "0.1", "bad.plugin", load)


def entry(name, kind="encoder", target="tstk.builtin.encoders.identity:Identity", **more):
    return Entry(kind, name, target, "Something", **more)


def core():
    return PluginSource("tstk", "tstk", "0", "tstk.builtin.plugin", lambda: tstk.builtin.plugin)


BROKEN = {
    "import error": (raising(ImportError("no module named waves")), "ImportError: no module named waves"),
    "exit at import": (raising(SystemExit(3)), "SystemExit: 3"),
    "another exit at import": (raising(BaseException("boom")), "BaseException: boom"),
    "an interrupt of its own at import": (raising(KeyboardInterrupt()), "KeyboardInterrupt"),
    "bug at import": (raising(ZeroDivisionError("division by zero")), "ZeroDivisionError"),
    "no hook": (
        PluginSource("bad", "tstk-plugins-bad", "0.1", "bad.plugin", lambda: ModuleType("bad")),
        "bad.plugin has no function tstk_entries marked with @tstk.hookimpl",
    ),
    "not an entry": (plugin("just text", dist="tstk-plugins-bad"), "'just text'; expected a tstk.Entry"),
    "wrong kind": (plugin(entry("x", kind="encoders"), dist="tstk-plugins-bad"), "Did you mean 'encoder'"),
    "a class as target": (
        plugin(entry("x", target=Registry), dist="tstk-plugins-bad"),
        "expected 'package.module:attr",
    ),
    "wrong interface version": (
        plugin(entry("x", interface_version=INTERFACE_VERSION + 1), dist="tstk-plugins-bad"),
        f"needs interface version {INTERFACE_VERSION + 1}, and this tstk has {INTERFACE_VERSION}",
    ),
    "raises half-way": (plugin(entry("half"), ValueError("oops"), dist="tstk-plugins-bad"), "ValueError: oops"),
    "exits half-way": (plugin(entry("half"), SystemExit(1), dist="tstk-plugins-bad"), "SystemExit: 1"),
}


def test_ctrl_c_at_the_import_of_a_plugin_ends_the_program_and_leaves_the_handler_as_it_was():
    handler = signal.getsignal(signal.SIGINT)

    def load():
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Registry([core(), PluginSource("slow", "tstk-plugins-slow", "1", "slow.plugin", load)])
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_plugin_that_is_imported_for_long_is_named_on_stderr(monkeypatch, capfd):
    monkeypatch.setattr(import_watch, "NOTICE_SECONDS", 0.01)
    announced = threading.Event()
    print_notice = import_watch._print_notice

    def notice(name):
        print_notice(name)
        announced.set()

    monkeypatch.setattr(import_watch, "_print_notice", notice)

    def load():
        assert announced.wait(60)
        return plugin(entry("late")).load()

    registry = Registry([PluginSource("slow", "tstk-plugins-slow", "1", "slow.plugin", load)])
    assert registry.list_names("encoder") == ["late"]
    assert "still importing the plugin tstk-plugins-slow" in capfd.readouterr().err


@pytest.mark.parametrize("error", [BaseException("boom"), SystemExit(2)], ids=repr)
def test_a_component_whose_import_exits_is_one_error(monkeypatch, error):
    def fail(name):
        raise error

    monkeypatch.setattr(registry, "import_module", fail)
    with pytest.raises(TstkError, match=f"encoder 'mine' of .* cannot be loaded from .*: {type(error).__name__}"):
        Registry([plugin(entry("mine"))]).load(Registry([plugin(entry("mine"))]).find("encoder", "mine"))


@pytest.mark.parametrize(("bad", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_becomes_a_row_and_the_others_load(bad, reason):
    registry = Registry([core(), bad, plugin(entry("mine"))])
    rows = {p.dist: p for p in registry.plugins}
    assert reason in rows["tstk-plugins-bad"].error
    assert rows["tstk-plugins-bad"].entries == []
    assert rows["tstk"].error == rows["tstk-plugins-mine"].error == ""
    assert registry.find("encoder", "mine").dist == "tstk-plugins-mine"
    assert registry.find("encoder", "identity").dist == "tstk"
    with pytest.raises(UnknownNameError, match="tstk-plugins-bad"):
        registry.find("encoder", "half")


@pytest.mark.parametrize(("bad", "reason"), BROKEN.values(), ids=BROKEN)
def test_strict_raises_what_went_wrong(bad, reason, monkeypatch):
    monkeypatch.setenv("TSTK_STRICT", "1")
    with pytest.raises(BaseException):  # noqa: B017, PT011
        Registry([bad])


def test_a_clash_is_an_error_when_the_short_name_is_used_and_qualified_names_work():
    registry = Registry([plugin(entry("wave"), dist="a"), plugin(entry("wave"), entry("sea"), dist="b", name="other")])
    with pytest.raises(UnknownNameError, match="use the qualified name: 'a/wave' or 'b/wave'"):
        registry.find("encoder", "wave")
    assert registry.find("encoder", "b/wave").dist == "b"
    assert registry.find("encoder", "sea").qualified_name == "b/sea"
    assert registry.list_names("encoder") == ["a/wave", "b/wave", "sea"]


def test_a_config_may_have_a_slash_in_its_name():
    table = Registry([plugin(entry("mine/pretrain", kind="config", target="mine:pretrain.toml"))])
    for name in ("mine/pretrain", "tstk-plugins-mine/mine/pretrain"):
        assert table.find("config", name).target == "mine:pretrain.toml"
    with pytest.raises(UnknownNameError, match="mine/pretrain"):
        table.find("config", "mine/pretrian")


def test_the_same_name_may_serve_several_kinds():
    registry = Registry([plugin(entry("wave"), entry("wave", kind="head"))])
    assert registry.find("encoder", "wave").kind == "encoder"
    assert registry.find("head", "wave").kind == "head"
    assert [e.kind for e in registry.list_entries()] == ["encoder", "head"]


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("encoder", "trasnformer", "Did you mean 'transformer'?"),
        ("encoder", "Bert", "Did you mean 'bert'?"),
        ("encoder", "cot", "'cot' is a head."),
        ("loss", "zzzzzz", "There are: cross-entropy, binary-cross-entropy"),
        ("encoder", "tstk-plugins-waves/sea", "pip install tstk-plugins-waves"),
    ],
)
def test_an_unknown_name_is_an_error_with_suggestions(kind, name, message):
    with pytest.raises(UnknownNameError) as caught:
        Registry([core()]).find(kind, name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_plugin_that_failed_is_mentioned_where_it_may_be_the_reason():
    registry = Registry([core(), raising(ImportError("no module named waves"))])
    with pytest.raises(UnknownNameError, match=r"failed to load: tstk-plugins-bad .*waves"):
        registry.find("encoder", "sea")


def test_loading_names_a_missing_package(monkeypatch, tmp_path):
    (tmp_path / "thirsty.py").write_text("import a_package_nobody_has.inside\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry([plugin(entry("dry", target="thirsty:Thing"))])
    with pytest.raises(TstkError) as caught:
        registry.load(registry.find("encoder", "dry"))
    assert "encoder 'dry' of tstk-plugins-mine" in str(caught.value)
    assert "pip install a_package_nobody_has" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(2)", "SystemExit"),
        ("x = 1", "AttributeError"),
        ("x x", "Syntax"),
    ],
)
def test_loading_says_what_else_went_wrong_and_where(monkeypatch, tmp_path, text, reason):
    (tmp_path / f"broken_{reason}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry([plugin(entry("b", target=f"broken_{reason}:Thing"))])
    with pytest.raises(TstkError, match=f"encoder 'b' of tstk-plugins-mine cannot be loaded.*{reason}"):
        registry.load(registry.find("encoder", "b"))


def test_discovery_imports_no_component():
    registry = Registry([plugin(entry("ghost", target="nowhere.at.all:Thing"))])
    assert registry.list_names("encoder") == ["ghost"]
    assert "nowhere" not in sys.modules


def test_every_core_entry_has_a_known_kind_a_summary_and_a_name_in_lower_case():
    entries = Registry([core()]).list_entries()
    assert len(entries) > 20
    for e in entries:
        assert e.kind in KINDS
        assert e.summary
        assert e.name == e.name.lower()
        assert " " not in e.name


def test_an_entry_is_found_again_from_its_class():
    registry = Registry([core()])
    e = registry.find("encoder", "identity")
    assert registry.find_entry_of(registry.load(e)) == e
    assert registry.find_entry_of(Registry) is None


def test_providers_are_those_that_say_so():
    registry = Registry([plugin(entry("a", provides=frozenset({"causal"})), entry("b"))])
    assert registry.find_providers("encoder", "causal") == ["a"]


@pytest.fixture
def points(monkeypatch):
    """An environment with the core and two plugins installed."""

    class Point(metadata.EntryPoint):
        @property
        def dist(self):
            name = "tstk-core" if self.name == "tstk" else f"tstk-plugins-{self.name}"
            return type("Dist", (), {"name": name, "version": "1"})

    entry_points = [Point(name, f"{name}.plugin", "tstk") for name in ("waves", "apes")]
    entry_points.insert(1, Point("tstk", "tstk.builtin.plugin", "tstk"))
    monkeypatch.setattr(registry.metadata, "entry_points", lambda group: entry_points)


@pytest.mark.parametrize(
    ("value", "dists"),
    [
        (None, ["tstk", "tstk-plugins-apes", "tstk-plugins-waves"]),
        ("none", ["tstk"]),
        ("waves", ["tstk", "tstk-plugins-waves"]),
        ("tstk-plugins-apes, waves", ["tstk", "tstk-plugins-apes", "tstk-plugins-waves"]),
    ],
)
def test_a_selection_chooses_the_plugins_and_the_core_always_comes_first(points, value, dists):
    assert [s.dist for s in discover_plugins(value)] == dists


def test_the_variable_selects_what_the_registry_loads(points, monkeypatch):
    monkeypatch.setenv("TSTK_PLUGINS", "waves")
    assert [p.dist for p in Registry().plugins] == ["tstk", "tstk-plugins-waves"]


def test_the_registry_of_the_process_has_the_core():
    assert get_registry() is get_registry()
    assert get_registry().find("tokenizer", "patch").dist == "tstk"


def test_the_core_keeps_its_names_and_a_plugin_of_the_same_name_is_reached_by_its_own():
    registry = Registry([core(), plugin(entry("identity"), dist="a")])
    assert registry.find("encoder", "identity").dist == "tstk"
    assert registry.find("encoder", "a/identity").dist == "a"
    assert {"identity", "a/identity"} <= set(registry.list_names("encoder"))


def test_a_plugin_of_another_interface_version_is_refused_and_core_parts_still_load(monkeypatch):
    unstated, stated = plugin(entry("old")), plugin(entry("new", interface_version=2), dist="b", name="b")
    here = Registry([core(), unstated, stated])
    assert [p.error for p in here.plugins[1:]] == ["", "needs interface version 2, and this tstk has 1"]
    monkeypatch.setattr(registry, "INTERFACE_VERSION", 2)
    later = Registry([core(), unstated, stated])
    assert [p.error for p in later.plugins] == ["", "needs interface version 1, and this tstk has 2", ""]
    assert later.find("encoder", "identity").qualified_name == "tstk/identity"


def test_every_plugin_and_every_template_states_its_interface_version(monkeypatch):
    templates = [p.read_text() for p in (Path(registry.__file__).parents[1] / "templates").rglob("plugin.py")]
    assert templates
    assert all(text.count("interface_version=1") == text.count("yield Entry(") for text in templates)
    monkeypatch.setattr(Entry.__init__, "__defaults__", (frozenset(), "", None, ""))  # no default
    assert "needs interface version None" in Registry([plugin(entry("silent"))]).plugins[0].error
    assert {p.error for p in Registry().plugins if p.dist.startswith("tstk")} == {""}
