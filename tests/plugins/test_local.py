"""Classes without a plugin: how they are named, found by import path and described, and what is refused."""

import sys
from pathlib import Path

import pytest

import tstk
from tstk.builtin.encoders.identity import Identity
from tstk.errors import CheckpointError, OptionError, UnknownNameError
from tstk.plugins.hooks import SLOTS
from tstk.plugins.local import (
    ImportPath,
    hash_source,
    mark_import_path,
    provide_components,
    register_component,
    require_components,
)
from tstk.plugins.registry import get_registry
from tstk.plugins.signature import read_signature

MINE = Path(__file__).parents[1] / "support" / "mine.py"


@pytest.fixture
def imported_module(monkeypatch):
    """The module of a user, imported by its plain name."""
    monkeypatch.syspath_prepend(MINE.parent)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    import mine

    yield mine
    del sys.modules["mine"]


@pytest.mark.parametrize("kind", SLOTS)
def test_a_class_of_every_slot_is_named_after_itself(kind):
    base = getattr(tstk, kind.capitalize())

    class Own(base):
        """My own."""

    assert register_component(kind, Own) == "Own"
    entry = get_registry().find(kind, "Own")
    assert entry == get_registry().find(kind, "local/Own")
    assert (entry.qualified_name, entry.summary) == ("local/Own", "My own.")
    assert get_registry().load(entry) is Own
    assert Own.display_name() == f"{kind} 'Own'"


def test_the_decorator_gives_a_name_that_the_class_keeps():
    @tstk.register("encoder", "mine")
    class Own(tstk.Encoder):
        provides = ("causal",)

    assert register_component("encoder", Own) == "mine"
    assert "mine" in tstk.list_components("encoder")
    assert "mine" in get_registry().find_providers("encoder", "causal")


def test_a_class_that_is_defined_again_replaces_the_earlier_one():
    def define(depth):
        class Own(tstk.Encoder):
            def __init__(self, spec, *, layers: int = depth):
                super().__init__(spec)

        return Own

    for depth in (1, 2):
        register_component("encoder", define(depth))
        assert read_signature(get_registry().find("encoder", "Own").target).options["layers"].default == depth
    assert tstk.list_components("encoder").count("Own") == 1


def test_a_component_of_a_plugin_keeps_its_name():
    assert register_component("encoder", Identity) == "tstk/identity"


def test_a_name_of_a_plugin_is_shared_by_qualified_names_and_one_of_the_core_is_refused(monkeypatch):
    entry = tstk.Entry("encoder", "wave", "waves:Wave", "A wave", dist="tstk-plugins-waves")
    monkeypatch.setitem(get_registry()._table, ("encoder", "wave"), [entry])

    class Own(tstk.Encoder):
        pass

    assert register_component("encoder", Own, "wave") == "local/wave"
    assert get_registry().find("encoder", "tstk-plugins-waves/wave") == entry
    with pytest.raises(OptionError, match=r"'bert' is a component of the core; register yours by another name"):
        register_component("encoder", Own, "bert")


@pytest.mark.parametrize(
    ("kind", "component", "name", "message"),
    [
        ("encodr", tstk.Encoder, "", "there is no slot 'encodr'. Did you mean 'encoder'"),
        ("head", tstk.Encoder, "", "head Encoder: expected a class derived from tstk.Head"),
        ("encoder", dict, "", "encoder dict: expected a class derived from tstk.Encoder"),
        ("encoder", len, "", "encoder len: expected a class derived from tstk.Encoder"),
        ("encoder", tstk.Encoder, "a/b", "'a/b': a name has letters"),
        ("encoder", ImportPath("nowhere.py:Own"), "", "nowhere.py:Own: there is no file nowhere.py"),
        ("encoder", ImportPath("nowhere_at_all:Own"), "", "there is no module 'nowhere_at_all'"),
        ("encoder", ImportPath(f"{MINE}:Nobody"), "", "defines no class or function 'Nobody'"),
        ("head", ImportPath(f"{MINE}:Layer"), "", "expected a class derived from tstk.Head"),
    ],
)
def test_what_is_no_component_is_refused_in_one_line(kind, component, name, message):
    with pytest.raises(OptionError) as caught:
        register_component(kind, component, name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_import_path_is_read_without_importing_and_brings_what_its_module_registers(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    assert register_component("encoder", ImportPath(f"{MINE}:Layer")) == "Layer"
    assert register_component("head", ImportPath(f"{MINE}:Wide")) == "wide-head"
    assert get_registry().find("loss", "smooth").target == "mine:Smooth"
    assert "width" in read_signature(get_registry().find("encoder", "Layer").target).options
    assert "mine" not in sys.modules
    cls = get_registry().load(get_registry().find("head", "wide-head"))
    assert cls.__name__ == "Wide"
    assert get_registry().find("head", "wide-head").target is cls  # importing it ran the decorator
    del sys.modules["mine"]


def test_a_file_whose_name_another_module_has_is_refused(tmp_path):
    (tmp_path / "json.py").write_text(MINE.read_text())
    before = list(sys.path)
    with pytest.raises(OptionError, match=r"Python already has a module 'json', .*; rename the file"):
        register_component("encoder", ImportPath(f"{tmp_path}/json.py:Layer"))
    assert sys.path == before  # or every later import of json would find this file


@pytest.mark.parametrize("text", ["bert", "tstk/bert", "runs/a", "./runs/a", "C:\\runs\\a", "cwtmae/tiny", ":A", "a:"])
def test_a_name_or_a_run_is_no_import_path(text):
    assert type(mark_import_path(text)) is str


@pytest.mark.parametrize("text", ["mine:Own", "./my.py:Own", "/home/me/my.py:Own", "package.module:Own"])
def test_an_import_path_is_recognised(text):
    assert isinstance(mark_import_path(text), ImportPath)


def test_an_import_path_that_was_not_typed_is_not_followed():
    with pytest.raises(UnknownNameError, match=r"followed only if it is typed: --encoder mine:Layer"):
        get_registry().find("encoder", "mine:Layer")


@pytest.mark.parametrize("name", ["Layer", "Wide", "Smooth"])
def test_the_signature_of_a_live_class_is_the_one_read_from_its_source(imported_module, name):
    assert read_signature(getattr(imported_module, name)) == read_signature(f"mine:{name}")


def test_the_hash_follows_the_methods_and_literals_of_a_class_and_not_its_place():
    def define(needs, bias):
        class Own(tstk.Encoder):
            def forward(self, tokens):
                return tokens

        Own.needs = needs
        if bias:
            Own.bias = lambda self: 0
        return Own

    same, changed, added = define(("causal",), False), define(("ordered",), False), define(("causal",), True)
    assert hash_source(same) == hash_source(define(("causal",), False))
    assert len({hash_source(c) for c in (same, changed, added)}) == 3
    namespace = {"tstk": tstk}
    exec("class Own(tstk.Encoder):\n    def forward(self, tokens):\n        return tokens", namespace)
    assert hash_source(namespace["Own"]) == ""


def test_a_class_inside_a_component_is_asked_for_and_given_by_its_path():
    class Own(tstk.Encoder):
        pass

    record = {"kind": "encoder", "name": "inside", "class": "Own", "module": "mine", "file": "", "sha256": ""}
    with pytest.raises(CheckpointError, match=r"give the class: tstk.load\('run', encoder__inner=CLASS\), or register"):
        require_components("run", {"encoder.inner": record})
    require_components("run", {"encoder.inner": record}, ("tokenizer",))
    provide_components("run", {"encoder.inner": record}, {"encoder__inner": Own})
    require_components("run", {"encoder.inner": record})
    assert get_registry().load(get_registry().find("encoder", "local/inside")) is Own


def test_options_of_a_live_class_that_cannot_be_read_are_refused_with_their_place():
    class Bare(tstk.Encoder):
        def __init__(self, spec, *, depth: int):
            super().__init__(spec)

    class Odd(tstk.Encoder):
        def __init__(self, spec, *, depth: dict | None = None):
            super().__init__(spec)

    class Computed(tstk.Encoder):
        def __init__(self, spec, *, depth: int = len):
            super().__init__(spec)

    class Unknown(tstk.Encoder):
        def __init__(self, spec, *, depth: "Nobody" = 1):  # noqa: F821
            super().__init__(spec)

    for cls, message in (
        (Bare, "'depth' needs an annotation and a default"),
        (Odd, r"has the type .*; expected int, float"),
        (Computed, "has the default <built-in function len>; expected a literal"),
        (Unknown, "has the type Nobody, which is not defined in"),
    ):
        with pytest.raises(OptionError, match=f"encoder {cls.__name__}: .*{message}"):
            register_component("encoder", cls)
