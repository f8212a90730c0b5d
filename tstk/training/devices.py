"""Where training happens: the device, its precision and its threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from tstk.errors import OptionError, TrainingError
from tstk.pipeline import Pipeline

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
    # Accelerate keeps the first precision of a process; a second fit may want another
    AcceleratorState._reset_state(reset_partial_state=True)
    # a pipeline may hold parts that a stage has no use for, such as the way back of a tokenizer
    several = DistributedDataParallelKwargs(find_unused_parameters=True)
    kind = {"fp32": "no"}.get(precision, precision)
    found = Accelerator(cpu=device == "cpu", mixed_precision=kind, kwargs_handlers=[several])
    way = found.distributed_type.value
    if way in ("FSDP", "DEEPSPEED", "MEGATRON_LM") and not getattr(found, "is_fsdp2", False):
        raise OptionError(f"Accelerate was told to use {way}, of which tstk knows FSDP 2 alone: --fsdp_version 2")
    return found


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
    """On the CPU, tiny learned scales make Adam's second moment denormal, at up to twice the time per step."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


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
