"""Write one file from several processes, of which some are killed, while others read it; print counts as JSON.

    write_concurrently.py FOLDER SEED

Each content carries its own hash. A write fails if it raises; a read is mixed if the hash is wrong.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from tstk.files import remove_leftovers, write_bytes

WRITERS, READERS, WRITES, KILLS = 6, 3, 60, 40


def make_content(writer, number):
    rng = random.Random(f"{writer} {number}")
    body = f"{writer} {number} ".encode() + rng.randbytes(16) * rng.choice([1, 100, 30_000])
    return hashlib.sha256(body).digest() + body


def is_whole(content):
    return hashlib.sha256(content[32:]).digest() == content[:32]


def fork(function, *args):
    process = os.fork()
    if not process:
        try:
            function(*args)
        finally:
            os._exit(0)
    return process


def write(path, log, writer, numbers):
    for number in numbers:
        try:
            write_bytes(path, make_content(writer, number))
            outcome = "written"
        except Exception:
            outcome = "failed"
        with open(log, "a") as file:
            file.write(f"{number} {outcome}\n")


def read(path, stop, out):
    counts = {"reads": 0, "mixed": 0}
    while not stop.exists():
        counts["reads"] += 1
        counts["mixed"] += not is_whole(path.read_bytes())
    out.write_text(json.dumps(counts))


def main(folder, seed):
    rng = random.Random(seed)
    path, stop = folder / "shared" / "target.bin", folder / "stop"
    write_bytes(path, make_content(0, 0))
    readers = {fork(read, path, stop, folder / f"reader-{i}"): folder / f"reader-{i}" for i in range(READERS)}
    logs = {f"w{i}": folder / f"log-{i}" for i in range(WRITERS)}
    live = {fork(write, path, log, name, range(WRITES)): name for name, log in logs.items()}
    kills = 0
    while live:
        time.sleep(rng.uniform(0, 0.02))
        if kills < KILLS:
            victim = rng.choice(sorted(live))
            os.kill(victim, signal.SIGKILL)
        process, status = os.waitpid(-1, 0 if kills < KILLS else os.WNOHANG)
        if process not in live:
            continue
        name = live.pop(process)
        if status == signal.SIGKILL:
            kills += 1
            done = len(logs[name].read_text().splitlines()) if logs[name].exists() else 0
            live[fork(write, path, logs[name], name, range(done, WRITES))] = name
    stop.touch()
    for process in readers:
        os.waitpid(process, 0)
    outcomes = [line.split()[1] for log in logs.values() for line in log.read_text().splitlines()]
    counts = [json.loads(out.read_text()) for out in readers.values()]
    leftovers = len(list(path.parent.iterdir())) - 1
    remove_leftovers(path.parent, path.name)
    result = {
        "written": outcomes.count("written"),
        "failed": outcomes.count("failed"),
        "reads": sum(c["reads"] for c in counts),
        "mixed": sum(c["mixed"] for c in counts),
        "kills": kills,
        "leftovers": leftovers,
        "final": "whole" if is_whole(path.read_bytes()) else "mixed",
        "after removal": [p.name for p in path.parent.iterdir()],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
