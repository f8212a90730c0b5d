"""Each loss against its definition, and which parameters receive its gradient."""

import math

import numpy as np
import pytest
import torch
from tstk_plugins_vqshape.shapes import ShapeDecoder, diversity_loss, extract_segments, place_curves, smooth_curves

from tstk.config.resolve import resolve_config
from tstk.core.rng import SampleRNG
from tstk.core.types import Series, Spec
from tstk.runs.build import build_pipeline


def batch(count=3, length=64):
    draw = torch.Generator().manual_seed(0)
    return Series(torch.randn(count, 1, length, generator=draw).cumsum(-1), sample_id=torch.arange(count))


def pipeline(**options):
    torch.manual_seed(0)
    sizes = {"dim": 16, "depth": 1, "query_depth": 1, "heads": 2, "tokens": 6, "codes": 5, "points": 32}
    table = {"use": "vqshape", **sizes, "shape_width": 16, "dropout": 0.0, "patch_drop": 0.0, **options}
    decoder = {"use": "vqshape", "dim": 16, "depth": 1, "heads": 2, "dropout": 0.0}
    config = resolve_config(
        ("test", {"tokenizer": table, "encoder": "identity", "loss": "reconstruct", "decoder": decoder})
    )
    model = build_pipeline(config, Spec(1, 64), channels="independent", instance_norm=True)
    model.bind()
    return model


@pytest.mark.slow
def test_each_loss_reaches_the_parameters_that_it_should():
    model = pipeline(form=1.0)
    parts = {
        "codebook": model.tokenizer.codebook.codes,
        "z": model.tokenizer.attribute_decoder.mlps["z"][0].weight,
        "mean": model.tokenizer.attribute_decoder.mlps["mean"][0].weight,
        "scale": model.tokenizer.attribute_decoder.mlps["scale"][0].weight,
        "place": model.tokenizer.attribute_decoder.mlps["place"][0].weight,
        "shape decoder": model.tokenizer.shape_decoder.in_proj.weight,
        "decoder": model.decoder.in_proj.weight,
    }
    losses = model.train()(batch(), SampleRNG(0, 1, torch.arange(3))).losses
    learn = {}
    for name, term in losses.items():
        grads = torch.autograd.grad(term, list(parts.values()), retain_graph=True, allow_unused=True)
        learn[name] = {part for part, g in zip(parts, grads, strict=True) if g is not None and g.any()}
    assert learn == {
        "reconstruction": {"z", "mean", "scale", "place", "decoder"},
        "shape": {"z", "mean", "scale", "shape decoder"},
        "form": {"z", "shape decoder"},
        "diversity": {"place"},
        "commitment": {"z"},
        "codebook": {"codebook"},
        "entropy": {"z", "codebook"},
    }


@pytest.mark.slow
def test_the_weights_of_the_terms_are_the_published_ones():
    model = pipeline()
    step_output = model(batch())
    tokens, book = step_output.tokens, model.tokenizer.codebook.codes
    square = (tokens.attrs["z"] - book[tokens.ids]).square().mean()
    torch.testing.assert_close(step_output.losses["commitment"], square)
    torch.testing.assert_close(step_output.losses["codebook"], 0.25 * square)
    each = diversity_loss(tokens.attrs["start"], tokens.attrs["length"], 0.015625)
    torch.testing.assert_close(step_output.losses["diversity"], 0.8 * each.mean())
    torch.testing.assert_close(
        step_output.losses["reconstruction"], (step_output.predictions - step_output.series.x).square().mean()
    )


@pytest.mark.slow
def test_form_compares_curves_with_what_they_cover_whatever_its_height():
    model = pipeline(form=0.7).eval()
    series = batch()
    tokens = model(series).tokens
    x = model.tokenize(series).series.x[:, 0]
    curves = model.tokenizer.shape_decoder(model.tokenizer.codebook.codes[tokens.ids])
    place = tokens.attrs["start"], tokens.attrs["length"]
    under = extract_segments(x, *place, 32, torch.full((3,), 64))
    under = (under - under.mean(-1, keepdim=True)) / under.std(-1, correction=1, keepdim=True)
    torch.testing.assert_close(
        model(series).losses["form"], 0.7 * (curves - under).square().mean(), atol=1e-3, rtol=1e-3
    )


def test_the_entropy_term_is_that_of_its_definition():
    model = pipeline()
    with torch.no_grad():
        model.tokenizer.codebook.codes.uniform_(-0.3, 0.3)
    step_output = model(batch())
    z, book = (t.detach().double().numpy() for t in (step_output.tokens.attrs["z"], model.tokenizer.codebook.codes))
    rows = []
    for vector in z.reshape(-1, z.shape[-1]):
        p = np.exp(-np.square(vector - book).sum(1) / 0.01)
        rows.append(p / p.sum())

    def entropy(p):
        return -(p * np.log(np.maximum(p, 1e-5))).sum()

    want = np.mean([entropy(p) for p in rows]) - entropy(np.mean(rows, 0))
    assert float(step_output.losses["entropy"].detach()) == pytest.approx(0.1 * want, rel=1e-3, abs=1e-5)


def test_the_diversity_loss_equals_its_definition():
    draw = torch.Generator().manual_seed(1)
    start, length = torch.rand(2, 7, generator=draw), torch.rand(2, 7, generator=draw) * 0.9 + 1 / 64
    want = []
    for t, extent in zip(start.tolist(), length.tolist(), strict=True):
        total = 0.0
        for i in range(7):
            for j in range(7):
                if i != j:
                    a, b = (
                        np.array([math.cos(math.pi * t[k]), math.sin(math.pi * t[k])])
                        * (math.log(extent[k]) / math.log(1 / 64))
                        for k in (i, j)
                    )
                    total += max(0.0, 0.2 - float(np.linalg.norm(a - b)))
        want.append(total / 49)
    torch.testing.assert_close(diversity_loss(start, length, 1 / 64), torch.tensor(want))


def test_the_diversity_loss_of_tokens_in_the_same_place_has_a_finite_gradient():
    start = torch.full((1, 4), 0.5, requires_grad=True)
    value = diversity_loss(start, torch.full((1, 4), 0.1), 1 / 64)
    value.sum().backward()
    assert float(value.detach()) == pytest.approx(0.2 * 12 / 16)
    assert start.grad.isfinite().all()


def test_curves_have_mean_0_and_unbiased_deviation_1():
    decoder = ShapeDecoder(8, points=32, width=16, smooth=3)
    curves = decoder(torch.randn(5, 3, 8))
    assert curves.shape == (5, 3, 32)
    torch.testing.assert_close(curves.mean(-1), torch.zeros(5, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(curves.std(-1, correction=1), torch.ones(5, 3), atol=1e-4, rtol=0)


def test_an_excerpt_reads_between_samples_as_numpy_does():
    x = torch.randn(2, 20)
    start, length = torch.tensor([[0.0, 0.31], [0.5, 0.98]]), torch.tensor([[1.0, 0.4], [0.7, 0.03]])
    segments = extract_segments(x, start, length, 9, torch.tensor([20, 14]))
    for b, samples in enumerate((20, 14)):
        for n in range(2):
            end = min(float(start[b, n] + length[b, n]), 1.0)
            at = np.linspace(float(start[b, n]), end, 9) * (samples - 1)
            want = np.interp(at, np.arange(samples), x[b, :samples].numpy())
            np.testing.assert_allclose(segments[b, n], want, atol=1e-4)


def test_what_was_cut_out_goes_back_to_its_place():
    x = torch.randn(1, 33).cumsum(-1)
    start, length = torch.tensor([[0.25, 0.0]]), torch.tensor([[0.5, 1.0]])
    cut = extract_segments(x, start, length, 33, torch.tensor([33]))
    back, where = place_curves(cut, start, length, 33)
    for n in range(2):
        torch.testing.assert_close(back[0, n][where[0, n]], x[0][where[0, n]], atol=1e-4, rtol=1e-4)
    assert where[0, 0].nonzero().flatten().tolist() == list(range(8, 25))
    assert where[0, 1].all()


def test_smoothing_is_a_moving_average():
    curve = torch.arange(6.0)
    assert smooth_curves(curve[None, None], 3)[0, 0, 1:-1].tolist() == [1, 2, 3, 4]
    assert smooth_curves(curve, 1) is curve


def test_missing_samples_are_not_held_against_a_shape():
    model = pipeline().eval()
    series = batch()
    observed = torch.ones_like(series.x, dtype=torch.bool)
    observed[:, :, 20:30] = False
    losses = []
    for filler in (0.0, 1e3):
        with_gap = series.replace(x=torch.where(observed, series.x, filler), observed=observed)
        losses.append(float(model(with_gap).losses["shape"].detach()))
    assert losses[0] == pytest.approx(losses[1])


def test_a_decoder_of_flat_curves_has_finite_values_and_gradients():
    decoder = ShapeDecoder(8, points=32, width=16)
    torch.nn.init.zeros_(decoder.body[-1].weight)
    curves = decoder(torch.randn(3, 8))
    curves.square().sum().backward()
    assert not curves.any()
    assert all(p.grad.isfinite().all() for p in decoder.parameters() if p.grad is not None)
