"""A head with an operation that has no deterministic implementation in torch."""

import torch

from tstk.builtin.heads.linear import Linear
from tstk.core.types import Spec


class _Identity(torch.autograd.Function):
    """The identity, whose backward pass is not deterministic."""

    @staticmethod
    def forward(ctx, x):
        """[...]."""
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        """[...]."""
        return _copy_nondeterministically(grad)


def _copy_nondeterministically(x):
    return torch.empty_like(x).put_(torch.arange(x.numel()), x.contiguous())


class NondeterministicHead(Linear):
    """The linear head, with a nondeterministic operation in the forward or the backward pass.

    Args:
        back: in the backward pass instead of the forward pass
    """

    def __init__(self, spec: Spec, *, back: bool = False) -> None:
        super().__init__(spec)
        self.back = back

    def forward(self, tokens):
        """Logits [B, classes]."""
        output = super().forward(tokens)
        return _Identity.apply(output) if self.back else output + _copy_nondeterministically(output.detach())
