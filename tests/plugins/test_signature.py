"""A signature read from source equals that of the imported class, for every registered component and reader."""

import importlib
import inspect
import sys
import typing
from dataclasses import astuple, is_dataclass
from types import NoneType, UnionType

import pytest

from tstk.config.resolve import SECTIONS
from tstk.errors import OptionError, TstkError, UnknownNameError
from tstk.plugins.hooks import SLOTS
from tstk.plugins.location import find_source_file
from tstk.plugins.ranges import MaskingName
from tstk.plugins.registry import get_registry
from tstk.plugins.signature import Option, read_signature

TARGETS = {f"{e.kind} {e.name}": e.target for k in (*SLOTS, "reader") for e in get_registry().list_entries(k)}
TARGETS |= {f"[{name}]": target for name, target in SECTIONS.items()}
every = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


def load(target):
    """The class or function, and its signature."""
    module, _, name = target.partition(":")
    thing = getattr(__import__(module, fromlist=[name]), name)
    return thing, inspect.signature(thing)


def keyword_only(signature):
    return {n.rstrip("_"): p for n, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY}


@every
def test_names_and_defaults_are_those_of_the_imported_class(target):
    _, signature = load(target)
    want = {name: p.default for name, p in keyword_only(signature).items()}
    assert {name: o.default for name, o in read_signature(target).options.items()} == want


@every
def test_types_are_those_of_the_imported_class(target):
    thing, signature = load(target)
    names = vars(typing) | vars(sys.modules[thing.__module__])
    for name, parameter in keyword_only(signature).items():
        option, hint = read_signature(target).options[name], eval(parameter.annotation, names)
        union = isinstance(hint, UnionType) or typing.get_origin(hint) is typing.Union
        members = typing.get_args(hint) if union else (hint,)
        assert option.optional == (NoneType in members)
        if option.type == "reader":
            assert parameter.annotation.partition(" ")[0] == "Reader"
            continue
        (kind,) = [m for m in members if m is not NoneType]
        if option.is_tuple:
            kind = typing.get_args(kind)[0]
        if typing.get_origin(kind) is typing.Annotated:
            kind, *constraints = typing.get_args(kind)
            names_entry = (("NameOf", option.entry_kind),)
            assert tuple((type(c).__name__, *astuple(c)) for c in constraints) == (option.bounds or names_entry)
        if option.type == "choice":
            assert option.choices == typing.get_args(kind)
        else:
            assert kind.__name__.lower() == option.type


@pytest.mark.slow
@every
def test_every_option_is_explained_in_one_line(target):
    for name, option in read_signature(target).options.items():
        assert option.help, f"{name} has no line in Args:"
        assert "\n" not in option.help


@every
def test_defaults_survive_their_own_conversion(target):
    for option in read_signature(target).options.values():
        assert option.parse(option.default) == option.default


@pytest.mark.slow
@every
def test_a_component_takes_its_spec_and_nothing_else_by_position(target):
    thing, signature = load(target)
    if inspect.isclass(thing) and not is_dataclass(thing):
        positional = [p for p in signature.parameters.values() if p.kind is not p.KEYWORD_ONLY]
        assert [p.name for p in positional] == ["spec"]


@pytest.mark.slow
@every
def test_there_is_a_summary(target):
    assert read_signature(target).summary.strip()


def test_class_attrs_are_own_and_inherited():
    class_attrs = read_signature(TARGETS["loss masked"]).class_attrs
    assert class_attrs["needs"] == ("target_dim",)
    assert class_attrs["default_decoder"] == "transformer"
    assert class_attrs["consumes"] == "decoder"


SOURCE = '''
from __future__ import annotations
from dataclasses import dataclass
from typing import Annotated, Literal
from annotated_types import Gt, Le
from tstk.core.interfaces import Encoder
from tstk.plugins.ranges import PositiveInt

class Base:
    """A base.

    Args:
        depth: how deep; and more
            on a second line
        kind: which
        inner: a part
        start_from: where from
        sizes: some numbers
    """
    needs = ("vocab_size",)
    def __init__(self, spec, *, depth: int = 2, kind: Literal["a", "b"] | None = None, inner: Encoder = "bert",
                 start_from: "str | None" = None, sizes: tuple[int, ...] = (1, 2)) -> None: ...

class Child(Base):
    """A child."""
    needs = ("causal",)

class Grand(Child):
    def __init__(self, spec, *, width: float = 1.5) -> None: ...

class Ranged:
    def __init__(self, spec, *, depth: PositiveInt = 2, ratio: Annotated[float, Gt(0), Le(1)] | None = 1.0,
                 sizes: tuple[PositiveInt, ...] = (1,)) -> None: ...

@dataclass(frozen=True)
class Settings:
    """Fields.

    Args:
        epochs: passes
    """
    epochs: PositiveInt | None = None

class Untyped:
    def __init__(self, spec, *, depth=2): ...

class Bare:
    def __init__(self, spec, *, depth: int): ...

class Computed:
    def __init__(self, spec, *, depth: int = 1 + len("x")): ...

class Odd:
    def __init__(self, spec, *, depth: dict = None): ...

raise RuntimeError("imported")
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that must never be imported."""
    (tmp_path / "made_up.py").write_text(SOURCE)
    (tmp_path / "other.py").write_text("from made_up import Base as Root\nclass Far(Root):\n    '''Far.'''\n")
    monkeypatch.syspath_prepend(tmp_path)
    return "made_up"


def test_nothing_is_imported_to_be_read(module):
    options = read_signature("made_up:Base").options
    assert list(options) == ["depth", "kind", "inner", "start_from", "sizes"]
    assert options["depth"].help == "how deep; and more on a second line"
    assert options["kind"].choices == ("a", "b")
    assert options["kind"].optional
    assert options["inner"].is_component
    assert options["inner"].type == "encoder"
    assert options["start_from"].optional
    assert options["start_from"].help == "where from"
    assert options["sizes"].is_tuple


def test_a_constructor_is_inherited_and_the_nearest_one_wins(module):
    assert list(read_signature("made_up:Child").options) == list(read_signature("made_up:Base").options)
    assert list(read_signature("made_up:Grand").options) == ["width"]
    assert read_signature("made_up:Grand").class_attrs["needs"] == ("causal",)


def test_options_of_an_inherited_constructor_keep_the_help_of_the_class_that_documents_them():
    from tstk.builtin.losses.masked import Masked

    class Mine(Masked):
        """A masked loss of mine."""

    own, inherited = (read_signature(c) for c in (Masked, Mine))
    assert inherited.summary == "A masked loss of mine."
    assert {o.name: o.help for o in inherited.options.values()} == {o.name: o.help for o in own.options.values()}
    assert all(o.help for o in inherited.options.values())


def test_ranges_are_read_from_annotations_and_from_aliases_wherever_they_are_defined(module):
    options = read_signature("made_up:Ranged").options
    assert options["depth"].bounds == (("Ge", 1),)
    assert options["sizes"].is_tuple
    assert options["sizes"].bounds == (("Ge", 1),)
    assert options["ratio"].bounds == (("Gt", 0), ("Le", 1))
    assert options["ratio"].optional
    assert options["ratio"].parse("0.5") == 0.5
    for value in (0.0, 1.5):
        with pytest.raises(OptionError, match=f"ratio is {value}; expected float, more than 0 and 1 or less"):
            options["ratio"].parse(value)
    with pytest.raises(OptionError, match=r"sizes is 0; expected int,\.\.\., 1 or more"):
        options["sizes"].parse((4, 0))


def test_the_fields_of_a_dataclass_are_options(module):
    (option,) = read_signature("made_up:Settings").options.values()
    assert (option.name, option.type, option.optional, option.help) == ("epochs", "int", True, "passes")
    assert option.bounds == (("Ge", 1),)


def test_inheritance_is_followed_through_other_modules(module):
    assert list(read_signature("other:Far").options) == list(read_signature("made_up:Base").options)
    assert read_signature("other:Far").summary == "Far."


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Untyped", "'depth' needs an annotation and a default"),
        ("Bare", "'depth' needs an annotation and a default"),
        ("Computed", "expected a literal"),
        ("Odd", "has the type dict; expected int, float"),
        ("Nobody", "defines no class or function 'Nobody'"),
    ],
)
def test_what_cannot_be_an_option_is_refused_with_its_place(module, name, message):
    with pytest.raises(TstkError, match=message):
        read_signature(f"made_up:{name}")


def test_a_module_that_does_not_exist_is_named():
    with pytest.raises(TstkError, match="'nowhere_at_all' is not installed"):
        find_source_file("nowhere_at_all.inside")
    with pytest.raises(TstkError, match=r"no module 'tstk\.nowhere'"):
        find_source_file("tstk.nowhere")


INT, FLOAT, BOOL, TEXT = (Option("n", t) for t in ("int", "float", "bool", "str"))
CHOICE = Option("n", "choice", choices=("pre", "post"))
MANY = Option("n", "int", is_tuple=True)
MAYBE = Option("n", "int", optional=True)


@pytest.mark.parametrize(
    ("option", "value", "want"),
    [
        (INT, "12", 12),
        (INT, 3.0, 3),
        (INT, "1_000", 1000),
        (FLOAT, "1e-3", 1e-3),
        (FLOAT, 2, 2.0),
        (BOOL, "yes", True),
        (BOOL, "off", False),
        (BOOL, False, False),
        (TEXT, "12", "12"),
        (CHOICE, "post", "post"),
        (MANY, "1,2,3", (1, 2, 3)),
        (MANY, [4, 5], (4, 5)),
        (MAYBE, "none", None),
        (MAYBE, None, None),
        (MAYBE, "7", 7),
    ],
)
def test_text_and_native_values_become_the_type(option, value, want):
    got = option.parse(value)
    assert got == want
    assert type(got) is type(want)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        (INT, "two", "here is 'two'; expected int"),
        (INT, 2.5, "here is 2.5; expected int"),
        (INT, True, "expected int"),
        (INT, None, "here cannot be none"),
        (FLOAT, "fast", "expected float"),
        (BOOL, "maybe", "expected bool"),
        (TEXT, 3, "expected str"),
        (CHOICE, "pots", "expected pre|post. Did you mean 'post'"),
        (MANY, "1,x", "expected int,..."),
        (MANY, 5, "expected int,..."),
    ],
)
def test_a_value_that_cannot_be_says_where_and_what_would_work(option, value, message):
    with pytest.raises(OptionError) as caught:
        option.parse(value, "here")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_flag_is_spelt_with_hyphens():
    assert Option("window_size", "int").flag == "window-size"


@pytest.mark.parametrize(
    "text",
    [
        "from tstk import Loss\nclass Mine(Loss):",
        "import tstk\nclass Mine(tstk.Loss):",
        "import tstk.core.interfaces as s\nclass Mine(s.Loss):",
        "from .near import Near\nclass Mine(Near):",
        "from .inner.far import Far\nclass Mine(Far):",
        "import torch\nfrom tstk.core.interfaces import Loss\nclass Mine(Loss, torch.nn.Module):",
    ],
    ids=["from-tstk", "import-tstk", "alias", "relative", "deeper", "foreign-base"],
)
def test_bases_are_followed_however_they_are_imported(text, tmp_path, monkeypatch):
    (tmp_path / "kin" / "inner").mkdir(parents=True)
    (tmp_path / "kin" / "__init__.py").write_text("")
    (tmp_path / "kin" / "near.py").write_text("import tstk\nclass Near(tstk.Loss):\n    pass\n")
    (tmp_path / "kin" / "inner" / "__init__.py").write_text("")
    (tmp_path / "kin" / "inner" / "far.py").write_text("from ..near import Near as Far\n")
    name = f"m{abs(hash(text))}"
    (tmp_path / "kin" / f"{name}.py").write_text(
        f"{text}\n    '''Mine.\n\n    Args:\n        share: of all\n    '''\n"
        "    def __init__(self, spec, *, share: float = 0.5):\n        super().__init__(spec)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    signature = read_signature(f"kin.{name}:Mine")
    assert signature.class_attrs["consumes"] == "decoder"
    assert signature.options["share"].help == "of all"


def test_an_option_that_names_an_entry_takes_no_other_name():
    option = read_signature("tstk.builtin.losses.masked:Masked").options["policy"]
    assert (option.type, option.entry_kind, option.type_label) == ("str", "masking", "NAME")
    assert option.parse("tstk/block") == "tstk/block"
    with pytest.raises(UnknownNameError, match=r"No masking is called 'blok'\. Did you mean 'block'"):
        option.parse("blok")

    class Mine:
        def __init__(self, *, policies: tuple[MaskingName, ...] = ("random",)):
            pass

    inspected = read_signature(Mine).options["policies"]
    assert (inspected.entry_kind, inspected.is_tuple, inspected.parse("tail,block")) == (
        "masking", True, ("tail", "block"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("annotation", "default", "want"),
    [
        ("Annotated[int, at.Ge(1)]", "1", ("int", False, (("Ge", 1),))),
        ("typing.Annotated[int, at.Ge(ge=1)]", "1", ("int", False, (("Ge", 1),))),
        ("Annotated[int, 'the width']", "1", ("int", False, ())),
        ("Optional[int]", "None", ("int", True, ())),
        ("typing.Union[int, None]", "None", ("int", True, ())),
        ("typing.Tuple[int, ...]", "(1, 2)", ("int", False, ())),
        ("Annotated[int, at.Interval(ge=1, le=4)]", "1", None),
        ("list[int]", "1", None),
        ("int", "'a'", None),
        ("int", "None", None),
        ("Annotated[int, at.Ge(1)]", "0", None),
        ("Literal['a', 'b']", "'c'", None),
    ],
)
def test_an_option_is_the_same_in_source_and_in_a_class_or_refused_in_both(
    annotation, default, want, tmp_path, monkeypatch
):
    """A class that works in a notebook works in a plugin, and what is no option has one line in both."""
    name = f"spelling_{abs(hash((annotation, default)))}"
    (tmp_path / f"{name}.py").write_text(
        "import typing\nfrom typing import Annotated, Literal, Optional\n\nimport annotated_types as at\n\n\n"
        f"class Part:\n    def __init__(self, spec, *, width: {annotation} = {default}):\n        pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for target in (f"{name}:Part", importlib.import_module(name).Part):
        if want is None:
            with pytest.raises(TstkError, match="'width'"):
                read_signature(target)
        else:
            option = read_signature(target).options["width"]
            assert (option.type, option.optional, option.bounds) == want


def test_a_parameter_after_the_spec_that_is_not_keyword_only_is_named(tmp_path, monkeypatch):
    """It would be no option, and the command would know no --encoder.width."""
    (tmp_path / "positional_part.py").write_text(
        "class Part:\n    def __init__(self, spec, width: int = 1):\n        pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for target in ("positional_part:Part", importlib.import_module("positional_part").Part):
        with pytest.raises(TstkError, match=r"Part: parameter 'width' is no option.*put '\*' before it"):
            read_signature(target)
