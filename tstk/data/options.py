"""Checks of option values that several modules share. Nothing heavy is imported here."""

from __future__ import annotations

from typing import Any

from tstk.errors import OptionError


def reject_options(reason: str, **options: Any) -> None:
    """Refuse options that cannot take effect.

    Args:
        reason: the rest of the message, after "--NAME VALUE has no meaning"
        options: by parameter name; None means not given

    Raises:
        OptionError: one of them is given
    """
    for name, value in options.items():
        if value is not None:
            raise OptionError(f"{_format_flag(name)} {value} has no meaning {reason}")


def check_at_least(minimum: int, **options: int | None) -> None:
    """Check numbers against their lower limit.

    Raises:
        OptionError: one of them is given and less than `minimum`
    """
    for name, value in options.items():
        if value is not None and value < minimum:
            raise OptionError(f"{_format_flag(name)} {value}: expected at least {minimum}")


def _format_flag(parameter: str) -> str:
    return f"--{parameter.replace('_', '-')}"
