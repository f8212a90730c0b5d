"""The self-tests of the Triton backends, on a GPU if there is one and in Triton's interpreter if not."""

import importlib
import os
import sys

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton")

from tstk.kernels import dispatch, nearest_code, self_test
from tstk.kernels.dispatch import OPERATIONS

OPERATIONS_ON_GPUS = sorted(name for name, operation in OPERATIONS.items() if "triton" in operation.backends)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS_ON_GPUS)
def test_every_triton_backend_has_a_self_test_and_passes_it(operation):
    target = OPERATIONS[operation].backends["triton"].self_test
    assert target == f"tstk.kernels.self_test:check_{operation}"
    assert getattr(self_test, f"check_{operation}")(DEVICE) == ""


class Recorded:
    """A kernel that notes its name in `launched`."""

    def __init__(self, kernel, name, launched):
        self.kernel, self.name, self.launched = kernel, name, launched

    def __getitem__(self, grid):
        self.launched.add(self.name)
        return self.kernel[grid]


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS_ON_GPUS)
def test_a_self_test_launches_every_kernel_of_its_operation(monkeypatch, operation):
    module = importlib.import_module(f"tstk.kernels.{operation}.triton")
    launched = set()
    kernels = {name for name in vars(module) if name.endswith("_kernel")}
    for name in kernels:
        monkeypatch.setattr(module, name, Recorded(vars(module)[name], name, launched))
    getattr(self_test, f"check_{operation}")(DEVICE)
    assert launched == kernels


@pytest.mark.parametrize("operation", ["rope_attention", "vector_quantize", "ricker_cwt"])
@pytest.mark.parametrize("wrong", ["values", "gradients"])
def test_wrong_values_and_wrong_gradients_are_found(monkeypatch, operation, wrong):
    backend = OPERATIONS[operation].backends["torch"]
    call = backend.function

    def change(out):
        return out * 1.01 if wrong == "values" else out.detach() + (out - out.detach()) * 1.1

    def changed(*args, **options):
        out = call(*args, **options)
        return tuple(map(change, out)) if isinstance(out, tuple) else change(out)

    monkeypatch.setattr(self_test, "_changed", changed, raising=False)
    monkeypatch.setitem(
        OPERATIONS[operation].backends, "triton", dispatch.Backend("triton", "tstk.kernels.self_test:_changed")
    )
    assert "is off by" in getattr(self_test, f"check_{operation}")(DEVICE)


def test_a_search_that_prefers_the_last_of_equal_codes_is_found(monkeypatch):
    def search(z, codes):
        ids, squares = nearest_code(z, codes.flip(0), backend="torch")
        return len(codes) - 1 - ids, squares

    monkeypatch.setattr(self_test, "_changed", search, raising=False)
    package = sys.modules["tstk.kernels.nearest_code"]  # the attribute of tstk.kernels is the function
    monkeypatch.setattr(package, "is_triton_interpreted", lambda: False)
    monkeypatch.setitem(
        OPERATIONS["nearest_code"].backends, "triton", dispatch.Backend("triton", "tstk.kernels.self_test:_changed")
    )
    assert "indices are wrong at width 8" in self_test.check_nearest_code(DEVICE)
