"""Exceptions for mistakes of the user. Each message is one line that names the thing, the place and the remedy.

The command line prints the message and exits with 2. Bugs are never wrapped in these exceptions.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterable
from itertools import takewhile

_CONTROL_CHARACTERS = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f"  # C0 and C1 controls: escape sequences of terminals begin with one
    "\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069"  # line separators, and marks that reverse the text after them
    "\\ud800-\\udfff]"  # bytes of a file name that are not UTF-8
)

_NAMES_ELSEWHERE = {
    "lr": ("learning_rate", "eta", "base_lr", "max_lr"),
    "epochs": ("max_epochs", "num_epochs", "n_epochs", "num_train_epochs"),
    "steps": ("max_steps", "num_steps", "n_steps", "max_iter", "iterations"),
    "batch_size": ("bs", "batch", "train_batch_size", "per_device_train_batch_size"),
    "weight_decay": ("wd",),
    "devices": ("gpus", "num_gpus", "nproc_per_node"),
    "seed": ("random_state", "random_seed"),
    "threads": ("num_threads", "n_jobs", "num_workers"),
    "grad_accum_steps": ("gradient_accumulation_steps", "accumulate_grad_batches"),
    "grad_clip": ("max_grad_norm", "gradient_clip_val", "clip_grad_norm"),
    "out": ("output_dir", "save_dir", "output"),
    "data": ("dataset", "data_set"),
    "horizon": ("prediction_length", "pred_len", "forecast_horizon"),
    "context": ("context_length", "seq_len", "input_length"),
    "init_from": ("checkpoint", "ckpt", "ckpt_path", "resume_from_checkpoint"),
    "encoder": ("model", "backbone"),
    "tokenizer": ("tokeniser",),
    "dim": ("d_model", "hidden_size", "embed_dim", "embedding_dim"),
    "depth": ("n_layers", "num_layers", "num_hidden_layers", "layers"),
    "heads": ("n_heads", "num_heads", "num_attention_heads", "nhead"),
    "window": ("patch_len", "patch_length", "patch_size"),
}
"""Name of an option -> what it is called in PyTorch Lightning, transformers, scikit-learn, GluonTS and others."""


_CALLERS = {"tstk", "contextlib", "functools", "joblib", "sklearn", "sktime", "threading", "torch"}
"""Packages through which a line of the user calls tstk, such as decorators of PyTorch, or scikit-learn's pipelines."""


class TstkError(Exception):
    """Base class: a mistake that the user can correct; the message says how."""


class UnknownNameError(TstkError):
    """No component, data set, config or command has this name."""


class OptionError(TstkError):
    """An option does not exist, has an invalid value, or cannot take effect.

    Args:
        message: one line
        option: the flag that cannot take effect, where another layer than the user may have given it
    """

    def __init__(self, message: str = "", option: str = "") -> None:
        super().__init__(message)
        self.option = option


class IncompatibleError(TstkError):
    """Components do not fit together: one needs a property that no other provides."""


class DataError(TstkError):
    """The data cannot be read, or do not fit the components.

    What a message quotes of a file cannot break its line or reach the terminal: characters that are not printable are
    escaped, and the middle of a very long message is left out.

    Args:
        message: one line
        option: the flag that names a column that is not there, or gives it a role that these data do not have
        column: the name of that column
    """

    def __init__(self, message: str = "", option: str = "", column: str = "") -> None:
        text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in message)
        super().__init__(text if len(text) <= 1500 else f"{text[:1000]} ... {text[-400:]}")
        self.option, self.column = option, column


class NotFiniteError(DataError):
    """Losses, predictions or features are not finite, and no sample is too large to compute with.

    Args:
        fault: which of which series, and the cause as far as it is known
        remedy: what to do
    """

    def __init__(self, fault: str = "", remedy: str = "") -> None:
        super().__init__("; ".join(filter(None, (fault, remedy))))
        self.fault = fault


class CheckpointError(TstkError):
    """A run directory is missing, damaged, not written by tstk, or needs a plugin that is not installed."""


class FileError(TstkError):
    """The system does not let a file be written or read: a full disk, permissions, a name that is in use."""


class TrainingError(TstkError):
    """Training cannot continue, for instance because a loss became NaN."""


class SourceChangedWarning(UserWarning):
    """The class of a component without a plugin has changed since the run was trained."""


class DataNoteWarning(UserWarning):
    """How data that a trained model is applied to were read: what was taken for what, left out or is uneven."""


class DataChangedWarning(UserWarning):
    """The data given to a run are not those that it was trained on, have moved, or differ by far in level or scale."""


def warn_user(note: str, category: type[UserWarning]) -> None:
    """Warn, and name as the place the line that led here: that of the user's script or cell, not of a library."""
    frame, stacklevel = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _CALLERS:
        frame, stacklevel = frame.f_back, stacklevel + 1
    warnings.warn(note, category, stacklevel=stacklevel)


def compute_edit_distance(a: str, b: str) -> int:
    """Return the optimal string alignment distance (insertions, deletions, substitutions, swaps of neighbours)."""
    rows = [list(range(len(b) + 1))]
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            cost = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]


def get_close_matches(name: str, candidates: Iterable[str]) -> list[str]:
    """Return the three candidates most similar to a misspelt name, best first, ignoring case.

    A candidate that other toolkits call by this name is the only one.
    """
    low = name.lower()
    ranked = []
    candidates = list(dict.fromkeys(candidates))
    for other in candidates:
        if low.lstrip("-").replace("-", "_") in _NAMES_ELSEWHERE.get(other.lstrip("-").replace("-", "_"), ()):
            return [other]
    for other in candidates:
        distance = compute_edit_distance(low, other.lower())
        prefix = sum(1 for _ in takewhile(lambda xy: xy[0] == xy[1], zip(low, other.lower(), strict=False)))
        if distance <= max(1, min(len(low), len(other)) // 3):
            ranked.append((distance, -prefix, other))
        elif prefix == len(low) >= 3:
            ranked.append((len(other), -prefix, other))
    return [other for *_, other in sorted(ranked)[:3]]


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" to append to a message, or the empty string if no candidate is similar."""
    matches = get_close_matches(name, candidates)
    return f" Did you mean {' or '.join(repr(n) for n in matches)}?" if matches else ""


def escape_control_characters(text: str, keep: str = "\n\t") -> str:
    """Write characters that would control a terminal as `\\uXXXX`, which JSON and TOML strings allow too.

    Args:
        text: text with names from files
        keep: control characters to leave; none in a name or a cell, which must stay on its line
    """
    return _CONTROL_CHARACTERS.sub(lambda m: m[0] if m[0] in keep else f"\\u{ord(m[0]):04x}", text)
