"""BERT as an encoder of time series: its architecture from scratch, or its very weights.

Tokens take the place of word embeddings; everything after them is BERT's. Position rows are looked up at the
true slot of each token, so dropping or shuffling tokens does not renumber them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.core.interfaces import Encoder
from tstk.core.types import Spec, Tokens
from tstk.errors import CheckpointError, NeedsError, OptionError
from tstk.nn.attention import key_mask
from tstk.nn.blocks import Stack, projection
from tstk.nn.positions import check_position_std, resize_table, start_positions
from tstk.nn.pretrained import bert_blocks, bert_shape, bert_weights, fill, outside_norms


class Bert(Encoder):
    """BERT over tokens in place of words, from scratch or with the weights of a checkpoint.

    Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers" (arXiv:1810.04805). With a checkpoint
    the result equals that of Hugging Face's `BertModel` on the same position ids and the tokens, multiplied by the root
    mean square of its word vectors, as input embeddings: its position table belongs to embeddings of that size. Linear
    maps lead in and out where widths differ. From scratch, weights start normal with deviation 0.02. Unlike BERT's, a
    new position table starts as large as the tokens.

    Args:
        dim: width of the layers; 128, or the checkpoint's
        depth: number of layers; 3, or the checkpoint's
        heads: attention heads; 4, or the checkpoint's
        hidden: width of the MLP; 4 dim, or the checkpoint's
        eps: of the layer norms; 1e-12, or the checkpoint's
        rows: rows of the position table; what the grid needs, or the checkpoint's
        position_std: deviation of the initial values of a new position table; 1 if none, as large as the tokens (0.02
            in BERT)
        pretrained: folder, or Hugging Face hub name, of a BERT checkpoint (config.json, model.safetensors)
        part: take BERT whole, or its layers alone with a new position table
        overflow: when the grid has more tokens than the table has rows: refuse, or interpolate the table
        freeze: keep BERT's part from learning, wholly or but for its layer norms
        lr: learning rate of BERT's part (2e-5 to 1e-4 suits a checkpoint); the run's if none
        out_dim: width after the encoder; dim if none
        cls: put one learned summary token in front, at BERT's position 0
        words: read discrete tokens as words: each code has a word vector, drawn from the checkpoint's, that learns
        dropout: of embeddings, attention and what each sub-layer adds
    """

    unit: Tensor

    def __init__(
        self,
        spec: Spec,
        *,
        dim: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        hidden: int | None = None,
        eps: float | None = None,
        rows: int | None = None,
        position_std: float | None = None,
        pretrained: str | None = None,
        part: Literal["whole", "layers"] = "whole",
        overflow: Literal["refuse", "interpolate"] = "refuse",
        freeze: Literal["none", "all", "all-but-norms"] = "none",
        lr: float | None = None,
        out_dim: int | None = None,
        cls: bool = False,
        words: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(spec)
        if words and spec.vocab is None:
            raise NeedsError(f"{self.refusal('vocab')} Or leave out words")
        kept = pretrained is not None and part == "whole"
        check_position_std(position_std, "encoder", "the position table is the checkpoint's" if kept else None)
        needed = spec.tokens + int(cls)
        given = {"dim": dim, "depth": depth, "heads": heads, "hidden": hidden, "eps": eps, "rows": rows}
        shape = bert_shape({k: v for k, v in given.items() if v is not None}, pretrained, whole=part == "whole")
        dim = shape.setdefault("dim", 128)
        shape.setdefault("hidden", 4 * dim)
        if needed > shape.setdefault("rows", needed):
            if overflow == "refuse":
                raise OptionError(
                    f"{needed} positions are needed, one per token{' and the CLS' if cls else ''}, but bert has "
                    f"{shape['rows']} position rows; make fewer tokens (a larger patch, a shorter series) or set "
                    "overflow=interpolate"
                )
            shape["rows"] = needed
        self.shape = {"depth": 3, "heads": 4, "eps": 1e-12} | shape
        self.pretrained, self.freeze, self.lr, self.shift = pretrained, freeze, lr, int(cls)

        self.words = nn.Parameter(torch.empty(spec.vocab or 0, dim)) if words else None
        self.project = nn.Identity() if words else projection(spec.dim or 0, dim)
        self.register_buffer("unit", torch.ones(()))
        self.positions = nn.Parameter(torch.empty(self.shape["rows"], dim))
        self.cls = nn.Parameter(torch.empty(1, 1, dim)) if cls else None
        self.token_type = nn.Parameter(torch.empty(dim)) if part == "whole" else None
        self.norm = nn.LayerNorm(dim, self.shape["eps"]) if part == "whole" else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.stack = Stack(
            self.shape["depth"],
            dim,
            self.shape["heads"],
            hidden=self.shape["hidden"],
            dropout=dropout,
            attention_dropout=dropout,
            norm="post",
            eps=self.shape["eps"],
        )
        self.out_project = nn.Linear(dim, out_dim) if out_dim not in (None, dim) else nn.Identity()
        self.out = spec.but(dim=out_dim or dim, causal=False, prefix=self.shift)
        self._initialise(position_std)

    def _initialise(self, position_std: float | None) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear) and module is not self.project:
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for free in (self.cls, self.token_type, self.words):
            if free is not None:
                nn.init.normal_(free, std=0.02)
        start_positions(self.positions, position_std)

    def enter(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Words, or projected tokens in units of the checkpoint's words; and their rows of the position table."""
        if self.words is not None:
            assert tokens.ids is not None
            content = F.embedding(tokens.ids, self.words)
        else:
            # Zeros where invalid: whatever lies there, even NaN, must not reach a product.
            content = self.project(tokens.values.masked_fill(~tokens.valid[..., None], 0)) * self.unit
        return content, self._rows(tokens)

    def place(self, tokens: Tokens) -> Tensor:
        """Rows of the position table at each token's slot, led out by the output map where widths differ."""
        rows = self._rows(tokens)
        return rows @ self.out_project.weight.T if isinstance(self.out_project, nn.Linear) else rows

    def forward(self, tokens: Tokens) -> Tokens:
        """Tokens of [B, N, spec.dim] -> Tokens of [B, N, out.dim], zero where invalid; prefix [B, 1, ...] with cls."""
        valid = tokens.valid
        content, rows = self.enter(tokens)
        x = content + rows
        if self.cls is not None:
            x = torch.cat([(self.cls + self.positions[0]).expand(x.shape[0], -1, -1), x], 1)
            valid = torch.cat([valid.new_ones(x.shape[0], 1), valid], 1)
        if self.token_type is not None:
            x = self.norm(x + self.token_type)
        x = self.out_project(self.stack(self.dropout(x), mask=key_mask(valid)))
        values = x[:, self.shift :].masked_fill(~tokens.valid[..., None], 0)
        return tokens.but(values=values, prefix=x[:, :1] if self.cls is not None else tokens.prefix)

    def warm_start(self) -> None:
        """Copy the checkpoint's weights; from then on the options that rebuild this do not need it.

        Raises:
            CheckpointError: a tensor of this encoder is not in the checkpoint
        """
        if self.pretrained is None:
            return
        state = bert_weights(self.pretrained)
        found = {f"stack.{k}": v for k, v in bert_blocks(state).items()}
        for ours, theirs in (
            ("positions", "position_embeddings.weight"),
            ("token_type", "token_type_embeddings.weight"),
            ("norm.weight", "LayerNorm.weight"),
            ("norm.bias", "LayerNorm.bias"),
        ):
            if (value := state.get(f"embeddings.{theirs}")) is not None:
                found[ours] = value[0] if ours == "token_type" else value
        if "positions" in found:
            found["positions"] = self._resized(found["positions"], None)
        names = [n for n, _ in self.named_parameters() if n.startswith(self._theirs())]
        fill(self, found, names, self.pretrained)
        table = state.get("embeddings.word_embeddings.weight")
        if self.token_type is not None and table is not None:
            self.unit.fill_(table.square().mean().sqrt())
        if self.words is not None:
            if table is None:
                raise CheckpointError(f"{self.pretrained} has no word vectors; leave out words")
            if len(table) < len(self.words):
                raise CheckpointError(
                    f"{self.pretrained} has {len(table)} words for {len(self.words)} codes; use fewer codes"
                )
            with torch.no_grad():
                self.words.copy_(table[torch.randperm(len(table))[: len(self.words)]])
        self.rebuild = {"pretrained": None, **self.shape}

    def freezes(self) -> tuple[str, ...]:
        """BERT's part, as `freeze` says."""
        if self.freeze == "all-but-norms":
            return tuple(n for n in outside_norms(self) if n.startswith(self._theirs()))
        return self._theirs() if self.freeze == "all" else ()

    def rates(self) -> dict[str, float]:
        """`lr` for BERT's part."""
        return {} if self.lr is None else dict.fromkeys(self._theirs(), self.lr)

    def load(self, state: Mapping[str, Tensor], old: Spec) -> None:
        """Strict, but a position table of another size is interpolated to this one."""
        state = dict(state)
        if "positions" in state:
            state["positions"] = self._resized(state["positions"], old)
        super().load(state, old)

    def _rows(self, tokens: Tokens) -> Tensor:
        return F.embedding(tokens.index + self.shift, self.positions)

    def _theirs(self) -> tuple[str, ...]:
        return ("stack",) if self.token_type is None else ("positions", "token_type", "norm", "stack")

    def _resized(self, table: Tensor, old: Spec | None) -> Tensor:
        """A table with as many rows as ours; over the grids if it was made for one, else along its rows."""
        had, have = len(table) - self.shift, len(self.positions) - self.shift
        if old is not None and (had, have) == (old.tokens, self.spec.tokens):
            return resize_table(table, old.grid, self.spec.grid, self.shift)
        return resize_table(table, (had,), (have,), self.shift)
