"""Benefit of pretraining with few and with all labels: fine-tuned, from scratch and with frozen features.

    python -m benchmarks.few_labels --out DIR --seeds 0,1,2
    python -m benchmarks.few_labels --out DIR --halves      # training splits only, for selection

Each method is pretrained on all training series of a set without labels. Then, for each label fraction, the pretrained
components and a linear head are fine-tuned, the same pipeline is trained from scratch with the same steps, augmentation
and weight selection, and a logistic regression (C = 1) is fitted on frozen features of trained and of untrained
weights. All of them, and the baselines, learn from the same labelled series, at least two per class, drawn for each
seed. Nothing is selected on a validation split, and the test split is scored once.

Each training and each scoring is a cell of DIR/cells.jsonl that is run once: the same command resumes, and further
sets, methods and seeds are added. All cells of a seed are run before those of the next seed. Data sets are looked up as
by `tstk train`: under --data-root or TSTK_DATA.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import numpy as np

from benchmarks.classification import format_record
from benchmarks.order import measure_cached

if TYPE_CHECKING:
    from tstk.config.records import RunResult

METHODS = Path(__file__).with_name("few_labels.toml")
BASELINES = "baselines"
FROZEN, UNTRAINED = "frozen", "untrained, frozen"


class Bench:
    """Runs and stores the cells of a methods file.

    Args:
        file: contents of a file such as few_labels.toml
        out: folder for cells and pretrained runs
    """

    def __init__(self, file: dict[str, Any], out: Path) -> None:
        self.file, self.out = file, out
        out.mkdir(parents=True, exist_ok=True)
        self._check_methods()

    def _check_methods(self) -> None:
        """Store the definitions of methods; exit if one differs from that of its stored cells."""
        path = self.out / "methods.json"
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        definitions = {f"methods.{name}": method for name, method in self.file["methods"].items()}
        definitions |= {name: self.file[name] for name in ("pretrain", "labels", "shares")}
        if changed := [name for name in definitions if before.get(name, definitions[name]) != definitions[name]]:
            sys.exit(f"{self.out} has cells with other definitions of {', '.join(changed)}; choose another --out")
        path.write_text(json.dumps(before | definitions, indent=1), encoding="utf-8")

    def cells(self, sets: Mapping[str, str], seeds: Sequence[int], methods: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield every cell, running those that are not stored.

        Args:
            sets: name -> value of --data
            seeds: seeds of weights, batches and label subsets
            methods: names of methods
        """
        for seed in seeds:
            for name, data in sets.items():
                yield self._cell(name, BASELINES, BASELINES, seed, lambda d=data, s=seed: self._baselines(d, s))
                for method in methods:
                    yield from self._method(name, data, method, seed)

    def _method(self, name: str, data: str, method: str, seed: int) -> Iterator[dict[str, Any]]:
        steps = self.file["methods"][method]
        run = Path(steps["run"]) if "run" in steps else self.out / "pretrained" / name / method / f"seed-{seed}"
        if "pretrain" in steps:
            yield self._cell(name, method, "pretrain", seed, lambda: self._pretrain(steps, data, seed, run))
        if "pretrain" in steps or "run" in steps:
            yield self._cell(name, method, "probe", seed, lambda: self._probe(steps, data, seed, run))
        for share in self.file["shares"]:
            for kind in [kind for kind in ("finetune", "scratch") if kind in steps or "finetune" in steps]:
                yield self._cell(
                    name,
                    method,
                    f"{kind} {share:g}",
                    seed,
                    lambda k=kind, s=share: self._train(steps, k, data, seed, s, run),
                )

    def _cell(self, data: str, method: str, kind: str, seed: int, measure: Any) -> dict[str, Any]:
        return measure_cached(
            self.out / "cells.jsonl", {"seed": seed, "data": data, "method": method, "cell": kind}, measure
        )

    # ---------------------------------------------------------------- what a cell measures

    def _pretrain(self, steps: dict[str, Any], data: str, seed: int, run: Path) -> dict[str, Any]:
        tables = {"data": {"use": data}, "train": {"seed": seed}}
        layers = _build_layers(steps["pretrain"])
        result = _train_run(run, *layers, ("pretrain", self.file["pretrain"]), ("cell", tables))
        return {"parameters": result.parameters, "loss": round(result.val["loss"], 4)}

    def _train(self, steps: dict[str, Any], kind: str, data: str, seed: int, share: float, run: Path) -> dict[str, Any]:
        """Fine-tune a pretrained run, or train the same components from scratch."""
        from tstk.config.records import RunConfig

        own = _build_layers(steps[kind] if kind in steps else steps["finetune"])
        start: dict[str, Any] = {}
        if kind == "finetune":
            start = {"pipeline": {"init_from": str(run)}}
        elif "pretrain" in steps:
            options = RunConfig.read(run).given
            wiring = {key: options["pipeline"][key] for key in ("channels", "instance_norm")}
            start = {"tokenizer": options["tokenizer"], "encoder": options["encoder"], "pipeline": wiring}
            start["data"] = {"resize": options["data"]["resize"]}
        tables = {"data": {"use": data, **_label_options(share, seed)}, "train": {"seed": seed}}
        folder = self.out / "run"
        result = _train_run(folder, ("start", start), *own, ("labels", self.file["labels"]), ("cell", tables))
        shutil.rmtree(folder)
        return {"accuracy": round(result.test["accuracy"], 4)}

    def _probe(self, steps: dict[str, Any], data: str, seed: int, run: Path) -> dict[str, Any]:
        """Return accuracies by label fraction, of trained and untrained weights."""
        import torch

        from tstk.config.records import RunConfig
        from tstk.config.resolve import Config
        from tstk.evaluation.features import feature_extractor
        from tstk.runs.build import build_pipeline
        from tstk.runs.checkpoint import load

        trained, run_config = load(run), RunConfig.read(run)
        torch.manual_seed(seed)
        wiring = {
            "channels": "independent" if trained.channel_independent else "mixed",
            "instance_norm": trained.instance_norm,
        }
        untrained = build_pipeline(Config(run_config.values), trained.spec, **wiring)
        untrained.bind()
        results = {}
        resize = run_config.options("data")["resize"]
        for weights, pipeline in ((FROZEN, trained), (UNTRAINED, untrained)):
            test, accuracies = None, []
            for share in self.file["shares"]:
                data_module = self._read(data, share, seed, resize)
                if pipeline.channel_independent:
                    pipeline.set_channels(data_module.mean, data_module.std)
                else:
                    pipeline.mean.copy_(data_module.mean[:, None])
                    pipeline.std.copy_(data_module.std[:, None])
                vector = feature_extractor(pipeline.eval(), steps.get("features", "pooled"), steps.get("pool", "mean"))
                test = test or _extract_features(vector, data_module.test)
                accuracies.append(_score_logistic_regression(*_extract_features(vector, data_module.train), *test))
            results[weights] = dict(zip(map(str, self.file["shares"]), accuracies, strict=True))
        return results

    def _baselines(self, data: str, seed: int) -> dict[str, Any]:
        """Return accuracies of the baselines by label fraction, and the numbers of labelled series."""
        from tstk.evaluation.baselines import score_classification_baselines

        results: dict[str, dict[str, float]] = {}
        for share in self.file["shares"]:
            data_module = self._read(data, share, seed)
            results.setdefault("series", {})[str(share)] = len(data_module.train)
            for name, scores in score_classification_baselines(
                [data_module.train], data_module.test, data_module.spec
            ).scores.items():
                results.setdefault(name, {})[str(share)] = round(scores["accuracy"], 4)
        return results

    def _read(self, data: str, share: float, seed: int, resize: int | None = None) -> Any:
        from tstk.data.config import DataConfig
        from tstk.data.load import load_data

        return load_data(data, DataConfig(**_label_options(share, seed), val_data="test", resize=resize))


def _label_options(share: float, seed: int) -> dict[str, Any]:
    """Return the options that select labelled series; the seed has no effect if all are used."""
    return {"label_fraction": share, "split_seed": seed} if share < 1 else {}


def _build_layers(tables: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the layers: the config that a method names, and its own tables."""
    from tstk.config.resolve import find_config
    from tstk.config.toml import read_toml

    own = ("method", {key: value for key, value in tables.items() if key != "config"})
    return [(name, read_toml(find_config(name))), own] if (name := tables.get("config")) else [own]


def _train_run(folder: Path, *layers: tuple[str, dict[str, Any]]) -> RunResult:
    from tstk.config.resolve import resolve_config
    from tstk.training.runs import train

    shutil.rmtree(folder, ignore_errors=True)  # remove an interrupted run
    return train(resolve_config(*layers), folder, command="python -m benchmarks.few_labels")


def _extract_features(vector: Any, part: Any) -> tuple[Any, Any]:
    """Return the features [N, W] and classes [N] of a split."""
    import torch

    from tstk.evaluation.evaluate import iter_batches

    with torch.no_grad():
        rows = torch.cat([vector(series) for series in iter_batches(part, 256, "cpu")])
    return rows.double().numpy(), part.y.numpy()


def _score_logistic_regression(x: Any, y: Any, x_test: Any, y_test: Any) -> float:
    """Return the test accuracy of a logistic regression on standardized features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x, y)
    return round(float(model.score(x_test, y_test)), 4)


def write_halves(name: str, out: Path) -> str:
    """Write the training split as a data set of its own: half of each class for training, the rest for testing."""
    from tstk.data.config import DataConfig
    from tstk.data.load import load_data
    from tstk.data.splits import stratified_split

    path = out / f"{Path(name).stem}-halves.npz"
    if not path.is_file():
        part: Any = load_data(name, DataConfig(val_data="test")).train
        parts = dict(zip(("train", "test"), stratified_split(part.y.numpy(), 0.5, 0), strict=True))
        arrays = {f"X_{kind}": part.x[rows].numpy() for kind, rows in parts.items()}
        np.savez_compressed(path, **arrays, **{f"y_{kind}": part.y[rows].numpy() for kind, rows in parts.items()})
    return str(path)


# ---------------------------------------------------------------- tables


def collect_scores(cells: Sequence[dict[str, Any]]) -> dict[tuple[str, str, float], dict[int, float]]:
    """Return (row, data set, fraction) -> seed -> accuracy; rows are (method, training) as in the tables."""
    collected: dict[tuple[str, str, float], dict[int, float]] = {}

    def add(row: str, c: dict[str, Any], share: str, value: float) -> None:
        collected.setdefault((row, c["data"], float(share)), {})[c["seed"]] = value

    for c in cells:
        kind, _, share = c["cell"].partition(" ")
        if share:
            add(f"{c['method']} | {kind}", c, share, c["accuracy"])
        for name in (FROZEN, UNTRAINED) if kind == "probe" else ():
            for fraction, value in c[name].items():
                add(f"{c['method']} | {name}", c, fraction, value)
        if c["method"] == BASELINES:
            for name in ("1-NN", "logistic"):
                for fraction, value in c.get(name, {}).items():
                    add(f"{name} | ", c, fraction, value)
    return collected


def format_tables(cells: Sequence[dict[str, Any]], shares: Sequence[float]) -> str:
    """Return Markdown tables: means over seeds and over the complete data sets, then one table per label fraction."""
    collected = collect_scores(cells)
    rows = list(dict.fromkeys(row for row, _, _ in collected))
    sets = list(dict.fromkeys(c["data"] for c in cells))
    complete = [d for d in sets if all((row, d, s) in collected for row in rows for s in shares)]
    means = {key: fmean(by_seed.values()) for key, by_seed in collected.items()}
    seeds = {d: sorted({c["seed"] for c in cells if c["data"] == d}) for d in sets}
    count = {(c["data"], float(s)): n for c in cells for s, n in c.get("series", {}).items()}

    def line(row: str, values: Sequence[float | None], best: Sequence[float]) -> str:
        shown = [
            "-" if v is None else (f"**{v:.3f}**" if round(v, 3) == round(b, 3) else f"{v:.3f}")
            for v, b in zip(values, best, strict=True)
        ]
        return f"| {row} | {' | '.join(shown)} |"

    lines = [
        f"Means over {', '.join(complete)}; seeds {', '.join(map(str, seeds[complete[0]])) if complete else 'none'}.",
        "",
    ]
    lines += [
        "| method | learns | " + " | ".join(f"{s:.0%}" for s in shares) + " |",
        "|---|---" + "|---:" * len(shares) + "|",
    ]
    overall = {row: [fmean(means[row, d, s] for d in complete) for s in shares] for row in rows} if complete else {}
    best = [max((v[i] for v in overall.values()), default=0.0) for i in range(len(shares))]
    lines += [line(row, values, best) for row, values in overall.items()]
    for share in shares:
        lines += ["", f"{share:.0%} of the labels, at least two of each class:", ""]
        lines += [
            "| method | learns | " + " | ".join(f"{d} ({count.get((d, share), 0)})" for d in sets) + " |",
            "|---|---" + "|---:" * len(sets) + "|",
        ]
        best = [max((means[r, d, share] for r in rows if (r, d, share) in means), default=0.0) for d in sets]
        lines += [line(row, [means.get((row, d, share)) for d in sets], best) for row in rows]
    return "\n".join(lines) + "\n"


def format_pairs(cells: Sequence[dict[str, Any]], shares: Sequence[float]) -> str:
    """Return a Markdown table of the gains of fine-tuning over scratch, and of frozen features over untrained ones.

    A gain is the mean difference over pairs of equal set and seed, with twice its standard error over the sets, and the
    number of sets with a higher, a lower and an equal mean.
    """
    collected = collect_scores(cells)
    methods = list(dict.fromkeys(c["method"] for c in cells if c["cell"] == "pretrain" or FROZEN in c))
    lines = [
        "| method | gain of | " + " | ".join(f"{s:.0%}" for s in shares) + " |",
        "|---|---" + "|---:" * len(shares) + "|",
    ]
    for method in methods:
        for tested, reference, title in (
            ("finetune", "scratch", "fine-tuning over scratch"),
            (FROZEN, UNTRAINED, "trained features over untrained"),
        ):
            row = []
            for share in shares:
                gains = []
                for (name, data, s), accuracies in collected.items():
                    reference_accuracies = collected.get((f"{method} | {reference}", data, s), {})
                    if (
                        name == f"{method} | {tested}"
                        and s == share
                        and (both := accuracies.keys() & reference_accuracies.keys())
                    ):
                        gains.append(fmean(accuracies[seed] - reference_accuracies[seed] for seed in both))
                if gains:
                    error = 2 * float(np.std(gains, ddof=1)) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
                    counts = [sum(round(g, 4) > 0 for g in gains), sum(round(g, 4) < 0 for g in gains)]
                    row.append(
                        f"{fmean(gains):+.3f} ± {error:.3f} ({counts[0]}-{counts[1]}-{len(gains) - sum(counts)})"
                    )
            if row:
                lines.append(f"| {method} | {title} | {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run missing cells, and write the tables and the record after each cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for cells and pretrained runs")
    parser.add_argument("--sets", metavar="NAME,...", help="data sets; all of the file if not given")
    parser.add_argument("--methods", metavar="NAME,...", help="methods; all of the file if not given")
    parser.add_argument("--seeds", default="0", metavar="int,...")
    parser.add_argument("--file", default=METHODS, metavar="FILE", help="methods file; few_labels.toml if not given")
    parser.add_argument(
        "--halves", action="store_true", help="learn from half of each training split, score the other half"
    )
    parser.add_argument("--data-root", metavar="DIR", help="folder in which data sets are looked up by name")
    parser.add_argument("--record", metavar="FILE", help="write all cells as compact JSON")
    args = parser.parse_args()

    file = tomllib.loads(Path(args.file).read_text(encoding="utf-8"))
    methods = args.methods.split(",") if args.methods else list(file["methods"])
    if unknown := [name for name in methods if name not in file["methods"]]:
        parser.error(f"--methods {','.join(unknown)}: {args.file} has {', '.join(file['methods'])}")
    if args.data_root:
        os.environ["TSTK_DATA"] = args.data_root
    bench = Bench(file, args.out)
    names = args.sets.split(",") if args.sets else file["data"]
    sets = {name: write_halves(name, args.out) if args.halves else name for name in names}
    local_paths = (str(args.out), args.data_root, args.record)
    words = ["DIR" if word in local_paths else word for word in sys.argv[1:]]  # leave local paths out of the record
    revision = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=METHODS.parent)
    head = {
        "commit": revision.stdout.strip(),
        "command": shlex.join(["python", "-m", "benchmarks.few_labels", *words]),
        "machine": f"{os.cpu_count()} CPU cores, one thread per run",
        **{name: file[name] for name in ("pretrain", "labels", "methods")},
    }
    for _ in bench.cells(sets, [int(seed) for seed in args.seeds.split(",")], methods):
        lines = (args.out / "cells.jsonl").read_text(encoding="utf-8").splitlines()
        cells = [json.loads(line) for line in lines]
        text = format_tables(cells, file["shares"]) + "\n" + format_pairs(cells, file["shares"])
        (args.out / "few_labels.md").write_text(text, encoding="utf-8")
        if args.record:
            Path(args.record).write_text(format_record({**head, "cells": cells}), encoding="utf-8")
    print((args.out / "few_labels.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
