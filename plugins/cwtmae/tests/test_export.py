"""Classifiers of wavelet images export as one graph of matrix products, from samples to logits."""

import pytest
import torch

from tstk.core.types import Series, Spec
from tstk.inference.export import export


def classifier(build, head, **tokenizer):
    spec = Spec(channels=2, length=44, task="classification", num_outputs=3)
    options = {"cls": True, "rope": "flat", "rank_ratio": 0.5, "bias": False}
    return build(
        spec,
        tokenizer=tokenizer,
        encoder=options,
        decoder=None,
        loss={"use": "cross-entropy"},
        head={"use": head},
        wiring={"instance_norm": True},
    ).eval()


@pytest.mark.slow
@pytest.mark.parametrize(("head", "kernel"), [("cot", "odd"), ("residual-mlp", "published")])
def test_a_classifier_is_a_graph_for_any_batch_without_a_fourier_transform_and_goes_to_onnx(
    build, make, tmp_path, head, kernel
):
    pipeline = classifier(build, head, kernel=kernel)
    program = export(pipeline)
    x = make(batch=7, length=44).x
    torch.testing.assert_close(program.module()(x), pipeline.predict_batch(Series(x)), rtol=0, atol=1e-5)
    graphs = [m.graph for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]
    called = {str(node.target) for graph in graphs for node in graph.nodes if node.op == "call_function"}
    assert any("einsum" in name or "bmm" in name or "matmul" in name for name in called), called
    assert not any("fft" in name or "conv" in name for name in called)

    if head == "cot":
        runtime = pytest.importorskip("onnxruntime", reason="pip install 'tstk-core[onnx]'")
        path = tmp_path / "model.onnx"
        torch.onnx.export(program, input_names=["x"]).save(path)
        (output,) = runtime.InferenceSession(path).run(None, {"x": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(output), pipeline.predict_batch(Series(x)), rtol=0, atol=1e-5)
