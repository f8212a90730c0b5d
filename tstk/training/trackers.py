"""What training tells, for TensorBoard, Weights & Biases or MLflow, through Accelerate's trackers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tstk.errors import OptionError, did_you_mean
from tstk.plugins.distribution import install_command
from tstk.training.metric_tracker import Watcher

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

TRACKERS = ("tensorboard", "wandb", "mlflow")


class Board:
    """A watcher that passes the news on to trackers, and to another watcher.

    Args:
        names: of the trackers
        folder: of the run, whose options they are told and whose name theirs is; files they write go there
        watcher: who is told too

    Raises:
        OptionError: there is no such tracker, or its package is not installed
    """

    def __init__(self, names: Iterable[str], folder: Path, watcher: Watcher | None) -> None:
        for name in names:
            if name not in TRACKERS:
                raise OptionError(f"--track {name}: there are {', '.join(TRACKERS)}.{did_you_mean(name, TRACKERS)}")
            if find_spec(name) is None:
                raise OptionError(f"--track {name}: {name} is not installed: {install_command(name)}")
        self.trackers = [_tracker(name, folder) for name in names]
        self.watcher = watcher
        self.at = 0

    def begin(self, steps: int, epochs: int) -> None:
        """Training starts."""
        if self.watcher:
            self.watcher.begin(steps, epochs)

    def step(self, step: int, epoch: int, terms: dict[str, float], speed: float) -> None:
        """Some steps are done."""
        self.at = step
        self._tell({f"train/{name}": value for name, value in terms.items()})
        if self.watcher:
            self.watcher.step(step, epoch, terms, speed)

    def epoch(self, row: dict[str, Any], improved: bool) -> None:
        """An epoch is over."""
        self._tell({f"val/{name}": value for name, value in row["val"].items()} | {"lr": row["lr"]})
        if self.watcher:
            self.watcher.epoch(row, improved)

    def close(self) -> None:
        """Training is over, well or not."""
        for tracker in self.trackers:
            tracker.finish()

    def _tell(self, values: dict[str, float]) -> None:
        for tracker in self.trackers:
            tracker.log(values, step=self.at)


def _tracker(name: str, folder: Path) -> GeneralTracker:
    from accelerate.tracking import MLflowTracker, TensorBoardTracker, WandBTracker

    tracker = {
        "tensorboard": lambda: TensorBoardTracker("tensorboard", folder),
        "wandb": lambda: WandBTracker("tstk", name=folder.name, dir=str(folder)),
        "mlflow": lambda: MLflowTracker("tstk", run_name=folder.name),
    }[name]()
    if hasattr(tracker, "start"):  # later versions of Accelerate begin when told to
        tracker.start()
    config = folder / "config.json"
    if config.is_file():
        tracker.store_init_configuration(dict(_flat(json.loads(config.read_text(encoding="utf-8"))["config"])))
    return tracker


def _flat(table: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value if isinstance(value, int | float | str | bool) else str(value)
