"""Scores of a pipeline on a part of the data; every row counts once, whatever the batch size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tstk.core.rng import Draws
from tstk.core.types import Series
from tstk.evaluation.metrics import Measures
from tstk.nn.codebook import spread

if TYPE_CHECKING:
    from tstk.core.pipeline import Pipeline
    from tstk.data.datasets import Part


def in_order(part: Part, batch_size: int, device: torch.device | str) -> Iterator[Series]:
    """A part from its first row to its last."""
    for index in torch.arange(len(part)).split(batch_size):
        yield part.batch(index).to(device)


@torch.no_grad()
def evaluate(pipeline: Pipeline, part: Part, *, seed: int = 0, batch_size: int = 256) -> dict[str, float]:
    """Loss terms and, where there is a task, its scores.

    Classification: accuracy and macro F1. Forecasting: mean square and mean absolute error in deviations of
    the training data, as the literature reports them, and what else `Measures` has. Discrete tokens: `usage` and
    `perplexity` of their codes. Masks are the same at every call. Loss terms are means over
    batches, weighted by their rows: where rows differ in what counts, they depend a little on the batch size.

    Args:
        seed: of masks
        batch_size: series at a time; with independent channels each of them counts as one
    """
    was_training = pipeline.training
    pipeline.eval()
    device = pipeline.mean.device
    sums: dict[str, Tensor] = {}
    outputs, truths = [], []
    measures = Measures(pipeline.mean, pipeline.std)
    vocab = pipeline.tokenizer.out.vocab
    codes = torch.zeros(vocab or 0, device=device)
    rows = max(1, batch_size // pipeline.spec.channels) if pipeline.independent else batch_size
    for series in in_order(part, rows, device):
        assert series.key is not None
        flow = pipeline(series, Draws(seed, 0, series.key))
        for name, value in {**flow.terms, **flow.logs, "loss": flow.total}.items():
            sums[name] = sums.get(name, torch.zeros((), device=device)) + value * len(series.x)
        if vocab and flow.tokens.ids is not None and not pipeline.loss.blanks:
            codes += torch.bincount(flow.tokens.ids[flow.tokens.valid], minlength=vocab)
        if pipeline.foretells and flow.output is None:
            flow = pipeline.answer(series)
        if flow.output is not None and pipeline.spec.horizon is None:
            outputs.append(flow.output.argmax(-1).cpu())
            assert flow.truth is not None
            truths.append(flow.truth.cpu())
        elif flow.output is not None and flow.truth is not None:
            past = ((series.x - pipeline.mean) / pipeline.std).where(series.mask, torch.nan)
            measures.add(flow.output, flow.truth, past, flow.futures)
    pipeline.train(was_training)
    scores = {name: float(total) / len(part) for name, total in sums.items()}
    if outputs:
        truth, guess = torch.cat(truths), torch.cat(outputs)
        if found := classified(truth, guess):
            scores |= found | {"accuracy_se": standard_error(truth, guess, part.groups)}
    if codes.any():
        scores |= {name: float(value) for name, value in spread(codes).items()}
    return scores | measures.scores()


def classified(truth: Tensor, guess: Tensor) -> dict[str, float]:
    """Accuracy and macro F1 of class indices [N]; nothing, if none is known.

    As scikit-learn has them: the mean F1 is over the classes that occur among truths or answers.

    Args:
        truth: [N] class index, -1 where unknown; such rows do not count
        guess: [N]
    """
    known = truth >= 0
    truth, guess = truth[known], guess[known]
    if not len(truth):
        return {}
    each = class_scores(truth, guess, int(torch.maximum(truth, guess).max()) + 1)
    f1 = each["f1"][torch.cat([truth, guess]).unique()]
    return {"accuracy": int((truth == guess).sum()) / len(truth), "f1_macro": float(f1.numpy().mean())}


def class_scores(truth: Tensor, guess: Tensor, classes: int) -> dict[str, Tensor]:
    """Precision, recall and F1 of each class, [classes]; 0 for a class that does not occur.

    Args:
        truth: [N] class index, -1 where unknown; such rows do not count
        guess: [N]
        classes: how many there are
    """
    known = truth >= 0
    truth, guess = truth[known], guess[known]
    right, there, told = (
        torch.bincount(found, minlength=classes).double() for found in (truth[truth == guess], truth, guess)
    )
    return {
        "precision": right / told.clamp(min=1),
        "recall": right / there.clamp(min=1),
        "f1": 2 * right / (there + told).clamp(min=1),
    }


def standard_error(truth: Tensor, guess: Tensor, groups: list[str] | None = None) -> float:
    """Standard error of an accuracy: over groups where rows belong together, such as the windows of a person.

    Args:
        truth: [N] class index, -1 where unknown
        guess: [N]
        groups: N names
    """
    known = truth >= 0
    names = None if groups is None else [name for name, ok in zip(groups, known.tolist(), strict=True) if ok]
    return error_of_mean((truth == guess)[known].double(), names)


def error_of_mean(values: Tensor, groups: Sequence[str] | None = None) -> float:
    """Standard error of the mean of values [N]: over groups where rows belong together.

    Args:
        values: [N] float64, at least one
        groups: N names
    """
    if groups is not None and len(set(groups)) > 1:
        names = {name: i for i, name in enumerate(dict.fromkeys(groups))}
        number = torch.tensor([names[g] for g in groups])
        sums = torch.zeros(len(names), dtype=torch.float64).scatter_add_(0, number, values)
        each = sums / torch.bincount(number, minlength=len(names))
        return float(each.std() / len(each) ** 0.5)
    return float(values.std(correction=0) / len(values) ** 0.5)
