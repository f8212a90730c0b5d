"""Sharing a run on the Hugging Face hub: its files without the paths of this machine, and a model card made of them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from tstk.config.hub import is_hub_offline, is_hub_run, parse_hub_run
from tstk.config.records import RunConfig, RunResult
from tstk.config.run_directory import METRICS_FILE, PUBLIC_FILES, WEIGHTS_FILE, resolve_run_dir
from tstk.core.task import get_task
from tstk.errors import CheckpointError, OptionError
from tstk.evaluation.formatting import describe_better_baselines, format_number
from tstk.files import write_text
from tstk.plugins.hooks import SLOTS
from tstk.report.markdown import escape_markdown, format_code, format_code_block, format_table
from tstk.runs.checkpoint import load

_Record = TypeVar("_Record", RunConfig, RunResult)

_FOLDERS = re.compile(r"""(?<![\w.~/:*\\-])(?:file://)?/(?:[^\s/,;:'"()=\[\]]+/)+(?=[^\s/])""")
"""The folders of an absolute path within a text, as far as they hold no spaces."""
_NAMES_OF_DATA = frozenset(
    (
        *("label_column", "target_columns", "group_column", "id_column", "time_column"),
        *("channel_columns", "drop_columns", "names", "missing"),
    )
)
"""Options that hold names or cells of the data, which may begin with a slash."""
_TARGETS = {"class": "classes", "sample-class": "classes, one per sample", "labels": "labels", "numbers": "numbers"}
"""Type of targets -> what a run predicts."""

_LIMITS = (
    "The scores are those of the test split of these data, once. Series of other sensors, people or times may be "
    "unlike them; score the model on labelled series of your own before you rely on it: {command}"
)
_LIMITS_OF_ORIGIN = (
    "There are no scores of these weights here; score them on labelled series of your own before you rely on them: "
    "{command}"
)


def push(
    run: str | Path,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    license: str | None = None,
    message: str = "Upload a run of tstk",
) -> str:
    """Upload a finished run to the hub, with a model card.

    Paths of this machine in config.json and result.json are shortened to their last part; the weights and the metrics
    of the epochs are uploaded as they are.

    Args:
        run: its directory
        repo: owner/name, which is created if needed; hf://owner/name is the same
        private: create the repository such that only its owner sees it; one that exists must be so
        revision: branch to upload to, which is created if needed; None for the main branch
        license: identifier for the card, such as apache-2.0; None says that none was chosen
        message: of the commit

    Returns:
        address of the commit

    Raises:
        CheckpointError: the run is not finished or damaged, or the hub refused it
        OptionError: `repo` has another form, two revisions are given, requests are forbidden, or the repository exists
            and is public, and `private` is given
    """
    name, revision_in_name = parse_hub_run(repo if is_hub_run(repo) else f"hf://{repo}")
    if is_hub_offline():
        raise OptionError("HF_HUB_OFFLINE or TSTK_OFFLINE forbids requests; unset it to upload a run")
    if revision is not None and revision_in_name is not None:
        raise OptionError(f"{repo} and revision {revision} both name a revision; give one of them")
    revision = revision or revision_in_name
    config, result = RunConfig.read(run), RunResult.read(run)
    load(run)  # a run that cannot be loaded here is of no use to others
    with TemporaryDirectory() as folder:
        _write_public_run(run, config, result, Path(folder))
        place = f"{name}@{revision}" if revision else name
        write_text(Path(folder, "README.md"), render_model_card(config, result, place, license))
        return _upload(Path(folder), name, revision, private, message)


def _upload(folder: Path, repo: str, revision: str | None, private: bool, message: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    hub = HfApi(library_name="tstk")
    try:
        hub.create_repo(repo, private=private, exist_ok=True)
        if private and not hub.model_info(repo).private:
            raise OptionError(
                f"hf://{repo} exists and is public, so private has no effect; change its visibility on the page of its "
                "settings, or choose another name"
            )
        if revision is not None:
            hub.create_branch(repo, branch=revision, exist_ok=True)
        return str(
            hub.upload_folder(repo_id=repo, folder_path=folder, revision=revision, commit_message=message).commit_url
        )
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        reason = type(error).__name__ if status is None else f"{type(error).__name__}, status {status}"
        problem = (
            "you are not logged in, or may not write there; log in with: hf auth login"
            if status in (401, 403) or isinstance(error, LocalTokenNotFoundError)
            else f"the hub refused it or cannot be reached ({reason})"
        )
        raise CheckpointError(f"hf://{repo}: {problem}") from None


def _write_public_run(run: str | Path, config: RunConfig, result: RunResult, folder: Path) -> None:
    """Write the files of a run to a folder, without paths of this machine."""
    source = resolve_run_dir(run)
    for file in (WEIGHTS_FILE, METRICS_FILE):
        if (source / file).is_file():
            shutil.copyfile(source / file, folder / file)
    folders = _find_folders(config, result)
    _shorten_record(config, folders, folder).write()
    _shorten_record(result, folders, folder).write()
    assert {path.name for path in folder.iterdir()} <= set(PUBLIC_FILES)


def _shorten_record(record: _Record, folders: Sequence[str], run_dir: Path) -> _Record:
    """Return a record without folders; what was read from the data, such as names of classes, is as it was."""
    values = {
        name: _shorten_paths(value, folders)
        for name, value in vars(record).items()
        if isinstance(value, str | dict | list) and name != "input_schema"
    }
    return replace(record, **values, run_dir=run_dir)


def _find_folders(config: RunConfig, result: RunResult) -> list[str]:
    """Return the folders of all absolute paths in the records of a run, the longest first; they may hold spaces."""
    parents = set[str]()

    def collect(value: Any) -> None:
        if isinstance(value, Mapping):
            value = [item for key, item in value.items() if key not in _NAMES_OF_DATA]
        if isinstance(value, list | tuple):
            for item in value:
                collect(item)
        elif isinstance(value, str):
            paths = [part.removeprefix("file://").rstrip(os.sep) for part in (value, *value.split(","))]
            parents.update(os.path.dirname(path) + os.sep for path in paths if os.path.isabs(path))

    collect([config.values, config.given, config.init_from, config.local, config.data_files, result.data])
    for command in (config.command, result.command):
        with suppress(ValueError):  # a quote without its counterpart
            collect([word.rpartition("=")[2] for word in shlex.split(command)])
    return sorted(parents - {os.sep}, key=len, reverse=True)


def _shorten_paths(value: Any, folders: Sequence[str]) -> Any:
    """Replace each absolute path in strings, lists and dicts by its last part.

    Args:
        value: strings, lists and dicts; names in the data, such as /imu/x, are not changed
        folders: known ones, in which names may hold spaces, the longest first
    """
    if isinstance(value, Mapping):
        return {key: item if key in _NAMES_OF_DATA else _shorten_paths(item, folders) for key, item in value.items()}
    if isinstance(value, list):
        return [_shorten_paths(item, folders) for item in value]
    if isinstance(value, str):
        for folder in folders:
            value = value.replace(f"file://{folder}", "").replace(folder, "")
        return _FOLDERS.sub("", value)
    return value


def render_model_card(config: RunConfig, result: RunResult, repo: str, license: str | None = None) -> str:
    """Return the model card of a run, Markdown with the metadata that the hub reads."""
    components = {slot: use.rpartition("/")[2] for slot in SLOTS if (use := config.component(slot))}
    tags = ["time-series", result.task, *(f"{slot}-{use}" for slot, use in components.items())]
    metadata = ["---", "library_name: tstk", *([f"license: {license}"] if license else []), "tags:"]
    model = ", ".join(f"{slot} {format_code(use)}" for slot, use in components.items())
    folders = _find_folders(config, result)
    data = escape_markdown(_shorten_paths(result.data, folders))
    command = f"tstk eval hf://{repo} --data FILE"
    limits = _LIMITS.format(command=format_code(command))
    if config.origin:
        limits = _LIMITS_OF_ORIGIN.format(command=format_code(f"tstk probe hf://{repo} --data FILE"))
    lines = [
        *(*metadata, *(f"- {tag}" for tag in tags), "---", ""),
        *(f"# {escape_markdown(repo)}", ""),
        _describe_origin(config, result, data) + f": {model}; {result.parameters:,} parameters.",
        *("", "## Use", ""),
        *format_code_block(
            f'import tstk\n\npipeline = tstk.load("hf://{repo}")  # an ordinary torch.nn.Module; no code is downloaded'
        ),
        *("", *format_code_block(result.get_use_command(f"hf://{repo}")), ""),
        *_render_scores(result),
        *("## How it was made", "", *format_code_block(_shorten_paths(result.command, folders)), ""),
        "The weights are those of the file; nothing was trained."
        if config.origin
        else _describe_training(result, folders),
        *("", ", ".join(f"{package} {version}" for package, version in result.versions.items()), ""),
        *("## Limits", "", limits, ""),
        *(["No licence was chosen for these weights."] if license is None else []),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _describe_origin(config: RunConfig, result: RunResult, data: str) -> str:
    """Return what the weights were trained on and by what, or from which file they were imported."""
    inputs = _describe_input(config, result.task == "pretraining")
    if not config.origin:
        return f"{result.task.capitalize()} of {data}, {inputs}. Trained with tstk"
    return (
        f"Weights of {data} (SHA-256 {format_code(config.origin['sha256'])}), {inputs}. Imported with tstk by "
        f"{format_code(config.origin['importer'])}"
    )


def _describe_training(result: RunResult, folders: Sequence[str]) -> str:
    selected = result.selected
    return (
        f"Epoch {selected.epoch} of {selected.num_epochs} was kept, by {escape_markdown(selected.by)}; "
        f"{result.seconds:,.0f} s in all. {escape_markdown(_shorten_paths(result.split, folders))}"
    )


def _describe_input(config: RunConfig, is_pretraining: bool) -> str:
    """Return channels, length, and what is predicted, in words."""
    channels, length = config.channels, config.spec.get("length")
    text = "any number of channels" if config.split_channels else f"{len(channels)} channel{'s' * (len(channels) != 1)}"
    if not config.split_channels and len(channels) <= 12:
        text += f" ({escape_markdown(', '.join(channels))})"
    text += f", {length} samples" if length else ""
    text += f", {config.horizon} samples ahead" if config.horizon else ""
    names = config.classes or config.input_schema["target_names"]
    if is_pretraining or not names:
        return text
    shown = escape_markdown(", ".join(names[:12])) + ", ..." * (len(names) > 12)
    return f"{text}, to {len(names)} {_TARGETS[get_task(config.input_schema['task']).target_type]} ({shown})"


def _render_scores(result: RunResult) -> list[str]:
    """Return the section on scores: those of the test split with intervals, beside the baselines."""
    scores, split = (result.test, "test") if result.test else (result.val, "validation")
    if not scores:
        return []
    classification = result.classification
    intervals = classification.intervals if classification else {}
    metrics = [name for name in scores if not name.endswith("_se")]

    def format_score(metric: str) -> str:
        bounds = " to ".join(map(format_number, intervals.get(metric, ())))
        return format_number(scores[metric]) + (f" ({bounds})" if bounds else "")

    baselines = result.baselines.values()
    rows = [
        [metric, format_score(metric), *(format_number(b[metric]) if metric in b else "" for b in baselines)]
        for metric in metrics
    ]
    notes = [escape_markdown(note) for note in describe_better_baselines(scores, result.baselines)]
    interval_note = [f"In brackets: 95 % intervals over {classification.resampling}."] if classification else []
    return [
        *("## Scores", "", f"On the {split} split of the data it was trained on:", ""),
        *format_table(["metric", "this model", *result.baselines], rows),
        *("", *interval_note, *notes, ""),
    ]
