"""Saving and loading runs: weights as safetensors, loaded into the pipeline that config.json describes, or slot by slot
into a new pipeline. No import path is read from a file, and nothing is unpickled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tstk.config.records import HASH_KEY, RunConfig
from tstk.config.resolve import MODEL_OPTIONS, Config, iter_components, select_for_task
from tstk.config.run_directory import (
    WEIGHTS_FILE,
    is_unfinished,
    resolve_run_dir,
)
from tstk.core.finite import describe_bad_weights
from tstk.core.interfaces import Slot
from tstk.core.pipeline import Pipeline, get_tokenizer_spec
from tstk.core.types import Spec
from tstk.errors import (
    CheckpointError,
    OptionError,
    SourceChangedWarning,
    TstkError,
    UnknownNameError,
    warn_user,
)
from tstk.files import atomic_write, check_readable
from tstk.plugins.distribution import get_distribution
from tstk.plugins.hooks import INTERFACE_VERSION, LOCAL, SLOTS
from tstk.plugins.local import describe_component, list_changes, provide_components, require_components
from tstk.plugins.registry import get_registry
from tstk.runs.build import build_component, build_pipeline, use_meta_device


def save_weights(pipeline: Pipeline, path: Path, state: Mapping[str, Tensor] | None = None) -> None:
    """Save parameters and buffers as safetensors, atomically and without the `non_persistent` ones.

    Args:
        pipeline: whose weights to save
        path: of the file
        state: weights to save instead of the current ones
    """
    state = pipeline.state_dict() if state is None else state
    excluded = tuple(f"{name}.{sub_path}." for name, part in pipeline.named_slots() for sub_path in part.non_persistent)
    write_tensors(path, {k: v.detach().cpu() for k, v in state.items() if not k.startswith(excluded)})


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> str:
    """Write tensors as safetensors with their hash in the header, atomically, and return the hash.

    Raises:
        FileError: the disk is full or read-only
    """
    unshared, addresses = {}, set[int]()  # safetensors refuses tensors that share memory
    for name, value in tensors.items():
        address = value.untyped_storage().data_ptr()
        unshared[name] = value.clone().contiguous() if address in addresses else value.contiguous()
        addresses.add(address)
    digest = hash_tensors(unshared)
    with atomic_write(path, sum(v.nbytes for v in unshared.values())) as file:
        save_file(unshared, file.name, {HASH_KEY: digest})
    return digest


def collect_versions(config: Config | None = None) -> dict[str, str]:
    """Return the versions of Python, of the main dependencies and of the plugins whose components a config uses."""
    import platform

    dists = {"tstk", "torch", "numpy", "accelerate", "safetensors"}
    for slot in SLOTS:
        if config is not None and slot in config.values:
            dists.add(get_registry().find(slot, config.values[slot]["use"]).dist)
    versions = {"python": platform.python_version()}
    for dist in sorted(dists - {LOCAL}):
        try:
            versions[dist] = metadata.version(get_distribution(dist))
        except metadata.PackageNotFoundError:
            versions[dist] = "unknown"
    return versions


def save_run_config(
    run_dir: Path,
    config: Config,
    pipeline: Pipeline,
    input_schema: dict[str, Any],
    command: str = "",
    hardware: dict[str, str] | None = None,
    data_files: Sequence[dict[str, Any]] = (),
    data_table: Mapping[str, Any] | None = None,
    origin: Mapping[str, Any] | None = None,
) -> None:
    """Write config.json, from which `load` rebuilds the pipeline.

    Args:
        run_dir: the run directory
        config: resolved
        pipeline: built from it; `Slot.config_overrides` replace options of the config
        input_schema: how the data were read, see `DataModule.input_schema`
        command: that reproduces the run
        hardware: on which it is trained, as far as the last digits of results depend on it
        data_files: of the data, see `tstk.data.identity`
        data_table: replaces the table `data` of the config, with absolute paths
        origin: of weights that were imported, see `RunConfig`
    """
    values: dict[str, Any] = {k: dict(v) for k, v in config.values.items()}
    if data_table is not None:
        values["data"] = dict(data_table)
    if pipeline.linear_map is not None and values["pipeline"]["linear_map"] == "auto":
        values["pipeline"]["linear_map"] = "per-channel" if len(pipeline.linear_map.matrix) > 1 else "shared"
    for slot, part in pipeline.named_slots():
        values[slot] = {
            **values[slot],
            "use": get_registry().find(slot, values[slot]["use"]).qualified_name,
            **part.config_overrides,
        }
    RunConfig(
        run_dir=run_dir,
        interface_version=INTERFACE_VERSION,
        values=values,
        given=config.values,
        sources=config.sources,
        init_from=config.init_from,
        spec=asdict(pipeline.spec),
        input_schema=input_schema,
        versions=collect_versions(config),
        hardware=hardware or {},
        command=command,
        local={
            path: record
            for path, kind, table in iter_components(values)
            if (record := describe_component(kind, table["use"]))
        },
        data_files=list(data_files),
        origin=dict(origin or {}),
    ).write()


def read_weights(run_dir: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a run.

    Raises:
        CheckpointError: the file is missing or damaged, or holds values that are not finite
    """
    path = resolve_run_dir(run_dir) / WEIGHTS_FILE
    if not path.is_file():
        resume_command = f"continue with: tstk train --resume {quote(str(run_dir))}"
        remedy = resume_command if is_unfinished(Path(run_dir)) else "train it again"
        raise CheckpointError(f"{run_dir} has no {WEIGHTS_FILE}: the run ended before its first validation; {remedy}")
    state = read_tensors(path, "train the run again, or fetch it again")
    if names := describe_bad_weights(state):
        raise CheckpointError(f"{path} holds values that are not finite: {names}; train the run again")
    return state


def read_tensors(path: Path, remedy: str, expected: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file that `write_tensors` wrote, and check their hash.

    Args:
        path: of the file
        remedy: the end of the message
        expected: their hash; None for that in the file

    Raises:
        FileError: it cannot be opened
        CheckpointError: it is truncated, not a safetensors file, or does not match its hash, or has none
    """
    check_readable(path)
    try:
        with safe_open(path, "pt") as file:
            expected = expected or (file.metadata() or {}).get(HASH_KEY)
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as e:
        raise CheckpointError(f"{path} is truncated or not a safetensors file ({str(e)[:200]!r}); {remedy}") from None
    if expected != hash_tensors(tensors):
        reason = "its tensors do not match their SHA-256" if expected else "it has no SHA-256"
        raise CheckpointError(f"{path} is damaged: {reason}; {remedy}")
    return tensors


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the names, types, shapes and bytes of contiguous tensors on the CPU."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.detach().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_plugins(run_config: RunConfig, slots: Sequence[str] = SLOTS) -> list[str]:
    """Check that the components of a run are installed, or registered if they belong to no plugin.

    Args:
        run_config: of the run
        slots: that are needed

    Returns:
        lines for the user about registered components whose source has changed

    Raises:
        CheckpointError: one is not; the message names it, its distribution and its version
    """
    run_dir = run_config.run_dir
    require_components(run_dir, run_config.local, slots)
    for slot in slots:
        use = run_config.component(slot)
        if use is None:
            continue
        try:
            get_registry().find(slot, use)
        except UnknownNameError as e:
            dist, _, name = use.rpartition("/")
            version = run_config.versions.get(dist, "")
            if dist != LOCAL and all(p.dist != dist for p in get_registry().plugins):
                raise CheckpointError(
                    f"{run_dir} uses {slot} {name!r} from {dist} {version}, which is not installed: pip install {dist}"
                ) from None
            raise CheckpointError(f"{run_dir} uses {slot} {name!r} from {dist} {version}: {e}") from None
    return list_changes(run_dir, run_config.local, slots)


def parse_spec(run_config: RunConfig) -> Spec:
    """Return the Spec of the data of a run."""
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in run_config.spec.items()}
    return Spec(**fields)


def load(run_dir: str | Path, **components: type | str) -> Pipeline:
    """Return the trained pipeline of a run, in eval mode, on the CPU.

    Args:
        run_dir: its directory, or a run in the package (pretrained/small) or on the hub (hf://owner/name)
        components: the classes of components that belong to no plugin, or their import paths: `encoder=MyEncoder`

    Raises:
        CheckpointError: the run is damaged, not written by tstk, or needs a plugin or a class that is not there
    """
    provide_components(run_dir, RunConfig.read(run_dir).local, components)
    run_config = RunConfig.read(run_dir)
    for note in check_plugins(run_config):
        warn_user(note, SourceChangedWarning)
    state = read_weights(run_dir)
    temperature = _pop_temperature(run_dir, state)
    # on the meta device first, since a damaged config.json may claim any size
    expected = _build_from_run_config(run_config, on_meta=True).state_dict()
    check_state_dict(resolve_run_dir(run_dir) / WEIGHTS_FILE, state, expected)
    pipeline = _build_from_run_config(run_config)
    pipeline.load_state_dict(state)
    pipeline.temperature = temperature
    pipeline.set_input_schema(run_config.input_schema)
    pipeline.bind()
    return pipeline.eval()


def _pop_temperature(run_dir: str | Path, state: dict[str, Tensor]) -> Tensor | None:
    """Remove the temperature of a calibrated classifier from its tensors and return it; None if there is none."""
    temperature = state.pop("temperature", None)
    is_number = temperature is None or (temperature.shape == () and temperature.is_floating_point())
    if temperature is not None and not (is_number and temperature > 0):
        raise CheckpointError(f"{run_dir}: the temperature in {WEIGHTS_FILE} is not a positive number; train it again")
    return temperature


def rebuild_for_resume(run_dir: str | Path) -> Pipeline:
    """Return the pipeline of an unfinished run, bound and frozen, with new weights; the caller loads those of `last/`.

    The runs that it started from and pretrained weights from outside are not needed.
    """
    run_config = RunConfig.read(run_dir, keep_source_folders=True)
    pipeline = _build_from_run_config(run_config)
    pipeline.bind()
    for path in run_config.options("pipeline")["freeze"]:
        pipeline.freeze(path)
    return pipeline


def _build_from_run_config(run_config: RunConfig, on_meta: bool = False) -> Pipeline:
    with _explain_damage(run_config), use_meta_device() if on_meta else torch.device("cpu"):
        model_options = {k: v for k, v in run_config.options("pipeline").items() if k in MODEL_OPTIONS}
        return build_pipeline(Config(run_config.values), parse_spec(run_config), **model_options)


def _read_input_spec(run_config: RunConfig, slot: str) -> Spec:
    """Return the Spec that a component of a run received; only what comes before it is built."""
    tables = run_config.values
    if slot not in ("tokenizer", "encoder"):
        return getattr(_build_from_run_config(run_config, on_meta=True), slot).spec
    with _explain_damage(run_config), use_meta_device():
        spec = get_tokenizer_spec(parse_spec(run_config), tables["pipeline"]["channels"], "head" in tables)
        return spec if slot == "tokenizer" else build_component("tokenizer", tables["tokenizer"], spec).out


@contextmanager
def _explain_damage(run_config: RunConfig) -> Iterator[None]:
    """Name the run in errors about the components of its config.json."""
    try:
        yield
    except TstkError as e:
        raise type(e)(f"{run_config.run_dir}: {e}") from None
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as e:
        reason = (str(e).splitlines() or [""])[0][:120]
        raise CheckpointError(
            f"{run_config.run_dir}: config.json does not describe a pipeline ({reason}); train the run again"
        ) from e


def check_state_dict(path: Path, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Check that names and shapes of tensors are those expected.

    Args:
        path: of the file that they were read from, for the message
        state: the tensors
        expected: the tensors of the pipeline

    Raises:
        CheckpointError: names or shapes differ
    """
    missing, extra = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    shapes = [k for k in expected.keys() & state.keys() if expected[k].shape != state[k].shape]
    if missing or extra or shapes:
        first = (missing or extra or shapes)[0]
        raise CheckpointError(
            f"{path} does not fit its config.json: {len(missing)} tensors missing, {len(extra)} unexpected, "
            f"{len(shapes)} of another shape, the first is {first!r}; the two files are of different runs, or the code "
            "of a component has changed"
        )


def init_slot_from_run(part: Slot, slot: str, run_dir: str | Path) -> str:
    """Load the trained weights of the same slot of a run into a freshly built component.

    Returns:
        a line for the user

    Raises:
        CheckpointError: the weights do not fit; the component is unchanged
    """
    run_config = RunConfig.read(run_dir)
    changes = check_plugins(run_config, SLOTS[: SLOTS.index(slot) + 1] if slot in SLOTS[:2] else SLOTS)
    state = {k.removeprefix(slot + "."): v for k, v in read_weights(run_dir).items() if k.startswith(slot + ".")}
    old_spec = _read_input_spec(run_config, slot)
    fresh = {k: v.clone() for k, v in part.state_dict().items()}
    try:
        part.load_pretrained(state, old_spec)
    except (RuntimeError, CheckpointError) as e:
        part.load_state_dict(fresh)
        reason = str(e).splitlines()[1:2] or [str(e)]
        raise CheckpointError(
            f"the {slot} of {run_dir} does not fit here: {reason[0].strip()[:200]}; it was trained on "
            f"{old_spec.channels} channels of length {old_spec.length}"
        ) from None
    count = sum(p.numel() for p in part.parameters())
    return "; ".join([f"{slot} from {run_dir}: {count:,} parameters", *changes])


def _check_linear_map(run_dir: str, linear_map: str) -> None:
    """Raise an error if the trained head adds to a linear map and the new pipeline has none, or the reverse."""
    trained = RunConfig.read(run_dir).options("pipeline")["linear_map"]
    if (trained == "none") != (linear_map == "none"):
        training = "without a linear map" if trained == "none" else "on top of a linear map"
        raise OptionError(
            f"--linear-map {linear_map}: the head of {run_dir} was trained {training}; use --linear-map {trained}"
        )


def initialize_for_training(config: Config, spec: Spec) -> tuple[Pipeline, list[str]]:
    """Build a pipeline for training: load pretrained weights and those of earlier runs, bind and freeze.

    Args:
        config: resolved; slots whose weights do not fit are removed from `init_from`, and a head and a loss that nobody
            selected are replaced by those of the task
        spec: of the data

    Returns:
        the pipeline, and lines for the user: on the loss, and one per slot with the weights of a run

    Raises:
        CheckpointError: the weights of a run that was selected for a single slot do not fit
        OptionError: all parameters are frozen
    """
    options = config.options("pipeline")
    notes = select_for_task(config, spec.task)
    pipeline = build_pipeline(config, spec, **options)
    for name, part in pipeline.named_slots():
        run = config.init_from.get(name)
        if run is not None:
            if name == "head":
                _check_linear_map(run, options["linear_map"])
            try:
                notes.append(init_slot_from_run(part, name, run))
                continue
            except CheckpointError as e:
                # the weights of a run given for a single slot must fit; `--init-from` loads those that do
                if run != options["init_from"]:
                    raise
                notes.append(f"{e}, so its weights are newly initialized")
                del config.init_from[name]
        with torch.no_grad():  # a buffer computed from weights would keep their graph
            part.init_from_pretrained()
    pipeline.bind()
    for path in options["freeze"]:
        pipeline.freeze(path)
    if not any(p.requires_grad for p in pipeline.parameters()):
        raise OptionError(
            "nothing is left to train: every component is frozen or has no parameters; "
            f"freeze less than --freeze {','.join(options['freeze'])}, or add a component with parameters"
        )
    return pipeline, notes
