"""From names to modules: `create` one component, `assemble` a pipeline from a config, `rehearse` it without data."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tstk.config.resolve import WIRING, Config
from tstk.errors import DataError, NeedsError, OptionError, did_you_mean
from tstk.plugins.signature import outline
from tstk.core.pipeline import Pipeline, head_spec, inner_spec
from tstk.core.types import Spec
from tstk.plugins.registry import SLOTS, registry
from tstk.core.interfaces import Decoder, Encoder, Head, Loss, Slot, Tokenizer


def create(kind: str, use: str | Mapping[str, Any], spec: Spec, **options: Any) -> Slot:
    """Build one component by name.

    Args:
        kind: tokenizer, encoder, decoder, head or loss
        use: its name, or a table {"use": name, option: value}
        spec: what it will receive
        options: its options, as on the command line

    Raises:
        NameUnknown, OptionError, NeedsError: what is wrong and what would work
    """
    if isinstance(use, Mapping):
        options = {**{k: v for k, v in use.items() if k != "use"}, **options}
        use = str(use["use"])
    entry = registry().find(kind, use)
    known = outline(entry.target).options
    unknown = [n for n in options if n not in known]
    if unknown:
        raise OptionError(f"{kind} {use!r} has no option {unknown[0]!r}.{did_you_mean(unknown[0], known)}")
    given = {n: known[n].convert(v, f"{kind}.{n}") for n, v in options.items()}
    try:
        return cast(Slot, registry().load(entry)(spec, **given))
    except (RuntimeError, TypeError) as e:
        if not re.search(r"\bmeta\b", str(e)):
            raise
        raise NeedsError(
            f"{kind} {use!r} reads values of tensors in its constructor ({str(e).splitlines()[0]}); they may have none "
            "there, since parts are checked against each other before they take memory: read them in `bind` or later"
        ) from e


def assemble(
    config: Config,
    spec: Spec,
    *,
    channels: Literal["auto", "mixed", "independent"] = "auto",
    instance_norm: bool | None = None,
    linear_map: Literal["none", "auto", "shared", "per-channel"] = "none",
    freeze: tuple[str, ...] = (),
    from_: str | None = None,
) -> Pipeline:
    """Build the pipeline of a config, on the Spec of the data. No weights are read; see `tstk.runs.checkpoint.launch`.

    Args:
        channels: mixed, a token sees all channels; independent, each channel is a series of its own;
            auto, independent when forecasting
        instance_norm: normalise each series by its own mean and deviation and undo it on the way out;
            none means on when forecasting
        linear_map: forecast by a linear map of the context, solved for before training, plus what the head answers,
            which starts at zero: shared by all channels, one per-channel, or auto, what validation chooses; weights
            that do not improve on the map on validation are not kept
        freeze: slots, or parts of them such as encoder.stack, that keep their weights
        from: a run directory; mounts all of its trained parts that the new task keeps
    """
    tables = {s: t for s, t in config.values.items() if s in SLOTS}
    inner = inner_spec(spec, channels, "head" in tables)
    tokenizer = cast(Tokenizer, create("tokenizer", tables["tokenizer"], inner))
    encoder = cast(Encoder, create("encoder", tables["encoder"], tokenizer.out))
    loss = cast(Loss, create("loss", tables["loss"], encoder.out.but(content=tokenizer.out.dim)))
    decoder = head = None
    for idle in ({"head", "decoder"} - {loss.reads}) & tables.keys():
        raise NeedsError(
            f"{loss.called()} marks what the {loss.reads} answers, so --{idle} "
            f"{tables[idle]['use']} would have no use; drop it or choose another --loss"
        )
    if loss.reads not in tables:
        raise NeedsError(f"{loss.called()} marks what a {loss.reads} answers; say --{loss.reads} NAME")
    if "decoder" in tables:
        decoder = cast(Decoder, create("decoder", tables["decoder"], loss.out))
        decoder.meet(tokenizer)
    if "head" in tables:
        kind = cast(type[Head], registry().load(registry().find("head", tables["head"]["use"])))
        head = cast(Head, create("head", tables["head"], head_spec(spec, encoder.out, channels, kind.per_channel)))
    wiring: dict[str, Any] = {"channels": channels, "instance_norm": instance_norm, "linear_map": linear_map}
    return Pipeline(spec, tokenizer, encoder, loss, decoder, head, **wiring)


def stand_in(config: Config) -> Spec:
    """A Spec such as the data might have, to check components against each other before any data are read."""
    data = config.options("data")
    needs = {
        n
        for s in SLOTS
        if s in config.values
        for n in outline(registry().find(s, config.values[s]["use"]).target).facts.get("needs", ())
    }
    horizon = data.get("horizon") or (96 if "horizon" in needs else None)
    return Spec(
        channels=2,
        length=data.get("length") or data.get("context") or 512,
        classes=None if horizon else 3,
        horizon=horizon,
        extra={text.partition("=")[0]: 16 for text in data["extra"]},
    )


def rehearse(config: Config) -> None:
    """Build everything once without memory, values or data, so that what cannot work is refused at once.

    Raises:
        NeedsError, OptionError: as building with the data would; faults that depend on the data come later
    """
    try:
        with without_values():
            pipeline = assemble(
                config,
                stand_in(config),
                **{k: v for k, v in config.options("pipeline").items() if k in WIRING},
            )
    except DataError:
        return
    except (RuntimeError, OverflowError) as e:
        why = (str(e).splitlines() or [""])[0]
        raise OptionError(f"these sizes make no pipeline ({why}); choose smaller ones") from e
    _fits(pipeline)


@contextmanager
def without_values() -> Iterator[None]:
    """Inside, tensors have a shape and a dtype but no memory, and nothing is computed or drawn: torch's meta device."""
    with torch.device("meta"), _ShapesOnly():
        yield


_aten = torch.ops.aten
_DRAWN = {_aten.rand.default: 0, _aten.randn.default: 0, _aten.randint.default: 1, _aten.randint.low: 2}
"""Functions that draw a new tensor, and which of their arguments is its size."""


class _ShapesOnly(TorchDispatchMode):
    """Whatever works element by element, or draws each element, is answered from shapes and dtypes.

    torch does the same for the meta device, but in Python functions whose first call imports its compiler or SymPy, and
    that takes as long as torch itself. Everything else is left to torch.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to skip the compiler, torch would import it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        # with tensors that have no elements torch says which dtype comes out, and what is wrong with an argument
        if func in _DRAWN and kwargs.get("device") == torch.device("meta"):
            at = _DRAWN[func]
            found = func(*args[:at], [0], *args[at + 1 :], **{**kwargs, "device": "cpu"})
            return found.new_empty(args[at], device="meta")
        in_place = func.overloadpacket.__name__.endswith("_")
        kinds = {torch.Tag.pointwise, torch.Tag.nondeterministic_seeded} if in_place else {torch.Tag.pointwise}
        if not tensors or "out" in kwargs or not kinds.intersection(func.tags) or not all(t.is_meta for t in tensors):
            return func(*args, **kwargs)
        try:
            shape = np.broadcast_shapes(*(t.shape for t in tensors))
        except ValueError:
            return func(*args, **kwargs)  # torch says what does not fit
        if in_place and shape != tensors[0].shape:
            return func(*args, **kwargs)
        empty = {id(t): torch.empty([0] * t.dim(), dtype=t.dtype, device="cpu") for t in tensors}
        found = func(*(empty.get(id(a), a) for a in args), **{k: empty.get(id(v), v) for k, v in kwargs.items()})
        return tensors[0] if in_place else found.new_empty(shape, device="meta")


def _fits(pipeline: Pipeline) -> None:
    """Refuse what could not be held, before the machine tries."""
    sizes = {name: sum(p.numel() * p.element_size() for p in part.parameters()) for name, part in pipeline.slots()}
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    if have and sum(sizes.values()) > have:
        most = max(sizes, key=sizes.__getitem__)
        raise OptionError(
            f"{getattr(pipeline, most).called()} has {sizes[most] / 2**30:,.0f} GiB of parameters, and this machine "
            f"has {have / 2**30:.0f} GiB of memory; choose smaller sizes"
        )
