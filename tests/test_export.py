"""A pipeline leaves tstk as one graph that answers as it did."""

import pytest
import torch

from tstk.errors import OptionError, TstkError
from tstk.export import Answer, export
from tstk.records import Series


@pytest.mark.parametrize("head", ["linear", "cot", "residual-mlp"])
def test_a_classifier_is_a_graph_for_any_batch(build, labelled_spec, head, tmp_path):
    pipeline = build(labelled_spec, head=head).eval()
    pipeline.mean += 3
    torch.export.save(export(pipeline), tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    for batch in (1, 9):
        x = torch.randn(batch, 2, 24)
        torch.testing.assert_close(program(x), pipeline.predict(Series(x)), rtol=0, atol=1e-5)


def test_a_forecaster_answers_in_the_units_of_the_data(build, table_spec):
    pipeline = build(table_spec, head="forecast").eval()
    pipeline.std *= 10
    x = torch.randn(3, 2, 24)
    torch.testing.assert_close(export(pipeline).module()(x), pipeline.predict(Series(x)), rtol=1e-5, atol=1e-5)


def test_a_graph_may_be_for_shorter_series(build, labelled_spec):
    pipeline = build(labelled_spec, head="linear").eval()
    x = torch.randn(3, 2, 16)
    torch.testing.assert_close(export(pipeline, 16).module()(x), pipeline.predict(Series(x)), rtol=0, atol=1e-5)


def test_what_predicts_nothing_is_not_exported(build, labelled_spec):
    with pytest.raises(OptionError, match="predicts nothing"):
        export(build(labelled_spec, decoder="transformer"))


def test_a_graph_that_answers_differently_is_not_handed_out(build, labelled_spec, monkeypatch):
    pipeline = build(labelled_spec, head="linear")
    forward, calls = Answer.forward, []

    def drifting(self, x):
        calls.append(1)
        return forward(self, x) + (len(calls) == 1)

    monkeypatch.setattr(Answer, "forward", drifting)
    with pytest.raises(TstkError, match="differs from the pipeline"):
        export(pipeline)
