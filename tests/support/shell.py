"""`tstk` called in this process."""

from click.testing import CliRunner

from tstk.cli import cli


def call(*words):
    """Run a command that must succeed, and return its result."""
    result = CliRunner().invoke(cli, [str(w) for w in words], prog_name="tstk")
    assert result.exit_code == 0, result.output
    return result


def refuse(*words):
    """Run a command that must fail, and return what it says."""
    result = CliRunner().invoke(cli, [str(w) for w in words], prog_name="tstk")
    assert result.exit_code == 2, result.output
    return result.stderr
