"""Assertions of the checks: `expect` for conditions, `assert_close` for tensors, `NotApplicable` to skip."""

from __future__ import annotations

from unittest import SkipTest

from torch import Tensor


class NotApplicable(SkipTest):
    """Raised by a check that does not apply; test runners report it as skipped, with the reason."""


class ExpectedFailure(SkipTest):
    """Raised when a check listed in `EXPECTED_FAILED_CHECKS` fails; test runners report it as skipped."""


def expect(condition: bool, message: str) -> None:
    """Raise an AssertionError with this message unless the condition holds."""
    if not condition:
        raise AssertionError(message)


def assert_close(actual: Tensor, expected: Tensor, message: str, tolerance: float = 1e-4) -> None:
    """Raise an AssertionError if two tensors differ in shape, or by more than the tolerance.

    Args:
        actual: any shape
        expected: the same shape
        message: start of the error message, such as "predictions change with padding"
        tolerance: relative to the largest expected magnitude, or absolute if that is below 1
    """
    expect(actual.shape == expected.shape, f"{message}: {list(actual.shape)}; expected {list(expected.shape)}")
    if actual.numel() == 0:
        return
    if not actual.dtype.is_floating_point:
        expect(
            bool((actual == expected).all()), f"{message}: {int((actual != expected).sum())} of {actual.numel()} differ"
        )
        return
    expect(bool(actual.isfinite().all()), f"{message}: {int((~actual.isfinite()).sum())} values are not finite")
    max_error = float((actual - expected).detach().abs().max())
    allowed = tolerance * max(1.0, float(expected.detach().abs().max()))
    expect(max_error <= allowed, f"{message}: off by up to {max_error:.2g}; expected no more than {allowed:.2g}")
