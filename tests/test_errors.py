"""Warnings name the line of the user, whichever libraries are between it and tstk."""

import warnings

import torch
from sklearn.preprocessing import FunctionTransformer

from tstk import errors


def make_function(body):
    """Return a function whose code seems to be of a module of tstk."""
    namespace = {"__name__": "tstk.made_up", "warn_user": errors.warn_user, "torch": torch}
    exec(body, namespace)
    return namespace["f"]


def test_a_warning_names_the_line_of_the_user_through_decorators_of_torch_and_estimators_of_sklearn():
    body = "def f(x=None):\n    warn_user('a note', UserWarning)\n    return x\n"
    direct = make_function(body)
    decorated = make_function("@torch.no_grad()\n" + body)
    transformer = FunctionTransformer(direct)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for call in (direct, decorated, lambda: transformer.transform([[1.0]])):
            call()
    assert [w.filename for w in caught] == [__file__] * 3
