"""Log metrics to TensorBoard, Weights & Biases, MLflow or a plugin's tracker through Accelerate's trackers.

An entry of the kind `tracker` is a function of the run directory that returns an `accelerate.tracking.GeneralTracker`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tstk.config.records import RunConfig
from tstk.config.run_directory import CONFIG_FILE
from tstk.errors import OptionError
from tstk.plugins.distribution import format_install_command
from tstk.plugins.registry import get_registry
from tstk.training.callbacks import Callback

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

    from tstk.training.state import TrainState


class TrackerCallback(Callback):
    """Logs losses and metrics to experiment trackers.

    Args:
        names: names of trackers
        run_dir: the run directory: its name becomes the name of the run, its config is logged, and trackers write
            their files there

    Raises:
        UnknownNameError: there is no such tracker
        OptionError: the package of a tracker of the core is not installed
    """

    def __init__(self, names: Iterable[str], run_dir: Path) -> None:
        entries = [get_registry().find("tracker", name) for name in names]
        for name in (entry.name for entry in entries if entry.dist == "tstk"):
            if find_spec(name) is None:
                raise OptionError(f"--trackers {name}: {name} is not installed: {format_install_command(name)}")
        self.trackers = [_start_tracker(get_registry().load(entry)(run_dir), run_dir) for entry in entries]

    def on_log(self, state: TrainState, losses: dict[str, float], series_per_second: float) -> None:
        """Log the losses."""
        self._log({f"train/{name}": value for name, value in losses.items()}, state.step)

    def on_validation_end(self, state: TrainState, metrics: dict[str, Any]) -> None:
        """Log the validation metrics and the learning rate."""
        values = {f"val/{name}": value for name, value in metrics["val"].items()}
        self._log(values | {"lr": metrics["lr"]}, state.step)

    def teardown(self) -> None:
        """Finish the runs of all trackers, whether training succeeded or not."""
        for tracker in self.trackers:
            tracker.finish()

    def _log(self, values: dict[str, float], step: int) -> None:
        for tracker in self.trackers:
            tracker.log(values, step=step)


def create_tensorboard(run_dir: Path) -> GeneralTracker:
    """Create a tracker that writes to the folder `tensorboard` of the run."""
    from accelerate.tracking import TensorBoardTracker

    return TensorBoardTracker("tensorboard", run_dir)


def create_wandb(run_dir: Path) -> GeneralTracker:
    """Create a tracker that logs to a run of Weights & Biases, and writes to the folder `wandb` of the run."""
    from accelerate.tracking import WandBTracker

    return WandBTracker("tstk", name=run_dir.name, dir=str(run_dir))


def create_mlflow(run_dir: Path) -> GeneralTracker:
    """Create a tracker that logs to a run of MLflow."""
    from accelerate.tracking import MLflowTracker

    return MLflowTracker("tstk", run_name=run_dir.name)


def _start_tracker(tracker: GeneralTracker, run_dir: Path) -> GeneralTracker:
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
