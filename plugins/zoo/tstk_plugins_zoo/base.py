"""What the tokenizers and the encoders of this plugin have in common: their weights come from a checkpoint, or none."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from tstk.builtin.tokenizers.patch import BasePatch
from tstk.core.interfaces import Encoder
from tstk.core.types import Spec, StepOutput, Tokens
from tstk.errors import IncompatibleError
from tstk.nn.blocks import build_projection
from tstk.nn.convolution import MaskedBatchNorm
from tstk.nn.pretrained import copy_parameters, iter_non_norm_parameters, load_checkpoint_weights
from tstk_plugins_zoo.config import ModelConfig
from tstk_plugins_zoo.norms import update_norms


def load_checkpoint(component: PretrainedPatch | PretrainedEncoder, module: nn.Module) -> None:
    """Copy the checkpoint's weights to a module of a component, and set `config_overrides` to rebuild it without one.

    Raises:
        CheckpointError: a parameter or running statistic of the module is not in the checkpoint
    """
    if component.pretrained is None:
        return
    state = component.rename_weights(load_checkpoint_weights(component.pretrained))
    names = [name for name, tensor in module.state_dict().items() if tensor.is_floating_point()]
    copy_parameters(module, state, names, component.pretrained)
    component.config_overrides = component.config.get_overrides()


class PretrainedPatch(BasePatch):
    """Base class of the tokenizers: patches of one channel, embedded by `project`, which a checkpoint may have.

    The constructor takes the configuration that `resolve_config` returns for the options that all tokenizers have:

    Args:
        pretrained: folder or Hugging Face hub name of a checkpoint with config.json and model.safetensors
        config: the content of a config.json, in place of the sizes; saved runs use it
    """

    source_options = {"pretrained": None}

    def __init__(
        self,
        spec: Spec,
        config: ModelConfig,
        pretrained: str | None,
        dim: int,
        window: int | None,
        stride: int | None = None,
        num_features: int = 1,
    ) -> None:
        if spec.channels != 1:
            raise IncompatibleError(
                f"{self.display_name()} tokenizes one channel at a time; use --channels independent"
            )
        super().__init__(spec, dim, window, stride, num_features)
        self.config, self.pretrained = config, pretrained

    @staticmethod
    def rename_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint with the names of this tokenizer's."""
        raise NotImplementedError

    def init_from_pretrained(self) -> None:
        """Copy the checkpoint's weights, see `load_checkpoint`."""
        load_checkpoint(self, self)


class PretrainedEncoder(Encoder):
    """Base class of the encoders: `model` has the layers, between linear maps where widths differ.

    A subclass sets `model` and calls `connect`. The constructor takes the configuration that `resolve_config` returns
    for the options that all encoders have:

    Args:
        pretrained: folder or Hugging Face hub name of a checkpoint with config.json and model.safetensors
        config: the content of a config.json, in place of the sizes; saved runs use it
        freeze: freeze the model's weights: none, all, or all but its norms
        lr: learning rate of the model (2e-5 to 1e-4 suits a checkpoint); the run's if none
        out_dim: width of the encoder's output; the model's own if none
    """

    source_options = {"pretrained": None}
    model: nn.Module

    def __init__(self, spec: Spec, config: ModelConfig, pretrained: str | None, freeze: str, lr: float | None) -> None:
        super().__init__(spec)
        self.config, self.pretrained, self.freeze, self.lr = config, pretrained, freeze, lr

    def connect(self, dim: int, out_dim: int | None, num_prefix_tokens: int = 0) -> None:
        """Build the maps before and after the model, of width `dim`, and set `out`."""
        self.dim = dim
        self.project = build_projection(self.spec.dim or 0, dim)
        self.out_project = nn.Linear(dim, out_dim) if out_dim not in (None, dim) else nn.Identity()
        self.out = self.spec.replace(dim=out_dim or dim, causal=False, num_prefix_tokens=num_prefix_tokens)

    def pretrained_paths(self) -> tuple[str, ...]:
        """Return the path of the model; the projections before and after it are not part of a checkpoint."""
        return ("model",)

    def project_tokens(self, tokens: Tokens) -> Tensor:
        """Return the content of the tokens in the width of the model, [B, N, dim]; constant where invalid."""
        # Invalid tokens may hold anything, even NaN, which would spread through the projection's gradient.
        content: Tensor = self.project(tokens.values.masked_fill(~tokens.valid[..., None], 0))
        return content.masked_fill(~tokens.valid[..., None], 0)

    def look_up_positions(self, tokens: Tokens) -> Tensor:
        """Return the position embedding that the model adds to each token, [B, N, dim]; zeros if it adds none."""
        return tokens.values.new_zeros(*tokens.grid_index.shape, self.dim)

    def embed_inputs(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Return the projected tokens and their position embeddings."""
        return self.project_tokens(tokens), self.look_up_positions(tokens)

    def pos_embed(self, tokens: Tokens) -> Tensor:
        """Return the position embedding of each token, through the output projection where widths differ."""
        positions = self.look_up_positions(tokens)
        return positions @ self.out_project.weight.T if isinstance(self.out_project, nn.Linear) else positions

    def replace_values(self, tokens: Tokens, x: Tensor, prefix: Tensor | None = None) -> Tokens:
        """Return the tokens with the output of the model as values, [B, N, dim], and a prefix, [B, S, dim]."""
        values = self.out_project(x).masked_fill(~tokens.valid[..., None], 0)
        return tokens.replace(values=values, prefix=tokens.prefix if prefix is None else self.out_project(prefix))

    @staticmethod
    def rename_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint with the names of `model`."""
        raise NotImplementedError

    def init_from_pretrained(self) -> None:
        """Copy the checkpoint's weights to the model, see `load_checkpoint`."""
        load_checkpoint(self, self.model)

    def frozen_paths(self) -> tuple[str, ...]:
        """Return the parameters of the model that `freeze` selects."""
        if self.freeze == "all-but-norms":
            return tuple(f"model.{name}" for name in iter_non_norm_parameters(self.model))
        return ("model",) if self.freeze == "all" else ()

    def lr_overrides(self) -> dict[str, float]:
        """Return `lr` for the model, if it is set."""
        return {} if self.lr is None else {"model": self.lr}

    def after_step(self, step_outputs: list[StepOutput]) -> None:
        """Update the running statistics of batch norms, if there are any, with those of the step."""
        norms = [m for m in self.model.modules() if isinstance(m, MaskedBatchNorm)]
        if norms and self.model.training:
            update_norms(norms, [o.encoded.statistics["encoder_norms"] for o in step_outputs if o.encoded is not None])
