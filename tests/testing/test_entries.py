"""Faults of masking policies, augmentations and trackers that the kit finds."""

import pytest

from tstk.plugins.hooks import Entry
from tstk.testing import entries

FUNCTIONS = """
from typing import Annotated
import torch
from annotated_types import Gt

def mask_invalid(tokens, ratio, rng, round_up=False):
    return torch.arange(20).expand(3, -1) < 8

def mask_everything(tokens, ratio, rng, round_up=False):
    return tokens.valid

def mask_by_global_draws(tokens, ratio, rng, round_up=False):
    scores = torch.rand(3, 20).masked_fill(~tokens.valid, 9)
    return scores.argsort(1).argsort(1) < 8

def mask_per_series(tokens, ratio, rng, round_up=False):
    return tokens.valid[:, 0]

def without_strength(series, rng):
    return series

def subtract_mean(series, rng, *, strength: Annotated[float, Gt(0)] = 1.0):
    return series.replace(x=series.x - series.x.mean((0, 2), keepdim=True))

def fill_padding(series, rng, *, strength: Annotated[float, Gt(0)] = 1.0):
    return series.replace(observed=None)

def cut_short(series, rng, *, strength: Annotated[float, Gt(0)] = 1.0):
    return series.replace(x=series.x[..., 1:], observed=series.observed[..., 1:])

def track(path, name):
    return None
"""


@pytest.mark.parametrize(
    ("check", "function", "message"),
    [
        (entries.masks_valid_tokens, "mask_invalid", "an invalid token is masked"),
        (entries.masks_valid_tokens, "mask_everything", "expected half of 16"),
        (entries.masks_valid_tokens, "mask_by_global_draws", "draw from `rng` alone"),
        (entries.masks_valid_tokens, "mask_per_series", r"the mask is \[3\], torch.bool; expected"),
        (entries.is_independent_of_padding, "without_strength", "no keyword-only option strength"),
        (entries.is_independent_of_padding, "subtract_mean", "in another way beside a longer one"),
        (entries.is_independent_of_padding, "fill_padding", "after the end of a series become observed"),
        (entries.is_independent_of_padding, "cut_short", r"becomes \[2, 2, 19\]"),
        (entries.takes_a_run_directory, "track", r"track\(path, name\); expected a function of run_dir"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_a_faulty_function_is_found(tmp_path, monkeypatch, check, function, message):
    (tmp_path / "faulty_functions.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AssertionError, match=message):
        check(Entry("masking", "mine", f"faulty_functions:{function}", "A fault", dist="made-up"))
