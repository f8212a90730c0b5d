"""The two classes of the original, built from the components of this plugin and of tstk.

    from tstk_plugins_cwtmae import CWT_MAE_RoPE, TF_MAE_Classifier

Arguments and return values are those of the original. The keys of the state dict are not: they are those of a pipeline.
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
from tstk.errors import CheckpointError, DataError
from tstk.runs.checkpoint import init_slot_from_run
from tstk_plugins_cwtmae.loss import SpectrumTime
from tstk_plugins_cwtmae.tokenizer import CWT


class CWT_MAE_RoPE(nn.Module):  # noqa: N801 (the name in the original)
    """The pretraining model.

    As in the original, the image is that of the series as it is, and the series to reconstruct is normalized by its own
    mean and unbiased standard deviation.

    Args:
        signal_len: samples per series
        cwt_scales: number of scales, the height of the image
        patch_size_time: samples per patch
        patch_size_freq: scales per patch
        embed_dim: width of the encoder
        depth: layers of the encoder
        num_heads: attention heads of the encoder
        decoder_embed_dim: width of the decoder
        decoder_depth: layers of the decoder
        decoder_num_heads: attention heads of the decoder
        mask_ratio: share of patches to mask
        mlp_rank_ratio: rank of the linear layers in the encoder's MLPs, as a share of their smaller width
        time_loss_weight: weight of the reconstruction of the series in the loss
        gradient_checkpointing: recompute blocks in the backward pass; without it a batch of 32 takes about 17 GB
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
        gradient_checkpointing: bool = True,
    ) -> None:
        super().__init__()
        spec = Spec(channels=1, length=signal_len)
        tokenizer = _build_tokenizer(spec, embed_dim, cwt_scales, patch_size_time, patch_size_freq)
        encoder = _build_encoder(tokenizer.out, embed_dim, depth, num_heads, mlp_rank_ratio)
        loss = SpectrumTime(encoder.out, ratio=mask_ratio, time=time_loss_weight, round_up=True, z_score=True)
        decoder = TransformerDecoder(
            loss.out,
            dim=decoder_embed_dim,
            depth=decoder_depth,
            heads=decoder_num_heads,
            positions="learned+rotary",
            position_std=0.02,
            rope="flat-bf16",
            cls_pos_embed=True,
            bias=False,
            dropout=0.0,
            init="xavier-stacked",
        )
        encoder.stack.gradient_checkpointing = decoder.stack.gradient_checkpointing = gradient_checkpointing
        self.pipeline = Pipeline(spec, tokenizer, encoder, loss, decoder, instance_norm=False)
        self.register_buffer("grid", torch.tensor(tokenizer.out.grid_size))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute the loss and the reconstructions.

        Args:
            x: [B, L] or [B, 1, L] series

        Returns:
            loss, a scalar; pred_spec [B, N, 3 * patch_size_freq * patch_size_time], patches in the order (scale, time);
            pred_time [B, L], the series minus its mean, divided by its deviation; imgs [B, 3, cwt_scales, L]

        Raises:
            DataError: `x` has another shape
        """
        tokenizer, loss = self.pipeline.tokenizer, self.pipeline.loss
        assert isinstance(tokenizer, CWT)
        assert isinstance(loss, SpectrumTime)
        step_output = self.pipeline(_make_series(x))
        patches, series = loss.reconstruct(step_output)
        assert step_output.loss is not None
        assert step_output.tokens.target is not None
        image = tokenizer.unpatchify(step_output.tokens.target)[:, 0]
        patches = patches.unflatten(1, (-1, tokenizer.rows)).transpose(1, 2).flatten(1, 2)
        return step_output.loss, patches, series[:, 0, : x.shape[-1]], image[..., : x.shape[-1]]


class TF_MAE_Classifier(nn.Module):  # noqa: N801 (the name in the original)
    """The classifier: the pretrained encoder and a head.

    Args:
        pretrained_path: a `.pth` file with the state dict of `CWT_MAE_RoPE`, or a run directory of tstk; random
            weights if None
        num_classes: number of classes
        embed_dim: width of the encoder, as pretrained
        use_cot: use reasoning tokens (head `cot`), otherwise a residual MLP (head `residual-mlp`)
        num_reasoning_tokens: number of reasoning tokens
        num_res_blocks: blocks of the residual MLP
        hidden_dim: width of the residual MLP
        dropout_rate: dropout of the head; if None, 0.2 with reasoning tokens and 0 without
        signal_len: samples per series; may differ from pretraining
        cwt_scales: number of scales, the height of the image; may differ from pretraining
        patch_size_time: samples per patch, as pretrained
        patch_size_freq: scales per patch, as pretrained
        depth: layers of the encoder, as pretrained
        num_heads: attention heads of the encoder, as pretrained, and of the reasoning tokens
        mlp_rank_ratio: rank of the linear layers in the encoder's MLPs, as pretrained
        gradient_checkpointing: recompute blocks in the backward pass

    Raises:
        CheckpointError: the file cannot be read safely, or its weights do not fit
        OptionError: num_heads does not divide embed_dim
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
        gradient_checkpointing: bool = True,
    ) -> None:
        super().__init__()
        spec = Spec(channels=1, length=signal_len, task="classification", num_outputs=num_classes)
        tokenizer = _build_tokenizer(spec, embed_dim, cwt_scales, patch_size_time, patch_size_freq)
        encoder = _build_encoder(tokenizer.out, embed_dim, depth, num_heads, mlp_rank_ratio)
        encoder.stack.gradient_checkpointing = gradient_checkpointing
        if use_cot:
            dropout = 0.2 if dropout_rate is None else dropout_rate
            head: CoT | ResidualMLP = CoT(
                encoder.out,
                tokens=num_reasoning_tokens,
                heads=num_heads,
                dropout=dropout,
                mlp_dropout="hidden",
                init="xavier-stacked",
            )
        else:
            head = ResidualMLP(encoder.out, hidden=hidden_dim, depth=num_res_blocks, dropout=dropout_rate or 0.0)
        self.pipeline = Pipeline(spec, tokenizer, encoder, CrossEntropy(encoder.out), None, head, instance_norm=False)
        if pretrained_path is not None and Path(pretrained_path).is_dir():
            init_slot_from_run(tokenizer, "tokenizer", pretrained_path)
            init_slot_from_run(encoder, "encoder", pretrained_path)
        elif pretrained_path is not None:
            _load_weights(self.pipeline, Path(pretrained_path))

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits [B, num_classes] of series [B, L] or [B, 1, L].

        Raises:
            DataError: `x` has another shape
        """
        output = self.pipeline.predict_step(_make_series(x)).head_output
        assert output is not None
        return output


def _make_series(x: Tensor) -> Series:
    """Return series [B, L] or [B, 1, L] as [B, 1, L].

    Raises:
        DataError: `x` has another shape
    """
    if x.dim() == 2:
        return Series(x[:, None])
    if x.dim() != 3 or x.shape[1] != 1:
        raise DataError(
            f"x has the shape {tuple(x.shape)}; expected [B, L] or [B, 1, L]: pass each channel as a series of its own"
        )
    return Series(x)


def _build_tokenizer(spec: Spec, dim: int, scales: int, patch_time: int, patch_freq: int) -> CWT:
    return CWT(
        spec, dim=dim, patch_time=patch_time, patch_freq=patch_freq, scales=scales, min_scale=0.1, kernel="published"
    )


def _build_encoder(spec: Spec, dim: int, depth: int, heads: int, rank_ratio: float) -> Transformer:
    return Transformer(
        spec,
        dim=dim,
        depth=depth,
        heads=heads,
        positions="learned+rotary",
        position_std=0.02,
        rope="flat-bf16",
        cls=True,
        cls_pos_embed=True,
        rank_ratio=rank_ratio,
        bias=False,
        dropout=0.0,
        init="xavier-stacked",
    )


def _load_weights(pipeline: Pipeline, path: Path) -> None:
    """Load tokenizer and encoder from a state dict; position embeddings are interpolated if the grids differ."""
    state_dict = _strip_wrapper_prefixes(_read_state_dict(path))
    for name in ("tokenizer", "encoder"):
        component, prefix = getattr(pipeline, name), f"pipeline.{name}."
        weights = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
        grid_size = tuple(state_dict["grid"].tolist()) if "grid" in state_dict else component.spec.grid_size
        try:
            component.load_pretrained(weights, component.spec.replace(grid_size=grid_size))
        except RuntimeError as e:
            reason = (str(e).splitlines()[1:2] or [str(e)])[0].strip()
            raise CheckpointError(
                f"the {name} in {path} does not fit: {reason}; embed_dim, depth, patches and rank must be those of "
                "pretraining, by CWT_MAE_RoPE of this package"
            ) from None


def _read_state_dict(path: Path) -> Mapping[str, Any]:
    """Read the state dict in a `.pth` file, without running code from the file.

    Raises:
        CheckpointError: the file does not exist, cannot be read safely, or has no state dict
    """
    if not path.is_file():
        raise CheckpointError(f"pretrained_path={path}: there is no such file or run directory")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as e:
        raise CheckpointError(
            f"{path} is damaged or holds more than tensors, which is not read ({str(e).splitlines()[0]}); save "
            "model.state_dict()"
        ) from None
    for key in ("model_state_dict", "state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not the state dict of a model")
    return content


def _strip_wrapper_prefixes(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Remove the prefixes of keys that DDP and torch.compile add."""
    stripped = {}
    for key, value in state_dict.items():
        while key.startswith(("module.", "_orig_mod.")):
            key = key.partition(".")[2]
        stripped[key] = value
    return stripped
