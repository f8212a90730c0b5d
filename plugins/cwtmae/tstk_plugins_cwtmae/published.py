"""The original's two classes under their own names, made of the parts of this plugin and of the core.

    from tstk_plugins_cwtmae import CWT_MAE_RoPE, TF_MAE_Classifier

Arguments and what `forward` returns are the original's. The keys of a state dict are not: they are a pipeline's.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tstk.builtin.decoders.transformer import TransformerDecoder
from tstk.builtin.encoders.transformer import Transformer
from tstk.builtin.heads.cot import CoT
from tstk.builtin.heads.residual_mlp import ResidualMLP
from tstk.builtin.losses.cross_entropy import CrossEntropy
from tstk.core.pipeline import Pipeline
from tstk.core.types import Series, Spec
from tstk.errors import CheckpointError
from tstk.runs.checkpoint import mount
from tstk_plugins_cwtmae.loss import SpectrumTime
from tstk_plugins_cwtmae.tokenizer import CWT


class CWT_MAE_RoPE(nn.Module):
    """The pretraining model.

    Series are taken as they are; the original normalises each by its own mean and deviation when it reads them.

    Args:
        signal_len: samples of a series
        cwt_scales: height of the image
        patch_size_time: samples per patch
        patch_size_freq: scales per patch
        embed_dim: width of the encoder
        depth: its layers
        num_heads: its attention heads
        decoder_embed_dim: width of the decoder
        decoder_depth: its layers
        decoder_num_heads: its attention heads
        mask_ratio: share of patches to hide
        mlp_rank_ratio: rank of the encoder's MLP maps, as a share of their smaller width
        time_loss_weight: weight of the series in the loss
        recompute: keep no more than the input of each block and run it again on the way back; without it a batch of 32
            takes some 17 GB
    """

    grid: Tensor

    def __init__(
        self,
        signal_len: int = 3000,
        cwt_scales: int = 64,
        patch_size_time: int = 50,
        patch_size_freq: int = 4,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        mask_ratio: float = 0.75,
        mlp_rank_ratio: float = 0.5,
        time_loss_weight: float = 1.0,
        recompute: bool = True,
    ) -> None:
        super().__init__()
        spec = Spec(channels=1, length=signal_len)
        tokenizer = _tokenizer(spec, embed_dim, cwt_scales, patch_size_time, patch_size_freq)
        encoder = _encoder(tokenizer.out, embed_dim, depth, num_heads, mlp_rank_ratio)
        loss = SpectrumTime(encoder.out, ratio=mask_ratio, time=time_loss_weight)
        decoder = TransformerDecoder(
            loss.out,
            dim=decoder_embed_dim,
            depth=decoder_depth,
            heads=decoder_num_heads,
            positions="learned+rotary",
            position_std=0.02,
            rope="flat",
            cls_place=True,
            bias=False,
            dropout=0.0,
            init="xavier",
        )
        encoder.stack.recompute = decoder.stack.recompute = recompute
        self.pipeline = Pipeline(spec, tokenizer, encoder, loss, decoder, instance_norm=False)
        self.register_buffer("grid", torch.tensor(tokenizer.out.grid))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The loss and what it is made of.

        Args:
            x: [B, L] series

        Returns:
            loss, a scalar; pred_spec [B, N, 3 * patch_size_freq * patch_size_time], patches numbered scale by scale;
            pred_time [B, L]; imgs [B, 3, cwt_scales, L]
        """
        tokenizer, loss = self.pipeline.tokenizer, self.pipeline.loss
        assert isinstance(tokenizer, CWT)
        assert isinstance(loss, SpectrumTime)
        flow = self.pipeline(Series(x[:, None]))
        patches, series = loss.answers(flow)
        assert flow.total is not None
        assert flow.tokens.target is not None
        image = tokenizer.joined(flow.tokens.target)[:, 0]
        patches = patches.unflatten(1, (-1, tokenizer.rows)).transpose(1, 2).flatten(1, 2)
        return flow.total, patches, series[:, 0, : x.shape[-1]], image[..., : x.shape[-1]]


class TF_MAE_Classifier(nn.Module):
    """The classifier: the pretrained encoder and a head; what only pretraining needs is never built.

    Args:
        pretrained_path: a `.pth` file with the state dict of `CWT_MAE_RoPE`, or a run directory of tstk; None starts
            afresh
        num_classes: number of classes
        embed_dim: width of the encoder, as pretrained
        use_cot: reasoning tokens (head `cot`), or a residual MLP (head `residual-mlp`)
        num_reasoning_tokens: of the former
        num_res_blocks: of the latter
        hidden_dim: width of the latter
        dropout_rate: of the head; 0.2 with reasoning tokens and 0 without unless given
        signal_len: samples of a series; may differ from pretraining
        cwt_scales: height of the image; may differ from pretraining
        patch_size_time: samples per patch, as pretrained
        patch_size_freq: scales per patch, as pretrained
        depth: layers of the encoder, as pretrained
        num_heads: its attention heads, as pretrained
        mlp_rank_ratio: as pretrained
        recompute: keep no more than the input of each block and run it again on the way back

    Raises:
        CheckpointError: the file cannot be read safely, or its weights do not fit
    """

    def __init__(
        self,
        pretrained_path: str | Path | None,
        num_classes: int,
        embed_dim: int = 768,
        use_cot: bool = True,
        num_reasoning_tokens: int = 8,
        num_res_blocks: int = 2,
        hidden_dim: int = 512,
        dropout_rate: float | None = None,
        signal_len: int = 3000,
        cwt_scales: int = 64,
        patch_size_time: int = 50,
        patch_size_freq: int = 4,
        depth: int = 12,
        num_heads: int = 12,
        mlp_rank_ratio: float = 0.5,
        recompute: bool = True,
    ) -> None:
        super().__init__()
        spec = Spec(channels=1, length=signal_len, classes=num_classes)
        tokenizer = _tokenizer(spec, embed_dim, cwt_scales, patch_size_time, patch_size_freq)
        encoder = _encoder(tokenizer.out, embed_dim, depth, num_heads, mlp_rank_ratio)
        encoder.stack.recompute = recompute
        if use_cot:
            drop = 0.2 if dropout_rate is None else dropout_rate
            head: CoT | ResidualMLP = CoT(encoder.out, tokens=num_reasoning_tokens, heads=12, dropout=drop)
        else:
            head = ResidualMLP(encoder.out, hidden=hidden_dim, depth=num_res_blocks, dropout=dropout_rate or 0.0)
        self.pipeline = Pipeline(spec, tokenizer, encoder, CrossEntropy(encoder.out), None, head, instance_norm=False)
        if pretrained_path is not None and Path(pretrained_path).is_dir():
            mount(tokenizer, "tokenizer", pretrained_path)
            mount(encoder, "encoder", pretrained_path)
        elif pretrained_path is not None:
            _take(self.pipeline, Path(pretrained_path))

    def forward(self, x: Tensor) -> Tensor:
        """Series [B, L] -> logits [B, num_classes]."""
        output = self.pipeline.answer(Series(x[:, None])).output
        assert output is not None
        return output


def _tokenizer(spec: Spec, dim: int, scales: int, patch_time: int, patch_freq: int) -> CWT:
    return CWT(
        spec,
        dim=dim,
        patch_time=patch_time,
        patch_freq=patch_freq,
        scales=scales,
        min_scale=0.1,
        kernel="published",
    )


def _encoder(spec: Spec, dim: int, depth: int, heads: int, rank_ratio: float) -> Transformer:
    return Transformer(
        spec,
        dim=dim,
        depth=depth,
        heads=heads,
        positions="learned+rotary",
        position_std=0.02,
        rope="flat",
        cls=True,
        cls_place=True,
        rank_ratio=rank_ratio,
        bias=False,
        dropout=0.0,
    )


def _take(pipeline: Pipeline, path: Path) -> None:
    """Tokenizer and encoder of a state dict; positions are interpolated where the grids differ."""
    state = _cleaned(_read(path))
    for name in ("tokenizer", "encoder"):
        part = getattr(pipeline, name)
        own = {k.removeprefix(f"pipeline.{name}."): v for k, v in state.items() if k.startswith(f"pipeline.{name}.")}
        grid = tuple(state["grid"].tolist()) if "grid" in state else part.spec.grid
        try:
            part.load(own, part.spec.but(grid=grid))
        except RuntimeError as e:
            reason = (str(e).splitlines()[1:2] or [str(e)])[0].strip()
            raise CheckpointError(
                f"the {name} in {path} does not fit: {reason}; embed_dim, depth, patches and rank must be those of "
                "pretraining, by CWT_MAE_RoPE of this package"
            ) from None


def _read(path: Path) -> Mapping[str, Any]:
    """What a `.pth` file holds, if it is tensors and nothing that could run code."""
    if not path.is_file():
        raise CheckpointError(f"pretrained_path={path}: there is no such file or run directory")
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as e:
        raise CheckpointError(
            f"{path} is damaged or holds more than tensors, which is not read ({str(e).splitlines()[0]}); save "
            "model.state_dict()"
        ) from None
    for key in ("model_state_dict", "state_dict", "model"):
        if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
            held = held[key]
    if not isinstance(held, Mapping):
        raise CheckpointError(f"{path} holds a {type(held).__name__}, not the state dict of a model")
    return held


def _cleaned(state: Mapping[str, Any]) -> dict[str, Any]:
    """Keys without what DDP and torch.compile put in front."""
    clean = {}
    for key, value in state.items():
        while key.startswith(("module.", "_orig_mod.")):
            key = key.partition(".")[2]
        clean[key] = value
    return clean
