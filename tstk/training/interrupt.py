"""Save the training state between steps, and stop cleanly on SIGINT or SIGTERM."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from torch import distributed

from tstk.training.distributed import get_world_size
from tstk.training.resume_store import ResumeStore
from tstk.training.state import TrainState


class TrainingInterrupted(KeyboardInterrupt):
    """A signal stopped training, whose state is saved and can be resumed.

    Args:
        step: optimizer steps taken
        signum: number of the signal
    """

    def __init__(self, step: int, signum: int) -> None:
        super().__init__(f"stopped at step {step}")
        self.step, self.signum = step, signum


class SavePoints:
    """Points between steps at which training saves its state, if saving is due or a signal is pending.

    Args:
        resume_store: where to save; None never saves
        train_state: the state to save
        get_pending_signal: returns the number of the signal received, 0 if none
    """

    SYNC_EVERY_STEPS = 50
    """Steps between two checks where several processes must agree on what to do."""

    def __init__(
        self, resume_store: ResumeStore | None, train_state: TrainState, get_pending_signal: Callable[[], int]
    ) -> None:
        self.resume_store, self.train_state, self.get_pending_signal = resume_store, train_state, get_pending_signal
        self.num_bytes = sum(v.nbytes for v in train_state.pipeline.state_dict().values())
        self.is_distributed = get_world_size() > 1

    def check_after_step(self) -> None:
        """Save or stop after an optimizer step if due.

        Raises:
            TrainingInterrupted: a signal is pending; the state is saved
        """
        if self.resume_store is not None and not (
            self.is_distributed and self.train_state.step_in_epoch % self.SYNC_EVERY_STEPS
        ):
            self._save_or_stop(self.resume_store)

    def check_after_epoch(self) -> None:
        """Save or stop after the validation of an epoch if due.

        Raises:
            TrainingInterrupted: a signal is pending; the state is saved
        """
        if self.resume_store is not None:
            self._save_or_stop(self.resume_store)

    def _save_or_stop(self, resume_store: ResumeStore) -> None:
        signum, is_due = self.get_pending_signal(), resume_store.is_due(self.num_bytes)
        if self.is_distributed:
            # the first process decides whether saving is due; a signal may have reached any of them
            flags = torch.tensor(
                [signum, is_due and resume_store.is_writer], device=self.train_state.pipeline.mean.device
            )
            distributed.all_reduce(flags, distributed.ReduceOp.MAX)
            signum, is_due = flags.tolist()
        if signum or is_due:
            resume_store.save(*self.train_state.state_dict())
        if signum and not self.train_state.is_done:
            raise TrainingInterrupted(self.train_state.step, signum)


@contextmanager
def defer_signals() -> Iterator[Callable[[], int]]:
    """Record the first SIGINT or SIGTERM inside the context instead of handling it; handle the next one as usual.

    Yields:
        a function that returns the number of the recorded signal, 0 if there was none
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0  # only the main thread can set signal handlers
        return
    pending = 0
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    # leave alone what is ignored, as under nohup (SIG_IGN), and what was not set from Python (None)
    previous = {signum: handler for signum, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}

    def restore() -> None:
        for signum, handler in previous.items():
            signal.signal(signum, handler)

    def record(signum: int, frame: FrameType | None) -> None:
        nonlocal pending
        pending = signum
        restore()

    for signum in previous:
        signal.signal(signum, record)
    try:
        yield lambda: pending
    finally:
        restore()
