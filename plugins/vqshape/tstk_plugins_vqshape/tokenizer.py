"""VQShape as a tokenizer: patches, a transformer, learned queries, attributes, a codebook, and shapes to check them."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.core.interfaces import Tokenizer
from tstk.core.types import Flow, Series, Spec, Tokens
from tstk.errors import NeedsError, OptionError
from tstk.nn.attention import Attention, key_mask
from tstk.nn.blocks import MLP, Stack
from tstk.nn.codebook import Codebook
from tstk.nn.positions import resize_table
from tstk.nn.reduce import mean
from tstk_plugins_vqshape.attributes import GUIDED, AttributeDecoder, Attributes, Guidance
from tstk_plugins_vqshape.shapes import ShapeDecoder, crowding, excerpts, laid, smoothed

if TYPE_CHECKING:
    from tstk.report.context import Known
    from tstk.report.page import Section


class _QueryBlock(nn.Module):
    """Queries look at one another, then at the patches, then think; norms come after, as in the first Transformer."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.confer, self.look = Attention(dim, heads), Attention(dim, heads)
        self.think = MLP(dim, 4 * dim, dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, patches: Tensor, mask: Tensor | None) -> Tensor:
        """Queries [B, N, D] and patches [B, M, D] -> [B, N, D]."""
        x = self.norms[0](x + self.dropout(self.confer(x)))
        x = self.norms[1](x + self.dropout(self.look(x, patches, mask=mask)))
        return self.norms[2](x + self.think(x))


class VQShape(Tokenizer):
    """A series of one channel as tokens that can be read: a code for a shape, its start, length, mean and scale
    (VQShape, Wen et al. 2024, arXiv:2411.01006).

    Patches pass a transformer, learned queries gather from it what is worth a token, small networks read five
    attributes off each. The vector z of the shape becomes the nearest code. A token is [code, start, length, mean,
    scale], `code_dim + 4` wide. Three penalties travel with the tokens, so that any loss or head trains them: the
    codebook's, `shape` (the code's curve against the samples it covers) and `crowding` (tokens that cover the same).
    Meant for series normalised one by one (`--instance-norm`) and of one length (`--resize`).

    Unlike the published code, attention probabilities are not dropped, and a stretch is measured on the series' own
    samples, without padding.

    Args:
        dim: width of the networks
        patch: samples per patch
        tokens: number of learned queries, which is that of tokens
        depth: layers over patches
        query_depth: layers of the queries
        heads: attention heads of both
        codes: number of codes
        code_dim: width of a code
        shortest: least length of a shape, a share of the series
        begin: length of shapes before anything is learnt; none as published, about a quarter. Short ones have something
            to tell at once of series that swing
        points: samples of a shape's curve, a multiple of 16, 32 or more
        shape_width: channels of the shape decoder
        smooth: samples over which a shape is smoothed, an odd number
        drop: share of patches that are left out while training, drawn anew in each step
        dropout: of what each sub-layer adds
        shape: weight of the mean square between shapes and what they cover
        form: weight of the mean square between curves and what they cover, both with mean 0 and deviation 1; 0 as
            published. Keeps curves learning where scales have shrunk to nothing, which short trainings do not recover
            from
        crowding: weight of what tokens lack to being apart (the paper's L_div)
        commitment: weight of the mean square that draws vectors to codes
        codebook: weight of the mean square that draws codes to vectors
        entropy: weight of the entropy of assignments, less gamma times that of their mean
        gamma: weight of spreading assignments over codes, within the entropy term
        kmeans: rounds of k-means that place the codes after the first step; 0 leaves them random, as published
        revive: codes chosen less often than this share of the average code are moved; 0 for never, as published
        guide: which attributes read the text (`--extra`) too: none; z, the shape; z_mu_sigma, its mean and scale as
            well
    """

    synthesises = True

    def __init__(
        self,
        spec: Spec,
        *,
        dim: int = 256,
        patch: int = 8,
        tokens: int = 64,
        depth: int = 4,
        query_depth: int = 4,
        heads: int = 8,
        codes: int = 512,
        code_dim: int = 8,
        shortest: float = 0.015625,
        begin: float | None = None,
        points: int = 128,
        shape_width: int = 128,
        smooth: int = 1,
        drop: float = 0.25,
        dropout: float = 0.1,
        shape: float = 1.0,
        form: float = 0.0,
        crowding: float = 0.8,
        commitment: float = 1.0,
        codebook: float = 0.25,
        entropy: float = 0.1,
        gamma: float = 1.0,
        kmeans: int = 0,
        revive: float = 0.0,
        guide: Literal["none", "z", "z_mu_sigma"] = "none",
    ) -> None:
        super().__init__(spec)
        if spec.channels != 1:
            raise NeedsError(
                f"{self.called()} reads one channel at a time, and these series have {spec.channels}; "
                "use --channels independent"
            )
        for fine, fault in (
            (patch >= 1 and tokens >= 1, f"patch={patch}, tokens={tokens}: expected at least 1"),
            (0 < shortest < 1, f"shortest={shortest}: expected a share between 0 and 1"),
            (begin is None or shortest < begin < 0.5, f"begin={begin}: expected more than shortest and less than 0.5"),
            (0 <= drop < 1, f"drop={drop}: expected a share of 0 or more and less than 1"),
            (min(shape, form, crowding) >= 0, "shape, form, crowding: expected weights of 0 or more"),
        ):
            if not fine:
                raise OptionError(f"tokenizer.{fault}")
        self.patch, self.drop, self.points, self.smooth = patch, drop, points, smooth
        self.shortest, self.weights = shortest, {"shape": shape, "form": form, "crowding": crowding}
        self.embed_patch = nn.Linear(patch, dim)
        self.table = nn.Parameter(torch.randn(ceil(spec.length / patch), dim) * 0.02)
        self.stack = Stack(depth, dim, heads, dropout=dropout, norm="post")
        self.queries = nn.Parameter(torch.randn(tokens, dim) / dim)
        self.gather = nn.ModuleList(_QueryBlock(dim, heads, dropout) for _ in range(query_depth))
        self.attributes = AttributeDecoder(dim, code_dim, shortest, begin)
        self.guided = GUIDED[guide]
        self.guidance: Guidance | None = None
        if self.guided:
            if "text" not in spec.extra:
                raise NeedsError(
                    f"{self.called()} with --tokenizer.guide {guide} reads a text, and these data bring none; "
                    "name one with --extra FILE (tstk text makes it)"
                )
            self.guidance = Guidance(dim, heads, spec.extra["text"])
        self.codebook = Codebook(
            codes,
            code_dim,
            commitment=commitment,
            codebook=codebook,
            entropy=entropy,
            gamma=gamma,
            log_floor=1e-5,
            kmeans=kmeans,
            revive=revive,
        )
        self.draw_shape = ShapeDecoder(code_dim, points=points, width=shape_width, smooth=smooth)
        self.out = spec.but(
            dim=code_dim + 4, grid=(tokens,), step=None, span=None, target=None, vocab=codes, ordered=False
        )

    # ---------------------------------------------------------------- series to tokens

    def forward(self, series: Series) -> Tokens:
        """Tokens [B, N, code_dim + 4]: code with straight-through gradients, start, length, mean, scale.

        `attrs` has the last four by name, and z [B, N, code_dim] before the codebook; with a text also `z_alone`, which
        is z without it.
        """
        valid = series.mask.any(-1).expand(-1, self.queries.shape[0])
        state = self._gathered(series)
        told = self.attributes(state, self._guided(state, series))
        chosen = self.codebook(told.z, valid)
        facts = {"start": told.start, "length": told.length, "mean": told.mean, "scale": told.scale}
        values = torch.cat([chosen.values, torch.stack(list(facts.values()), -1)], -1).masked_fill(~valid[..., None], 0)
        attrs = {**facts, "z": told.z}
        if self.guidance is not None and "text" in series.extra:
            attrs["z_alone"] = self.attributes(state, {}).z
        index = torch.arange(values.shape[1], device=values.device).expand(values.shape[0], -1)
        pos = (told.start.detach() * values.shape[1])[..., None]
        penalties = self._penalties(series, told, chosen.values, chosen.ids, valid)
        return Tokens(values, pos, index, valid, ids=chosen.ids, attrs=attrs, aux={**chosen.aux, **penalties})

    def _gathered(self, series: Series) -> Tensor:
        """What the queries gather from the patches: [B, N, D]."""
        x, mask = series.x[:, 0], series.mask[:, 0]
        short = -x.shape[-1] % self.patch
        patches = F.pad(x, (0, short)).unflatten(-1, (-1, self.patch))
        seen = F.pad(mask, (0, short)).unflatten(-1, (-1, self.patch)).any(-1)
        state = self.embed_patch(patches) + self.table[: patches.shape[1]]
        if self.training and (gone := int(self.drop * patches.shape[1])):
            kept = torch.rand(seen.shape, device=x.device).argsort(1)[:, gone:].sort(1).values
            state = state.gather(1, kept[..., None].expand(-1, -1, state.shape[-1]))
            seen = seen.gather(1, kept)
        look = key_mask(seen)
        state = self.stack(state, mask=look)
        tokens = self.queries.expand(x.shape[0], -1, -1)
        for block in self.gather:
            tokens = block(tokens, state, look)
        return tokens

    def _guided(self, state: Tensor, series: Series) -> dict[str, Tensor]:
        """States with what the text adds, by the attributes that are to read them; none where there is no text."""
        if self.guidance is None or "text" not in series.extra:
            return {}
        return dict.fromkeys(self.guided, self.guidance(state, *series.extra["text"]))

    def _penalties(
        self, series: Series, told: Attributes, codes: Tensor, ids: Tensor, valid: Tensor
    ) -> dict[str, Tensor]:
        """`shape`, `form` and `crowding`, weighted."""
        found = {}
        if self.weights["shape"] or self.weights["form"]:
            mask = series.mask[:, 0]
            samples = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(1)
            place = (told.start, told.length, self.points, samples)
            target = smoothed(excerpts(series.x[:, 0], *place), self.smooth)
            where = valid[..., None]
            if series.observed is not None:  # read between two observed samples, or at one
                where = where & (excerpts(mask.float(), *place) > 1 - 1e-4)
            curves = self._drawn(codes, ids)
            drawn = curves * told.scale[..., None] + told.mean[..., None]
            found["shape"] = self.weights["shape"] * mean((drawn - target).square(), where)
            if self.weights["form"]:
                centred = target - target.mean(-1, keepdim=True)
                deviation = centred.square().mean(-1, keepdim=True).sqrt()
                told_apart = where & (deviation > 0.01)  # what is flat has no form
                each = (curves - centred / deviation.clamp(min=0.01)).square()
                found["form"] = self.weights["form"] * mean(each, told_apart)
        if self.weights["crowding"]:
            each = crowding(told.start, told.length, self.shortest)
            found["crowding"] = self.weights["crowding"] * mean(each, valid[:, 0])
        return found

    def _drawn(self, codes: Tensor, ids: Tensor) -> Tensor:
        """The curves of chosen codes [B, N, code_dim] -> [B, N, points], each code drawn once if that is less work.

        A code's curve is the same for all tokens that chose it, and so is the curve's derivative, through which a
        token's straight-through gradient passes. With few codes and many tokens that saves most of the time of a step.
        """
        if torch.compiler.is_compiling():  # a graph cannot depend on how many codes are in use
            return self.draw_shape(codes)
        used, at = ids.unique(return_inverse=True)
        if len(used) * (codes.shape[-1] + 1) > ids.numel():
            return self.draw_shape(codes)
        drawn = F.embedding(at, self.draw_shape(self.codebook.embed(used).detach()))
        if not codes.requires_grad:
            return drawn
        slopes = self.draw_shape.slopes(self.codebook.embed(used))[at]
        return drawn + ((codes - codes.detach())[..., None, :] @ slopes)[..., 0, :]

    # ---------------------------------------------------------------- tokens to series

    def embed(self, ids: Tensor) -> Tensor:
        """Codes as tokens that cover the whole series with mean 0 and scale 1: [B, N] -> [B, N, code_dim + 4]."""
        codes = self.codebook.embed(ids)
        plain = codes.new_tensor([0.0, 1.0, 0.0, 1.0]).expand(*ids.shape, 4)
        return torch.cat([codes, plain], -1)

    def curves(self, values: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Each token's shape in its place: [B, N, D] -> [B, N, length], and where it is, [B, N, length] bool."""
        codes, facts = values[..., :-4], values[..., -4:]
        start, extent, middle, scale = (fact[..., None] for fact in facts.unbind(-1))
        drawn = self.draw_shape(codes) * scale + middle
        return laid(drawn, start[..., 0], extent[..., 0], length)

    def decode(self, values: Tensor, length: int) -> Tensor:
        """[B, N, D] -> [B, 1, length]: at each sample the mean of the shapes that cover it, 0 where none does."""
        curves, where = self.curves(values, length)
        where = where & values.any(-1, keepdim=True)  # rows of zeros stand for nothing
        return ((curves * where).sum(1) / where.sum(1).clamp(min=1))[:, None]

    # ---------------------------------------------------------------- around training

    def after_step(self, flows: list[Flow]) -> None:
        """How evenly codes are chosen is logged with every batch of the step; codes move if `kmeans` or `revive` say
        so."""
        passes = [(f.tokens.attrs["z"], f.tokens.ids, f.tokens.valid) for f in flows]
        seen = self.codebook.after_step(passes)  # type: ignore[arg-type]
        for flow in flows:
            flow.logs.update(seen)

    def section(self, known: Known) -> Section:
        """In a report, some series with their shapes in place, and what each did to the decision."""
        from tstk_plugins_vqshape.explain import section

        return section(known)

    def load(self, state: Mapping[str, Tensor], old: Spec) -> None:
        """Strict, but the table of patches is interpolated to another length, and a text's part is left out if not
        wanted."""
        state = {k: v for k, v in state.items() if self.guidance is not None or not k.startswith("guidance.")}
        if "table" in state:
            state["table"] = resize_table(state["table"], (len(state["table"]),), (len(self.table),))
        super().load(state, old)
