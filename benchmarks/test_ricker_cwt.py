"""The Ricker wavelet transform against convolution, Fourier transforms and wavelet packages."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import shapes
from benchmarks.harness import (
    Case,
    CheckResult,
    Contender,
    ContenderUnavailableError,
    OutputCheck,
    expand_thread_counts,
    import_peer,
    make_contender,
    why_triton_unsupported,
)
from benchmarks.shapes import Wavelets
from tstk.kernels.ricker_cwt import ricker_cwt, ricker_cwt_op

ERROR = 3e-6
"""Largest error of a scale, relative to its root mean square."""
ROWS = 2
"""Rows that are checked."""
PATCH = (4, 50)
"""Scales and samples of CWT-MAE's patches."""


def list_scales(shape: Wavelets) -> tuple[float, ...]:
    """Return the scales: 0.1 + i as in CWT-MAE, 1 + i as usual in PyWavelets, or geometric from 1 to 64."""
    n = shape.scales
    if shape.spacing == "log":
        return tuple(float(a) for a in np.geomspace(1, 64, n))
    return tuple(i + {"linear": 0.1, "integer": 1.0}[shape.spacing] for i in range(n))


def make_inputs(shape: Wavelets, seed: int, device: str) -> tuple[Tensor]:
    """Return standardized random walks with some noise."""
    draw = torch.Generator(device).manual_seed(seed)
    x = torch.randn(shape.rows, shape.samples, generator=draw, device=device).cumsum(-1)
    x = (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True)
    return ((x + 0.1 * torch.randn(x.shape, generator=draw, device=device)),)


def sample_ricker(scale: float, half: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return a Ricker wavelet of unit energy, sampled at the integers from -half to half."""
    t = torch.arange(-half, half + 1, dtype=torch.float64) / scale
    return (2 / (math.sqrt(3 * scale) * math.pi**0.25) * (1 - t * t) * torch.exp(-t * t / 2)).to(dtype)


def make_check(x: Tensor, *, scales: tuple[float, ...]) -> OutputCheck:
    """Return a check of each scale against a float64 convolution with kernels of ten widths to either side."""
    first_rows = x[:ROWS].double()
    true = torch.stack(
        [convolve(first_rows, sample_ricker(a, max(1, math.ceil(10 * a))).to(x.device)) for a in scales], 1
    )

    def check(outputs: Sequence[Tensor]) -> CheckResult:
        errors = (outputs[0][:ROWS].to(true) - true).square().mean((0, 2)).sqrt() / true.square().mean((0, 2)).sqrt()
        error, worst = errors.max().item(), scales[int(errors.argmax())]
        return CheckResult(error, f"scale {worst:.4g} is off by {error:.1e}" if not error <= ERROR else "")

    return check


def convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolve with zero padding to the length of the input."""
    n, half = x.shape[-1] + len(kernel), len(kernel) // 2
    return torch.fft.irfft(torch.fft.rfft(x, n) * torch.fft.rfft(kernel, n), n)[..., half : half + x.shape[-1]]


def make_loose_check(x: Tensor, *, scales: tuple[float, ...]) -> OutputCheck:
    """Return a check for packages that sample an integrated wavelet: up to a gain, half of the scales agree."""
    first_rows = x[:ROWS].double()
    true = torch.stack(
        [convolve(first_rows, sample_ricker(a, max(1, math.ceil(10 * a))).to(x.device)) for a in scales], 1
    )

    def check(outputs: Sequence[Tensor]) -> CheckResult:
        actual = outputs[0][:ROWS].to(true)
        gain = (actual * true).sum((0, 2)) / actual.square().sum((0, 2))
        errors = (actual * gain[:, None] - true).square().mean((0, 2)).sqrt() / true.square().mean((0, 2)).sqrt()
        error = errors.median().item()
        return CheckResult(
            error, f"the median scale is off by {error:.1e}, whatever its gain" if not error < 0.1 else ""
        )

    return check


def prepare_conv1d(x: Tensor, *, scales: tuple[float, ...], tf32: bool = False) -> Callable[..., Tensor]:
    """Prepare a convolution with all kernels padded to the longest."""
    half = math.ceil(6.5 * max(scales))
    bank = torch.stack([sample_ricker(a, half, torch.float32) for a in scales])[:, None].to(x.device)

    def call(x: Tensor) -> Tensor:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=tf32, benchmark=True):
            return F.conv1d(x[:, None], bank, padding=half)

    return call


def prepare_fft(x: Tensor, *, scales: tuple[float, ...]) -> Callable[..., Tensor]:
    """Prepare one real FFT per signal and one inverse per scale, with stored spectra of the kernels."""
    from scipy.fft import next_fast_len

    samples, half = x.shape[-1], math.ceil(6.5 * max(scales))
    n = next_fast_len(samples + half, real=True)
    bank = torch.zeros(len(scales), n, dtype=torch.float64)
    for row, a in zip(bank, scales, strict=True):
        kernel = sample_ricker(a, half)
        row[: half + 1], row[-half:] = kernel[half:], kernel[:half]
    spectra = torch.fft.rfft(bank).real.float().contiguous().to(x.device)
    return lambda x: torch.fft.irfft(torch.fft.rfft(x, n)[:, None] * spectra, n)[..., :samples]


def prepare_pywavelets(x: Tensor, *, scales: tuple[float, ...], method: str) -> Callable[..., Any]:
    """Prepare PyWavelets on the whole batch in one call."""
    library, widths = import_peer("pywt"), np.array(scales)
    if x.is_cuda:
        raise ContenderUnavailableError("PyWavelets has no GPU")
    return lambda x: library.cwt(x.numpy(), widths, "mexh", method=method, axis=-1)[0]


def prepare_ptwt(x: Tensor, *, scales: tuple[float, ...]) -> Callable[..., Any]:
    """Prepare ptwt, PyWavelets' method in torch."""
    library, widths = import_peer("ptwt"), np.array(scales)
    return lambda x: library.cwt(x, widths, "mexh")[0]


def unpatchify(patches: Tensor, samples: int) -> Tensor:
    """Reshape [B, S / ph, T / pw, ph * pw] to [B, S, T]."""
    b, rows, columns, _ = patches.shape
    return patches.unflatten(-1, PATCH).transpose(2, 3).reshape(b, rows * PATCH[0], columns * PATCH[1])[..., :samples]


def make_case(shape: Wavelets, device: str) -> Case:
    """Return the case of one shape, forward only, since its input is data."""
    widths = list_scales(shape)
    options, values = {"scales": widths}, shape.rows * shape.samples * shape.scales
    rough = partial(make_loose_check, **options)
    scales_first = {"normalize_output": lambda out: torch.as_tensor(out).transpose(0, 1), "make_check": rough}
    table = {
        "tstk": make_contender(lambda x: ricker_cwt(x, widths), "[B, S, T]"),
        "tstk, patches": make_contender(
            lambda x: ricker_cwt(x, widths, patch=PATCH),
            "[B, S/4, T/50, 200], ready for a linear embedding",
            normalize_output=partial(unpatchify, samples=shape.samples),
        ),
        "conv1d": Contender(partial(prepare_conv1d, **options), "one call, kernels kept, float32"),
        "rfft": Contender(partial(prepare_fft, **options), "batched, spectra kept"),
        "ptwt": Contender(partial(prepare_ptwt, **options), "another discretisation", **scales_first),
    }
    if device == "cpu":
        for method in ("conv", "fft"):
            table[f"PyWavelets, {method}"] = Contender(
                partial(prepare_pywavelets, method=method, **options),
                f"method={method!r}; another discretisation",
                **scales_first,
            )
    else:
        table["conv1d, TF32"] = Contender(partial(prepare_conv1d, tf32=True, **options), "less exact", make_check=rough)
        table["tstk, torch backend"] = make_contender(lambda x: ricker_cwt(x, widths, backend="torch"))
    return Case(
        "ricker_cwt",
        shape.name,
        str(shape),
        partial(make_inputs, shape),
        table,
        partial(make_check, **options),
        why_unsupported=lambda x: why_triton_unsupported(ricker_cwt_op, x, widths, device=device),
        limit=("a fill of the output", Contender(prepare_fill(values), "a buffer that exists")),
        bytes=4 * (values + shape.rows * shape.samples),
        device=device,
    )


def prepare_fill(values: int) -> Callable[..., Callable[..., Tensor]]:
    """Return a contender's preparation that writes as many numbers as the output has, once."""

    def prepare(x: Tensor) -> Callable[..., Tensor]:
        out = torch.empty(values, device=x.device)
        return lambda x: out.fill_(1.0)

    return prepare


def list_cases(full: bool, device: str) -> list[Case]:
    """Return the cases of all shapes."""
    return expand_thread_counts(make_case(shape, device) for shape in shapes.list_wavelet_shapes(full, device))


def test_ricker_cwt(compare, case, name):
    """Check and time each contender."""
    compare(case, name)
