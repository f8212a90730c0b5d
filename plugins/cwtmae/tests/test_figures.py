"""Reports of runs show images, masks, reconstructions and attention."""

import re
from base64 import b64decode

import numpy as np
import pytest
import torch

from tstk.report import write_report
from tstk.training.runs import train

SLIM = (
    "slim",
    {
        "tokenizer": {"dim": 16, "scales": 8, "max_scale": 8.0},
        "encoder": {"dim": 16, "depth": 1, "heads": 2},
        "train": {"epochs": 1, "batch_size": 8, "device": "cpu"},
    },
)


@pytest.fixture
def data(tmp_path):
    """Three classes of two channels, 44 samples, some missing."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 2, 44)).cumsum(-1).astype(np.float32)
    x[::3, 1, 30:] = np.nan
    np.savez(tmp_path / "walks.npz", X_train=x, y_train=np.arange(24) % 3, X_test=x, y_test=np.arange(24) % 3)
    return str(tmp_path / "walks.npz")


def alternatives(path):
    """Return the alternative texts of the figures of a page."""
    page = path.read_text(encoding="utf-8")
    assert all(b64decode(s).startswith(b"<?xml") for s in re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page))
    return re.findall(r'alt="([^"]*)"', page)


@pytest.mark.slow
@pytest.mark.parametrize("channels", ["mixed", "independent"])
def test_a_pretrained_run_shows_image_mask_and_reconstruction(config, data, tmp_path, channels):
    small = (
        "decoder",
        {"decoder": {"dim": 16, "depth": 1, "heads": 2}, "data": data, "pipeline": {"channels": channels}},
    )
    train(config("pretrain", SLIM, small), tmp_path / "run")
    shown = alternatives(write_report(tmp_path / "run"))
    for row in (0, 23):
        of_series = [text for text in shown if f"of series {row}," in text]
        assert sum("Wavelet image" in text and "difference" in text for text in of_series) == 2
        assert sum("masked" in text for text in of_series) == 1
        assert sum("reconstruction" in text for text in of_series) == 2


@pytest.mark.slow
def test_the_figures_leave_out_and_reconstruct_masked_patches_only(config, data, tmp_path, monkeypatch):
    from tstk_plugins_cwtmae import figures

    drawn = {}

    def record(title, tokenizer, image):
        drawn[title] = image
        return ""

    monkeypatch.setattr(figures, "_draw_image", record)
    small = ("decoder", {"decoder": {"dim": 16, "depth": 1, "heads": 2}, "data": data})
    train(config("pretrain", SLIM, small), tmp_path / "run")
    write_report(tmp_path / "run")
    image = drawn["channel 0 of series 0, class 0: image"]
    title, visible = next((k, v) for k, v in drawn.items() if "series 0, class 0: visible patches" in k)
    reconstruction = drawn["channel 0 of series 0, class 0: reconstruction"]
    masked = visible.isnan()
    assert f"{masked.float().mean():.0%} masked" in title
    assert torch.equal(visible[~masked], image[~masked])
    assert torch.equal(reconstruction[~masked], image[~masked])
    assert not torch.isclose(reconstruction[masked], image[masked]).all()


@pytest.mark.slow
def test_a_series_that_is_z_scored_for_the_loss_is_drawn_in_its_own_units(config, tmp_path, monkeypatch):
    from tstk_plugins_cwtmae import figures

    drawn = []
    monkeypatch.setattr(figures, "_draw_series", lambda title, x, prediction=None: drawn.append((x, prediction)) or "")
    x = 500 + np.random.default_rng(0).normal(size=(16, 1, 44)).astype(np.float32)
    np.savez(tmp_path / "high.npz", X_train=x, X_test=x)
    tables = {
        "data": {"use": str(tmp_path / "high.npz"), "standardize": "none"},
        "decoder": {"dim": 16, "depth": 1, "heads": 2},
        "loss": {"z_score": True},
        "pipeline": {"instance_norm": False},
    }
    train(config("pretrain", SLIM, ("high", tables)), tmp_path / "run")
    write_report(tmp_path / "run")
    curves = [(x, prediction) for x, prediction in drawn if prediction is not None]
    assert curves
    for x, prediction in curves:
        assert (prediction - x).abs().max() < 20


@pytest.mark.slow
def test_a_classifier_shows_images_and_attention(config, data, tmp_path):
    train(config("untrained", SLIM, ("data", {"data": data, "head": {"use": "cot", "heads": 4}})), tmp_path / "run")
    shown = alternatives(write_report(tmp_path / "run"))
    assert sum("Wavelet image" in text for text in shown) == 6
    assert sum("Attention of 8 reasoning tokens" in text for text in shown) == 4
