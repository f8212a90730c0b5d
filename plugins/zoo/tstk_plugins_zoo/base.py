"""What the tokenizers and the encoders of this plugin have in common: their weights come from a checkpoint, or none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

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


def copy_weights(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy all parameters and running statistics of a module from a state dict with its names.

    Raises:
        CheckpointError: one is missing or has another shape
    """
    names = [name for name, tensor in module.state_dict().items() if tensor.is_floating_point()]
    copy_parameters(module, state, names, source)


class PretrainedPatch(BasePatch):
    """Base class of the tokenizers: patches of one channel, embedded by `project`, which a checkpoint may have.

    Args:
        spec: of one channel
        config: configuration of the model
        pretrained: the checkpoint that `project` and `features` come from, or None
        dim: width of a token
        window: samples per patch; chosen for the length if None
        stride: samples from one patch to the next; `window` if None
        num_features: features per sample
    """

    source_options = {"pretrained": None}
    size_options: ClassVar[tuple[str, ...]] = ("dim", "window")
    """Options that a checkpoint sets."""

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
        """Copy the checkpoint's weights, and set `config_overrides` so that rebuilding does not need the checkpoint.

        Raises:
            CheckpointError: a tensor of this tokenizer is not in the checkpoint
        """
        if self.pretrained is None:
            return
        copy_weights(self, self.rename_weights(load_checkpoint_weights(self.pretrained)), self.pretrained)
        self.config_overrides = {
            **dict.fromkeys(self.size_options),
            "pretrained": None,
            "config": self.config.to_json(),
        }


class PretrainedEncoder(Encoder):
    """Base class of the encoders: `model` has the layers, between linear maps where widths differ.

    A subclass sets `model` and calls `connect`.

    Args:
        spec: of the tokens
        config: configuration of the model
        pretrained: the checkpoint that `model` comes from, or None
        freeze: what of `model` is frozen: none, all, all-but-norms
        lr: learning rate of `model`, or None
    """

    source_options = {"pretrained": None}
    size_options: ClassVar[tuple[str, ...]] = ("dim", "depth", "heads", "hidden")
    """Options that a checkpoint sets."""
    model: nn.Module

    def __init__(self, spec: Spec, config: ModelConfig, pretrained: str | None, freeze: str, lr: float | None) -> None:
        super().__init__(spec)
        self.config, self.pretrained, self.freeze, self.lr = config, pretrained, freeze, lr

    def connect(self, dim: int, out_dim: int | None, num_prefix_tokens: int = 0) -> None:
        """Build the maps before and after the model, of width `dim`, and set `out`."""
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

    def project_positions(self, positions: Tensor) -> Tensor:
        """Return position embeddings [B, N, dim] in the width of the output, [B, N, out.dim]."""
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
        """Copy the checkpoint's weights, and set `config_overrides` so that rebuilding does not need the checkpoint.

        Raises:
            CheckpointError: a tensor of the model is not in the checkpoint
        """
        if self.pretrained is None:
            return
        copy_weights(self.model, self.rename_weights(load_checkpoint_weights(self.pretrained)), self.pretrained)
        self.config_overrides = {
            **dict.fromkeys(self.size_options),
            "pretrained": None,
            "config": self.config.to_json(),
        }

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
