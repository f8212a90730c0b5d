"""A checkpoint of the original becomes a run that computes the same."""

import pytest
import torch

import tstk
from benchmarks.published.cwtmae import CWTMAE
from tests.support.checkpoints import list_accepted_changes, rename
from tests.support.grids import slow_after
from tstk.core.types import Series
from tstk.errors import CheckpointError, OptionError
from tstk.plugins.registry import get_registry
from tstk.runs.importing import SourceTensors, build_importer, convert_checkpoint

NAMES = (
    (r"^embed\.", "patch_embed.proj."),
    (r"^embed_norm\.", "patch_embed.norm."),
    (r"^cls$", "cls_token"),
    (r"^positions$", "pos_embed"),
    (r"^decoder_positions$", "decoder_pos_embed"),
    (r"(blocks\.\d+)\.(qkv)\.", r"\1.attn.\2."),
    (r"(blocks\.\d+)\.out\.", r"\1.attn.proj."),
    (r"\.mlp\.2\.", ".mlp.3."),
    (r"^to_patch\.", "decoder_pred_spec."),
    (r"^scale_conv\.", "time_reducer.0."),
    (r"^to_samples\.", "time_pred."),
)
TINY = {"length": 500, "scales": 16, "patch": (4, 25), "dim": 64, "depth": 2, "heads": 4}
TINY |= {"decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 4}
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def to_state_dict(model, head_dim, decoder_head_dim):
    """Return the state dict under the names of the original, with its rotary frequencies."""
    state = rename(model.state_dict(), NAMES)
    del state["wavelets"]
    for part, width in (("encoder", head_dim), ("decoder", decoder_head_dim)):
        state[f"rope_{part}.inv_freq"] = 10000 ** (-torch.arange(0, width, 2) / width)
    return state


def make_published():
    torch.manual_seed(0)
    model = CWTMAE(**TINY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


@pytest.mark.parametrize("wrapper", slow_after(1, ["", "module.", "_orig_mod.module."]))
@torch.no_grad()
def test_encoder_patches_and_series_are_those_of_the_original(wrapper, tmp_path):
    model = make_published()
    state = {wrapper + name: value for name, value in to_state_dict(model, 16, 8).items()}
    torch.save({"model": state, "epoch": 9}, tmp_path / "checkpoint_epoch_9.pth")
    run = tstk.import_run("cwtmae", tmp_path / "checkpoint_epoch_9.pth", tmp_path / "run")
    pipeline = tstk.load(run.run_dir)
    x = torch.randn(4, 1, 500).cumsum(-1)
    x = (x - x.mean(-1, keepdim=True)) / x.std(-1, correction=0, keepdim=True)
    model.num_visible = 80  # all, in the order that the original draws
    torch.manual_seed(1)
    image = model.compute_image(x)
    encoded, restore, _ = model.encode(image)
    states = model.decode(encoded, restore)
    order = restore.argsort(1).argsort(1)
    expected = encoded[:, 1:].gather(1, order[..., None].expand(-1, -1, 64))
    step_output = pipeline.tokenize(Series(x, sample_id=torch.arange(4)))
    pipeline.compute_predictions(step_output)
    torch.testing.assert_close(by_rows(step_output.encoded.values), expected, **CLOSE)
    torch.testing.assert_close(step_output.encoded.prefix, encoded[:, :1], **CLOSE)
    torch.testing.assert_close(by_rows(step_output.predictions), states, **CLOSE)
    patches, series = pipeline.loss.reconstruct(step_output)
    torch.testing.assert_close(by_rows(patches), model.to_patch(states), **CLOSE)
    reduced = torch.nn.functional.gelu(model.scale_conv(states.mT.unflatten(2, model.grid)))[:, :, 0].mT
    torch.testing.assert_close(series[:, 0], model.to_samples(reduced).flatten(1), **CLOSE)


def by_rows(values):
    """Return tokens of a grid of 20 columns and 4 rows in the order of the original."""
    return values.unflatten(1, (20, 4)).transpose(1, 2).flatten(1, 2)


def convert_published_size(**options):
    with torch.device("meta"):
        model = CWTMAE()
    importer = build_importer(get_registry().find("importer", "cwtmae"), options)
    return convert_checkpoint(importer, SourceTensors("x.pth", to_state_dict(model, 64, 32)), "cwtmae")


@pytest.mark.slow
def test_a_checkpoint_of_the_published_size_fits_the_published_pipeline():
    model, config = convert_published_size(rope="flat")
    assert sum(value.numel() for value in model.weights.values()) == 95_618_954
    assert model.spec.length == 3000
    sizes = {"dim": 768, "depth": 12, "heads": 12, "rank_ratio": 0.5, "rope": "flat"}
    assert sizes.items() <= config.values["encoder"].items()
    assert {"dim": 512, "depth": 8, "heads": 16}.items() <= config.values["decoder"].items()


def test_another_number_of_heads_than_the_frequencies_tell_is_refused():
    with pytest.raises(OptionError, match=r"--heads 8: x.pth has 12 heads, by the length of rope_encoder.inv_freq"):
        convert_published_size(heads=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_encoder.inv_freq": torch.ones(8)}, "are not the frequencies of base 10000"),
        ({"blocks.0.attn.qkv.weight": torch.zeros(191, 64)}, "has 191 rows; expected a multiple of 3"),
        ({"pos_embed": torch.zeros(1, 80, 64)}, "pos_embed has 79 cells, no multiple of the 4 rows"),
        (
            {"decoder_pos_embed": torch.zeros(1, 77, 32)},
            r"decoder_pos_embed is \[1, 77, 32\]; expected \[1, 81, 32\]",
        ),
        ({"rope_decoder.inv_freq": None}, "has no rope_decoder.inv_freq, which tells the number of heads"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_the_name_of_the_tensor(change, message, tmp_path):
    state = to_state_dict(make_published(), 16, 8) | change
    torch.save({name: value for name, value in state.items() if value is not None}, tmp_path / "x.pth")
    with pytest.raises((CheckpointError, OptionError), match=message):
        tstk.import_run("cwtmae", tmp_path / "x.pth", tmp_path / "run")


@pytest.mark.slow
def test_a_tensor_that_is_missing_or_of_another_shape_is_refused():
    state = {k: v for k, v in to_state_dict(make_published(), 16, 8).items() if not k.startswith("rope_")}
    assert list_accepted_changes("cwtmae", state, heads=4, decoder_heads=4) == []
