"""A typo of one letter gets the intended name as suggestion: counted over a thousand typos."""

import re
import shlex
import string
from random import Random

import pytest
from click.testing import CliRunner

from tstk.cli import cli
from tstk.config.resolve import SECTIONS, parse_overrides
from tstk.data.catalog import ALIASES, locate
from tstk.errors import _NAMES_ELSEWHERE, OptionError, UnknownNameError
from tstk.plugins.hooks import KINDS, SLOTS
from tstk.plugins.registry import get_registry
from tstk.plugins.signature import read_signature

SETS = ("GunPoint", "ECG5000", "BasicMotions", "ArrowHead", "ItalyPowerDemand", "ETTh1", "weather", "uci-har", "ptb-xl")
SLIPS = 1000


def make_typo(word, random):
    """Return the word with one letter dropped, inserted, replaced, or swapped with its neighbour."""
    i = random.randrange(len(word))
    letter = random.choice(string.ascii_lowercase)
    return random.choice(
        [
            word[:i] + word[i + 1 :],
            word[:i] + letter + word[i:],
            word[:i] + letter + word[i + 1 :],
            word[: max(i - 1, 0)] + word[max(i - 1, 0) : i + 1][::-1] + word[i + 1 :],
        ]
    )


def find_suggestion(message):
    """Return the first suggestion of a message."""
    found = re.search(r"Did you mean '([^']+)'", message)
    return found[1] if found else None


def suggest_by_registry(kind):
    def ask(typed):
        with pytest.raises(UnknownNameError) as caught:
            get_registry().find(kind, typed)
        return find_suggestion(str(caught.value))

    return ask


def suggest_by_catalog(typed, root):
    with pytest.raises(UnknownNameError) as caught:
        locate(typed, root)
    return find_suggestion(str(caught.value))


def suggest_by_cli(line):
    return find_suggestion(CliRunner().invoke(cli, shlex.split(line), prog_name="tstk").stderr)


def list_questions(root):
    """Yield (place, name, all names of that place, function from a typo to its suggestion) for every name."""
    for kind in KINDS:
        names = get_registry().list_names(kind)
        yield from ((kind, name, names, suggest_by_registry(kind)) for name in names)
    for slot in SLOTS:
        for use in get_registry().list_names(slot):
            names = list(read_signature(get_registry().find(slot, use).target).options)
            for name in names:
                prefix = f"--{slot}."

                def ask(typed, slot=slot, use=use, prefix=prefix):
                    suggestion = suggest_by_cli(f"train --{slot} {use} {prefix}{typed} 1")
                    return suggestion and suggestion.removeprefix(prefix).replace("-", "_")

                yield f"{slot} {use}", name, names, ask
    sections = [o.flag for s in SECTIONS for o in read_signature(SECTIONS[s]).options.values()]
    for name in sections:
        yield (
            "train",
            name,
            [*sections, *SLOTS, "data", "config", "out"],
            lambda typed: (suggestion := suggest_by_cli(f"train --{typed} 1")) and suggestion.removeprefix("--"),
        )
    sets = [*SETS, *ALIASES, "har-demo"]
    yield from (("data", name, sets, lambda typed: suggest_by_catalog(typed, root)) for name in SETS)
    commands = get_registry().list_names("command")
    yield from (("command", name, commands, suggest_by_cli) for name in commands)
    for group, names in (("plugins", ("list", "new", "check")), ("config", ("list", "show", "copy"))):
        yield from ((group, n, names, lambda typed, group=group: suggest_by_cli(f"{group} {typed}")) for n in names)


@pytest.mark.slow
def test_of_a_thousand_typos_98_in_100_get_the_intended_name_as_suggestion(tmp_path, monkeypatch):
    monkeypatch.delenv("TSTK_DATA", raising=False)
    for name in SETS:
        (tmp_path / f"{name}.npz").write_bytes(b"")
    found = [q for q in list_questions(str(tmp_path)) if len(q[1]) >= 4]
    random, wrong, count = Random(0), [], 0
    while count < SLIPS:
        where, word, names, ask = random.choice(found)
        typed = make_typo(word, random)
        if typed.lower() in {n.lower() for n in names} or not typed or typed.startswith("-"):
            continue
        count += 1
        if (said := ask(typed)) != word:
            wrong.append(f"{where} {word!r}, typed {typed!r}: {said!r}")
    print(f"{count - len(wrong)} of {count} slips answered with what was meant")
    assert len(wrong) <= SLIPS * 0.02, "\n".join(wrong)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("trian", "'train'"),
        ("plugins chek tstk", "'check'"),
        ("config shwo x", "'show'"),
        ("eval run --bach-size 3", "'--batch-size'"),
        ("plugins new x --knd head", "'--kind'"),
    ],
)
def test_misspelled_commands_and_options_get_a_suggestion(line, says):
    assert f"Did you mean {says}?" in CliRunner().invoke(cli, line.split(), prog_name="tstk").stderr


@pytest.mark.parametrize(
    ("typed", "ours"),
    [
        ("--learning-rate", "--lr"), ("--max-epochs", "--epochs"), ("--num-epochs", "--epochs"),
        ("--iterations", "--steps"),
        ("--n-epochs", "--epochs"), ("--bs", "--batch-size"), ("--batch", "--batch-size"), ("--wd", "--weight-decay"),
        ("--max-steps", "--steps"), ("--gpus", "--devices"), ("--checkpoint", "--init-from"), ("--model", "--encoder"),
        ("--dataset", "--data"), ("--output-dir", "--out"), ("--random-state", "--seed"), ("--pred-len", "--horizon"),
        ("--encoder.d-model", "--encoder.dim"), ("--encoder.num-layers", "--encoder.depth"),
        ("--tokenizer.patch-len", "--tokenizer.window"),
    ],
)  # fmt: skip
def test_an_option_that_other_toolkits_call_otherwise_hints_at_ours(typed, ours):
    assert suggest_by_cli(f"train {typed} 1") == ours


def test_a_run_that_is_given_as_an_option_is_said_to_be_an_argument():
    for typed in ("--model", "--checkpoint", "--run"):
        message = CliRunner().invoke(cli, ["eval", typed, "runs/a"], prog_name="tstk").stderr
        assert "The run is an argument: tstk eval RUN" in message


def test_names_of_other_toolkits_hint_at_ours_in_configs_and_in_python(tmp_path):
    (tmp_path / "c.toml").write_text("[train]\nlearning_rate = 0.1\n")
    assert suggest_by_cli(f"train --config {tmp_path / 'c.toml'}") == "lr"
    with pytest.raises(OptionError) as caught:
        parse_overrides({"max_epochs": 3})
    assert find_suggestion(str(caught.value)) == "epochs"


def test_a_name_of_other_toolkits_is_not_one_of_ours():
    """Or it would shadow a typo of our own option."""
    options = {name for section in SECTIONS.values() for name in read_signature(section).options}
    for kind in SLOTS:
        for entry in get_registry().list_entries(kind):
            options |= set(read_signature(entry.target).options)
    assert set().union(*_NAMES_ELSEWHERE.values()) & options == set()
    assert set(_NAMES_ELSEWHERE) <= options | {*SLOTS, "data", "out", "devices"}
