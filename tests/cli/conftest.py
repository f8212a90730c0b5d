"""Run `tstk` in this process, with small pipelines, in a temporary folder."""

import pytest
from click.testing import CliRunner

from tstk.cli import cli

SMALL = ["--tokenizer.dim", "16", "--encoder.dim", "16", "--encoder.depth", "1", "--encoder.heads", "2"]
SMALL += ["--threads", "1", "--device", "cpu"]


@pytest.fixture(autouse=True)
def no_root(monkeypatch):
    """Ignore the user's data sets: only the embedded set is found by name."""
    monkeypatch.delenv("TSTK_DATA", raising=False)


@pytest.fixture
def tstk(tmp_path, monkeypatch):
    """Run `tstk` with these words in an empty folder; the result has exit_code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERMINAL_WIDTH", "200")

    def call(*words):
        return CliRunner().invoke(cli, [str(w) for w in words], prog_name="tstk")

    return call


@pytest.fixture
def refused(tstk, tmp_path):
    """Run `tstk`, check that it exits with one line per fault, no traceback and no new file; return the lines."""

    def list_files():  # without the bytecode of modules that were imported
        return sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts)

    def call(*words):
        before = list_files()
        result = tstk(*words)
        assert result.exit_code == 2, result.output
        assert isinstance(result.exception, SystemExit)
        assert list_files() == before
        faults = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        assert faults
        assert "Traceback" not in result.output
        return "\n".join(faults)

    return call


@pytest.fixture
def small():
    """Flags of a small pipeline."""
    return SMALL
