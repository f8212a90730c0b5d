"""VQShape as a tokenizer: a transformer over patches, learned queries, attributes, a codebook, and a shape decoder."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.core.interfaces import Tokenizer
from tstk.core.types import Series, Spec, StepOutput, Tokens
from tstk.errors import IncompatibleError, OptionError
from tstk.nn.attention import Attention, make_key_mask
from tstk.nn.blocks import MLP, Dropout, Stack
from tstk.nn.codebook import Codebook
from tstk.nn.linear import Linear
from tstk.nn.positions import resize_pos_embed
from tstk.nn.reduce import masked_mean, masked_mse
from tstk.plugins.ranges import Depth, Fraction, NonNegativeFloat, PositiveInt, Ratio
from tstk_plugins_vqshape.attributes import GUIDED_ATTRIBUTES, AttributeDecoder, ShapeAttributes, TextGuidance
from tstk_plugins_vqshape.shapes import ShapeDecoder, diversity_loss, extract_segments, place_curves, smooth_curves


class _QueryBlock(nn.Module):
    """Post-norm block: self-attention of the queries, cross-attention to the patches, an MLP."""

    def __init__(self, dim: int, heads: int, dropout: float, inner_dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(dim, heads, dropout=inner_dropout)
        self.cross_attn = Attention(dim, heads, dropout=inner_dropout)
        self.mlp = MLP(dim, 4 * dim, dropout, hidden_dropout=inner_dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, patches: Tensor, mask: Tensor | None) -> Tensor:
        """Update queries [B, N, D] from patches [B, M, D]."""
        x = self.norms[0](x + self.dropout(self.self_attn(x)))
        x = self.norms[1](x + self.dropout(self.cross_attn(x, patches, mask=mask)))
        return self.norms[2](x + self.mlp(x))


class VQShape(Tokenizer):
    """Tokens of a univariate series that describe shapes: a code, and a start, length, mean and scale.

    VQShape (Wen et al. 2024, arXiv:2411.01006). A transformer encodes patches, learned queries attend to them, and MLPs
    predict five attributes from each query. The shape vector z is quantized to the nearest code. A token is [code,
    start, length, mean, scale], `code_dim + 4` wide. Auxiliary losses are returned with the tokens, so that any loss or
    head trains them: those of the codebook, `shape` (the decoded curve against the segment that the token covers), and
    `diversity` (a penalty on tokens that cover the same segment). Meant for series that are normalized individually
    (`--instance-norm`) and have the same length (`--resize`).

    Unlike the published code, segments are cut from the observed series, without its padding.

    Args:
        dim: width of transformer and queries
        patch: samples per patch
        tokens: number of learned queries, and so of tokens
        depth: number of layers over patches
        query_depth: number of layers of the queries
        heads: attention heads of both
        codes: number of codes
        code_dim: width of a code
        shortest: minimal length of a shape, as a share of the series
        initial_length: length of shapes at initialization, as a share of the series; none, about a quarter, as
            published. Short shapes help with series that oscillate
        points: samples of a shape's curve, a multiple of 16, 32 or more
        shape_width: channels of the shape decoder
        smooth: window over which shapes are smoothed, an odd number of samples
        patch_drop: share of patches dropped at random in each training step
        dropout: dropout on the output of each sub-layer
        inner_dropout: dropout on attention probabilities and inside MLPs; 0.1 as published, with which attention is
            slower
        init: initial values of attention: those of torch's linear layers; or xavier-stacked, query, key and value as
            one Xavier-uniform map and biases 0, as published
        position_std: initial standard deviation of the position table; 1 as published
        shape: weight of the mean squared error between shapes and the segments they cover
        form: weight of the mean squared error between curves and segments, both normalized to mean 0 and standard
            deviation 1; 0 as published. Trains curves even if scales have collapsed to 0, from which short trainings
            do not recover
        diversity: weight of the penalty on tokens with nearly the same start and length (the paper's L_div)
        commitment: weight of the commitment loss, which moves vectors to codes
        codebook: weight of the codebook loss, which moves codes to vectors
        entropy: weight of the entropy of assignments minus gamma times the entropy of their mean
        gamma: weight of the entropy of the mean assignment, within the entropy loss
        kmeans_iters: k-means iterations that initialize the codes after the first step; 0 for random ones, as published
        dead_code_threshold: reset codes used less often than this share of the average usage; 0 for never, as published
        guide: attributes that depend on the text (`--conditioning`) too: none; z, the shape; z_mu_sigma, the shape, its
            mean and its scale
    """

    has_decoder = True

    def __init__(
        self,
        spec: Spec,
        *,
        dim: PositiveInt = 256,
        patch: PositiveInt = 8,
        tokens: PositiveInt = 64,
        depth: Depth = 4,
        query_depth: Depth = 4,
        heads: PositiveInt = 8,
        codes: int = 512,
        code_dim: int = 8,
        shortest: Ratio = 0.015625,
        initial_length: float | None = None,
        points: int = 128,
        shape_width: int = 128,
        smooth: int = 1,
        patch_drop: Fraction = 0.25,
        dropout: Fraction = 0.1,
        inner_dropout: Fraction = 0.0,
        init: Literal["torch", "xavier-stacked"] = "torch",
        position_std: NonNegativeFloat = 0.02,
        shape: NonNegativeFloat = 1.0,
        form: NonNegativeFloat = 0.0,
        diversity: NonNegativeFloat = 0.8,
        commitment: float = 1.0,
        codebook: float = 0.25,
        entropy: float = 0.1,
        gamma: float = 1.0,
        kmeans_iters: int = 0,
        dead_code_threshold: float = 0.0,
        guide: Literal["none", "z", "z_mu_sigma"] = "none",
    ) -> None:
        super().__init__(spec)
        if spec.channels != 1:
            raise IncompatibleError(
                f"{self.display_name()} tokenizes univariate series, and these have {spec.channels} channels; "
                "use --channels independent"
            )
        if initial_length is not None and not shortest < initial_length < 0.5:
            raise OptionError(
                f"tokenizer.initial_length={initial_length}: expected more than shortest={shortest} and less than 0.5"
            )
        self.patch, self.patch_drop, self.points, self.smooth = patch, patch_drop, points, smooth
        self.shortest, self.penalty_weights = shortest, {"shape": shape, "form": form, "diversity": diversity}
        self.patch_embed = Linear(patch, dim)
        self.table = nn.Parameter(torch.randn(ceil(spec.length / patch), dim) * position_std)
        self.stack = Stack(
            depth,
            dim,
            heads,
            dropout=dropout,
            attention_dropout=inner_dropout,
            hidden_dropout=inner_dropout,
            norm="post",
        )
        self.queries = nn.Parameter(torch.randn(tokens, dim) / dim)
        self.query_blocks = nn.ModuleList(_QueryBlock(dim, heads, dropout, inner_dropout) for _ in range(query_depth))
        for part in self.modules() if init == "xavier-stacked" else ():
            if isinstance(part, Attention):
                part.init_stacked_xavier()
        self.attribute_decoder = AttributeDecoder(dim, code_dim, shortest, initial_length)
        self.guided_attributes = GUIDED_ATTRIBUTES[guide]
        self.guidance: TextGuidance | None = None
        if self.guided_attributes:
            if "text" not in spec.conditioning:
                raise IncompatibleError(
                    f"{self.display_name()} with --tokenizer.guide {guide} needs texts, which these data do not have; "
                    "add them with --conditioning text=FILE (tstk text writes such a file)"
                )
            self.guidance = TextGuidance(dim, heads, spec.conditioning["text"])
        self.codebook = Codebook(
            codes,
            code_dim,
            commitment=commitment,
            codebook=codebook,
            entropy=entropy,
            gamma=gamma,
            log_floor=1e-5,
            kmeans_iters=kmeans_iters,
            dead_code_threshold=dead_code_threshold,
        )
        self.shape_decoder = ShapeDecoder(code_dim, points=points, width=shape_width, smooth=smooth)
        self.out = spec.replace(
            dim=code_dim + 4,
            grid_size=(tokens,),
            stride=None,
            patch_len=None,
            target_dim=None,
            vocab_size=codes,
            ordered=False,
        )

    # ---------------------------------------------------------------- series to tokens

    def forward(self, series: Series) -> Tokens:
        """Return tokens [B, N, code_dim + 4]: code with straight-through gradients, start, length, mean, scale.

        `attrs` has the last four by name, and z [B, N, code_dim], the vector before quantization; with a text also
        `z_unguided`, z computed without it.
        """
        valid = series.observed_mask.any(-1).expand(-1, self.queries.shape[0])
        state = self._encode_queries(series)
        attributes = self.attribute_decoder(state, self._guide_states(state, series))
        quantized = self.codebook(attributes.z, valid)
        attrs = {name: getattr(attributes, name) for name in ("start", "length", "mean", "scale")}
        values = torch.cat([quantized.values, torch.stack(list(attrs.values()), -1)], -1)
        values = values.masked_fill(~valid[..., None], 0)
        attrs["z"] = attributes.z
        if self.guidance is not None and "text" in series.conditioning:
            attrs["z_unguided"] = self.attribute_decoder(state, {}).z
        index = torch.arange(values.shape[1], device=values.device).expand(values.shape[0], -1)
        pos = (attributes.start.detach() * values.shape[1])[..., None]
        penalties = self._compute_penalties(series, attributes, quantized.values, quantized.ids, valid)
        aux_losses = {**quantized.aux_losses, **penalties}
        return Tokens(values, pos, index, valid, ids=quantized.ids, attrs=attrs, aux_losses=aux_losses)

    def _encode_queries(self, series: Series) -> Tensor:
        """Encode the patches, and return the states of the queries that attend to them, [B, N, D]."""
        x, observed = series.x[:, 0], series.observed_mask[:, 0]
        num_padding = -x.shape[-1] % self.patch
        patches = F.pad(x, (0, num_padding)).unflatten(-1, (-1, self.patch))
        valid = F.pad(observed, (0, num_padding)).unflatten(-1, (-1, self.patch)).any(-1)
        state = self.patch_embed(patches) + self.table[: patches.shape[1]]
        if self.training and (num_dropped := int(self.patch_drop * patches.shape[1])):
            rows = torch.rand(valid.shape, device=x.device).argsort(1)[:, num_dropped:].sort(1).values
            state = state.gather(1, rows[..., None].expand(-1, -1, state.shape[-1]))
            valid = valid.gather(1, rows)
        key_mask = make_key_mask(valid)
        state = self.stack(state, mask=key_mask)
        queries = self.queries.expand(x.shape[0], -1, -1)
        for block in self.query_blocks:
            queries = block(queries, state, key_mask)
        return queries

    def _guide_states(self, state: Tensor, series: Series) -> dict[str, Tensor]:
        """Return the states that attended to the text, by guided attribute; empty without a text."""
        if self.guidance is None or "text" not in series.conditioning:
            return {}
        return dict.fromkeys(self.guided_attributes, self.guidance(state, *series.conditioning["text"]))

    def _compute_penalties(
        self, series: Series, attributes: ShapeAttributes, codes: Tensor, ids: Tensor, valid: Tensor
    ) -> dict[str, Tensor]:
        """Compute the weighted auxiliary losses `shape`, `form` and `diversity`; those of weight 0 are left out."""
        weights, losses = self.penalty_weights, {}
        if weights["shape"] or weights["form"]:
            observed = series.observed_mask[:, 0]
            lengths = (observed * torch.arange(1, observed.shape[1] + 1, device=observed.device)).amax(1)
            segment = (attributes.start, attributes.length, self.points, lengths)
            target = smooth_curves(extract_segments(series.x[:, 0], *segment), self.smooth)
            target_mask = valid[..., None]
            if series.observed is not None:  # all samples that enter the interpolation must be observed
                target_mask = target_mask & (extract_segments(observed.float(), *segment) > 1 - 1e-4)
            curves = self._decode_shapes(codes, ids)
            shapes = curves * attributes.scale[..., None] + attributes.mean[..., None]
            losses["shape"] = weights["shape"] * masked_mse(shapes, target, target_mask)
            if weights["form"]:
                std, mean = torch.std_mean(target, -1, keepdim=True)
                squares = (curves - (target - mean) / std.clamp(min=0.01)).square()
                # flat segments cannot be normalized
                losses["form"] = weights["form"] * masked_mean(squares, target_mask & (std > 0.01))
        if weights["diversity"]:
            per_series = diversity_loss(attributes.start, attributes.length, self.shortest)
            losses["diversity"] = weights["diversity"] * masked_mean(per_series, valid[:, 0])
        return losses

    def _decode_shapes(self, codes: Tensor, ids: Tensor) -> Tensor:
        """Decode quantized codes [B, N, code_dim] to curves [B, N, points], each distinct code once if that is cheaper.

        The curve of a code is the same for all its tokens, and so is the Jacobian through which their straight-through
        gradients pass. With few codes and many tokens this saves most of the time of a step.
        """
        if torch.compiler.is_compiling():  # the number of codes in use is data-dependent
            return self.shape_decoder(codes)
        used, inverse = ids.unique(return_inverse=True)
        if len(used) * (codes.shape[-1] + 1) > ids.numel():
            return self.shape_decoder(codes)
        curves = F.embedding(inverse, self.shape_decoder(self.codebook.embed(used).detach()))
        if not codes.requires_grad:
            return curves
        jacobian = self.shape_decoder.compute_jacobian(self.codebook.embed(used))[inverse]
        return curves + ((codes - codes.detach())[..., None, :] @ jacobian)[..., 0, :]

    # ---------------------------------------------------------------- tokens to series

    def embed(self, ids: Tensor) -> Tensor:
        """Return tokens [B, N, code_dim + 4] of ids [B, N] that cover the whole series with mean 0 and scale 1."""
        codes = self.codebook.embed(ids)
        attributes = codes.new_tensor([0.0, 1.0, 0.0, 1.0]).expand(*ids.shape, 4)
        return torch.cat([codes, attributes], -1)

    def decode_curves(self, values: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Decode tokens [B, N, D] to their shapes [B, N, length], and a mask of the samples they cover."""
        codes, attributes = values[..., :-4], values[..., -4:]
        start, extent, mean, scale = (attribute[..., None] for attribute in attributes.unbind(-1))
        shapes = self.shape_decoder(codes) * scale + mean
        return place_curves(shapes, start[..., 0], extent[..., 0], length)

    def token_curves(self, tokens: Tokens, length: int) -> Tensor:
        """Return the shape of each token, [B, N, length], NaN where it covers no sample."""
        curves, covered = self.decode_curves(tokens.values, length)
        return curves.masked_fill(~(covered & tokens.valid[..., None]), torch.nan)

    def decode(self, values: Tensor, length: int) -> Tensor:
        """Decode [B, N, D] to [B, 1, length]: at each sample the mean of the shapes that cover it, 0 if none does."""
        curves, covered = self.decode_curves(values, length)
        covered = covered & values.any(-1, keepdim=True)  # rows of zeros are invalid tokens
        return ((curves * covered).sum(1) / covered.sum(1).clamp(min=1))[:, None]

    # ---------------------------------------------------------------- around training

    def after_step(self, step_outputs: list[StepOutput]) -> None:
        """Update the codebook if `kmeans_iters` or `dead_code_threshold` is set; log code usage with every batch."""
        batches = [(s.tokens.attrs["z"], s.tokens.ids, s.tokens.valid) for s in step_outputs]
        metrics = self.codebook.after_step(batches)  # type: ignore[arg-type]
        for step_output in step_outputs:
            step_output.metrics.update(metrics)

    def load_pretrained(self, state: Mapping[str, Tensor], old_spec: Spec) -> None:
        """Load weights; the position table is interpolated to the length, and text guidance is dropped if unused."""
        state = {k: v for k, v in state.items() if self.guidance is not None or not k.startswith("guidance.")}
        if "table" in state:
            state["table"] = resize_pos_embed(state["table"], (len(state["table"]),), (len(self.table),))
        super().load_pretrained(state, old_spec)
