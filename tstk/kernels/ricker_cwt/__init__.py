"""Continuous wavelet transform with Ricker (Mexican hat) wavelets: batched, differentiable, exactly sampled."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

# By name: the module beside this one takes the name `torch` in this package.
from torch import Tensor, float64

from tstk.errors import DataError, OptionError, did_you_mean
from tstk.kernels.dispatch import Backend, Operation, why_triton_unavailable
from tstk.kernels.ricker_cwt.plan import DEFAULT_BLOCK


def _why_triton_unsupported(
    x: Tensor, scales: tuple[float, ...], *, patch: tuple[int, int] | None = None, **options: object
) -> str:
    if reason := why_triton_unavailable(x.device):
        return reason
    if x.dtype == float64:
        return "it computes in float32, and x is float64"
    if len(scales) * x.shape[-1] >= 2**31:
        return (
            f"it indexes the output of a series in 32 bits, and {len(scales)} scales of {x.shape[-1]} are 2^31 or more"
        )
    frame = min(DEFAULT_BLOCK, patch[1] if patch else DEFAULT_BLOCK)
    if x.shape[:-1].numel() * -(-x.shape[-1] // frame) >= 2**31:
        return f"it counts frames of {frame} samples in 32 bits, and {list(x.shape)} has 2^31 or more"
    return ""


_HERE = "tstk.kernels.ricker_cwt"
ricker_cwt_op = Operation(
    "ricker_cwt",
    Backend(
        "triton",
        f"{_HERE}.triton:ricker_cwt",
        _why_triton_unsupported,
        why_triton_unavailable,
        self_test="tstk.kernels.self_test:check_ricker_cwt",
    ),
    Backend("torch", f"{_HERE}.torch:ricker_cwt"),
    Backend("reference", f"{_HERE}.reference:ricker_cwt"),
)


def ricker_cwt(
    x: Tensor,
    scales: Sequence[float],
    *,
    padding: str = "zero",
    kernel: str = "odd",
    patch: tuple[int, int] | None = None,
    backend: str | None = None,
) -> Tensor:
    """Correlate each series with Ricker wavelets of unit energy, without a shift.

    psi_a(t) = 2 / (sqrt(3 a) pi^(1/4)) (1 - t^2 / a^2) exp(-t^2 / (2 a^2)), sampled at whole t. The error of
    float32 results, against float64 correlation, has at each scale a an RMS of at most 3e-6 of the result's own and
    1e-6 sqrt(a) of the standard deviation of the series together (the second counts where padding by reflect or
    replicate leaves next to nothing at a scale that is wide for the series; offsets do not count); those of a float64 x
    agree to 1e-7. Half precision is computed in, and returned as, float32, also under autocast.

    Args:
        x: [..., T] float
        scales: S widths a, in samples, each above zero, in any order
        padding: extension beyond the ends: zero, reflect (about the end samples) or replicate
        kernel: odd, as above; published, as the code of CWT-MAE samples it: one number of taps for all scales, ten
            times the largest or the length of the series, half a sample aside if that is even (scales 0.1 + i up to
            63.1)
        patch: scales and samples per patch; no patches if None
        backend: triton, torch or reference; the first that supports the call if None

    Returns:
        [..., S, T], possibly not contiguous; or, in patches (ph, pw), [..., S / ph, T / pw, ph * pw]: a (scale, time)
        grid of contiguous patches, each flattened with time varying fastest.

    Raises:
        OptionError: invalid scales, padding, kernel or patch
        DataError: x is not floating point or is empty
    """
    scales = tuple(float(a) for a in scales)
    _check_arguments(x, scales, padding, kernel, patch)
    patch = patch if patch is None else (int(patch[0]), int(patch[1]))
    out: Tensor = ricker_cwt_op(x, scales, padding=padding, kernel=kernel, patch=patch, backend=backend)
    return out


def _check_arguments(
    x: Tensor, scales: tuple[float, ...], padding: str, kernel: str, patch: tuple[int, int] | None
) -> None:
    for name, value, names in (
        ("padding", padding, ("zero", "reflect", "replicate")),
        ("kernel", kernel, ("odd", "published")),
    ):
        if value not in names:
            raise OptionError(
                f"ricker_cwt: {name}={value!r} is not one of {', '.join(names)}." + did_you_mean(value, names)
            )
    if not scales or not all(0 < a < inf for a in scales):
        raise OptionError(f"ricker_cwt: scales={list(scales)}: at least one, each a number of samples above zero")
    if not x.is_floating_point() or x.ndim == 0 or x.shape[-1] == 0:
        raise DataError(f"ricker_cwt: x is {x.dtype} {list(x.shape)}; expected floating point [..., T] with samples")
    if patch is not None:
        for size, unit, total in zip(patch, ("scales", "samples"), (len(scales), x.shape[-1]), strict=True):
            if size < 1 or total % size:
                divisors = [n for n in range(1, total + 1) if total % n == 0]
                nearby = [n for n in divisors if n < size][-1:] + [n for n in divisors if n > size][:1]
                raise OptionError(
                    f"ricker_cwt: patch={tuple(patch)}: {size} does not divide {total} {unit};"
                    f" nearby: {', '.join(map(str, nearby))}"
                )
