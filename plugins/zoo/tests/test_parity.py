"""Outputs equal those of the models' own packages with the same weights, to 1e-5."""

import pytest
import torch

NORMED = {"channels": "independent", "instance_norm": True}
LIMIT = 1e-5


def check_close(ours, expected):
    """Check the largest difference, relative to the largest number, and print it."""
    assert ours.shape == expected.shape
    error = float((ours - expected).abs().max() / expected.abs().max())
    print(f"largest difference {error:.1e}")
    assert error < LIMIT


def randomize(model):
    """Give every parameter a random value, so that none is hidden by an initial 0 or 1."""
    generator = torch.Generator().manual_seed(2)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not name.endswith(("position_enc", "pe", "scales")):
            noise = torch.randn(tensor.shape, generator=generator)
            with torch.no_grad():
                tensor.copy_(noise.abs() + 0.5 if name.endswith("running_var") else tensor + 0.2 * noise)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm_type": "layernorm", "pre_norm": False, "use_cls_token": True},
        {"positional_encoding_type": "random", "bias": False, "activation_function": "relu", "patch_stride": 4},
    ],
    ids=["batchnorm", "post-norm with CLS", "overlapping, learned positions"],
)
def test_patchtst_equals_the_transformers_library(zoo, tmp_path, options):
    transformers = pytest.importorskip("transformers")
    sizes = {"d_model": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 24}
    config = transformers.PatchTSTConfig(
        **{"context_length": 64, "patch_length": 8, "patch_stride": 8, **sizes, **options}
    )
    reference = randomize(transformers.PatchTSTModel(config))
    reference.save_pretrained(tmp_path)
    table = {"use": "patchtst", "pretrained": str(tmp_path)}
    pipeline = zoo.assemble(table, table, **NORMED)
    series = zoo.make_series()
    with torch.no_grad():
        expected = reference(past_values=series.x.mT).last_hidden_state[:, 0]
    _, encoded = zoo.encode(pipeline, series)
    ours = encoded.values if encoded.prefix is None else torch.cat([encoded.prefix, encoded.values], 1)
    check_close(ours, expected)


@pytest.mark.parametrize(
    "options",
    [{}, {"norm_mlp": "BatchNorm", "gated_attn": False, "use_positional_encoding": True}],
    ids=["layer norm", "batch norm without gates"],
)
def test_patchtsmixer_equals_the_transformers_library(zoo, tmp_path, options):
    transformers = pytest.importorskip("transformers")
    config = transformers.PatchTSMixerConfig(
        context_length=64, patch_length=8, patch_stride=8, d_model=16, num_layers=2, **options
    )
    reference = randomize(transformers.PatchTSMixerModel(config))
    reference.save_pretrained(tmp_path)
    pipeline = zoo.assemble(
        {"use": "patchtst", "pretrained": str(tmp_path)}, {"use": "patchtsmixer", "pretrained": str(tmp_path)}, **NORMED
    )
    series = zoo.make_series()
    with torch.no_grad():
        expected = reference(past_values=series.x.mT).last_hidden_state[:, 0]
    check_close(zoo.encode(pipeline, series)[1].values, expected)


T5 = {"d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 2, "num_heads": 3}


@pytest.mark.parametrize("feed_forward", ["relu", "gated-gelu"])
def test_t5_layers_equal_the_transformers_library(feed_forward):
    transformers = pytest.importorskip("transformers")
    from tstk_plugins_zoo.config import ModelConfig
    from tstk_plugins_zoo.t5 import T5Stack, rename_t5_weights

    options = {**T5, "feed_forward_proj": feed_forward, "relative_attention_num_buckets": 16}
    reference = randomize(transformers.T5EncoderModel(transformers.T5Config(**options, vocab_size=2)))
    ours = T5Stack(ModelConfig(options, "test")).eval()
    ours.load_state_dict(rename_t5_weights(reference.state_dict()))
    x = torch.randn(2, 200, 16, generator=torch.Generator().manual_seed(0))
    valid = torch.arange(200) < torch.tensor([[200], [150]])
    with torch.no_grad():
        expected = reference(inputs_embeds=x, attention_mask=valid.long()).last_hidden_state
        encoded = ours(x, torch.arange(200).expand(2, -1), valid)
    check_close(encoded[valid], expected[valid])


@pytest.mark.parametrize("has_reg", [True, False])
def test_chronos_bolt_equals_its_package(zoo, tmp_path, has_reg):
    chronos = pytest.importorskip("chronos.chronos_bolt", reason="pip install chronos-forecasting")
    from transformers import T5Config

    patches = {
        "context_length": 128,
        "prediction_length": 8,
        "input_patch_size": 16,
        "input_patch_stride": 16,
        "quantiles": [0.1, 0.5, 0.9],
        "use_reg_token": has_reg,
    }
    config = T5Config(**T5, num_decoder_layers=1, chronos_config=patches)
    reference = randomize(chronos.ChronosBoltModelForForecasting(config))
    reference.save_pretrained(tmp_path)
    table = {"use": "chronos-bolt", "pretrained": str(tmp_path)}
    pipeline = zoo.assemble(table, table, length=128, **NORMED)
    series = zoo.make_series(128)
    series.observed = series.observed_mask.clone()
    series.observed[1, 0, 20:60] = False
    series.x[~series.observed] = 0
    with torch.no_grad():
        context = torch.where(series.observed, series.x, torch.nan)[:, 0]
        expected, _, embeds, _ = reference.encode(context)
    tokens, encoded = zoo.encode(pipeline, series)
    check_close(tokens.values, embeds[:, : tokens.values.shape[1]])
    ours = encoded.values if encoded.prefix is None else torch.cat([encoded.values, encoded.prefix], 1)
    attended = torch.cat([tokens.valid, tokens.valid[:, :1]], 1)[:, : ours.shape[1]]
    check_close(ours[attended], expected[attended])


def test_moment_equals_its_package(zoo, tmp_path):
    moment = pytest.importorskip("momentfm.models.moment", reason="pip install momentfm")
    layers = {
        **T5,
        "feed_forward_proj": "gated-gelu",
        "dense_act_fn": "gelu_new",
        "is_gated_act": True,
        "vocab_size": 2,
    }
    config = {
        "task_name": "embedding",
        "transformer_type": "encoder_only",
        "transformer_backbone": "google/flan-t5-small",
        "d_model": None,
        "seq_len": 64,
        "patch_len": 8,
        "patch_stride_len": 8,
        "t5_config": layers,
        "enable_gradient_checkpointing": False,
    }
    reference = randomize(moment.MOMENT(dict(config), model_kwargs={}))
    folder = zoo.write_checkpoint(tmp_path / "moment", config, reference)
    table = {"use": "moment", "pretrained": folder}
    pipeline = zoo.assemble(table, table, **NORMED)
    series = zoo.make_series()
    with torch.no_grad():
        expected = reference.embed(x_enc=series.x, reduction="none").embeddings[:, 0]
    check_close(zoo.encode(pipeline, series)[1].values, expected)


@pytest.mark.parametrize("legacy", [False, True])
def test_mantis_equals_its_package(zoo, tmp_path, legacy):
    mantis = pytest.importorskip("mantis.architecture", reason="pip install mantis-tsfm")
    config = {
        "seq_len": 64,
        "hidden_dim": 16,
        "num_patches": 8,
        "hidden_dim_scalar_enc": 8,
        "transf_depth": 2,
        "transf_num_heads": 3,
        "transf_mlp_dim": 24,
        "transf_dim_head": 10,
        "device": "cpu",
    }
    reference = randomize((mantis.Mantis8M if legacy else mantis.MantisV1)(**config))
    folder = zoo.write_checkpoint(tmp_path / "mantis", config, reference)
    table = {"use": "mantis", "pretrained": folder}
    pipeline = zoo.assemble(table, table, channels="independent")
    series = zoo.make_series()
    with torch.no_grad():
        embeds, expected = reference.tokgen_unit(series.x), reference(series.x)
    tokens, encoded = zoo.encode(pipeline, series)
    check_close(tokens.values, embeds)
    check_close(encoded.prefix[:, 0], expected)
