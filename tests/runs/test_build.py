"""Components are checked against each other on the meta device; a constructor that reads values is refused."""

import pytest
import torch
from torch import nn

from tstk.config.resolve import resolve_config
from tstk.core.interfaces import Encoder
from tstk.errors import IncompatibleError
from tstk.plugins.registry import Registry, get_registry
from tstk.runs.build import use_meta_device, validate_on_meta

BUILT = {
    "scaled draws": lambda: torch.randn(3, 4) * 0.02,
    "draws of a dtype": lambda: torch.rand(2, dtype=torch.float64),
    "whole numbers": lambda: torch.randint(2**31, ()),
    "whole numbers between two": lambda: torch.randint(-3, 3, (4, 2)),
    "drawn in place": lambda: torch.empty(5).uniform_(1, 16).log(),
    "from the right": lambda: 1 - torch.ones(3),
    "division of whole numbers": lambda: torch.arange(6) / 2,
    "a comparison": lambda: torch.where(torch.zeros(3) > 0, 1.0, 0.0),
    "two axes": lambda: torch.ones(3, 1) * torch.ones(4),
    "a scalar of a wider dtype": lambda: torch.ones(3) * torch.ones((), dtype=torch.float64),
    "two dtypes": lambda: torch.ones(3) * torch.ones(3, dtype=torch.float64),
    "nothing": lambda: torch.ones(0, 3).exp(),
    "a parameter": lambda: nn.Parameter(torch.randn(3) / 3),
    "xavier": lambda: nn.init.xavier_normal_(torch.empty(3, 4)),
    "kaiming": lambda: nn.init.kaiming_uniform_(torch.empty(3, 4)),
    "truncated": lambda: nn.init.trunc_normal_(torch.empty(3, 4)),
    "orthogonal": lambda: nn.init.orthogonal_(torch.empty(3, 4)),
    "a layer": lambda: nn.Linear(3, 4).weight,
    "recurrent": lambda: nn.LSTM(3, 4).weight_hh_l0,
    "angles": lambda: (torch.arange(8)[:, None] * torch.logspace(0, -4, 3)).sin(),
    "half": lambda: torch.ones(2, dtype=torch.bfloat16).mul_(0.5) + 1,
}
WRONG = {
    "sizes": lambda: torch.ones(3) + torch.ones(4),
    "sizes in place": lambda: torch.ones(3).mul_(torch.ones(2, 3)),
    "a dtype in place": lambda: torch.ones(3, dtype=torch.long).mul_(0.5),
    "an empty range": lambda: torch.empty(3).uniform_(2, 1),
}


@pytest.mark.parametrize("make", BUILT.values(), ids=BUILT)
def test_without_values_a_tensor_has_the_shape_and_dtype_that_it_would_have(make):
    real = make()
    before = torch.get_rng_state()
    with use_meta_device():
        bare = make()
    assert (bare.shape, bare.dtype, bare.requires_grad, type(bare), bare.device.type) == (
        real.shape,
        real.dtype,
        real.requires_grad,
        type(real),
        "meta",
    )
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG)
def test_without_values_torch_says_what_is_wrong_as_it_would(make):
    for where in (torch.device("cpu"), use_meta_device()):
        with where, pytest.raises(RuntimeError):
            make()


def test_a_check_of_the_parts_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    validate_on_meta(resolve_config(("test", {"encoder": {"use": "bert"}, "head": {"use": "cot"}})))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("read", [torch.Tensor.item, bool, torch.Tensor.tolist, torch.Tensor.numpy])
def test_a_constructor_that_reads_values_is_named(monkeypatch, read):
    class Reader(Encoder):
        def __init__(self, spec):
            super().__init__(spec)
            read(torch.ones(1))

    load = Registry.load
    monkeypatch.setattr(Registry, "load", lambda self, entry: Reader if entry.name == "identity" else load(self, entry))
    with pytest.raises(IncompatibleError, match="encoder 'identity' reads values of tensors in its constructor"):
        validate_on_meta(resolve_config(("test", {"encoder": {"use": "identity"}, "head": {"use": "linear"}})))


def test_a_part_that_takes_one_channel_is_left_to_the_data(monkeypatch):
    class OneChannel(get_registry().load(get_registry().find("tokenizer", "patch"))):
        def __init__(self, spec, **options):
            if spec.channels != 1:
                raise IncompatibleError(f"these have {spec.channels} channels")
            super().__init__(spec, **options)

    load = Registry.load
    monkeypatch.setattr(
        Registry, "load", lambda self, entry: OneChannel if entry.kind == "tokenizer" else load(self, entry)
    )
    tables = {"tokenizer": {"use": "patch"}, "encoder": {"use": "identity"}, "head": {"use": "linear"}}
    validate_on_meta(resolve_config(("test", tables)))
    with pytest.raises(IncompatibleError, match="would have no use"):  # the fault that any data have
        validate_on_meta(resolve_config(("test", {**tables, "decoder": {"use": "linear"}})))
