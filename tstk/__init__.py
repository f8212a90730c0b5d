"""tstk: time-series tokenizers, encoders, decoders, heads and losses, combined by name.

Importing this package does not import torch: names that need it are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tstk.errors import TstkError
from tstk.plugins.distribution import CORE_DISTRIBUTION
from tstk.plugins.hooks import INTERFACE_VERSION, Entry, hookimpl

if TYPE_CHECKING:
    from tstk import plot
    from tstk.api import build, build_component, fit, list_components, load, push, resume
    from tstk.config.records import RunResult
    from tstk.core.interfaces import Decoder, Encoder, Head, Loss, Tokenizer
    from tstk.core.pipeline import Pipeline
    from tstk.core.rng import SampleRNG
    from tstk.core.task import Prediction, Task
    from tstk.core.types import Series, Spec, StepOutput, Tokens
    from tstk.plugins.local import register
    from tstk.plugins.ranges import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, Ratio
    from tstk.training.callbacks import Callback

    __version__: str

_LAZY_IMPORTS = {
    "tstk.api": ("build", "build_component", "fit", "list_components", "load", "push", "resume"),
    "tstk.config.records": ("RunResult",),
    "tstk.core.interfaces": ("Decoder", "Encoder", "Head", "Loss", "Tokenizer"),
    "tstk.core.pipeline": ("Pipeline",),
    "tstk.core.rng": ("SampleRNG",),
    "tstk.core.task": ("Prediction", "Task"),
    "tstk.core.types": ("Series", "Spec", "StepOutput", "Tokens"),
    "tstk.plugins.local": ("register",),
    "tstk.plugins.ranges": ("Fraction", "NonNegativeFloat", "PositiveFloat", "PositiveInt", "Ratio"),
    "tstk.training.callbacks": ("Callback",),
}
_MODULE_BY_NAME = {name: module for module, names in _LAZY_IMPORTS.items() for name in names}

__all__ = [
    "INTERFACE_VERSION",
    "Callback",
    "Decoder",
    "Encoder",
    "Entry",
    "Fraction",
    "Head",
    "Loss",
    "NonNegativeFloat",
    "Pipeline",
    "PositiveFloat",
    "PositiveInt",
    "Prediction",
    "Ratio",
    "RunResult",
    "SampleRNG",
    "Series",
    "Spec",
    "StepOutput",
    "Task",
    "Tokenizer",
    "Tokens",
    "TstkError",
    "__version__",
    "build",
    "build_component",
    "fit",
    "hookimpl",
    "list_components",
    "load",
    "plot",
    "push",
    "register",
    "resume",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version(CORE_DISTRIBUTION)
    if name in ("plot", "sklearn"):
        return import_module(f"tstk.{name}")
    if name not in _MODULE_BY_NAME:
        raise AttributeError(f"module 'tstk' has no attribute {name!r}")
    return getattr(import_module(_MODULE_BY_NAME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
