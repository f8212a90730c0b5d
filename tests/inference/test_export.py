"""An exported graph gives the outputs of the pipeline."""

import sys

import pytest
import torch

import tstk
from tstk.core.types import Series
from tstk.errors import IncompatibleError, OptionError, TstkError
from tstk.inference.export import check_against_pipeline, export, export_graph, export_run
from tstk.plugins.local import register_component
from tstk.runs.checkpoint import load


@pytest.mark.slow
@pytest.mark.parametrize("head", ["linear", "cot", "residual-mlp"])
def test_a_classifier_is_a_graph_for_any_batch(build, labelled_spec, head, tmp_path):
    pipeline = build(labelled_spec, head=head).eval()
    pipeline.mean += 3
    torch.export.save(export(pipeline), tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    for batch in (1, 9):
        x = torch.randn(batch, 2, 24)
        torch.testing.assert_close(program(x), pipeline.predict_batch(Series(x)), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["transformer", "bert", "identity"])
def test_a_classifier_is_a_graph_for_any_length_that_it_takes(build, labelled_spec, encoder, tmp_path):
    pipeline = build(labelled_spec, encoder=encoder, head="linear").eval()
    result = export_graph(pipeline)
    assert result.min_length <= 8
    assert result.max_length == 24
    program = result.program.module()
    for length in range(result.min_length, 25):
        x = torch.randn(3, 2, length)
        torch.testing.assert_close(program(x), pipeline.predict_batch(Series(x)), rtol=0, atol=1e-5)
    with pytest.raises(Exception, match=r"24|25"):
        program(torch.randn(3, 2, 25))


class LoopOverSeries(tstk.Encoder):
    def forward(self, tokens):
        return tokens.replace(values=torch.stack([2 * values for values in tokens.values]))


@pytest.mark.slow
def test_a_component_that_takes_one_batch_size_alone_is_named_in_a_line(build, labelled_spec):
    encoder = {"use": register_component("encoder", LoopOverSeries)}
    place = r"encoder 'LoopOverSeries' \(class LoopOverSeries, .*test_export.py:\d+\)"
    with pytest.raises(IncompatibleError, match=f"one size of batch alone\\); in {place}: use no loop over") as error:
        export(build(labelled_spec, encoder=encoder, head="linear"))
    assert "\n" not in str(error.value)


class UntracedNumber(tstk.Encoder):
    def forward(self, tokens):
        return tokens.replace(values=torch.from_numpy(tokens.values.detach().numpy()))


@pytest.mark.slow
def test_a_component_that_cannot_be_traced_is_named_in_a_line(build, labelled_spec):
    encoder = {"use": register_component("encoder", UntracedNumber)}
    with pytest.raises(IncompatibleError, match=r"torch\.export cannot trace .*class UntracedNumber") as error:
        export(build(labelled_spec, encoder=encoder, head="linear"))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_what_takes_one_length_alone_says_why(build, labelled_spec, table_spec):
    assert "needs the whole context" in str(export_graph(build(table_spec, head="forecast")))
    pipeline = build(labelled_spec, head="linear")
    assert str(export_graph(pipeline, 16)) == "16 samples"
    forward = pipeline.tokenizer.forward

    def break_for_even_lengths(series):
        return forward(series if series.x.shape[-1] % 2 else series.replace(x=series.x * 1))

    pipeline.tokenizer.forward = break_for_even_lengths
    assert "specializes the graph" in str(export_graph(pipeline))


@pytest.mark.slow
def test_a_forecaster_predicts_in_the_units_of_the_data(build, table_spec):
    pipeline = build(table_spec, head="forecast").eval()
    pipeline.std *= 10
    x = torch.randn(3, 2, 24)
    torch.testing.assert_close(export(pipeline).module()(x), pipeline.predict_batch(Series(x)), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_graph_may_be_for_shorter_series(build, labelled_spec):
    pipeline = build(labelled_spec, head="linear").eval()
    x = torch.randn(3, 2, 16)
    torch.testing.assert_close(export(pipeline, 16).module()(x), pipeline.predict_batch(Series(x)), rtol=0, atol=1e-5)


def test_what_predicts_nothing_is_not_exported(build, labelled_spec):
    with pytest.raises(OptionError, match="predicts nothing"):
        export(build(labelled_spec, decoder="transformer"))


@pytest.mark.slow
def test_an_exported_graph_with_different_outputs_is_refused(build, labelled_spec):
    pipeline = build(labelled_spec, head="linear")
    result = export_graph(pipeline)
    program = result.program.module()
    assert check_against_pipeline(program, pipeline, result) == result.max_relative_error
    with pytest.raises(TstkError, match="differs from the pipeline"):
        check_against_pipeline(lambda x: program(x) + (x.shape[-1] == result.min_length), pipeline, result)


@pytest.mark.slow
def test_an_exported_run_gives_the_same_outputs(run, tmp_path):
    path = tmp_path / "model.pt2"
    assert export_run(run, path).max_relative_error <= 1e-5
    pipeline = load(run)
    x = torch.randn(4, pipeline.spec.channels, pipeline.spec.length)
    torch.testing.assert_close(
        torch.export.load(path).module()(x), pipeline.predict_batch(Series(x)), rtol=0, atol=1e-5
    )


@pytest.mark.slow
def test_onnx_gives_the_same_outputs_for_any_batch_and_length(run, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="pip install 'tstk-core[onnx]'")
    path = tmp_path / "model.onnx"
    result = export_run(run, path)
    assert result.max_relative_error <= 1e-5
    pipeline, session = load(run), runtime.InferenceSession(path)
    for batch, length in ((1, result.min_length), (7, result.max_length), (2, result.max_length - 3)):
        x = torch.randn(batch, pipeline.spec.channels, length)
        answer = torch.from_numpy(session.run(["answer"], {"x": x.numpy()})[0])
        torch.testing.assert_close(answer, pipeline.predict_batch(Series(x)), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_missing_packages_are_named_and_leave_no_file(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(IncompatibleError, match=r"pip install 'tstk-core\[onnx\]'"):
        export_run(run, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_other_suffixes_are_refused(run, tmp_path):
    with pytest.raises(OptionError, match=r"must end in \.pt2"):
        export_run(run, tmp_path / "model.bin")
