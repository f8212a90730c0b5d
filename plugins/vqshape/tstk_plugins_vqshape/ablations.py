"""Ablation of texts: teachers with the right text, shuffled texts, random states and no text; a student of each, which
gets the series only; and one model trained to be consistent with and without the text.

All teachers, and all students, are trained equally long. Students get a text through their teacher only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tstk.config.records import RunResult
from tstk.config.resolve import find_config, parse_overrides, resolve_config
from tstk.config.toml import read_toml
from tstk.evaluation.probe import probe
from tstk.training.runs import train
from tstk_plugins_vqshape.text import Texts

TEXT_KINDS = ("no text", "text", "shuffled", "random")
FEATURES = ("tokens", "codes")


def run_ablations(
    data: str,
    text: str | Path,
    out: str | Path,
    *,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    guide: str = "z",
    options: dict[str, Any] | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Train all models and probe them; existing runs are reused.

    Args:
        data: name or path of a labelled data set
        text: file that `tstk text` wrote for it
        out: folder of the runs
        seeds: random seeds; all models are trained for each
        guide: attributes that depend on the text: z or z_mu_sigma
        options: options of all trainings, as `tstk.fit` takes them: {"steps": 300}
        log: called with lines for the user

    Returns:
        a row per model: "model", "reads" (the inputs when probed), and by seed the accuracies for each of `FEATURES`,
        "perplexity" and, for students, "agreement" with their teacher
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for seed in seeds:
        folder = Path(out, f"seed{seed}")
        for model, reads, run, with_text in _train_models(data, Path(text), folder, seed, guide, options or {}, log):
            row = rows.setdefault((model, reads), {"model": model, "reads": reads})
            for features in FEATURES:
                accuracy = _probe_accuracy(run, None if with_text else data, features)
                row.setdefault(features, []).append(accuracy)
            scores = RunResult.read(run).test
            for name in ("perplexity", "agreement"):
                if name in scores:
                    row.setdefault(name, []).append(scores[name])
    return list(rows.values())


def confidence_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean, and half the width of its 95 % interval by Student's t; nan for a single value."""
    from scipy.stats import t

    if len(values) < 2:
        return float(np.mean(values)), math.nan
    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return float(np.mean(values)), float(half)


def _train_models(
    data: str, text: Path, folder: Path, seed: int, guide: str, options: dict[str, Any], log: Callable[[str], None]
) -> Iterator[tuple[str, str, Path, bool]]:
    """Train all models of a seed; yield (model, inputs when probed, run, whether to probe with the text)."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = Texts.load(text)
    files = {"text": text, "shuffled": folder / "shuffled.npz", "random": folder / "random.npz"}
    texts.shuffle(seed).save(files["shuffled"])
    texts.randomize(seed).save(files["random"])
    for kind in TEXT_KINDS:
        teacher = folder / f"teacher-{kind.replace(' ', '-')}"
        run_options: dict[str, Any] = {"data": data, "seed": seed, **options}
        if kind == "no text":
            _train(teacher, "vqshape/teacher", {**run_options, "tokenizer__guide": "none"}, log)
        else:
            run_options["data__conditioning"] = f"text={files[kind]}"
            _train(teacher, "vqshape/teacher", {**run_options, "tokenizer__guide": guide}, log)
        yield f"teacher, {kind}", "series" if kind == "no text" else "series and text", teacher, kind != "no text"
        if kind == "text":
            yield f"teacher, {kind}", "series", teacher, False
        student = folder / f"student-{kind.replace(' ', '-')}"
        teacher_options = {"init_from": str(teacher), "decoder": str(teacher), "loss__teacher": str(teacher)}
        _train(student, "vqshape/student", {**run_options, **teacher_options}, log)
        yield f"student, {kind}", "series", student, False
    consistent = folder / "consistent"
    run_options = {"data": data, "seed": seed, "data__conditioning": f"text={text}", "tokenizer__guide": guide}
    _train(consistent, "vqshape/teacher", {**run_options, **options, "loss": "consistent"}, log)
    yield "consistent, text", "series", consistent, False


def _train(run: Path, config: str, options: dict[str, Any], log: Callable[[str], None]) -> None:
    if (run / "result.json").is_file():
        return
    log(f"training {run}")
    layers = ((config, read_toml(find_config(config))), ("argument", parse_overrides(options)))

    def print_conditioning_notes(line: str) -> None:
        if line.startswith("--conditioning"):  # for example that texts determine the label
            log(line)

    command = f"tstk text-ablation {options['data']}"
    train(resolve_config(*layers), run, command=command, print_fn=print_conditioning_notes)


def _probe_accuracy(run: Path, data: str | None, features: Any) -> float:
    return float(probe(run, data, features=features)["results"][0]["accuracy"])
