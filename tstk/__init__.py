"""tstk: time-series tokenizers, encoders, decoders, heads and losses, mixed by name.

Importing this module is light: names that need torch are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tstk.errors import TstkError
from tstk.plugins.hooks import INTERFACE_VERSION, hookimpl
from tstk.plugins.registry import Entry

if TYPE_CHECKING:
    from tstk.api import build, create, fit, list, load, resume
    from tstk.core.interfaces import Decoder, Encoder, Head, Loss, Tokenizer
    from tstk.core.pipeline import Pipeline
    from tstk.core.rng import Draws
    from tstk.core.types import Flow, Series, Spec, Tokens
    from tstk.training.callbacks import Callback

_LATE = {
    "tstk.api": ("build", "create", "fit", "list", "load", "resume"),
    "tstk.training.callbacks": ("Callback",),
    "tstk.core.rng": ("Draws",),
    "tstk.core.pipeline": ("Pipeline",),
    "tstk.core.types": ("Flow", "Series", "Spec", "Tokens"),
    "tstk.core.interfaces": ("Decoder", "Encoder", "Head", "Loss", "Tokenizer"),
}
_HOMES = {name: module for module, names in _LATE.items() for name in names}

__all__ = [
    "INTERFACE_VERSION",
    "Callback",
    "Decoder",
    "Draws",
    "Encoder",
    "Entry",
    "Flow",
    "Head",
    "Loss",
    "Pipeline",
    "Series",
    "Spec",
    "Tokenizer",
    "Tokens",
    "TstkError",
    "build",
    "create",
    "fit",
    "hookimpl",
    "list",
    "load",
    "resume",
]


def __getattr__(name: str) -> Any:
    if name == "sklearn":
        return import_module("tstk.sklearn")
    if name not in _HOMES:
        raise AttributeError(f"module 'tstk' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
