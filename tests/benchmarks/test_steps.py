"""The published programs of `benchmarks/published` train what our pipelines train."""

import pytest
import torch

from benchmarks.steps import PAPERS, build_ours, build_published, build_steps, compare, configure, format_row

pytestmark = pytest.mark.slow

pytest.importorskip("tstk_plugins_vqvae")
BUILT = [name for name in PAPERS if name != "cwtmae"]


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", PAPERS)
def test_a_published_model_has_the_published_number_of_parameters(name):
    with torch.device("meta"):
        model, _ = build_published(PAPERS[name])
    assert count(model) == PAPERS[name].num_parameters


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILT)
def test_ours_is_as_large_as_the_published_model(name):
    ours, _ = build_ours(PAPERS[name])
    assert count(ours) == pytest.approx(PAPERS[name].num_parameters, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timemae", "timae", "cwtmae-tiny"])
def test_both_train_on_the_same_series_to_a_lower_loss(name):
    with configure(1):
        for step in build_steps(PAPERS[name]._replace(shape=(8, *PAPERS[name].shape[1:]))).values():
            losses = [step() for _ in range(24)]
            assert all(loss == loss for loss in losses)
            assert sum(losses[-4:]) < sum(losses[:4])


def test_with_the_same_weights_the_published_vqvae_and_ours_have_the_same_loss():
    paper = PAPERS["vqvae"]._replace(shape=(3, 1, 96))
    (published, published_step), (ours, our_step) = build_published(paper), build_ours(paper)
    codes = [name for name, _ in ours.named_parameters() if name.endswith("codes")]
    encoder_first = [p for n, p in published.named_parameters() if n != "codebook.weight"]
    rest = [p for n, p in ours.named_parameters() if n not in codes]
    with torch.no_grad():
        ours.get_parameter(codes[0]).copy_(published.codebook.weight)
        for name, parameter in map_vqvae(published).items():
            ours.get_parameter(f"tokenizer.{name}").copy_(parameter)
    assert len(rest) == len(encoder_first)
    x = torch.randn(paper.shape)
    for _ in range(3):  # the gradients agree too, or the second losses would not
        assert our_step(x) == pytest.approx(published_step(x), rel=1e-4)


def map_vqvae(model):
    """Return the parameters of the published VQ-VAE by the names of ours."""
    names = {"encoder.down.0": "down1", "encoder.down.1": "down2", "encoder.conv": "conv", "encoder.out": "pre_vq"}
    names |= {"decoder.conv": "decoder_conv", "decoder.up.0": "up1", "decoder.up.1": "up2"}
    for part in ("encoder", "decoder"):
        for i in range(2):
            names |= {f"{part}.residual.wide.{i}": f"{part}_stack.{i}.block.1"}
            names |= {f"{part}.residual.narrow.{i}": f"{part}_stack.{i}.block.3"}
    parameters = dict(model.named_parameters())
    return {
        f"{ours}.{kind}": parameters[f"{published}.{kind}"]
        for ours, published in names.items()
        for kind in ("weight", "bias")
        if f"{published}.{kind}" in parameters
    }


@pytest.mark.slow
def test_a_comparison_is_a_row_of_the_table():
    before = torch.get_num_threads()
    row = compare("timae", threads=1, rounds=3, precision="fp32", clock="cpu")
    assert torch.get_num_threads() == before
    assert row["interval"][0] <= row["ratio"] <= row["interval"][1]
    assert format_row(row).startswith("| timae | fp32 | 1 | ")
