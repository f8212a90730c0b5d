"""Contenders for one case: who may take part, whether their answers are right, and what they take.

A `Case` is an operation at one shape on one device; a `Contender` is one way to do it. Times are compared only within a
round, in which all contenders met the same machine; one whose answer does not pass the case's gate is never timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from benchmarks import clocks
from benchmarks.figures import AGAIN, LIMIT, Clock, Times, interleave, quiet, tabulate
from tstk.kernels.dispatch import Operation

Inputs = tuple[Any, ...]
Timers = dict[str, Clock]

FEWEST, MOST = 7, 60
"""Rounds, whatever the budget says."""
L2 = 60 << 20
"""Bytes of the largest cache of a GPU; inputs are rotated through twice as many."""


class Absent(Exception):
    """Why a contender cannot take part in a case."""


class Refused(Absent):
    """What is wrong with a contender's answer."""


@dataclass(frozen=True)
class Verdict:
    """What a gate says of an answer.

    Args:
        error: the worst that was found, in the gate's own measure
        fault: what is wrong, or nothing
    """

    error: float
    fault: str = ""


Judge = Callable[[Sequence[Tensor]], Verdict]
"""Takes the output (each part of it) and the gradients."""


@dataclass(frozen=True)
class Contender:
    """One way to do what a case asks.

    Args:
        prepare: takes the case's inputs and makes a function of such inputs; what it takes is a column of its own.
            Raises `Absent` with the reason
        setting: how it was set up, for the record
        plainly: makes of its output what the gate expects, untimed
        gate: instead of the case's, for one that computes something else on purpose
    """

    prepare: Callable[..., Callable[..., Any]]
    setting: str = ""
    plainly: Callable[[Any], Any] = lambda output: output
    gate: Callable[..., Judge] | None = None


@dataclass(frozen=True)
class Case:
    """An operation at one shape, who does it, and how to tell whether an answer is right.

    Args:
        op: the operation; its cases share a results file
        name: whose shape this is
        size: the numbers
        inputs: takes a seed and a device
        contenders: by name, ours first
        gate: takes the inputs of seed 0 and makes the judge of answers to them
        limit: what none of them can beat, such as a part of the work alone; its name and itself
        gradients: the inputs that are differentiated; with any, forward and backward are timed together
        unserved: takes the inputs and says why the backend for this device does not serve them, or nothing; such a case
            is not measured
        flops: operations that the answer takes
        bytes: to be moved if nothing were read or written twice
    """

    op: str
    name: str
    size: str
    inputs: Callable[[int, str], Inputs]
    contenders: Mapping[str, Contender]
    gate: Callable[..., Judge]
    limit: tuple[str, Contender] | None = None
    gradients: tuple[int, ...] = ()
    unserved: Callable[..., str] = lambda *inputs: ""
    flops: float = 0.0
    bytes: float = 0.0
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = 1

    def __str__(self) -> str:
        place = self.device if self.device != "cpu" else f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"{self.op}, {self.name}, {self.size}, {self.dtype}, {self.passes}, {place}"

    @property
    def passes(self) -> str:
        """What is timed."""
        return "forward+backward" if self.gradients else "forward"

    @property
    def ours(self) -> str:
        """The contender that the others are compared with."""
        return next(iter(self.contenders))


@dataclass
class Record:
    """What became of a case.

    Args:
        case: the case
        out: by contender that was not timed, why
        rounds: seconds per call by contender that was, wall clock, quiet rounds only
        tables: what goes into the results, one per kind of clock; empty if ours was not timed
        unserved: why the case was not measured at all, or nothing
    """

    case: Case
    out: dict[str, str] = field(default_factory=dict)
    rounds: Times = field(default_factory=dict)
    tables: list[dict[str, Any]] = field(default_factory=list)
    unserved: str = ""


def triton_refuses(operation: Operation, *args: Any, device: str, **options: Any) -> str:
    """Why Triton does not serve a call on a GPU, or nothing; elsewhere the choice is that of the operation."""
    return operation.backends["triton"].supports(*args, **options) if device == "cuda" else ""


def plain(call: Callable[..., Any], setting: str = "", **rest: Any) -> Contender:
    """A contender that needs no preparation."""
    return Contender(lambda *inputs: call, setting, **rest)


def compiled(call: Callable[..., Any], full: bool, setting: str = "", **rest: Any) -> Contender:
    """A contender made of `call` by torch.compile."""

    def prepare(*inputs: Any) -> Callable[..., Any]:
        if not full:
            raise Absent("compiling takes seconds; --full has it")
        return torch.compile(call, dynamic=False)

    return Contender(prepare, f"torch.compile; {setting}".rstrip("; "), **rest)


def weights(output: Tensor) -> Tensor:
    """What an output (the first, if there are several) is weighed with before it is differentiated; always the same."""
    draw = torch.Generator(output.device).manual_seed(1)
    return torch.randn(output.shape, generator=draw, device=output.device).to(output.dtype)


def peer(module: str) -> ModuleType:
    """Another project's module.

    Raises:
        Absent: it cannot be imported
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise Absent(f"{module} cannot be imported ({error})") from None


def with_threads(cases: Iterable[Case], counts: Sequence[int] = (1, 2)) -> list[Case]:
    """Each case with one thread and with two; on a GPU those of the host play no part."""
    cases = list(cases)
    return [replace(c, threads=n) for n in counts for c in cases if c.device == "cpu" or n == counts[0]]


def measure(case: Case, budget: float) -> Record:
    """Gate every contender, then time those that passed, in turn.

    Args:
        budget: seconds for the rounds of one kind of clock; 0 for no timing at all
    """
    clocks.settle(case.device, case.threads)
    record, inputs = Record(case), case.inputs(0, case.device)
    if why := case.unserved(*inputs):
        record.unserved = why
        return record
    judge, ready, facts = case.gate(*inputs), {}, {}
    for name, contender in case.contenders.items():
        try:
            ready[name], facts[name] = _enter(case, contender, inputs, judge)
        except Absent as reason:
            record.out[name] = f"{type(reason).__name__.lower()}: {reason}"
        except Exception as error:  # a peer that cannot do this shape here must not stop the others
            record.out[name] = f"failed: {_line(error)}"
    if case.ours not in ready or not budget:
        return record
    if case.limit:
        ready[LIMIT] = case.limit[1].prepare(*inputs)
    ready[AGAIN] = ready[case.ours]
    for kind, timers in _timers(case, ready, inputs, record):
        times = rounds(timers, budget)
        if kind == "wall":
            record.rounds = {name: series for name, series in quiet(times).items() if name in case.contenders}
        table = _head(case, record) | {"clock": kind} | tabulate(times, case.ours)
        for name, row in table["contenders"].items():
            row |= facts[name] | {"flop_s": case.flops / row["median"], "bytes_s": case.bytes / row["median"]}
            row["setting"] = case.contenders[name].setting
        if machine := table.get("machine"):
            table["rates"] = clocks.rates(case.device, {name: spread["min"] for name, spread in machine.items()})
        record.tables.append(table)
    return record


def rounds(timers: Timers, budget: float) -> Times:
    """As many rounds as the budget allows, and up to three times as many while most of them are not quiet."""
    begin = time.perf_counter()
    interleave(timers, 1)
    some = min(MOST, max(FEWEST, int(budget / (time.perf_counter() - begin))))
    times = interleave(timers, some)
    for seed in (1, 2):
        if 2 * len(next(iter(quiet(times).values()))) < some:
            times = {name: times[name] + more for name, more in interleave(timers, some, seed).items()}
    return times


def summary(record: Record) -> Iterator[str]:
    """What there is to say of a case, for a terminal: ours, then how many times as long the others took."""
    yield str(record.case)
    if record.unserved:
        yield f"  not measured: {record.unserved}"
    for table in record.tables:
        rows, ours = table["contenders"], table["ours"]
        if ours in rows:
            others = sorted((row["ratio"], row["interval"], name) for name, row in rows.items() if name != ours)
            against = ", ".join(f"{name} x{ratio:.2f} [{low:.2f}, {high:.2f}]" for ratio, (low, high), name in others)
            limit = f" ({rows[ours]['x_limit']:.2f} x {table['limit']})" if table["limit"] else ""
            yield f"  {table['clock']}: {ours} {rows[ours]['median'] * 1e3:.4g} ms{limit}; {against}"
        fault = table["why_invalid"] and f"; INVALID: {table['why_invalid']}"
        yield f"  {table['rounds']} rounds, {table['dropped']} dropped{fault}"
    for name, why in record.out.items():
        yield f"  {name}: {why}"


def _enter(case: Case, contender: Contender, inputs: Inputs, judge: Judge) -> tuple[Callable[..., Any], dict[str, Any]]:
    begin = time.perf_counter()
    function = contender.prepare(*inputs)
    call = bind(case, function, inputs)
    answer, gradients = call()
    clocks.sync(case.device)
    first = time.perf_counter() - begin
    answer = contender.plainly(answer)
    answer = answer if isinstance(answer, tuple) else (answer,)
    verdict = (contender.gate(*inputs) if contender.gate else judge)([*answer, *gradients])
    if verdict.fault:
        raise Refused(verdict.fault)
    peak = clocks.peak_bytes(call, case.device)
    return function, {"gate": "passed", "error": verdict.error, "first_call": first, "peak_bytes": peak}


def bind(case: Case, function: Callable[..., Any], inputs: Inputs) -> Callable[[], tuple[Any, Sequence[Tensor]]]:
    if not case.gradients:
        return lambda: (function(*inputs), ())
    leaves = [x.detach().requires_grad_() if i in case.gradients else x for i, x in enumerate(inputs)]
    wanted = [leaves[i] for i in case.gradients]
    value = function(*leaves)
    weighed = weights(value[0] if isinstance(value, tuple) else value)

    def call() -> tuple[Any, Sequence[Tensor]]:
        output = function(*leaves)
        return output, torch.autograd.grad(output[0] if isinstance(output, tuple) else output, wanted, weighed)

    return call


def _timers(
    case: Case, ready: Mapping[str, Callable[..., Any]], inputs: Inputs, record: Record
) -> Iterator[tuple[str, Timers]]:
    """One kind of clocks after the other; on a GPU also of kernels alone, with inputs out of its cache and in it."""
    device, machine = case.device, clocks.machine(case.device)
    timers = {name: clocks.wall(bind(case, function, inputs), device) for name, function in ready.items()}
    yield "wall", timers | {name: clocks.steady(clocks.wall(call, device)) for name, call in machine.items()}
    if device != "cuda":
        return
    size = sum(x.nbytes for x in inputs if isinstance(x, Tensor))
    sets = [inputs, *(case.inputs(seed, device) for seed in range(1, min(32, 2 * L2 // size + 2)))]
    for kind, some in (("kernels", sets), ("kernels, inputs in cache", sets[:1])):
        timers = {name: clocks.steady(clocks.replay([call])) for name, call in machine.items()}
        for name, function in ready.items():
            try:
                timers[name] = clocks.replay([bind(case, function, one) for one in some])
            except RuntimeError as error:
                record.out[f"{name}, {kind}"] = f"failed: not captured: {_line(error)}"
        if case.ours in timers and AGAIN in timers:
            yield kind, timers
        del timers
        clocks.tidy(device)  # a graph keeps the memory it works in


def _head(case: Case, record: Record) -> dict[str, Any]:
    what = ("op", "name", "size", "dtype", "device", "threads", "passes", "ours", "flops", "bytes")
    limit = case.limit[0] if case.limit else ""
    return {"case": str(case)} | {key: getattr(case, key) for key in what} | {"limit": limit, "out": record.out}


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
