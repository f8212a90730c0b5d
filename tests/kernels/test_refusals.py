"""The Triton backends refuse unsupported types, shapes and GPUs before anything is computed."""

import pytest
import torch

from tstk.kernels import dispatch
from tstk.kernels.dispatch import why_triton_unavailable
from tstk.kernels.nearest_code import nearest_code_op
from tstk.kernels.ricker_cwt import ricker_cwt_op
from tstk.kernels.rope_attention import rope_attention_op
from tstk.kernels.vector_quantize import LossOptions, vector_quantize_op

OPTIONS = LossOptions(entropy=0.1)


@pytest.fixture(autouse=True)
def any_device(monkeypatch):
    """Treat tensors of the meta device as those of a GPU."""
    monkeypatch.setattr(dispatch, "_HAS_TRITON", True)
    monkeypatch.setenv("TRITON_INTERPRET", "1")


def why_unsupported(operation, *args, **options):
    return operation.backends["triton"].why_unsupported(*args, **options)


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


def heads(n, d, dtype=torch.float32, other=None):
    q = meta(1, 2, n, d, dtype=dtype)
    return q, q, q if other is None else q.to(other), 2 * (meta(1, 1, n, d // 2),)


@pytest.mark.parametrize("width", [1, 8, 64, 65, 128, 256, 512, 1000])
def test_codes_of_any_width_are_searched(width):
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert why_unsupported(nearest_code_op, meta(100, width, dtype=dtype), meta(50, width)) == ""


def test_quantizers_of_wide_vectors_are_refused_with_the_width():
    assert why_unsupported(vector_quantize_op, meta(100, 64), meta(50, 64), None, OPTIONS) == ""
    reason = why_unsupported(vector_quantize_op, meta(100, 128), meta(50, 128), None, OPTIONS)
    assert "up to 64 wide; these are 128" in reason


def test_codebooks_that_need_more_than_32_bits_are_refused():
    """The table of a search has twice as many numbers as a wide codebook, and more for narrow codes."""
    for k, d in ((2**22, 512), (2**22, 256), (2**26, 1)):
        assert f"[{k}, {d}]" in why_unsupported(nearest_code_op, meta(10, d), meta(k, d))
    assert why_unsupported(nearest_code_op, meta(10, 256), meta(2**21, 256)) == ""
    assert why_unsupported(vector_quantize_op, meta(9, 64), meta(2**23, 64), None, OPTIONS) == ""
    assert "[67108864, 64]" in why_unsupported(vector_quantize_op, meta(9, 64), meta(2**26, 64), None, OPTIONS)


@pytest.mark.parametrize(("n", "d"), [(1, 16), (188, 64), (5000, 128), (1_048_560, 18)])
def test_heads_of_16_to_128_are_served_at_any_length_up_to_a_million(n, d):
    assert why_unsupported(rope_attention_op, *heads(n, d, torch.bfloat16)) == ""


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (lambda: heads(8, 8), "heads 16 to 128 wide, not 8"),
        (lambda: heads(8, 130), "heads 16 to 128 wide, not 130"),
        (lambda: heads(8, 16, torch.float64), "not torch.float64"),
        (lambda: heads(8, 16, torch.float16, torch.float32), "throughout, not torch.float16, torch.float16"),
        (lambda: heads(1_048_561, 16), "up to 1048560 tokens, not 1048561"),
        (
            lambda: (*(meta(1, 20, 1_000_000, 128),) * 3, 2 * (meta(1, 1, 1_000_000, 64),)),
            "2^31 or more apart",
        ),
        (
            lambda: (*(meta(1, 1, 1_000_000, 128).expand(1, 20, -1, -1),) * 3, 2 * (meta(1, 1, 1_000_000, 64),)),
            "2^31 or more apart",  # the output's, though q, k and v take little memory
        ),
    ],
)
def test_attention_says_what_it_does_not_take(question, reason):
    assert reason in why_unsupported(rope_attention_op, *question())


def test_wavelets_say_what_they_do_not_take():
    assert (
        why_unsupported(ricker_cwt_op, meta(2, 10_000), (1.0,) * 64, padding="zero", kernel="odd", patch=(4, 50)) == ""
    )
    assert "float64" in why_unsupported(ricker_cwt_op, meta(2, 100, dtype=torch.float64), (1.0,))
    assert "64 scales of 40000000 are 2^31 or more" in why_unsupported(ricker_cwt_op, meta(1, 40_000_000), (1.0,) * 64)
    assert why_unsupported(ricker_cwt_op, meta(2, 100_000), (1.0,) * 64, patch=(4, 100_000)) == ""
    for shape, patch in (((2**26, 32), (1, 1)), ((2**31, 1), None)):
        assert "has 2^31 or more" in why_unsupported(ricker_cwt_op, meta(*shape), (1.0,), patch=patch)


def test_a_gpu_that_is_too_old_or_not_nvidia_s_is_refused_with_what_it_has(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for capability, reason in (
        ((7, 5), "compute capability 8.0 or more, and this one has 7.5"),
        ((8, 0), ""),
        ((12, 0), ""),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index, capability=capability: capability)
        for device in (None, torch.device("cuda"), torch.device("cuda", 1)):
            assert why_triton_unavailable(device).endswith(reason)
            assert bool(why_triton_unavailable(device)) == bool(reason)
    monkeypatch.setattr(torch.version, "hip", "6.0")
    assert why_triton_unavailable() == "its kernels are for NVIDIA GPUs"


@pytest.mark.slow
def test_a_compiled_call_asks_the_gpu_without_leaving_the_graph():
    call = torch.compile(lambda x: x + len(dispatch._why_gpu_unsupported(False, None)), fullgraph=True, backend="eager")
    assert call(torch.zeros(2)).tolist() == [len(dispatch._why_gpu_unsupported(False, None))] * 2
