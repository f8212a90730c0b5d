"""A checkpoint of the published program becomes a run that computes the same."""

import pytest
import torch

import tstk
from benchmarks.published.timemae import TimeMAE
from tests.support.checkpoints import TIMEMAE_NAMES, list_accepted_changes, make_timemae, rename
from tstk.core.types import Series
from tstk.errors import CheckpointError, OptionError
from tstk.plugins.registry import get_registry
from tstk.runs.importing import SourceTensors, build_importer, convert_checkpoint

SMALL = {"channels": 3, "length": 40, "window": 4, "dim": 16, "depth": 2, "decoder_depth": 1, "heads": 4, "codes": 12}


@pytest.fixture(params=[SMALL, {}], ids=["small", "HAR"])
def imported(tmp_path, request):
    model, state = make_timemae(**request.param)
    torch.save(state, tmp_path / "pretrain_model.pkl")
    notes = []
    tstk_run = tstk.import_run("timemae", tmp_path / "pretrain_model.pkl", tmp_path / "run", print_fn=notes.append)
    return model, tstk_run, notes


@torch.no_grad()
def test_tokens_encoder_predictions_and_codewords_are_those_of_the_program(imported):
    model, run, _ = imported
    pipeline = tstk.load(run.run_dir)
    x = torch.randn(5, pipeline.spec.channels, pipeline.spec.length, generator=torch.Generator().manual_seed(1))
    tokens = pipeline.tokenize(Series(x, sample_id=torch.arange(5))).tokens
    content = model.project(x).transpose(1, 2)
    torch.testing.assert_close(tokens.values, content, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        pipeline.loss.codeword_classifier(tokens.values), model.center(content), atol=1e-5, rtol=1e-5
    )
    is_masked = torch.zeros(content.shape[:2], dtype=torch.bool)
    is_masked[:, [0, 3, 4, 9]] = True
    visible = [i for i in range(content.shape[1]) if i not in (0, 3, 4, 9)]
    encoded = pipeline.encoder(tokens.select(~is_masked))
    placed = content + model.positions.weight
    expected = model.encoder(placed[:, visible])
    torch.testing.assert_close(encoded.values, expected, atol=1e-5, rtol=1e-5)
    predictions = pipeline.decoder(encoded, tokens.select(is_masked), pipeline.encoder.pos_embed)
    queries = (model.mask_token + model.positions.weight[[0, 3, 4, 9]]).expand(5, -1, -1)
    for block in model.decoder:
        queries = block(queries, expected)
    torch.testing.assert_close(predictions, queries, atol=1e-5, rtol=1e-5)


def test_what_is_left_of_the_file_is_said(imported):
    model, run, notes = imported
    count = len(model.teacher.state_dict())
    assert any(f"left: momentum_encoder.* ({count} tensors): the teacher" in note for note in notes)
    assert any("left: predict_head.* (2 tensors)" in note for note in notes)
    assert any("number of heads; 4 as published" in note for note in notes)
    assert run.task == "pretraining"


@pytest.mark.slow
@torch.no_grad()
def test_a_fine_tuned_checkpoint_is_a_classifier_with_named_classes(tmp_path):
    model, state = make_timemae(**SMALL)
    head = torch.nn.Linear(16, 3)
    state |= {"predict_head.weight": head.weight, "predict_head.bias": head.bias}
    torch.save(state, tmp_path / "model.pkl")
    notes, names = [], ("walking", "sitting", "lying")
    run = tstk.import_run(
        "timemae", tmp_path / "model.pkl", tmp_path / "run", classes=names, heads=4, print_fn=notes.append
    )
    assert run.task == "classification"
    assert [note.partition(":")[0] for note in notes] == ["left"] * 4
    x = torch.randn(50, 3, 40)
    encoded = model.encoder(model.project(x).transpose(1, 2) + model.positions.weight)
    logits = head(encoded.mean(1))
    prediction = tstk.load(run.run_dir).predict(x)
    torch.testing.assert_close(torch.tensor(prediction.probabilities).float(), logits.softmax(-1), atol=1e-5, rtol=1e-5)
    assert list(prediction.labels) == [names[i] for i in logits.argmax(-1)]
    with pytest.raises(OptionError, match=r"--classes names 2 classes; .*model.pkl has 3"):
        tstk.import_run("timemae", tmp_path / "model.pkl", tmp_path / "other", classes=names[:2])
    with pytest.raises(OptionError, match="several classes are named 'walking'; give each a name of its own"):
        tstk.import_run("timemae", tmp_path / "model.pkl", tmp_path / "other", classes=("walking", "lying", "walking"))


@pytest.mark.slow
def test_a_checkpoint_of_the_published_size_fits_the_published_pipeline():
    with torch.device("meta"):
        model = TimeMAE()
    source = SourceTensors("har.pt", rename(model.state_dict(), TIMEMAE_NAMES))
    importer = build_importer(get_registry().find("importer", "timemae"), {})
    converted, config = convert_checkpoint(importer, source, "timemae")
    assert (converted.spec.channels, converted.spec.length) == (9, 128)
    assert config.values["encoder"]["depth"] == 8
    assert config.values["decoder"]["depth"] == 4
    assert sum(value.numel() for value in converted.weights.values()) == 1_018_350 - 399_888 - 390


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"mask_token": torch.zeros(7)}, CheckpointError, r"mask_token is \[7\]; expected \[16\]"),
        ({"mask_token": None}, CheckpointError, r"has no mask_token \[16\]; it has"),
        ({"gate.weight": torch.zeros(2, 3)}, CheckpointError, r"no part of the pipeline takes gate.weight \[2, 3\]"),
        ({"position.pe.weight": torch.zeros(10)}, CheckpointError, r"is \[10\]; expected \[windows, dim\]"),
        (
            {"encoder.TRMs.1.attn.linear_layers.2.bias": torch.zeros(5)},
            CheckpointError,
            r"encoder.stack.blocks.1.attention.value.bias is \[5\] in the file; expected \[16\]",
        ),
        ({"mask_token": torch.full([16], torch.nan)}, CheckpointError, "mask_token holds values that are not finite"),
        ({"mask_token": torch.zeros(16, dtype=torch.int64)}, CheckpointError, "mask_token is int64"),
        ({}, OptionError, "heads=3 does not divide dim=16; nearby: 2, 4"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_the_name_of_the_tensor(change, error, message, tmp_path):
    state = make_timemae(**SMALL)[1] | change
    torch.save({name: value for name, value in state.items() if value is not None}, tmp_path / "x.pt")
    with pytest.raises(error, match=message):
        tstk.import_run("timemae", tmp_path / "x.pt", tmp_path / "run", heads=4 if change else 3)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_tensor_that_is_missing_or_of_another_shape_is_refused():
    accepted = list_accepted_changes("timemae", make_timemae(**SMALL)[1])
    # those that a run has no place for, and the table of positions, whose rows tell the length
    assert [c for c in accepted if not c.startswith(("momentum_encoder.", "predict_head."))] == [
        "position.pe.weight: doubled"
    ]
