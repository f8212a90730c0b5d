"""Options depend on the selected components; flags, files and runs are merged into one config."""

import subprocess
import sys
import tomllib

import pytest

from tstk.config.resolve import SECTIONS, resolve_config
from tstk.plugins.hooks import SLOTS
from tstk.plugins.registry import get_registry
from tstk.plugins.signature import read_signature


def parse_output(result):
    assert result.exit_code == 0, result.output
    return tomllib.loads(result.stdout)


def test_help_names_every_component_and_every_option_of_the_sections(tstk):
    text = tstk("train", "--help").stdout
    for slot in SLOTS:
        assert f"--{slot} " in text
        assert all(name in text for name in get_registry().list_names(slot))
    for target in SECTIONS.values():
        assert all(f"--{o.flag}" in text for o in read_signature(target).options.values())
    assert "encoder: transformer" not in text
    assert "Examples:" in text


@pytest.mark.slow
@pytest.mark.parametrize(("slot", "name"), [(s, n) for s in SLOTS for n in get_registry().list_names(s)])
def test_naming_a_component_shows_all_its_options_with_their_help(tstk, slot, name):
    result = tstk("train", f"--{slot}={name}", "--help")
    assert result.exit_code == 0, result.output
    squeezed = "".join(result.stdout.replace("│", " ").split())
    for option in read_signature(get_registry().find(slot, name).target).options.values():
        assert f"--{slot}.{option.flag}" in squeezed
        assert not option.help or "".join(option.help.split()[:2]) in squeezed


def test_a_config_file_brings_the_options_of_its_component_and_its_values_as_defaults(tstk, tmp_path):
    (tmp_path / "a.toml").write_text('[encoder]\nuse = "bert"\ndepth = 7\n')
    text = tstk("train", "--config", "a.toml", "--help").stdout
    assert "encoder: bert" in text
    assert "[default: 7]" in text


def test_options_of_a_default_component_work_although_help_keeps_them_back(tstk):
    assert parse_output(tstk("train", "--encoder.depth", 5, "--print-config"))["encoder"]["depth"] == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--encoder.detph", 3], "No such option '--encoder.detph'. Did you mean '--encoder.depth'?"),
        (["--encodr", "bert"], "No such option '--encodr'. Did you mean '--encoder'?"),
        (["--enc", "bert"], "No such option '--enc'. Did you mean '--encoder'?"),
        (["--encoder.epochs", 3], "No such option '--encoder.epochs'. Did you mean '--epochs'?"),
        (["--depth", 3], "No such option '--depth'. Did you mean '--tokenizer.depth' or '--encoder.depth'?"),
        (["--decoder.depth", 3], "This pipeline has no decoder; select one with --decoder."),
        (["--head", "cot", "--head.size", 3], "There are: --head.tokens, --head.heads, --head.dropout, "),
        (["--encoder", "brt"], "No encoder is called 'brt'. Did you mean 'bert'?"),
        (["--encoder.depth", "many"], "--encoder.depth is 'many'; expected int."),
        (["--encoder", "bert", "--encoder.part=hole"], "Did you mean 'whole'?"),
        (["--lr", "fast"], "--lr is 'fast'; expected float."),
        (["--horizon", "far"], "--horizon is 'far'; expected int."),
        (["--config", "nope.toml"], "--config nope.toml: there is no such file"),
        (["--init-from", "nope"], "nope is not a run directory"),
        (["--out"], "Option '--out' requires an argument."),
    ],
)
def test_a_misspelled_name_is_an_error_with_a_suggestion(refused, typed, said):
    assert said in refused("train", *typed)


def test_an_unknown_command_is_an_error_with_a_suggestion(refused):
    assert refused("trian") == "Error: No command is called 'trian'. Did you mean 'train'?"


def test_all_faults_of_a_config_are_reported_one_per_line(refused, tmp_path):
    (tmp_path / "a.toml").write_text("[encoder]\ndetph = 2\n[train]\nlr = 'fast'\n")
    assert len(refused("train", "--config", "a.toml").splitlines()) == 2


def test_flags_stand_above_files_and_files_above_defaults(tstk, tmp_path):
    (tmp_path / "a.toml").write_text("[encoder]\ndepth = 5\nheads = 2\n[train]\nlr = 0.5\nseed = 1\n")
    (tmp_path / "b.toml").write_text("[train]\nseed = 2\n")
    result = tstk("train", "--config", "a.toml", "--config=b.toml", "--lr", 0.25, "--encoder.depth=6", "--print-config")
    values = parse_output(result)
    assert (values["encoder"]["depth"], values["encoder"]["heads"], values["encoder"]["dim"]) == (6, 2, 128)
    assert (values["train"]["lr"], values["train"]["seed"]) == (0.25, 2)
    for line in ("depth = 6  # flag", "heads = 2  # a.toml", "dim = 128  # default", "seed = 2  # b.toml"):
        assert line in result.stdout


def test_a_flag_that_only_repeats_the_default_is_a_flag(tstk):
    assert "lr = 0.001  # flag" in tstk("train", "--lr", 0.001, "--print-config").stdout


def test_a_table_for_another_component_is_ignored_with_a_note(tstk, tmp_path):
    (tmp_path / "a.toml").write_text('[encoder]\nuse = "transformer"\ndepth = 5\n')
    result = tstk("train", "--config", "a.toml", "--encoder", "bert", "--print-config")
    assert parse_output(result)["encoder"]["use"] == "bert"
    assert "is not used" in result.stderr


@pytest.mark.parametrize(
    "typed",
    [
        ["--encoder", "bert", "--head", "cot", "--encoder.cls", "--freeze", "tokenizer,encoder.stack"],
        ["--loss", "masked", "--decoder", "cross", "--no-instance-norm", "--patience", "none"],
    ],
)
def test_a_printed_config_gives_the_same_when_fed_back(tstk, tmp_path, typed):
    first = tstk("train", *typed, "--print-config")
    (tmp_path / "again.toml").write_text(first.stdout)
    assert parse_output(tstk("train", "--config", "again.toml", "--print-config")) == parse_output(first)


@pytest.mark.parametrize("flag", ["--init-from", "--encoder"])
def test_a_printed_config_of_a_mounted_run_mounts_it_again(tstk, run, flag):
    text = tstk("train", flag, run, "--print-config").stdout
    init_from = resolve_config(("file", tomllib.loads(text))).init_from
    assert init_from["encoder"] == str(run)
    assert ("tokenizer" in init_from) == (flag == "--init-from")


def test_switches_come_in_pairs(tstk):
    assert parse_output(tstk("train", "--encoder.cls", "--print-config"))["encoder"]["cls"] is True
    assert parse_output(tstk("train", "--no-encoder.bias", "--print-config"))["encoder"]["bias"] is False


@pytest.fixture
def nest(tmp_path, monkeypatch):
    """An encoder `nest` with a component inside."""
    from tstk.plugins.hooks import Entry

    (tmp_path / "nesting_cli.py").write_text(
        "from tstk.core.interfaces import Encoder\n"
        "class Nest(Encoder):\n"
        '    """A nest.\n\n    Args:\n        inner: what sits inside\n    """\n'
        "    def __init__(self, spec, *, inner: Encoder = 'identity'):\n"
        "        super().__init__(spec)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(
        get_registry()._table, ("encoder", "nest"), [Entry("encoder", "nest", "nesting_cli:Nest", "A nest")]
    )


def test_a_component_inside_a_component_brings_its_options_to_any_depth(tstk, nest):
    typed = ["--encoder", "nest", "--encoder.inner", "nest", "--encoder.inner.inner=transformer"]
    assert "--encoder.inner.inner.depth" in tstk("train", *typed, "--help").stdout
    values = parse_output(tstk("train", *typed, "--encoder.inner.inner.depth", 2, "--print-config"))
    assert values["encoder"]["inner"]["inner"]["depth"] == 2


def test_options_of_an_inner_component_need_not_repeat_its_name(tstk, nest, tmp_path):
    (tmp_path / "a.toml").write_text('[encoder]\nuse = "nest"\n[encoder.inner]\nuse = "transformer"\n')
    values = parse_output(tstk("train", "--config", "a.toml", "--encoder.inner.depth", 9, "--print-config"))
    assert values["encoder"]["inner"]["depth"] == 9


@pytest.mark.slow
def test_the_module_is_the_command_and_calls_itself_so(tmp_path):
    call = [sys.executable, "-m", "tstk"]
    page = subprocess.run([*call, "train", "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert page.returncode == 0
    assert "Usage: tstk train [OPTIONS]" in page.stdout
    typo = subprocess.run([*call, "trian"], capture_output=True, text=True, cwd=tmp_path)
    assert (typo.returncode, typo.stdout) == (2, "")
    assert typo.stderr == "Error: No command is called 'trian'. Did you mean 'train'?\n"
