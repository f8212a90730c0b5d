"""Three operations with several implementations each; this package needs torch and numpy and nothing else."""

from tstk.kernels.dispatch import using
from tstk.kernels.nearest_code import nearest_code
from tstk.kernels.ricker_cwt import ricker_cwt
from tstk.kernels.rope_attention import rope_attention

__all__ = ["nearest_code", "ricker_cwt", "rope_attention", "using"]
