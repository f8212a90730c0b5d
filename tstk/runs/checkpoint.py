"""Weights of runs: saved as safetensors, loaded into a pipeline that the run's config.json describes, or mounted
slot by slot into a new one. Nothing a file names is ever imported, and nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tstk.runs.build import assemble, without_values
from tstk.config.resolve import WIRING, Config
from tstk.plugins.distribution import distribution_of
from tstk.errors import CheckpointError, NameUnknown, OptionError, TstkError
from tstk.plugins.hooks import INTERFACE_VERSION
from tstk.core.pipeline import Pipeline
from tstk.core.types import Spec
from tstk.plugins.registry import SLOTS, registry
from tstk.config.run_directory import FORMAT, WEIGHTS, is_unfinished, read_config, replacing, run_folder, write_json
from tstk.core.interfaces import Slot


def save_weights(pipeline: Pipeline, path: Path, state: Mapping[str, Tensor] | None = None) -> None:
    """All parameters and buffers but the transient ones as safetensors, whole or not at all.

    Args:
        pipeline: what they are of
        path: of the file
        state: its parameters and buffers, if it holds others by now
    """
    state = pipeline.state_dict() if state is None else state
    passing = tuple(f"{name}.{path}." for name, part in pipeline.slots() for path in part.transient)
    write_tensors(path, {k: v.detach().cpu() for k, v in state.items() if not k.startswith(passing)})


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Tensors as safetensors, whole or not at all.

    Raises:
        CheckpointError: the disk is full
    """
    alone, seen = {}, set[int]()
    for name, value in tensors.items():
        at = value.untyped_storage().data_ptr()
        alone[name] = value.clone().contiguous() if at in seen else value.contiguous()  # two names may share one
        seen.add(at)
    with replacing(path, sum(v.nbytes for v in alone.values())) as part:
        save_file(alone, part)
        part.chmod(0o644)  # safetensors writes for the owner alone


def versions(config: Config | None = None) -> dict[str, str]:
    """Versions of Python's world and of every distribution whose components a config uses."""
    import platform

    dists = {"tstk", "torch", "numpy", "accelerate", "safetensors"}
    for slot in SLOTS:
        if config is not None and slot in config.values:
            dists.add(registry().find(slot, config.values[slot]["use"]).dist)
    found = {"python": platform.python_version()}
    for dist in sorted(dists):
        try:
            found[dist] = metadata.version(distribution_of(dist))
        except metadata.PackageNotFoundError:
            found[dist] = "unknown"
    return found


def save_config(
    folder: Path,
    config: Config,
    pipeline: Pipeline,
    data: dict[str, Any],
    command: str = "",
    hardware: dict[str, str] | None = None,
) -> None:
    """config.json: all that is needed to build the pipeline again, and where each value came from.

    Args:
        folder: the run directory
        config: resolved
        pipeline: built from it; its parts may replace options (`Slot.rebuild`)
        data: facts of the data that a reader of the run needs (class and channel names)
        command: how to do this again
        hardware: where it is trained, as far as last digits depend on it
    """
    values: dict[str, Any] = {k: dict(v) for k, v in config.values.items()}
    if pipeline.linear_map is not None and values["pipeline"]["linear_map"] == "auto":
        values["pipeline"]["linear_map"] = "per-channel" if len(pipeline.linear_map.matrix) > 1 else "shared"
    for slot, part in pipeline.slots():
        values[slot] = {**values[slot], "use": registry().find(slot, values[slot]["use"]).qualified, **part.rebuild}
    write_json(
        folder / "config.json",
        {
            "format": FORMAT,
            "interface_version": INTERFACE_VERSION,
            "config": values,
            "given": config.values,
            "sources": config.sources,
            "mounts": config.mounts,
            "spec": asdict(pipeline.spec),
            "data": data,
            "versions": versions(config),
            "hardware": hardware or {},
            "command": command,
        },
    )


def read_weights(folder: str | Path) -> dict[str, Tensor]:
    """The tensors of a run.

    Raises:
        CheckpointError: the file is missing, truncated or foreign
    """
    path = run_folder(folder) / WEIGHTS
    if not path.is_file():
        again = (
            f"; continue with: tstk train --resume {quote(str(folder))}"
            if is_unfinished(Path(folder))
            else "; train it again"
        )
        raise CheckpointError(f"{folder} has no {WEIGHTS}: the run ended before its first validation{again}")
    return read_tensors(path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        CheckpointError: it is truncated or foreign
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as e:
        raise CheckpointError(f"{path} is truncated or not a safetensors file ({e})") from None


def check_plugins(folder: str | Path, found: dict[str, Any]) -> None:
    """Fail helpfully where a run uses a component that is not installed.

    Raises:
        CheckpointError: names the component, its distribution and version
    """
    for slot in SLOTS:
        use = found["config"].get(slot, {}).get("use")
        if use is None:
            continue
        try:
            registry().find(slot, use)
        except NameUnknown as e:
            dist, _, name = use.rpartition("/")
            version = found.get("versions", {}).get(dist, "")
            if all(p.dist != dist for p in registry().plugins):
                raise CheckpointError(
                    f"{folder} uses {slot} {name!r} from {dist} {version}, which is not installed: pip install {dist}"
                ) from None
            raise CheckpointError(f"{folder} uses {slot} {name!r} from {dist} {version}: {e}") from None


def spec_of(found: dict[str, Any]) -> Spec:
    """The Spec that a run's data had."""
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found["spec"].items()}
    return Spec(**fields)


def load(folder: str | Path) -> Pipeline:
    """The trained pipeline of a run, in eval mode, on the CPU.

    Args:
        folder: its directory, or the name of a run that comes with the package, such as pretrained/small

    Raises:
        CheckpointError: the run is damaged, foreign, or needs a plugin that is not installed
    """
    found = read_config(folder)
    check_plugins(folder, found)
    state = read_weights(folder)
    # without memory first: a config.json may claim any size
    matches(run_folder(folder) / WEIGHTS, state, _assembled(found, folder, meta=True).state_dict())
    pipeline = _assembled(found, folder)
    pipeline.load_state_dict(state)
    pipeline.bind()
    return pipeline.eval()


def restore(folder: str | Path) -> Pipeline:
    """The pipeline of an unfinished run as it was before its first step, but for all weights: these come from `last/`.

    Neither the runs it was mounted from nor weights from outside are needed any more.

    Args:
        folder: the run directory
    """
    found = read_config(folder)
    pipeline = _assembled(found, folder)
    pipeline.bind()
    for path in found["config"]["pipeline"]["freeze"]:
        pipeline.freeze(path)
    return pipeline


def _assembled(found: dict[str, Any], folder: str | Path, meta: bool = False) -> Pipeline:
    config = Config(found["config"])
    try:
        wiring = {k: v for k, v in config.options("pipeline").items() if k in WIRING}
        with without_values() if meta else torch.device("cpu"):
            return assemble(config, spec_of(found), **wiring)
    except TstkError as e:
        raise type(e)(f"{folder}: {e}") from None
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as e:
        why = (str(e).splitlines() or [""])[0][:120]
        raise CheckpointError(f"{folder}: config.json describes no pipeline ({why}); train the run again") from e


def matches(path: Path, state: Mapping[str, Tensor], want: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not those of a pipeline.

    Raises:
        CheckpointError: names or shapes differ
    """
    missing, extra = sorted(want.keys() - state.keys()), sorted(state.keys() - want.keys())
    shapes = [k for k in want.keys() & state.keys() if want[k].shape != state[k].shape]
    if missing or extra or shapes:
        first = (missing or extra or shapes)[0]
        raise CheckpointError(
            f"{path} does not fit its config.json: {len(missing)} tensors missing, {len(extra)} too "
            f"many, {len(shapes)} of another shape, {first!r} first; the two files are of "
            "different runs, or the component's code has changed"
        )


def mount(part: Slot, slot: str, folder: str | Path) -> str:
    """Give a freshly built part the trained weights of the same slot of a run, all of them or none.

    Returns:
        a line that says what was mounted

    Raises:
        CheckpointError: they do not fit; the part is as it was
    """
    found = read_config(folder)
    check_plugins(folder, found)
    state = {k.removeprefix(slot + "."): v for k, v in read_weights(folder).items() if k.startswith(slot + ".")}
    old = getattr(_assembled(found, folder, meta=True), slot).spec
    fresh = {k: v.clone() for k, v in part.state_dict().items()}
    try:
        part.load(state, old)
    except (RuntimeError, CheckpointError) as e:
        part.load_state_dict(fresh)
        reason = str(e).splitlines()[1:2] or [str(e)]
        raise CheckpointError(
            f"the {slot} of {folder} does not fit here: {reason[0].strip()[:200]}; it was trained on "
            f"{old.channels} channels of length {old.length}"
        ) from None
    count = sum(p.numel() for p in part.parameters())
    return f"{slot} from {folder}: {count:,} parameters"


def _check_linear_map(run: str, linear_map: str) -> None:
    """Refuse a trained head that adds to a linear map where there is none, or the other way round."""
    trained = read_config(run)["config"]["pipeline"]["linear_map"]
    if (trained == "none") != (linear_map == "none"):
        adds = "forecasts alone" if trained == "none" else "adds to a linear map"
        raise OptionError(f"--linear-map {linear_map}: the head of {run} {adds}; use --linear-map {trained}")


def launch(config: Config, spec: Spec) -> tuple[Pipeline, list[str]]:
    """A pipeline ready to train: assembled, outside weights read, runs mounted, parts bound and frozen.

    Returns:
        the pipeline, and a line per mounted slot for the user
    """
    options = config.options("pipeline")
    pipeline = assemble(config, spec, **{("from_" if k == "from" else k): v for k, v in options.items()})
    notes = []
    for name, part in pipeline.slots():
        run = config.mounts.get(name)
        if run is not None:
            if name == "head":
                _check_linear_map(run, options["linear_map"])
            try:
                notes.append(mount(part, name, run))
                continue
            except CheckpointError as e:
                # a slot named by hand must fit; `--from` takes what does
                if run != options["from"]:
                    raise
                notes.append(f"{e}, so it starts afresh")
                del config.mounts[name]
        part.warm_start()
    pipeline.bind()
    for path in options["freeze"]:
        pipeline.freeze(path)
    if not any(p.requires_grad for p in pipeline.parameters()):
        raise OptionError(
            "nothing is left to train: every part is frozen or has no parameters; "
            f"drop something from --freeze {','.join(options['freeze'])} or add a part that learns"
        )
    return pipeline, notes
