"""Any encoder of the `transformers` library that accepts `inputs_embeds`, with tokens in place of words."""

from __future__ import annotations

import inspect
import json
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.core.interfaces import Encoder
from tstk.core.types import Spec, Tokens
from tstk.errors import OptionError, TstkError
from tstk.nn.attention import check_heads
from tstk.nn.blocks import projection
from tstk.nn.positions import check_position_std, start_positions
from tstk.nn.pretrained import fill, outside_norms
from tstk.plugins.distribution import install_command


class HF(Encoder):
    """An encoder of Hugging Face's transformers library over tokens in place of words.

    Built small from scratch, or with the weights of a folder or hub name (safetensors only). The model gets each
    token's slot as its position id; word embeddings and pooler, which play no part, are dropped. Linear maps lead
    in and out where widths differ. With a checkpoint, tokens are multiplied by the root mean square of its word
    vectors, since its position table belongs to embeddings of that size; a new position table starts as large as the
    tokens. Needs `pip install 'tstk-core[hf]'`.

    Args:
        pretrained: folder, or Hugging Face hub name, of a checkpoint with config.json and model.safetensors
        architecture: what to build from scratch; roberta unless pretrained or config says
        config: the whole configuration as JSON, in place of architecture and sizes; saved runs use it
        dim: width of the layers from scratch; 128 if none
        depth: number of layers from scratch; 3 if none
        heads: attention heads from scratch; 4 if none
        hidden: width of the MLP from scratch; 4 dim if none
        position_std: deviation of the initial values of a new position table; 1 if none, as large as the tokens (0.02
            in the library)
        freeze: keep the model from learning, wholly or but for its norms
        lr: learning rate of the model (2e-5 to 1e-4 suits a checkpoint); the run's if none
        out_dim: width after the encoder; the model's own if none
    """

    unit: Tensor

    def __init__(
        self,
        spec: Spec,
        *,
        pretrained: str | None = None,
        architecture: Literal["bert", "distilbert", "electra", "modernbert", "roberta"] | None = None,
        config: str | None = None,
        dim: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        hidden: int | None = None,
        position_std: float | None = None,
        freeze: Literal["none", "all", "all-but-norms"] = "none",
        lr: float | None = None,
        out_dim: int | None = None,
    ) -> None:
        super().__init__(spec)
        sources = {"config": config, "pretrained": pretrained}
        sizes = {"architecture": architecture, "dim": dim, "depth": depth, "heads": heads, "hidden": hidden}
        given = [k for k, v in (sources | sizes).items() if v is not None]
        if len(given) > 1 and given[0] in sources:
            raise OptionError(f"{given[0]} settles the architecture; leave out {', '.join(given[1:])}")
        if config is not None:
            chosen = _parsed(config)
        elif pretrained is not None:
            chosen = _fetched(_library().AutoConfig, pretrained)
        else:
            chosen = _small(architecture or "roberta", dim or 128, depth or 3, heads or 4, hidden, spec)
        # Words play no part: a vocabulary of thousands would be built only to be thrown away.
        chosen.vocab_size = max(getattr(chosen, "pad_token_id", 0) or 0, 0) + 1
        self.model = _build(chosen)
        self.chosen, self.pretrained, self.freeze, self.lr = chosen, pretrained, freeze, lr

        table = self._table()
        pad = getattr(table, "padding_idx", None)
        self.shift = 0 if pad is None else pad + 1  # RoBERTa counts from the row after its padding row
        rows = getattr(table, "num_embeddings", None)
        if rows is not None and spec.tokens + self.shift > rows:
            raise OptionError(
                f"{spec.tokens} tokens do not fit the {rows - self.shift} positions of {chosen.model_type}; "
                "make fewer tokens (a larger patch, a shorter series) or choose another checkpoint"
            )
        width = self.model.get_input_embeddings().embedding_dim
        self.model.set_input_embeddings(nn.Identity())
        if getattr(self.model, "pooler", None) is not None:
            self.model.pooler = None
        self.register_buffer("unit", torch.ones(()))
        self.project = projection(spec.dim or 0, width)
        inner = chosen.hidden_size
        self.out_project = nn.Linear(inner, out_dim) if out_dim not in (None, inner) else nn.Identity()
        self.out = spec.but(dim=out_dim or inner, causal=False, prefix=0)

        none = f"{chosen.model_type} has no position table" if table is None else None
        if pretrained is not None:
            none = "the positions are the checkpoint's"
        check_position_std(position_std, "encoder", none)
        if table is not None and none is None:
            with torch.no_grad():
                start_positions(table.weight, position_std)
                if pad is not None:
                    table.weight[pad] = 0

    def _table(self) -> nn.Embedding | None:
        """The model's table of absolute positions, if it has one."""
        table = getattr(getattr(self.model, "embeddings", None), "position_embeddings", None)
        return table if isinstance(table, nn.Embedding) else None

    def enter(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Projected tokens in units of the checkpoint's words, and their rows of the model's position table."""
        # Zeros where invalid: whatever lies there, even NaN, must not reach a product.
        content = self.project(tokens.values.masked_fill(~tokens.valid[..., None], 0)) * self.unit
        table = self._table()
        rows = torch.zeros_like(content) if table is None else F.embedding(tokens.index + self.shift, table.weight)
        return content, rows

    def place(self, tokens: Tokens) -> Tensor:
        """Rows of the model's position table, led out by the output map where widths differ; zeros if it has none."""
        rows = self.enter(tokens)[1]
        if self._table() is None or rows.shape[-1] != self.chosen.hidden_size:
            return super().place(tokens)
        return rows @ self.out_project.weight.T if isinstance(self.out_project, nn.Linear) else rows

    def forward(self, tokens: Tokens) -> Tokens:
        """Tokens of [B, N, spec.dim] -> Tokens of [B, N, out.dim], zero where invalid."""
        valid, invalid = tokens.valid, ~tokens.valid[..., None]
        # A row without any valid token attends to everything, since a softmax over nothing is NaN in some kernels.
        x, _ = self.enter(tokens)  # the model adds the positions itself
        seen = valid | ~valid.any(1, keepdim=True)
        answer = self.model(inputs_embeds=x, attention_mask=seen.long(), position_ids=tokens.index + self.shift)
        x = self.out_project(answer.last_hidden_state)
        return tokens.but(values=x.masked_fill(invalid, 0))

    def warm_start(self) -> None:
        """Copy the checkpoint's weights; from then on the recorded configuration rebuilds this without it.

        Raises:
            CheckpointError: a tensor of the model is not in the checkpoint
        """
        if self.pretrained is not None:
            loaded, info = _fetched(
                _library().AutoModel, self.pretrained, use_safetensors=True, output_loading_info=True
            )
            missing = set(info["missing_keys"])
            state = {k: v for k, v in loaded.state_dict().items() if k not in missing}
            words = loaded.get_input_embeddings()
            self.unit.fill_(words.weight.square().mean().sqrt())
            fill(self.model, state, [n for n, _ in self.model.named_parameters()], self.pretrained)
        sizes = dict.fromkeys(("pretrained", "architecture", "dim", "depth", "heads", "hidden"))
        self.rebuild = {**sizes, "config": self.chosen.to_json_string(use_diff=False)}

    def freezes(self) -> tuple[str, ...]:
        """The model, as `freeze` says."""
        if self.freeze == "all-but-norms":
            return tuple(f"model.{name}" for name in outside_norms(self.model))
        return ("model",) if self.freeze == "all" else ()

    def rates(self) -> dict[str, float]:
        """`lr` for the model."""
        return {} if self.lr is None else {"model": self.lr}


def _library() -> Any:
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise TstkError(f"encoder 'hf' needs {error.name}, which is not installed: {install_command('hf')}") from error
    return transformers


def _small(kind: str, dim: int, depth: int, heads: int, hidden: int | None, spec: Spec) -> Any:
    """A configuration from sizes; the names that differ between architectures are settled here."""
    check_heads(heads, dim)
    names = {"hidden_size": dim, "num_hidden_layers": depth, "num_attention_heads": heads, "pad_token_id": 0}
    names["hidden_dim" if kind == "distilbert" else "intermediate_size"] = hidden or 4 * dim
    if kind == "electra":
        names["embedding_size"] = dim
    # One row more than tokens: RoBERTa keeps its first for padding.
    return _library().AutoConfig.for_model(kind, **names, max_position_embeddings=spec.tokens + 1)


def _parsed(text: str) -> Any:
    try:
        return _library().AutoConfig.for_model(**json.loads(text))
    except (TypeError, ValueError) as error:
        raise OptionError(f"config is no configuration of a transformers model: {_brief(error)}") from error


def _fetched(auto: Any, name: str, **how: Any) -> Any:
    try:
        return auto.from_pretrained(name, **how)
    except (OSError, ValueError) as error:
        raise OptionError(f"pretrained={name!r} cannot be read from a folder or the hub: {_brief(error)}") from error


def _build(config: Any) -> Any:
    """The model of a configuration, with random weights, if tokens and their slots can be fed to it."""
    try:
        model = _library().AutoModel.from_config(config)
    except ValueError as error:
        raise OptionError(f"{config.model_type} cannot be built: {_brief(error)}") from error
    lacking = {"inputs_embeds", "attention_mask", "position_ids"} - set(inspect.signature(model.forward).parameters)
    if lacking:
        raise OptionError(
            f"{config.model_type} takes no {', '.join(sorted(lacking))}, so it cannot be told what tokens hold and "
            "where they sit; bert, electra and roberta can"
        )
    return model.float()


def _brief(error: Exception) -> str:
    return str(error).splitlines()[0]
