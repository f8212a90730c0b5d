"""Selection of a backend, and the error if there is none."""

import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from tstk.errors import IncompatibleError, UnknownNameError
from tstk.kernels import dispatch
from tstk.kernels.dispatch import Backend, Operation, is_triton_interpreted, use_backend, why_triton_unavailable


@pytest.fixture
def doubled(monkeypatch):
    """An operation whose backends return their names; `large` supports three numbers or more, `gone` none."""
    monkeypatch.setattr(dispatch, "OPERATIONS", {})
    monkeypatch.setattr(dispatch, "_requested", "auto")
    for name in ("gone", "large", "any"):
        monkeypatch.setattr(sys.modules[__name__], name, lambda x, name=name: (name, 2 * x), raising=False)
    here = __name__
    return Operation(
        "doubled",
        Backend("gone", "no_such_module:gone", lambda x: "it is gone", lambda: "it is gone"),
        Backend("large", f"{here}:large", lambda x: "" if len(x) > 2 else f"it takes 3 or more, not {len(x)}"),
        Backend("any", f"{here}:any"),
    )


def test_auto_takes_the_first_backend_that_can(doubled):
    assert doubled(torch.ones(2))[0] == "any"
    assert doubled(torch.ones(3))[0] == "large"


def test_a_backend_requested_by_name_runs_or_raises_the_reason(doubled):
    assert doubled(torch.ones(3), backend="any")[0] == "any"
    with pytest.raises(
        IncompatibleError, match="doubled: backend 'large' does not support this call: it takes 3 or more, not 2"
    ):
        doubled(torch.ones(2), backend="large")


def test_an_unknown_name_is_an_error_with_a_suggestion(doubled):
    with pytest.raises(UnknownNameError, match=r"no backend 'lrage'; it has gone, large, any\. Did you mean 'large'\?"):
        doubled(torch.ones(2), backend="lrage")


def test_when_no_backend_can_every_reason_is_given(monkeypatch):
    monkeypatch.setattr(dispatch, "OPERATIONS", {})
    operation = Operation("hard", Backend("a", "x:y", lambda: "too hot"), Backend("b", "x:y", lambda: "too cold"))
    with pytest.raises(IncompatibleError, match="hard: no backend supports this call: a: too hot; b: too cold"):
        operation()


def test_using_holds_within_its_block_and_a_name_in_the_call_goes_before_it(doubled):
    with use_backend("any"):
        assert doubled(torch.ones(3))[0] == "any"
        assert doubled(torch.ones(3), backend="large")[0] == "large"
        with use_backend("auto"):
            assert doubled(torch.ones(3))[0] == "large"
        with pytest.raises(RuntimeError), use_backend("large"):
            raise RuntimeError
        assert doubled(torch.ones(3))[0] == "any"
    assert doubled(torch.ones(3))[0] == "large"


@pytest.mark.slow
def test_a_compiled_call_notices_using(doubled):
    compiled = torch.compile(lambda x: doubled(x)[1] + len(doubled(x)[0]), fullgraph=True, backend="eager")
    assert compiled(torch.ones(3)).tolist() == [7.0] * 3
    with use_backend("any"):
        assert compiled(torch.ones(3)).tolist() == [5.0] * 3
    assert compiled(torch.ones(2)).tolist() == [5.0] * 2


def test_triton_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(dispatch, "_HAS_TRITON", False)
    assert why_triton_unavailable() == "triton is not installed"
    monkeypatch.setattr(dispatch, "_HAS_TRITON", True)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "on cpu" in why_triton_unavailable(torch.device("cpu"))
    assert why_triton_unavailable(torch.device("cuda")) == ""
    assert why_triton_unavailable() == ("" if torch.cuda.is_available() else "there is no CUDA device")


def test_the_interpreter_must_be_asked_for_by_name(monkeypatch):
    monkeypatch.setattr(dispatch, "OPERATIONS", {})
    monkeypatch.setattr(dispatch, "_HAS_TRITON", True)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    operation = Operation(
        "x", Backend("triton", "x:y", lambda t: why_triton_unavailable(t.device)), Backend("torch", "x:y")
    )
    assert is_triton_interpreted()
    assert operation.select("auto", torch.ones(1)).name == "torch"
    assert operation.select("triton", torch.ones(1)).name == "triton"


def fails_its_test(device):
    return "3 of 4 indices are wrong"


def breaks_down(device):
    raise RuntimeError("no kernel image is available")


def passes(device):
    return ""


@pytest.mark.parametrize(
    ("self_test", "fault"),
    [("fails_its_test", "3 of 4 indices are wrong"), ("breaks_down", "RuntimeError: no kernel image is available")],
)
def test_a_backend_that_fails_its_self_test_is_passed_over_with_one_warning(doubled, monkeypatch, self_test, fault):
    monkeypatch.setattr(dispatch, "_self_test_faults", {})
    doubled.backends["large"] = replace(doubled.backends["large"], self_test=f"{__name__}:{self_test}")
    with pytest.warns(
        UserWarning, match=f"{self_test}: its self-test failed on cpu: {fault}; the next backend is used"
    ):
        assert doubled(torch.ones(3))[0] == "any"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert doubled(torch.ones(3))[0] == "any"
    assert doubled(torch.ones(3), backend="large")[0] == "large"
    assert doubled.backends["large"].why_self_test_failed(torch.device("cpu")).endswith(fault)


def test_a_backend_that_passes_its_self_test_is_tested_once_per_device(doubled, monkeypatch):
    monkeypatch.setattr(dispatch, "_self_test_faults", {})
    tested = []
    monkeypatch.setattr(sys.modules[__name__], "passes", lambda device: tested.append(device) or "")
    doubled.backends["large"] = replace(doubled.backends["large"], self_test=f"{__name__}:passes")
    with torch.inference_mode():
        assert doubled(torch.ones(3))[0] == "large"
    assert doubled(torch.ones(3))[0] == "large"
    assert tested == [torch.device("cpu")]


@pytest.mark.slow
def test_a_self_test_runs_while_a_compiler_traces(doubled, monkeypatch):
    monkeypatch.setattr(dispatch, "_self_test_faults", {})
    doubled.backends["large"] = replace(doubled.backends["large"], self_test="tests_of_values:run")
    monkeypatch.setitem(
        sys.modules,
        "tests_of_values",
        SimpleNamespace(run=differentiates),
    )
    compiled = torch.compile(lambda x: doubled(x)[1] + len(doubled(x)[0]), fullgraph=True, backend="eager")
    assert compiled(torch.ones(3)).tolist() == [7.0] * 3


def differentiates(device):
    x = torch.ones(2, requires_grad=True)
    return "" if float(torch.autograd.grad((x * x * x).sum(), x)[0].sum()) == 6 else "the gradient is wrong"


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_self_test_in_a_checkpointed_block_leaves_the_block_as_it_is(doubled, monkeypatch, use_reentrant):
    monkeypatch.setattr(dispatch, "_self_test_faults", {})
    doubled.backends["large"] = replace(doubled.backends["large"], self_test=f"{__name__}:differentiates")
    x = torch.ones(3, requires_grad=True)
    y = checkpoint(lambda x: 3 * doubled(x * x)[1], x, use_reentrant=use_reentrant)
    y.sum().backward()
    assert x.grad.tolist() == [12.0] * 3
    assert dispatch._self_test_faults == {(f"{__name__}:differentiates", "cpu", None): ""}


def test_too_little_memory_for_a_self_test_is_no_fault_of_the_backend(doubled, monkeypatch):
    def run(device):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(dispatch, "_self_test_faults", {})
    monkeypatch.setattr(sys.modules[__name__], "passes", run)
    doubled.backends["large"] = replace(doubled.backends["large"], self_test=f"{__name__}:passes")
    with pytest.raises(torch.OutOfMemoryError):
        doubled(torch.ones(3))
    monkeypatch.setattr(sys.modules[__name__], "passes", lambda device: "")
    assert doubled(torch.ones(3))[0] == "large"


def test_a_device_without_autocast_is_tested_too(doubled, monkeypatch):
    monkeypatch.setattr(dispatch, "_self_test_faults", {})
    doubled.backends["large"] = replace(doubled.backends["large"], self_test=f"{__name__}:passes")
    assert doubled(torch.ones(3, device="meta"))[0] == "large"


def test_where_warnings_are_errors_a_failed_test_is_reported_once_and_not_repeated(doubled, monkeypatch):
    monkeypatch.setattr(dispatch, "_self_test_faults", {})
    doubled.backends["large"] = replace(doubled.backends["large"], self_test=f"{__name__}:fails_its_test")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="3 of 4 indices are wrong"):
            doubled(torch.ones(3))
        assert doubled(torch.ones(3))[0] == "any"


def test_a_backend_that_was_not_tested_before_a_graph_is_captured_is_passed_over_with_a_warning(doubled, monkeypatch):
    monkeypatch.setattr(dispatch, "_self_test_faults", {})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    backend = replace(doubled.backends["large"], self_test=f"{__name__}:passes")
    with pytest.warns(UserWarning, match="was not tested on cuda:1 before this CUDA graph was captured.*one call"):
        assert backend.why_self_test_failed(torch.device("cuda", 1)).startswith("it was not tested")
    assert dispatch._self_test_faults == {}


def test_the_interpreter_is_reported_as_used_by_name_only(doubled, monkeypatch):
    monkeypatch.setattr(dispatch, "_HAS_TRITON", True)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "only if requested by name" in replace(doubled.backends["any"], name="triton").why_not_selected()


def fresh(code, **environment):
    """Return what `code` prints as JSON in a new interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_environment_chooses_for_a_whole_process():
    code = """
import json, torch
from tstk.kernels import rope_attention
x, turn = torch.ones(1, 1, 1, 2), 2 * (torch.ones(1, 1, 1, 1),)
try:
    print(json.dumps([rope_attention(x, x, x, turn).tolist()]))
except Exception as e:
    print(json.dumps(str(e)))
"""
    assert fresh(code, TSTK_KERNELS="reference") == [[[[[1.0, 1.0]]]]]
    assert "no backend 'refrence'" in fresh(code, TSTK_KERNELS="refrence")


@pytest.mark.slow
def test_the_kernels_import_nothing_beyond_torch_numpy_and_the_registry():
    code = """
import json, sys
import torch, numpy
before = set(sys.modules)
import tstk.kernels
new = {m.partition(".")[0] for m in set(sys.modules) - before}
print(json.dumps(sorted(new - set(sys.stdlib_module_names))))
"""
    found = {name for name in fresh(code) if not name.startswith("tstk_plugins_")}  # whose light modules list backends
    assert found <= {"tstk", "pluggy", "torch", "numpy"}
