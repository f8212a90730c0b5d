"""The memory of training is estimated before it begins, and refused where it cannot fit."""

import json

import pytest
import torch

from tstk.core.rng import SampleRNG
from tstk.errors import OptionError
from tstk.nn import devices
from tstk.training.memory import check_memory, count_state_bytes, measure_saved_bytes


def test_weights_gradients_moments_and_average_are_counted(build, labelled_spec):
    pipeline = build(labelled_spec, head="linear")
    buffers = sum(b.nbytes for b in pipeline.buffers())
    weights = sum(p.nbytes for p in pipeline.parameters())
    assert count_state_bytes(pipeline, use_ema=False) == buffers + 4 * weights
    assert count_state_bytes(pipeline, use_ema=True) == buffers + 5 * weights
    pipeline.encoder.requires_grad_(False)
    frozen = sum(p.nbytes for p in pipeline.encoder.parameters())
    assert count_state_bytes(pipeline, use_ema=True) == buffers + 5 * weights - 4 * frozen


def test_activations_grow_with_the_batch_and_each_is_counted_once(build, labelled_spec, ragged):
    pipeline = build(labelled_spec, head="linear")
    counts = []
    for batch in (4, 8):
        with measure_saved_bytes(pipeline) as saved:
            pipeline(ragged(batch), SampleRNG(0, 0, torch.arange(batch))).loss.backward()
        counts.append(saved[0])
    assert 1.5 < counts[1] / counts[0] < 2.1


def test_training_that_cannot_fit_is_refused_with_what_to_reduce():
    check_memory(2**30, 2**20, 2**20, 8)
    with pytest.raises(OptionError, match=r"about 3 GiB of memory .* activations of 8 series 2 GiB.* --batch-size"):
        check_memory(2**30, 2**30, 2**31, 8)
    with pytest.raises(OptionError, match=r"and there are 1 GiB; choose smaller sizes"):
        check_memory(2**30, 2**31)


def test_a_dry_run_prints_memory_and_time_and_refuses_what_cannot_fit(tmp_path, npz, monkeypatch):
    from click.testing import CliRunner

    from tstk.cli import cli

    words = ["train", "--data", npz, "--encoder.depth", "1", "--head", "linear", "--device", "cpu", "--dry-run"]
    text = CliRunner().invoke(cli, words).stdout
    assert "Estimated memory: " in text
    assert "Estimated time: " in text
    report = json.loads(CliRunner().invoke(cli, [*words, "--json"]).stdout)
    assert report["batch_size"] == 16
    assert report["total_steps"] == 1500
    limit = report["state_bytes"] + report["activation_bytes"]
    monkeypatch.setattr(devices, "CGROUP_LIMIT", tmp_path / "memory.max")
    devices.CGROUP_LIMIT.write_text(f"{limit - 1}\n")
    refused = CliRunner().invoke(cli, words)
    assert refused.exit_code == 2
    assert "reduce --batch-size" in refused.stderr
