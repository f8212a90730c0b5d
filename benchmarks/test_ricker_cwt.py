"""The Ricker transform against convolution, Fourier transforms, and the wavelet packages."""

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
    Contender,
    ContenderUnavailableError,
    OutputCheck,
    Verdict,
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
"""That the gate looks at."""
PATCH = (4, 50)
"""Scales and samples of CWT-MAE's patches."""


def scales(shape: Wavelets) -> tuple[float, ...]:
    """CWT-MAE's 0.1 + i, PyWavelets' usual 1 + i, or a geometric row to 64."""
    n = shape.scales
    if shape.spacing == "log":
        return tuple(float(a) for a in np.geomspace(1, 64, n))
    return tuple(i + {"linear": 0.1, "integer": 1.0}[shape.spacing] for i in range(n))


def inputs(shape: Wavelets, seed: int, device: str) -> tuple[Tensor]:
    """Random walks with some noise, standardised."""
    draw = torch.Generator(device).manual_seed(seed)
    x = torch.randn(shape.rows, shape.samples, generator=draw, device=device).cumsum(-1)
    x = (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True)
    return ((x + 0.1 * torch.randn(x.shape, generator=draw, device=device)),)


def ricker(scale: float, half: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Unit energy, sampled at the integers from -half to half."""
    t = torch.arange(-half, half + 1, dtype=torch.float64) / scale
    return (2 / (math.sqrt(3 * scale) * math.pi**0.25) * (1 - t * t) * torch.exp(-t * t / 2)).to(dtype)


def gate(x: Tensor, *, scales: tuple[float, ...]) -> OutputCheck:
    """Every scale against a float64 convolution with kernels ten widths long to either side."""
    few = x[:ROWS].double()
    true = torch.stack([convolve(few, ricker(a, max(1, math.ceil(10 * a))).to(x.device)) for a in scales], 1)

    def judge(answer: Sequence[Tensor]) -> Verdict:
        off = (answer[0][:ROWS].to(true) - true).square().mean((0, 2)).sqrt() / true.square().mean((0, 2)).sqrt()
        error, worst = off.max().item(), scales[int(off.argmax())]
        return Verdict(error, f"scale {worst:.4g} is off by {error:.1e}" if not error <= ERROR else "")

    return judge


def convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """Zeros beyond the ends, as many samples out as in."""
    n, half = x.shape[-1] + len(kernel), len(kernel) // 2
    return torch.fft.irfft(torch.fft.rfft(x, n) * torch.fft.rfft(kernel, n), n)[..., half : half + x.shape[-1]]


def loose(x: Tensor, *, scales: tuple[float, ...]) -> OutputCheck:
    """For packages that sample an integrated wavelet: the same transform, each scale up to a gain, half of it right."""
    few = x[:ROWS].double()
    true = torch.stack([convolve(few, ricker(a, max(1, math.ceil(10 * a))).to(x.device)) for a in scales], 1)

    def judge(answer: Sequence[Tensor]) -> Verdict:
        mine = answer[0][:ROWS].to(true)
        gain = (mine * true).sum((0, 2)) / mine.square().sum((0, 2))
        off = (mine * gain[:, None] - true).square().mean((0, 2)).sqrt() / true.square().mean((0, 2)).sqrt()
        error = off.median().item()
        return Verdict(error, f"the median scale is off by {error:.1e}, whatever its gain" if not error < 0.1 else "")

    return judge


def conv1d(x: Tensor, *, scales: tuple[float, ...], tf32: bool = False) -> Callable[..., Tensor]:
    """All kernels as long as the longest, made once."""
    half = math.ceil(6.5 * max(scales))
    bank = torch.stack([ricker(a, half, torch.float32) for a in scales])[:, None].to(x.device)

    def call(x: Tensor) -> Tensor:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=tf32, benchmark=True):
            return F.conv1d(x[:, None], bank, padding=half)

    return call


def fourier(x: Tensor, *, scales: tuple[float, ...]) -> Callable[..., Tensor]:
    """One real transform per signal, one back per scale; the kernels' real spectra are kept."""
    from scipy.fft import next_fast_len

    samples, half = x.shape[-1], math.ceil(6.5 * max(scales))
    n = next_fast_len(samples + half, real=True)
    bank = torch.zeros(len(scales), n, dtype=torch.float64)
    for row, a in zip(bank, scales, strict=True):
        kernel = ricker(a, half)
        row[: half + 1], row[-half:] = kernel[half:], kernel[:half]
    spectra = torch.fft.rfft(bank).real.float().contiguous().to(x.device)
    return lambda x: torch.fft.irfft(torch.fft.rfft(x, n)[:, None] * spectra, n)[..., :samples]


def pywavelets(x: Tensor, *, scales: tuple[float, ...], method: str) -> Callable[..., Any]:
    """The whole batch in one call."""
    library, widths = import_peer("pywt"), np.array(scales)
    if x.is_cuda:
        raise ContenderUnavailableError("PyWavelets has no GPU")
    return lambda x: library.cwt(x.numpy(), widths, "mexh", method=method, axis=-1)[0]


def ptwt(x: Tensor, *, scales: tuple[float, ...]) -> Callable[..., Any]:
    """PyWavelets' method in torch."""
    library, widths = import_peer("ptwt"), np.array(scales)
    return lambda x: library.cwt(x, widths, "mexh")[0]


def from_patches(patches: Tensor, samples: int) -> Tensor:
    """[B, S / ph, T / pw, ph * pw] -> [B, S, T]."""
    b, rows, columns, _ = patches.shape
    return patches.unflatten(-1, PATCH).transpose(2, 3).reshape(b, rows * PATCH[0], columns * PATCH[1])[..., :samples]


def case(shape: Wavelets, device: str) -> Case:
    """One shape, forward: its input is data."""
    given = scales(shape)
    options, values = {"scales": given}, shape.rows * shape.samples * shape.scales
    rough = partial(loose, **options)
    scales_first = {"normalize_output": lambda out: torch.as_tensor(out).transpose(0, 1), "make_check": rough}
    table = {
        "tstk": make_contender(lambda x: ricker_cwt(x, given), "[B, S, T]"),
        "tstk, patches": make_contender(
            lambda x: ricker_cwt(x, given, patch=PATCH),
            "[B, S/4, T/50, 200], ready for a linear embedding",
            normalize_output=partial(from_patches, samples=shape.samples),
        ),
        "conv1d": Contender(partial(conv1d, **options), "one call, kernels kept, float32"),
        "rfft": Contender(partial(fourier, **options), "batched, spectra kept"),
        "ptwt": Contender(partial(ptwt, **options), "another discretisation", **scales_first),
    }
    if device == "cpu":
        for method in ("conv", "fft"):
            table[f"PyWavelets, {method}"] = Contender(
                partial(pywavelets, method=method, **options),
                f"method={method!r}; another discretisation",
                **scales_first,
            )
    else:
        table["conv1d, TF32"] = Contender(partial(conv1d, tf32=True, **options), "less exact", make_check=rough)
        table["tstk, torch backend"] = make_contender(lambda x: ricker_cwt(x, given, backend="torch"))
    return Case(
        "ricker_cwt",
        shape.name,
        str(shape),
        partial(inputs, shape),
        table,
        partial(gate, **options),
        why_unsupported=lambda x: why_triton_unsupported(ricker_cwt_op, x, given, device=device),
        limit=("a fill of the output", Contender(filled(values), "a buffer that exists")),
        bytes=4 * (values + shape.rows * shape.samples),
        device=device,
    )


def filled(values: int) -> Callable[..., Callable[..., Tensor]]:
    """Writes as many numbers as the output has, once."""

    def prepare(x: Tensor) -> Callable[..., Tensor]:
        out = torch.empty(values, device=x.device)
        return lambda x: out.fill_(1.0)

    return prepare


def cases(full: bool, device: str) -> list[Case]:
    """Forward only."""
    return expand_thread_counts(case(shape, device) for shape in shapes.list_wavelet_shapes(full, device))


def test_ricker_cwt(duel, case, name):
    """Gate, time, and show beside the others."""
    duel(case, name)
