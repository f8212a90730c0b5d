"""Benchmark harness: checks the outputs of all contenders of a case, then times those that are correct.

A `Case` is an operation at one shape on one device; a `Contender` is one implementation. Times are compared only within
a round, in which all contenders ran under the same conditions; contenders with wrong outputs are not timed.
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
from benchmarks.figures import CONTROL_CLOCK, LIMIT, Clock, Times, drop_noisy_rounds, interleave, tabulate
from tstk.kernels.dispatch import Operation

Inputs = tuple[Any, ...]
Timers = dict[str, Clock]

MIN_ROUNDS, MAX_ROUNDS = 7, 60
"""Bounds of the number of rounds, for any budget."""
L2 = 60 << 20
"""Bytes of the largest cache of a GPU; inputs are rotated through twice as many."""


class ContenderUnavailableError(Exception):
    """A contender cannot run a case."""


class WrongResultError(ContenderUnavailableError):
    """The output of a contender is wrong."""


@dataclass(frozen=True)
class CheckResult:
    """Result of an output check.

    Args:
        error: largest error, in the measure of the check
        fault: what is wrong; empty if nothing
    """

    error: float
    fault: str = ""


OutputCheck = Callable[[Sequence[Tensor]], CheckResult]
"""Takes the output tensors and the gradients."""


@dataclass(frozen=True)
class Contender:
    """One implementation of a case.

    Args:
        prepare: takes the inputs of the case and returns the function to time; its duration is reported separately.
            Raises `ContenderUnavailableError` with the reason
        setting: description of its configuration, for the record
        normalize_output: converts its output to what the check expects, untimed
        make_check: replaces the check of the case, for one that computes something else on purpose
    """

    prepare: Callable[..., Callable[..., Any]]
    setting: str = ""
    normalize_output: Callable[[Any], Any] = lambda output: output
    make_check: Callable[..., OutputCheck] | None = None


@dataclass(frozen=True)
class Case:
    """An operation at one shape, its contenders, and the check of their outputs.

    Args:
        op: name of the operation; its cases share a results file
        name: model that the shape comes from
        size: description of the shape
        inputs: returns the inputs for a seed and a device
        contenders: contenders by name, ours first
        make_check: takes the inputs of seed 0 and returns the check of their outputs
        limit: (name, contender) of a lower bound, such as a part of the work
        gradients: indices of differentiated inputs; if any, forward and backward are timed together
        why_unsupported: takes the inputs and returns why the backend for this device does not support them, or ""; such
            a case is not measured. Raises `WrongResultError` if that backend is known to be wrong
        flops: floating-point operations of one call
        bytes: bytes to move if everything is read and written once
    """

    op: str
    name: str
    size: str
    inputs: Callable[[int, str], Inputs]
    contenders: Mapping[str, Contender]
    make_check: Callable[..., OutputCheck]
    limit: tuple[str, Contender] | None = None
    gradients: tuple[int, ...] = ()
    why_unsupported: Callable[..., str] = lambda *inputs: ""
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
        """Timed passes."""
        return "forward+backward" if self.gradients else "forward"

    @property
    def ours(self) -> str:
        """Name of the contender that the others are compared with."""
        return next(iter(self.contenders))


@dataclass
class Record:
    """Result of one case.

    Args:
        case: the case
        excluded: contender that was not timed -> reason
        rounds: contender -> wall-clock seconds per call, quiet rounds only
        tables: results tables, one per kind of clock; empty if ours was not timed
        why_unsupported: why the case was not measured; empty if it was
    """

    case: Case
    excluded: dict[str, str] = field(default_factory=dict)
    rounds: Times = field(default_factory=dict)
    tables: list[dict[str, Any]] = field(default_factory=list)
    why_unsupported: str = ""


def why_triton_unsupported(operation: Operation, *args: Any, device: str, **options: Any) -> str:
    """Return why Triton does not support a call on a GPU, or ""; elsewhere any backend is measured.

    Raises:
        WrongResultError: its self-test fails, so that `auto` would measure another backend
    """
    if device != "cuda":
        return ""
    backend = operation.backends["triton"]
    reason = backend.why_unsupported(*args, **options)
    if not reason and (fault := backend.why_self_test_failed(args[0].device)):
        raise WrongResultError(fault)
    return reason


def make_contender(call: Callable[..., Any], setting: str = "", **rest: Any) -> Contender:
    """Return a contender without preparation."""
    return Contender(lambda *inputs: call, setting, **rest)


def make_compiled_contender(call: Callable[..., Any], full: bool, setting: str = "", **rest: Any) -> Contender:
    """Return a contender that compiles `call` with torch.compile."""

    def prepare(*inputs: Any) -> Callable[..., Any]:
        if not full:
            raise ContenderUnavailableError("compiling takes seconds; --full has it")
        return torch.compile(call, dynamic=False)

    return Contender(prepare, f"torch.compile; {setting}".rstrip("; "), **rest)


def draw_output_gradient(output: Tensor) -> Tensor:
    """Return the fixed random gradient of an output for the backward pass."""
    draw = torch.Generator(output.device).manual_seed(1)
    return torch.randn(output.shape, generator=draw, device=output.device).to(output.dtype)


def import_peer(module: str) -> ModuleType:
    """Import a module of another project.

    Raises:
        ContenderUnavailableError: it cannot be imported
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ContenderUnavailableError(f"{module} cannot be imported ({error})") from None


def expand_thread_counts(cases: Iterable[Case], counts: Sequence[int] = (1, 2)) -> list[Case]:
    """Return each CPU case once per thread count, and each GPU case once."""
    cases = list(cases)
    return [replace(c, threads=n) for n in counts for c in cases if c.device == "cpu" or n == counts[0]]


def measure(case: Case, budget: float) -> Record:
    """Check the outputs of every contender, then time those that pass.

    Args:
        case: the case
        budget: seconds for the rounds of one kind of clock; 0 for no timing at all
    """
    clocks.reset_state(case.device, case.threads)
    record, inputs = Record(case), case.inputs(0, case.device)
    try:
        record.why_unsupported = case.why_unsupported(*inputs)
    except WrongResultError as reason:
        record.excluded[case.ours] = f"refused: {reason}"
    if record.why_unsupported or record.excluded:
        return record
    check, functions, measurements = case.make_check(*inputs), {}, {}
    for name, contender in case.contenders.items():
        try:
            functions[name], measurements[name] = _check_contender(case, contender, inputs, check)
        except ContenderUnavailableError as reason:
            record.excluded[name] = f"{'refused' if isinstance(reason, WrongResultError) else 'absent'}: {reason}"
        except Exception as error:  # a contender that fails on this shape must not stop the others
            record.excluded[name] = f"failed: {_format_error(error)}"
    if case.ours not in functions or not budget:
        return record
    if case.limit:
        functions[LIMIT] = case.limit[1].prepare(*inputs)
    functions[CONTROL_CLOCK] = functions[case.ours]
    for kind, timers in _make_timers(case, functions, inputs, record):
        times = run_rounds(timers, budget)
        if kind == "wall":
            record.rounds = {
                name: series for name, series in drop_noisy_rounds(times).items() if name in case.contenders
            }
        table = _describe_case(case, record) | {"clock": kind} | tabulate(times, case.ours)
        for name, row in table["contenders"].items():
            row |= measurements[name] | {"flop_s": case.flops / row["median"], "bytes_s": case.bytes / row["median"]}
            row["setting"] = case.contenders[name].setting
        if machine := table.get("machine"):
            table["rates"] = clocks.compute_limit_rates(
                case.device, {name: spread["min"] for name, spread in machine.items()}
            )
        record.tables.append(table)
    return record


def run_rounds(timers: Timers, budget: float) -> Times:
    """Run as many rounds as the budget allows, and up to three times as many while most of them are noisy."""
    begin = time.perf_counter()
    interleave(timers, 1)
    count = min(MAX_ROUNDS, max(MIN_ROUNDS, int(budget / (time.perf_counter() - begin))))
    times = interleave(timers, count)
    for seed in (1, 2):
        if 2 * len(next(iter(drop_noisy_rounds(times).values()))) < count:
            times = {name: times[name] + more for name, more in interleave(timers, count, seed).items()}
    return times


def format_record(record: Record) -> Iterator[str]:
    """Yield the lines that report a case on a terminal: our time, then the time of others relative to ours."""
    yield str(record.case)
    if record.why_unsupported:
        yield f"  not measured: {record.why_unsupported}"
    for table in record.tables:
        rows, ours = table["contenders"], table["ours"]
        if ours in rows:
            others = sorted((row["ratio"], row["interval"], name) for name, row in rows.items() if name != ours)
            against = ", ".join(f"{name} x{ratio:.2f} [{low:.2f}, {high:.2f}]" for ratio, (low, high), name in others)
            limit = f" ({rows[ours]['x_limit']:.2f} x {table['limit']})" if table["limit"] else ""
            yield f"  {table['clock']}: {ours} {rows[ours]['median'] * 1e3:.4g} ms{limit}; {against}"
        fault = table["why_invalid"] and f"; INVALID: {table['why_invalid']}"
        yield f"  {table['rounds']} rounds, {table['dropped']} dropped{fault}"
    for name, why in record.excluded.items():
        yield f"  {name}: {why}"


def _check_contender(
    case: Case, contender: Contender, inputs: Inputs, check: OutputCheck
) -> tuple[Callable[..., Any], dict[str, Any]]:
    begin = time.perf_counter()
    function = contender.prepare(*inputs)
    call = bind_inputs(case, function, inputs)
    output, gradients = call()
    clocks.synchronize(case.device)
    first = time.perf_counter() - begin
    output = contender.normalize_output(output)
    output = output if isinstance(output, tuple) else (output,)
    result = (contender.make_check(*inputs) if contender.make_check else check)([*output, *gradients])
    if result.fault:
        raise WrongResultError(result.fault)
    peak = clocks.measure_peak_bytes(call, case.device)
    return function, {"gate": "passed", "error": result.error, "first_call": first, "peak_bytes": peak}


def bind_inputs(case: Case, function: Callable[..., Any], inputs: Inputs) -> Callable[[], tuple[Any, Sequence[Tensor]]]:
    if not case.gradients:
        return lambda: (function(*inputs), ())
    leaves = [x.detach().requires_grad_() if i in case.gradients else x for i, x in enumerate(inputs)]
    differentiated = [leaves[i] for i in case.gradients]
    value = function(*leaves)
    output_gradient = draw_output_gradient(value[0] if isinstance(value, tuple) else value)

    def call() -> tuple[Any, Sequence[Tensor]]:
        output = function(*leaves)
        return output, torch.autograd.grad(
            output[0] if isinstance(output, tuple) else output, differentiated, output_gradient
        )

    return call


def _make_timers(
    case: Case, functions: Mapping[str, Callable[..., Any]], inputs: Inputs, record: Record
) -> Iterator[tuple[str, Timers]]:
    """Yield the timers of each kind of clock; on a GPU also of kernels alone, with cold and warm cache."""
    device, limit_calls = case.device, clocks.make_limit_calls(case.device)
    timers = {
        name: clocks.make_wall_clock(bind_inputs(case, function, inputs), device)
        for name, function in functions.items()
    }
    yield (
        "wall",
        timers
        | {name: clocks.take_best_of_three(clocks.make_wall_clock(call, device)) for name, call in limit_calls.items()},
    )
    if device != "cuda":
        return
    size = sum(x.nbytes for x in inputs if isinstance(x, Tensor))
    sets = [inputs, *(case.inputs(seed, device) for seed in range(1, min(32, 2 * L2 // size + 2)))]
    for kind, input_sets in (("kernels", sets), ("kernels, inputs in cache", sets[:1])):
        timers = {
            name: clocks.take_best_of_three(clocks.make_graph_clock([call])) for name, call in limit_calls.items()
        }
        for name, function in functions.items():
            try:
                timers[name] = clocks.make_graph_clock([bind_inputs(case, function, one) for one in input_sets])
            except RuntimeError as error:
                record.excluded[f"{name}, {kind}"] = f"failed: not captured: {_format_error(error)}"
        if case.ours in timers and CONTROL_CLOCK in timers:
            yield kind, timers
        del timers
        clocks.free_memory(device)  # a CUDA graph keeps its memory pool


def _describe_case(case: Case, record: Record) -> dict[str, Any]:
    keys = ("op", "name", "size", "dtype", "device", "threads", "passes", "ours", "flops", "bytes")
    limit = case.limit[0] if case.limit else ""
    return {"case": str(case)} | {key: getattr(case, key) for key in keys} | {"limit": limit, "out": record.excluded}


def _format_error(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
