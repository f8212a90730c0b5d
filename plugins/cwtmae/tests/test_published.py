"""The original's examples run with another import line, and weights are loaded safely into a classifier."""

import pickle

import pytest
import torch
from tstk_plugins_cwtmae import CWT_MAE_RoPE, TF_MAE_Classifier

from tstk.core.types import Series
from tstk.errors import CheckpointError

TINY = {"cwt_scales": 16, "embed_dim": 96, "depth": 2, "num_heads": 4}
DECODER = {"decoder_embed_dim": 64, "decoder_depth": 1, "decoder_num_heads": 4}


def count(module):
    return sum(p.numel() for p in module.parameters())


def build_tiny(**options):
    torch.manual_seed(0)
    return CWT_MAE_RoPE(**{"signal_len": 500, **TINY, **DECODER, **options})


def classifier(path, **options):
    torch.manual_seed(1)
    return TF_MAE_Classifier(pretrained_path=path, **{"num_classes": 3, "signal_len": 500, **TINY, **options}).eval()


@pytest.fixture
def weights(tmp_path):
    """A file with the weights of a tiny model, as DDP and torch.compile would name them; and the model."""
    model, path = build_tiny(), tmp_path / "mae_epoch_100.pth"
    torch.save(
        {"epoch": 100, "model_state_dict": {f"module._orig_mod.{k}": v for k, v in model.state_dict().items()}}, path
    )
    return path, model


@pytest.mark.slow
def test_the_first_example_runs():
    model = CWT_MAE_RoPE(
        signal_len=3000,
        cwt_scales=64,
        mask_ratio=0.75,
    )
    x = torch.randn(1, 3000)
    with torch.no_grad():  # the example goes no further than the loss
        loss, pred_spec, pred_time, imgs = model(x)
    assert count(model) == 95_618_954
    assert loss.isfinite()
    assert pred_spec.shape == (1, 960, 600)
    assert pred_time.shape == (1, 3000)
    assert imgs.shape == (1, 3, 64, 3000)


def test_the_second_example_runs():
    with torch.device("meta"):
        built = TF_MAE_Classifier(None, num_classes=10, embed_dim=768, use_cot=True, num_reasoning_tokens=16)
        plain = TF_MAE_Classifier(None, 10, use_cot=False)
    assert count(built) == 74_462_218 + 8 * 768
    assert count(plain) == 66_450_698


def test_patches_are_numbered_scale_by_scale_and_the_loss_is_theirs_and_the_series():
    model = build_tiny()
    x = torch.randn(2, 500, generator=torch.Generator().manual_seed(1))
    loss, patches, series, image = model(x)
    assert count(model) == 347_434
    assert patches.shape == (2, 40, 600)
    tokens = model.pipeline.tokenizer(Series(x[:, None]))
    for n in (0, 7, 23, 39):
        row, column = divmod(n, 10)
        want = image[:, :, 4 * row : 4 * row + 4, 50 * column : 50 * column + 50].flatten(1)
        torch.testing.assert_close(tokens.target[:, column * 4 + row], want)
    torch.manual_seed(5)
    step_output = model.pipeline(Series(x[:, None]))
    torch.manual_seed(5)
    loss, patches, series, _ = model(x)
    torch.testing.assert_close(step_output.losses["time"], (series - x).square().mean())
    target = step_output.tokens.target.unflatten(1, (10, 4)).transpose(1, 2).flatten(1, 2)
    hidden = step_output.masked.unflatten(1, (10, 4)).transpose(1, 2).flatten(1, 2)
    error = (patches - target).square().mean(-1)[hidden].mean()
    torch.testing.assert_close(loss, error + step_output.losses["time"])
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("use_cot", [True, False])
def test_weights_go_into_a_classifier_that_has_nothing_else_of_pretraining(weights, use_cot):
    path, model = weights
    built = classifier(path, use_cot=use_cot)
    for name in ("tokenizer", "encoder"):
        theirs = getattr(model.pipeline, name).state_dict()
        mine = getattr(built.pipeline, name).state_dict()
        assert all(torch.equal(mine[k], theirs[k]) for k in theirs)
    assert not any("decoder" in k or "to_patch" in k or "mask_token" in k for k in built.state_dict())
    x = torch.randn(4, 500)
    assert built(x).shape == (4, 3)
    # the head reads patches, not CLS
    before = built(x)
    built.pipeline.encoder.register_forward_hook(lambda m, i, out: out.replace(prefix=out.prefix * 0 + 9))
    torch.testing.assert_close(built(x), before)


@pytest.mark.parametrize(("length", "scales"), [(1000, 16), (500, 32), (250, 8)])
def test_positions_follow_another_length_and_another_number_of_scales(weights, length, scales):
    path, model = weights
    built = classifier(path, signal_len=length, cwt_scales=scales)
    old, new = (m.pipeline.encoder.table.detach() for m in (model, built))
    want = torch.nn.functional.interpolate(
        old.T.reshape(1, 96, 10, 4), size=(length // 50, scales // 4), mode="bicubic", align_corners=False
    )
    torch.testing.assert_close(new, want[0].flatten(1).T)
    assert built(torch.randn(2, length)).isfinite().all()


class Trap:
    def __reduce__(self):
        return (print, ("a file must not run code",))


def test_files_that_could_run_code_or_do_not_fit_are_refused_in_a_line(weights, tmp_path):
    path, _ = weights
    trap = tmp_path / "trap.pth"
    trap.write_bytes(pickle.dumps(Trap()))
    whole = tmp_path / "whole.pth"
    torch.save(build_tiny(), whole)
    for bad, says in (
        (trap, "more than tensors"),
        (whole, "more than tensors"),
        (tmp_path / "absent.pth", "no such file"),
    ):
        with pytest.raises(CheckpointError, match=says) as e:
            classifier(bad)
        assert "\n" not in str(e.value)
    with pytest.raises(CheckpointError, match="does not fit"):
        classifier(path, embed_dim=48)
    other = tmp_path / "other.pth"
    torch.save({"patch_embed.proj.weight": torch.zeros(3)}, other)
    with pytest.raises(CheckpointError, match="does not fit"):
        classifier(other)


def test_running_blocks_again_changes_no_gradient():
    gradients = []
    for gradient_checkpointing in (False, True):
        model = build_tiny(gradient_checkpointing=gradient_checkpointing)
        torch.manual_seed(3)
        model(torch.randn(2, 500))[0].backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_a_missing_attribute_is_an_error():
    import tstk_plugins_cwtmae

    with pytest.raises(AttributeError, match="no attribute 'CWT_MAE'"):
        _ = tstk_plugins_cwtmae.CWT_MAE
