"""Three operations with several implementations each; this package needs torch and numpy and nothing else."""

from tstk.kernels.dispatch import using
from tstk.kernels.nearest_code import nearest_code
from tstk.kernels.rope_attention import rope_attention

__all__ = ["nearest_code", "rope_attention", "using"]
