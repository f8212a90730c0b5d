"""Pauses of training: between two steps it may be saved, and left when somebody asks."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from torch import distributed

from tstk.training.resume_store import Last
from tstk.training.state import Moving, processes


class Stopped(KeyboardInterrupt):
    """Training was interrupted, and what it goes on from is saved.

    Args:
        step: the last that was done
        number: of the signal
    """

    def __init__(self, step: int, number: int) -> None:
        super().__init__(f"stopped at step {step}")
        self.step, self.number = step, number


class Pauses:
    """Where training may be saved, because it is time or somebody asks it to stop.

    Args:
        last: where to; without it nothing happens
        now: the training
        asked: the signal that was sent, 0 if none
    """

    AGREE = 50
    """Of several processes, who must all do the same, steps from one agreement to the next."""

    def __init__(self, last: Last | None, now: Moving, asked: Callable[[], int]) -> None:
        self.last, self.now, self.asked = last, now, asked
        self.size = sum(v.nbytes for v in now.pipeline.state_dict().values())
        self.several = processes() > 1

    def between_steps(self) -> None:
        """A step is done.

        Raises:
            Stopped: somebody asked, and all is saved
        """
        if self.last is not None and not (self.several and self.now.at % self.AGREE):
            self._pause(self.last)

    def between_epochs(self) -> None:
        """An epoch is validated.

        Raises:
            Stopped: somebody asked, and all is saved
        """
        if self.last is not None:
            self._pause(self.last)

    def _pause(self, last: Last) -> None:
        asked, due = self.asked(), last.due(self.size)
        if self.several:
            # what the first process says is due; any of them may have been asked
            said = torch.tensor([asked, due and last.writes], device=self.now.pipeline.mean.device)
            distributed.all_reduce(said, distributed.ReduceOp.MAX)
            asked, due = said.tolist()
        if asked or due:
            last.save(*self.now.state())
        if asked and not self.now.done:
            raise Stopped(self.now.step, asked)


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], int]]:
    """While inside, the first SIGINT or SIGTERM is noted; the next is obeyed at once.

    Yields:
        the number of the signal that was noted, 0 so far
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0  # signals are the main thread's
        return
    noted = 0
    now = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # what is ignored, as by nohup, or somebody else's business, stays so
    before = {number: handler for number, handler in now.items() if handler not in (signal.SIG_IGN, None)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal noted
        noted = number
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: noted
    finally:
        restore()
