"""Low-rank updates reach the output of every encoder, leave all else as it was, and are merged wherever weights go."""

import os
import signal
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import tstk
from tstk.config.resolve import parse_overrides, resolve_config
from tstk.errors import OptionError
from tstk.plugins.registry import get_registry
from tstk.runs.checkpoint import load
from tstk.testing.fixture import NoPipelineError, build_fixture
from tstk.training.callbacks import Callback
from tstk.training.config import TrainConfig
from tstk.training.dry_run import dry_run
from tstk.training.interrupt import TrainingInterrupted
from tstk.training.loop import fit
from tstk.training.lora import add_lora, has_lora, merge_lora, remove_lora
from tstk.training.lr_finder import lr_range_test
from tstk.training.runs import prepare_training, resume_run, train

pytestmark = pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")

SIZES = {"encoder": "transformer", "encoder.dim": "16", "encoder.depth": "2", "encoder.heads": "2"}
TRAIN = {"lora": "2", "device": "cpu", "steps": "6", "batch_size": "8", "validate_every": "3", "lr": "0.01"}


def config_of(**overrides):
    return resolve_config(("flag", parse_overrides(overrides)))


def list_encoders():
    return [
        pytest.param(e, id=e.qualified_name) for e in get_registry().list_entries("encoder") if e.name != "identity"
    ]


def list_losses():
    return [pytest.param(e, id=e.qualified_name) for e in get_registry().list_entries("loss")]


@pytest.fixture(scope="module")
def pretrained(npz, tmp_path_factory):
    """A run to start from."""
    out = tmp_path_factory.mktemp("pretrained") / "run"
    train(config_of(data=npz, head="linear", **SIZES, steps="2", device="cpu"), out)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("entry", list_encoders())
def test_updates_of_every_layer_reach_the_output_and_are_merged_to_rounding(entry):
    fixture = build_fixture(entry)
    pipeline = fixture.build_pipeline()
    names = list(pipeline.state_dict())
    for name, parameter in pipeline.named_parameters():
        if name.endswith("_scale"):  # TimeMAE's sub-layers count for nothing at first
            parameter.data.fill_(1.0)
    tables = {**fixture.tables, "data": {"horizon": fixture.spec.horizon}, "train": {"lora": 1}}
    expected = fixture.run_step(pipeline).encoded.values
    add_lora(pipeline, resolve_config(("test", tables)))
    updates = {name: p for name, p in pipeline.named_parameters() if ".lora_" in name}
    torch.testing.assert_close(fixture.run_step(pipeline).encoded.values, expected)
    for value in updates.values():
        torch.nn.init.normal_(value, std=1.0)
    step_output = fixture.run_step(pipeline)
    step_output.loss.backward()
    assert updates
    assert [name for name, p in updates.items() if p.grad is None or not p.grad.any()] == []
    assert not torch.allclose(step_output.encoded.values, expected, atol=1e-3)
    merged = merge_lora(pipeline, pipeline.state_dict())
    remove_lora(pipeline)
    assert not has_lora(pipeline)
    assert set(merged) == set(pipeline.state_dict()) == set(names)
    pipeline.load_state_dict(merged)
    torch.testing.assert_close(
        fixture.run_step(pipeline).encoded.values, step_output.encoded.values, rtol=1e-4, atol=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("entry", list_losses())
def test_a_step_of_every_loss_and_its_copies_of_the_encoder_know_the_updates(entry):
    try:
        fixture = build_fixture(entry)
    except NoPipelineError as e:
        pytest.skip(str(e))
    pipeline = fixture.build_pipeline()
    names = set(pipeline.state_dict())
    tables = {**fixture.tables, "data": {"horizon": fixture.spec.horizon}, "train": {"lora": 1}}
    if isinstance(pipeline.encoder, get_registry().load(get_registry().find("encoder", "identity"))):
        pytest.skip("its pipeline has no encoder")
    add_lora(pipeline, resolve_config(("test", tables)))
    for name, parameter in pipeline.named_parameters():
        if name.startswith("encoder.") and ".lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    step_output = fixture.run_step(pipeline.train())
    step_output.loss.backward()
    pipeline.loss.after_step([step_output])
    merged = merge_lora(pipeline, pipeline.state_dict())
    remove_lora(pipeline)
    assert set(merged) == set(pipeline.state_dict()) == names
    assert not any(hasattr(module, "peft_config") for module in pipeline.modules())
    pipeline.load_state_dict(merged)
    pipeline.loss.after_step([step_output])


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"precision": "bf16", "gradient_checkpointing": "true", "ema_decay": "0", "lora_dropout": "0.1"}],
    ids=len,
)
def test_a_run_saves_weights_that_differ_by_the_rank_under_their_ordinary_names(npz, pretrained, tmp_path, options):
    result = train(config_of(**{"init_from": str(pretrained), **TRAIN, **options}), tmp_path / "run")
    before, after = (load_file(run / "model.safetensors") for run in (pretrained, tmp_path / "run"))
    assert before.keys() == after.keys()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    layers = {
        f"encoder.stack.blocks.{i}.{layer}.weight"
        for i in range(2)
        for layer in ("attention.query", "attention.key", "attention.value", "attention.out", "mlp.up", "mlp.down")
    }
    assert {name for name in changed if name.startswith("encoder.")} == layers
    assert {"tokenizer.project.weight", "head.project.weight"} & changed
    for name in layers:
        assert torch.linalg.matrix_rank(after[name] - before[name], atol=1e-6, rtol=0) <= 2
    pipeline = load(tmp_path / "run")
    own = sum(p.numel() for name, p in pipeline.named_parameters() if not name.startswith("encoder."))
    assert result.parameters == sum(p.numel() for p in pipeline.parameters())
    assert result.trainable == own + 2 * sum(sum(after[name].shape) for name in layers)


@pytest.mark.slow
def test_weights_are_loaded_and_started_from_without_peft(pretrained, tmp_path, monkeypatch):
    train(config_of(**{"init_from": str(pretrained), **TRAIN}), tmp_path / "run")
    monkeypatch.setitem(sys.modules, "peft", None)
    assert not has_lora(load(tmp_path / "run"))
    _, notes = prepare_and_note(init_from=str(tmp_path / "run"))
    assert any("encoder from" in note for note in notes)
    with pytest.raises(OptionError, match=r"--lora 2 needs peft, .* not installed: pip install 'tstk-core\[lora\]'"):
        prepare_training(config_of(init_from=str(tmp_path / "run"), lora="2"))


def prepare_and_note(**overrides):
    notes = []
    return prepare_training(config_of(**overrides), notes.append)[0], notes


@pytest.mark.slow
def test_a_stopped_run_ends_with_the_bytes_of_one_that_was_not(pretrained, tmp_path):
    class Interrupt(Callback):
        def on_step_end(self, state, step_outputs):
            if state.step == 5:
                os.kill(os.getpid(), signal.SIGINT)

    config = config_of(**{"init_from": str(pretrained), **TRAIN, "steps": "9", "lora_dropout": "0.2"})
    train(config, tmp_path / "calm")
    with pytest.raises(TrainingInterrupted):
        train(config, tmp_path / "rough", callbacks=[Interrupt()])
    names = list(load_file(next((tmp_path / "rough" / "last").glob("*.safetensors"))))
    assert any(name.startswith("pipeline/") and ".lora_A." in name for name in names)
    assert not any(name.startswith("best_weights/") and ".lora_" in name for name in names)
    assert not any(".lora_" in name for name in load_file(tmp_path / "rough" / "model.safetensors"))
    resume_run(tmp_path / "rough")
    calm, rough = ((tmp_path / run / "model.safetensors").read_bytes() for run in ("calm", "rough"))
    assert calm == rough


def test_what_a_checkpoint_lacks_is_trained_in_full_and_random_weights_are_said(npz):
    pytest.importorskip("transformers")
    sizes = {"encoder": "hf", "encoder.dim": "16", "encoder.depth": "1", "encoder.heads": "2", "encoder.out_dim": "8"}
    pipeline, notes = prepare_and_note(data=npz, head="linear", lora="2", **{"tokenizer.dim": "12"}, **sizes)
    trained = {name for name, p in pipeline.encoder.named_parameters() if p.requires_grad}
    full = {name for name in trained if ".lora_" not in name}
    assert full == {f"{layer}.{kind}" for layer in ("project", "out_project") for kind in ("weight", "bias")}
    assert all(name.startswith("model.encoder.layer.0.") for name in trained - full)
    first, second, third = (note for note in notes if note.startswith("--lora 2: "))
    assert "updates of 6 linear layers of encoder 'hf'" in first
    assert second.endswith("trained in full, since no checkpoint has them: project, out_project")
    assert third.endswith("start from pretrained ones with --init-from RUN or --encoder.pretrained NAME")


@pytest.mark.slow
def test_only_random_weights_are_noted_as_such(npz, pretrained):
    assert any("unusual" in note for note in prepare_and_note(data=npz, head="linear", lora="2", **SIZES)[1])
    assert not any("unusual" in note for note in prepare_and_note(lora="2", init_from=str(pretrained))[1])
    _, notes = prepare_and_note(lora="2", data=npz, head="linear", encoder=str(pretrained))
    assert not any("unusual" in note for note in notes)


class Torchs(tstk.Encoder):
    """An encoder of torch's own layers."""

    def __init__(self, spec):
        super().__init__(spec)
        self.layers = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(spec.dim, 2, batch_first=True), 1)

    def forward(self, tokens):
        return tokens.replace(values=self.layers(tokens.values))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"encoder": "identity"}, "encoder 'identity' has no linear layers in blocks"),
        ({"lora": "16"}, "the widest layer of encoder 'transformer' has width 16.*; use at most 8"),
        ({"freeze": "encoder"}, "encoder.stack.blocks.0.attention.query is frozen; leave out --freeze"),
        ({"encoder": "bert", "encoder.freeze": "all-but-norms"}, "is frozen; leave out --freeze and --encoder.freeze"),
        ({"lora_alpha": "4"}, "--lora-alpha 4.0: there are no low-rank updates; add --lora RANK"),
        ({"lora_dropout": "0.1"}, "--lora-dropout 0.1: there are no low-rank updates"),
    ],
    ids=str,
)
def test_what_cannot_take_effect_is_refused(npz, overrides, message):
    base = {"data": npz, "head": "linear"} | ({} if {"lora_alpha", "lora_dropout"} & set(overrides) else {"lora": "2"})
    sizes = {} if overrides.get("encoder") == "identity" else SIZES
    with pytest.raises(OptionError, match=message) as caught:
        prepare_training(config_of(**(base | sizes | overrides)))
    assert "\n" not in str(caught.value)


def test_layers_whose_weights_are_read_without_a_call_are_refused(npz):
    with pytest.raises(OptionError, match=r"uses torch\.nn\.MultiheadAttention, which reads the weights"):
        tstk.fit(data=npz, encoder=Torchs, head="linear", lora=2, verbose=False)


def test_training_without_the_updates_that_it_asks_for_is_refused(build, labelled_spec, npz):
    pipeline, data = prepare_training(config_of(data=npz, head="linear", **SIZES))
    with pytest.raises(OptionError, match=r"add the updates with tstk\.training\.lora\.add_lora first"):
        fit(pipeline, data, TrainConfig(lora=2, steps=1))


@pytest.mark.slow
def test_a_dry_run_and_a_range_test_train_the_updates_alone(pretrained):
    config = config_of(**{"init_from": str(pretrained), **TRAIN})
    report = dry_run(config)
    (encoder,) = (stage for stage in report.stages if stage.slot == "encoder")
    assert encoder.trainable == 2 * 2 * (4 * 32 + 2 * 80)
    assert report.gradient_faults == []
    pipeline, data = prepare_training(config)
    before = {name: value.clone() for name, value in pipeline.state_dict().items()}
    lr_range_test(pipeline, data, TrainConfig.from_config(config))
    assert all(torch.equal(value, before[name]) for name, value in pipeline.state_dict().items())


@pytest.mark.slow
def test_an_estimator_learns_updates():
    from tstk.sklearn import SeriesClassifier

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 1, 20)).astype(np.float32), np.arange(24) % 2
    classifier = SeriesClassifier(lora=2, steps=2, **{k.replace(".", "__"): v for k, v in SIZES.items()})
    classifier.fit(x, y)
    assert any(note.startswith("--lora 2: updates of 12 linear layers") for note in classifier.notes_)
    assert not has_lora(classifier.pipeline_)
    assert classifier.predict(x).shape == (24,)


@pytest.mark.slow
def test_the_scale_of_the_updates_is_alpha_over_the_rank(pretrained):
    scales = []
    for options in ({}, {"lora_alpha": "8"}):
        pipeline, _ = prepare_and_note(**{"init_from": str(pretrained), "lora": "2", **options})
        scales.append(pipeline.encoder.stack.blocks[0].mlp.up.scaling["default"])
    assert scales == [1.0, 4.0]


@pytest.mark.slow
def test_compiled_encoders_learn_the_same_updates(npz, monkeypatch):
    """Run torch's graphs uncompiled, since compiling them takes a minute."""
    plain = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: plain(self, backend=lambda graph, inputs: graph))
    weights = []
    for compiled in (False, True):
        sizes = {**SIZES, "encoder.dropout": "0", "head": "linear", "head.dropout": "0"}
        pipeline, data = prepare_training(config_of(data=npz, lora="2", augment="off", **sizes))
        options = {"steps": 4, "batch_size": 8, "augment": ("off",), "device": "cpu"}
        weights.append(fit(pipeline, data, TrainConfig(lora=2, compile=compiled, **options)).weights)
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-4)


def test_layers_that_are_too_narrow_for_the_rank_stay_as_they_are(npz):
    pipeline, notes = prepare_and_note(data=npz, head="linear", lora="8", **SIZES, **{"encoder.hidden": "8"})
    assert any("--lora 8: 4 layers are too narrow for this rank and get no updates" in note for note in notes)
    names = {name.rpartition(".lora_")[0] for name, _ in pipeline.named_parameters() if ".lora_" in name}
    assert {name.rpartition(".")[2] for name in names} == {"query", "key", "value", "out"}
