"""Signals end training between two steps, with everything saved."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from tstk.training.interrupt import defer_signals
from tstk.training.launcher import SIGNALS

STOPPING = [s for s in SIGNALS if s != signal.SIGINT]


@pytest.mark.parametrize("signum", STOPPING, ids=lambda s: s.name)
@pytest.mark.usefixtures("hangup")
def test_a_scheduler_may_send_its_signal_twice(signum):
    with defer_signals() as get_pending_signal:
        os.kill(os.getpid(), signum)
        os.kill(os.getpid(), signum)
        assert get_pending_signal() == signum
    assert signal.getsignal(signum) == signal.SIG_DFL


def test_the_first_signal_is_reported_and_a_second_ctrl_c_stops_at_once():
    with defer_signals() as get_pending_signal:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert get_pending_signal() == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
@pytest.mark.usefixtures("hangup")
def test_a_training_whose_terminal_is_closed_is_saved(npz, tmp_path):
    pty = pytest.importorskip("pty")
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    terminal, inside = pty.openpty()

    def control_terminal():
        os.setsid()
        fcntl.ioctl(inside, termios.TIOCSCTTY, 0)

    def show():
        try:
            while os.read(terminal, 1 << 16):
                if (tmp_path / "run" / "metrics.jsonl").exists():
                    break
        except OSError:  # it ended
            pass

    words = ["train", "--data", npz, "--encoder", "transformer", "--epochs", "100000", "--device", "cpu"]
    code = "import sys; from tstk.cli import cli; cli(sys.argv[1:], prog_name='tstk')"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words, "--out", "run"],
        cwd=tmp_path,
        env=env,
        stdin=inside,
        stdout=inside,
        stderr=inside,
        preexec_fn=control_terminal,
    )
    try:
        os.close(inside)
        screen = threading.Thread(target=show)
        screen.start()
        screen.join()
        os.close(terminal)
        assert process.wait() == 128 + signal.SIGHUP
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / "run" / "last" / "state.json").is_file()
