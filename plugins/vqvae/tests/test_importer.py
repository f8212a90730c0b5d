"""A checkpoint of TOTEM's VQ-VAE becomes a run with the same codes and reconstructions."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from tstk_plugins_vqvae.importer import _DOWN, _UP

import tstk
from tests.support.checkpoints import list_accepted_changes
from tests.support.grids import slow_after
from tstk.config.records import RunConfig
from tstk.core.types import Series
from tstk.errors import CheckpointError
from tstk.plugins.registry import get_registry
from tstk.runs.importing import SourceTensors, build_importer, convert_checkpoint

STRIDES = {4: (2, 2), 8: (2, 2, 2), 12: (2, 2, 3), 16: (2, 2, 2, 2)}
SMALL = {"hidden": 16, "res_hidden": 8, "dim": 8, "codes": 32}
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


class Stack(nn.Module):
    def __init__(self, hidden, res_hidden, layers):
        super().__init__()
        self._layers = nn.ModuleList(nn.Module() for _ in range(layers))
        for layer in self._layers:
            layer._block = nn.Sequential(
                nn.ReLU(),
                nn.Conv1d(hidden, res_hidden, 3, padding=1, bias=False),
                nn.ReLU(),
                nn.Conv1d(res_hidden, hidden, 1, bias=False),
            )

    def forward(self, x):
        for layer in self._layers:
            x = F.relu(x)  # in place in the published program, so the connection starts after it
            x = x + layer._block(x)
        return F.relu(x)


class Published(nn.Module):
    """The published VQ-VAE, with its names."""

    def __init__(self, factor, hidden=128, res_hidden=64, layers=2, dim=64, codes=256):
        super().__init__()
        self.factor, strides = factor, STRIDES[factor]
        self.encoder, self.decoder, self.vq = nn.Module(), nn.Module(), nn.Module()
        widths = [1, hidden // 2, *[hidden] * (len(strides) - 1)]
        for name, n, m, stride in zip(_DOWN[factor], widths, widths[1:], strides, strict=False):
            setattr(self.encoder, name, nn.Conv1d(n, m, 4, stride, padding=1))
        self.last = "_conv_4" if factor == 12 else "_conv_3"
        setattr(self.encoder, self.last, nn.Conv1d(hidden, hidden, 3, padding=1))
        self.encoder._residual_stack = Stack(hidden, res_hidden, layers)
        self.encoder._pre_vq_conv = nn.Conv1d(hidden, dim, 1)
        self.vq._embedding = nn.Embedding(codes, dim)
        self.decoder._conv_1 = nn.Conv1d(dim, hidden, 3, padding=1)
        self.decoder._residual_stack = Stack(hidden, res_hidden, layers)
        widths = [*[hidden] * (len(strides) - 1), hidden // 2, 1]
        for name, n, m, stride in zip(_UP[factor], widths, widths[1:], strides[::-1], strict=False):
            setattr(self.decoder, name, nn.ConvTranspose1d(n, m, stride + 2, stride, padding=1))

    def encode(self, x):
        """Return the vectors [B, N, dim] of [B, 1, T]."""
        for name in _DOWN[self.factor]:
            x = F.relu(getattr(self.encoder, name)(x))
        x = self.encoder._residual_stack(getattr(self.encoder, self.last)(x))
        return self.encoder._pre_vq_conv(x).transpose(1, 2)

    def forward(self, x):
        """Return the ids of [B, 1, T], and its reconstruction."""
        z = self.encode(x)
        codes = self.vq._embedding.weight
        ids = (z[:, :, None] - codes).square().sum(-1).argmin(-1)
        x = self.decoder._residual_stack(self.decoder._conv_1(codes[ids].transpose(1, 2)))
        for i, name in enumerate(_UP[self.factor]):
            x = getattr(self.decoder, name)(F.relu(x) if i else x)
        return ids, x


@pytest.mark.parametrize("sizes", slow_after(1, [SMALL, {}]), ids=["small", "published"])
@pytest.mark.parametrize("factor", slow_after(1, [4, 8, 12, 16]))
@pytest.mark.parametrize("kind", ["totem", "time-series-tokenizer"])
@torch.no_grad()
def test_codes_and_reconstructions_are_those_of_the_program(kind, factor, sizes, tmp_path):
    torch.manual_seed(factor)
    model = Published(factor, **sizes).eval()
    vectors = model.encode(torch.randn(48, 1, 96).cumsum(-1)).flatten(0, 1)  # so that the codes are in use
    model.vq._embedding.weight.copy_(vectors[torch.randperm(len(vectors))[: len(model.vq._embedding.weight)]])
    torch.save({"model_state_dict": model.state_dict(), "epoch": 3}, tmp_path / "x.pth.tar")
    run = tstk.import_run(kind, tmp_path / "x.pth.tar", tmp_path / "run", length=96)
    pipeline = tstk.load(run.run_dir)
    x = torch.randn(7, 1, 96).cumsum(-1)
    step_output = pipeline.tokenize(Series(x, sample_id=torch.arange(7)))
    if kind == "totem":
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    ids, series = model(x)
    assert len(ids.unique()) > 2
    assert torch.equal(step_output.tokens.ids, ids)
    torch.testing.assert_close(pipeline.tokenizer.decode(step_output.tokens.values, 96), series, **CLOSE)
    assert RunConfig.read(run.run_dir).options("tokenizer")["factor"] == factor


@pytest.mark.parametrize(("factor", "parameters"), [(4, 296_001), (8, 427_329), (12, 443_713), (16, 558_657)])
def test_a_checkpoint_of_the_published_size_fits_the_published_pipeline(factor, parameters):
    with torch.device("meta"):
        state = Published(factor).state_dict()
    importer = build_importer(get_registry().find("importer", "totem"), {})
    model, config = convert_checkpoint(importer, SourceTensors("x.pt", state), "totem")
    assert sum(value.numel() for value in model.weights.values()) == parameters
    sizes = {"codes": 256, "dim": 64, "hidden": 128, "res_hidden": 64, "res_layers": 2, "factor": factor}
    assert sizes.items() <= config.values["tokenizer"].items()


def test_running_sums_of_the_codebook_are_left_and_said(tmp_path):
    state = Published(4, **SMALL).state_dict()
    torch.save(state | {"vq._ema_w": torch.zeros(32, 8), "vq._ema_cluster_size": torch.zeros(32)}, tmp_path / "x.pt")
    notes = []
    tstk.import_run("totem", tmp_path / "x.pt", tmp_path / "run", print_fn=notes.append)
    assert any(note.startswith("left: vq._* (2 tensors): running sums") for note in notes)


def test_a_whole_module_is_refused_and_the_message_says_how_to_save_its_tensors(tmp_path):
    torch.save(Published(4, hidden=16), tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"never loaded \(.*Published\).*torch.save\(torch.load\('model.pth'"):
        tstk.import_run("totem", tmp_path / "model.pth", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_several_channels_is_refused(tmp_path):
    state = Published(4, **SMALL).state_dict()
    torch.save(state | {"encoder._conv_1.weight": torch.zeros(8, 2, 4)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"down.0.weight is \[8, 2, 4\] in the file; expected \[8, 1, 4\]"):
        tstk.import_run("totem", tmp_path / "x.pt", tmp_path / "run")


@pytest.mark.slow
def test_a_tensor_that_is_missing_or_of_another_shape_is_refused():
    assert list_accepted_changes("totem", Published(4, **SMALL).state_dict()) == []
