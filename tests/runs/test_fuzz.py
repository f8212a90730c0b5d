"""Mutated run directories: each loads to the same numbers, or is refused in one line; `CASES=20000` tries more."""

import os
import signal

import pytest

from tests.support.fuzz import fuzz
from tests.support.runs_to_fuzz import load_finished, load_foreign, load_unfinished, read_folder
from tstk.config.resolve import resolve_config
from tstk.training.callbacks import Callback
from tstk.training.interrupt import TrainingInterrupted
from tstk.training.runs import train

CASES = int(os.environ.get("CASES", 900))
"""Mutations to try, of all kinds of runs together."""
SEED = int(os.environ.get("SEED", 0))
TINY = {
    "tokenizer": {"use": "patch", "dim": 4, "window": 5},
    "encoder": {"use": "transformer", "dim": 4, "depth": 1, "heads": 1},
    "head": "linear",
}


class Interrupt(Callback):
    """Interrupts training in the middle of the second epoch."""

    def on_step_end(self, state, step_outputs):
        if state.step == 5:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def runs(npz, tmp_path_factory):
    """Return the files of a finished and of an unfinished run."""
    folder = tmp_path_factory.mktemp("fuzz")
    config = resolve_config(
        ("test", {**TINY, "data": npz, "train": {"epochs": 2, "batch_size": 8, "device": "cpu", "patience": 2}})
    )
    train(config, folder / "finished")
    with pytest.raises(TrainingInterrupted):
        train(config, folder / "unfinished", callbacks=[Interrupt()])
    return {name: read_folder(folder / name) for name in ("finished", "unfinished")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "load", "share"),
    [("finished", load_finished, 0.4), ("finished", load_foreign, 0.3), ("unfinished", load_unfinished, 0.3)],
    ids=["finished", "foreign", "unfinished"],
)
def test_a_mutated_run_loads_to_the_same_numbers_or_is_refused_in_one_line(runs, name, load, share):
    report = fuzz([runs[name]], load, round(CASES * share), seed=SEED)
    assert not report.faults, "\n".join(report.faults[:20])
    assert report.loaded + report.refused == round(CASES * share)
    assert report.refused > report.loaded / 2
