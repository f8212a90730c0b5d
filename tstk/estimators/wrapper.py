"""What the estimators for aeon and sktime share: each wraps one of `tstk.sklearn`, which has the options."""

from __future__ import annotations

from typing import Any, ClassVar

from sklearn.base import clone

CAPABILITY_TAGS = {
    "capability:multivariate": True,
    "capability:unequal_length": True,
    "capability:missing_values": True,
    "python_dependencies": "torch",
}
"""Tags that both libraries know, of estimators of sets of series."""

TEST_PARAMS: dict[str, Any] = {
    "tokenizer__dim": 8,
    "encoder__dim": 8,
    "encoder__depth": 1,
    "encoder__heads": 2,
    "steps": 2,
    "threads": 1,
    "device": "cpu",
}
"""Parameters of a small estimator for the checks of both libraries."""


class Wrapper:
    """Mixin in front of a base class of aeon or sktime, whose methods it implements with a wrapped estimator.

    Args:
        estimator: unfitted estimator to wrap; one of `wrapped_class` with defaults if None
    """

    wrapped_class: ClassVar[Any]

    def __init__(self, estimator: Any = None) -> None:
        self.estimator = estimator
        super().__init__()

    def _fit(self, X: Any, y: Any = None) -> Any:
        self.estimator_ = clone(self.estimator or self.wrapped_class()).fit(X, y)
        return self

    def _predict(self, X: Any) -> Any:
        return self.estimator_.predict(X)

    def _predict_proba(self, X: Any) -> Any:
        return self.estimator_.predict_proba(X)

    def _transform(self, X: Any, y: Any = None) -> Any:
        return self.estimator_.transform(X)
