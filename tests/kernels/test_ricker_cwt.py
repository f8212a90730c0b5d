"""The Ricker transform against loops, its reference in float64, and the definition of the wavelet."""

import math
from functools import partial
from importlib import import_module

import numpy as np
import pytest
import torch

from tstk.errors import DataError, OptionError
from tstk.kernels import ricker_cwt
from tstk.kernels.ricker_cwt.plan import build_plan, choose_layout
from tstk.kernels.ricker_cwt.torch import Spectra, _choose_algorithm

pytestmark = pytest.mark.slow

torch_backend = import_module("tstk.kernels.ricker_cwt.torch")

PADDINGS = ("zero", "reflect", "replicate")
WAYS = ("products", "fft")
LINEAR = [0.1 + i for i in range(64)]
INTEGER = [1.0 + i for i in range(64)]
MIXED = [3.0, 80.0, 0.5, 12.0, 12.5, 1.7]
ERROR = 3e-6


def series(*shape, seed=0, walk=True):
    """Standardised random walks with a little noise, or noise alone."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=draw)
    if not walk:
        return x
    x = x.cumsum(-1)
    return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6) + 0.1 * torch.randn(*shape, generator=draw)


def wavelet(t, a):
    return 2 / (math.sqrt(3 * a) * math.pi**0.25) * (1 - (t / a) ** 2) * np.exp(-((t / a) ** 2) / 2)


def errors(got, want, where=slice(None)):
    """Relative root mean square error of each scale [S]."""
    got, want = got[..., where].double(), want[..., where].double()
    over = [d for d in range(want.ndim) if d != want.ndim - 2]
    return ((got - want).square().mean(over) / want.square().mean(over)).sqrt()


def gradient(transform, x, weight):
    x = x.detach().requires_grad_()
    (grad,) = torch.autograd.grad((transform(x) * weight).sum(), x)
    return grad


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("scales", [[0.1, 1.3], [2.0, 7.5, 3.0]])
def test_the_reference_is_a_sum_over_samples(scales, padding):
    x = series(23).double()
    mode = {"zero": "constant", "reflect": "reflect", "replicate": "edge"}[padding]
    long = np.pad(x.numpy(), 100, mode=mode)
    offsets = np.arange(-75, 76)
    want = [[(wavelet(offsets, a) * long[100 + t + offsets]).sum() for t in range(23)] for a in scales]
    got = ricker_cwt(x, scales, padding=padding, backend="reference")
    torch.testing.assert_close(got, torch.tensor(np.array(want)), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("length", "taps"), [(3000, 630), (500, 501), (128, 129)])
def test_published_kernels_have_the_published_taps(length, taps):
    x = torch.zeros(length, dtype=torch.float64)
    x[length // 2] = 1
    image = ricker_cwt(x, LINEAR, kernel="published", backend="reference")
    answered = image[-1].nonzero()[:, 0]
    assert answered[-1] - answered[0] + 1 == min(taps, length)
    k = np.arange(taps) - (taps - 1) / 2
    for row, a in zip(image, LINEAR, strict=True):
        bank = wavelet(k, a) * math.sqrt(3 * a) * math.pi**0.25 / (math.sqrt(3 * a) * math.pi**0.25 + 1e-6)
        full = np.correlate(np.pad(x.numpy(), taps // 2), bank, "valid")[:length]
        torch.testing.assert_close(row, torch.tensor(full), atol=1e-12, rtol=0)


@pytest.mark.parametrize("kernel", ["odd", "published"])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("scales", "length"), [(INTEGER[::3], 2000), (LINEAR[::4], 1000), (MIXED, 777)])
def test_every_scale_agrees_with_float64(scales, length, padding, kernel):
    options = {"padding": padding, "kernel": kernel}
    x = series(2, length)
    noise = series(2, length, walk=False)
    want, edges = (ricker_cwt(s.double(), scales, **options, backend="reference") for s in (x, noise))
    for way in WAYS:
        got = torch_backend.ricker_cwt(x, tuple(scales), **options, algorithm=way)
        assert got.dtype == torch.float32
        assert errors(got, want).max() < ERROR
        assert errors(torch_backend.ricker_cwt(x.double(), tuple(scales), **options, algorithm=way), want).max() < 3e-7
        got = torch_backend.ricker_cwt(noise, tuple(scales), **options, algorithm=way)
        for edge in (slice(0, 50), slice(-50, None)):
            assert errors(got, edges, edge).max() < ERROR


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["odd", "published"])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("offset", [0.0, 1e4, -300.0])
def test_short_series_with_an_offset_are_as_exact_as_is_promised(offset, padding, kernel):
    scales, options = (0.1, 0.9, 2.0, 5.0, 12.5, 20.0, 102.0, 110.0), {"padding": padding, "kernel": kernel}
    for length in range(2, 41):
        x = series(3, length, seed=length) + offset
        want = ricker_cwt(x.double(), scales, **options, backend="reference")
        spread = x.double().std(-1, correction=0)[:, None] * torch.tensor(scales).double().sqrt()
        bound = 3e-6 * want.square().mean(-1).sqrt() + 1e-6 * spread
        for transform in (
            *(partial(torch_backend.ricker_cwt, algorithm=way) for way in WAYS),
            partial(ricker_cwt, patch=(2, 1)),
        ):
            got = transform(x, scales, **options)
            got = got.unflatten(-1, (2, 1)).transpose(2, 3).flatten(1, 2)[..., 0] if got.ndim == 4 else got
            assert ((got - want).square().mean(-1).sqrt() <= bound).all()


@pytest.mark.parametrize("seed", range(12))
def test_any_scales_and_lengths_agree_with_float64(seed):
    draw = np.random.default_rng(seed)
    length = int(draw.integers(1, 400))
    scales = tuple(float(a) for a in np.exp(draw.uniform(-2.5, 5, int(draw.integers(1, 9)))))
    options = {"padding": str(draw.choice(PADDINGS)), "kernel": str(draw.choice(["odd", "published"]))}
    x = series(3, length, seed=seed).double()
    weight = series(3, len(scales), length, seed=seed, walk=False).double()
    reference = partial(ricker_cwt, scales=scales, **options, backend="reference")
    want = reference(x)
    for way in WAYS:
        transform = partial(torch_backend.ricker_cwt, scales=scales, **options, algorithm=way)
        assert (transform(x) - want).abs().max() < 1e-7 * x.abs().max() * (1 + max(scales)) ** 0.5
        single = transform(x.float())
        assert (single - want).abs().max() < ERROR * x.abs().max() * (1 + max(scales)) ** 0.5
        torch.testing.assert_close(single, transform(x.float().requires_grad_()).detach(), atol=2e-5, rtol=0)
        error = gradient(transform, x, weight) - gradient(reference, x, weight)
        assert error.abs().max() < 1e-6 * (1 + gradient(reference, x, weight).abs().max())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("padding", PADDINGS)
def test_gradients_are_those_of_finite_differences(way, padding):
    x = series(2, 9).double().requires_grad_()
    for patch in (None, (2, 3)):
        transform = partial(
            torch_backend.ricker_cwt, scales=(0.7, 2.0, 5.0, 9.0), padding=padding, patch=patch, algorithm=way
        )
        assert torch.autograd.gradcheck(transform, (x,))


@pytest.mark.parametrize("way", WAYS)
def test_a_tiny_scale_is_the_series_times_its_gain(way):
    x = series(2, 100)
    got = torch_backend.ricker_cwt(x, (0.1,), algorithm=way)[:, 0]
    torch.testing.assert_close(got, x * wavelet(0.0, 0.1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kernel", ["odd", "published"])
def test_an_impulse_becomes_the_wavelet_around_it(way, kernel):
    x = torch.zeros(1501)
    x[750] = 1
    image = torch_backend.ricker_cwt(x, tuple(LINEAR), kernel=kernel, algorithm=way)
    shift = 0.0 if kernel == "odd" else 0.5  # an even kernel answers for the middle of two samples
    mirrored = image.flip(-1) if kernel == "odd" else image.flip(-1).roll(1, -1)
    torch.testing.assert_close(image[:, 1:], mirrored[:, 1:], atol=3e-7, rtol=0)
    t = np.arange(1501) - 750 - shift
    whole = slice(0, 45)  # the published kernels of larger scales end early
    want = np.stack([wavelet(t, a) for a in LINEAR[whole]])
    torch.testing.assert_close(image[whole].double(), torch.tensor(want), atol=1e-6, rtol=0)
    if kernel == "odd":
        torch.testing.assert_close(image[2:].square().sum(-1), torch.ones(62), atol=1e-4, rtol=0)


@pytest.mark.parametrize("patch", [(4, 50), (1, 300), (16, 1), (8, 12), (2, 3), (1, 25)])
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_patches_are_pieces_of_the_image_scale_after_scale(patch, backend):
    scales = [0.5 * (1 + i) ** 1.7 for i in range(16)]
    x = series(2, 3, 300)
    image = ricker_cwt(x, scales, padding="reflect", backend="reference")
    high, wide = patch
    for grad in (False, True):
        got = ricker_cwt(x.requires_grad_(grad), scales, padding="reflect", patch=patch, backend=backend)
        assert got.shape == (2, 3, 16 // high, 300 // wide, high * wide)
        assert got.stride()[-1] == 1
        for row in range(16 // high):
            for column in range(0, 300 // wide, 7):
                piece = image[:, :, row * high : (row + 1) * high, column * wide : (column + 1) * wide]
                torch.testing.assert_close(got[:, :, row, column], piece.flatten(2), atol=3e-5, rtol=0)


@pytest.mark.parametrize("patch", [None, (2, 40)])
@pytest.mark.parametrize("length", [40, 2000])
def test_leading_axes_strides_and_types_do_not_matter(length, patch):
    transform = partial(ricker_cwt, scales=[2.0, 30.0], padding="replicate", patch=patch)
    x = series(3, 2, length)
    want = transform(x)
    one = transform(x[1, 0])
    assert one.shape == want.shape[2:]
    torch.testing.assert_close(one, want[1, 0], atol=3e-5, rtol=0)
    torch.testing.assert_close(transform(x.mT.contiguous().mT), want)
    torch.testing.assert_close(transform(x.repeat_interleave(2, -1)[..., ::2]), want)
    assert transform(x[:0]).shape == (0, *want.shape[1:])
    for half in (torch.float16, torch.bfloat16):
        got = transform(x.to(half))
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, transform(x.to(half).float()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(transform(x), want)


def test_scales_may_come_in_any_order():
    x = series(2, 500)
    mixed, order = torch.randperm(64, generator=torch.Generator().manual_seed(0)), torch.tensor(INTEGER)
    got = ricker_cwt(x, order[mixed].tolist())
    torch.testing.assert_close(got, ricker_cwt(x, INTEGER)[:, mixed], atol=3e-5, rtol=0)


@pytest.mark.parametrize(
    ("error", "text", "change"),
    [
        (
            OptionError,
            "padding='reflct' is not one of zero, reflect, replicate. Did you mean 'reflect'",
            {"padding": "reflct"},
        ),
        (OptionError, "kernel='even' is not one of odd, published", {"kernel": "even"}),
        (OptionError, "scales=.*above zero", {"scales": [1.0, -1.0]}),
        (OptionError, "scales=.*above zero", {"scales": [math.nan]}),
        (OptionError, "scales=.*at least one", {"scales": []}),
        (OptionError, r"patch=\(2, 7\): 7 does not divide 30 samples; nearby: 6, 10", {"patch": (2, 7)}),
        (OptionError, r"patch=\(3, 5\): 3 does not divide 2 scales; nearby: 2", {"patch": (3, 5)}),
        (DataError, r"x is torch.int64 \[2, 30\]", {"x": torch.zeros(2, 30, dtype=torch.long)}),
        (DataError, r"x is torch.float32 \[2, 0\]", {"x": torch.zeros(2, 0)}),
    ],
)
def test_mistakes_are_named(error, text, change):
    with pytest.raises(error, match=text) as said:
        ricker_cwt(**{"x": torch.zeros(2, 30), "scales": [1.0, 2.0], **change})
    assert "\n" not in str(said.value)


def test_the_cheaper_way_is_taken():
    def chosen(scales, length, kernel="odd", patch=None):
        return _choose_algorithm(tuple(scales), length, "zero", kernel, patch, torch.device("cpu"), torch.float32, None)

    assert not isinstance(chosen(INTEGER, 3000), Spectra)
    assert chosen(LINEAR, 3000, patch=(4, 50)).patch == (4, 50)
    assert chosen(LINEAR, 2997, patch=(4, 37)).patch[0] == 1  # a prime number of samples has no steps: rearranged
    assert isinstance(chosen(INTEGER, 3000, "published"), Spectra)


def test_plans_hold_no_denormal_numbers_and_are_few():
    made = build_plan(tuple(INTEGER), 3000, "zero", "odd", (1, 32), torch.device("cpu"), torch.float32)
    for level in made.levels:
        smallest = level.weight[level.weight != 0].abs().min()
        assert smallest > 1e-9 * level.weight.abs().amax((1, 2)).min() / 10
    assert choose_layout(tuple(INTEGER), 3000, "odd", None)[1] < 70
    assert build_plan.cache_info().maxsize <= 32


def test_a_plan_made_in_inference_mode_serves_training():
    x, scales = series(2, 200), [1.23, 17.5]
    with torch.inference_mode():
        want = ricker_cwt(x, scales, padding="reflect")
    leaf = x.clone().requires_grad_()
    got = ricker_cwt(leaf, scales, padding="reflect")
    got.square().sum().backward()
    torch.testing.assert_close(got.detach(), want.clone(), atol=1e-5, rtol=0)
    assert leaf.grad.isfinite().all()


class Image(torch.nn.Module):
    """A transform as a part of a model."""

    def __init__(self, **options):
        super().__init__()
        self.options = options

    def forward(self, x):
        return ricker_cwt(x, **self.options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"scales": [1.5, 40.0], "padding": "reflect"},
        {"scales": INTEGER, "kernel": "published", "patch": (4, 50)},
        {"scales": INTEGER[:8], "patch": (2, 7)},
    ],
)
@pytest.mark.parametrize("strict", [False, True])
def test_exported_graphs_take_any_batch_and_hold_no_fft(options, strict):
    build_plan.cache_clear()
    length = 700
    model = Image(**options)
    batch = {0: torch.export.Dim("batch", min=1)}
    exported = torch.export.export(model, (series(3, length),), dynamic_shapes=(batch,), strict=strict)
    assert not [n for n in exported.graph.nodes if "fft" in str(n.target)]
    for rows in (1, 5):
        x = series(rows, length, seed=rows)
        want = ricker_cwt(x.double(), **options, backend="reference")
        torch.testing.assert_close(exported.module()(x).double(), want, atol=3e-5, rtol=0)
        torch.testing.assert_close(model(x).double(), want, atol=3e-5, rtol=0)  # what was kept is real


@pytest.mark.slow
def test_compiled_calls_are_whole_graphs_and_agree():
    torch._dynamo.reset()
    model = Image(scales=[0.1, 5.0, 60.0], padding="replicate")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for shape in ((2, 300), (3, 300), (2, 150), (2, 151)):
        x = series(*shape)
        torch.testing.assert_close(compiled(x), model(x), atol=1e-5, rtol=0)
        weight = series(shape[0], 3, shape[1], walk=False)
        torch.testing.assert_close(gradient(compiled, x, weight), gradient(model, x, weight), atol=1e-4, rtol=0)
