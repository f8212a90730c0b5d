"""A class per sample on real data: the activity at each sample of whole recordings of UCI HAR.

    python benchmarks/segmentation.py HAR OUT [SEED ...]

HAR is the folder with `uci_har_train.npz` and `uci_har_test.npz`, whose windows of 128 samples overlap by half and know
their recording and their first sample. They are put back into the recordings that they were cut from, of 21 people to
train on and 9 to test on. A sample has the class of its windows, which agree wherever they overlap. The postural
transitions between activities, which the windows leave out, are missing samples without a class. Trains one default
pipeline per seed and prints the scores on test of each run and of the baselines. `docs/results.md` has a result.
"""

import sys
from pathlib import Path

import numpy as np

import tstk

OPTIONS = {"task": "segmentation", "length": 512, "steps": 300, "batch_size": 32}


def join_windows(path: Path) -> dict[str, np.ndarray]:
    """Return the recordings of one split: samples [N, C, T], classes [N, T], and the subject and name of each."""
    with np.load(path) as arrays:
        x, y, start, recording, subject = (arrays[k] for k in ("X", "y", "start", "recording", "subject"))
    numbers, num_samples = np.unique(recording), int(start.max()) + x.shape[2]
    samples = np.full((len(numbers), x.shape[1], num_samples), np.nan, np.float32)
    classes = np.full((len(numbers), num_samples), -1)
    for window, label, first, row in zip(x, y, start, np.searchsorted(numbers, recording), strict=True):
        place = slice(first, first + x.shape[2])
        if not set(np.unique(classes[row, place]).tolist()) <= {-1, int(label)}:
            raise ValueError(f"{path}: windows of recording {numbers[row]} disagree at sample {first}")
        samples[row, :, place], classes[row, place] = window, label
    subjects = [int(subject[recording == number][0]) for number in numbers]
    return {"X": samples, "y": classes, "subject": np.array(subjects), "ids": numbers}


def write_recordings(folder: Path, path: Path) -> None:
    """Write the recordings of both splits, and the names of classes and channels, as an .npz data set."""
    with np.load(folder / "uci_har_train.npz") as train:
        arrays = {name: train[name] for name in ("classes", "channels")}
    for split in ("train", "test"):
        recordings = join_windows(folder / f"uci_har_{split}.npz")
        arrays |= {f"{name}_{split}": values for name, values in recordings.items()}
    np.savez(path, **arrays)


def main(har: str, out: str, *seeds: str) -> None:
    """Train one run per seed and print a table."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "har-recordings.npz"
    write_recordings(Path(har), path)
    rows: dict[str, dict[str, float]] = {}
    for seed in map(int, seeds or ("0",)):
        result = tstk.fit(data=str(path), seed=seed, out=folder / f"seed-{seed}", **OPTIONS)
        rows = {**result.baselines, **rows, f"seed {seed} ({result.seconds:.0f} s)": result.test}
    metrics = ("f1_macro", "sample_accuracy", "balanced_accuracy", "kappa", "edit", "f1_10", "f1_25", "f1_50")
    print(f"{'':20}" + "".join(f"{name:>18}" for name in metrics))
    for name, scores in rows.items():
        print(f"{name:20}" + "".join(f"{scores[metric]:18.3f}" for metric in metrics), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
