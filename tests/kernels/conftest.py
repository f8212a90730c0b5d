"""Inputs of the operations, their outputs in float64, and numbers of threads."""

from types import SimpleNamespace

import pytest
import torch

from tstk.kernels import rope_attention
from tstk.nn.positions import rotary_angles


@pytest.fixture(params=[1, 2])
def threads(request):
    """Rows are divided over threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


class Rope(SimpleNamespace):
    """Tensors for one call of `rope_attention`, as an encoder has them: [B, N, H, D] seen as [B, H, N, D]."""

    def __call__(self, backend=None, dtype=None):
        """Return the output and the gradients of q, k and v."""
        leaves = [t.detach().to(dtype or t.dtype).requires_grad_() for t in self.qkv]
        out = rope_attention(
            *leaves, self.angles, valid=self.valid, causal=self.causal, scale=self.scale, backend=backend
        )
        return out, *torch.autograd.grad(out, leaves, self.grad.to(out.dtype))

    def agrees(self, backend, atol):
        """Check a backend against the reference in float64."""
        for name, got, want in zip("oqkv", self(backend), self("reference", torch.float64), strict=True):
            assert got.dtype == self.qkv[0].dtype
            error = (got - want).abs().max()
            assert error <= atol * max(1, want.abs().max()), f"{name}: {error:.1e}"


@pytest.fixture
def rope():
    """`rope(B, H, N, D, ...)` returns random inputs with increasing positions."""

    def make(b, h, n, d, *, axes=1, ragged=False, causal=False, scale=None, dtype=torch.float32, device="cpu", seed=0):
        draw = torch.Generator().manual_seed(seed)
        qkv = [torch.randn(b, n, h, d, generator=draw).to(device, dtype).transpose(1, 2) for _ in range(3)]
        pos = torch.rand(b, n, axes, generator=draw).mul(8).cumsum(1).floor()
        valid = None
        if ragged:  # the first series is all padding, the others end somewhere and miss a token here and there
            lengths = torch.randint(1, n + 1, (b,), generator=draw)
            lengths[0] = 0
            valid = (torch.arange(n) < lengths[:, None]) & (torch.rand(b, n, generator=draw) < 0.9)
            valid = valid.to(device)
        return Rope(
            qkv=qkv,
            grad=torch.randn(b, h, n, d, generator=draw).to(device),
            angles=tuple(t.to(device) for t in rotary_angles(pos, d)),
            valid=valid,
            causal=causal,
            scale=scale,
        )

    return make
