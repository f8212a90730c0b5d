"""The plugin guide, followed literally in an empty folder: every block of it is written or run."""

import ast
import json
import os
import re
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest

from tstk.testing import case

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "plugin-guide.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?:^`([\w./-]+)`(, in addition)?:\n\n)?^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
TSTK = """
import json, sys
from click.testing import CliRunner
from tstk.cli import cli
outputs = []
for words in json.loads(sys.argv[1]):
    result = CliRunner().invoke(cli, words, prog_name="tstk")
    assert result.exit_code == 0, f"{words}: {result.output}"
    outputs.append(result.stdout)
print(json.dumps(outputs))
"""
MIXES = """
import json, random
from tstk.testing.mixes import list_mixes, try_mix
every = list(list_mixes("tstk-plugins-tides"))
said = [(str(m), m.state, m.reason) for m in map(try_mix, random.Random(0).sample(every, 40))]
wanted = [c for c in every if c["tokenizer"].name == c["loss"].name == "tides" and c["encoder"].name == "bert"]
wanted += [c for c in every if c["tokenizer"].name == "tides" and c["encoder"].name == "timemae"]
said += [(str(m), m.state, m.reason) for m in map(try_mix, wanted)]
print(json.dumps(said))
"""


class Author:
    """Follow the guide in a folder and in new processes."""

    def __init__(self, folder):
        self.folder, self.said, self.ran = folder, [], 0

    def python(self, *words):
        path = os.pathsep.join([str(self.folder / "tides"), str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, "TERMINAL_WIDTH": "200"}
        done = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, cwd=self.folder, env=environment
        )
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def follow(self, path, added, language, text):
        self.ran += 1
        if path and added:
            with (self.folder / path).open("a") as file:
                file.write(text)
        elif path:
            (self.folder / path).write_text(text)
        elif language == "console":
            lines = text.splitlines()
            assert all(line.startswith("$ ") for line in lines), f"not all commands: {text}"
            self.said += zip(lines, self.typed([line.removeprefix("$ ").split() for line in lines]), strict=True)
        elif language == "python":
            self.said.append(("python", self.python("-c", text)))
        else:
            raise AssertionError(f"a block of {language} that nobody runs:\n{text}")

    def typed(self, commands):
        """Run commands and yield their outputs; consecutive commands of tstk share a process, to import torch once."""
        for ours, group in groupby(commands, lambda words: words[0] == "tstk"):
            if ours:
                words = [[w for w in words[1:] if w != "--mixes"] for words in group]
                yield from json.loads(self.python("-c", TSTK, json.dumps(words)))
            else:
                yield from map(self.type, group)

    def type(self, words):
        if words[:3] == ["pip", "install", "--editable"]:
            return self.announce(self.folder / words[3])
        if words[0] == "pip":
            return self.python("-m", *words, "--no-build-isolation", "--no-index", "--quiet")
        if words[0] == "python":
            return self.python(*words[1:])
        assert words[0] == "pytest", f"who runs {words[0]!r}?"
        return self.python("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", words[1], *words[1:])

    @staticmethod
    def announce(folder):
        """Write the metadata of an editable install, which declare the entry point."""
        info = folder / "tstk_plugins_tides-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tstk-plugins-tides\nVersion: 0.1.0\n")
        (info / "entry_points.txt").write_text("[tstk]\ntides = tstk_plugins_tides.plugin\n")
        return ""


@pytest.fixture(scope="module")
def author(tmp_path_factory):
    found = Author(tmp_path_factory.mktemp("author"))
    for block in BLOCK.findall(TEXT):
        found.follow(*block)
    return found


def test_every_block_is_followed_and_what_it_makes_works(author):
    assert author.ran == TEXT.count("\n```") // 2
    outputs = dict(author.said)
    assert (author.folder / "runs" / "views-tuned" / "result.json").is_file()
    assert "Spectra of windows" in outputs["$ tstk show tokenizer tides"]
    assert list((author.folder / "dist").glob("tstk_plugins_tides-*.whl"))
    assert re.search(
        r"^\d+ checks: \d+ passed, \d+ not applicable$", outputs["$ tstk plugins check tstk-plugins-tides"], re.M
    )
    assert "blockwise" in outputs["$ tstk kernels"]
    assert "runs/mlp" in outputs["$ tstk eval runs/mlp --encoder mine.py:TokenMLP"]
    rows = (author.folder / "runs" / "width" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[0])["callbacks"]["window-width"]["width"] > 0


def test_a_tokenizer_and_a_loss_are_less_than_150_lines_and_mix_with_all(author):
    names = ("tokenizer.py", "loss.py", "plugin.py")
    written = [text for path, added, _, text in BLOCK.findall(TEXT) if path.endswith(names) and not added]
    assert sum(len(text.splitlines()) for text in written) < 150
    mixes = json.loads(author.python("-c", MIXES))
    assert not [mix for mix in mixes if mix[1] == "failed"]
    assert all(reason for _, state, reason in mixes if state == "refused")
    trained = " ".join(mix for mix, state, _ in mixes if state == "trained")
    assert {"--head cot", "--loss timemae", "--loss tides"} <= set(re.findall(r"--(?:head|loss) \S+", trained))


def test_the_guide_names_every_check_and_none_that_is_not(author):
    checks = {
        c.__name__
        for group in (case.PLUGIN_CHECKS, case.COMPONENT_CHECKS, *case.CHECKS_BY_KIND.values())
        for c in group
    }
    table = TEXT[TEXT.index("| of | it checks |") : TEXT.index("Each check has a one-line description")]
    assert set(re.findall(r"`(\w+)`", table)) == checks


def test_the_code_of_the_guide_is_python():
    for path, added, language, text in BLOCK.findall(TEXT):
        if language == "python" and not added:
            ast.parse(text, path or "guide")
