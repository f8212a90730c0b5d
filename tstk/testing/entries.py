"""Checks of plugins and of entries other than components: data readers, configs, recipes, commands, ..."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tstk.data.columns import ColumnRoles
from tstk.errors import TstkError
from tstk.plugins.hooks import Entry
from tstk.plugins.registry import Plugin, get_registry
from tstk.plugins.signature import read_signature
from tstk.testing.assertions import expect


def imports_no_torch(plugin: Plugin) -> None:
    """Check that importing `plugin.py` imports neither torch nor numpy."""
    code = f"import sys, {plugin.module}; print(*sorted({{'torch', 'numpy'}} & sys.modules.keys()))"
    environment = {"PYTHONPATH": ":".join(p for p in sys.path if p)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment)
    expect(
        result.returncode == 0,
        f"{plugin.module} cannot be imported on its own: {result.stderr.strip().splitlines()[-1:]}",
    )
    heavy = result.stdout.strip()
    expect(not heavy, f"{plugin.module} imports {heavy}; import them in the modules of the entries' targets")


def has_valid_names(plugin: Plugin) -> None:
    """Check that names are lower case without spaces, and that each entry has a one-line summary."""
    for entry in plugin.entries:
        expect(
            entry.name == entry.name.lower() and not set(" _") & set(entry.name.rpartition("/")[2]),
            f"{entry.kind} {entry.name!r}: expected lower case with hyphens",
        )
        expect(
            bool(entry.summary) and "\n" not in entry.summary, f"{entry.kind} {entry.name!r}: no summary on one line"
        )


def reads_declared_suffixes(entry: Entry) -> None:
    """Check the signature of a reader, and that its error for an invalid file names the file."""
    reader = get_registry().load(entry)
    # the core's readers of folders and of patterns of files are chosen by what the path is
    expect(
        bool(entry.provides) or entry.dist == "tstk",
        f"{entry.name}: provides is empty; expected the suffixes that it reads",
    )
    invalid = [s for s in entry.provides if not s.startswith(".") or s != s.lower()]
    expect(not invalid, f"{entry.name}: provides {invalid}; expected suffixes such as '.csv', in lower case")
    read_signature(entry.target)  # raises if an option has no annotation or no literal default
    names = [p.name for p in inspect.signature(reader).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    expect(
        names == ["path", "roles"],
        f"{entry.name}: reader({', '.join(names)}); expected reader(path, roles), and options behind a *",
    )
    for suffix in sorted(entry.provides):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"invalid{suffix}")
            path.write_bytes(bytes(range(256)))
            try:
                reader(path, ColumnRoles())
            except TstkError as e:
                expect(str(path) in str(e), f"{entry.name}: {str(e)!r} does not name the file")
            except Exception as e:
                raise AssertionError(
                    f"{entry.name}: an invalid file raises {type(e).__name__}; expected a DataError that names it"
                ) from e
            else:
                raise AssertionError(
                    f"{entry.name}: an invalid file was read without error; expected a DataError that names it"
                )


def is_resolvable(entry: Entry) -> None:
    """Check that the tables, options and components of a config exist and fit together."""
    from tstk.config.resolve import get_entry_file, resolve_config
    from tstk.config.toml import read_toml
    from tstk.runs.build import validate_on_meta

    try:
        validate_on_meta(resolve_config((entry.name, read_toml(get_entry_file(entry)))))
    except TstkError as e:
        raise AssertionError(str(e)) from None


def has_valid_stages(entry: Entry) -> None:
    """Check that the stages of a recipe and their configs exist."""
    from tstk.config.recipe import read_recipe
    from tstk.config.resolve import find_config

    try:
        for stage in read_recipe(entry.qualified_name):
            if stage.config:
                find_config(stage.config)
    except TstkError as e:
        raise AssertionError(str(e)) from None


def load_subclass(entry: Entry, base: type, name: str) -> Any:
    """Import the target of an entry, and check that it is a subclass of `base`, whose import path is `name`."""
    target = get_registry().load(entry)
    is_subclass = isinstance(target, type) and issubclass(target, base)
    expect(is_subclass, f"{entry.target} is {target!r}; expected a subclass of {name}")
    return target


def is_a_callback(entry: Entry) -> None:
    """Check that the target is a `Callback` subclass whose constructor needs no arguments."""
    from tstk.training.callbacks import Callback

    load_subclass(entry, Callback, "tstk.Callback")()


def is_a_command(entry: Entry) -> None:
    """Check that the target is a click command with help."""
    import click

    target = get_registry().load(entry)
    expect(isinstance(target, click.Command), f"{entry.target} is {target!r}; expected a click.Command")
    expect(bool(target.help), f"{entry.name}: the command has no help; write a docstring")


def is_a_probe(entry: Entry) -> None:
    """Check that the target is a `ProbeClassifier` subclass that predicts separable targets."""
    import numpy as np

    from tstk.evaluation.probe_classifiers import FeatureSet, ProbeClassifier

    target = load_subclass(entry, ProbeClassifier, "tstk.evaluation.probe_classifiers.ProbeClassifier")
    y = np.arange(24) % 2
    if "class" not in target.target_types:
        y = y.astype(int if "labels" in target.target_types else float)[:, None]
    train, val, test = (FeatureSet(np.stack([y.ravel() + noise, 1 - y.ravel()], 1), y) for noise in (0.0, 0.1, 0.2))
    params, predictions = target().predict(train, val, test, seed=0)
    threshold = 0 if "labels" in target.target_types else 0.5  # logits of labels
    is_learned = np.array_equal(predictions > threshold, y > 0.5)
    expect(is_learned, f"{entry.name} with {params}: separable targets are not predicted")


def is_a_task(entry: Entry) -> None:
    """Check that the target is a `Task` subclass that names its parts, and scores perfect predictions best."""
    from tstk.core.task import Task
    from tstk.testing.tasks import check_scores

    target = load_subclass(entry, Task, "tstk.Task")
    attrs = read_signature(entry.target).class_attrs
    missing = [name for name in ("target_type", "default_loss", "main_metric") if not attrs.get(name)]
    expect(not missing, f"{entry.target} does not set {', '.join(missing)}; write them as literals in the class")
    for kind in ("head", "loss"):
        name = getattr(target, f"default_{kind}")
        served = read_signature(get_registry().find(kind, name).target).class_attrs.get("target_types", ())
        expect(
            not served or target.target_type in served,
            f"the default {kind} {name!r} is for targets of the type {' or '.join(served)}, not {target.target_type}",
        )
    check_scores(entry.name, target())


def is_a_report_section(entry: Entry) -> None:
    """Check that the target is a function of a `RunContext` alone."""
    names = list(inspect.signature(get_registry().load(entry)).parameters)
    expect(names == ["context"], f"{entry.target}({', '.join(names)}); expected a function of context")


def masks_valid_tokens(entry: Entry) -> None:
    """Check that a policy masks the given share of valid tokens, and is random by its generator alone."""
    import torch

    from tstk.core.rng import SampleRNG
    from tstk.core.types import Tokens

    index = torch.arange(20).expand(3, -1)
    tokens = Tokens(torch.zeros(3, 20, 4), index[..., None].float(), index, index % 5 > 0)
    masks = [get_registry().load(entry)(tokens, 0.5, SampleRNG(0, 1, torch.arange(3))) for _ in range(2)]
    rounded_up = get_registry().load(entry)(tokens, 0.45, SampleRNG(0, 1, torch.arange(3)), True)
    shape, dtype = list(masks[0].shape), masks[0].dtype
    expect(shape == [3, 20] and dtype == torch.bool, f"the mask is {shape}, {dtype}; expected [B, N] bool, [3, 20]")
    expect(not (masks[0] & ~tokens.valid).any(), "an invalid token is masked")
    expect(bool((masks[0].sum(1) == 8).all()), f"{masks[0].sum(1).tolist()} tokens are masked; expected half of 16")
    expect(torch.equal(*masks), "two calls with equal generators mask other tokens; draw from `rng` alone")
    count = rounded_up.sum(1).tolist()
    expect(count == [8] * 3, f"with round_up, {count} of 16 tokens are masked at 0.45; expected 8, ceil(7.2)")


def is_independent_of_padding(entry: Entry) -> None:
    """Check that an augmentation has a strength, keeps padding, and changes a series alike in any batch."""
    import torch

    from tstk.core.rng import SampleRNG
    from tstk.core.types import Series

    expect("strength" in read_signature(entry.target).options, f"{entry.target} has no keyword-only option strength")
    x, observed = torch.linspace(-1, 2, 80).reshape(2, 2, 20), torch.ones(2, 2, 20, dtype=torch.bool)
    observed[1, :, 12:] = False
    rows = torch.arange(2)
    augment = get_registry().load(entry)
    whole = augment(Series(x * observed, observed, sample_id=rows), SampleRNG(0, 1, rows))
    alone = augment(Series(x[1:, :, :12], observed[1:, :, :12], sample_id=rows[1:]), SampleRNG(0, 1, rows[1:]))
    expect(whole.x.shape == x.shape, f"a batch {list(x.shape)} becomes {list(whole.x.shape)}")
    expect(not whole.observed_mask[1, :, 12:].any(), "samples after the end of a series become observed")
    is_same = torch.allclose((whole.x * whole.observed_mask)[1:, :, :12], alone.x * alone.observed_mask, atol=1e-5)
    expect(is_same, "a series is changed in another way beside a longer one; draw per series from `rng`")


def takes_a_run_directory(entry: Entry) -> None:
    """Check that the target of a tracker is a function of the run directory alone."""
    names = list(inspect.signature(get_registry().load(entry)).parameters)
    expect(names == ["run_dir"], f"{entry.target}({', '.join(names)}); expected a function of run_dir")


def refuses_other_checkpoints(entry: Entry) -> None:
    """Check the options of an importer, and that its error for the checkpoint of another program names the file."""
    import torch

    from tstk.runs.importing import SourceTensors, build_importer, convert_checkpoint

    options = read_signature(entry.target).options  # raises if an option has no annotation or no literal default
    expect("out" not in options, f"{entry.target} has the option out, which is that of tstk import")
    source = SourceTensors(Path("other.pt"), {"of.another.program": torch.zeros(2, 3)})
    try:
        convert_checkpoint(build_importer(entry, {}), source, entry.name)
    except TstkError as e:
        expect("other.pt" in str(e), f"{str(e)!r} does not name the file")
    else:
        raise AssertionError(f"{entry.name} takes the checkpoint of another program; expected a CheckpointError")
