"""The layout of the package; the order of its imports is checked by `lint-imports`."""

from pathlib import Path

import tstk


def test_at_most_six_modules_are_at_the_top():
    modules = sorted(path.name for path in Path(tstk.__file__).parent.glob("*.py"))
    assert len(modules) <= 6, modules
