"""An experiment tracker: a line per call in a file beside the run."""

from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker


class Sketch(GeneralTracker):
    """Append what is logged to a file."""

    name = "sketch"
    requires_logging_directory = False

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @property
    def tracker(self) -> Path:
        """The file."""
        return self.path

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Log the options of the run."""
        self.log(values, step=0)

    def log(self, values: dict[str, Any], step: int | None = None, **options: Any) -> None:
        """Append a line with the step and its values."""
        with self.path.open("a") as file:
            print(step, values, file=file)


def create_tracker(run_dir: Path) -> GeneralTracker:
    """Return the tracker of a run."""
    return Sketch(run_dir.with_suffix(".sketch.log"))
