"""Four processes race for the same run directory, and for names under runs/: python race_for_run_dirs.py FOLDER SEED.

Prints how the attempts ended and the faults: two processes in one directory, or a finished run that was changed.
"""

import collections
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

from tstk.config.run_directory import create_run_dir
from tstk.errors import CheckpointError, OptionError

PROCESSES, ROUNDS = 4, 50


def occupy(run_dir, owners, rng):
    """Act as a training that finishes, fails or is killed, and note if another process is in the directory as well."""
    me = str(os.getpid())
    owner = owners / run_dir.name
    descriptor = os.open(owner, os.O_CREAT | os.O_EXCL | os.O_WRONLY)  # fails if somebody is there
    fate = rng.choice(["finish", "finish", "fail", "kill"])
    (run_dir / "config.json").write_text(me)
    time.sleep(rng.random() * 0.004)
    if fate == "finish":
        for name in ("model.safetensors", "result.json"):
            (run_dir / name).write_text(me)
    os.close(descriptor)
    owner.unlink()
    if fate == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fate == "fail":
        raise ZeroDivisionError
    return me


def compete(folder, number, process, seed, barrier):
    def note(kind, text):
        with (folder / "outcomes").open("ab", buffering=0) as file:
            file.write(f"{json.dumps([kind, text])}\n".encode())

    rng = random.Random(f"{seed}-{number}-{process}")
    os.chdir(folder)
    barrier.wait()
    try:
        with create_run_dir(None, "run") as run_dir:
            (run_dir / "config.json").write_text("")
            note("numbered", str(run_dir))
    except BaseException as e:
        note("fault", f"{type(e).__name__}: {e}")
    barrier.wait()
    for _ in range(3):
        time.sleep(rng.random() * 0.003)
        try:
            with create_run_dir(f"same/{number}", "") as run_dir:
                note("finished", f"{number} {occupy(run_dir, folder / 'owners', rng)}")
        except ZeroDivisionError:
            note("failed", number)
        except (CheckpointError, OptionError):
            note("refused", number)
        except BaseException as e:
            note("fault", f"{type(e).__name__}: {e}")


def main(folder, seed):
    context = multiprocessing.get_context("fork")
    (folder / "owners").mkdir()
    killed = 0
    for number in range(ROUNDS):
        barrier = context.Barrier(PROCESSES)
        children = [context.Process(target=compete, args=(folder, number, i, seed, barrier)) for i in range(PROCESSES)]
        for child in children:
            child.start()
        for child in children:
            child.join()
            killed += child.exitcode == -signal.SIGKILL
    outcomes = [json.loads(line) for line in (folder / "outcomes").read_text().splitlines()]
    kinds = collections.Counter(kind for kind, _ in outcomes)
    faults = [text for kind, text in outcomes if kind == "fault"]
    for text in (text for kind, text in outcomes if kind == "finished"):
        number, owner = text.split()
        contents = {path.name: path.read_text() for path in (folder / "same" / number).iterdir()}
        if contents != dict.fromkeys(("config.json", "model.safetensors", "result.json"), owner):
            faults.append(f"run {number} of {owner} is {contents}")
    names = len({text for kind, text in outcomes if kind == "numbered"})
    print(json.dumps({**kinds, "killed": killed, "names": names, "faults": faults}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
