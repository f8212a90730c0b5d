"""How a check says what it expected: `expect` with a sentence, `close` with numbers, `NotApplicable` with a reason."""

from __future__ import annotations

from unittest import SkipTest

from torch import Tensor


class NotApplicable(SkipTest):
    """This check has nothing to look at here. Test runners show it as skipped, with its reason."""


class Excused(SkipTest):
    """This check failed, as an excuse said it would."""


def expect(true: bool, sentence: str) -> None:
    """Fail with a sentence that says what was found and what was expected."""
    if not true:
        raise AssertionError(sentence)


def close(found: Tensor, wanted: Tensor, what: str, tolerance: float = 1e-4) -> None:
    """Fail where two tensors have other shapes, or differ by more than `tolerance` times their size.

    Args:
        found: any shape
        wanted: the same shape
        what: begins the sentence, such as "answers change with their companions"
        tolerance: relative to the largest value wanted, or absolute where that is below 1
    """
    expect(found.shape == wanted.shape, f"{what}: {list(found.shape)}; expected {list(wanted.shape)}")
    if found.numel() == 0:
        return
    if not found.dtype.is_floating_point:
        expect(bool((found == wanted).all()), f"{what}: {int((found != wanted).sum())} of {found.numel()} differ")
        return
    expect(bool(found.isfinite().all()), f"{what}: {int((~found.isfinite()).sum())} numbers are not finite")
    off = float((found - wanted).detach().abs().max())
    allowed = tolerance * max(1.0, float(wanted.detach().abs().max()))
    expect(off <= allowed, f"{what}: off by {off:.2g} at most; expected no more than {allowed:.2g}")
