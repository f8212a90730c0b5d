"""Save the training state between steps, and stop cleanly on SIGINT, SIGTERM, SIGHUP or SIGUSR1."""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from tstk.core.types import StepOutput
from tstk.training.callbacks import Callback
from tstk.training.distributed import get_world_size, max_over_processes
from tstk.training.launcher import SIGNALS
from tstk.training.resume_store import ResumeStore

if TYPE_CHECKING:
    from tstk.training.state import TrainState


class TrainingInterrupted(KeyboardInterrupt):
    """A signal stopped training, which can be resumed.

    Args:
        message: where it stopped, or what was saved
        run_dir: of the run
        signum: number of the signal
    """

    def __init__(self, message: str, run_dir: Path, signum: int) -> None:
        super().__init__(message)
        self.run_dir, self.signum = run_dir, signum


class SavePoints(Callback):
    """Saves the training state between two steps if saving is due, and stops if a signal was received.

    Args:
        resume_store: where to save
        get_state_dict: returns what is to be saved; called in every process
    """

    SYNC_EVERY_STEPS = 50
    """Steps between two checks where several processes must agree on what to do."""

    def __init__(self, resume_store: ResumeStore, get_state_dict: Callable[[], dict[str, Any]]) -> None:
        self.resume_store, self.get_state_dict, self.exit_stack = resume_store, get_state_dict, ExitStack()

    def on_fit_start(self, state: TrainState) -> None:
        """Defer signals until the end of training."""
        self.get_pending_signal = self.exit_stack.enter_context(defer_signals())
        self.num_bytes = sum(v.nbytes for v in state.pipeline.state_dict().values())

    def on_step_end(self, state: TrainState, step_outputs: list[StepOutput]) -> None:
        """Save or stop if due.

        Raises:
            TrainingInterrupted: a signal is pending; the state is saved
        """
        if get_world_size() == 1 or not state.step_in_epoch % self.SYNC_EVERY_STEPS:
            self._save_or_stop(state)

    def on_epoch_end(self, state: TrainState, metrics: dict[str, Any]) -> None:
        """Save metrics and best weights; save the state or stop if due.

        Raises:
            TrainingInterrupted: a signal is pending; the state is saved
        """
        best_weights = state.best_weights if state.best_metrics is metrics else None
        self.resume_store.save_epoch(metrics, state.pipeline, best_weights)
        self._save_or_stop(state)

    def teardown(self) -> None:
        """Handle signals as before."""
        self.exit_stack.close()

    def _save_or_stop(self, state: TrainState) -> None:
        # the first process decides whether saving is due; a signal may have reached any of them
        is_due = self.resume_store.is_writer and self.resume_store.is_due(self.num_bytes)
        signum, should_save = max_over_processes(self.get_pending_signal(), is_due)
        if signum or should_save:
            self.resume_store.save(self.get_state_dict())
        if signum and not state.is_done:
            raise TrainingInterrupted(f"stopped at step {state.step}", self.resume_store.run_dir, signum)


@contextmanager
def defer_signals() -> Iterator[Callable[[], int]]:
    """Record the first of `SIGNALS` instead of handling it; handle a second SIGINT as usual.

    The others may arrive several times, from a scheduler and from the process that launched this one.

    Yields:
        a function that returns the number of the recorded signal, 0 if there was none
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0  # only the main thread can set signal handlers
        return
    pending = 0
    handlers = {signum: signal.getsignal(signum) for signum in SIGNALS}
    # leave alone what is ignored, as under nohup (SIG_IGN), and what was not set from Python (None)
    previous = {signum: handler for signum, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}

    def record(signum: int, frame: FrameType | None) -> None:
        nonlocal pending
        pending = pending or signum
        if signum == signal.SIGINT:
            signal.signal(signum, previous[signal.SIGINT])
        _discard_output_to_closed_terminal()

    for signum in previous:
        signal.signal(signum, record)
    try:
        yield lambda: pending
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def _discard_output_to_closed_terminal() -> None:
    """Send stdout and stderr to /dev/null if their terminal was closed, so that writing to it does not end training."""
    for descriptor in (1, 2):
        with suppress(OSError):  # it is closed
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, descriptor)
                os.close(null)
