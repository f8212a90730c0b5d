"""The same seed gives the same weights, whatever the order in which threads come to an end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tstk

MADE_UP = Path(__file__).parent / "made_up"
sys.path.insert(0, str(MADE_UP))

from fingerprints import components, label, train, variants  # noqa: E402

each_component = pytest.mark.parametrize("entry", components(), ids=label)


def with_two_threads(script, *words):
    """What a script prints in a process of its own."""
    root = str(Path(tstk.__file__).parent.parent)
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    # threads that wait without spinning: half the time where other processes want the processor too
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run([sys.executable, MADE_UP / script, *words], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def fingerprints():
    """Of the weights of all variants of each component, from each of two processes."""
    return [json.loads(with_two_threads("fingerprints.py")) for _ in range(2)]


@each_component
def test_two_processes_with_two_threads_train_the_same_weights(fingerprints, entry):
    one, two = (found[label(entry)] for found in fingerprints)
    assert one == two


class Addition(TorchDispatchMode):
    """Refuses what adds into a tensor in the order in which threads come along."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.overloadpacket.__name__ in ("index_put", "index_put_", "_index_put_impl_", "put_"):
            bound = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)} | kwargs
            indices = bound.get("indices") or [bound.get("index")]
            unique = any(index is not None and index.dtype == torch.bool for index in indices)
            assert unique or not bound.get("accumulate"), f"{func} adds with atomics; use torch.nn.functional.embedding"
        return func(*args, **kwargs)


@each_component
def test_every_component_runs_forward_and_backward_in_the_mode_that_refuses(entry):
    torch.use_deterministic_algorithms(True)
    try:
        with Addition():
            for variant in variants(entry):
                train(variant, numbers=1, steps=1)
    finally:
        torch.use_deterministic_algorithms(False)
