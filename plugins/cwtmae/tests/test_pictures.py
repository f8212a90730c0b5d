"""Reports of runs show images, masks, answers and attention."""

import re
from base64 import b64decode

import numpy as np
import pytest
import torch

from tstk.report import report
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
    """The texts that stand for the pictures of a page."""
    page = path.read_text(encoding="utf-8")
    assert all(b64decode(s).startswith(b"<?xml") for s in re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page))
    return re.findall(r'alt="([^"]*)"', page)


@pytest.mark.slow
@pytest.mark.parametrize("channels", ["mixed", "independent"])
def test_a_pretrained_run_shows_image_mask_and_answer(config, data, tmp_path, channels):
    small = (
        "decoder",
        {"decoder": {"dim": 16, "depth": 1, "heads": 2}, "data": data, "pipeline": {"channels": channels}},
    )
    train(config("pretrain", SLIM, small), tmp_path / "run")
    shown = alternatives(report(tmp_path / "run"))
    for row in (1, 24):
        of = [text for text in shown if f"of series {row}" in text]
        assert sum("Wavelet image" in text and "difference" in text for text in of) == 2
        assert sum("hidden" in text for text in of) == 1
        assert sum("the answer" in text for text in of) == 2


@pytest.mark.slow
def test_what_a_picture_of_the_mask_leaves_out_is_what_was_hidden(config, data, tmp_path, monkeypatch):
    from tstk_plugins_cwtmae import pictures

    drawn = {}

    def kept(what, tokenizer, image):
        drawn[what] = image
        return ""

    monkeypatch.setattr(pictures, "_image", kept)
    small = ("decoder", {"decoder": {"dim": 16, "depth": 1, "heads": 2}, "data": data})
    train(config("pretrain", SLIM, small), tmp_path / "run")
    report(tmp_path / "run")
    whole = drawn["channel 0 of series 1: the image"]
    share, shown = next((k, v) for k, v in drawn.items() if "series 1: what is shown" in k)
    told = drawn["channel 0 of series 1: the answer"]
    hidden = shown.isnan()
    assert f"{hidden.float().mean():.0%} hidden" in share
    assert torch.equal(shown[~hidden], whole[~hidden])
    assert torch.equal(told[~hidden], whole[~hidden])
    assert not torch.isclose(told[hidden], whole[hidden]).all()


@pytest.mark.slow
def test_a_classifier_shows_images_and_what_its_tokens_look_at(config, data, tmp_path):
    train(config("untrained", SLIM, ("data", {"data": data, "head": {"use": "cot", "heads": 4}})), tmp_path / "run")
    shown = alternatives(report(tmp_path / "run"))
    assert sum("Wavelet image" in text for text in shown) == 6
    assert sum("Attention of 8 reasoning tokens" in text for text in shown) == 4
