"""Sharing a run on the Hugging Face hub: its files without the paths of this machine, and a model card made of them."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping
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

_TARGETS = {"class": "classes", "sample-class": "classes, one per sample", "labels": "labels", "numbers": "numbers"}
"""Type of targets -> what a run predicts."""

_LIMITS = (
    "The scores are those of the test split of these data, once. Series of other sensors, people or times may be "
    "unlike them; score the model on labelled series of your own before you rely on it: {command}"
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
        private: create the repository such that only its owner sees it; one that exists stays as it is
        revision: branch to upload to, which is created if needed; None for the main branch
        license: identifier for the card, such as apache-2.0; None says that none was chosen
        message: of the commit

    Returns:
        address of the commit

    Raises:
        CheckpointError: the run is not finished or damaged, or the hub refused it
        OptionError: `repo` has another form, or requests are forbidden
    """
    name, revision_in_name = parse_hub_run(repo if is_hub_run(repo) else f"hf://{repo}")
    if is_hub_offline():
        raise OptionError("HF_HUB_OFFLINE or TSTK_OFFLINE forbids requests; unset it to upload a run")
    config, result = RunConfig.read(run), RunResult.read(run)
    load(run)  # a run that cannot be loaded here is of no use to others
    with TemporaryDirectory() as folder:
        _write_public_run(run, config, result, Path(folder))
        write_text(Path(folder, "README.md"), render_model_card(config, result, name, license))
        return _upload(Path(folder), name, revision or revision_in_name, private, message)


def _upload(folder: Path, repo: str, revision: str | None, private: bool, message: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    hub = HfApi(library_name="tstk")
    try:
        hub.create_repo(repo, private=private, exist_ok=True)
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
    _shorten_record(config, folder).write()
    _shorten_record(result, folder).write()
    assert {path.name for path in folder.iterdir()} <= set(PUBLIC_FILES)


def _shorten_record(record: _Record, folder: Path) -> _Record:
    values = {
        name: _shorten_paths(value) for name, value in vars(record).items() if isinstance(value, str | dict | list)
    }
    return replace(record, **values, run_dir=folder)


def _shorten_paths(value: Any) -> Any:
    """Replace each absolute path in strings, lists and dicts by its last part."""
    if isinstance(value, Mapping):
        return {key: _shorten_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shorten_paths(item) for item in value]
    if isinstance(value, str):
        if value.startswith("tstk "):  # a command line, whose words may be quoted
            return shlex.join(map(_shorten_word, shlex.split(value)))
        return _shorten_word(value) if os.path.exists(value) else " ".join(map(_shorten_word, value.split(" ")))
    return value


def _shorten_word(word: str) -> str:
    """Return a path, paths separated by commas, or OPTION=PATH with the last part of each absolute path."""
    option, equals, value = word.rpartition("=")
    parts = [os.path.basename(part.rstrip(os.sep)) if os.path.isabs(part) else part for part in value.split(",")]
    return f"{option}{equals}{','.join(parts)}"


def render_model_card(config: RunConfig, result: RunResult, repo: str, license: str | None = None) -> str:
    """Return the model card of a run, Markdown with the metadata that the hub reads."""
    components = {slot: use.rpartition("/")[2] for slot in SLOTS if (use := config.component(slot))}
    tags = ["time-series", result.task, *(f"{slot}-{use}" for slot, use in components.items())]
    metadata = ["---", "library_name: tstk", *([f"license: {license}"] if license else []), "tags:"]
    model = ", ".join(f"{slot} {format_code(use)}" for slot, use in components.items())
    data = escape_markdown(_shorten_paths(result.data))
    command = f"tstk eval hf://{repo} --data FILE"
    is_pretraining = result.task == "pretraining"
    use = "embed" if is_pretraining else "predict"
    out = "embeddings.npz" if is_pretraining else "predictions.csv"
    lines = [
        *(*metadata, *(f"- {tag}" for tag in tags), "---", ""),
        *(f"# {escape_markdown(repo)}", ""),
        f"{result.task.capitalize()} of {data}, {_describe_input(config, is_pretraining)}. Trained with tstk: {model}; "
        f"{result.parameters:,} parameters.",
        *("", "## Use", ""),
        *format_code_block(
            f'import tstk\n\npipeline = tstk.load("hf://{repo}")  # an ordinary torch.nn.Module; no code is downloaded'
        ),
        *("", *format_code_block(f"tstk {use} hf://{repo} --data FILE --out {out}"), ""),
        *_render_scores(result),
        *("## How it was made", "", *format_code_block(_shorten_paths(result.command)), ""),
        f"Epoch {result.selected.epoch} of {result.selected.num_epochs} was kept, by "
        f"{escape_markdown(result.selected.by)}; {result.seconds:,.0f} s in all. {escape_markdown(result.split)}",
        *("", ", ".join(f"{package} {version}" for package, version in result.versions.items()), ""),
        *("## Limits", "", _LIMITS.format(command=format_code(command)), ""),
        *(["No licence was chosen for these weights."] if license is None else []),
    ]
    return "\n".join(lines).rstrip() + "\n"


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
