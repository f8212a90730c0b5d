"""`tstk plot` writes figures, and refuses options that have no effect."""

import pytest

from tests.support.grids import slow_after

SIGNATURES = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}


@pytest.mark.parametrize("suffix", slow_after(1, ["svg", "png", "pdf"]))
def test_a_figure_is_written_in_the_format_of_its_suffix(tstk, run, tmp_path, suffix):
    result = tstk("plot", "tokens", run, "--sample", "2", "--channel", "1", "--out", f"a.{suffix}")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"a.{suffix}\n"
    assert (tmp_path / f"a.{suffix}").read_bytes().startswith(SIGNATURES[suffix])


@pytest.mark.slow
def test_the_same_run_makes_the_same_figure(tstk, run, tmp_path):
    for name in ("a.svg", "b.svg"):
        assert tstk("plot", "confusion", run, "--out", name).exit_code == 0
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["confusion", "--channel", "1"], "--channel has no effect on a figure of kind confusion, only on: forecast"),
        (["tokens", "--method", "pca"], "--method has no effect on a figure of kind tokens, only on: embedding"),
        (["tokens", "--sample", "1", "--id", "a"], "--sample and --id both name the series; remove one of them"),
        (["tokens", "--window", "9:3"], "--window 9:3: expected the first sample and the one after the last"),
        (["tokens", "--sample", "99"], "--sample 99: the test split has 12 series, from 0 to 11"),
        (["forecast"], "this run does not forecast"),
        (["spectrum"], "'spectrum' is not one of 'forecast', 'tokens'"),
    ],
)
def test_what_cannot_be_drawn_is_one_line_and_no_file(refused, run, words, message):
    assert message in refused("plot", words[0], run, *words[1:], "--out", "a.png")


def test_a_file_of_another_kind_is_refused(refused, run):
    assert "must end in .png or .svg or .pdf" in refused("plot", "tokens", run, "--out", "a.txt")
