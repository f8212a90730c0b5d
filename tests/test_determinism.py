"""The same seed gives the same weights, whatever the timing of threads."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tstk
from tstk.config.resolve import resolve_config
from tstk.errors import OptionError, TrainingError
from tstk.kernels.threads import _load_openmp
from tstk.plugins.hooks import Entry
from tstk.plugins.registry import get_registry
from tstk.training import runs
from tstk.training.callbacks import Callback
from tstk.training.devices import use_deterministic_algorithms
from tstk.training.interrupt import TrainingInterrupted
from tstk.training.runs import resume_run

SUPPORT = Path(__file__).parent / "support"
sys.path.insert(0, str(SUPPORT))

from fingerprints import components, label, train, variants  # noqa: E402

each_component = pytest.mark.parametrize("entry", components(), ids=label)


def with_two_threads(script, processes=1):
    """Run a script in several processes at once and return what each printed."""
    root = str(Path(tstk.__file__).parent.parent)
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    # threads that wait without spinning: half the time where other processes want the processor too
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
    words = [sys.executable, SUPPORT / script]
    children = [subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    printed = [child.communicate()[0] for child in children]
    assert not any(child.returncode for child in children)
    return printed


@pytest.fixture(scope="module")
def fingerprints():
    """Return the fingerprints of all variants of each component, from two processes."""
    return [json.loads(text) for text in with_two_threads("fingerprints.py", processes=2)]


@pytest.mark.slow
@each_component
def test_two_processes_with_two_threads_train_the_same_weights(fingerprints, entry):
    one, two = (found[label(entry)] for found in fingerprints)
    assert one == two


class Addition(TorchDispatchMode):
    """Refuse operations that add into a tensor in the order of threads."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.overloadpacket.__name__ in ("index_put", "index_put_", "_index_put_impl_", "put_"):
            indices = args[1] if isinstance(args[1], (list, tuple)) else [args[1]]
            accumulates = args[3] if len(args) > 3 else kwargs.get("accumulate", False)
            unique = any(index is not None and index.dtype == torch.bool for index in indices)
            assert unique or not accumulates, f"{func} adds with atomics; use torch.nn.functional.embedding"
        return func(*args, **kwargs)


@pytest.mark.slow
@each_component
def test_every_component_runs_forward_and_backward_in_the_mode_that_refuses(entry):
    torch.use_deterministic_algorithms(True)
    try:
        with Addition():
            for variant in variants(entry):
                train(variant, numbers=1, steps=1)
    finally:
        torch.use_deterministic_algorithms(False)


# ------------------------------------------------------------------ --deterministic


def settings():
    """Return the settings that the option changes."""
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )


class Watch(Callback):
    """Notes the settings at each epoch; stops training after one if asked to."""

    def __init__(self, stop=False):
        self.seen, self.stop = [], stop

    def on_validation_end(self, *_):
        self.seen.append(settings())
        if self.stop:
            signal.raise_signal(signal.SIGINT)


def config(data, head="linear", **options):
    encoder = {"use": "transformer", "dim": 16, "depth": 1, "heads": 2}
    train = {"epochs": 2, "batch_size": 8, "device": "cpu", **options}
    return resolve_config(("test", {"encoder": encoder, "head": head, "data": data, "train": train}))


@pytest.mark.slow
def test_the_option_holds_for_the_run_and_its_resumption_and_is_gone_afterwards(npz, tmp_path):
    before, run = settings(), tmp_path / "run"
    watch = Watch(stop=True)
    with pytest.raises(TrainingInterrupted):
        runs.train(config(npz, deterministic=True), run, callbacks=[watch])
    assert settings() == before
    again = Watch()
    resume_run(run, callbacks=[again])
    assert settings() == before
    assert watch.seen == again.seen == [(True, False, False, ":4096:8")]
    plain = Watch()
    runs.train(config(npz), tmp_path / "plain", callbacks=[plain])
    assert plain.seen == [before] * 2


@pytest.mark.slow
@pytest.mark.parametrize(("back", "where"), [(False, "in head 'nondeterministic'"), (True, "in the backward pass")])
def test_an_operation_without_a_deterministic_form_is_refused_in_a_line_that_names_it(
    npz, tmp_path, monkeypatch, back, where
):
    entry = Entry("head", "nondeterministic", "nondeterministic:NondeterministicHead", "Varies", dist="made-up")
    monkeypatch.setitem(get_registry()._table, ("head", "nondeterministic"), [entry])
    before, head = settings(), {"use": "nondeterministic", "back": back}
    runs.train(config(npz, head), tmp_path / "plain")
    with pytest.raises(TrainingError) as caught:
        runs.train(config(npz, head, deterministic=True), tmp_path / "run")
    assert "no deterministic implementation of put_" in str(caught.value)
    assert where in str(caught.value)
    assert "\n" not in str(caught.value)
    assert settings() == before


def test_a_workspace_of_cublas_that_changes_results_is_refused(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with pytest.raises(OptionError, match="CUBLAS_WORKSPACE_CONFIG is ':0:0'"), use_deterministic_algorithms(True):
        pass
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with use_deterministic_algorithms(True):
        assert settings() == (True, False, False, ":16:8")
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


@pytest.mark.slow
def test_another_number_of_threads_is_noted_when_a_run_is_resumed(npz, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(TrainingInterrupted):
        runs.train(config(npz), run, callbacks=[Watch(stop=True)])
    path = run / "config.json"
    given = json.loads(path.read_text())
    threads = torch.get_num_threads()
    assert given["hardware"]["threads"] == str(threads)
    notes = []
    torch.set_num_threads(threads + 1)
    try:
        resume_run(run, print_fn=notes.append)
    finally:
        torch.set_num_threads(threads)
    (line,) = [line for line in notes if "threads" in line]
    assert f"threads was {threads} and is {threads + 1}" in line
    assert f"OMP_NUM_THREADS={threads} restores the number of threads" in line


@pytest.mark.slow
def test_threads_treat_denormals_alike_whenever_they_were_started():
    during, before = with_two_threads("denormals.py")[0].split()
    assert during == before
    if _load_openmp() is not None:
        assert before == "0,0"  # both threads flush them
