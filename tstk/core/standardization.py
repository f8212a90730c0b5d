"""What a model knows of the data that it was built for: statistics by which series and targets are standardized, names.

Outputs of a head are standardized like the targets; a task converts them to names and units (`Task.decode`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tstk.core.types import Series, Spec


class StandardizedModel(nn.Module):
    """Base class of the pipeline: takes series in the units of the data, and converts outputs back to them.

    Args:
        spec: of the data
        has_numbers: whether the targets are numbers, which are standardized
    """

    mean: Tensor
    std: Tensor
    temperature: Tensor | None
    """That calibrated probabilities are softmax(logits / temperature) of; None if they are not calibrated."""
    target_mean: Tensor | None
    """[K] float64, the mean of the training targets if they are numbers; else None."""
    target_std: Tensor | None
    """[K] float64, their standard deviation."""

    def __init__(self, spec: Spec, *, has_numbers: bool) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("mean", torch.zeros(spec.channels, 1))
        self.register_buffer("std", torch.ones(spec.channels, 1))
        self.register_buffer("temperature", None)
        ones = torch.ones(spec.num_outputs or 0, dtype=torch.float64) if has_numbers else None
        self.register_buffer("target_mean", None if ones is None else torch.zeros_like(ones))
        self.register_buffer("target_std", ones)
        self.classes: tuple[str, ...] = ()
        self.target_names: tuple[str, ...] = ()
        self.channel_names: tuple[str, ...] = ()
        self.resize: int | None = None
        self.offset: Tensor | None = None

    def set_input_schema(self, input_schema: Mapping[str, Any]) -> None:
        """Store the names of classes, targets and channels of the training data, their offset, and the length.

        The offset [C] float64 is subtracted from arrays in float64 before they are standardized.

        Args:
            input_schema: from `DataModule.input_schema`
        """
        self.classes = tuple(map(str, input_schema.get("classes", ())))
        self.target_names = tuple(map(str, input_schema.get("target_names", ())))
        self.channel_names = tuple(map(str, input_schema.get("channels", ())))
        self.resize = input_schema.get("resize")
        offset = input_schema.get("offset")
        self.offset = None if offset is None else torch.tensor(offset, dtype=torch.float64)

    def set_standardization(self, mean: Tensor, std: Tensor, train_targets: Tensor | None = None) -> None:
        """Set the statistics of the training split by which series, and targets that are numbers, are standardized.

        Args:
            mean: [C] of the samples
            std: [C] of the samples
            train_targets: targets of the training split, as in `Split.y`
        """
        self.mean.copy_(mean[:, None])
        self.std.copy_(std[:, None])
        if self.target_mean is not None and self.target_std is not None and train_targets is not None:
            known = ~train_targets.isnan()
            count = known.sum(0).clamp(min=1)
            target_mean = train_targets.nansum(0) / count
            centred = (train_targets - target_mean).where(known, 0.0)
            target_std = (centred.square().sum(0) / count).sqrt()
            self.target_mean.copy_(target_mean)
            self.target_std.copy_(target_std.where(target_std > 1e-12 * target_mean.abs(), 1.0))

    def standardize(self, series: Series) -> Series:
        """Standardize samples, and targets that are samples or numbers, by the training data.

        Unobserved samples become 0.
        """
        x = (series.x - self.mean) / self.std
        if series.observed is not None:
            x = x.masked_fill(~series.observed, 0.0)
        if series.y is not None and self.spec.horizon is not None:
            return series.replace(x=x, y=(series.y - self.mean) / self.std)
        if series.y is not None and self.target_mean is not None and self.target_std is not None:
            return series.replace(x=x, y=((series.y - self.target_mean) / self.target_std).to(x.dtype))
        return series.replace(x=x)

    def to_data_units(self, outputs: Tensor) -> Tensor:
        """Return outputs of the head [..., K] or [B, C, H] in the units of the data; logits stay as they are."""
        if self.spec.horizon is not None:
            return outputs * self.std + self.mean
        if self.target_mean is not None and self.target_std is not None:
            return outputs * self.target_std + self.target_mean
        return outputs

    @property
    def raw_mean(self) -> Tensor:
        """The mean [C, 1] of the channels before an offset was subtracted from them, then in float64."""
        return self.mean if self.offset is None else self.mean.cpu().double() + self.offset[:, None]

    def add_offset(self, values: Tensor) -> Tensor:
        """Return samples [..., C, T] in the units of the file: float64, if an offset was subtracted from them."""
        return values if self.offset is None else values + self.offset[:, None].to(values.device)
