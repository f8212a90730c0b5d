"""Checkpoints of tiny models with random weights, and the pipelines that are made of them."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from tstk.config.resolve import resolve_config
from tstk.core.types import Series, Spec
from tstk.runs.build import build_pipeline

torch.set_num_threads(1)


T5 = {"d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 2, "num_heads": 3}
PATCHES = {"input_patch_size": 8, "input_patch_stride": 8, "use_reg_token": True}
HUGGING_FACE = {"context_length": 64, "patch_length": 8, "patch_stride": 8, "d_model": 16}
CONFIGS = {
    "patchtst": {"model_type": "patchtst", **HUGGING_FACE, "num_hidden_layers": 2, "ffn_dim": 24},
    "patchtsmixer": {"model_type": "patchtsmixer", **HUGGING_FACE, "num_layers": 2},
    "chronos-bolt": {"model_type": "t5", **T5, "feed_forward_proj": "relu", "chronos_config": PATCHES},
    "moment": {
        "d_model": None,
        "patch_len": 8,
        "patch_stride_len": 8,
        "transformer_type": "encoder_only",
        "t5_config": {**T5, "feed_forward_proj": "gated-gelu"},
    },
    "mantis": {
        "seq_len": 64,
        "hidden_dim": 16,
        "num_patches": 8,
        "hidden_dim_scalar_enc": 4,
        "transf_depth": 2,
        "transf_num_heads": 3,
        "transf_mlp_dim": 24,
        "transf_dim_head": 10,
    },
}
"""Tiny models, as their config.json describes them."""


def list_t5_shapes(gated):
    """Return the shapes of the tensors of the encoder of a T5, by the names of the transformers library."""
    dim, inner, hidden = T5["d_model"], T5["d_kv"] * T5["num_heads"], T5["d_ff"]
    shapes = {
        "encoder.final_layer_norm.weight": (dim,),
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, T5["num_heads"]),
    }
    for i in range(T5["num_layers"]):
        attention, mlp = f"encoder.block.{i}.layer.0", f"encoder.block.{i}.layer.1"
        shapes |= {f"{attention}.SelfAttention.{name}.weight": (inner, dim) for name in "qkv"}
        shapes |= {f"{attention}.SelfAttention.o.weight": (dim, inner)}
        shapes |= {f"{part}.layer_norm.weight": (dim,) for part in (attention, mlp)}
        ups = ("wi_0", "wi_1") if gated else ("wi",)
        shapes |= {f"{mlp}.DenseReluDense.{name}.weight": (hidden, dim) for name in ups}
        shapes |= {f"{mlp}.DenseReluDense.wo.weight": (dim, hidden)}
    return shapes


def list_mantis_shapes():
    """Return the shapes of the tensors of a Mantis, by the names of its package."""
    shapes = {"transf_unit.cls_token": (16,), "prj.1.weight": (16, 16)}
    for i in range(2):
        shapes |= {
            f"tokgen_unit.convs.{i}.conv.weight": (16, 1, 9),
            f"tokgen_unit.convs.{i}.conv.bias": (16,),
            f"tokgen_unit.layer_norms.{i}.weight": (16,),
            f"tokgen_unit.layer_norms.{i}.bias": (16,),
            f"tokgen_unit.scalar_encoders.{i}.scales": (9,),
        }
        for j in range(9):
            encoder = f"tokgen_unit.scalar_encoders.{i}.encoders.{j}"
            shapes |= {f"{encoder}.{name}": (1, 4) for name in "wb"}
            shapes |= {f"{encoder}.layer_norm.{name}": (4,) for name in ("weight", "bias")}
        layer = f"transf_unit.transformer.layers.{i}"
        shapes |= {f"{layer}.{j}.norm.{name}": (16,) for j in (0, 1) for name in ("weight", "bias")}
        shapes |= {f"{layer}.0.fn.to_qkv.weight": (90, 16), f"{layer}.0.fn.to_out.0.weight": (16, 30)}
        shapes |= {f"{layer}.0.fn.to_out.0.bias": (16,), f"{layer}.1.fn.net.0.weight": (24, 16)}
        shapes |= {f"{layer}.1.fn.net.0.bias": (24,), f"{layer}.1.fn.net.3.weight": (16, 24)}
        shapes |= {f"{layer}.1.fn.net.3.bias": (16,)}
    shapes |= {"tokgen_unit.linear_encoder.linear.weight": (16, 40), "tokgen_unit.linear_encoder.linear.bias": (16,)}
    return shapes | {f"tokgen_unit.linear_encoder.layer_norm.{name}": (16,) for name in ("weight", "bias")}


def list_patchtst_shapes():
    """Return the shapes of the tensors of a PatchTST, by the names of the transformers library."""
    shapes = {"input_embedding.weight": (16, 8), "input_embedding.bias": (16,)}
    shapes = {f"embedder.{k}": v for k, v in shapes.items()} | {"positional_encoder.position_enc": (8, 16)}
    norm = ("weight", "bias", "running_mean", "running_var")
    for i in range(2):
        linear = {f"self_attn.{name}_proj": (16, 16) for name in ("q", "k", "v", "out")}
        linear |= {"ff.0": (24, 16), "ff.3": (16, 24)}
        shapes |= {f"layers.{i}.{k}.weight": v for k, v in linear.items()}
        shapes |= {f"layers.{i}.{k}.bias": v[:1] for k, v in linear.items()}
        shapes |= {f"layers.{i}.norm_sublayer{j}.batchnorm.{name}": (16,) for j in (1, 3) for name in norm}
    return {f"model.encoder.{k}": v for k, v in shapes.items()} | {"head.projection.weight": (4, 128)}


def list_patchtsmixer_shapes():
    """Return the shapes of the tensors of a PatchTSMixer, by the names of the transformers library."""
    shapes = {"patcher.weight": (16, 8), "patcher.bias": (16,)}
    for i in range(2):
        for mixer, dim in (("patch_mixer", 8), ("feature_mixer", 16)):
            layer = f"mlp_mixer_encoder.mixers.{i}.{mixer}"
            linear = {"mlp.fc1": (2 * dim, dim), "mlp.fc2": (dim, 2 * dim), "gating_block.attn_layer": (dim, dim)}
            shapes |= {f"{layer}.{k}.weight": v for k, v in linear.items()}
            shapes |= {f"{layer}.{k}.bias": v[:1] for k, v in linear.items()}
            shapes |= {f"{layer}.norm.norm.{name}": (16,) for name in ("weight", "bias")}
    return {f"model.encoder.{k}": v for k, v in shapes.items()} | {"head.base_forecast_block.bias": (4,)}


def list_shapes(model):
    """Return the shapes of the tensors of a tiny model, by the names in its released files."""
    if model == "mantis":
        return list_mantis_shapes()
    if model == "moment":
        return {**list_t5_shapes(True), "patch_embedding.value_embedding.weight": (16, 8)}
    if model == "chronos-bolt":
        embedding = {"hidden_layer": (24, 16), "output_layer": (16, 24), "residual_layer": (16, 16)}
        shapes = {f"input_patch_embedding.{k}.weight": v for k, v in embedding.items()}
        shapes |= {f"input_patch_embedding.{k}.bias": v[:1] for k, v in embedding.items()}
        return {**list_t5_shapes(False), **shapes, "shared.weight": (2, 16), "decoder.unused": (3,)}
    return list_patchtst_shapes() if model == "patchtst" else list_patchtsmixer_shapes()


def draw_weights(model, seed=3):
    """Return random tensors for a tiny model, by the names in its released files."""
    generator = torch.Generator().manual_seed(seed)
    state = {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in list_shapes(model).items()}
    return {name: v.abs() + 0.1 if name.endswith(("running_var", "scales")) else v for name, v in state.items()}


def write_tiny(folder, model, state=None, **fields):
    """Write the checkpoint of a tiny model with random weights, or with `state`."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIGS[model] | fields))
    save_file(draw_weights(model) if state is None else state, folder / "model.safetensors")
    return str(folder)


def make_tables(model, **options):
    """Return the tables of the tokenizer and the encoder of a model."""
    return {"use": "patchtst" if model == "patchtsmixer" else model, **options}, {"use": model, **options}


def write_checkpoint(folder, config, model):
    """Write a folder as they are released: config.json and model.safetensors."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    state = {k: v.contiguous().clone() for k, v in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    return str(folder)


def assemble(tokenizer, encoder, length=64, num_channels=1, **pipeline):
    """Build a classifier of these tables, with the weights that they name, in eval mode."""
    spec = Spec(channels=num_channels, length=length, task="classification", num_outputs=3)
    config = resolve_config(
        ("test", {"tokenizer": tokenizer, "encoder": encoder, "head": {"use": "linear"}, "pipeline": pipeline})
    )
    torch.manual_seed(1)
    built = build_pipeline(config, spec, **pipeline)
    for _, part in built.named_slots():
        part.init_from_pretrained()
    built.bind()
    return built.eval()


def make_series(length=64, batch=4, seed=0):
    """Return series whose deviation is large beside the epsilon of any normalisation."""
    generator = torch.Generator().manual_seed(seed)
    return Series(torch.randn(batch, 1, length, generator=generator).cumsum(-1) * 3 + 5)


def encode(pipeline, series):
    """Return the tokens and the encoded tokens of a batch."""
    with torch.no_grad():
        tokens = pipeline.preprocess(series, mask_future=False).tokens
        return tokens, pipeline.encoder(tokens)


@pytest.fixture
def zoo():
    return SimpleNamespace(
        write_checkpoint=write_checkpoint,
        write_tiny=write_tiny,
        draw_weights=draw_weights,
        make_tables=make_tables,
        assemble=assemble,
        make_series=make_series,
        encode=encode,
    )
