"""Plugins with more than components: a reader, configs, recipes, commands, callbacks, report sections, kernels."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = {
    "more/__init__.py": "",
    "more/plugin.py": """
from tstk import Entry, hookimpl

@hookimpl
def tstk_entries():
    yield Entry("reader", "wave", "more.data:read", "Text files, a series a line", provides={".wave"})
    yield Entry("config", "more/quick", "more:quick.toml", "Two steps")
    yield Entry("recipe", "more", "more:recipe.toml", "Once, then on top")
    yield Entry("command", "greet", "more.cli:command", "Greet someone")
    yield Entry("callback", "counter", "more.callback:Counter", "Counts steps")
    yield Entry("report", "length", "more.section:render_length", "The length")
    yield Entry("kernel", "nearest_code/plain", "more.kernel:backend", "The obvious way")
    yield Entry("kernel", "nearest_code/absent", "more.gone:backend", "Not there")
    yield Entry("kernel", "nearest_code/wrong", "more.kernel:wrong", "Always code 0")
""",
    "more/data.py": """
from tstk.data.containers import SeriesSet, pad_series, parse_floats, read_lines

def read(path, roles):
    rows = [line.split() for line in read_lines(path)]
    series = [parse_floats(row[1:], f"{path}, line {i}")[None] for i, row in enumerate(rows, 1)]
    return {"train": SeriesSet(pad_series(series, str(path)), str(path), [row[0] for row in rows])}
""",
    "more/quick.toml": "[train]\nsteps = 2\nbatch_size = 8\n\n[encoder]\nuse = 'identity'\n",
    "more/recipe.toml": """
[[stage]]
name = "one"
config = "more/quick"

[[stage]]
name = "two"
config = "more/quick"
init_from = "one"
""",
    "more/cli.py": """
import click

@click.command()
@click.argument("name")
def command(name):
    \"\"\"Greet someone.\"\"\"
    click.echo("Hello " + name)
""",
    "more/callback.py": """
from tstk import Callback

class Counter(Callback):
    def __init__(self, *, factor: int = 1):
        self.steps, self.factor, self.messages = 0, factor, []

    def on_fit_start(self, state):
        self.messages.append(f"begin {state.total_steps}")

    def on_step_end(self, state, step_outputs):
        assert step_outputs[0].loss is not None
        self.steps += self.factor

    def on_validation_end(self, state, metrics):
        return {"steps": self.steps}

    def on_fit_end(self, state):
        print("; ".join([*self.messages, f"end {state.best_metrics['epoch']}"]))
""",
    "more/section.py": """
from tstk.report.page import Section, render_paragraph

def render_length(context):
    \"\"\"Render the length.\"\"\"
    return Section("Length", render_paragraph(f"{context.pipeline.spec.length} samples"))
""",
    "more/kernel.py": """
import torch
from tstk.kernels.dispatch import Backend

@torch.no_grad()
def plain(z, codes):
    d = (z.reshape(-1, z.shape[-1])[:, None].float() - codes[None].float()).square().sum(-1)
    best = d.min(-1)
    return best.indices.reshape(z.shape[:-1]), best.values.reshape(z.shape[:-1])

def zero(z, codes):
    ids, d = plain(z, codes[:1])
    return ids, d

backend = Backend("plain", "more.kernel:plain", lambda z, c: "" if len(c) < 1000 else "it takes 999 codes at most")
wrong = Backend("wrong", "more.kernel:zero", lambda z, codes: "it is only for tests" if len(codes) == 77 else "")
""",
    "more/gone.py": "import nobody_has_this\n",
}


@pytest.fixture(scope="module")
def more(tmp_path_factory):
    """Install the plugin; return a function that runs Python or `tstk` in a process that sees it."""
    folder = tmp_path_factory.mktemp("site")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    info = folder / "more-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: more\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tstk]\nmore = more.plugin\n")
    path = os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")])

    def call(*words, cwd, **variables):
        return subprocess.run(
            [sys.executable, *map(str, words)],
            capture_output=True,
            text=True,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": path, **variables},
        )

    return call


@pytest.mark.slow
def test_a_reader_a_config_and_a_callback_work_together(more, tmp_path):
    rows = [
        " ".join([label, *(f"{(i * j) % 7}" for j in range(1, 33))]) for i in range(1, 25) for label in ("up", "down")
    ]
    for part in ("TRAIN", "TEST"):
        (tmp_path / f"a_{part}.wave").write_text("\n".join(rows))
    words = [
        "train",
        "--config",
        "more/quick",
        "--data",
        "a_TRAIN.wave",
        "--callbacks",
        "counter:factor=3",
        "--out",
        "run",
        "--quiet",
    ]
    done = more("-m", "tstk", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["begin 2; end 1", "run"]
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert row["callbacks"] == {"counter": {"steps": 6}}


@pytest.mark.slow
def test_a_callback_that_does_not_exist_is_refused_before_any_data_are_read(more, tmp_path):
    done = more("-m", "tstk", "train", "--data", "nowhere.csv", "--callbacks", "conter", cwd=tmp_path)
    assert done.returncode == 2
    assert "No callback is called 'conter'. Did you mean 'counter'?" in done.stderr
    done = more("-m", "tstk", "train", "--data", "nowhere.csv", "--callbacks", "counter:facto=2", cwd=tmp_path)
    assert "expected NAME:OPTION=VALUE, and the options are: factor. Did you mean 'factor'?" in done.stderr
    done = more("-m", "tstk", "train", "--data", "nowhere.csv", "--callbacks", "counter:factor=x", cwd=tmp_path)
    assert "--callbacks counter:factor=x: factor is 'x'; expected int" in done.stderr


@pytest.mark.slow
def test_a_command_and_a_recipe_are_called_like_our_own(more, tmp_path):
    assert more("-m", "tstk", "greet", "you", cwd=tmp_path).stdout == "Hello you\n"
    done = more("-m", "tstk", "run", "more", "--out", "r", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "r" / "two" / "result.json").is_file()


SELECT_BACKENDS = """
import json, torch
from tstk.errors import TstkError
from tstk.kernels import nearest_code, use_backend
from tstk.kernels.nearest_code import nearest_code_op
z, few, many = torch.randn(5, 3), torch.randn(4, 3), torch.randn(1000, 3)
results = {"auto": [nearest_code_op.select("auto", z, c).name for c in (few, many)]}
for name, codes in (("plain", many), ("absent", few), ("plian", few)):
    try:
        nearest_code(z, codes, backend=name)
    except TstkError as e:
        results[name] = str(e)
with use_backend("nearest_code=torch"):
    results["use_backend"] = nearest_code_op.select(None, z, few).name
results["environment"] = nearest_code_op.select(None, z, few).name
print(json.dumps(results))
"""


@pytest.mark.slow
def test_a_kernel_backend_is_chosen_or_refused_by_the_same_dispatcher(more, tmp_path):
    done = more("-c", SELECT_BACKENDS, cwd=tmp_path, TSTK_KERNELS="ricker_cwt=torch, nearest_code=reference")
    assert done.returncode == 0, done.stderr
    output = json.loads(done.stdout)
    assert output["auto"] == ["plain", "wrong"]
    assert output["plain"] == "nearest_code: backend 'plain' does not support this call: it takes 999 codes at most"
    assert "needs the package 'nobody_has_this'" in output["absent"]
    assert "Did you mean 'plain'?" in output["plian"]
    assert (output["use_backend"], output["environment"]) == ("torch", "reference")
    rows = {r["backend"]: r for r in json.loads(more("-m", "tstk", "kernels", "--json", cwd=tmp_path).stdout)}
    assert (rows["plain"]["plugin"], rows["plain"]["absent"]) == ("more", "")
    assert "nobody_has_this" in rows["absent"]["absent"]


@pytest.mark.slow
def test_the_kit_checks_all_of_it_and_finds_the_wrong_kernel(more, tmp_path):
    done = more("-m", "tstk", "plugins", "check", "more", "--json", cwd=tmp_path)
    states = {row["check"]: row for row in json.loads(done.stdout)}
    failed = [name for name, row in states.items() if row["state"] == "failed"]
    assert failed == ["kernel:nearest_code/wrong:matches_the_reference"]
    assert states["kernel:nearest_code/absent:matches_the_reference"]["state"] == "not applicable"
    looked = {"reader:wave", "config:more/quick", "recipe:more", "command:greet", "callback:counter", "report:length"}
    assert looked <= {name.rpartition(":")[0] for name, row in states.items() if row["state"] == "passed"}


@pytest.mark.slow
def test_everything_a_plugin_brings_can_be_shown(more, tmp_path):
    for kind, name in (
        ("reader", "wave"),
        ("config", "more/quick"),
        ("recipe", "more"),
        ("command", "greet"),
        ("callback", "counter"),
        ("report", "length"),
        ("kernel", "nearest_code/plain"),
    ):
        done = more("-m", "tstk", "show", kind, name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"{kind} {name}" in done.stdout
