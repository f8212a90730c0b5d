"""Layers of tables: which value wins, its source, and all faults at once."""

import shutil
import sys
import tomllib

import pytest

import tstk
from tstk.builtin.decoders import linear
from tstk.builtin.heads.linear import Linear
from tstk.builtin.losses.cross_entropy import CrossEntropy
from tstk.config.records import RunConfig, read_record, write_record
from tstk.config.resolve import find_config, iter_components, parse_overrides, resolve_config
from tstk.config.toml import read_toml, to_toml
from tstk.errors import CheckpointError, IncompatibleError, OptionError, UnknownNameError
from tstk.plugins.registry import get_registry
from tstk.plugins.signature import read_signature


class Wide(Linear):
    default_loss = "smooth"


class Smooth(CrossEntropy):
    default_head = "wide"
    default_tokenizer = "patch"


class Paired(linear.Linear):
    default_loss = "reconstruct"


def uses(config):
    return {s: config.component(s) for s in ("tokenizer", "encoder", "decoder", "head", "loss")}


def test_the_last_layer_wins_and_each_value_knows_its_source():
    config = resolve_config(
        ("low.toml", {"encoder": {"use": "transformer", "depth": 1, "heads": 2}}),
        ("flag", {"encoder": {"depth": 5}}),
    )
    encoder = config.values["encoder"]
    assert (encoder["depth"], encoder["heads"], encoder["dim"]) == (5, 2, 128)
    sources = {k: config.sources[f"encoder.{k}"] for k in ("use", "depth", "heads", "dim")}
    assert sources == {"use": "low.toml", "depth": "flag", "heads": "low.toml", "dim": "default"}


def test_every_option_of_every_table_has_a_value_and_a_source():
    config = resolve_config(("flag", {"head": "cot"}))
    for table, values in config.values.items():
        for name in values:
            assert f"{table}.{name}" in config.sources


def test_a_table_for_another_component_is_not_used_and_noted():
    config = resolve_config(
        ("low.toml", {"head": {"use": "cot", "tokens": 3}, "train": {"lr": 1.0}}),
        ("flag", {"head": {"use": "linear"}}),
    )
    assert config.component("head") == "linear"
    assert "tokens" not in config.values["head"]
    assert config.values["train"]["lr"] == 1.0
    (note,) = config.notes
    assert "[head] of low.toml is for 'cot'" in note
    assert "flag selects 'linear'" in note


def test_options_of_a_table_that_is_not_used_are_not_checked_against_the_other_component():
    assert resolve_config(("a", {"head": {"use": "cot", "tokens": 3}}), ("b", {"head": "residual-mlp"})).component(
        "head"
    ) == ("residual-mlp")


def test_a_qualified_name_is_the_same_component():
    config = resolve_config(
        ("a", {"encoder": {"use": "tstk/transformer", "depth": 1}}), ("b", {"encoder": "transformer"})
    )
    assert config.values["encoder"]["depth"] == 1
    assert config.notes == []


def test_all_faults_are_reported_at_once():
    with pytest.raises(OptionError) as caught:
        resolve_config(
            (
                "my.toml",
                {
                    "encoder": {"use": "transformer", "detph": 3, "heads": "many"},
                    "trian": {"lr": 1},
                    "train": {"steps": 2.5},
                },
            )
        )
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    text = str(caught.value)
    assert "no option 'detph' (from my.toml: encoder.detph). Did you mean 'depth'?" in text
    assert "encoder.heads (from my.toml) is 'many'; expected int" in text
    assert "no table [trian]. Did you mean 'train'?" in text
    assert "train.steps (from my.toml) is 2.5; expected int" in text


@pytest.mark.parametrize("use", [5, ["bert"], True])
def test_a_name_that_is_no_text_is_refused_with_its_place(use, nested):
    for given, place in (({"encoder": use}, "encoder"), ({"encoder": {"use": use}}, "encoder")):
        with pytest.raises(OptionError, match=f"my.toml: {place} is .*expected a name"):
            resolve_config(("my.toml", given))
    with pytest.raises(OptionError, match=r"my\.toml: encoder\.inner is"):
        resolve_config(("my.toml", {"encoder": {"use": "nest", "inner": use}}))


def test_a_path_may_stand_for_a_name(run):
    assert resolve_config(("argument", {"encoder": run, "loss": "masked"})).init_from == {"encoder": str(run)}


def test_an_unknown_component_is_named():
    with pytest.raises(UnknownNameError, match="Did you mean 'transformer'"):
        resolve_config(("flag", {"encoder": "transfomer"}))


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ({}, {"loss": "cross-entropy", "head": "linear", "decoder": None}),
        ({"head": "forecast"}, {"loss": "forecast", "decoder": None}),
        ({"head": "cot"}, {"loss": "cross-entropy", "decoder": None}),
        ({"decoder": "cross"}, {"loss": "masked", "head": None}),
        ({"loss": "masked"}, {"decoder": "transformer", "head": None}),
        ({"loss": "reconstruct"}, {"decoder": "linear", "head": None}),
        ({"loss": "forecast"}, {"head": "forecast"}),
        ({"loss": "cross-entropy"}, {"head": "linear"}),
        ({"data": {"use": "x", "horizon": 12}}, {"loss": "forecast", "head": "forecast"}),
        ({"data": {"use": "x", "horizon": "none"}}, {"loss": "cross-entropy", "head": "linear"}),
    ],
)
def test_components_that_are_not_given_follow_from_those_that_are(given, want):
    components = uses(resolve_config(("flag", given)))
    assert {k: components[k] for k in want} == want
    assert components["tokenizer"] == ("inception" if components["loss"] == "cross-entropy" else "patch")
    assert components["encoder"] == "transformer"


PARTNERS = {"tokenizer": ("loss",), "head": ("loss",), "decoder": ("loss",), "loss": ("head", "decoder")}
"""Slot -> slots whose components name the one to use with them."""


@pytest.mark.parametrize("kind", PARTNERS)
def test_every_component_that_is_named_as_a_partner_exists(kind):
    for partner in PARTNERS[kind]:
        for entry in get_registry().list_entries(partner):
            name = read_signature(entry.target).class_attrs[f"default_{kind}"]
            assert get_registry().find(kind, name), f"{entry.qualified_name}.default_{kind}"


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ({"head": Wide}, {"head": "wide", "loss": "smooth", "tokenizer": "patch"}),
        ({"loss": "smooth"}, {"head": "wide", "loss": "smooth", "tokenizer": "patch"}),
        ({"decoder": Paired}, {"decoder": "Paired", "loss": "reconstruct", "tokenizer": "patch"}),
        ({"head": Wide, "loss": "cross-entropy"}, {"head": "wide", "loss": "cross-entropy", "tokenizer": "inception"}),
    ],
)
def test_components_of_others_name_their_partners(given, want):
    tstk.register("loss", "smooth")(Smooth)
    tstk.register("head", "wide")(Wide)
    components = uses(resolve_config(("argument", given)))
    assert {k: components[k] for k in want} == want


def test_an_import_path_is_followed_from_a_flag_and_never_from_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "tracked.py").write_text("import tstk\nclass Own(tstk.Encoder):\n    pass\n")
    path = f"{tmp_path}/tracked.py:Own"
    for tables in ({"encoder": path}, {"encoder": {"use": path}}, {"encoder": {"use": "local/Own"}}):
        with pytest.raises(UnknownNameError, match="No encoder is called"):
            resolve_config(("flag", tables))
    config = resolve_config(("my.toml", {"encoder": {"use": "Own"}}), ("flag", parse_overrides({"encoder": path})))
    assert (config.component("encoder"), config.notes) == ("Own", [])


def test_a_component_inside_may_be_a_class(nested):
    class Own(tstk.Encoder):
        def __init__(self, spec, *, depth: int = 1):
            super().__init__(spec)

    flags = parse_overrides({"encoder": "nest", "encoder__inner": Own, "encoder__inner__depth": "3"})
    config = resolve_config(("argument", flags))
    assert config.values["encoder"]["inner"] == {"use": "Own", "depth": 3}
    components = [(path, kind, table["use"]) for path, kind, table in iter_components(config.values)]
    assert ("encoder.inner", "encoder", "Own") in components


@pytest.mark.parametrize(
    "given",
    [
        {"head": "cot", "pipeline": {"freeze": "encoder,tokenizer", "instance_norm": True}},
        {"decoder": {"use": "cross", "residual_scale": 1e-8}, "train": {"lr": 1e-05, "patience": None, "threads": 2}},
        {"data": {"use": 'odd "name"\\ with\ttab\nand line', "horizon": 7}},
        {"encoder": {"use": "bert"}},
    ],
)
def test_printed_toml_read_back_gives_the_same_values(given):
    config = resolve_config(("flag", given))
    for text in (config.to_toml(), to_toml(config.values)):
        again = resolve_config(("file", tomllib.loads(text)))
        assert again.values == config.values


def test_printed_toml_says_where_a_value_came_from():
    text = resolve_config(("my.toml", {"encoder": {"depth": 2}}), ("flag", {"head": "linear"})).to_toml()
    assert "depth = 2  # my.toml" in text
    assert 'use = "linear"  # flag' in text
    assert "heads = 4  # default" in text


def test_a_component_inside_a_component_has_options_of_its_own(nested):
    config = resolve_config(("flag", {"encoder": {"use": "nest", "inner": {"use": "transformer", "depth": 7}}}))
    assert config.values["encoder"]["inner"]["depth"] == 7
    assert config.values["encoder"]["inner"]["heads"] == 4
    assert config.sources["encoder.inner.depth"] == "flag"
    assert config.sources["encoder.inner.heads"] == "default"
    again = resolve_config(("file", tomllib.loads(config.to_toml())))
    assert again.values == config.values


def test_a_component_inside_has_a_default_can_be_named_and_its_faults_are_found(nested):
    assert resolve_config(("flag", {"encoder": "nest"})).values["encoder"]["inner"] == {"use": "identity"}
    assert (
        resolve_config(("flag", {"encoder": {"use": "nest", "inner": "bert"}})).values["encoder"]["inner"]["use"]
        == "bert"
    )
    assert resolve_config(("flag", {"encoder": "nest"})).values["encoder"]["spare"] is None
    with pytest.raises(OptionError, match="no option 'depht'"):
        resolve_config(("flag", {"encoder": {"use": "nest", "inner": {"use": "transformer", "depht": 7}}}))


@pytest.fixture
def nested(tmp_path, monkeypatch):
    """An encoder `nest` with one component inside, and room for another."""
    from tstk.plugins.hooks import Entry

    (tmp_path / "nesting.py").write_text(
        "from tstk.core.interfaces import Encoder, Head\n"
        "class Nest(Encoder):\n"
        '    """A nest.\n\n    Args:\n        inner: inside\n        spare: perhaps\n    """\n'
        "    def __init__(self, spec, *, inner: Encoder = 'identity', spare: Head | None = None):\n"
        "        super().__init__(spec)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    entry = Entry("encoder", "nest", "nesting:Nest", "A nest", dist="mine")
    monkeypatch.setitem(get_registry()._table, ("encoder", "nest"), [entry])


# ------------------------------------------------------------------ files


def test_a_file_that_is_not_toml_is_refused_with_its_place(tmp_path):
    (tmp_path / "bad.toml").write_text("[encoder\n")
    with pytest.raises(OptionError, match=r"bad\.toml: not valid TOML: .*line 1"):
        read_toml(tmp_path / "bad.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(OptionError, match="cannot be read"):
        read_toml(tmp_path / "bytes.toml")


def test_a_config_that_is_not_there_is_named(tmp_path):
    with pytest.raises(OptionError, match="there is no such file"):
        find_config(str(tmp_path / "none.toml"))
    with pytest.raises(UnknownNameError, match="No config is called"):
        find_config("no-such-config")


# ------------------------------------------------------------------ runs


def test_from_a_run_brings_its_parts_its_data_and_their_weights(run):
    config = resolve_config(("flag", {"pipeline": {"init_from": str(run)}, "head": "cot"}))
    assert config.init_from == {"tokenizer": str(run), "encoder": str(run)}
    assert config.values["encoder"]["depth"] == 1
    assert config.values["data"]["use"].endswith("toy.npz")
    assert config.component("head") == "cot"
    assert config.sources["encoder.depth"] == f"run {run}"


def test_from_a_run_for_the_same_task_brings_everything(run):
    config = resolve_config(("flag", {"pipeline": {"init_from": str(run)}}))
    assert set(config.init_from) == {"tokenizer", "encoder", "head", "loss"}


def test_another_task_on_a_run_that_learnt_from_the_test_part_takes_the_training_part(run, tmp_path):
    run = shutil.copytree(run, tmp_path / "run")
    file = run / "config.json"
    run_config = read_record(file)
    run_config["config"]["data"]["train_data"] = "test"
    write_record(file, run_config)
    for head, want in (({}, "test"), ({"head": "cot"}, None)):
        assert (
            resolve_config(("flag", {"pipeline": {"init_from": str(run)}, **head})).options("data")["train_data"]
            == want
        )


def test_a_flag_over_a_run_replaces_the_part_and_its_weights(run):
    config = resolve_config(("flag", {"pipeline": {"init_from": str(run)}, "encoder": "bert"}))
    assert config.component("encoder") == "bert"
    assert "encoder" not in config.init_from


def test_a_run_named_as_a_slot_brings_that_slot_alone(run):
    config = resolve_config(("flag", {"encoder": {"use": str(run), "dropout": 0.3}, "loss": "masked"}))
    assert config.init_from == {"encoder": str(run)}
    assert (config.values["encoder"]["depth"], config.values["encoder"]["dropout"]) == (1, 0.3)
    assert config.values["tokenizer"]["dim"] == 128


def test_a_run_without_the_slot_that_is_asked_of_it_says_what_it_has(run):
    with pytest.raises(OptionError, match="has no decoder; it has tokenizer, encoder, head, loss"):
        resolve_config(("flag", {"decoder": str(run)}))


def test_from_something_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="not a run directory"):
        resolve_config(("flag", {"pipeline": {"init_from": str(tmp_path)}}))


def test_a_config_from_a_run_round_trips_with_its_mounts(run):
    config = resolve_config(("flag", {"pipeline": {"init_from": str(run)}, "head": "cot"}))
    again = resolve_config(("file", tomllib.loads(config.to_toml())))
    assert again.values == config.values
    assert again.init_from == config.init_from


def test_a_run_named_in_a_file_is_forgotten_where_a_flag_names_another_component(run):
    folder, used = str(run), RunConfig.read(run).component("encoder")
    other = "identity" if not used.endswith("identity") else "transformer"
    file = ("file", {"encoder": {"use": folder}})
    assert resolve_config(file).init_from == {"encoder": folder}
    assert resolve_config(file, ("flag", {"encoder": {"use": other}})).init_from == {}


def test_a_loss_that_consumes_an_unknown_output_is_refused_in_one_line():
    @tstk.register("loss", "consumes-typo")
    class Typo(tstk.Loss):
        """A loss with a misspelt slot."""

        consumes = "hed"

    with pytest.raises(IncompatibleError, match="consumes 'hed'; expected 'decoder', 'head' or 'encoder'"):
        resolve_config(("flag", {"loss": "consumes-typo"}))
