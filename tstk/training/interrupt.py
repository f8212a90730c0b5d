"""Save the training state between steps, and stop cleanly on SIGINT or SIGTERM."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from tstk.core.types import StepOutput
from tstk.training.callbacks import Callback
from tstk.training.distributed import get_world_size, max_over_processes
from tstk.training.resume_store import ResumeStore
from tstk.training.state import state_dict

if TYPE_CHECKING:
    from tstk.training.loop import Trainer


class TrainingInterrupted(KeyboardInterrupt):
    """A signal stopped training, whose state is saved and can be resumed.

    Args:
        step: optimizer steps taken
        signum: number of the signal
    """

    def __init__(self, step: int, signum: int) -> None:
        super().__init__(f"stopped at step {step}")
        self.step, self.signum = step, signum


class SavePoints(Callback):
    """Saves the training state between two steps if saving is due, and stops if a signal was received.

    Args:
        resume_store: where to save
    """

    SYNC_EVERY_STEPS = 50
    """Steps between two checks where several processes must agree on what to do."""

    def __init__(self, resume_store: ResumeStore) -> None:
        self.resume_store, self.exit_stack = resume_store, ExitStack()

    def on_fit_start(self, trainer: Trainer) -> None:
        """Defer signals until the end of training."""
        self.get_pending_signal = self.exit_stack.enter_context(defer_signals())
        self.num_bytes = sum(v.nbytes for v in trainer.pipeline.state_dict().values())

    def on_step_end(self, trainer: Trainer, step_outputs: list[StepOutput]) -> None:
        """Save or stop if due.

        Raises:
            TrainingInterrupted: a signal is pending; the state is saved
        """
        if get_world_size() == 1 or not trainer.step_in_epoch % self.SYNC_EVERY_STEPS:
            self._save_or_stop(trainer)

    def on_epoch_end(self, trainer: Trainer, metrics: dict[str, Any]) -> None:
        """Save metrics and best weights; save the state or stop if due.

        Raises:
            TrainingInterrupted: a signal is pending; the state is saved
        """
        best_weights = trainer.best_epoch.best_weights if trainer.best_epoch.is_best(metrics) else None
        self.resume_store.save_epoch(metrics, trainer.pipeline, best_weights)
        self._save_or_stop(trainer)

    def teardown(self) -> None:
        """Handle signals as before."""
        self.exit_stack.close()

    def _save_or_stop(self, trainer: Trainer) -> None:
        # the first process decides whether saving is due; a signal may have reached any of them
        is_due = self.resume_store.is_writer and self.resume_store.is_due(self.num_bytes)
        signum, should_save = max_over_processes(self.get_pending_signal(), is_due)
        if signum or should_save:
            self.resume_store.save(state_dict(trainer))
        if signum and not trainer.is_done:
            raise TrainingInterrupted(trainer.step, signum)


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
