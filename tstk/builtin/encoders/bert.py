"""BERT as an encoder of time series, from scratch or with pretrained weights.

Tokens take the place of word embeddings; everything after them is BERT's. Position embeddings are looked up at the
`grid_index` of each token, so masking or shuffling tokens does not renumber them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.core.interfaces import Encoder
from tstk.core.types import Spec, Tokens
from tstk.errors import CheckpointError, IncompatibleError, OptionError
from tstk.nn.attention import make_key_mask
from tstk.nn.blocks import Dropout, Stack, build_projection
from tstk.nn.positions import check_position_std, init_pos_embed, resize_pos_embed
from tstk.nn.pretrained import (
    convert_bert_layers,
    copy_parameters,
    iter_non_norm_parameters,
    load_bert_weights,
    resolve_bert_config,
)
from tstk.plugins.ranges import Depth, Fraction, PositiveInt


class Bert(Encoder):
    """BERT with tokens in place of word embeddings, from scratch or with the weights of a checkpoint.

    Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers" (arXiv:1810.04805). With a checkpoint, the
    output equals that of Hugging Face's `BertModel` on the same position ids, with the tokens, multiplied by the root
    mean square of its word embeddings, as `inputs_embeds`: its position embeddings suit inputs of that size. Linear
    layers are added before and after where widths differ. From scratch, weights are initialised with standard
    deviation 0.02. Unlike the paper, a new position table is initialised as large as the tokens.

    Args:
        dim: width of the layers; 128, or the checkpoint's
        depth: number of layers; 3, or the checkpoint's
        heads: attention heads; 4, or the checkpoint's
        hidden: hidden width of the MLP; 4 dim, or the checkpoint's
        eps: epsilon of the layer norms; 1e-12, or the checkpoint's
        rows: rows of the position table; as many as the grid needs, or the checkpoint's
        position_std: initial standard deviation of a new position table; 1 if none, as large as the tokens (0.02 in
            BERT)
        pretrained: folder or Hugging Face hub name of a BERT checkpoint (config.json, model.safetensors)
        part: load the whole of BERT, or only its layers with a new position table
        overflow: if the grid has more tokens than the position table has rows: refuse, or interpolate the table
        freeze: freeze BERT's weights: none, all, or all but its layer norms
        lr: learning rate of BERT's weights (2e-5 to 1e-4 suits a checkpoint); the run's if none
        out_dim: width of the encoder's output; dim if none
        cls: prepend a learned CLS token, at BERT's position 0
        words: embed discrete tokens by a learned table, initialised with random word embeddings of the checkpoint
        dropout: dropout rate of embeddings, attention probabilities and the output of each sub-layer
    """

    source_options = {"pretrained": None}
    embed_scale: Tensor

    def __init__(
        self,
        spec: Spec,
        *,
        dim: PositiveInt | None = None,
        depth: Depth | None = None,
        heads: PositiveInt | None = None,
        hidden: PositiveInt | None = None,
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
        dropout: Fraction = 0.1,
    ) -> None:
        super().__init__(spec)
        if words and spec.vocab_size is None:
            raise IncompatibleError(f"{self.missing_message('vocab_size')} Or leave out words")
        has_pretrained_table = pretrained is not None and part == "whole"
        missing_reason = "the position table is the checkpoint's" if has_pretrained_table else None
        check_position_std(position_std, "encoder", missing_reason)
        num_positions = spec.num_tokens + int(cls)
        options = {"dim": dim, "depth": depth, "heads": heads, "hidden": hidden, "eps": eps, "rows": rows}
        architecture = resolve_bert_config(
            {k: v for k, v in options.items() if v is not None}, pretrained, with_pos_embed=part == "whole"
        )
        dim = architecture.setdefault("dim", 128)
        architecture.setdefault("hidden", 4 * dim)
        if num_positions > architecture.setdefault("rows", num_positions):
            if overflow == "refuse":
                raise OptionError(
                    f"{num_positions} positions are needed, one per token{' and the CLS' if cls else ''}, but bert has "
                    f"{architecture['rows']} position rows; make fewer tokens (a larger patch, a shorter series) or "
                    "set overflow=interpolate"
                )
            architecture["rows"] = num_positions
        self.architecture = {"depth": 3, "heads": 4, "eps": 1e-12} | architecture
        self.pretrained, self.freeze, self.lr, self.position_offset = pretrained, freeze, lr, int(cls)

        self.words = nn.Parameter(torch.empty(spec.vocab_size or 0, dim)) if words else None
        self.project = nn.Identity() if words else build_projection(spec.dim or 0, dim)
        self.register_buffer("embed_scale", torch.ones(()))
        self.positions = nn.Parameter(torch.empty(self.architecture["rows"], dim))
        self.cls = nn.Parameter(torch.empty(1, 1, dim)) if cls else None
        self.token_type = nn.Parameter(torch.empty(dim)) if part == "whole" else None
        self.norm = nn.LayerNorm(dim, self.architecture["eps"]) if part == "whole" else nn.Identity()
        self.dropout = Dropout(dropout)
        self.stack = Stack(
            self.architecture["depth"],
            dim,
            self.architecture["heads"],
            hidden=self.architecture["hidden"],
            dropout=dropout,
            attention_dropout=dropout,
            norm="post",
            eps=self.architecture["eps"],
        )
        self.out_project = nn.Linear(dim, out_dim) if out_dim not in (None, dim) else nn.Identity()
        self.out = spec.replace(dim=out_dim or dim, causal=False, num_prefix_tokens=self.position_offset)
        self._init_weights(position_std)

    def _init_weights(self, position_std: float | None) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear) and module is not self.project:
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for parameter in (self.cls, self.token_type, self.words):
            if parameter is not None:
                nn.init.normal_(parameter, std=0.02)
        init_pos_embed(self.positions, position_std)

    def embed_inputs(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Return token embeddings, scaled to the size of the checkpoint's word embeddings, and position embeddings."""
        if self.words is not None:
            assert tokens.ids is not None
            embeddings = F.embedding(tokens.ids, self.words)
        else:
            # Invalid tokens may hold anything, even NaN, which would spread through the projection's gradient.
            embeddings = self.project(tokens.values.masked_fill(~tokens.valid[..., None], 0)) * self.embed_scale
        return embeddings, self._lookup_positions(tokens)

    def pos_embed(self, tokens: Tokens) -> Tensor:
        """Return the position embedding of each token, through the output projection where widths differ."""
        rows = self._lookup_positions(tokens)
        return rows @ self.out_project.weight.T if isinstance(self.out_project, nn.Linear) else rows

    def forward(self, tokens: Tokens) -> Tokens:
        """Encode tokens [B, N, spec.dim] to [B, N, out.dim], zero where invalid; prefix [B, 1, out.dim] with cls."""
        valid = tokens.valid
        embeddings, pos_embed = self.embed_inputs(tokens)
        x = embeddings + pos_embed
        if self.cls is not None:
            x = torch.cat([(self.cls + self.positions[0]).expand(x.shape[0], -1, -1), x], 1)
            valid = torch.cat([valid.new_ones(x.shape[0], 1), valid], 1)
        if self.token_type is not None:
            x = self.norm(x + self.token_type)
        x = self.out_project(self.stack(self.dropout(x), mask=make_key_mask(valid)))
        values = x[:, self.position_offset :].masked_fill(~tokens.valid[..., None], 0)
        return tokens.replace(values=values, prefix=x[:, :1] if self.cls is not None else tokens.prefix)

    def init_from_pretrained(self) -> None:
        """Copy the checkpoint's weights, and set `config_overrides` so that rebuilding does not need the checkpoint.

        Raises:
            CheckpointError: a tensor of this encoder is not in the checkpoint
        """
        if self.pretrained is None:
            return
        state = load_bert_weights(self.pretrained)
        converted = {f"stack.{k}": v for k, v in convert_bert_layers(state).items()}
        for ours, checkpoint_name in (
            ("positions", "position_embeddings.weight"),
            ("token_type", "token_type_embeddings.weight"),
            ("norm.weight", "LayerNorm.weight"),
            ("norm.bias", "LayerNorm.bias"),
        ):
            if (value := state.get(f"embeddings.{checkpoint_name}")) is not None:
                converted[ours] = value[0] if ours == "token_type" else value
        if "positions" in converted:
            converted["positions"] = self._resize_positions(converted["positions"], None)
        names = [n for n, _ in self.named_parameters() if n.startswith(self.pretrained_paths())]
        copy_parameters(self, converted, names, self.pretrained)
        self._init_from_words(state.get("embeddings.word_embeddings.weight"))
        self.config_overrides = {"pretrained": None, **self.architecture}

    def _init_from_words(self, table: Tensor | None) -> None:
        """Set the scale of the inputs and the embeddings of discrete tokens from the checkpoint's word embeddings."""
        if self.token_type is not None and table is not None:
            self.embed_scale.fill_(table.square().mean().sqrt())
        if self.words is None:
            return
        if table is None:
            raise CheckpointError(f"{self.pretrained} has no word embeddings; leave out words")
        if len(table) < len(self.words):
            raise CheckpointError(
                f"{self.pretrained} has {len(table)} words for {len(self.words)} codes; use fewer codes"
            )
        with torch.no_grad():
            self.words.copy_(table[torch.randperm(len(table))[: len(self.words)]])

    def pretrained_paths(self) -> tuple[str, ...]:
        """Return the paths of BERT's parameters, or of its layers alone with `part="layers"`."""
        return ("stack",) if self.token_type is None else ("positions", "token_type", "norm", "stack")

    def frozen_paths(self) -> tuple[str, ...]:
        """Return the pretrained parameters that `freeze` selects."""
        if self.freeze == "all-but-norms":
            return tuple(n for n in iter_non_norm_parameters(self) if n.startswith(self.pretrained_paths()))
        return self.pretrained_paths() if self.freeze == "all" else ()

    def lr_overrides(self) -> dict[str, float]:
        """Return `lr` for the pretrained parameters, if it is set."""
        return {} if self.lr is None else dict.fromkeys(self.pretrained_paths(), self.lr)

    def load_pretrained(self, state: Mapping[str, Tensor], old_spec: Spec) -> None:
        """Load a state dict strictly, after interpolating a position table of another size."""
        state = dict(state)
        if "positions" in state:
            state["positions"] = self._resize_positions(state["positions"], old_spec)
        super().load_pretrained(state, old_spec)

    def _lookup_positions(self, tokens: Tokens) -> Tensor:
        return F.embedding(tokens.grid_index + self.position_offset, self.positions)

    def _resize_positions(self, table: Tensor, old_spec: Spec | None) -> Tensor:
        """Interpolate a position table to this encoder's: over the grid if both have a row per token, else by rows."""
        old_rows, new_rows = len(table) - self.position_offset, len(self.positions) - self.position_offset
        if old_spec is not None and (old_rows, new_rows) == (old_spec.num_tokens, self.spec.num_tokens):
            return resize_pos_embed(table, old_spec.grid_size, self.spec.grid_size, self.position_offset)
        return resize_pos_embed(table, (old_rows,), (new_rows,), self.position_offset)
