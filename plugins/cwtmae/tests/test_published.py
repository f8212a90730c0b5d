"""The original's examples run with another import line, and weights are loaded safely into a classifier."""

import pickle

import pytest
import torch
from tstk_plugins_cwtmae import CWT_MAE_RoPE, TF_MAE_Classifier

from tests.support.grids import slow_after
from tstk.core.types import Series
from tstk.errors import CheckpointError, DataError, OptionError
from tstk.kernels.dropout import apply_dropout

TINY = {"cwt_scales": 16, "embed_dim": 96, "depth": 2, "num_heads": 4}
DECODER = {"decoder_embed_dim": 64, "decoder_depth": 1, "decoder_num_heads": 4}


def count(module):
    return sum(p.numel() for p in module.parameters())


def build_tiny(**options):
    torch.manual_seed(0)
    return CWT_MAE_RoPE(**{"signal_len": 500, **TINY, **DECODER, **options})


def z_score(x):
    """Subtract the mean of each series, and divide by its unbiased deviation, in float64."""
    x = x.double().numpy()
    return torch.tensor((x - x.mean(-1, keepdims=True)) / x.std(-1, ddof=1, keepdims=True), dtype=torch.float32)


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
    torch.testing.assert_close(step_output.losses["time"], (series - z_score(x)).square().mean())
    target = step_output.tokens.target.unflatten(1, (10, 4)).transpose(1, 2).flatten(1, 2)
    hidden = step_output.masked.unflatten(1, (10, 4)).transpose(1, 2).flatten(1, 2)
    error = (patches - target).square().mean(-1)[hidden].mean()
    torch.testing.assert_close(loss, error + step_output.losses["time"])
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("use_cot", slow_after(1, [True, False]))
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


def test_the_series_to_reconstruct_is_normalized_by_itself_whatever_its_level_and_scale():
    model, draw = build_tiny().eval(), torch.Generator().manual_seed(1)
    x = 5 + 3 * torch.randn(4, 500, generator=draw)
    torch.manual_seed(5)
    loss, _, series, _ = model(x)
    torch.manual_seed(5)
    step_output = model.pipeline(Series(x[:, None]))
    torch.testing.assert_close(step_output.losses["time"], (series - z_score(x)).square().mean())
    assert step_output.losses["time"] < 4  # of the series as they are it is above 30
    torch.testing.assert_close(loss, step_output.loss)
    # imputation and detection need samples in the units of the series
    want = series * x.std(-1, keepdim=True) + x.mean(-1, keepdim=True)
    torch.testing.assert_close(model.pipeline.loss.reconstruct_series(step_output)[:, 0], want)


def test_series_may_have_a_channel_axis_of_one_but_not_of_two():
    x = torch.randn(2, 500, generator=torch.Generator().manual_seed(1))
    model, built = build_tiny().eval(), classifier(None)
    outputs = []
    for shaped in (x, x[:, None]):
        torch.manual_seed(5)
        outputs.append(model(shaped))
    for a, b in zip(*outputs, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(built(x), built(x[:, None]))
    for wrong in (x[0], x[:, None].expand(-1, 2, -1)):
        with pytest.raises(DataError, match=r"expected \[B, L\] or \[B, 1, L\]"):
            model(wrong)
        with pytest.raises(DataError, match="each channel as a series of its own"):
            built(wrong)


def test_the_reasoning_tokens_have_as_many_heads_as_the_model():
    for heads in (4, 8):
        sizes = {"signal_len": 500, "cwt_scales": 16, "embed_dim": 64, "depth": 2, "num_heads": heads}
        head = TF_MAE_Classifier(None, 5, **sizes).pipeline.head
        assert head.cross_attn.heads == head.self_attn.heads == heads
    with pytest.raises(OptionError, match="heads=12 does not divide dim=64"):
        TF_MAE_Classifier(None, 5, signal_len=500, cwt_scales=16, embed_dim=64, depth=2)


def test_query_key_and_value_start_as_one_xavier_map():
    model, built = build_tiny(), classifier(None)
    layers = [model.pipeline.encoder.stack.blocks[0].attention, model.pipeline.decoder.stack.blocks[0].attention]
    for attention in (*layers, built.pipeline.head.cross_attn, built.pipeline.head.self_attn):
        dim = attention.query.in_features
        bound = (6 / (dim + 3 * dim)) ** 0.5
        for projection in (attention.query, attention.key, attention.value):
            assert bound * 0.98 < projection.weight.abs().max() <= bound
            assert projection.weight.std().item() == pytest.approx((1 / (2 * dim)) ** 0.5, rel=0.05)
        # the output is one map of its own
        assert attention.out.weight.std().item() == pytest.approx((1 / dim) ** 0.5, rel=0.05)


def test_the_head_drops_values_between_activation_and_second_layer():
    mlp = classifier(None, dropout_rate=0.5).pipeline.head.mlp.train()
    x = torch.randn(2, 8, 96, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(5)
    got = mlp(x)
    torch.manual_seed(5)
    hidden = apply_dropout(torch.nn.functional.gelu(mlp.up(x)), 0.5)
    torch.testing.assert_close(got, mlp.down(hidden))


def test_the_number_of_visible_patches_is_rounded_down():
    model = build_tiny(mask_ratio=0.77)
    step_output = model.pipeline(Series(torch.randn(2, 1, 500)))
    assert step_output.visible.valid.sum(1).tolist() == [int(40 * (1 - 0.77))] * 2


def test_rotary_tables_are_rounded_to_bfloat16_in_encoder_and_decoder():
    model = build_tiny().eval()
    x = torch.randn(2, 500, generator=torch.Generator().manual_seed(1))
    outputs = {}
    for rope in ("flat-bf16", "flat"):
        model.pipeline.encoder.rope = model.pipeline.decoder.rope = rope
        torch.manual_seed(5)
        step_output = model.pipeline(Series(x[:, None]))
        outputs[rope] = step_output.encoded.values, step_output.predictions
    for rounded, exact in zip(*outputs.values(), strict=True):
        assert 1e-6 < (rounded - exact).abs().max() < 1e-2
    fresh = build_tiny().pipeline
    assert fresh.encoder.rope == fresh.decoder.rope == "flat-bf16"
