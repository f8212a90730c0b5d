"""Convolutional encoders from samples to vectors, and the decoder back to samples.

The encoders differ only in where their convolutions are padded, so all have the same weights: `ConvEncoder` on both
sides, as in TOTEM; `CausalEncoder` before the samples only; `PatchwiseEncoder` around each patch, which it encodes
independently. F is the factor, the number of samples per vector.

Between layers, the channels of a sample are next to each other in memory, [B, L, C].
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from tstk.errors import OptionError
from tstk.kernels import convolve
from tstk.nn.linear import linear

STRIDES = {4: (2, 2), 8: (2, 2, 2), 12: (2, 2, 3), 16: (2, 2, 2, 2)}
"""Factor -> strides of the convolutions of kernel size 4, whose product is the factor."""


def get_strides(factor: int) -> tuple[int, ...]:
    """Return the strides whose product is `factor`.

    Raises:
        OptionError: the factor is not supported
    """
    if factor not in STRIDES:
        raise OptionError(f"tokenizer.factor={factor}: expected {', '.join(map(str, STRIDES))} samples per token")
    return STRIDES[factor]


class MaskedConv1d(nn.Conv1d):
    """A convolution with separate left and right zero padding, whose output is zero where nothing was observed.

    The left padding is at least as wide as the right one.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        pad_width: tuple[int, int] = (0, 0),
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, bias=bias)
        self.pad_width = pad_width

    def forward(self, x: Tensor, observed: Tensor | None = None, *, relu: bool = False) -> Tensor:
        """Convolve [B, L, in_channels] to [B, L / stride, out_channels], times `observed` [B, L / stride, 1].

        Both ends are padded like the left one, which is faster than a padded copy. So without `observed` and with less
        padding at the right, some more vectors follow at the end, on which those before do not depend.

        Args:
            x: samples
            observed: 0 where nothing was observed, 1 elsewhere
            relu: apply ReLU, unless the kernel size is 1
        """
        left, right = self.pad_width
        if self.kernel_size == (1,):
            y = linear(x, self.weight[:, :, 0], self.bias)
        else:
            # The kernel in C++ rounds an output in a way that depends on later samples, which causal codes must not do.
            backend = "torch" if left != right and not self.training else None
            y = convolve(x, self.weight, self.bias, stride=self.stride[0], padding=left, relu=relu, backend=backend)
        return y if observed is None else _apply_mask(y[:, : observed.shape[1]], observed)


class ResidualStack(nn.Module):
    """Residual layers of a convolution of kernel size 3 and one of size 1, then ReLU; as in van den Oord et al. 2017.

    As in the published code, the skip connection starts after the ReLU.
    """

    def __init__(self, dim: int, hidden: int, layers: int, pad_width: tuple[int, int]) -> None:
        super().__init__()
        self.wide = nn.ModuleList(MaskedConv1d(dim, hidden, 3, pad_width=pad_width, bias=False) for _ in range(layers))
        self.narrow = nn.ModuleList(MaskedConv1d(hidden, dim, 1, bias=False) for _ in range(layers))

    def forward(self, x: Tensor, observed: Tensor | None) -> Tensor:
        """Map [B, L, dim] to [B, L, dim], both after ReLU."""
        for wide, narrow in zip(self.wide, self.narrow, strict=True):
            x = narrow(wide(x, relu=True)[:, : x.shape[1]], observed).add_(x).relu_()
        return x


class ConvEncoder(nn.Module):
    """Convolutions from samples to vectors, padded on both sides.

    A vector depends on samples on both sides of its own F samples: with F = 4, on 15 later ones.

    Args:
        channels: number of channels of a series
        dim: width of a vector
        hidden: width of the convolutions
        res_hidden: inner width of the residual layers
        res_layers: number of residual layers
        factor: samples per vector
    """

    def __init__(self, channels: int, dim: int, hidden: int, res_hidden: int, res_layers: int, factor: int) -> None:
        super().__init__()
        self.strides, self.factor = get_strides(factor), factor
        widths = (channels, hidden // 2, *[hidden] * (len(self.strides) - 1))
        self.down = nn.ModuleList(
            MaskedConv1d(n, m, 4, stride, pad_width=self.get_pad_width(4, stride))
            for n, m, stride in zip(widths, widths[1:], self.strides, strict=False)
        )
        self.conv = MaskedConv1d(hidden, hidden, 3, pad_width=self.get_pad_width(3, 1))
        self.residual = ResidualStack(hidden, res_hidden, res_layers, self.get_pad_width(3, 1))
        self.out = MaskedConv1d(hidden, dim, 1)

    def get_pad_width(self, kernel_size: int, stride: int) -> tuple[int, int]:
        """Return the number of zeros before and after a series."""
        return 1, 1

    def forward(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """Encode [B, C, F N] to [B, N, dim]; `observed` [B, 1, F N] is 0 where nothing was observed, 1 elsewhere."""
        count, x = x.shape[-1] // self.factor, x.transpose(1, 2).contiguous()
        mask = None
        for conv, stride in zip(self.down, self.strides, strict=True):
            observed = None if observed is None else F.max_pool1d(observed, stride)
            mask = None if observed is None else observed.transpose(1, 2)
            x = conv(x, mask, relu=True)
        x = self.residual(self.conv(x, mask, relu=True), mask)
        return self.out(x, mask)[:, :count]


class CausalEncoder(ConvEncoder):
    """Causal convolutions: a vector depends on its own F samples and earlier ones."""

    def get_pad_width(self, kernel_size: int, stride: int) -> tuple[int, int]:
        """Return the number of zeros before and after a series; none after."""
        return kernel_size - stride, 0


class PatchwiseEncoder(ConvEncoder):
    """Convolutions within patches: a vector depends on its own F samples only."""

    def forward(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """Encode as `ConvEncoder` does, patch by patch."""

        def patches(t: Tensor) -> Tensor:
            return t.unflatten(-1, (-1, self.factor)).transpose(1, 2).flatten(0, 1)

        vectors = super().forward(patches(x), None if observed is None else patches(observed))
        return vectors.reshape(x.shape[0], -1, vectors.shape[-1])


ENCODERS: dict[str, type[ConvEncoder]] = {"published": ConvEncoder, "causal": CausalEncoder, "patch": PatchwiseEncoder}


class ConvDecoder(nn.Module):
    """Convolutions from vectors to samples, padded on both sides with each of the encoders.

    Args: as of `ConvEncoder`.
    """

    def __init__(self, channels: int, dim: int, hidden: int, res_hidden: int, res_layers: int, factor: int) -> None:
        super().__init__()
        self.strides = get_strides(factor)[::-1]
        self.conv = MaskedConv1d(dim, hidden, 3, pad_width=(1, 1))
        self.residual = ResidualStack(hidden, res_hidden, res_layers, (1, 1))
        widths = (*[hidden] * (len(self.strides) - 1), hidden // 2, channels)
        self.up = nn.ModuleList(
            nn.ConvTranspose1d(n, m, stride + 2, stride, padding=1)
            for n, m, stride in zip(widths, widths[1:], self.strides, strict=False)
        )
        self.receptive_field = 2 + res_layers + len(self.strides)
        """Number of vectors on either side of its own that a sample may depend on."""

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Decode [B, N, dim] to [B, C, F N]; `valid` [B, 1, N] is 0 for invalid vectors, 1 elsewhere."""
        mask = None if valid is None else valid.transpose(1, 2)
        x = self.conv(_apply_mask(x, mask), mask, relu=True)
        x = self.residual(x, mask)
        for i, (conv, stride) in enumerate(zip(self.up, self.strides, strict=True)):
            mask = None if mask is None else mask.repeat_interleave(stride, 1)
            assert isinstance(conv, nn.ConvTranspose1d)
            relu = i + 1 < len(self.up)
            x = convolve(x, conv.weight, conv.bias, stride=stride, padding=1, transposed=True, relu=relu)
            x = _apply_mask(x, mask)
        return x.transpose(1, 2)


def _apply_mask(x: Tensor, mask: Tensor | None) -> Tensor:
    """Multiply [B, L, C] by a mask [B, L, 1]."""
    return x if mask is None else x * mask.to(x.dtype)
