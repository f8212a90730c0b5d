"""Every promise of SECURITY.md names tests, and they exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_promise_names_tests_that_exist():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    files = [*ROOT.glob("tests/**/test_*.py"), *ROOT.glob("plugins/*/tests/test_*.py")]
    defined = {
        name for file in files for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.M)
    }
    rows = [
        line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ") and "| tests |" not in line
    ]
    assert len(rows) > 8
    for *_, tests in rows:
        names = re.findall(r"`(test_\w+)`", tests)
        assert names, f"no test is named in {tests!r}"
        assert set(names) <= defined, set(names) - defined
