"""A lock on a name: of several processes that would write the same files, one works and the others wait."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tstk.files import explain_write_errors

POLL_SECONDS = 0.05


@contextmanager
def file_lock(path: Path, while_waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold an exclusive lock, which the system releases if the process dies; what it protects may have changed before.

    Where the system has no such locks, on Windows and some network drives, nothing is locked.

    Args:
        path: of the lock file, which exists only as long as a process holds or awaits the lock
        while_waiting: called again and again as long as another process holds it

    Raises:
        FileError: the lock file cannot be created
    """
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock
    except ImportError:  # Windows
        yield
        return
    while True:
        with explain_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            flock(descriptor, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            while_waiting()
            time.sleep(POLL_SECONDS)
            continue
        except OSError:  # the file system has no locks
            break
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            break
        os.close(descriptor)  # the process that held it has removed the file
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock of this file; where there are no locks, whether the file exists."""
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock
    except ImportError:  # Windows
        return path.exists()
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        flock(descriptor, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # the file system has no locks
        return True
    finally:
        os.close(descriptor)
    return False
