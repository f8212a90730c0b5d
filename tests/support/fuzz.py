"""A seeded fuzzer of files: each mutation must load to sound values, or be refused in one printable line.

`fuzz` mutates small valid files and loads them in a process of its own, under limits of memory and of processor time.
A bomb, a hang or a crash of a C library is a fault of one case, and not the end of the tests.
"""

import io
import multiprocessing
import random
import re
import resource
import shutil
import signal
import tempfile
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from tstk.errors import TstkError

Files = Mapping[str, bytes]
"""Name -> content of the files of a folder; a name may have folders in it."""

MAX_MESSAGE = 2000
"""Characters of a refusal, without the names of folders."""
NUMBERS = ["0", "-1", "1", "7", "65536", "2147483648", "9223372036854775808", "1" + 30 * "0", "1e400", "nan", "-inf"]
"""What stands in place of a number written in text."""
WORDS = [
    b"\0",
    b"\x1b[2J",
    b"\xff\xfe",
    b"\xc2\x85",
    "\u202e".encode(),
    b"\r",
    b"\n",
    b",",
    b":",
    b'"',
    b"'",
    b"{",
    b"nan",
]
"""What is inserted into text."""
INTEGERS = [0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1]
"""What stands in place of a binary integer."""


@dataclass
class FuzzReport:
    """What became of the cases.

    Args:
        loaded: cases that loaded
        refused: cases that were refused
        faults: the case and what went wrong, one string each
        messages: the refusals without their numbers, counted
    """

    loaded: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)
    messages: Counter[str] = field(default_factory=Counter)


def fuzz(
    folders: Sequence[Files],
    load: Callable[[Path], object],
    cases: int,
    *,
    seed: int = 0,
    memory: int = 2**30,
    seconds: float = 20,
) -> FuzzReport:
    """Load mutations of files, and report those that neither load nor are refused as they should.

    Args:
        folders: the files of each folder to load, which load as they are; the cases take them in turn
        load: loads the folder and checks what it got with assertions; a function of a module, run by another process
        cases: mutations to try
        seed: seed of the mutations; case i is the same whatever `cases` is
        memory: bytes that may be allocated beyond what the process has at the start
        seconds: processor time of a case
    """
    receiver, sender = multiprocessing.Pipe(duplex=False)
    report, started = FuzzReport(), 0
    while started < cases and len(report.faults) < 50:
        arguments = ([dict(files) for files in folders], load, range(started, cases), seed, memory, seconds, sender)
        process = multiprocessing.get_context("spawn").Process(target=_run_cases, args=arguments)
        process.start()
        if _receive(receiver, process) != ("ready", ""):
            raise ValueError("the files do not load as they are; see above")
        while started < cases:
            outcome, text = _receive(receiver, process) or (
                "fault",
                f"the process ended with exit code {process.exitcode}",
            )
            report.loaded += outcome == "loaded"
            report.refused += outcome == "refused"
            report.messages[text] += outcome == "refused"
            if outcome == "fault":
                report.faults.append(f"case {started}: {text}")
            started += 1
            if not process.is_alive() and not receiver.poll():
                break  # go on after this case, in a new process
        process.join()
    return report


def _receive(receiver: Connection, process: multiprocessing.process.BaseProcess) -> tuple[str, str] | None:
    """Return what the process sends next, or None if it ends before."""
    while not receiver.poll(0.1):
        if not process.is_alive() and not receiver.poll():
            return None
    return receiver.recv()


def mutate_files(folders: Sequence[Files], case: int, seed: int) -> dict[str, bytes]:
    """Return the files of one case: one of them mutated, or the contents of two swapped, or one of them missing."""
    rng = random.Random(f"{seed} {case}")
    files = folders[case % len(folders)]
    mutated, name = dict(files), rng.choice(list(files))
    kind = rng.random()
    if len(files) > 1 and kind < 0.03:
        del mutated[name]
    elif len(files) > 1 and kind < 0.06:
        mutated[name] = mutated[rng.choice(list(files))]
    else:
        mutated[name] = mutate(files[name], rng)
    return mutated


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Return content with one to three mutations; those of an archive may be inside a member, with a right checksum."""
    if zipfile.is_zipfile(io.BytesIO(content)) and rng.random() < 0.7:
        return _mutate_archive(content, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = rng.choice(_MUTATIONS)(content, rng)
    return content


def _mutate_archive(content: bytes, rng: random.Random) -> bytes:
    compression = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    written = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(written, "w", compression) as new,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # of a name that occurs twice
        names = old.namelist()
        changed = rng.choice(names)
        for name in names:
            if name != changed:
                new.writestr(name, old.read(name))
                continue
            kind = rng.random()
            if kind < 0.05:
                new.writestr(name, old.read(rng.choice(names)))
            elif kind < 0.1:
                new.writestr(rng.choice(names), old.read(name))
            elif kind < 0.95:
                new.writestr(name, mutate(old.read(name), rng))
    return written.getvalue()


def _flip_bits(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        if changed:
            changed[_pick(changed, rng)] ^= 1 << rng.randrange(7 if content.isascii() else 8)
    return bytes(changed)


def _truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: _pick(content, rng)] if rng.random() < 0.7 else content[_pick(content, rng) :]


def _insert(content: bytes, rng: random.Random) -> bytes:
    at, inserted = _pick(content, rng), rng.randbytes(rng.choice((1, 2, 4, 100)))
    if content.isascii() or rng.random() < 0.5:
        inserted = rng.choice(WORDS)
    return content[:at] + inserted + content[at:]


def _overwrite(content: bytes, rng: random.Random) -> bytes:
    if content.isascii() and rng.random() < 0.8:  # text would only become undecodable
        return _change_number(content, rng) if re.search(rb"\d", content) else _flip_bits(content, rng)
    size = rng.choice((1, 2, 4, 8))
    at = _pick(content, rng)
    value = (rng.choice(INTEGERS) & (1 << 8 * size) - 1).to_bytes(size, rng.choice(("little", "big")))
    return content[:at] + value + content[at + size :]


def _swap_blocks(content: bytes, rng: random.Random) -> bytes:
    a, b, c, d = sorted(_pick(content, rng) for _ in range(4))
    return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


def _repeat_block(content: bytes, rng: random.Random) -> bytes:
    start, end = sorted(_pick(content, rng) for _ in range(2))
    return content[:end] + content[start:end] * rng.choice((1, 1, 50)) + content[end:]


def _remove_block(content: bytes, rng: random.Random) -> bytes:
    start = _pick(content, rng)
    return content[:start] + content[start + rng.choice((1, 2, 8, 200)) :]


def _change_number(content: bytes, rng: random.Random) -> bytes:
    numbers = list(re.finditer(rb"\d[\d.]*", content[:100_000]))
    if not numbers:
        return _flip_bits(content, rng)
    number = numbers[min(int(rng.expovariate(4) * len(numbers)), len(numbers) - 1)]  # rather one of the header
    return content[: number.start()] + rng.choice(NUMBERS).encode() + content[number.end() :]


_MUTATIONS = (
    _flip_bits,
    _truncate,
    _insert,
    _overwrite,
    _overwrite,
    _swap_blocks,
    _repeat_block,
    _remove_block,
    _change_number,
    _change_number,
)


def _pick(content: bytes | bytearray, rng: random.Random) -> int:
    """Return a place, in half of the cases near the beginning or the end, where headers and footers are."""
    last = max(len(content) - 1, 0)
    if rng.random() < 0.5:
        near = min(rng.randrange(256), last)
        return near if rng.random() < 0.5 else last - near
    return rng.randint(0, last)


def _run_cases(folders, load, cases, seed, memory, seconds, sender):
    """Load cases and send what became of each; runs in a process of its own."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for i, files in enumerate(folders):
            _write(files, Path(folder) / f"whole{i}")
            load(Path(folder) / f"whole{i}")  # the libraries are in memory now, and the files are valid
        limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        signal.signal(signal.SIGPROF, _raise_timeout)
        sender.send(("ready", ""))
        for case in cases:
            at = Path(folder) / str(case)
            _write(mutate_files(folders, case, seed), at)
            sender.send(_try_case(load, at, seconds))
            shutil.rmtree(at)


def _write(files: Files, folder: Path) -> None:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _try_case(load: Callable[[Path], object], folder: Path, seconds: float) -> tuple[str, str]:
    """Return what became of a case, "loaded", "refused" or "fault", and the message."""
    try:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            load(folder)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    except TstkError as error:
        message = str(error).replace(str(folder), "")
        if not message.isprintable() or not message.strip() or len(message) > MAX_MESSAGE:
            return "fault", f"a message that is not one printable line: {message[:300]!r}"
        return "refused", re.sub(r"\d+", "0", message)[:200]
    except BaseException as error:
        frames = "".join(traceback.format_tb(error.__traceback__)[-3:])
        return "fault", f"{type(error).__name__}: {str(error)[:300]}\n{frames}"
    return "loaded", ""


def _raise_timeout(signum: int, frame: object) -> None:
    raise TimeoutError("too much processor time")
