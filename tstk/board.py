"""What training tells, for TensorBoard."""

from __future__ import annotations

from typing import Any

from tstk.account import Watcher
from tstk.errors import OptionError


class Board:
    """A watcher that writes event files and passes the news on.

    Args:
        folder: of the event files
        watcher: who is told too

    Raises:
        OptionError: the package tensorboard is not installed
    """

    def __init__(self, folder: str, watcher: Watcher | None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as e:
            raise OptionError(f"--tensorboard {folder}: {e.name} is not installed: pip install tensorboard") from None
        self.writer, self.watcher = SummaryWriter(folder), watcher
        self.at = 0

    def begin(self, steps: int, epochs: int) -> None:
        """Training starts."""
        if self.watcher:
            self.watcher.begin(steps, epochs)

    def step(self, step: int, epoch: int, terms: dict[str, float], speed: float) -> None:
        """Some steps are done."""
        self.at = step
        for name, value in terms.items():
            self.writer.add_scalar(f"train/{name}", value, step)
        if self.watcher:
            self.watcher.step(step, epoch, terms, speed)

    def epoch(self, row: dict[str, Any], improved: bool) -> None:
        """An epoch is over."""
        for name, value in row["val"].items():
            self.writer.add_scalar(f"val/{name}", value, self.at)
        self.writer.add_scalar("lr", row["lr"], self.at)
        self.writer.flush()
        if self.watcher:
            self.watcher.epoch(row, improved)
