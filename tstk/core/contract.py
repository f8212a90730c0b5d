"""What a component promises about its output: types and shapes, by the Spec that it declares in `out`.

`checked_outputs` checks them during one forward pass, so that a component that breaks its contract is named itself,
rather than the component after it that fails. Training does so once, before its first step.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tstk.core.interfaces import Decoder, Encoder, Head, Loss, Slot, Tokenizer
from tstk.core.pipeline import Pipeline
from tstk.core.rng import SampleRNG
from tstk.core.task import get_task
from tstk.core.types import Series, Spec, StepOutput, Tokens
from tstk.errors import IncompatibleError
from tstk.plugins.location import locate_function

_TOKEN_FIELDS = ("values", "pos", "grid_index", "valid")
_OUT_REMEDY = "return what `self.out` declares, or set `self.out = spec.replace(...)` in the constructor"


def describe_place(part: Slot) -> str:
    """Return a component, its class, and the line of the `forward` of that class, for messages to its author."""
    cls = type(part)
    place = ", ".join(filter(None, (f"class {cls.__qualname__}", locate_function(inspect.unwrap(cls.forward)))))
    return f"{part.display_name()} ({place})"


def check_outputs(pipeline: Pipeline, series: Series) -> None:
    """Run a pipeline forward on a batch, and check the output of each component; nothing is changed.

    Args:
        pipeline: on the device of the batch
        series: in the units of the data

    Raises:
        IncompatibleError: an output is not what its component promises
    """
    assert series.sample_id is not None
    with _training_mode(pipeline), torch.random.fork_rng(devices=[]), checked_outputs(pipeline):
        try:
            pipeline(series, SampleRNG(0, 0, series.sample_id))
        except IncompatibleError:
            raise
        except Exception:  # training raises it again, or says that memory does not suffice
            return


@contextmanager
def _training_mode(pipeline: Pipeline) -> Iterator[None]:
    """Train inside the context, as a loss may have no gradient otherwise; modes and buffers are restored afterwards."""
    modes = [(module, module.training) for module in pipeline.modules()]
    # batch normalization updates its own, and a component may put another tensor in the place of one
    owners = [
        (module._buffers, name, buffer) for module in pipeline.modules() for name, buffer in module._buffers.items()
    ]
    buffers = [(owner, name, buffer, buffer.clone()) for owner, name, buffer in owners if buffer is not None]
    pipeline.train()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for owner, name, buffer, value in buffers:
            owner[name] = buffer.copy_(value)


@contextmanager
def checked_outputs(pipeline: Pipeline) -> Iterator[None]:
    """Check the output of each component that is called inside the context.

    Raises:
        IncompatibleError: an output is not what its component promises
    """

    def check(part: Slot, args: tuple[Any, ...], output: Any) -> None:
        fault = find_fault(pipeline, part, args, output)
        if fault:
            raise IncompatibleError(f"{describe_place(part)}: {fault}")

    handles = [part.register_forward_hook(check) for _, part in pipeline.named_slots()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def find_fault(pipeline: Pipeline, part: Slot, args: tuple[Any, ...], output: Any) -> str:
    """Return what is wrong with the output of a component, and the remedy; empty if nothing is.

    Args:
        pipeline: of the component
        part: the component
        args: of its `forward`
        output: of its `forward`
    """
    checks: dict[type[Slot], Any] = {
        Tokenizer: _check_tokenizer,
        Encoder: _check_encoder,
        Decoder: _check_decoder,
        Head: partial(_check_head, pipeline),
        Loss: partial(_check_loss, pipeline),
    }
    check = next(check for kind, check in checks.items() if isinstance(part, kind))
    fault: str = check(part, args, output)
    return fault


def _check_tokenizer(tokenizer: Tokenizer, args: tuple[Series], output: Any) -> str:
    fault = _check_tokens(output, tokenizer.out)
    rows = args[0].x.shape[0]
    if not fault and output.values.shape[0] != rows:
        return f"forward returned tokens of {output.values.shape[0]} series; expected {rows}, as many as it got"
    return fault


def _check_encoder(encoder: Encoder, args: tuple[Tokens], output: Any) -> str:
    out = encoder.out
    if isinstance(output, Tokens):
        output = output.replace(target=None, target_mask=None)
    if fault := _check_tokens(output, out.replace(vocab_size=None)):
        return fault
    before, after = list(args[0].values.shape[:2]), list(output.values.shape[:2])
    if before != after:
        return f"forward returned {after} tokens, [B, N]; expected {before}, as many as it got, in the same order"
    num_prefix = 0 if output.prefix is None else output.prefix.shape[1]
    if num_prefix != out.num_prefix_tokens:
        return (
            f"forward returned {num_prefix} prefix tokens; expected out.num_prefix_tokens = {out.num_prefix_tokens}; "
            f"{_OUT_REMEDY}"
        )
    return ""


def _check_tokens(output: Any, out: Spec) -> str:
    if not isinstance(output, Tokens):
        return f"forward returned {_describe_type(output)}; expected Tokens, such as `tokens.replace(values=...)`"
    for name in _TOKEN_FIELDS:
        if not isinstance(value := getattr(output, name), Tensor):
            return f"forward returned tokens whose {name} is {_describe_type(value)}; expected a tensor [B, N, ...]"
    if output.values.ndim != 3:
        return f"forward returned tokens whose values are {list(output.values.shape)}; expected [B, N, D]"
    try:
        output.check(out, "forward returned tokens")
    except ValueError as e:
        return f"{e}; {_OUT_REMEDY}"
    return ""


def _check_decoder(decoder: Decoder, args: tuple[Tokens, Tokens, Any], output: Any) -> str:
    if decoder.predicts_series:
        return _check_shape(output, [None, None, None], "[B, C, T]")
    expected = [*args[1].grid_index.shape, decoder.out.dim]
    return _check_shape(output, expected, "[B, M, out.dim], a row for each query")


def _check_head(pipeline: Pipeline, head: Head, args: tuple[Tokens], output: Any) -> str:
    spec, rows = pipeline.spec, args[0].values.shape[0]
    if spec.horizon is not None:
        channels = 1 if head.per_channel and pipeline.channel_independent else spec.channels
        return _check_shape(output, [rows, channels, spec.horizon], "[B, C, spec.horizon]")
    if spec.num_outputs is None:
        return _check_shape(output, [rows, None], "[B, E]")
    if spec.task is not None and get_task(spec.task).target_type == "sample-class":
        return _check_shape(output, [rows, spec.num_outputs, spec.length], "[B, spec.num_outputs, spec.length]")
    return _check_shape(output, [rows, spec.num_outputs], "[B, spec.num_outputs]")


def _check_shape(output: Any, expected: list[int | None], meaning: str) -> str:
    """Return what is wrong with a tensor; None in `expected` stands for any size."""
    if not isinstance(output, Tensor):
        return f"forward returned {_describe_type(output)}; expected a tensor {meaning}"
    actual = list(output.shape)
    if len(actual) == len(expected) and all(e in (None, a) for a, e in zip(actual, expected, strict=True)):
        return ""
    sizes = meaning if None in expected else f"{expected}, {meaning}"
    return f"forward returned a tensor {actual}; expected {sizes}"


def _check_loss(pipeline: Pipeline, loss: Loss, args: tuple[StepOutput], output: Any) -> str:
    if not isinstance(output, dict) or not output:
        returned = "an empty dict" if output == {} else _describe_type(output)
        return f'forward returned {returned}; expected a dict of named scalars, such as `{{"mine": loss}}`'
    for name, value in output.items():
        if not isinstance(value, Tensor):
            return f"the loss {name!r} is {_describe_type(value)}; expected a scalar tensor, without `.item()`"
        if value.ndim:
            return f"the loss {name!r} is a tensor {list(value.shape)}; expected a scalar, such as its mean"
    encoded = args[0].encoded
    penalties = args[0].tokens.aux_losses | (encoded.aux_losses if encoded is not None else {})
    terms = [*output.values(), *penalties.values()]
    trains = loss.training and any(p.requires_grad for p in pipeline.parameters())
    if trains and not any(t.requires_grad for t in terms):
        return (
            f"no gradient can flow from the loss {', '.join(map(repr, output))}; compute it from `step_output` without "
            "`.detach()`, `.item()` or `torch.no_grad()`"
        )
    return ""


def _describe_type(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    return "nothing (None)" if value is None else f"a {type(value).__name__}"
