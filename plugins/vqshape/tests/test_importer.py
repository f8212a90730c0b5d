"""A Lightning checkpoint of VQShape becomes a run that computes the same."""

from argparse import Namespace

import pytest
import torch
from torch.nn import functional as F

import tstk
from benchmarks.published.vqshape import SHORTEST, VQShape
from tests.support.checkpoints import list_accepted_changes, rename
from tstk.config.records import RunConfig
from tstk.core.types import Series
from tstk.errors import CheckpointError, OptionError
from tstk.plugins.registry import get_registry
from tstk.runs.importing import SourceTensors, build_importer, convert_checkpoint

NAMES = (
    (r"^project\.", "encoder.input_project."),
    (r"^positions$", "encoder.pos_embed.positional_embeddings.weight"),
    (r"^(encoder|decoder|tokenizer)\.layers\.", r"\1.transformer.layers."),
    (r"^queries$", "tokenizer.tokens"),
    (r"^z_head\.", "attr_decoder.z_head.layers."),
    (r"^place_head\.", "attr_decoder.tl_mean_head.layers."),
    (r"^mean_head\.", "attr_decoder.mu_head.layers."),
    (r"^scale_head\.", "attr_decoder.sigma_head.layers."),
    (r"^codebook\.", "codebook.embedding."),
    (r"^attribute_encoder\.", "attr_encoder.project."),
    (r"^cls$", "decoder.cls_token"),
    (r"^out\.", "decoder.out_layer."),
    (r"^shape_decoder\.(5|9)\.", r"shape_decoder.layers.\1.conv."),
    (r"^shape_decoder\.", "shape_decoder.layers."),
    (r"layers\.layers\.", "layers."),
    (r"\.skip\.", ".channel_up."),
)
SMALL = {"dim": 64, "codes": 32, "heads": 4, "depth": 1, "decoder_depth": 1, "width": 32}
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def to_state_dict(model):
    """Return the state dict under the published names, as Lightning has it."""
    return {f"model.{name}": value for name, value in rename(model.state_dict(), NAMES).items()}


def make_published(**sizes):
    torch.manual_seed(0)
    model = VQShape(**sizes).eval()
    model.num_dropped = 0  # as when it is used
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def save(model, path, **hyper_parameters):
    content = {"state_dict": to_state_dict(model), "epoch": 1, "pytorch-lightning_version": "2.2.0"}
    if hyper_parameters:
        content["hyper_parameters"] = {"configs": Namespace(**hyper_parameters)}
    torch.save(content, path)
    return path


@pytest.mark.parametrize("size", [pytest.param({}, marks=pytest.mark.slow, id="d256"), pytest.param(SMALL, id="small")])
@torch.no_grad()
def test_attributes_codes_shapes_and_series_are_those_of_the_program(size, tmp_path):
    model = make_published(**size)
    vectors = model.z_head(model.tokenize(torch.randn(32, 512).cumsum(-1))).flatten(0, 1)  # so that codes are in use
    model.codebook.weight.copy_(vectors[torch.randperm(len(vectors))[: len(model.codebook.weight)]])
    heads = {"num_transformer_enc_heads": size.get("heads", 8)}
    run = tstk.import_run("vqshape", save(model, tmp_path / "x.ckpt", **heads), tmp_path / "run")
    pipeline = tstk.load(run.run_dir)
    x = torch.randn(5, 1, 512).cumsum(-1)
    step_output = pipeline.tokenize(Series(x, sample_id=torch.arange(5)))
    pipeline.compute_predictions(step_output)
    tokens = step_output.tokens
    state = model.tokenize((x[:, 0] - x[:, 0].mean(-1, keepdim=True)) / (x[:, 0].var(-1, keepdim=True) + 1e-5).sqrt())
    place = model.place_head(state).sigmoid()
    start = place[..., 0] * (1 - SHORTEST)
    length = place[..., 1] * (1 - start) + SHORTEST
    mean, scale = model.mean_head(state)[..., 0], F.softplus(model.scale_head(state))[..., 0]
    z = model.z_head(state)
    codes, _ = model.quantize(z)
    for name, value in {"z": z, "start": start, "length": length, "mean": mean, "scale": scale}.items():
        torch.testing.assert_close(tokens.attrs[name], value, **CLOSE)
    ids = (z[:, :, None] - model.codebook.weight).square().sum(-1).argmin(-1)
    assert len(ids.unique()) > 3
    assert torch.equal(tokens.ids, ids)
    torch.testing.assert_close(pipeline.tokenizer.shape_decoder(codes), model.decode_shapes(codes), **CLOSE)
    token = torch.cat([codes, torch.stack([mean, scale, start, length], -1)], -1)
    embedded = torch.cat([model.cls.expand(5, -1, -1), model.attribute_encoder(token)], 1)
    torch.testing.assert_close(
        step_output.predictions[:, 0], model.out(model.decoder(embedded)[:, 1:]).flatten(1), **CLOSE
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dim", "codes", "parameters"),
    [(256, 512, 9_478_997), (512, 512, 37_088_341), (512, 128, None), (512, 64, 37_084_757), (512, 32, None)],
)
def test_a_checkpoint_of_each_released_size_fits_the_published_pipeline(dim, codes, parameters):
    with torch.device("meta"):
        model = VQShape(dim=dim, codes=codes)
    state = {name.removeprefix("model."): value for name, value in to_state_dict(model).items()}
    source = SourceTensors("x.ckpt", state)
    importer = build_importer(get_registry().find("importer", "vqshape"), {})
    converted, config = convert_checkpoint(importer, source, "vqshape")
    assert sum(value.numel() for value in converted.weights.values()) == parameters or parameters is None
    assert {"dim": dim, "codes": codes, "tokens": 64, "heads": 8}.items() <= config.values["tokenizer"].items()
    assert config.values["pipeline"]["unbiased_norm"]
    assert source.notes == ["the file does not tell the number of heads; 8 as published, or --heads"]


def test_a_run_takes_series_of_any_length_and_number_of_channels(tmp_path):
    run = tstk.import_run("vqshape", save(make_published(**SMALL), tmp_path / "x.ckpt"), tmp_path / "run", heads=4)
    schema = RunConfig.read(run.run_dir).input_schema
    assert (schema["resize"], schema["split_channels"]) == (512, True)


def test_hyper_parameters_that_contradict_are_refused(tmp_path):
    model = make_published(**SMALL)
    path = save(model, tmp_path / "x.ckpt", num_transformer_enc_heads=4, num_tokenizer_heads=2)
    with pytest.raises(CheckpointError, match="records 2, 4 heads for its parts"):
        tstk.import_run("vqshape", path, tmp_path / "run")
    path = save(model, tmp_path / "x.ckpt", num_transformer_enc_heads=4)
    with pytest.raises(OptionError, match=r"--heads 8: .* records 4"):
        tstk.import_run("vqshape", path, tmp_path / "run", heads=8)


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_that_runs_code_is_refused_and_the_code_is_not_run(tmp_path):
    content = {"state_dict": to_state_dict(make_published(**SMALL)), "hyper_parameters": Trap(tmp_path / "trapped")}
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=r"holds more than tensors, and other objects are never loaded"):
        tstk.import_run("vqshape", tmp_path / "x.ckpt", tmp_path / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.ckpt"]


def test_another_shape_decoder_is_refused(tmp_path):
    model = make_published(**SMALL)
    content = {name: value for name, value in to_state_dict(model).items() if "shape_decoder.layers.9." not in name}
    torch.save({"state_dict": content}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="1 convolutions after upsampling; expected 2 of each"):
        tstk.import_run("vqshape", tmp_path / "x.ckpt", tmp_path / "run")


@pytest.mark.slow
def test_a_tensor_that_is_missing_or_of_another_shape_is_refused():
    state = {name.removeprefix("model."): value for name, value in to_state_dict(make_published(**SMALL)).items()}
    assert list_accepted_changes("vqshape", state, heads=4) == []
