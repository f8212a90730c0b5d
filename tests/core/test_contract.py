"""A component that breaks its contract is named by its class, file and line, before the first step of training."""

from pathlib import Path

import pytest
import torch
from torch import nn

import tstk
from tstk.builtin.heads.linear import Linear
from tstk.builtin.losses.cross_entropy import CrossEntropy
from tstk.builtin.tokenizers.patch import Patch
from tstk.core.contract import check_outputs
from tstk.errors import IncompatibleError
from tstk.plugins.local import register_component


class WithoutOut(tstk.Encoder):
    says = r"values is \[2, \d+, 24\]; expected \[2, \d+, 16\].*self.out = spec.replace"

    def __init__(self, spec):
        super().__init__(spec)
        self.layer = nn.Linear(spec.dim, 24)

    def forward(self, tokens):
        return tokens.replace(values=self.layer(tokens.values))


class BareTensor(tstk.Encoder):
    says = r"forward returned a tensor \[2, \d+, 16\]; expected Tokens"

    def forward(self, tokens):
        return tokens.values


class FewerTokens(tstk.Encoder):
    says = r"forward returned \[2, \d+\] tokens, \[B, N\]; expected \[2, \d+\], as many as it got"

    def forward(self, tokens):
        return tokens.map(lambda t: t[:, 1:])


class WithoutPrefix(tstk.Encoder):
    says = "0 prefix tokens; expected out.num_prefix_tokens = 1"

    def __init__(self, spec):
        super().__init__(spec)
        self.out = spec.replace(num_prefix_tokens=1)

    def forward(self, tokens):
        return tokens


class UnbatchedPositions(Patch):
    says = r"pos is \[\d+, 1\]; expected \[2, \d+, 1\]"

    def forward(self, series):
        tokens = super().forward(series)
        return tokens.replace(pos=tokens.pos[0])


class WithoutPositions(Patch):
    says = r"tokens whose pos is nothing \(None\); expected a tensor"

    def forward(self, series):
        return super().forward(series).replace(pos=None)


class FlatValues(Patch):
    says = r"tokens whose values are \[2, \d+\]; expected \[B, N, D\]"

    def forward(self, series):
        tokens = super().forward(series)
        return tokens.replace(values=tokens.values.mean(-1))


class OtherWidth(Linear):
    says = r"a tensor \[2, 8\]; expected \[2, 3\], \[B, spec.num_outputs\]"

    def forward(self, tokens):
        return super().forward(tokens).repeat(1, 3)[:, :8]


class TensorLoss(CrossEntropy):
    says = r"forward returned a tensor \[\]; expected a dict of named scalars"

    def forward(self, step_output):
        return sum(super().forward(step_output).values())


class EmptyLoss(CrossEntropy):
    says = "forward returned an empty dict"

    def forward(self, step_output):
        return {}


class VectorLoss(CrossEntropy):
    says = r"the loss 'mine' is a tensor \[4\]; expected a scalar, such as its mean"

    def forward(self, step_output):
        return {"mine": sum(super().forward(step_output).values()).expand(4)}


class FloatLoss(CrossEntropy):
    says = r"the loss 'mine' is a float; expected a scalar tensor, without `.item\(\)`"

    def forward(self, step_output):
        return {"mine": sum(super().forward(step_output).values()).item()}


class DetachedLoss(CrossEntropy):
    says = "no gradient can flow from the loss 'mine'"

    def forward(self, step_output):
        return {"mine": sum(super().forward(step_output).values()).detach()}


BROKEN = [c for c in list(globals().values()) if isinstance(c, type) and "says" in vars(c)]


@pytest.mark.parametrize("component", BROKEN)
def test_fit_names_the_class_that_breaks_its_contract_and_its_line(component, npz, tmp_path):
    tokenizer = {"use": "patch", "dim": 16} if component.kind != "tokenizer" else component
    slots = {"tokenizer": tokenizer, "encoder": "identity", "head": "linear", component.kind: component}
    line = component.forward.__code__.co_firstlineno
    place = rf"class {component.__name__}, .*{Path(__file__).name}:{line}\): .*{component.says}"
    with pytest.raises(IncompatibleError, match=place) as error:
        tstk.fit(data=npz, **slots, steps=1, out=tmp_path / "run", device="cpu")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


class BatchNorm(tstk.Encoder):
    def __init__(self, spec):
        super().__init__(spec)
        self.norm = nn.BatchNorm1d(spec.dim)

    def forward(self, tokens):
        return tokens.replace(values=self.norm(tokens.values.mT).mT)


class HardInEvaluation(CrossEntropy):
    def forward(self, step_output):
        losses = super().forward(step_output)
        return losses if self.training else {name: value.detach() for name, value in losses.items()}


def test_a_loss_without_gradients_in_evaluation_alone_is_accepted(build, labelled_spec, ragged):
    loss = {"use": register_component("loss", HardInEvaluation)}
    check_outputs(build(labelled_spec, head="linear", loss=loss).eval(), ragged())


def test_checking_outputs_changes_neither_state_nor_random_numbers(build, labelled_spec, ragged):
    pipeline = build(labelled_spec, encoder={"use": register_component("encoder", BatchNorm)}, head="linear").train()
    pipeline.encoder.eval()
    state = {k: v.clone() for k, v in pipeline.state_dict().items()}
    random_state = torch.get_rng_state()
    check_outputs(pipeline, ragged())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(v, state[k]) for k, v in pipeline.state_dict().items())
    assert pipeline.training
    assert not pipeline.encoder.training
    assert not any(part._forward_hooks for part in pipeline.modules())


def test_an_error_within_a_component_is_left_to_training(build, labelled_spec, ragged, monkeypatch):
    pipeline = build(labelled_spec, head="linear")
    monkeypatch.setattr(type(pipeline.head), "forward", lambda self, tokens: tokens.nothing)
    check_outputs(pipeline, ragged())
    with pytest.raises(AttributeError, match="nothing"):
        pipeline(ragged())
