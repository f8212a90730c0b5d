"""Importing weights that another program trained: its checkpoint becomes a run.

An `Importer` maps the tensors of a program to those of a pipeline, and infers the sizes from their shapes. Nothing is
dropped or guessed in silence: every tensor of the file is taken, or left for a reason that the user is told, and every
parameter of the pipeline comes from the file.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from tstk.config.records import RunResult, SelectedEpoch
from tstk.config.resolve import MODEL_OPTIONS, Config, find_config, resolve_config
from tstk.config.run_directory import WEIGHTS_FILE, check_new_run_dir, suggest_run_dirs
from tstk.config.toml import read_toml
from tstk.core.pipeline import Pipeline
from tstk.core.types import Spec
from tstk.errors import CheckpointError, OptionError, did_you_mean
from tstk.files import atomic_folder
from tstk.nn.weight_files import find_state_dict, load_weight_file, shorten_names
from tstk.plugins.hooks import Entry
from tstk.plugins.registry import get_registry
from tstk.plugins.signature import read_signature
from tstk.runs.build import build_pipeline, use_meta_device
from tstk.runs.checkpoint import collect_versions, save_run_config, save_weights

_LOGGER = logging.getLogger("tstk")
_WRAPPER_PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DistributedDataParallel, torch.compile and Lightning put before every name."""


class SourceTensors:
    """The tensors of a checkpoint; an importer takes each, or leaves it for a reason.

    Args:
        path: of the file, for messages
        tensors: name -> tensor
        settings: numbers and words that the file records beside its tensors, name -> value
    """

    def __init__(self, path: Path, tensors: Mapping[str, Tensor], settings: Mapping[str, Any] | None = None) -> None:
        self.path, self.settings = path, dict(settings or {})
        self._tensors = dict(tensors)
        self._used, self._left = set[str](), set[str]()
        self.notes: list[str] = []
        """What was left of the file and what was converted, a line each."""

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def get_shape(self, name: str, axes: str) -> tuple[int, ...]:
        """Return the shape of a tensor.

        Args:
            name: of the tensor
            axes: names of its axes, separated by commas, for messages: "dim, channels, window"

        Raises:
            CheckpointError: there is no such tensor, or it has another number of axes
        """
        tensor = self._find(name, f"[{axes}]")
        if tensor.dim() != len(axes.split(",")) or 0 in tensor.shape:
            raise CheckpointError(f"{self.path}: {name} is {_format_shape(tensor.shape)}; expected [{axes}]")
        return tuple(tensor.shape)

    def count(self, pattern: str) -> int:
        """Return how many tensors have a name such as `blocks.{}.norm1.weight`, numbered from 0 without a gap.

        Raises:
            CheckpointError: there is none
        """
        number = 0
        while pattern.format(number) in self._tensors:
            number += 1
        if not number:
            self._find(pattern.format(0), "")
        return number

    def list_indices(self, prefix: str) -> list[int]:
        """Return the numbers that follow a prefix such as `shape_decoder.layers.` in the names, in order."""
        words = (name.removeprefix(prefix).partition(".")[0] for name in self._tensors if name.startswith(prefix))
        return sorted({int(word) for word in words if word.isdigit()})

    def pop(self, name: str, shape: Sequence[int] | None = None) -> Tensor:
        """Return a tensor as float32.

        Args:
            name: of the tensor
            shape: that it must have; None for any

        Raises:
            CheckpointError: there is no such tensor; it has another shape, holds no real numbers, or some of them are
                not finite
        """
        tensor = self._find(name, _format_shape(shape or ()) if shape is not None else "")
        if shape is not None and tuple(tensor.shape) != tuple(shape):
            raise CheckpointError(
                f"{self.path}: {name} is {_format_shape(tensor.shape)}; expected {_format_shape(shape)}"
            )
        self._used.add(name)
        if tensor.layout != torch.strided or tensor.is_quantized or not tensor.is_floating_point():
            kind = "quantized" if tensor.is_quantized else f"{tensor.dtype}, {tensor.layout}".replace("torch.", "")
            raise CheckpointError(f"{self.path}: {name} is {kind}; expected a plain tensor of floating-point numbers")
        if tensor.is_meta:
            return tensor.float()
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"{self.path}: {name} claims more numbers than the file holds; save it contiguous")
        converted = tensor.float()
        if not converted.isfinite().all():
            reason = "after diverging" if tensor.itemsize <= 4 else "after diverging or beyond the range of float32"
            raise CheckpointError(f"{self.path}: {name} holds values that are not finite, as {reason}")
        return converted

    def pop_layers(self, names: Mapping[str, str]) -> dict[str, Tensor]:
        """Return weights and biases under the names of the pipeline.

        Args:
            names: layer of the pipeline -> layer of the file; a layer of the file may have no bias

        Raises:
            CheckpointError: see `pop`
        """
        weights = {}
        for layer, source in names.items():
            weights[f"{layer}.weight"] = self.pop(f"{source}.weight")
            if f"{source}.bias" in self._tensors:
                weights[f"{layer}.bias"] = self.pop(f"{source}.bias")
        return weights

    def pop_stacked(self, weight: str, bias: str, layers: Sequence[str]) -> dict[str, Tensor]:
        """Return weights and biases of layers that the file has as one map, such as query, key and value.

        Args:
            weight: name of the stacked weight, [sum of outputs, inputs]
            bias: name of the stacked bias; the file may have none
            layers: of the pipeline, in the order of the rows, all with as many outputs

        Raises:
            CheckpointError: see `pop`; or the rows are not a multiple of the layers
        """
        if (rows := self.get_shape(weight, "outputs, inputs")[0]) % len(layers):
            raise CheckpointError(f"{self.path}: {weight} has {rows} rows; expected a multiple of {len(layers)}")
        weights = zip(layers, self.pop(weight).chunk(len(layers)), strict=True)
        state = {f"{layer}.weight": part for layer, part in weights}
        if bias in self._tensors:
            biases = zip(layers, self.pop(bias, (rows,)).chunk(len(layers)), strict=True)
            state |= {f"{layer}.bias": part for layer, part in biases}
        return state

    def leave(self, prefix: str, reason: str) -> None:
        """Leave the tensors whose names begin with a prefix; the user is told why.

        Args:
            prefix: of the names; none of them may be there
            reason: a phrase
        """
        names = [name for name in self._tensors if name.startswith(prefix) and name not in self._used]
        if names:
            self._used.update(names)
            self._left.update(names)
            listed = names[0] if len(names) == 1 else f"{prefix}* ({len(names)} tensors)"
            self.notes.append(f"left: {listed}: {reason}")

    def check_all_used(self) -> None:
        """Raise an error if a tensor was neither taken nor left, and note which of those taken were not float32.

        Raises:
            CheckpointError: names such tensors with their shapes
        """
        unknown = [n for n in self._tensors if n not in self._used]
        if unknown:
            listed = shorten_names(f"{name} {_format_shape(self._tensors[name].shape)}" for name in unknown)
            raise CheckpointError(
                f"{self.path}: no part of the pipeline takes {listed}; this is another program, or an unknown version "
                "of it"
            )
        dtypes = Counter(tensor.dtype for name, tensor in self._tensors.items() if name not in self._left)
        self.notes += [
            f"{count} tensor{' is' if count == 1 else 's are'} {str(dtype).removeprefix('torch.')} in the file and "
            "float32 in the run"
            for dtype, count in dtypes.items()
            if dtype != torch.float32
        ]

    def _find(self, name: str, expected: str) -> Tensor:
        if name in self._tensors:
            return self._tensors[name]
        names = (f"{n} {_format_shape(t.shape)}" for n, t in self._tensors.items())
        raise CheckpointError(f"{self.path} has no {name} {expected}".rstrip() + f"; it has {shorten_names(names)}")


@dataclass(frozen=True, kw_only=True)
class ImportedModel:
    """The pipeline that a checkpoint describes, and its weights.

    Args:
        spec: of the series that it takes
        tables: components and options as in a config file, with sizes inferred from the tensors
        weights: parameter of the pipeline -> value; buffers may be given too
        config: name of a config that a plugin ships, whose options hold where `tables` has none; empty for none
        resize: samples to which the program resamples every series, or None
        split_channels: the program takes each channel as a series of its own, so that data may have any channels
        classes: names of the classes, in the order of the outputs, if it is a classifier
    """

    spec: Spec
    tables: Mapping[str, Mapping[str, Any]]
    weights: Mapping[str, Tensor]
    config: str = ""
    resize: int | None = None
    split_channels: bool = False
    classes: tuple[str, ...] = ()


class Importer:
    """Base class of importers, each of which reads the checkpoints of one program.

    The keyword-only parameters of the constructor are options of `tstk import`, with literal defaults: what a
    checkpoint does not tell, such as the number of attention heads.
    """

    safe_classes: ClassVar[tuple[type, ...]] = ()
    """Classes of which a checkpoint holds instances beside its tensors, such as `argparse.Namespace`. Creating one from
    a file sets its attributes, so no class may be here for which that runs code."""

    def convert(self, source: SourceTensors) -> ImportedModel:
        """Return the pipeline and its weights; every tensor of the source is taken or left.

        Raises:
            CheckpointError: a tensor is missing or has another shape than expected
            OptionError: an option does not fit the tensors
        """
        raise NotImplementedError


def import_run(
    kind: str,
    file: str | Path,
    out: str | Path | None = None,
    *,
    command: str = "",
    print_fn: Callable[[str], None] = _LOGGER.info,
    **options: Any,
) -> RunResult:
    """Write a run with the weights of a checkpoint that another program wrote.

    Only tensors of the file are loaded; code in it is not run.

    Args:
        kind: name of the importer, which `tstk list importers` shows
        file: the checkpoint, a file of torch.save or safetensors
        out: the run directory to create; None creates one under `runs/`, named after the importer and the file
        command: the command line that repeats this, for the record; that of Python if empty
        print_fn: called with each note for the user; the default logs them at level INFO
        options: of the importer, which `tstk show importer NAME` shows

    Raises:
        CheckpointError: the file is damaged or holds more than tensors; a tensor is missing, unexpected, of another
            shape or not finite; or the pipelines of tstk cannot represent the program
        OptionError: an option is invalid or does not fit the tensors, or `out` holds a run or other files
        FileError: the file cannot be read, or the run cannot be written
    """
    entry, path = get_registry().find("importer", kind), Path(file)
    arguments = [repr(kind), repr(str(file)), *(f"{name}={value!r}" for name, value in options.items())]
    command = command or f"tstk.import_run({', '.join(arguments)})"
    importer = build_importer(entry, options)
    run_dir = next(suggest_run_dirs(f"{entry.name}-{path.stem}")) if out is None else check_new_run_dir(out)
    source = read_source(path, importer.safe_classes)
    model, config = convert_checkpoint(importer, source, entry.name)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)  # for buffers that the file does not have, such as the seed of a codebook's next draw
        pipeline = _build(config, model.spec)
    pipeline.load_state_dict(model.weights, strict=False)
    for note in (*config.notes, *source.notes):
        print_fn(note)
    with path.open("rb") as content:
        origin = {
            "importer": entry.qualified_name,
            "file": path.name,
            "sha256": hashlib.file_digest(content, "sha256").hexdigest(),
            "options": options,
        }
    with atomic_folder(run_dir) as folder:
        save_run_config(folder, config, pipeline, _describe_input(model), command, origin=origin)
        save_weights(pipeline, folder / WEIGHTS_FILE)
        _build_result(folder, pipeline, config, origin, command).write()
    return RunResult.read(run_dir)


def build_importer(entry: Entry, options: Mapping[str, Any]) -> Importer:
    """Create an importer.

    Args:
        entry: of the registry
        options: as typed, or native values

    Raises:
        OptionError: an option is unknown or has an invalid value
    """
    known = read_signature(entry.target).options
    for name in options:
        if name not in known:
            has = f" It has: {', '.join(known)}." if known else " It has none."
            raise OptionError(f"importer {entry.name!r} has no option {name!r}.{did_you_mean(name, known) or has}")
    parsed = {name: known[name].parse(value, f"--{known[name].flag}") for name, value in options.items()}
    importer = get_registry().load(entry)(**parsed)
    assert isinstance(importer, Importer)
    return importer


def read_source(path: Path, safe_classes: Sequence[type] = ()) -> SourceTensors:
    """Read the tensors of a checkpoint and the settings beside them, without what wrappers put before the names.

    Args:
        path: of a file
        safe_classes: see `Importer`

    Raises:
        FileError: it cannot be opened
        CheckpointError: it is damaged, holds other objects, or no tensors
    """
    content = load_weight_file(path, safe_classes)
    tensors = find_state_dict(content, path)
    others = []
    for key, value in content.items():
        if _holds(value, tensors):
            others += [f"{key}.{name}" for name, inner in value.items() if not isinstance(inner, Tensor)]
        elif str(key) not in tensors:
            others.append(str(key))
    for prefix in _WRAPPER_PREFIXES * 2:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    source = SourceTensors(path, tensors, dict(_iter_settings(content.get("hyper_parameters"))))
    if others:
        source.notes.append(f"left: {shorten_names(others)}: beside the weights")
    return source


def _holds(value: Any, tensors: Mapping[str, Tensor]) -> bool:
    """Return whether a value of a file is the dict that has these tensors, and not others of the same names."""
    return isinstance(value, Mapping) and {id(tensor) for tensor in tensors.values()} <= set(map(id, value.values()))


def _iter_settings(value: Any, name: str = "", depth: int = 4) -> Iterator[tuple[str, Any]]:
    """Yield names and values of dicts, and of objects with attributes such as argparse's, nested up to a depth."""
    if isinstance(value, bool | int | float | str):
        yield name, value
        return
    inner = value if isinstance(value, Mapping) else getattr(value, "__dict__", {})
    for key, setting in inner.items() if depth and not isinstance(value, Tensor) else ():
        yield from _iter_settings(setting, str(key), depth - 1)


def convert_checkpoint(importer: Importer, source: SourceTensors, name: str) -> tuple[ImportedModel, Config]:
    """Convert a checkpoint, and check that its tensors are those of the pipeline that is built from its config.

    Tensors on the meta device are converted too, for checks of shapes alone.

    Args:
        importer: of the program
        source: of the checkpoint; every tensor is taken or left
        name: of the importer, as the source of options

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape
        OptionError: two classes have the same name
    """
    model = importer.convert(source)
    source.check_all_used()
    if twice := [name for name, count in Counter(model.classes).items() if count > 1]:
        raise OptionError(f"several classes are named {shorten_names(map(repr, twice))}; give each a name of its own")
    layers = [(model.config, read_toml(find_config(model.config)))] if model.config else []
    data = {**model.tables.get("data", {}), "resize": model.resize, "split_channels": model.split_channels}
    config = resolve_config(*layers, (f"importer {name}", {**model.tables, "data": data}))
    del config.values["data"]["use"], config.sources["data.use"]  # there are no data
    with use_meta_device():
        expected = _build(config, model.spec)
    parameters = {name for name, _ in expected.named_parameters()}
    _check_weights(source.path, model.weights, expected.state_dict(), parameters)
    return model, config


def _build(config: Config, spec: Spec) -> Pipeline:
    return build_pipeline(config, spec, **{k: v for k, v in config.options("pipeline").items() if k in MODEL_OPTIONS})


def _check_weights(
    path: Path, weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], parameters: set[str]
) -> None:
    """Raise a CheckpointError unless every parameter is given, with its shape, and nothing else but buffers."""
    for name in sorted(parameters - weights.keys()):
        raise CheckpointError(f"{path} has nothing for {name} {_format_shape(expected[name].shape)} of the pipeline")
    for name, value in weights.items():
        if name not in expected:
            raise CheckpointError(
                f"{path}: the pipeline has no {name} {_format_shape(value.shape)}, which the file gives; it is of an "
                "unknown version of the program"
            )
        if value.shape != expected[name].shape:
            raise CheckpointError(
                f"{path}: {name} is {_format_shape(value.shape)} in the file; expected "
                f"{_format_shape(expected[name].shape)}"
            )


def _describe_input(model: ImportedModel) -> dict[str, Any]:
    """Return the schema of the input, see `DataModule.input_schema`; channels are numbered."""
    return {
        "task": model.spec.task,
        "classes": list(model.classes),
        "target_names": [],
        "label_separator": None,
        "channels": [str(i) for i in range(model.spec.channels)],
        "length": model.spec.length,
        "horizon": None,
        "resize": model.resize,
        "cut_length": None,
        "step": None,
        "split_channels": model.split_channels,
        "offset": None,
    }


def _build_result(
    folder: Path, pipeline: Pipeline, config: Config, origin: Mapping[str, Any], command: str
) -> RunResult:
    """Return the result of a run that was not trained here: sizes, and no scores."""
    count = sum(p.numel() for p in pipeline.parameters())
    return RunResult(
        run_dir=folder,
        task=pipeline.spec.task or "pretraining",
        data=origin["file"],
        test={},
        val={},
        baselines={},
        baselines_skipped={},
        selected=SelectedEpoch(0, 0, "import"),
        parameters=count,
        trainable=count,
        seconds=0.0,
        training_seconds=0.0,
        split="no data: the weights were imported",
        command=command,
        versions=collect_versions(config),
    )


def _format_shape(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"
