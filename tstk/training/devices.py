"""Where training happens: the device, its precision and its threads."""

from __future__ import annotations

import atexit
import gc
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from importlib import import_module
from traceback import walk_tb
from typing import TYPE_CHECKING, Any

import torch

from tstk.core.interfaces import Slot
from tstk.core.pipeline import Pipeline
from tstk.errors import OptionError, TrainingError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.optim import Optimizer


def accelerator(device: str, precision: str) -> Accelerator:
    """Accelerate's view of the devices.

    Raises:
        OptionError: there is no such device, or it cannot do that
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    if device == "cuda" and not torch.cuda.is_available():
        raise OptionError("--device cuda: torch sees no GPU here; use --device cpu")
    if precision == "fp16" and (device == "cpu" or not torch.cuda.is_available()):
        raise OptionError("--precision fp16 needs a GPU; on a CPU use bf16 or fp32")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        import_module("torch.distributed.nn")  # its default arguments would keep the process group, see below
    # Accelerate keeps the first precision of a process; a second fit may want another
    AcceleratorState._reset_state(reset_partial_state=True)
    # a pipeline may hold parts that a stage has no use for, such as the way back of a tokenizer
    several = DistributedDataParallelKwargs(find_unused_parameters=True)
    kind = {"fp32": "no"}.get(precision, precision)
    found = Accelerator(cpu=device == "cpu", mixed_precision=kind, kwargs_handlers=[several])
    way = found.distributed_type.value
    if way in ("FSDP", "DEEPSPEED", "MEGATRON_LM") and not getattr(found, "is_fsdp2", False):
        raise OptionError(f"Accelerate was told to use {way}, of which tstk knows FSDP 2 alone: --fsdp_version 2")
    if found.num_processes > 1:
        destroy_process_group_at_exit()
    return found


@cache
def destroy_process_group_at_exit() -> None:
    """Join the threads of torch.distributed before the interpreter ends.

    A thread of gloo that releases the tensors of its last collective only then needs the interpreter, and aborts the
    process. The threads are joined when the process group is deleted: wrapped models keep it alive until they are
    collected, and `torch.distributed.nn` for good if it is imported later than the group is made.
    """

    def destroy() -> None:
        gc.collect()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    atexit.register(destroy)


def prepare(accelerator: Accelerator, pipeline: Pipeline, optimizer: Optimizer) -> tuple[Any, Any]:
    """A pipeline and its optimizer on the device, wrapped by Accelerate where precision or processes ask for it.

    Where they do not it would wrap nothing, but import torch's distributed tensors to find out.
    """
    if _plain(accelerator):
        return pipeline.to(accelerator.device), optimizer
    prepared: tuple[Any, Any] = accelerator.prepare(pipeline, optimizer)
    return prepared


def unwrap(accelerator: Accelerator, model: Any) -> None:
    """Take off what `prepare` put around the pipeline's `forward`."""
    if not _plain(accelerator):
        accelerator.unwrap_model(model, keep_fp32_wrapper=False)


def _plain(accelerator: Accelerator) -> bool:
    state = accelerator.state
    return (
        state.distributed_type.value == "NO"
        and state.mixed_precision == "no"
        and state.dynamo_plugin.backend.value == "NO"
    )


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """On the CPU, tiny learned scales make Adam's second moment denormal, at up to twice the time per step.

    The setting is of one thread, and others inherit it when they start. So that results do not depend on when that is,
    they start before it is made.
    """
    torch.ones(torch.get_num_threads() << 15).mul_(2)  # 32768 numbers for each thread: the least that torch divides
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def hardware(device: str, threads: int | None) -> dict[str, str]:
    """What the last digits of a training depend on, beside versions.

    Args:
        device: where to train; auto takes a GPU if there is one
        threads: of the CPU; none leaves it to torch
    """
    gpu = device != "cpu" and torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": str(threads or torch.get_num_threads()),
    }


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """So many threads of the CPU while inside; None leaves them."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
WORKSPACES = (":4096:8", ":16:8")
"""Settings with which cuBLAS gives the same bits in every run."""


@contextmanager
def deterministic_algorithms(on: bool) -> Iterator[None]:
    """While inside, torch computes what gives the same bits in every run, and refuses what it has no such way for.

    Args:
        on: False changes nothing

    Raises:
        OptionError: the environment tells cuBLAS otherwise
        TrainingError: an operation was refused; names it and, unless it is on the way back, the component
    """
    if not on:
        yield
        return
    given = os.environ.get(WORKSPACE)
    if given not in (None, *WORKSPACES):
        raise OptionError(f"--deterministic: {WORKSPACE} is {given!r}; unset it or set it to {' or '.join(WORKSPACES)}")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    os.environ.setdefault(WORKSPACE, WORKSPACES[0])
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as e:
        operation, refused, _ = str(e).partition(" does not have a deterministic implementation")
        if not refused:
            raise
        part = _component(e)
        where = f"in {part.called()}" if part is not None else "in the backward pass"
        raise TrainingError(
            f"--deterministic: torch has no deterministic form of {operation} {where}; leave the option out, or choose "
            "another component or device"
        ) from None
    finally:
        torch.backends.cudnn.benchmark = benchmark
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        if given is None:
            del os.environ[WORKSPACE]


def _component(error: BaseException) -> Slot | None:
    """The innermost component in whose code an error was raised."""
    found = None
    for frame, _ in walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        found = owner if isinstance(owner, Slot) else found
    return found


@contextmanager
def compiled(pipeline: Pipeline, on: bool) -> Iterator[Callable[[], AbstractContextManager[Any]]]:
    """While inside, torch compiles encoder, decoder and head; weights keep their names.

    Yields:
        makes a context in which they run as they were written, since other shapes and modes would be compiled anew

    Raises:
        TrainingError: torch cannot
    """
    if not on:
        yield nullcontext
        return
    from torch._dynamo.exc import TorchDynamoException

    parts = [part for name, part in pipeline.slots() if name in ("encoder", "decoder", "head")]
    for part in parts:
        part.compile()
    try:
        yield lambda: torch.compiler.set_stance("force_eager")
    except TorchDynamoException as e:
        reason = " ".join([line.strip() for line in str(e).splitlines() if line.strip()][:2])
        raise TrainingError(f"--compile: torch cannot compile these parts here ({reason}); leave it out") from None
    finally:
        for part in parts:
            part._compiled_call_impl = None
