"""The memory of training is estimated before it begins, and refused where it cannot fit."""

import json
import random
import resource
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tstk.cli import cli
from tstk.config.resolve import parse_overrides, resolve_config
from tstk.core.rng import SampleRNG
from tstk.core.types import Series
from tstk.errors import OptionError
from tstk.testing import mixes
from tstk.training import memory
from tstk.training.config import TrainConfig
from tstk.training.devices import _find_glibc, keep_freed_memory
from tstk.training.memory import (
    MemoryEstimate,
    check_fit,
    check_memory,
    count_state_bytes,
    estimate_memory,
    measure_saved_bytes,
)
from tstk.training.runs import prepare_training
from tstk.training.small_data import resolve_defaults


@pytest.fixture
def prepare(npz):
    """Return pipeline, data and options of a training."""

    def build_from(**overrides):
        overrides = {"data": npz, "encoder.depth": "2", "device": "cpu"} | overrides
        if not {"loss", "head"} & overrides.keys():
            overrides["head"] = "linear"
        config = resolve_config(("flag", parse_overrides(overrides)))
        pipeline, data = prepare_training(config)
        return pipeline, data, resolve_defaults(TrainConfig.from_config(config), pipeline, data)[0]

    return build_from


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


def test_measuring_stops_at_its_limit(build, labelled_spec, ragged):
    pipeline = build(labelled_spec, head="linear")
    with pytest.raises(MemoryError), measure_saved_bytes(pipeline, 10_000) as saved:
        pipeline(ragged(4), SampleRNG(0, 0, torch.arange(4)))
    assert 10_000 < saved[0] < 100_000


def test_an_estimate_scales_two_series_to_the_batch(prepare):
    pipeline, data, config = prepare(tokenizer="patch", encoder="transformer")
    estimate = estimate_memory(pipeline, data, config)
    series = data.train.batch(torch.arange(estimate.batch_size))
    with measure_saved_bytes(pipeline.train()) as saved:
        pipeline(series, SampleRNG(0, 0, series.sample_id))
    assert estimate.activation_bytes == pytest.approx(memory.BACKWARD_FACTOR * saved[0], rel=0.1)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_an_estimate_follows_precision_and_checkpointing(prepare, precision):
    plain, less, checkpointed = (
        estimate_memory(*prepare(tokenizer="patch", encoder="transformer", **options)).bytes_per_series
        for options in ({}, {"precision": precision}, {"gradient_checkpointing": "true"})
    )
    assert 0.4 * plain < less < 0.9 * plain
    assert checkpointed < 0.7 * plain


@pytest.mark.parametrize("options", [{"tokenizer": "inception"}, {"tokenizer": "vqvae"}, {"loss": "masked"}])
def test_an_estimate_changes_no_weight_no_buffer_and_no_random_number(prepare, options):
    pipeline, data, config = prepare(**options)
    before = {k: v.clone() for k, v in pipeline.state_dict().items()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    mode = pipeline.training
    estimate_memory(pipeline, data, config)
    assert all(torch.equal(v, before[k]) for k, v in pipeline.state_dict().items())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()
    assert pipeline.training == mode
    assert all(p.grad is None for p in pipeline.parameters())


def test_a_batch_that_cannot_fit_is_refused_with_the_size_that_fits(prepare):
    pipeline, data, config = prepare(encoder="transformer")
    check_fit(MemoryEstimate(2**20, 0, 2**20, 8, 32, 2**30), pipeline, data, config)
    check_fit(MemoryEstimate(2**20, 0, 2**20, 8, 32, None), pipeline, data, config)
    with pytest.raises(OptionError, match=r"activations of 8 series of 32 samples 8.9 MB\), and 6.0 MB are available; "
                       r"--batch-size 4 fits \(--grad-accum-steps 2 .*--resize.*--gradient-checkpointing"):  # fmt: skip
        check_fit(MemoryEstimate(2**20, 2**20 // 2, 2**20, 8, 32, 6 * 10**6), pipeline, data, config)
    with pytest.raises(OptionError, match=r"activations of one series of 32 samples take more than the 1.0 MB of mem"):
        check_fit(MemoryEstimate(2**18, 0, None, 8, 32, 10**6), pipeline, data, config)


def test_gpus_share_a_batch_and_each_has_its_own_memory(prepare, monkeypatch):
    pipeline, data, config = prepare(batch_size="16", grad_accum_steps="3")
    monkeypatch.setattr(memory, "_uses_cpu", lambda device: False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert memory.get_batch_size(config, data.train) == 8
    with pytest.raises(OptionError, match=r"--batch-size 10 fits \(--grad-accum-steps 5 keeps"):
        check_fit(MemoryEstimate(0, 0, 10, 8, 32, 59), pipeline, data, config)


def test_tables_and_encoders_without_blocks_are_not_advised_what_they_do_not_have(csv, prepare):
    pipeline, data, config = prepare(data=csv, context="24", horizon="8", tokenizer="patch", head="forecast")
    with pytest.raises(OptionError) as error:
        check_fit(MemoryEstimate(0, 0, 2**20, 8, 24, 3 * 2**20), pipeline, data, config)
    assert "--resize" not in str(error.value)


def test_the_batch_size_that_a_refusal_names_is_accepted(prepare, monkeypatch):
    pipeline, data, config = prepare(tokenizer="patch", encoder="transformer", batch_size="16")
    estimate = estimate_memory(pipeline, data, config)
    limit = estimate.state_bytes + estimate.activation_bytes * 2 // 3
    monkeypatch.setenv("TSTK_MEMORY", str(limit))
    with pytest.raises(OptionError, match=r"--batch-size 10 fits"):
        check_memory(pipeline, data, config)
    check_memory(*prepare(tokenizer="patch", encoder="transformer", batch_size="10"))
    with pytest.raises(OptionError, match="--batch-size 10 fits"):
        check_memory(*prepare(tokenizer="patch", encoder="transformer", batch_size="11"))


def test_small_batches_are_not_measured(prepare, monkeypatch):
    monkeypatch.setattr(memory, "estimate_memory", lambda *args: pytest.fail("measured"))
    monkeypatch.setenv("TSTK_MEMORY", "1G")
    check_memory(*prepare())
    monkeypatch.setattr(memory, "MAX_BYTES_PER_PAIR", 2**20)  # attention of long series
    with pytest.raises(pytest.fail.Exception, match="measured"):
        check_memory(*prepare())
    monkeypatch.setenv("TSTK_MEMORY", "2M")
    with pytest.raises(OptionError, match=r"for weights, gradients and optimizer, and 2.1 MB are available"):
        check_memory(*prepare())


@pytest.mark.parametrize("mode", ["train", "--dry-run", "--find-lr"])
def test_training_refuses_what_cannot_fit_before_its_first_step(npz, tmp_path, monkeypatch, mode):
    words = ["train", "--data", npz, "--encoder.depth", "1", "--head", "linear", "--device", "cpu"]
    report = json.loads(CliRunner().invoke(cli, [*words, "--dry-run", "--json"]).stdout)
    assert report["batch_size"] == 16
    assert report["total_steps"] == 1500
    monkeypatch.setenv("TSTK_MEMORY", str(report["state_bytes"] + report["activation_bytes"] - 1))
    words += ["--out", str(tmp_path / "run")] if mode == "train" else [mode]
    refused = CliRunner().invoke(cli, words)
    assert refused.exit_code == 2
    assert "--batch-size 15 fits" in refused.stderr
    assert not (tmp_path / "run").exists()


def test_a_dry_run_prints_memory_and_time(npz):
    words = ["train", "--data", npz, "--encoder.depth", "1", "--head", "linear", "--device", "cpu", "--dry-run"]
    text = CliRunner().invoke(cli, words).stdout
    assert "Estimated memory: " in text
    assert "Estimated time: " in text


class OneBatch:
    """A split that consists of the series of one batch."""

    def __init__(self, series):
        self.series, self.lengths = series, torch.full((len(series.x),), series.x.shape[-1])

    def batch(self, index):
        return Series(
            *(None if t is None else t[index] for t in (self.series.x, self.series.observed, self.series.y)),
            index,
            {k: (states[index], valid[index]) for k, (states, valid) in self.series.conditioning.items()},
        )

    def __len__(self):
        return len(self.lengths)


NEED_MORE = {"tstk-plugins-vqshape/consistent", "tstk-plugins-vqshape/distill"}
"""Losses that need texts or a teacher, which these mixes lack."""


@pytest.mark.slow
def test_every_component_can_be_measured_and_is_left_as_it_was(monkeypatch):
    measured = []

    def measure(pipeline, series, steps):
        before = {k: v.clone() for k, v in pipeline.state_dict().items()}
        random_state = torch.get_rng_state()
        config = TrainConfig(device="cpu", batch_size=4)
        estimate = estimate_memory(pipeline, SimpleNamespace(train=OneBatch(series)), config)
        assert all(torch.equal(v, before[k]) for k, v in pipeline.state_dict().items())
        assert torch.equal(torch.get_rng_state(), random_state)
        if any(p.requires_grad for p in pipeline.parameters()):
            assert estimate.activation_bytes > 0
        measured.append(pipeline)
        return ""

    monkeypatch.setattr(mixes, "_train_mix", measure)
    remaining = {e.qualified_name for parts in mixes.list_mixes() for e in parts.values()} - NEED_MORE
    for parts in mixes.list_mixes():
        if remaining & (names := {entry.qualified_name for entry in parts.values()}):
            mix = mixes.try_mix(parts)
            assert mix.state != "failed", f"{mix}: {mix.reason}"
            remaining -= names if mix.state == "trained" else set()
    assert not remaining
    assert len(measured) > 10


def count_page_faults():
    """Return how many pages the process gets while some tensors, 128 MiB together, are made and freed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(1 << 22) for _ in range(8)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(_find_glibc() is None, reason="the C library is not glibc")
def test_memory_that_a_step_frees_is_kept_for_the_next_and_returned_after_training():
    first = count_page_faults()
    with keep_freed_memory():
        count_page_faults()
        assert count_page_faults() < first / 10
    assert count_page_faults() > first / 2
