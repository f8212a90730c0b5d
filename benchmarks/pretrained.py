"""Linear probe of a pretrained run against 1-NN and MiniRocket, on thirteen UCR and UEA data sets and har-demo.

    python -m benchmarks.pretrained pretrained/small --data-root DIR             # on test splits
    python -m benchmarks.pretrained RUN... --data-root DIR --folds               # on training splits, for selection

Features are means and standard deviations of tokens, concatenated over channels. C of the logistic regression is
selected by five-fold cross-validation on the training split; with --folds, C is 1 and accuracy is that of five folds of
at most 500 training series, so that test splits do not influence selection. Test scores of 1-NN and MiniRocket are
those of results/classification.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

SETS = [
    "ArrowHead",
    "ECG5000",
    "GunPoint",
    "ItalyPowerDemand",
    "PhalangesOutlinesCorrect",
    "SyntheticControl",
    "AtrialFibrillation",
    "BasicMotions",
    "Epilepsy",
    "JapaneseVowels",
    "NATOPS",
    "PenDigits",
    "UWaveGestureLibrary",
]
PEERS = Path(__file__).with_name("results") / "classification" / "seed-0.json"
CAP = 500


def score_on_test(run: str, data_root: str | None) -> dict[str, Any]:
    """Return accuracies on each test split, of trained and untrained weights and of the peers."""
    from tstk.evaluation.probe import probe

    peer_results = json.loads(PEERS.read_text())
    peers = {(c["method"], c["data"]): c["scores"]["accuracy"] for c in peer_results["cells"]}
    rows = {}
    for name in [*SETS, "har-demo"]:
        begin = time.perf_counter()
        result = probe(run, name, data_root=data_root, pool="statistics", select_on="folds", untrained=True)
        scores = {row["weights"]: round(row["accuracy"], 4) for row in result["results"]}
        rows[name] = {
            "training": result["sizes"]["train"] + result["sizes"]["val"],
            "C": result["results"][0]["trials"][0]["chosen"]["C"],
            **scores,
            **{peer: round(peers[peer, name], 4) for peer in ("1nn", "minirocket")},
            "seconds": round(time.perf_counter() - begin, 1),
        }
        print(name, rows[name], flush=True)
    return {"run": run, "rows": rows}


def format_table(result: dict[str, Any]) -> str:
    """Return the test scores as a Markdown table."""
    rows = result["rows"]
    lines = [
        "| data | training series | frozen features | untrained | 1-NN | MiniRocket |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    kinds = ("trained", "untrained", "1nn", "minirocket")

    def cells(row: dict[str, float]) -> str:
        return " | ".join(f"{row[kind]:.3f}".lstrip("0") for kind in kinds)

    lines += [f"| {name} | {row['training']} | {cells(row)} |" for name, row in rows.items()]
    for title, names in (("mean of thirteen", SETS), ("mean of fourteen", rows)):
        lines.append(f"| *{title}* | | {cells({k: fmean(rows[n][k] for n in names) for k in kinds})} |")
    above = sum(rows[n]["trained"] > rows[n]["1nn"] for n in SETS)
    lines += ["", f"Above 1-NN on {above} of {len(SETS)} archive sets."]
    return "\n".join(lines)


def score_on_folds(runs: list[str], data_root: str | None) -> None:
    """Print cross-validated accuracies on the training splits: of 1-NN, and of each run, trained and untrained."""
    from tstk.config.records import RunConfig
    from tstk.config.resolve import Config
    from tstk.data.config import DataConfig
    from tstk.data.load import load_data
    from tstk.runs.build import build_pipeline
    from tstk.runs.checkpoint import load, parse_spec

    sets = [read_training_series(load_data(name, DataConfig(data_root=data_root))) for name in SETS]
    _print("1-NN", [score_nearest_neighbor(x, mask, y, data) for data, x, mask, y in sets])
    for run in runs:
        run_config = RunConfig.read(run)
        torch.manual_seed(0)
        untrained = build_pipeline(Config(run_config.values), parse_spec(run_config), channels="independent").eval()
        for name, pipeline in ((f"{run}, untrained", untrained), (run, load(run))):
            _print(
                name,
                [score_logistic_regression(extract_features(pipeline, data, x, mask), y) for data, x, mask, y in sets],
            )


def read_training_series(data: Any) -> tuple[Any, Tensor, Tensor, np.ndarray]:
    """Return the data module and at most CAP training series [N, C, T], their observed mask and their classes."""
    parts = [part.batch(torch.arange(len(part))) for part in data.training_parts]
    length = max(part.x.shape[2] for part in parts)

    def pad_and_concatenate(tensors: list[Tensor]) -> Tensor:
        return torch.cat([torch.nn.functional.pad(t, (0, length - t.shape[2])) for t in tensors])

    y = torch.cat([part.y for part in parts])
    rows = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))[:CAP] if len(y) > CAP else slice(None)
    return (
        data,
        pad_and_concatenate([p.x for p in parts])[rows],
        pad_and_concatenate([p.observed_mask for p in parts])[rows],
        y[rows].numpy(),
    )


def extract_features(pipeline: Any, data: Any, x: Tensor, mask: Tensor) -> np.ndarray:
    """Return frozen features [N, W]."""
    from tstk.core.types import Series

    pipeline.set_channels(data.mean, data.std)
    batches = torch.arange(len(x)).split(64)
    return torch.cat([pipeline.embed_batch(Series(x[i], mask[i]), "statistics") for i in batches]).double().numpy()


def score_logistic_regression(x: np.ndarray, y: np.ndarray) -> float:
    """Return the cross-validated accuracy of a logistic regression on standardized features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def count_correct(fit: np.ndarray, held_out: np.ndarray) -> int:
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)).fit(x[fit], y[fit])
        return int((model.predict(x[held_out]) == y[held_out]).sum())

    return _cross_validate(count_correct, y)


def score_nearest_neighbor(x: Tensor, mask: Tensor, y: np.ndarray, data: Any) -> float:
    """Return the cross-validated accuracy of 1-NN on standardized samples."""
    rows = (((x - data.mean[:, None]) / data.std[:, None]) * mask).flatten(1).double()

    def count_correct(fit: np.ndarray, held_out: np.ndarray) -> int:
        return int((y[fit][torch.cdist(rows[held_out], rows[fit]).argmin(1).numpy()] == y[held_out]).sum())

    return _cross_validate(count_correct, y)


def _cross_validate(count: Any, y: np.ndarray) -> float:
    from sklearn.model_selection import StratifiedKFold

    folds = StratifiedKFold(min(5, int(np.bincount(y).max())), shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # small classes, and regressions that stop early
        return sum(count(fit, held_out) for fit, held_out in folds.split(y, y)) / len(y)


def _print(name: str, scores: list[float]) -> None:
    print(f"{name}: mean {fmean(scores):.4f}", *(f"{s:.3f}" for s in scores), flush=True)


def main() -> None:
    """Score runs on test splits, or on folds of training splits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--data-root", metavar="DIR")
    parser.add_argument("--folds", action="store_true", help="cross-validate on training splits")
    parser.add_argument("--record", metavar="FILE", help="write the test scores as JSON")
    args = parser.parse_args()
    if args.folds:
        score_on_folds(args.runs, args.data_root)
        return
    for run in args.runs:
        result = score_on_test(run, args.data_root)
        print(format_table(result))
        if args.record:
            Path(args.record).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
