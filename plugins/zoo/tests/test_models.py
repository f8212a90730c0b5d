"""Checkpoints are read whole and once, frozen as asked, and refused with a reason where they do not fit."""

import json
import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from tstk_plugins_zoo.mantis import resample

from tstk.config.resolve import resolve_config
from tstk.core.rng import SampleRNG
from tstk.core.types import Series, Spec
from tstk.errors import CheckpointError, IncompatibleError, OptionError
from tstk.runs.build import build_pipeline, use_meta_device, validate_on_meta

MODELS = ["patchtst", "patchtsmixer", "chronos-bolt", "moment", "mantis"]
INDEPENDENT = {"channels": "independent"}


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("model", MODELS)
def test_every_weight_comes_from_the_checkpoint_and_a_rebuilt_model_needs_none(zoo, tmp_path, model):
    folder = zoo.write_tiny(tmp_path / model, model)
    first = zoo.assemble(*zoo.make_tables(model, pretrained=folder), **INDEPENDENT)
    assert first.tokenizer.out.dim == first.encoder.out.dim == 16
    assert first.tokenizer.out.num_tokens == 8
    state = zoo.draw_weights(model, seed=4)
    zoo.write_tiny(tmp_path / model, model, state)
    second = zoo.assemble(*zoo.make_tables(model, pretrained=folder), **INDEPENDENT)
    for part in ("tokenizer", "encoder"):
        for name, tensor in getattr(first, part).state_dict().items():
            if tensor.is_floating_point() and "positions" not in name:
                assert not torch.equal(tensor, getattr(second, part).state_dict()[name]), name
    shutil.rmtree(folder)
    tables = [
        {"use": table["use"], **getattr(second, part).config_overrides}
        for part, table in zip(("tokenizer", "encoder"), zoo.make_tables(model), strict=True)
    ]
    rebuilt = zoo.assemble(*tables, **INDEPENDENT)
    rebuilt.load_state_dict(second.state_dict())
    series = zoo.make_series()
    torch.testing.assert_close(
        zoo.encode(rebuilt, series)[1].values, zoo.encode(second, series)[1].values, rtol=0, atol=0
    )


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_a_run_with_a_frozen_checkpoint_keeps_its_weights_and_loads_without_it(zoo, tmp_path, model):
    import tstk

    folder = zoo.write_tiny(tmp_path / model, model)
    tokenizer, encoder = zoo.make_tables(model, pretrained=folder)
    x = torch.randn(24, 2, 64, generator=torch.Generator().manual_seed(0)).numpy()
    y = np.arange(24) % 2
    np.savez(tmp_path / "data.npz", X_train=x, y_train=y, X_test=x, y_test=y)
    tstk.fit(
        config=f"zoo/{model}",
        data=str(tmp_path / "data.npz"),
        length=64,
        tokenizer=tokenizer,
        encoder={**encoder, "freeze": "all"},
        freeze=["tokenizer"],
        steps=2,
        out=tmp_path / "run",
    )
    fresh = zoo.assemble(tokenizer, encoder, **INDEPENDENT)
    shutil.rmtree(folder)
    loaded = tstk.load(tmp_path / "run")
    for part in ("tokenizer", "encoder"):
        for name, tensor in getattr(fresh, part).state_dict().items():
            torch.testing.assert_close(getattr(loaded, part).state_dict()[name], tensor, rtol=0, atol=0)
    assert np.isfinite(loaded.embed(x)).all()


@pytest.mark.parametrize("model", MODELS)
def test_freeze_selects_the_model_or_all_but_its_norms(zoo, model):
    tokenizer, encoder = zoo.make_tables(model, dim=16)
    for freeze in ("none", "all", "all-but-norms"):
        pipeline = zoo.assemble(tokenizer, {**encoder, "freeze": freeze, "out_dim": 8}, **INDEPENDENT)
        trained = {n for n, p in pipeline.encoder.named_parameters() if p.requires_grad}
        inside = {n for n in trained if n.startswith("model.")}
        assert trained - inside == {"out_project.weight", "out_project.bias"}
        assert bool(inside) == (freeze != "all")
        if freeze == "all-but-norms":
            assert all("norm" in n for n in inside)
        elif freeze == "none":
            assert len(inside) == len(list(pipeline.encoder.model.parameters()))


@pytest.mark.parametrize("model", MODELS)
def test_a_learning_rate_of_its_own_is_that_of_the_model(zoo, model):
    tokenizer, encoder = zoo.make_tables(model, dim=16)
    assert zoo.assemble(tokenizer, encoder, **INDEPENDENT).encoder.lr_overrides() == {}
    pipeline = zoo.assemble(tokenizer, {**encoder, "lr": 1e-4}, **INDEPENDENT)
    assert pipeline.encoder.lr_overrides() == {"model": 1e-4}


@pytest.mark.parametrize("model", MODELS)
def test_a_missing_tensor_and_one_of_another_shape_are_named(zoo, tmp_path, model):
    state = zoo.draw_weights(model)
    names = {
        "patchtst": "model.encoder.layers.1.ff.3.weight",
        "patchtsmixer": "model.encoder.mlp_mixer_encoder.mixers.1.patch_mixer.mlp.fc2.weight",
        "chronos-bolt": "encoder.block.1.layer.1.DenseReluDense.wo.weight",
        "moment": "encoder.block.1.layer.1.DenseReluDense.wo.weight",
        "mantis": "transf_unit.transformer.layers.1.1.fn.net.3.weight",
    }
    whole = state.pop(names[model])
    tables = zoo.make_tables(model, pretrained=zoo.write_tiny(tmp_path / model, model, state))
    with pytest.raises(CheckpointError, match=r"do not match its config.json: \S+down.weight is missing$"):
        zoo.assemble(*tables, **INDEPENDENT)
    zoo.write_tiny(tmp_path / model, model, state | {names[model]: whole[:-1].contiguous()})
    with pytest.raises(CheckpointError, match=r"down.weight is \[\d+, \d+\], expected \[\d+, \d+\]$"):
        zoo.assemble(*tables, **INDEPENDENT)


@pytest.mark.parametrize("model", MODELS)
def test_a_checkpoint_of_another_model_is_refused_by_tokenizer_and_encoder(zoo, tmp_path, model):
    other = "mantis" if model != "mantis" else "moment"
    folder = zoo.write_tiny(tmp_path / other, other)
    tokenizer, encoder = zoo.make_tables(model)
    for tables in (({**tokenizer, "pretrained": folder}, encoder), (tokenizer, {**encoder, "pretrained": folder})):
        with pytest.raises(OptionError, match=r"config.json is of another model, not of .*; name the tokenizer"):
            zoo.assemble(*tables, **INDEPENDENT)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("source", ["pretrained", "config"])
def test_sizes_beside_a_checkpoint_are_refused(zoo, tmp_path, model, source):
    value = "{}" if source == "config" else "folder"
    tokenizer, encoder = zoo.make_tables(model)
    given = {source: value, "dim": 8}
    for tables in (({**tokenizer, **given}, encoder), (tokenizer, {**encoder, **given})):
        with pytest.raises(OptionError, match=f"{source} sets the architecture of .*; leave out dim$"):
            zoo.assemble(*tables, **INDEPENDENT)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "config is not JSON: "),
        ("[1]", "config is not a JSON object"),
        ('{"model_type": "patchtst", "d_model": -3}', "config has d_model -3; expected a positive integer"),
        ('{"model_type": "patchtst", "d_model": true}', "config has d_model True; expected a positive integer"),
        ('{"model_type": "patchtst", "norm_eps": "x"}', "config has norm_eps 'x'; expected a number of at least 0"),
        ('{"model_type": "patchtst", "path_dropout": 1}', "expected a number of at least 0 and less than 1"),
        ('{"model_type": "patchtst", "bias": 1}', "config has bias 1; expected true or false"),
        ('{"model_type": "patchtst", "norm_type": "x"}', "has norm_type 'x'; expected 'batchnorm' or 'layernorm'"),
        ('{"model_type": "patchtst", "channel_attention": true}', "channel_attention True, which is not supported"),
        ('{"model_type": "patchtst", "num_attention_heads": 3}', "heads=3 does not divide dim=128"),
        (
            '{"model_type": "patchtst", "context_length": 2}',
            "2 patches, and gets 16 tokens; state the length with --length 2 ",
        ),
    ],
)
def test_a_faulty_config_is_refused_with_the_field(zoo, config, message):
    with pytest.raises(OptionError) as refusal:
        zoo.assemble({"use": "patchtst"}, {"use": "patchtst", "config": config}, **INDEPENDENT)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        ("patchtsmixer", {"mode": "mix_channel"}, "mode 'mix_channel', which is not supported"),
        ("patchtsmixer", {"self_attn": True}, "self_attn True, which is not supported"),
        (
            "patchtsmixer",
            {"context_length": 128},
            "16 patches, and gets 8 tokens; state the length with --length 128 ",
        ),
        ("moment", {"d_model": 32}, "d_model 32, which is not supported: its T5 has 16"),
        ("moment", {"transformer_type": "decoder_only"}, "transformer_type 'decoder_only', which is not supported"),
        ("moment", {"t5_config": 3}, "has no object 't5_config'"),
        ("moment", {"t5_config": {"relative_attention_num_buckets": 2}}, "has 2 relative_attention_num_buckets"),
        ("mantis", {"transf_num_heads": 1, "transf_dim_head": 16}, "a single head as wide as a token"),
    ],
)
def test_what_a_model_does_not_have_here_is_refused(zoo, tmp_path, model, fields, message):
    tokenizer, encoder = zoo.make_tables(model)
    folder = zoo.write_tiny(tmp_path / model, model, **fields)
    if model == "patchtsmixer":
        tokenizer["window"] = 8
    with pytest.raises(OptionError) as refusal:
        zoo.assemble(tokenizer, {**encoder, "pretrained": folder}, **INDEPENDENT)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epsilon_scalar_enc": 1.0}, "epsilon_scalar_enc 1; expected more than 1"),
        ({"seq_len": 65}, "seq_len 65, which is no multiple of num_patches 8"),
        ({"scalar_scales": [1, -1]}, "scalar_scales [1, -1]; expected a list of positive numbers"),
    ],
)
def test_a_faulty_token_generator_of_mantis_is_refused(zoo, tmp_path, fields, message):
    folder = zoo.write_tiny(tmp_path / "mantis", "mantis", **fields)
    with pytest.raises(OptionError) as refusal:
        zoo.assemble({"use": "mantis", "pretrained": folder}, {"use": "mantis"}, **INDEPENDENT)
    assert message in str(refusal.value)


@pytest.mark.parametrize("tokenizer", ["patchtst", "chronos-bolt", "moment", "mantis"])
def test_channels_together_are_refused_and_a_single_channel_is_not(tokenizer):
    config = resolve_config(("test", {"tokenizer": {"use": tokenizer}, "head": {"use": "linear"}}))
    validate_on_meta(config)  # the data may have one channel
    spec = Spec(channels=1, length=64, task="classification", num_outputs=3)
    build_pipeline(config, spec)
    with pytest.raises(IncompatibleError, match=r"tokenizes one channel at a time; use --channels independent$"):
        build_pipeline(config, spec.replace(channels=2))


@pytest.mark.parametrize("model", MODELS)
def test_any_tokenizer_goes_with_the_encoder_of_a_checkpoint(zoo, tmp_path, model):
    folder = zoo.write_tiny(tmp_path / model, model)
    pipeline = zoo.assemble({"use": "patch", "dim": 24, "window": 8}, {"use": model, "pretrained": folder})
    tokens, encoded = zoo.encode(pipeline, zoo.make_series())
    assert tokens.values.shape == (4, 8, 24)
    assert encoded.values.shape == (4, 8, 16)
    assert encoded.values.isfinite().all()


@pytest.mark.parametrize("model", ["patchtst", "patchtsmixer"])
def test_a_step_updates_running_statistics_unless_they_are_frozen(zoo, model):
    tokenizer, encoder = zoo.make_tables(model, dim=16)
    for freeze in ("none", "all"):
        pipeline = zoo.assemble(tokenizer, {**encoder, "norm": "batchnorm", "freeze": freeze}, **INDEPENDENT)
        before = {k: v.clone() for k, v in pipeline.encoder.state_dict().items() if "running" in k}
        series = zoo.make_series()
        series.y = torch.arange(4) % 3
        step_output = pipeline.train()(series, SampleRNG(0, 0, torch.arange(4)))
        step_output.loss.backward()
        pipeline.after_step([step_output])
        after = pipeline.encoder.state_dict()
        assert before
        for name, value in before.items():
            assert torch.equal(value, after[name]) == (freeze == "all"), name


def test_positions_of_a_patchtst_are_interpolated_to_another_length(zoo):
    tables = zoo.make_tables("patchtst", dim=16)
    short = zoo.assemble({**tables[0], "window": 8}, {**tables[1], "cls": True}, length=64, **INDEPENDENT)
    long = zoo.assemble({**tables[0], "window": 8}, {**tables[1], "cls": True}, length=128, **INDEPENDENT)
    long.encoder.load_pretrained(short.encoder.state_dict(), short.encoder.spec)
    table, wanted = long.encoder.model.positions, short.encoder.model.positions
    assert table.shape == (17, 16)
    torch.testing.assert_close(table[0], wanted[0])
    torch.testing.assert_close(table[[1, 16]], wanted[[1, 8]], atol=0.1, rtol=0.1)


def test_mantis_resamples_complete_series_as_interpolate_does():
    x = torch.randn(3, 1, 50, generator=torch.Generator().manual_seed(0))
    for samples in (32, 128):
        expected = F.interpolate(x, samples, mode="linear", align_corners=False)
        torch.testing.assert_close(resample(Series(x), samples).x, expected, atol=1e-5, rtol=1e-5)


def test_mantis_resamples_the_observed_part_of_a_shorter_series():
    x = torch.randn(1, 1, 30, generator=torch.Generator().manual_seed(0))
    observed = torch.arange(50)[None, None] < 30
    padded = resample(Series(F.pad(x, (0, 20)), observed), 64)
    torch.testing.assert_close(padded.x, resample(Series(x), 64).x)
    assert padded.observed.all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "config", "millions"),
    [
        ("chronos-bolt", {"d_model": 256, "d_kv": 64, "d_ff": 1024, "num_layers": 4, "num_heads": 4}, 3.5),
        ("chronos-bolt", {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12}, 87.4),
        ("moment", {"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8, "num_heads": 6}, 18.9),
        ("moment", {"d_model": 1024, "d_kv": 64, "d_ff": 2816, "num_layers": 24, "num_heads": 16}, 308.3),
        ("mantis", {"hidden_dim": 256, "transf_depth": 6, "hidden_dim_scalar_enc": 32}, 8.0),
    ],
)
def test_released_sizes_have_as_many_parameters(zoo, model, config, millions):
    if model == "moment":
        config = {"t5_config": {**config, "feed_forward_proj": "gated-gelu"}}
    elif model == "chronos-bolt":
        config = {**config, "chronos_config": {"use_reg_token": True}}
    tokenizer, encoder = zoo.make_tables(model, config=json.dumps(config))
    spec = Spec(channels=1, length=512, task="classification", num_outputs=2)
    resolved = resolve_config(("test", {"tokenizer": tokenizer, "encoder": encoder, "head": {"use": "linear"}}))
    with use_meta_device():
        pipeline = build_pipeline(resolved, spec, channels="independent")
    assert round((count(pipeline.tokenizer) + count(pipeline.encoder)) / 1e6, 1) == millions


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["chronos-bolt", "moment"])
def test_an_encoder_with_a_bias_on_its_scores_leaves_as_onnx(encoder):
    pytest.importorskip("onnxscript")
    from tstk.testing.exports import try_export

    trial = try_export({"encoder": encoder, "head": "linear"})
    assert (trial.lengths, trial.error, trial.onnx_error) == ("3 to 32", "", "")
