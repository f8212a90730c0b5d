"""Operations with several backends each; this package depends only on torch and numpy (and optionally Triton)."""

from tstk.kernels.convolution import convolve
from tstk.kernels.dispatch import use_backend
from tstk.kernels.nearest_code import nearest_code
from tstk.kernels.ricker_cwt import ricker_cwt
from tstk.kernels.rope_attention import rope_attention
from tstk.kernels.vector_quantize import vector_quantize

__all__ = ["convolve", "nearest_code", "ricker_cwt", "rope_attention", "use_backend", "vector_quantize"]
