"""Encoders of the `transformers` library that accept `inputs_embeds`, with tokens in place of word embeddings."""

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
from tstk.nn.blocks import build_projection
from tstk.nn.devices import ignore_missing_widgets
from tstk.nn.positions import check_position_std, init_pos_embed
from tstk.nn.pretrained import copy_parameters, iter_non_norm_parameters
from tstk.plugins.distribution import format_install_command
from tstk.plugins.ranges import Depth, PositiveInt


class HF(Encoder):
    """An encoder of Hugging Face's transformers library with tokens in place of word embeddings.

    Built small from scratch, or with the weights of a folder or hub name (safetensors only). The position id of a token
    is its grid index; the unused word embeddings and pooler are removed. Linear layers are added before and after where
    widths differ. With a checkpoint, tokens are multiplied by the root mean square of its word embeddings, since its
    position embeddings suit inputs of that size; a new position table is initialised as large as the tokens. Needs
    `pip install 'tstk-core[hf]'`.

    Args:
        pretrained: folder or Hugging Face hub name of a checkpoint with config.json and model.safetensors
        architecture: model type to build from scratch; roberta if neither pretrained nor config is set
        config: the whole configuration as JSON, in place of architecture and sizes; saved runs use it
        dim: width of the layers from scratch; 128 if none
        depth: number of layers from scratch; 3 if none
        heads: attention heads from scratch; 4 if none
        hidden: hidden width of the MLP from scratch; 4 dim if none
        position_std: initial standard deviation of a new position table; 1 if none, as large as the tokens (0.02 in
            the library)
        freeze: freeze the model's weights: none, all, or all but its norms
        lr: learning rate of the model (2e-5 to 1e-4 suits a checkpoint); the run's if none
        out_dim: width of the encoder's output; the model's own if none
    """

    source_options = {"pretrained": None}
    embed_scale: Tensor

    def __init__(
        self,
        spec: Spec,
        *,
        pretrained: str | None = None,
        architecture: Literal["bert", "distilbert", "electra", "modernbert", "roberta"] | None = None,
        config: str | None = None,
        dim: PositiveInt | None = None,
        depth: Depth | None = None,
        heads: PositiveInt | None = None,
        hidden: PositiveInt | None = None,
        position_std: float | None = None,
        freeze: Literal["none", "all", "all-but-norms"] = "none",
        lr: float | None = None,
        out_dim: int | None = None,
    ) -> None:
        super().__init__(spec)
        sources = {"config": config, "pretrained": pretrained}
        sizes = {"architecture": architecture, "dim": dim, "depth": depth, "heads": heads, "hidden": hidden}
        options = [k for k, v in (sources | sizes).items() if v is not None]
        if len(options) > 1 and options[0] in sources:
            raise OptionError(f"{options[0]} sets the architecture; leave out {', '.join(options[1:])}")
        if config is not None:
            model_config = _parse_config(config)
        elif pretrained is not None:
            model_config = _from_pretrained(_import_transformers().AutoConfig, pretrained)
        else:
            model_config = _make_small_config(
                architecture or "roberta", dim or 128, depth or 3, heads or 4, hidden, spec
            )
        # The word embeddings are removed below, so build as few as possible.
        model_config.vocab_size = max(getattr(model_config, "pad_token_id", 0) or 0, 0) + 1
        self.model = _build_model(model_config)
        self.config, self.pretrained, self.freeze, self.lr = model_config, pretrained, freeze, lr

        table = self._find_position_table()
        padding_idx = getattr(table, "padding_idx", None)
        # RoBERTa's positions begin after its padding row.
        self.position_offset = 0 if padding_idx is None else padding_idx + 1
        rows = getattr(table, "num_embeddings", None)
        if rows is not None and spec.num_tokens + self.position_offset > rows:
            raise OptionError(
                f"{spec.num_tokens} tokens do not fit the {rows - self.position_offset} positions of "
                f"{model_config.model_type}; make fewer tokens (a larger patch, a shorter series) or choose another "
                "checkpoint"
            )
        width = self.model.get_input_embeddings().embedding_dim
        self.model.set_input_embeddings(nn.Identity())
        if getattr(self.model, "pooler", None) is not None:
            self.model.pooler = None
        self.register_buffer("embed_scale", torch.ones(()))
        self.project = build_projection(spec.dim or 0, width)
        hidden_size = model_config.hidden_size
        self.out_project = nn.Linear(hidden_size, out_dim) if out_dim not in (None, hidden_size) else nn.Identity()
        self.out = spec.replace(dim=out_dim or hidden_size, causal=False, num_prefix_tokens=0)

        missing_reason = f"{model_config.model_type} has no position table" if table is None else None
        if pretrained is not None:
            missing_reason = "the positions are the checkpoint's"
        check_position_std(position_std, "encoder", missing_reason)
        if table is not None and missing_reason is None:
            with torch.no_grad():
                init_pos_embed(table.weight, position_std)
                if padding_idx is not None:
                    table.weight[padding_idx] = 0

    def _find_position_table(self) -> nn.Embedding | None:
        """Return the model's table of absolute positions, or None if it has none."""
        table = getattr(getattr(self.model, "embeddings", None), "position_embeddings", None)
        return table if isinstance(table, nn.Embedding) else None

    def embed_inputs(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Return token embeddings, scaled to the size of the checkpoint's word embeddings, and position embeddings."""
        # Invalid tokens may hold anything, even NaN, which would spread through the projection's gradient.
        embeddings = self.project(tokens.values.masked_fill(~tokens.valid[..., None], 0)) * self.embed_scale
        table = self._find_position_table()
        if table is None:
            return embeddings, torch.zeros_like(embeddings)
        return embeddings, F.embedding(tokens.grid_index + self.position_offset, table.weight)

    def pos_embed(self, tokens: Tokens) -> Tensor:
        """Return the position embedding of each token, through the output projection where widths differ.

        Zeros if the model has no position table.
        """
        rows = self.embed_inputs(tokens)[1]
        if self._find_position_table() is None or rows.shape[-1] != self.config.hidden_size:
            return super().pos_embed(tokens)
        return rows @ self.out_project.weight.T if isinstance(self.out_project, nn.Linear) else rows

    def forward(self, tokens: Tokens) -> Tokens:
        """Encode tokens [B, N, spec.dim] to [B, N, out.dim], zero where invalid."""
        valid, invalid = tokens.valid, ~tokens.valid[..., None]
        x, _ = self.embed_inputs(tokens)  # the model adds the positions itself
        # A row without any valid token attends to everything, since a softmax over nothing is NaN in some kernels.
        attention_mask = valid | ~valid.any(1, keepdim=True)
        model_output = self.model(
            inputs_embeds=x, attention_mask=attention_mask.long(), position_ids=tokens.grid_index + self.position_offset
        )
        x = self.out_project(model_output.last_hidden_state)
        return tokens.replace(values=x.masked_fill(invalid, 0))

    @torch.no_grad()
    def init_from_pretrained(self) -> None:
        """Copy the checkpoint's weights, and set `config_overrides` so that rebuilding does not need the checkpoint.

        Raises:
            CheckpointError: a tensor of the model is not in the checkpoint
        """
        if self.pretrained is not None:
            loaded, info = _from_pretrained(
                _import_transformers().AutoModel, self.pretrained, use_safetensors=True, output_loading_info=True
            )
            missing = set(info["missing_keys"])
            state = {k: v for k, v in loaded.state_dict().items() if k not in missing}
            words = loaded.get_input_embeddings()
            self.embed_scale.fill_(words.weight.square().mean().sqrt())
            copy_parameters(self.model, state, [n for n, _ in self.model.named_parameters()], self.pretrained)
        sizes = dict.fromkeys(("pretrained", "architecture", "dim", "depth", "heads", "hidden"))
        self.config_overrides = {**sizes, "config": self.config.to_json_string(use_diff=False)}

    def pretrained_paths(self) -> tuple[str, ...]:
        """Return the path of the model; the projections before and after it are not part of a checkpoint."""
        return ("model",)

    def frozen_paths(self) -> tuple[str, ...]:
        """Return the parameters of the model that `freeze` selects."""
        if self.freeze == "all-but-norms":
            return tuple(f"model.{name}" for name in iter_non_norm_parameters(self.model))
        return ("model",) if self.freeze == "all" else ()

    def lr_overrides(self) -> dict[str, float]:
        """Return `lr` for the model, if it is set."""
        return {} if self.lr is None else {"model": self.lr}


def _import_transformers() -> Any:
    try:
        with ignore_missing_widgets():
            import transformers
    except ModuleNotFoundError as error:
        raise TstkError(
            f"encoder 'hf' needs {error.name}, which is not installed: {format_install_command('hf')}"
        ) from error
    return transformers


def _make_small_config(architecture: str, dim: int, depth: int, heads: int, hidden: int | None, spec: Spec) -> Any:
    """Return a configuration of the given sizes, with the field names of the architecture."""
    check_heads(heads, dim)
    fields = {"hidden_size": dim, "num_hidden_layers": depth, "num_attention_heads": heads, "pad_token_id": 0}
    fields["hidden_dim" if architecture == "distilbert" else "intermediate_size"] = hidden or 4 * dim
    if architecture == "electra":
        fields["embedding_size"] = dim
    # One row more than there are tokens: RoBERTa reserves its first row for padding.
    return _import_transformers().AutoConfig.for_model(
        architecture, **fields, max_position_embeddings=spec.num_tokens + 1
    )


def _parse_config(text: str) -> Any:
    """Return a configuration from JSON, without what makes the library fetch code."""
    try:
        fields = {k: v for k, v in dict(json.loads(text)).items() if "implementation" not in k and k != "auto_map"}
        return _import_transformers().AutoConfig.for_model(**fields)
    except (TypeError, ValueError) as error:
        raise OptionError(f"config is not a configuration of a transformers model: {_first_line(error)}") from error


def _from_pretrained(auto_class: Any, name: str, **kwargs: Any) -> Any:
    try:
        return auto_class.from_pretrained(name, **kwargs)
    except (OSError, ValueError) as error:
        raise OptionError(
            f"pretrained={name!r} cannot be read from a folder or the hub: {_first_line(error)}"
        ) from error


def _build_model(config: Any) -> Any:
    """Build the model of a configuration with random weights.

    Raises:
        OptionError: it cannot be built, or takes no input embeddings, attention mask or position ids
    """
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    # before it is built: models with a backbone of another library download it
    model_class = MODEL_MAPPING.get(type(config), object)
    forward = getattr(model_class, "forward", lambda: None)
    missing = {"inputs_embeds", "attention_mask", "position_ids"} - set(inspect.signature(forward).parameters)
    if missing:
        raise OptionError(
            f"{config.model_type} takes no {', '.join(sorted(missing))}, which this encoder needs; use bert, electra "
            "or roberta"
        )
    try:
        return _import_transformers().AutoModel.from_config(config).float()
    except ValueError as error:
        raise OptionError(f"{config.model_type} cannot be built: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
