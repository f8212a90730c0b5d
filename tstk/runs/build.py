"""Building components and pipelines from a config, and checking a config without data or memory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tstk.config.memory import format_size, get_available_memory
from tstk.config.resolve import MODEL_OPTIONS, Config
from tstk.core.interfaces import Decoder, Encoder, Head, Loss, Slot, Tokenizer
from tstk.core.pipeline import Pipeline, get_head_spec, get_tokenizer_spec
from tstk.core.task import choose_target_type, find_task
from tstk.core.types import Spec
from tstk.errors import DataError, IncompatibleError, OptionError, did_you_mean
from tstk.plugins.hooks import SLOTS
from tstk.plugins.local import register_component
from tstk.plugins.registry import get_registry
from tstk.plugins.signature import read_signature


def build_component(kind: str, component: str | type | Mapping[str, Any], spec: Spec, **options: Any) -> Slot:
    """Build one component by name or class.

    Args:
        kind: tokenizer, encoder, decoder, head or loss
        component: its name, its class, or a table {"use": name, option: value}
        spec: of its input
        options: its options, as on the command line

    Raises:
        UnknownNameError: there is no such component
        OptionError: an option is unknown or has an invalid value
        IncompatibleError: the Spec lacks what the component needs
    """
    if isinstance(component, Mapping):
        options = {**{k: v for k, v in component.items() if k != "use"}, **options}
        component = str(component["use"])
    if isinstance(component, type):
        component = register_component(kind, component)
    entry = get_registry().find(kind, component)
    signature = read_signature(entry.target)
    for name in options:
        if name not in signature.options:
            raise OptionError(f"{kind} {component!r} has no option {name!r}.{did_you_mean(name, signature.options)}")
    parsed = {name: signature.options[name].parse(value, f"{kind}.{name}") for name, value in options.items()}
    try:
        return cast(Slot, get_registry().load(entry)(spec, **parsed))
    except (RuntimeError, TypeError) as e:
        if not re.search(r"\bmeta\b", str(e)):
            raise
        raise IncompatibleError(
            f"{kind} {component!r} reads values of tensors in its constructor ({str(e).splitlines()[0]}), but configs "
            "are checked on the meta device, where tensors have no values; read them in `bind` or later"
        ) from e


def build_pipeline(
    config: Config,
    spec: Spec,
    *,
    channels: Literal["auto", "mixed", "independent"] = "auto",
    instance_norm: bool | None = None,
    unbiased_norm: bool = False,
    linear_map: Literal["none", "auto", "shared", "per-channel"] = "none",
    freeze: tuple[str, ...] = (),
    init_from: str | None = None,
) -> Pipeline:
    """Build the pipeline of a config with fresh weights; see `tstk.runs.checkpoint.initialize_for_training`.

    Args:
        config: resolved
        spec: of the data
        channels: mixed: a token sees all channels; independent: each channel is a separate series; auto: independent
            when forecasting, else mixed
        instance_norm: normalize each series by its own mean and standard deviation and undo it in forecasts; if not
            given, on when forecasting
        unbiased_norm: divide by the unbiased deviation in instance normalization, as VQShape does
        linear_map: forecast by a least-squares linear map of the context plus the output of the head, which starts
            at zero: shared by all channels, one per-channel, or auto, which selects on validation; training that does
            not improve on the map is discarded
        freeze: slots, or modules of them such as encoder.stack, that are not trained
        init_from: a run directory, to start from its trained weights for all slots that the new task keeps
    """
    tables = {s: t for s, t in config.values.items() if s in SLOTS}
    tokenizer_spec = get_tokenizer_spec(spec, channels, "head" in tables)
    tokenizer = cast(Tokenizer, build_component("tokenizer", tables["tokenizer"], tokenizer_spec))
    encoder = cast(Encoder, build_component("encoder", tables["encoder"], tokenizer.out))
    loss = cast(Loss, build_component("loss", tables["loss"], encoder.out.replace(tokenizer_dim=tokenizer.out.dim)))
    decoder = head = None
    for unused in ({"head", "decoder"} - {loss.consumes}) & tables.keys():
        raise IncompatibleError(
            f"{loss.display_name()} scores the output of the {loss.consumes}, so --{unused} "
            f"{tables[unused]['use']} would have no use; drop it or choose another --loss"
        )
    if loss.consumes not in tables:
        raise IncompatibleError(
            f"{loss.display_name()} scores the output of a {loss.consumes}; add --{loss.consumes} NAME"
        )
    if "decoder" in tables:
        decoder = cast(Decoder, build_component("decoder", tables["decoder"], loss.out))
        decoder.bind_tokenizer(tokenizer)
    if "head" in tables:
        head_class = cast(type[Head], get_registry().load(get_registry().find("head", tables["head"]["use"])))
        head = cast(
            Head,
            build_component("head", tables["head"], get_head_spec(spec, encoder.out, channels, head_class.per_channel)),
        )
    return Pipeline(
        spec,
        tokenizer,
        encoder,
        loss,
        decoder,
        head,
        channels=channels,
        instance_norm=instance_norm,
        unbiased_norm=unbiased_norm,
        linear_map=linear_map,
    )


def dummy_spec(config: Config, channels: int) -> Spec:
    """Return a plausible Spec of the data, to check components against each other before any data are loaded.

    Args:
        config: resolved
        channels: that the data might have
    """
    data = config.options("data")
    targets = [get_registry().find(s, config.values[s]["use"]).target for s in SLOTS if s in config.values]
    needs = {need for target in targets for need in read_signature(target).class_attrs.get("needs", ())}
    horizon = data.get("horizon") or (96 if "horizon" in needs else None)
    attrs = [read_signature(target).class_attrs for target in reversed(targets)]  # the loss first
    target_type = choose_target_type([a.get("target_types", ()) for a in attrs])
    target_type = "future" if horizon else target_type
    task = data["task"] or (None if target_type is None else find_task(target_type))
    return Spec(
        channels=channels,
        length=data.get("length") or data.get("context") or 512,
        task=task,
        num_outputs=None if horizon else 3,
        horizon=horizon,
        conditioning={text.partition("=")[0]: 16 for text in data["conditioning"]},
    )


def validate_on_meta(config: Config) -> None:
    """Build the pipeline of a config on the meta device, to find faults before data are loaded.

    Faults that depend on the data are found later, such as several channels where a tokenizer takes one.

    Raises:
        IncompatibleError: components do not fit together
        OptionError: an option is invalid, or the parameters exceed the memory that is available
    """
    options = {k: v for k, v in config.options("pipeline").items() if k in MODEL_OPTIONS}
    try:
        with use_meta_device():
            try:
                pipeline = build_pipeline(config, dummy_spec(config, 2), **options)
            except IncompatibleError:  # perhaps of several channels, and the data may have one
                pipeline = build_pipeline(config, dummy_spec(config, 1), **options)
    except DataError:
        return
    except (RuntimeError, OverflowError) as e:
        reason = (str(e).splitlines() or [""])[0]
        raise OptionError(f"no pipeline can be built with these sizes ({reason}); choose smaller ones") from e
    _check_memory(pipeline)


@contextmanager
def use_meta_device() -> Iterator[None]:
    """Create tensors on the meta device: they have shape and dtype but no memory, and nothing is computed or drawn."""
    with torch.device("meta"), _ShapePropagationMode():
        yield


_aten = torch.ops.aten
_RANDOM_OPS = {_aten.rand.default: 0, _aten.randn.default: 0, _aten.randint.default: 1, _aten.randint.low: 2}
"""Functions that draw a new tensor -> position of its size among the arguments."""


class _ShapePropagationMode(TorchDispatchMode):
    """Dispatch mode that computes only shape and dtype of elementwise and random functions on the meta device.

    torch can do it too, but the first call of its Python implementations imports its compiler or SymPy, which takes as
    long as importing torch.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # with True, torch would import the compiler in order to skip it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        # calling the function on tensors without elements gives the dtype of the result and torch's own errors
        if func in _RANDOM_OPS and kwargs.get("device") == torch.device("meta"):
            position = _RANDOM_OPS[func]
            empty_result = func(*args[:position], [0], *args[position + 1 :], **{**kwargs, "device": "cpu"})
            return empty_result.new_empty(args[position], device="meta")
        in_place = func.overloadpacket.__name__.endswith("_")
        tags = {torch.Tag.pointwise, torch.Tag.nondeterministic_seeded} if in_place else {torch.Tag.pointwise}
        if not tensors or "out" in kwargs or not tags.intersection(func.tags) or not all(t.is_meta for t in tensors):
            return func(*args, **kwargs)
        try:
            shape = np.broadcast_shapes(*(t.shape for t in tensors))
        except ValueError:
            return func(*args, **kwargs)  # torch raises its own error
        if in_place and shape != tensors[0].shape:
            return func(*args, **kwargs)
        empty = {id(t): torch.empty([0] * t.dim(), dtype=t.dtype, device="cpu") for t in tensors}
        empty_result = func(*(empty.get(id(a), a) for a in args), **{k: empty.get(id(v), v) for k, v in kwargs.items()})
        return tensors[0] if in_place else empty_result.new_empty(shape, device="meta")


def _check_memory(pipeline: Pipeline) -> None:
    """Raise an error if the parameters exceed the memory that is available."""
    sizes = {
        name: sum(p.numel() * p.element_size() for p in part.parameters()) for name, part in pipeline.named_slots()
    }
    available = get_available_memory()
    if available is not None and sum(sizes.values()) > available:
        largest = max(sizes, key=sizes.__getitem__)
        raise OptionError(
            f"{getattr(pipeline, largest).display_name()} has {format_size(sizes[largest])} of parameters, and "
            f"{format_size(available)} of memory are available; choose smaller sizes"
        )
