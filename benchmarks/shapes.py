"""Shapes of the papers' configs, and nearby sizes that are not multiples of a tile.

Each operation has a few small shapes for quick runs on a CPU, and the full grid.
"""

from __future__ import annotations

from typing import NamedTuple


class Attention(NamedTuple):
    """Self-attention over B x H x N x D.

    `causal`; `ragged`: rows have between N / 2 and N valid keys; `visible`: each row has positions of its own, a random
    ascending part of four times as many; `dropout`: rate of the probabilities.
    """

    name: str
    batch: int
    heads: int
    tokens: int
    width: int
    causal: bool = False
    ragged: bool = False
    visible: bool = False
    dropout: float = 0.0

    def __str__(self) -> str:
        marks = [mark for mark in ("causal", "ragged", "visible") if getattr(self, mark)]
        marks += [f"dropout {self.dropout}"] if self.dropout else []
        return " ".join([f"{self.batch}x{self.heads}x{self.tokens}x{self.width}", *marks])


class Convolution(NamedTuple):
    """Series of samples with channels, and a convolution to other channels, padded by one sample."""

    name: str
    batch: int
    samples: int
    channels: int
    outputs: int
    size: int
    stride: int = 1
    transposed: bool = False

    @property
    def count(self) -> int:
        """Positions of the kernel in a series."""
        return self.samples if self.transposed else self.samples // self.stride

    def __str__(self) -> str:
        kind = f"kernel {self.size}" + (f", stride {self.stride}" if self.stride > 1 else "")
        kind += ", transposed" if self.transposed else ""
        return f"{self.batch}x{self.samples}, {self.channels} to {self.outputs} channels, {kind}"


class Codes(NamedTuple):
    """Rows to quantize, codebook entries, and their width."""

    name: str
    rows: int
    codes: int
    width: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.codes}x{self.width}"


class Wavelets(NamedTuple):
    """Signals and their samples; scales linear (0.1 + i), integer (1 + i) or log (1 to 64, geometric)."""

    name: str
    rows: int
    samples: int
    scales: int
    spacing: str

    def __str__(self) -> str:
        return f"{self.rows}x{self.samples}, {self.scales} {self.spacing} scales"


QUICK_ATTENTION = [
    Attention("TimeMAE encoder", 128, 4, 64, 16),
    Attention("CWT-MAE encoder, a small batch", 4, 12, 188, 64, visible=True),
]
ATTENTION = [
    Attention("TimeMAE encoder", 128, 4, 64, 16),
    Attention("CWT-MAE encoder, visible", 32, 12, 188, 64, visible=True),
    Attention("CWT-MAE full sequence", 32, 12, 752, 64),
    Attention("VQShape tokenizer", 512, 8, 64, 32),
    Attention("TimeMAE visible (60 % masked)", 128, 4, 26, 16, visible=True),
    Attention("VQ-VAE transformer", 32, 8, 256, 64, causal=True),
    Attention("CWT-MAE encoder, padded", 32, 12, 188, 64, ragged=True),
    Attention("long", 4, 12, 4096, 64),
    Attention("Ti-MAE encoder", 64, 4, 96, 16),
    Attention("CWT-MAE encoder, large batch", 90, 12, 240, 64, visible=True),
    Attention("CWT-MAE decoder", 32, 16, 752, 32),
    Attention("long, narrow heads", 8, 8, 1024, 32),
    Attention("nothing is a power of two", 33, 5, 75, 48, ragged=True),
    Attention("wide heads", 16, 8, 128, 128),
]
NARROW_ATTENTION = [
    Attention("TimeMAE, visible windows of HAR", 128, 4, 7, 16, dropout=0.2),
    Attention("Ti-MAE decoder, ECG5000", 64, 4, 140, 8),
    Attention("Ti-MAE encoder, ECG5000", 64, 4, 36, 16),
    Attention("CWT-MAE decoder, tiny", 64, 4, 41, 16),
    Attention("BERT of 64 windows", 32, 8, 64, 16, dropout=0.1),
    Attention("padded series", 64, 4, 140, 16, ragged=True),
    Attention("next codes", 32, 4, 128, 32, causal=True),
    Attention("the most keys without dropout", 8, 8, 192, 64),
]
"""On a CPU only; the first two are the quick ones."""
NUM_KEY_SHAPES = 8
"""Number of leading shapes that are measured on a GPU if time is short."""
MAX_CPU_FLOPS = 2**34
"""Shapes with more multiplications are left out on a CPU."""

QUICK_CODES = [Codes("VQShape, batch 128", 8192, 512, 8), Codes("TOTEM, a small batch", 2048, 256, 64)]
CODES = [
    Codes("VQShape, batch 1024", 65536, 512, 8),
    Codes("VQShape, batch 128", 8192, 512, 8),
    Codes("VQShape, twice that", 131072, 512, 8),
    Codes("TimeMAE", 2048, 192, 64),
    Codes("TOTEM", 16384, 256, 64),
    Codes("a larger codebook", 16384, 1024, 64),
    Codes("and more rows", 65536, 1024, 64),
    Codes("no multiple of a tile", 8191, 320, 24),
    Codes("image-sized codebook", 8192, 8192, 256),
    Codes("large", 65536, 16384, 512),
]

CONVOLUTIONS = [
    Convolution("TOTEM, encoder", 64, 128, 128, 128, 3),
    Convolution("TOTEM, residual layer", 64, 128, 128, 64, 3),
    Convolution("TOTEM, first of the decoder", 64, 128, 64, 128, 3),
    Convolution("TOTEM, stride", 64, 256, 64, 128, 4, 2),
    Convolution("TOTEM, transposed", 64, 128, 128, 64, 4, 2, transposed=True),
    Convolution("no multiple of a tile", 31, 101, 48, 80, 3),
    Convolution("wide", 8, 256, 512, 512, 3),
    Convolution("narrow", 64, 512, 16, 16, 3),
]

QUICK_STEPS = [Codes("VQShape, batch 32", 2048, 512, 8)]
STEPS = [Codes("VQShape, batch 128", 8192, 512, 8), Codes("VQShape, published batch", 32768, 512, 8)]

QUICK_WAVELETS = [Wavelets("CWT-MAE, a small batch", 4, 1000, 64, "linear")]
WAVELETS = [
    Wavelets("CWT-MAE, one signal each", 32, 3000, 64, "linear"),
    Wavelets("integer scales", 32, 3000, 64, "integer"),
    Wavelets("geometric scales", 32, 3000, 64, "log"),
    Wavelets("CWT-MAE finetuning", 96, 1000, 64, "linear"),
    Wavelets("long signals", 32, 10000, 64, "linear"),
    Wavelets("CWT-MAE with differences", 96, 3000, 64, "linear"),
    Wavelets("CWT-MAE, published batch", 1080, 3000, 64, "linear"),
]
"""The last two are for a GPU."""


def list_attention_shapes(full: bool, device: str) -> list[Attention]:
    """Return the shapes that fit the device and the time."""
    rows = ATTENTION if full else ATTENTION[:NUM_KEY_SHAPES] if device == "cuda" else QUICK_ATTENTION
    return [s for s in rows if device == "cuda" or s.batch * s.heads * s.tokens**2 * s.width <= MAX_CPU_FLOPS]


def list_narrow_shapes(full: bool) -> list[Attention]:
    """Return the shapes of plain attention on a CPU."""
    return NARROW_ATTENTION if full else NARROW_ATTENTION[:2]


def list_convolution_shapes(full: bool) -> list[Convolution]:
    """Return the shapes on a CPU."""
    return CONVOLUTIONS if full else CONVOLUTIONS[1:2]


def list_attention_dtypes(shape: Attention, full: bool, device: str) -> list[str]:
    """Return bfloat16 for a GPU and float32 for a CPU; for a few shapes also other dtypes."""
    all_dtypes = full and shape.name in ("TimeMAE encoder", "CWT-MAE encoder, visible", "long, narrow heads")
    if device == "cuda":
        return ["bfloat16", *(["float32", "float16"] if all_dtypes else [])]
    return ["float32", *(["bfloat16"] if all_dtypes else [])]


def list_code_shapes(full: bool, device: str) -> list[Codes]:
    """Return the shapes that fit the device and the time."""
    rows = CODES if full or device == "cuda" else QUICK_CODES
    return [s for s in rows if device == "cuda" or s.rows * s.codes * s.width <= MAX_CPU_FLOPS]


def list_step_shapes(full: bool, device: str) -> list[Codes]:
    """Return the shapes that fit the device and the time."""
    return STEPS if full or device == "cuda" else QUICK_STEPS


def list_wavelet_shapes(full: bool, device: str) -> list[Wavelets]:
    """Return the shapes that fit the device and the time."""
    rows = WAVELETS if full or device == "cuda" else QUICK_WAVELETS
    return [s for s in rows if device == "cuda" or s.rows * s.samples <= 400_000]
