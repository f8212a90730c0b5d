"""The head that brings its outputs back to samples, and the cross-entropy of a class per sample."""

import numpy as np
import pytest
import torch

import tstk
from tstk.builtin.heads.per_token import PerToken, find_nearest
from tstk.core.types import Series, Spec, Tokens
from tstk.errors import IncompatibleError

SPEC = Spec(2, 40, "segmentation", 3)


def make_head(stride, patch_len, dim=4, length=20):
    torch.manual_seed(0)
    spec = Spec(1, length, "segmentation", 3, dim=dim, grid_size=(8,), stride=stride, patch_len=patch_len)
    return PerToken(spec)


def make_tokens(positions, valid, dim=4):
    index = torch.arange(len(positions))[None]
    values = torch.randn(1, len(positions), dim, generator=torch.Generator().manual_seed(1))
    return Tokens(values, torch.tensor(positions)[None, :, None].float(), index, torch.tensor([valid]))


@pytest.mark.parametrize(("stride", "patch_len"), [(4.0, 4.0), (2.0, 5.0), (2.5, 3.2)])
def test_logits_of_samples_are_means_over_the_valid_tokens_that_cover_them(stride, patch_len):
    head, valid = make_head(stride, patch_len), [True, True, False, True, True]
    tokens = make_tokens([0, 1, 2, 3, 4], valid)
    output = head(tokens)[0].detach().numpy()
    per_token = head.classify(tokens.values)[0].detach().numpy().reshape(5, -1, 3)
    sums, counts = np.zeros((20, 3)), np.zeros(20)
    for n, is_valid in enumerate(valid):
        for offset, logits in enumerate(per_token[n]):
            place = round(n * stride) + offset
            if is_valid and place < 20:
                sums[place] += logits
                counts[place] += 1
    where = np.flatnonzero(counts)
    for t in range(20):
        nearest = where[np.abs(where - t).argmin()]
        assert output[:, t] == pytest.approx(sums[nearest] / counts[nearest], abs=1e-5)


def test_nearest_covered_sample():
    covered = torch.tensor([[0, 0, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]]).bool()
    assert find_nearest(covered)[0].tolist() == [2, 2, 2, 2, 5, 5, 5]
    assert find_nearest(covered)[2].tolist() == list(range(7))
    assert ((find_nearest(covered) >= 0) & (find_nearest(covered) < 7)).all()


@pytest.mark.parametrize("channels", ["mixed", "independent"])
def test_a_pipeline_returns_a_class_for_every_sample_of_an_array(channels):
    pipeline = tstk.build(spec=SPEC, task="segmentation", channels=channels, seed=0)
    prediction = pipeline.predict(np.random.default_rng(0).normal(size=(3, 2, 33)))
    assert prediction.labels.shape == (3, 33)
    assert prediction.probabilities.shape == (3, 3, 33)
    assert prediction.probabilities.sum(1) == pytest.approx(1.0)


def test_the_loss_leaves_out_padding_and_unknown_samples():
    pipeline = tstk.build(spec=SPEC, task="segmentation", tokenizer="patch", seed=0).eval()
    y = torch.arange(30)[None] % 3
    x = torch.randn(1, 2, 30, generator=torch.Generator().manual_seed(0))
    output = pipeline(Series(x, y=y))
    logits = output.head_output[..., :30]
    assert float(output.loss.detach()) == pytest.approx(float(torch.nn.functional.cross_entropy(logits, y).detach()))
    y[:, 10:] = -1
    expected = torch.nn.functional.cross_entropy(logits[..., :10], y[:, :10])
    assert float(pipeline(Series(x, y=y)).loss.detach()) == pytest.approx(float(expected.detach()))


def test_parts_for_other_targets_name_the_ones_for_a_class_per_sample():
    with pytest.raises(IncompatibleError, match="--head per-token"):
        tstk.build(spec=SPEC, task="segmentation", head="linear")
    with pytest.raises(IncompatibleError, match="--loss cross-entropy"):
        tstk.build(spec=SPEC, task="segmentation", loss="mse", head="per-token")
    with pytest.raises(IncompatibleError, match="stride"):
        tstk.build(spec=SPEC, task="segmentation", tokenizer="resampled")
