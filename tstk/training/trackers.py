"""Log metrics to TensorBoard, Weights & Biases or MLflow through Accelerate's trackers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tstk.config.records import RunConfig
from tstk.config.run_directory import CONFIG_FILE
from tstk.errors import OptionError, did_you_mean
from tstk.plugins.distribution import format_install_command
from tstk.training.callbacks import Callback

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

    from tstk.training.loop import Trainer

TRACKERS = ("tensorboard", "wandb", "mlflow")


class TrackerCallback(Callback):
    """Logs losses and metrics to experiment trackers.

    Args:
        names: names of trackers, from `TRACKERS`
        run_dir: the run directory: its name becomes the name of the run, its config is logged, and trackers write
            their files there

    Raises:
        OptionError: a tracker is unknown, or its package is not installed
    """

    def __init__(self, names: Iterable[str], run_dir: Path) -> None:
        for name in names:
            if name not in TRACKERS:
                raise OptionError(
                    f"--trackers {name}: expected one of {', '.join(TRACKERS)}.{did_you_mean(name, TRACKERS)}"
                )
            if find_spec(name) is None:
                raise OptionError(f"--trackers {name}: {name} is not installed: {format_install_command(name)}")
        self.trackers = [_create_tracker(name, run_dir) for name in names]

    def on_log(self, trainer: Trainer, losses: dict[str, float], series_per_second: float) -> None:
        """Log the losses."""
        self._log({f"train/{name}": value for name, value in losses.items()}, trainer.step)

    def on_validation_end(self, trainer: Trainer, metrics: dict[str, Any]) -> None:
        """Log the validation metrics and the learning rate."""
        values = {f"val/{name}": value for name, value in metrics["val"].items()}
        self._log(values | {"lr": metrics["lr"]}, trainer.step)

    def teardown(self) -> None:
        """Finish the runs of all trackers, whether training succeeded or not."""
        for tracker in self.trackers:
            tracker.finish()

    def _log(self, values: dict[str, float], step: int) -> None:
        for tracker in self.trackers:
            tracker.log(values, step=step)


def _create_tracker(name: str, run_dir: Path) -> GeneralTracker:
    from accelerate.tracking import MLflowTracker, TensorBoardTracker, WandBTracker

    tracker = {
        "tensorboard": lambda: TensorBoardTracker("tensorboard", run_dir),
        "wandb": lambda: WandBTracker("tstk", name=run_dir.name, dir=str(run_dir)),
        "mlflow": lambda: MLflowTracker("tstk", run_name=run_dir.name),
    }[name]()
    if hasattr(tracker, "start"):  # later versions of Accelerate start the run here, not in the constructor
        tracker.start()
    if (run_dir / CONFIG_FILE).is_file():
        tracker.store_init_configuration(dict(_flatten(RunConfig.read(run_dir).values)))
    return tracker


def _flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the entries of nested tables under dotted names, as values that trackers accept."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, int | float | str | bool) else str(value)
