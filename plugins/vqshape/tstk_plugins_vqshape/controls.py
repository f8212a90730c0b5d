"""What a text is worth: teachers with the right text, with that of other samples, with noise and with none; a student
of each, which reads the series alone; and one model that is asked to be the same with the text and without.

All teachers, and all students, are trained equally long, and a student's only text is what its teacher made of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tstk.config.resolve import chosen, find_config, read_toml, resolve
from tstk.evaluation.probe import probe
from tstk.training.runs import train
from tstk_plugins_vqshape.text import Texts

KINDS = ("no text", "text", "shuffled", "random")
FEATURES = ("tokens", "codes")


def controls(
    data: str,
    text: str | Path,
    out: str | Path,
    *,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    guide: str = "z",
    choices: dict[str, Any] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Train all models and probe them; a model that is there already is not trained again.

    Args:
        data: name or path of a labelled set
        text: what `tstk text` wrote for it
        out: folder of the runs
        seeds: one set of models for each
        guide: which attributes read the text: z or z_mu_sigma
        choices: options for all trainings, as `tstk.fit` takes them: {"steps": 300}
        say: receives lines for the user

    Returns:
        a row per model: "model", "reads" (what it reads when it is probed), for each of `FEATURES` the accuracies by
        seed,
        "perplexity" and, of students, "agreement" with their teacher, by seed
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for seed in seeds:
        folder = Path(out, f"seed{seed}")
        for model, reads, run, with_text in _models(data, Path(text), folder, seed, guide, choices or {}, say):
            row = rows.setdefault((model, reads), {"model": model, "reads": reads})
            for features in FEATURES:
                found = _probed(run, None if with_text else data, features)
                row.setdefault(features, []).append(found)
            scores = json.loads((run / "result.json").read_text(encoding="utf-8"))["test"]
            for name in ("perplexity", "agreement"):
                if name in scores:
                    row.setdefault(name, []).append(scores[name])
    return list(rows.values())


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval by Student's t; nan for a single value."""
    from scipy.stats import t

    if len(values) < 2:
        return float(np.mean(values)), math.nan
    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return float(np.mean(values)), float(half)


def _models(
    data: str, text: Path, folder: Path, seed: int, guide: str, choices: dict[str, Any], say: Callable[[str], None]
) -> Iterator[tuple[str, str, Path, bool]]:
    """(model, what it reads, run, whether its own data, with the text, are to be probed)."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = Texts.load(text)
    files = {"text": text, "shuffled": folder / "shuffled.npz", "random": folder / "random.npz"}
    texts.shuffled(seed).save(files["shuffled"])
    texts.randomised(seed).save(files["random"])
    for kind in KINDS:
        teacher = folder / f"teacher-{kind.replace(' ', '-')}"
        given: dict[str, Any] = {"data": data, "seed": seed, **choices}
        if kind == "no text":
            _train(teacher, "vqshape/teacher", {**given, "tokenizer__guide": "none"}, say)
        else:
            given["data__extra"] = f"text={files[kind]}"
            _train(teacher, "vqshape/teacher", {**given, "tokenizer__guide": guide}, say)
        yield f"teacher, {kind}", "series" if kind == "no text" else "series and text", teacher, kind != "no text"
        if kind == "text":
            yield f"teacher, {kind}", "series", teacher, False
        student = folder / f"student-{kind.replace(' ', '-')}"
        mounts = {"from": str(teacher), "decoder": str(teacher), "loss__teacher": str(teacher)}
        _train(student, "vqshape/student", {**given, **mounts}, say)
        yield f"student, {kind}", "series", student, False
    same = folder / "consistent"
    given = {"data": data, "seed": seed, "data__extra": f"text={text}", "tokenizer__guide": guide, **choices}
    _train(same, "vqshape/teacher", {**given, "loss": "consistent"}, say)
    yield "consistent, text", "series", same, False


def _train(run: Path, config: str, given: dict[str, Any], say: Callable[[str], None]) -> None:
    if (run / "result.json").is_file():
        return
    say(f"training {run}")
    layers = ((config, read_toml(find_config(config))), ("argument", chosen(given)))

    def told(line: str) -> None:
        if line.startswith("--extra"):  # that a text gives the label away
            say(line)

    train(resolve(*layers), run, command=f"tstk text-controls {given['data']}", say=told)


def _probed(run: Path, data: str | None, features: Any) -> float:
    return float(probe(run, data, features=features)["results"][0]["accuracy"])
