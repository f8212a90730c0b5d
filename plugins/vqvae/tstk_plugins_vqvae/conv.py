"""Convolutions down from samples to vectors and up again, in three ways of looking around.

The ways differ in where a convolution is padded, so all have the same weights: `Published` on both sides, as in TOTEM;
`Causal` before the samples only; `Patchwise` around each patch, which is a series of its own. F is the factor, samples
per vector.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from tstk.errors import OptionError

STRIDES = {4: (2, 2), 8: (2, 2, 2), 12: (2, 2, 3), 16: (2, 2, 2, 2)}
"""Factor -> strides of the convolutions of width 4 that make it up."""


def strides(factor: int) -> tuple[int, ...]:
    """The strides that make up a factor.

    Raises:
        OptionError: none do
    """
    if factor not in STRIDES:
        raise OptionError(f"tokenizer.factor={factor}: expected {', '.join(map(str, STRIDES))} samples per token")
    return STRIDES[factor]


class Conv(nn.Conv1d):
    """A convolution with its own number of zeros on either side, and silence where nothing was observed."""

    def __init__(
        self, n_in: int, n_out: int, kernel: int, stride: int = 1, *, edges: tuple[int, int] = (0, 0), bias: bool = True
    ) -> None:
        super().__init__(n_in, n_out, kernel, stride, bias=bias)
        self.edges = edges

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, n_in, L] -> [B, n_out, L / stride], zero where `mask` [B, 1, L / stride] is."""
        return _silent(super().forward(F.pad(x, self.edges)), mask)


class Residual(nn.Module):
    """`layers` times a wide and a narrow convolution beside the identity, then ReLU; as in van den Oord et al. 2017.

    As in the published code, the identity carries what the first ReLU leaves.
    """

    def __init__(self, dim: int, hidden: int, layers: int, edges: tuple[int, int]) -> None:
        super().__init__()
        self.wide = nn.ModuleList(Conv(dim, hidden, 3, edges=edges, bias=False) for _ in range(layers))
        self.narrow = nn.ModuleList(Conv(hidden, dim, 1, bias=False) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """[B, dim, L] -> [B, dim, L]."""
        for wide, narrow in zip(self.wide, self.narrow, strict=True):
            x = x.relu()
            x = x + narrow(wide(x).relu(), mask)
        return x.relu()


class Published(nn.Module):
    """Samples to vectors, each of which sees beyond its own F samples on both sides: with F = 4, 15 of the future.

    Args:
        channels: of a series
        dim: width of a vector
        hidden: width of the convolutions
        res_hidden: inner width of the residual layers
        res_layers: number of these
        factor: samples per vector
    """

    def __init__(self, channels: int, dim: int, hidden: int, res_hidden: int, res_layers: int, factor: int) -> None:
        super().__init__()
        self.strides, self.factor = strides(factor), factor
        widths = (channels, hidden // 2, *[hidden] * (len(self.strides) - 1))
        self.down = nn.ModuleList(
            Conv(n, m, 4, stride, edges=self.edges(4, stride))
            for n, m, stride in zip(widths, widths[1:], self.strides, strict=False)
        )
        self.conv = Conv(hidden, hidden, 3, edges=self.edges(3, 1))
        self.residual = Residual(hidden, res_hidden, res_layers, self.edges(3, 1))
        self.out = Conv(hidden, dim, 1)

    def edges(self, kernel: int, stride: int) -> tuple[int, int]:
        """Zeros before and after a series."""
        return 1, 1

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, C, F N] -> [B, N, dim]; `mask` [B, 1, F N] is 0 where nothing was observed, 1 elsewhere."""
        for conv, stride in zip(self.down, self.strides, strict=True):
            mask = None if mask is None else F.max_pool1d(mask, stride)
            x = conv(x, mask).relu()
        return self.out(self.residual(self.conv(x, mask), mask), mask).transpose(1, 2)


class Causal(Published):
    """Samples to vectors, each of which sees its own F samples and those before."""

    def edges(self, kernel: int, stride: int) -> tuple[int, int]:
        """All zeros before."""
        return kernel - stride, 0


class Patchwise(Published):
    """Samples to vectors, each of which sees its own F samples alone."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """As `Published`, patch by patch."""

        def patches(t: Tensor) -> Tensor:
            return t.unflatten(-1, (-1, self.factor)).transpose(1, 2).flatten(0, 1)

        vectors = super().forward(patches(x), None if mask is None else patches(mask))
        return vectors.reshape(x.shape[0], -1, vectors.shape[-1])


LOOKS: dict[str, type[Published]] = {"published": Published, "causal": Causal, "patch": Patchwise}


class Decoder(nn.Module):
    """Vectors to samples. Each sample sees vectors on both sides, whatever the encoder saw.

    Args: those of `Published`.
    """

    def __init__(self, channels: int, dim: int, hidden: int, res_hidden: int, res_layers: int, factor: int) -> None:
        super().__init__()
        self.strides = strides(factor)[::-1]
        self.conv = Conv(dim, hidden, 3, edges=(1, 1))
        self.residual = Residual(hidden, res_hidden, res_layers, (1, 1))
        widths = (*[hidden] * (len(self.strides) - 1), hidden // 2, channels)
        self.up = nn.ModuleList(
            nn.ConvTranspose1d(n, m, stride + 2, stride, padding=1)
            for n, m, stride in zip(widths, widths[1:], self.strides, strict=False)
        )
        self.reach = 2 + res_layers + len(self.strides)
        """Vectors on either side of a sample's own that it may depend on."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, N, dim] -> [B, C, F N]; `mask` [B, 1, N] is 0 for vectors that stand for nothing, 1 elsewhere."""
        x = self.residual(self.conv(_silent(x.transpose(1, 2), mask), mask), mask)
        for i, (conv, stride) in enumerate(zip(self.up, self.strides, strict=True)):
            mask = None if mask is None else mask.repeat_interleave(stride, -1)
            x = _silent(conv(x if i == 0 else x.relu()), mask)
        return x


def _silent(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x * mask.to(x.dtype)
