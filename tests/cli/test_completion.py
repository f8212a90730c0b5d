"""Completions without torch, in each shell's protocol, and once in a real bash."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tstk.plugins.hooks import KINDS
from tstk.plugins.registry import get_registry

ROOT = Path(__file__).parents[2]
HEAVY = """
import json, os, sys
from contextlib import redirect_stdout
from io import BytesIO, TextIOWrapper
from tstk.cli import cli
said = []
for line, at in json.loads(os.environ["LINES_TO_ASK"]):
    os.environ |= {"COMP_WORDS": line, "COMP_CWORD": str(at) if os.environ["FORM"] != "fish" else line.split(" ")[at]}
    out = TextIOWrapper(BytesIO())
    try:
        with redirect_stdout(out):
            cli(prog_name="tstk")
    except SystemExit:
        out.flush()
        said.append(out.buffer.getvalue().decode())
said.append(sorted({"torch", "numpy", "sklearn"} & sys.modules.keys()))
print(json.dumps(said))
"""


def complete(shell, lines, cwd):
    """Yield the completions of the last word of each line."""
    done = subprocess.run(
        [sys.executable, "-c", HEAVY],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "LINES_TO_ASK": json.dumps([(line, line.count(" ")) for line in lines]),
            "FORM": shell,
            "_TSTK_COMPLETE": f"{shell}_complete",
        },
    )
    assert done.returncode == 0, done.stderr
    *said, heavy = json.loads(done.stdout)
    assert heavy == []
    return said


WANTED = {
    "tstk tra": {"train"},
    "tstk train --encoder be": {"bert"},
    "tstk train --encoder=be": {"bert"},
    "tstk train --loss masked --loss.policy bl": {"block"},
    "tstk train --trackers wan": {"wandb"},
    "tstk train --augment jit": {"jitter"},
    "tstk train --enc": {"--encoder"},
    "tstk train --encoder bert --encoder.dep": {"--encoder.depth"},
    "tstk train --encoder mamba2 --encoder.exp": {"--encoder.expand"},
    "tstk train --encoder.dep": {"--encoder.depth"},
    "tstk train --select-by l": {"loss", "last"},
    "tstk train --data ha": {"har-demo"},
    "tstk data info ha": {"har-demo"},
    "tstk train --config timemae/pre": {"timemae/pretrain"},
    "tstk train --init-from runs/": {"runs/old"},
    "tstk eval ru": {"runs/old"},
    "tstk train --encoder runs/o": {"runs/old"},
    "tstk run tima": {"timae"},
    "tstk show enc": {"encoder"},
    "tstk show loss mas": {"masked", "masked-latent"},
    "tstk plugins che": {"check"},
    "tstk plugins check tstk-plugins-timem": {"tstk-plugins-timemae"},
    "tstk completion z": {"zsh"},
    "tstk zzz a": set(),
    "tstk train --encoder zzz --dat": set(),
}


@pytest.fixture
def place(tmp_path):
    (tmp_path / "runs" / "old").mkdir(parents=True)
    (tmp_path / "runs" / "old" / "config.json").write_text("{}")
    return tmp_path


def values(shell, text):
    lines = text.splitlines()
    if shell == "zsh":  # type, value and help, a line each
        return set(lines[1::3])
    return {line.partition(",")[2].partition("\t")[0] for line in lines if line}


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_names_options_data_sets_and_runs_are_offered(shell, place):
    for line, said in zip(WANTED, complete(shell, WANTED, place), strict=True):
        assert values(shell, said) == WANTED[line], line


@pytest.mark.slow
def test_every_kind_that_has_a_name_is_offered_where_it_is_shown(tmp_path):
    kinds = [k for k in KINDS if get_registry().list_entries(k)]
    for kind, said in zip(kinds, complete("bash", [f"tstk show {kind} " for kind in kinds], tmp_path), strict=True):
        assert values("bash", said) == set(get_registry().list_names(kind))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_asks_tstk(tstk, shell):
    text = tstk("completion", shell).stdout
    assert f"_TSTK_COMPLETE={shell}_complete" in text


@pytest.mark.slow
def test_in_a_real_bash_tab_completes(tstk, place):
    if not shutil.which("bash"):
        pytest.skip("there is no bash")
    (place / "script").write_text(tstk("completion", "bash").stdout)
    (place / "tstk").write_text(f'#!/bin/sh\nexec {sys.executable} -m tstk "$@"\n')
    (place / "tstk").chmod(0o755)
    ask = """
source ./script
COMP_WORDS=(tstk train --encoder be); COMP_CWORD=3
_tstk_completion tstk; echo "${COMPREPLY[@]}"
complete -p tstk
"""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    variables = {**os.environ, "PYTHONPATH": path, "PATH": f"{place}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, cwd=place, env=variables)
    assert done.stdout.splitlines()[0] == "bert", done.stderr
    assert "_tstk_completion" in done.stdout.splitlines()[1]
