"""Classifiers that a trained model has to beat: the nearest neighbour, and a logistic regression on summary features.

    data = load("GunPoint")
    classifier = NearestNeighbor().fit(labelled_arrays(data.training_parts, data.spec.length))
    classifier.predict(labelled_arrays([data.test], data.spec.length))      # [N] class index

Both take values as stored, without scaling, and are deterministic. They are written in torch, as a training must not
wait for scikit-learn or scipy to be imported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.evaluation.evaluate import in_order

if TYPE_CHECKING:
    from tstk.core.types import Spec
    from tstk.data.datasets import Part

MAX_SAMPLES = 5 * 10**7
"""Samples of all channels of the training and the test part together, above which the classifiers are skipped."""
MAX_PRODUCTS = 5 * 10**10
"""Training series x test series x samples of a series, above which the nearest neighbour is skipped."""
MAX_FEATURES = 2 * 10**7
"""Training series x summary features x classes, above which the logistic regression is skipped."""
MANY_SERIES = 1000
"""Training series, above which one fold of the cross-validation is enough."""
FREQUENCIES = 16
"""Fourier magnitudes of each channel, at most."""
STRENGTHS = (0.01, 0.1, 1.0, 10.0)
"""Values of C, the inverse of the L2 penalty, from the strongest penalty to the weakest."""


@dataclass(frozen=True)
class LabelledArrays:
    """Series of a part with their classes, in float64.

    Args:
        x: [N, C, T] samples, 0 where not observed
        observed: [N, C, T] bool, or None if all samples are observed
        lengths: [N] samples up to and including the last observed one
        y: [N] class index
        groups: N names of what must not be torn apart by a split, or None
    """

    x: Tensor
    observed: Tensor | None
    lengths: Tensor
    y: Tensor
    groups: list[str] | None = None


def labelled_arrays(parts: Sequence[Part], length: int) -> LabelledArrays:
    """Gather the labelled series of some parts, padded to one length.

    Args:
        parts: with labels
        length: of the padded series
    """
    series = [batch for part in parts for batch in in_order(part, 1024, "cpu")]
    pad = [(0, length - one.x.shape[-1]) for one in series]
    x = torch.cat([F.pad(one.x, p) for one, p in zip(series, pad, strict=True)]).double()
    observed = torch.cat([F.pad(one.mask.expand_as(one.x), p) for one, p in zip(series, pad, strict=True)])
    labels = [part.y for part in parts if part.y is not None]
    groups = [name for part in parts for name in part.groups or ()]
    lengths = torch.cat([part.lengths for part in parts])
    return LabelledArrays(
        x, None if observed.all() else observed, lengths, torch.cat(labels), groups if len(groups) == len(x) else None
    )


def why_too_large(name: str, train: Sequence[Part], test: Part, spec: Spec) -> str:
    """Return the reason why a classifier would take too long on these parts; empty if it would not.

    Args:
        name: of `CLASSIFIERS`
        train: parts to learn from
        test: the part to predict
        spec: of the data: channels, length and classes
    """
    series, samples = sum(map(len, train)), spec.channels * spec.length
    features = spec.channels * (4 + min(FREQUENCIES, spec.length // 2))
    sizes = {"series x samples": ((series + len(test)) * samples, MAX_SAMPLES)}
    if name == "1-NN":
        sizes["training series x test series x samples"] = (series * len(test) * samples, MAX_PRODUCTS)
    else:
        sizes["training series x features x classes"] = (series * features * (spec.classes or 1), MAX_FEATURES)
    reasons = [f"{what} is {size:.1e}, more than {limit:.0e}" for what, (size, limit) in sizes.items() if size > limit]
    return "; ".join(reasons)


class Classifier(Protocol):
    """What learns from one part and predicts classes of another."""

    def fit(self, train: LabelledArrays) -> Classifier:
        """Learn from series with their classes."""

    def predict(self, test: LabelledArrays) -> Tensor:
        """[N] class index."""


# ------------------------------------------------------------------ nearest neighbour


class NearestNeighbor:
    """Predict the class of the training series at the least Euclidean distance, the first one of several.

    Channels count alike. Samples beyond the end of a series count as zeros, as in the archives' own figures. Samples
    missing before the end are left out, and the square distance is scaled up by (all samples / samples compared).
    """

    def fit(self, train: LabelledArrays) -> NearestNeighbor:
        """Keep the training series."""
        self.values, self.known = _flatten(train)
        self.y = train.y
        self.center = self.values.mean(0) if self.known is None else torch.zeros(())
        return self

    def predict(self, test: LabelledArrays) -> Tensor:
        """[N] class index."""
        values, known = _flatten(test)
        rows = max(1, 2**24 // max(len(self.values), values.shape[1]))
        known_rows = [None] * len(values.split(rows)) if known is None else known.split(rows)
        return torch.cat([self._predict(v, k) for v, k in zip(values.split(rows), known_rows, strict=True)])

    def _predict(self, values: Tensor, known: Tensor | None) -> Tensor:
        a, b = values - self.center, self.values - self.center
        if known is None and self.known is None:
            scale = a.square().sum(1, keepdim=True) + b.square().sum(1)
            distance = scale - 2 * a @ b.T
        else:
            ka = torch.ones_like(a) if known is None else known.double()
            kb = torch.ones_like(b) if self.known is None else self.known.double()
            count = ka @ kb.T
            more = a.shape[1] / count.clamp(min=1)
            scale = (a.square() @ kb.T + ka @ b.square().T) * more
            distance = (scale - 2 * a @ b.T * more).masked_fill(count == 0, torch.inf)
        # rounding must not decide between equal distances
        tied = distance <= distance.amin(1, keepdim=True) + 1e-12 * scale
        return self.y[tied.int().argmax(1)]


def _flatten(data: LabelledArrays) -> tuple[Tensor, Tensor | None]:
    """[N, C * T] values, and where they are known if any is missing before the end of its series."""
    if data.observed is None:
        return data.x.flatten(1), None
    beyond = torch.arange(data.x.shape[2]) >= data.lengths[:, None, None]
    known = (data.observed | beyond).flatten(1)
    return data.x.flatten(1), None if known.all() else known


# ------------------------------------------------------------------ logistic regression


class Logistic:
    """Multinomial logistic regression on features that are standardised by the training part.

    C is chosen among `STRENGTHS` by cross-validation over the training part: five folds, class by class in the order of
    the series, or by group where series have one; with more than `MANY_SERIES` series only the first fold is held out.
    Of equally accurate values the strongest penalty is taken.
    """

    def fit(self, features: Tensor, y: Tensor, groups: list[str] | None = None) -> Logistic:
        """Standardise the features, choose C, and fit.

        Args:
            features: [N, F] float64, NaN where unknown
            y: [N] class index
            groups: N names of what is not to be torn apart by folds
        """
        known = ~features.isnan()
        count = known.sum(0).clamp(min=1)
        self.mean = features.nansum(0) / count
        self.std = ((features - self.mean).square().nansum(0) / count).sqrt()
        self.std[self.std <= 1e-7 * self.mean.abs()] = 1.0
        x = self._standardise(features)
        folds = _folds(y, groups)[: 1 if len(x) > MANY_SERIES else None]
        right = torch.zeros(len(STRENGTHS))
        for held_out in folds:
            path = logistic_path(x[~held_out], y[~held_out], STRENGTHS, tolerance=1e-3)
            right += torch.stack([(model.predict(x[held_out]) == y[held_out]).sum() for model in path])
        self.C = STRENGTHS[int(right.argmax())] if folds else 1.0
        (self.model,) = logistic_path(x, y, (self.C,))
        return self

    def predict(self, features: Tensor) -> Tensor:
        """[N] class index for [N, F] features."""
        return self.model.predict(self._standardise(features))

    def _standardise(self, features: Tensor) -> Tensor:
        """[N, F] of mean 0 and deviation 1; what is unknown is at the mean."""
        return ((features - self.mean) / self.std).nan_to_num(0.0)


class SummaryLogistic:
    """`Logistic` on `summary_features`."""

    def fit(self, train: LabelledArrays) -> SummaryLogistic:
        """Choose C, and fit."""
        self.logistic = Logistic().fit(summary_features(train), train.y, train.groups)
        return self

    def predict(self, test: LabelledArrays) -> Tensor:
        """[N] class index."""
        return self.logistic.predict(summary_features(test))


def summary_features(data: LabelledArrays) -> Tensor:
    """[N, C * (4 + up to 16)]: mean, deviation, minimum, maximum and Fourier magnitudes of each channel.

    Only observed samples count; a channel without any has NaN. Magnitudes are those of the 1st to 16th frequency of the
    padded length, after the mean is subtracted, divided by the number of observed samples.
    """
    x = data.x
    observed = torch.ones_like(x, dtype=torch.bool) if data.observed is None else data.observed
    count = observed.sum(-1)
    mean = x.sum(-1) / count
    centered = torch.where(observed, x - mean[..., None], 0.0)
    std = (centered.square().sum(-1) / count).sqrt()
    least, most = (
        torch.where(count > 0, extreme, torch.nan)
        for extreme in (x.masked_fill(~observed, torch.inf).amin(-1), x.masked_fill(~observed, -torch.inf).amax(-1))
    )
    magnitudes = torch.fft.rfft(centered).abs()[..., 1 : 1 + FREQUENCIES] / count[..., None]
    return torch.cat([torch.stack([mean, std, least, most], -1), magnitudes], -1).flatten(1)


CLASSIFIERS: dict[str, Callable[[], Classifier]] = {"1-NN": NearestNeighbor, "logistic": SummaryLogistic}
"""By the name under which their scores are shown."""


def _folds(y: Tensor, groups: list[str] | None, count: int = 5) -> list[Tensor]:
    """Masks [N] of the series held out in turn; none if they cannot be divided."""
    names = sorted(set(groups or ()))
    if groups is not None and len(names) > 1:
        sizes = {name: groups.count(name) for name in names}
        folds: list[list[str]] = [[] for _ in range(min(count, len(names)))]
        for name in sorted(names, key=lambda n: -sizes[n]):
            min(folds, key=lambda fold: sum(sizes[n] for n in fold)).append(name)
        masks = [torch.tensor([g in set(fold) for g in groups]) for fold in folds]
    else:
        number = torch.empty_like(y)
        most = min(count, int(torch.bincount(y).max()))
        for c in y.unique():
            rows = (y == c).nonzero().flatten()
            number[rows] = torch.arange(len(rows)) * most // len(rows)
        masks = [number == fold for fold in range(most)] if most > 1 else []
    return [mask for mask in masks if 0 < int(mask.sum()) < len(y)]


@dataclass(frozen=True)
class LinearModel:
    """Logits of classes, linear in the features.

    Args:
        weight: [F, K]
        bias: [K]
        classes: [K] class index of each column
    """

    weight: Tensor
    bias: Tensor
    classes: Tensor

    def logits(self, x: Tensor) -> Tensor:
        """[N, K] for features [N, F]."""
        return x @ self.weight + self.bias

    def predict(self, x: Tensor) -> Tensor:
        """[N] class index for features [N, F]."""
        return self.classes[self.logits(x).argmax(1)]


def logistic_path(x: Tensor, y: Tensor, strengths: Sequence[float], *, tolerance: float = 1e-4) -> list[LinearModel]:
    """Fit a multinomial logistic regression for each C: the summed cross-entropy + |W|^2 / (2 C), as scikit-learn does.

    Args:
        x: [N, F] float64, standardised
        y: [N] class index; classes that do not occur are never predicted
        strengths: values of C; each fit starts from the solution of the one before
        tolerance: of the largest derivative, per training series
    """
    classes, target = y.unique(return_inverse=True)
    onehot = F.one_hot(target, len(classes)).double()
    center = x.mean(0)
    # in the basis of singular vectors, curvature is at most half of the squared singular values (Boehning 1992)
    _, sizes, basis = torch.linalg.svd(x - center, full_matrices=False)
    inputs = torch.cat([(x - center) @ basis.T, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    weights = torch.zeros(inputs.shape[1], len(classes), dtype=x.dtype)
    models = []
    for strength in strengths:
        penalty = torch.full((len(weights), 1), 1 / strength, dtype=x.dtype)
        penalty[-1] = 0  # of the intercept

        def loss(weights: Tensor, penalty: Tensor = penalty) -> tuple[Tensor, Tensor]:
            logits = inputs @ weights
            value = (logits.logsumexp(1) - (logits * onehot).sum(1)).sum() + (penalty * weights.square()).sum() / 2
            return value, inputs.T @ (logits.softmax(1) - onehot) + penalty * weights

        curvature = torch.cat([sizes.square(), torch.tensor([float(len(x))], dtype=x.dtype)])[:, None] / 2 + penalty
        weights = minimize(loss, weights, 1 / curvature, tolerance * len(x))
        weight = basis.T @ weights[:-1]
        models.append(LinearModel(weight, weights[-1] - center @ weight, classes))
    return models


def minimize(
    loss: Callable[[Tensor], tuple[Tensor, Tensor]],
    start: Tensor,
    inverse_curvature: Tensor,
    tolerance: float,
    *,
    memory: int = 10,
    max_steps: int = 500,
) -> Tensor:
    """Minimise a convex function by L-BFGS (Nocedal and Wright 2006, algorithm 7.5), halving steps that do not descend.

    `torch.optim.LBFGS` would import torch's compiler.

    Args:
        loss: a point -> value and gradient
        start: the first point
        inverse_curvature: first guess of the inverse Hessian's diagonal
        tolerance: stop once no derivative is larger
        memory: pairs of steps and changes of the gradient to remember
        max_steps: after which the point reached is returned
    """
    point, (value, gradient) = start, loss(start)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(max_steps):
        if gradient.abs().max() <= tolerance:
            break
        direction, factors = gradient, []
        for step, change, curvature in reversed(pairs):
            factors.append((step * direction).sum() / curvature)
            direction = direction - factors[-1] * change
        direction = direction * inverse_curvature
        for step, change, curvature in pairs:
            direction = direction + (factors.pop() - (change * direction).sum() / curvature) * step
        slope, size = (direction * gradient).sum(), 1.0
        while True:
            moved = point - size * direction
            new_value, new_gradient = loss(moved)
            if new_value <= value - 1e-4 * size * slope:
                break
            size /= 2
            if size < 1e-10:  # rounding hides any further descent
                return point
        step, change = moved - point, new_gradient - gradient
        if (curvature := (step * change).sum()) > 0:
            pairs = [*pairs[1 - memory :], (step, change, curvature)]
        point, value, gradient = moved, new_value, new_gradient
    return point
