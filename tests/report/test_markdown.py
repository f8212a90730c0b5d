"""Names of others are text in Markdown."""

import pytest

from tstk.benchmarking import page
from tstk.benchmarking.page import write_results
from tstk.benchmarking.results import Cell, compare_methods
from tstk.report.markdown import escape_markdown, format_code, format_code_block, format_table

NASTY = [
    "a|b<script>",
    "```\n# Title",
    "x\n| forged | row |",
    "![p](http://h/p.png)",
    "`",
    "\x1b[2J",
    "*b* _i_ ~~s~~ &lt;",
]


@pytest.mark.parametrize("name", NASTY)
def test_a_name_stays_in_its_cell(name):
    head, rule, row = format_table(["score", name], [[name, name]])
    for line in (head, row):
        bare = line
        for special in r"\`*_{}[]<>|~#&$":
            bare = bare.replace(f"\\{special}", "")
        assert bare.count("|") == rule.count("|") == 3
        assert not set(bare) & set("`*_[]<>~#&")
        assert line.isprintable()


def test_plain_names_and_numbers_are_not_changed():
    assert escape_markdown("har-demo 0.5000 ± 0.01 (1-NN)") == "har-demo 0.5000 ± 0.01 (1-NN)"


@pytest.mark.parametrize("text", ["--head linear", "a`b", "``", "`a", "x\ny", "\x1b[2J"])
def test_a_code_span_ends_where_its_text_ends(text):
    span = format_code(text)
    ticks = len(span) - len(span.lstrip("`"))
    assert ticks > 0
    assert span.endswith("`" * ticks)
    assert "`" * ticks not in span[ticks:-ticks]
    assert span.isprintable()


@pytest.mark.parametrize("text", ["```", "a\n````\nb", "plain"])
def test_a_code_block_ends_where_its_text_ends(text):
    first, *inner, last = format_code_block(text)
    assert first == last
    assert set(first) == {"`"}
    assert len(first) >= 3
    assert not any(line.startswith(first) for line in inner)
    assert "\n".join(inner) == text


@pytest.mark.parametrize("name", NASTY)
def test_no_name_of_data_breaks_the_page_of_a_benchmark(name, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "draw_diagram", lambda *args: None)

    def make_cell(method, accuracy):
        scores = {"scores": {"accuracy": accuracy}, "baselines": {"1-NN": {"accuracy": 0.6}}}
        return Cell(method, name, 0, tmp_path / method / "seed-0", scores)

    failed = Cell("m", "other", 0, tmp_path / "other" / "seed-0", error=f"{name}: broken")
    write_results(compare_methods([make_cell("m", 0.5), make_cell("n", 0.7), failed]), {"m": name}, tmp_path)
    lines = (tmp_path / "bench.md").read_text().splitlines()
    fences = [i for i, line in enumerate(lines) if line.startswith("```")]
    assert len(fences) % 2 == 0
    inside = {i for start, end in zip(fences[::2], fences[1::2], strict=True) for i in range(start, end + 1)}
    text = [line for i, line in enumerate(lines) if i not in inside]
    assert len([line for line in text if line.startswith("#")]) == 1
    assert {line.replace(r"\|", "").count("|") for line in text if line.startswith("|")} == {5}
    assert not any("<script>" in line for line in text if not line.startswith("- "))
