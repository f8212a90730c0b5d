"""Watch the import of a plugin: say which one takes long, and tell Ctrl-C from an exception that the plugin raises."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tstk.errors import escape_control_characters

NOTICE_SECONDS = 3.0
"""Time after which a line on stderr names the plugin that is being imported."""


@contextmanager
def watch_import(name: str) -> Iterator[threading.Event]:
    """Name a plugin on stderr if the block takes long; yield an event that is set if the user presses Ctrl-C.

    Args:
        name: of the plugin
    """
    interrupted = threading.Event()
    previous = signal.getsignal(signal.SIGINT)

    def on_interrupt(signum: int, frame: FrameType | None) -> None:
        interrupted.set()
        previous(signum, frame)  # type: ignore[operator, misc]

    can_handle = callable(previous) and threading.current_thread() is threading.main_thread()
    timer = threading.Timer(NOTICE_SECONDS, _print_notice, [name])
    timer.daemon = True
    timer.start()
    if can_handle:
        signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield interrupted
    finally:
        if can_handle:
            signal.signal(signal.SIGINT, previous)
        timer.cancel()


def _print_notice(name: str) -> None:
    line = (
        f"note: still importing the plugin {name}; Ctrl-C stops, TSTK_PLUGINS=none starts without plugins, and "
        "TSTK_PLUGINS=none tstk doctor finds the ones that hang"
    )
    print(escape_control_characters(line, keep=""), file=sys.__stderr__, flush=True)
