"""What a trained run is for: `score` it, `predict` and `embed` with it, on its own test part or on other data.

import tstk.inference.predict
tstk.inference.predict.score("runs/a")
tstk.inference.predict.predict("runs/a", "new.csv")["predicted"]
tstk.inference.predict.embed("runs/a", "new.csv")["embedding"]      # [N, E]
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tstk.config.run_directory import read_config
from tstk.core.pipeline import Pipeline
from tstk.data.catalog import locate, reader_for
from tstk.data.data_module import Dataset, statistics
from tstk.data.datasets import Labelled, Part
from tstk.data.load import load as load_data
from tstk.data.load import load_part
from tstk.errors import DataError, OptionError, TstkError
from tstk.evaluation.baselines import Baselines, baselines, forecast_errors, majority
from tstk.evaluation.evaluate import evaluate, in_order
from tstk.evaluation.features import Features, Pool, vectors
from tstk.evaluation.simple_classifiers import CLASSIFIERS
from tstk.evaluation.token_order import no_order, order
from tstk.nn.linear_map import last_value
from tstk.runs.checkpoint import load

Arrays = dict[str, NDArray[Any]]


@dataclass
class Future:
    """What follows the last row of a table.

    Args:
        values: [C, H] in the units of the data
        channels: C names
        dates: H dates, if the table has dates at a regular distance
        paths: [S, C, H] draws, whose mean the values are, if the run draws
    """

    values: NDArray[np.float32]
    channels: tuple[str, ...]
    dates: NDArray[np.datetime64] | None = None
    paths: NDArray[np.float32] | None = None


def score(
    run: str | Path,
    data: str | None = None,
    *,
    data_root: str | None = None,
    label: str | None = None,
    batch_size: int = 256,
    shuffle_tokens: bool = False,
) -> dict[str, Any]:
    """Scores of a run, and of the baselines beside them.

    Baselines learn from the run's training data, which are read again; where they cannot be, the majority class or the
    last value alone is scored.

    Args:
        run: its directory
        data: name or path of labelled data; the run's own test part if None
        data_root: folder with data sets to be found by name
        label: column or array that holds the labels, if it has an unusual name
        batch_size: series at a time
        shuffle_tokens: score a second time with the tokens of each series shuffled in time

    Returns:
        "data", "size", "scores", "baselines", "baselines_skipped" and "baselines_details"; and with `shuffle_tokens`
        "order", as `Order` of `tstk.evaluation.token_order` has it, with "uses_order" and "reading"

    Raises:
        CheckpointError: the run cannot be loaded
        OptionError: shuffling tokens says nothing about this run
        DataError: the data do not suit it, or have no labels
    """
    pipeline, found = _loaded(run)
    if shuffle_tokens and (reason := no_order(pipeline)) is not None:
        raise OptionError(f"--shuffle-tokens: {reason}")
    name, part = _part(pipeline, found, data, data_root, label)
    if pipeline.head is not None and pipeline.spec.horizon is None and part.y is None:
        raise DataError(f"{name}: these series have no labels, so there is nothing to score; try tstk predict {run}")
    seed = found["config"].get("train", {}).get("seed", 0)
    simple = _baselines(pipeline, found, part, data_root)
    more = {}
    if shuffle_tokens:
        batches = in_order(part, batch_size, pipeline.mean.device)
        more["order"] = order(pipeline, batches, seed=seed, groups=part.groups).record()
    return {
        "data": name,
        "size": len(part),
        "scores": evaluate(pipeline, part, seed=seed, batch_size=batch_size),
        **simple.as_result(),
        **more,
    }


def predict(
    run: str | Path,
    data: str | None = None,
    *,
    data_root: str | None = None,
    label: str | None = None,
    batch_size: int = 256,
) -> Arrays:
    """What a run answers for every series, or for every window of a table.

    Args:
        run: its directory
        data: name or path; the run's own test part if None
        data_root: folder with data sets to be found by name
        label: column or array that holds the labels, if it has an unusual name
        batch_size: series at a time

    Returns:
        classification: "predicted" [N] names, "probability" [N, classes], "classes" names, and "truth" [N] names if
        known; forecasting: "forecast" and "truth", each [N, C, H] in the units of the data, and "channels" names

    Raises:
        CheckpointError: the run cannot be loaded
        OptionError: it was pretrained without a task
        DataError: the data do not suit it
    """
    pipeline, found = _loaded(run)
    _, part = _part(pipeline, found, data, data_root, label)
    output = _collected(pipeline, part, batch_size, pipeline.predict)
    if pipeline.spec.horizon is not None:
        truth = [series.y for series in in_order(part, batch_size, "cpu") if series.y is not None]
        return {
            "forecast": output.numpy(),
            "truth": torch.cat(truth).numpy(),
            "channels": np.array(found["data"]["channels"]),
        }
    classes = np.array(found["data"]["classes"])
    answer = {
        "predicted": classes[output.argmax(1).numpy()],
        "probability": output.softmax(1).numpy(),
        "classes": classes,
    }
    return answer if part.y is None else answer | {"truth": classes[part.y.numpy()]}


def forecast(
    run: str | Path,
    data: str | None = None,
    *,
    data_root: str | None = None,
    horizon: int | None = None,
    samples: int | None = None,
) -> Future:
    """What a run expects after the last row of a table.

    Args:
        run: its directory
        data: name or path of a table; the one the run was trained on if None
        data_root: folder with data sets to be found by name
        horizon: rows to forecast; the run's if None
        samples: paths to draw; as trained if None

    Raises:
        CheckpointError: the run cannot be loaded
        OptionError: it does not forecast, or not so far, or draws nothing
        DataError: the table does not suit it
    """
    pipeline, found = _loaded(run)
    if pipeline.spec.horizon is None:
        raise OptionError(f"{run} was not trained to forecast, so it cannot continue a table")
    use, root = _own(found, data, data_root)
    part = load_part(use, like=found["data"], data_root=root, future=False)
    series = part.batch(torch.tensor([len(part) - 1])).to(pipeline.mean.device)
    with torch.no_grad():
        flow = pipeline.answer(series, horizon, samples)
    values, paths = (
        None if t is None else (t * pipeline.std + pipeline.mean)[..., :horizon].cpu().numpy()
        for t in (flow.output, flow.futures)
    )
    assert values is not None
    dates = _dates(use, root, values.shape[-1])
    return Future(values[0], tuple(found["data"]["channels"]), dates, None if paths is None else paths[:, 0])


def embed(
    run: str | Path,
    data: str | None = None,
    *,
    data_root: str | None = None,
    label: str | None = None,
    features: Features = "pooled",
    pool: Pool = "mean",
    batch_size: int = 256,
) -> Arrays:
    """One vector per series, or per window of a table.

    Args:
        run: its directory
        data: name or path; the run's own test part if None
        data_root: folder with data sets to be found by name
        label: column or array that holds the labels, if it has an unusual name
        features: pooled, tokens side by side, codes (the share of each) or counts (how often each occurs)
        pool: how pooled tokens become one vector: mean, max, cls or statistics
        batch_size: series at a time

    Returns:
        "embedding" [N, E], and if the series are labelled "y" [N] class index and "classes" names

    Raises:
        CheckpointError: the run cannot be loaded
        DataError: the data do not suit it, or an embedding is not finite
    """
    pipeline, found = _loaded(run)
    name, part = _part(pipeline, found, data, data_root, label)
    made = vectors(pipeline, features, pool)
    # a known future must not leak into the vector of the window before it
    rows = _collected(pipeline, part, batch_size, lambda series: made(series.but(y=None)))
    bad = (~rows.isfinite()).any(1).nonzero().flatten().tolist()
    if bad:
        raise DataError(
            f"{name}: {len(bad)} of {len(rows)} embeddings are not finite, row {bad[0]} first; the run "
            f"{run} or the data are damaged, and nothing was written"
        )
    answer: Arrays = {"embedding": rows.numpy()}
    return answer if part.y is None else answer | {"y": part.y.numpy(), "classes": np.array(found["data"]["classes"])}


def opened(
    run: str | Path, data: str | None = None, *, data_root: str | None = None, label: str | None = None
) -> tuple[Pipeline, Part, dict[str, Any]]:
    """What it takes to look into a run's answers: its pipeline, the part to apply it to, and the facts of its data.

    Args:
        run: its directory
        data: name or path; the run's own test part if None
        data_root: folder with data sets to be found by name
        label: column or array that holds the labels, if it has an unusual name

    Raises:
        CheckpointError: the run cannot be loaded
        DataError: the data do not suit it
    """
    pipeline, found = _loaded(run)
    return pipeline, _part(pipeline, found, data, data_root, label)[1], found["data"]


def _loaded(run: str | Path) -> tuple[Pipeline, dict[str, Any]]:
    pipeline = load(run)
    return pipeline.to("cuda" if torch.cuda.is_available() else "cpu"), read_config(run)


def _own(found: dict[str, Any], data: str | None, data_root: str | None) -> tuple[str, str | None]:
    """Which data, and where to look for them: those asked for, or those of the run."""
    table = found["config"]["data"]
    return (table["use"], data_root or table["data_root"]) if data is None else (data, data_root)


def _part(
    pipeline: Pipeline, found: dict[str, Any], data: str | None, data_root: str | None, label: str | None
) -> tuple[str, Part]:
    """The part that was asked for: of other data, or the test part as the run had it."""
    use, root = _own(found, data, data_root)
    if data is not None:
        like = {**found["data"], "any_length": pipeline.tokenizer.any_length}
        other = load_part(use, like=like, data_root=root, label=label)
        if found["data"].get("univariate"):
            assert isinstance(other, Labelled)
            pipeline.take(*statistics(other.x))
        return use, other
    part = _own_dataset(found, data_root, label).test
    if part is None:
        raise DataError(f"{use}: the run's data have no test part; name other data with --data")
    return use, part


def _own_dataset(found: dict[str, Any], data_root: str | None, label: str | None = None) -> Dataset:
    """The data set of a run, as it was trained on it."""
    use, root = _own(found, None, data_root)
    options = {k: v for k, v in found["config"]["data"].items() if k != "use"}
    return load_data(use, **{**options, "data_root": root, "label": label or options["label"]})


def _collected(pipeline: Pipeline, part: Part, batch_size: int, answer: Any) -> Tensor:
    with torch.no_grad():
        return torch.cat([answer(series).cpu() for series in in_order(part, batch_size, pipeline.mean.device)])


def _baselines(pipeline: Pipeline, found: dict[str, Any], part: Part, data_root: str | None) -> Baselines:
    """Score the baselines; without the training data only those that learn nothing."""
    horizon = pipeline.spec.horizon
    if (horizon is None and (pipeline.head is None or part.y is None)) or (
        horizon is not None and pipeline.head is None and not pipeline.foretells
    ):
        return Baselines()
    try:
        data = _own_dataset(found, data_root)
        if list(data.classes) != found["data"]["classes"] or len(data.channels) != pipeline.spec.channels:
            raise DataError(f"{data.name}: the data have changed since the run was trained")
    except TstkError as e:
        reason = f"needs the training data of the run: {' '.join(str(e).split())}"
        if horizon is not None:
            errors = forecast_errors(last_value, part, pipeline.mean.cpu(), pipeline.std.cpu())
            return Baselines({"last value": errors}, {"linear": reason})
        assert part.y is not None
        return Baselines(majority(torch.tensor(pipeline.spec.counts), part.y), dict.fromkeys(CLASSIFIERS, reason))
    return baselines(pipeline, data, part)


def _dates(use: str, data_root: str | None, steps: int) -> NDArray[np.datetime64] | None:
    """The dates that follow a table, if its own lie at a regular distance."""
    path = Path(use).expanduser()
    if not path.is_file():
        files = locate(use, data_root).files
        path = files.get("test", next(iter(files.values())))
    dates = getattr(reader_for(path)(path), "dates", None)
    if dates is None or dates.dtype.kind != "M" or len(dates) < 2:
        return None
    gaps = np.diff(dates)
    return dates[-1] + gaps[-1] * np.arange(1, steps + 1) if (gaps == gaps[-1]).all() else None
