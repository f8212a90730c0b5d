"""Methods that score samples by how unusual they are: functions `(pipeline, training) -> score(windows)`.

A score is higher where a sample is less expected. Scores of reconstruction and masked prediction are absolute errors in
units of the training standard deviation, per channel; those of codes are negative log-likelihoods in nats; those of
distance are distances in the space of embeddings, one per window.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.builtin.losses.next_code import NextCode
from tstk.core.imputation import predict_masked, predicts_masked_samples, reconstruct, reconstructs_samples
from tstk.core.pipeline import Pipeline
from tstk.core.rng import SampleRNG
from tstk.core.types import Series
from tstk.core.windows import iter_windows, split_sample_id
from tstk.errors import OptionError
from tstk.inference.recordings import Recordings

ScoreFn = Callable[[Series, bool], Tensor]
"""Maps windows [B, C, T], and whether they are training windows, to scores [B, K, T]; K is 1 or the channels."""

MAX_REFERENCE_WINDOWS = 20_000
"""Largest number of training windows that embeddings are compared with; evenly spaced ones are used if more exist."""


def score_by_masked_prediction(pipeline: Pipeline, training: Callable[[], Recordings]) -> ScoreFn:
    """Score samples by the error of their prediction from the tokens around, in a few complementary masks."""
    return lambda series, is_training: _absolute_error(pipeline, series, predict_masked(pipeline, series))


def score_by_reconstruction(pipeline: Pipeline, training: Callable[[], Recordings]) -> ScoreFn:
    """Score samples by the error of their reconstruction from all tokens, those of the window itself included."""

    def score(series: Series, is_training: bool) -> Tensor:
        return _absolute_error(pipeline, series, reconstruct(pipeline, series, ~series.observed_mask))

    return score


def score_by_code_likelihood(pipeline: Pipeline, training: Callable[[], Recordings]) -> ScoreFn:
    """Score samples by the negative log-likelihood of their code, given those before; the first code has none."""

    def score(series: Series, is_training: bool) -> Tensor:
        step_output = pipeline.preprocess(series.replace(y=None), mask_future=False)
        tokens, spec = step_output.tokens, pipeline.tokenizer.out
        rng = SampleRNG(0, 0, torch.zeros(len(tokens.values), dtype=torch.long, device=tokens.values.device))
        step_output.visible, step_output.queries = pipeline.loss.split(tokens, rng)
        pipeline.compute_predictions(step_output)
        queries = step_output.queries
        assert step_output.predictions is not None
        assert queries.ids is not None
        losses = F.cross_entropy(step_output.predictions.float().transpose(1, 2), queries.ids, reduction="none")
        losses = losses.masked_fill(~queries.valid, torch.nan)
        by_token = F.pad(losses, (1, 0), value=torch.nan)
        padding = 0 if pipeline.spec.horizon is None else pipeline.spec.length - series.x.shape[2]
        time = torch.arange(series.x.shape[2], device=losses.device) + padding
        by_sample = by_token[:, (time / (spec.stride or 1)).long().clamp(max=by_token.shape[1] - 1)]
        return by_sample.reshape(len(series.x), -1, series.x.shape[2])

    return score


def score_by_distance(pipeline: Pipeline, training: Callable[[], Recordings]) -> ScoreFn:
    """Score windows by the distance of their embedding to that of the nearest training window.

    A training window is compared with those that share no sample with it.
    """
    recordings = training()
    vectors, ids = [], []
    for _, _, series in iter_windows(pipeline, recordings.x, recordings.ends):
        assert series.sample_id is not None
        vectors.append(_embed(pipeline, series.to(pipeline.mean.device)))
        ids.append(series.sample_id)
    step = -(-sum(map(len, ids)) // MAX_REFERENCE_WINDOWS)
    reference, (rows, starts) = torch.cat(vectors)[::step], split_sample_id(torch.cat(ids)[::step])
    length = min(pipeline.spec.length, recordings.x.shape[2])

    def score(series: Series, is_training: bool) -> Tensor:
        distances = torch.cdist(_embed(pipeline, series), reference)
        if is_training:
            assert series.sample_id is not None
            own_rows, own_starts = (t.cpu()[:, None] for t in split_sample_id(series.sample_id))
            overlaps = (rows == own_rows) & ((starts - own_starts).abs() < length)
            distances = distances.masked_fill(overlaps.to(distances.device), torch.inf)
        nearest = distances.amin(1)
        nearest = nearest.masked_fill(nearest.isinf(), torch.nan)
        return nearest[:, None, None].expand(-1, 1, series.x.shape[2])

    return score


def _embed(pipeline: Pipeline, series: Series) -> Tensor:
    with torch.no_grad():
        return pipeline.embed_batch(series.replace(sample_id=None)).float()


def _absolute_error(pipeline: Pipeline, series: Series, predictions: Tensor) -> Tensor:
    error = ((predictions - series.x) / pipeline.std).abs()
    return error.masked_fill(~series.observed_mask, torch.nan)


METHODS: dict[str, tuple[Callable[[Pipeline, Callable[[], Recordings]], ScoreFn], Callable[[Pipeline], bool], str]] = {
    "masked": (
        score_by_masked_prediction,
        predicts_masked_samples,
        "it needs a run that predicts the samples of masked tokens; train one with --loss masked",
    ),
    "codes": (
        score_by_code_likelihood,
        lambda pipeline: isinstance(pipeline.loss, NextCode),
        "it needs a run that predicts the next code, such as one of --config vqvae/pretrain",
    ),
    "reconstruction": (
        score_by_reconstruction,
        reconstructs_samples,
        "it needs a run that reconstructs its input; train one with --loss reconstruct",
    ),
    "distance": (score_by_distance, lambda pipeline: True, ""),
}
"""Name -> (method, whether a pipeline supports it, what it needs), the preferred methods first."""


def choose_method(pipeline: Pipeline, name: str | None) -> str:
    """Return the name of a method: the one given, or the first that the pipeline supports.

    Raises:
        OptionError: there is no such method, or the pipeline does not support it
    """
    if name is None:
        return next(name for name, (_, supports, _) in METHODS.items() if supports(pipeline))
    if name not in METHODS:
        raise OptionError(f"method {name!r}: expected {', '.join(METHODS)}")
    _, supports, needs = METHODS[name]
    if not supports(pipeline):
        possible = ", ".join(other for other, (_, supports, _) in METHODS.items() if supports(pipeline))
        raise OptionError(f"--method {name}: {needs}; this run supports {possible}")
    return name
