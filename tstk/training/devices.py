"""Device, precision, CPU threads, determinism and compilation of a training run."""

from __future__ import annotations

import atexit
import ctypes
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
from tstk.kernels.threads import call_in_each_thread
from tstk.nn.devices import ignore_missing_widgets

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.optim import Optimizer


def create_accelerator(device: str, precision: str) -> Accelerator:
    """Create the `Accelerator` of a training run.

    Args:
        device: auto, cpu or cuda
        precision: fp32, bf16 or fp16

    Raises:
        OptionError: the device does not exist or does not support the precision, or Accelerate is configured for a
            distributed strategy other than DDP and FSDP 2
    """
    with ignore_missing_widgets():
        from accelerate import Accelerator, DistributedDataParallelKwargs
        from accelerate.state import AcceleratorState

    if device == "cuda" and not torch.cuda.is_available():
        raise OptionError("--device cuda: torch sees no GPU here; use --device cpu")
    if precision == "fp16" and (device == "cpu" or not torch.cuda.is_available()):
        raise OptionError("--precision fp16 needs a GPU; on a CPU use bf16 or fp32")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        import_module(
            "torch.distributed.nn"
        )  # imported later, it would keep the process group alive; see `destroy_process_group_at_exit`
    # Accelerate keeps the first precision of a process, but a second fit may use another
    AcceleratorState._reset_state(reset_partial_state=True)
    # a pipeline may have parameters that this training does not use, such as a tokenizer's decoder
    ddp_kwargs = DistributedDataParallelKwargs(find_unused_parameters=True)
    mixed_precision = {"fp32": "no"}.get(precision, precision)
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision=mixed_precision, kwargs_handlers=[ddp_kwargs])
    strategy = accelerator.distributed_type.value
    if strategy in ("FSDP", "DEEPSPEED", "MEGATRON_LM") and not getattr(accelerator, "is_fsdp2", False):
        raise OptionError(
            f"Accelerate is configured to use {strategy}, which tstk does not support; use DDP, or FSDP 2 with "
            "accelerate launch --fsdp_version 2"
        )
    if accelerator.num_processes > 1:
        destroy_process_group_at_exit()
    return accelerator


@cache
def destroy_process_group_at_exit() -> None:
    """Register an exit hook that joins the threads of torch.distributed before the interpreter ends.

    A gloo thread that releases the tensors of its last collective after that needs the interpreter, and aborts the
    process. The threads are joined when the process group is deleted. Wrapped models keep the group alive until they
    are collected; `torch.distributed.nn` keeps it for good if it is imported after the group was created.
    """

    def destroy() -> None:
        gc.collect()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    atexit.register(destroy)


def prepare_model(accelerator: Accelerator, pipeline: Pipeline, optimizer: Optimizer) -> tuple[Any, Any]:
    """Move a pipeline to the device and wrap it and its optimizer with Accelerate where precision or processes need it.

    Otherwise Accelerate is not called: it would wrap nothing, but import torch's distributed tensors.

    Returns:
        the wrapped pipeline and optimizer
    """
    if _is_passthrough(accelerator):
        return pipeline.to(accelerator.device), optimizer
    prepared: tuple[Any, Any] = accelerator.prepare(pipeline, optimizer)
    return prepared


def unwrap_model(accelerator: Accelerator, model: Any) -> None:
    """Remove the wrappers that `prepare_model` put around the pipeline's `forward`."""
    if not _is_passthrough(accelerator):
        accelerator.unwrap_model(model, keep_fp32_wrapper=False)


def _is_passthrough(accelerator: Accelerator) -> bool:
    state = accelerator.state
    return (
        state.distributed_type.value == "NO"
        and state.mixed_precision == "no"
        and state.dynamo_plugin.backend.value == "NO"
    )


@contextmanager
def flush_denormals() -> Iterator[None]:
    """Flush denormal numbers to zero on the CPU inside the context.

    Small gradients can make Adam's second moment denormal, which takes up to twice the time per step.

    The setting belongs to a thread, and new threads inherit it. Those of torch are started before it is made, and then
    each makes it; where they cannot be reached, this thread alone.
    """
    torch.ones(torch.get_num_threads() << 15).mul_(2)  # starts all threads: torch splits work from 32768 numbers each
    call_in_each_thread(lambda: torch.set_flush_denormal(True))
    try:
        yield
    finally:
        call_in_each_thread(lambda: torch.set_flush_denormal(False))


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Keep memory that is freed inside the context for later use in it, and return it to the system at the end.

    glibc returns large blocks as they are freed, so the next step gets them again page by page, each cleared by the
    system: up to a fifth of the time of a step on a CPU. Peak use is the same. Other C libraries are left as they are.
    """
    libc = _find_glibc()
    if libc is None:
        yield
        return
    libc.mallopt(_M_MMAP_THRESHOLD, _MAX_MMAP_THRESHOLD)
    libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_MEMORY)
    try:
        yield
    finally:  # as glibc itself sets it for programs that free blocks this large
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * _MAX_MMAP_THRESHOLD)
        libc.malloc_trim(0)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_MAX_MMAP_THRESHOLD, _KEPT_MEMORY = 1 << 25, 2**31 - 1  # in bytes, the largest that glibc accepts


def _find_glibc() -> ctypes.CDLL | None:
    """Return the C library of the process if it is glibc."""
    try:
        return ctypes.CDLL(None) if os.confstr("CS_GNU_LIBC_VERSION") else None
    except (AttributeError, OSError, ValueError):
        return None


def describe_hardware(device: str, threads: int | None) -> dict[str, str]:
    """Return the hardware on which the last digits of results depend: device, processor and threads.

    Args:
        device: auto, cpu or cuda; auto uses a GPU if there is one
        threads: CPU threads; None for torch's default
    """
    use_gpu = device != "cpu" and torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if use_gpu else "cpu",
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": str(threads or torch.get_num_threads()),
    }


@contextmanager
def limit_threads(num_threads: int | None) -> Iterator[None]:
    """Set the number of CPU threads inside the context; None leaves it unchanged."""
    before = torch.get_num_threads()
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


CUBLAS_WORKSPACE_VARIABLE = "CUBLAS_WORKSPACE_CONFIG"
DETERMINISTIC_WORKSPACES = (":4096:8", ":16:8")
"""Values of the variable with which cuBLAS is deterministic."""


@contextmanager
def use_deterministic_algorithms(enabled: bool) -> Iterator[None]:
    """Use only deterministic algorithms of torch inside the context.

    Args:
        pipeline: the pipeline whose components are compiled
        enabled: False changes nothing

    Raises:
        OptionError: the environment configures cuBLAS to be nondeterministic
        TrainingError: an operation has no deterministic implementation; the message names the operation and, unless it
            is in the backward pass, the component
    """
    if not enabled:
        yield
        return
    workspace = os.environ.get(CUBLAS_WORKSPACE_VARIABLE)
    if workspace not in (None, *DETERMINISTIC_WORKSPACES):
        raise OptionError(
            f"--deterministic: {CUBLAS_WORKSPACE_VARIABLE} is {workspace!r}; unset it or set it to "
            f"{' or '.join(DETERMINISTIC_WORKSPACES)}"
        )
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    os.environ.setdefault(CUBLAS_WORKSPACE_VARIABLE, DETERMINISTIC_WORKSPACES[0])
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as e:
        operation, separator, _ = str(e).partition(" does not have a deterministic implementation")
        if not separator:
            raise
        component = _find_failing_component(e)
        place = "the backward pass" if component is None else component.display_name()
        raise TrainingError(
            f"--deterministic: torch has no deterministic implementation of {operation} in {place}; omit the "
            "option, or choose another component or device"
        ) from None
    finally:
        torch.backends.cudnn.benchmark = benchmark
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        if workspace is None:
            del os.environ[CUBLAS_WORKSPACE_VARIABLE]


def _find_failing_component(error: BaseException) -> Slot | None:
    """Return the innermost component in whose methods an error was raised, None if there is none."""
    component = None
    for frame, _ in walk_tb(error.__traceback__):
        instance = frame.f_locals.get("self")
        component = instance if isinstance(instance, Slot) else component
    return component


@contextmanager
def compile_components(pipeline: Pipeline, enabled: bool) -> Iterator[Callable[[], AbstractContextManager[Any]]]:
    """Compile encoder, decoder and head with torch.compile inside the context; state dict keys do not change.

    Args:
        pipeline: the pipeline whose components are compiled
        enabled: False changes nothing

    Yields:
        a function that returns a context in which they run uncompiled, for validation, whose shapes and modes would be
        compiled anew

    Raises:
        TrainingError: torch cannot compile them
    """
    if not enabled:
        yield nullcontext
        return
    from torch._dynamo.exc import TorchDynamoException

    components = [part for name, part in pipeline.named_slots() if name in ("encoder", "decoder", "head")]
    for component in components:
        component.compile()
    try:
        yield lambda: torch.compiler.set_stance("force_eager")
    except TorchDynamoException as e:
        reason = " ".join([line.strip() for line in str(e).splitlines() if line.strip()][:2])
        raise TrainingError(
            f"--compile: torch cannot compile these components here ({reason}); omit the option"
        ) from None
    finally:
        for component in components:
            component._compiled_call_impl = None
