"""Temporal order test: the accuracy of a classifier with the tokens of each series shuffled in time.

Token contents are permuted before the encoder adds positions, so the accuracy of a model that uses what occurs but not
when it occurs does not change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from tstk.core.finite import check_rows, find_bad_rows
from tstk.core.pipeline import Pipeline
from tstk.core.rng import SampleRNG
from tstk.core.types import Series, Tokens
from tstk.errors import DataError
from tstk.evaluation.classification import select_groups, standard_error_of_mean
from tstk.evaluation.formatting import format_number

NUM_SHUFFLES = 5
"""Random permutations of each series."""
MIN_ACCURACY_DROP = 0.05
"""Smallest drop in accuracy that counts as using the order, even if a smaller drop is statistically significant."""


@dataclass(frozen=True)
class TokenOrderResult:
    """Accuracy with and without shuffling.

    Args:
        accuracy: accuracy on the original series
        shuffled: accuracy with tokens shuffled in time, mean over the permutations
        deviation: standard deviation of the latter over the permutations
        drop_se: standard error of the mean drop, over series
        num_permutations: random permutations of each series
    """

    accuracy: float
    shuffled: float
    deviation: float
    drop_se: float
    num_permutations: int

    @property
    def uses_order(self) -> bool:
        """Whether accuracy drops by at least `MIN_ACCURACY_DROP` and by at least two standard errors."""
        return self.accuracy - self.shuffled >= max(MIN_ACCURACY_DROP, 2 * self.drop_se)

    @property
    def summary(self) -> str:
        """The result in one sentence."""
        drop = self.accuracy - self.shuffled
        shuffled = f"{format_number(self.shuffled)} ± {format_number(self.deviation)}"
        verdict = "uses" if self.uses_order else "hardly uses" if drop > 2 * self.drop_se else "does not use"
        return (
            f"accuracy {format_number(self.accuracy)} -> {shuffled} with tokens shuffled in time "
            f"({self.num_permutations} random orders): the model {verdict} the order"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the result as it is stored in JSON."""
        return asdict(self) | {"uses_order": self.uses_order, "reading": self.summary}


def why_order_undefined(pipeline: Pipeline) -> str | None:
    """Return the reason why the test does not apply to this pipeline; None if it applies."""
    spec = pipeline.tokenizer.out
    if pipeline.spec.horizon is not None:
        return "the temporal order test is for classifiers, and this run forecasts"
    if pipeline.head is None:
        return "the temporal order test is for classifiers, and this run was pretrained without a task"
    if pipeline.task is None or pipeline.task.target_type != "class":
        return "the temporal order test is for classifiers, and this run predicts something else"
    if not spec.ordered:
        return f"the tokens of {pipeline.tokenizer.display_name()} encode their own position, so they have no order"
    if spec.grid_size[0] < 2:
        return f"{pipeline.tokenizer.display_name()} makes one token per series, so there is no order to shuffle"
    return None


@torch.no_grad()
def evaluate_token_order(
    pipeline: Pipeline, batches: Iterable[Series], *, seed: int = 0, groups: Sequence[str] | None = None
) -> TokenOrderResult:
    """Compute the accuracy of a classifier on the original series and with their tokens shuffled in time.

    Args:
        pipeline: a classifier to which `why_order_undefined` does not object; its mode is restored afterwards
        batches: labelled series on the pipeline's device; series without a label are ignored
        seed: of the permutations, which do not depend on the batch size
        groups: one name per series if series are dependent

    Raises:
        DataError: no series has a known class, or a prediction is not finite
    """
    was_training = pipeline.training
    pipeline.eval()
    correct, correct_shuffled, labelled, bad_rows = [], [], [], []
    for series in batches:
        assert series.y is not None
        logits = [pipeline.predict_batch(series)]
        for shuffle_index in range(NUM_SHUFFLES):
            with shuffle_tokenizer_output(pipeline, seed, shuffle_index):
                logits.append(pipeline.predict_batch(series))
        bad_rows.append(find_bad_rows(series, logits, pipeline.mean, pipeline.std))
        is_correct = torch.stack(logits).argmax(2) == series.y
        correct.append(is_correct[0])
        correct_shuffled.append(is_correct[1:])
        labelled.append(series.y >= 0)
    pipeline.train(was_training)
    check_rows(bad_rows, pipeline, "temporal order test", "predictions")
    is_labelled = torch.cat(labelled).cpu()
    if not is_labelled.any():
        raise DataError("the temporal order test needs labels: no series has a known class")
    is_correct, shuffled_correct = (
        torch.cat(correct).cpu()[is_labelled].double(),
        torch.cat(correct_shuffled, 1).cpu()[:, is_labelled].double(),
    )
    return TokenOrderResult(
        accuracy=float(is_correct.mean()),
        shuffled=float(shuffled_correct.mean()),
        deviation=float(shuffled_correct.mean(1).std()),
        drop_se=standard_error_of_mean(is_correct - shuffled_correct.mean(0), select_groups(groups, is_labelled)),
        num_permutations=NUM_SHUFFLES,
    )


@contextmanager
def shuffle_tokenizer_output(pipeline: Pipeline, seed: int, shuffle_index: int) -> Iterator[None]:
    """Shuffle the output of the tokenizer within this context; all channels of a series get the same permutation."""
    channels = pipeline.spec.channels if pipeline.channel_independent else 1

    def shuffle_output(module: Any, inputs: tuple[Series], tokens: Tokens) -> Tokens:
        sample_id = inputs[0].sample_id
        assert sample_id is not None
        return shuffle_tokens(tokens, SampleRNG(seed, shuffle_index, sample_id // channels))

    handle = pipeline.tokenizer.register_forward_hook(shuffle_output)
    try:
        yield
    finally:
        handle.remove()


def shuffle_tokens(tokens: Tokens, rng: SampleRNG) -> Tokens:
    """Permute the contents of the valid tokens of each series in time; positions and invalid tokens stay.

    On a grid with several axes, all tokens of one time move together.
    """
    times, time = tokens.pos[..., 0].unique(return_inverse=True)
    keys = torch.where(tokens.valid, rng.uniform(len(times)).gather(1, time), time.float())
    group = _non_time_group_ids(tokens)
    order = (group * len(times) + time).argsort(1)
    shuffled_order = keys.argsort(dim=1, stable=True)
    shuffled_order = shuffled_order.gather(1, group.gather(1, shuffled_order).argsort(dim=1, stable=True))
    source = torch.empty_like(order).scatter(1, order, shuffled_order)
    return tokens.gather(source).replace(pos=tokens.pos, grid_index=tokens.grid_index, valid=tokens.valid)


def _non_time_group_ids(tokens: Tokens) -> Tensor:
    """Return group numbers [B, N]: tokens of one group differ in time only; invalid tokens form the last group."""
    other_axes = tokens.pos[..., 1:]
    groups, group = other_axes.flatten(0, 1).unique(dim=0, return_inverse=True) if other_axes.shape[-1] else ((0,), 0)
    group = torch.as_tensor(group, device=tokens.pos.device).expand(tokens.valid.numel()).view(tokens.valid.shape)
    return group.masked_fill(~tokens.valid, len(groups))
