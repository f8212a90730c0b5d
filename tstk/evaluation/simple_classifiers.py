"""Baseline classifiers that a model should beat: nearest neighbour, and logistic regression on summary features.

    data = load_data("GunPoint")
    classifier = NearestNeighbor().fit(gather_labelled_arrays(data.training_splits, data.spec.length))
    classifier.predict(gather_labelled_arrays([data.test], data.spec.length))      # [N] class index

Both use the stored values without scaling and are deterministic. They are written in torch so that training does not
have to import scikit-learn or scipy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.config.memory import format_size, get_available_memory
from tstk.core.repr import ShortRepr
from tstk.evaluation.evaluate import iter_batches
from tstk.nn.logistic_regression import LogisticRegression

if TYPE_CHECKING:
    from tstk.core.types import Spec, Split

MAX_SAMPLES = 5 * 10**7
"""Values in the training and test splits together, above which the classifiers are skipped."""
MAX_PRODUCTS = 5 * 10**10
"""Training series x test series x samples of a series, above which the nearest neighbour is skipped."""
MAX_FEATURES = 2 * 10**7
"""Training series x summary features x classes, above which the logistic regression is skipped."""
BYTES_PER_SAMPLE = 64
"""Memory of a sample of the training and test splits: in float64, with the copies that features and distances make."""
MAX_FREQUENCIES = 16
"""Largest number of Fourier magnitudes per channel."""


@dataclass(frozen=True, repr=False)
class LabelledArrays(ShortRepr):
    """Labelled series of one or more splits, in float64.

    Args:
        x: [N, C, T] samples, 0 where not observed
        observed: [N, C, T] bool, or None if all samples are observed
        lengths: [N] samples up to and including the last observed one
        y: [N] class index, or [N, K] numbers or labels
        groups: N names; series of one group must stay in the same fold; None if series are independent
    """

    x: Tensor
    observed: Tensor | None
    lengths: Tensor
    y: Tensor
    groups: list[str] | None = None


def gather_labelled_arrays(splits: Sequence[Split], length: int) -> LabelledArrays:
    """Concatenate labelled splits, padding all series to one length.

    Args:
        splits: labelled splits
        length: length of the padded series
    """
    batches = [batch for part in splits for batch in iter_batches(part, 1024, "cpu")]
    padding = [(0, length - batch.x.shape[-1]) for batch in batches]
    x = torch.cat([F.pad(batch.x, pad) for batch, pad in zip(batches, padding, strict=True)]).double()
    observed = torch.cat(
        [F.pad(batch.observed_mask.expand_as(batch.x), pad) for batch, pad in zip(batches, padding, strict=True)]
    )
    labels = [part.y for part in splits if part.y is not None]
    groups = [name for part in splits for name in part.groups or ()]
    lengths = torch.cat([part.lengths for part in splits])
    return LabelledArrays(
        x, None if observed.all() else observed, lengths, torch.cat(labels), groups if len(groups) == len(x) else None
    )


def why_classifier_too_large(name: str, train: Sequence[Split], test: Split, spec: Spec) -> str:
    """Return the reason why a classifier would take too long or too much memory on these splits; empty if it would not.

    Args:
        name: a key of `CLASSIFIERS`
        train: splits to fit on
        test: the split to predict
        spec: spec of the data: channels, length and number of outputs
    """
    num_train, samples_per_series = sum(map(len, train)), spec.channels * spec.length
    num_features = spec.channels * (4 + min(MAX_FREQUENCIES, spec.length // 2))
    sizes = {"series x samples": ((num_train + len(test)) * samples_per_series, MAX_SAMPLES)}
    if name == "1-NN":
        sizes["training series x test series x samples"] = (num_train * len(test) * samples_per_series, MAX_PRODUCTS)
    else:
        sizes["training series x features x classes"] = (
            num_train * num_features * (spec.num_outputs or 1),
            MAX_FEATURES,
        )
    reasons = [
        f"{quantity} is {size:.1e}, more than {limit:.0e}" for quantity, (size, limit) in sizes.items() if size > limit
    ]
    num_bytes, available = BYTES_PER_SAMPLE * (num_train + len(test)) * samples_per_series, get_available_memory()
    if available is not None and num_bytes > available:
        reasons.append(f"it takes {format_size(num_bytes)} of memory, and {format_size(available)} are available")
    return "; ".join(reasons)


class Classifier(Protocol):
    """Interface of the baseline classifiers."""

    def fit(self, train: LabelledArrays) -> Classifier:
        """Fit on labelled series."""

    def predict(self, test: LabelledArrays) -> Tensor:
        """Predict the class index [N]."""


# ------------------------------------------------------------------ nearest neighbour


class NearestNeighbor:
    """1-nearest-neighbour classifier with Euclidean distance; ties go to the first training series.

    All channels have equal weight. Padding counts as zeros, as in the results that the UCR and UEA archives publish.
    Other missing samples are left out, and the squared distance is scaled up by (all samples / samples compared).
    """

    def fit(self, train: LabelledArrays) -> NearestNeighbor:
        """Store the training series."""
        self.values, self.known_mask = _flatten(train)
        self.y = train.y
        self.center = self.values.mean(0) if self.known_mask is None else torch.zeros(())
        return self

    def predict(self, test: LabelledArrays) -> Tensor:
        """Predict the class index [N], or the targets [N, K]."""
        values, known = _flatten(test)
        chunk = max(1, 2**24 // max(len(self.values), values.shape[1]))
        known_chunks = [None] * len(values.split(chunk)) if known is None else known.split(chunk)
        return torch.cat([self._predict(v, k) for v, k in zip(values.split(chunk), known_chunks, strict=True)])

    def _predict(self, values: Tensor, known_mask: Tensor | None) -> Tensor:
        a, b = values - self.center, self.values - self.center
        if known_mask is None and self.known_mask is None:
            scale = a.square().sum(1, keepdim=True) + b.square().sum(1)
            distance = scale - 2 * a @ b.T
        else:
            a_known = torch.ones_like(a) if known_mask is None else known_mask.double()
            b_known = torch.ones_like(b) if self.known_mask is None else self.known_mask.double()
            count = a_known @ b_known.T
            upscale = a.shape[1] / count.clamp(min=1)
            scale = (a.square() @ b_known.T + a_known @ b.square().T) * upscale
            distance = (scale - 2 * a @ b.T * upscale).masked_fill(count == 0, torch.inf)
        # rounding must not decide between equal distances
        tied = distance <= distance.amin(1, keepdim=True) + 1e-12 * scale
        return self.y[tied.int().argmax(1)]


def _flatten(data: LabelledArrays) -> tuple[Tensor, Tensor | None]:
    """Return values [N, C * T] and a mask of the known ones; the mask is None if only padding is missing."""
    if data.observed is None:
        return data.x.flatten(1), None
    is_padding = torch.arange(data.x.shape[2]) >= data.lengths[:, None, None]
    known = (data.observed | is_padding).flatten(1)
    return data.x.flatten(1), None if known.all() else known


# ------------------------------------------------------------------ logistic regression


class SummaryLogisticRegression:
    """`LogisticRegression` on the features of `compute_summary_features`."""

    def fit(self, train: LabelledArrays) -> SummaryLogisticRegression:
        """Select C and fit."""
        self.logistic = LogisticRegression().fit(compute_summary_features(train), train.y, train.groups)
        return self

    def predict(self, test: LabelledArrays) -> Tensor:
        """Predict the class index [N]."""
        return self.logistic.predict(compute_summary_features(test))


def compute_summary_features(data: LabelledArrays) -> Tensor:
    """Compute mean, standard deviation, minimum, maximum and Fourier magnitudes of each channel.

    Only observed samples count; the features of a channel without any are NaN. The magnitudes are those of frequencies
    1 to 16 of the padded length, after subtracting the mean, divided by the number of observed samples.

    Returns:
        [N, C * (4 + up to 16)] float64
    """
    x = data.x
    observed = torch.ones_like(x, dtype=torch.bool) if data.observed is None else data.observed
    count = observed.sum(-1)
    mean = x.sum(-1) / count
    centered = torch.where(observed, x - mean[..., None], 0.0)
    std = (centered.square().sum(-1) / count).sqrt()
    minimum, maximum = (
        torch.where(count > 0, extreme, torch.nan)
        for extreme in (x.masked_fill(~observed, torch.inf).amin(-1), x.masked_fill(~observed, -torch.inf).amax(-1))
    )
    magnitudes = torch.fft.rfft(centered).abs()[..., 1 : 1 + MAX_FREQUENCIES] / count[..., None]
    return torch.cat([torch.stack([mean, std, minimum, maximum], -1), magnitudes], -1).flatten(1)


CLASSIFIERS: dict[str, Callable[[], Classifier]] = {"1-NN": NearestNeighbor, "logistic": SummaryLogisticRegression}
"""Baseline classifiers by the name used in results."""
