"""Work in a forked child that is killed with SIGKILL after some seconds."""

import os
import signal
import time
import traceback
from collections.abc import Callable


def run_and_kill(work: Callable[[Callable[[], None]], None], after: float | None) -> bool:
    """Run `work` in a child process and return whether it was killed; raise SystemExit if it fails by itself.

    Args:
        work: called with a function that it has to call once; the seconds count from that call
        after: kill the child after so many seconds; None lets it end
    """
    hears, awake = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(hears)
            work(lambda: os.write(awake, b"."))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(awake)
    if os.read(hears, 1) and after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    os.close(hears)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        raise SystemExit(1)
    return os.WIFSIGNALED(status)
