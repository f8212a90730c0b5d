"""The options of training, and the check that they can take effect with the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from tstk.data.catalog import DEFAULT_VAL_FRACTION
from tstk.errors import DataError, OptionError
from tstk.plugins.ranges import Fraction, NameOf, NonNegativeFloat, PositiveFloat, PositiveInt
from tstk.plugins.signature import check_fields

if TYPE_CHECKING:
    from tstk.config.resolve import Config
    from tstk.data.data_module import DataModule


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Options of training.

    For a classifier of at most 500 training series, the defaults are 1500 steps with 16 augmented series each and the
    weights of the last step, unless epochs or steps are given (`tstk.training.small_data`).

    Args:
        epochs: passes over the training data; none means enough for 1500 steps, between 10 and 100 passes
        steps: optimizer steps, instead of epochs
        batch_size: series per batch, over all processes together; none means 64, or 16 for a classifier of few series
        lr: peak learning rate of AdamW; components with pretrained weights may define their own
        lr_override: learning rates of single parts, as PART=RATE, such as tokenizer.decoder=1e-5
        weight_decay: weight decay of the weights of linear and convolutional layers
        weight_decay_on: what decays: matrices, the weights of linear and convolutional layers; all, also biases, norms,
            positions and codes, as in much published code
        warmup_ratio: fraction of the steps in which the learning rate rises
        warmup_steps: number of these steps, instead of their fraction; a shorter training ends within the warm-up
        final_lr_ratio: fraction of the peak learning rate at which the cosine ends
        lr_schedule: learning rate after the warm-up: cosine, decay to final_lr_ratio; constant; one-cycle, rise and
            decay along a cosine (Smith and Topin 2018; use a warm-up of about 0.3)
        layer_decay: factor of the learning rate from one encoder layer to the layer below it, the embeddings being
            lowest (BEiT: 0.65); heads and the last norm take the full rate
        grad_clip: largest norm of the gradient; 0 for no limit
        ema_decay: decay per step of an exponential moving average of the weights, which is validated and saved in their
            place; 0 for none
        grad_accum_steps: batches per optimizer step
        sampling: all, every series once per pass; balanced, all classes equally often
        crop: length of a random crop of each training series, drawn anew in each step; none keeps the series whole
        augment: augmentations of training series (tstk list augmentations), as NAME or NAME=STRENGTH: jitter (0.03),
            scaling (0.1), permutation (4), time-warp (0.2), with default strengths; off: none; auto: scaling,
            jitter=0.05 and time-warp for a classifier with at most 500 training series, else none
        mixup: mix each labelled series with another of its batch, with a weight drawn from Beta(mixup, mixup) (Zhang et
            al. 2018); 0 for none
        gradient_checkpointing: recompute the activations of Transformer blocks in the backward pass: less memory, a
            third more time
        compile: compile encoder, decoder and head with torch.compile: the first steps take long, later ones less
        lora: rank of low-rank updates (LoRA, Hu et al. 2021) of the linear layers in the encoder's blocks, trained in
            place of its pretrained weights; the weights that are saved have them added; none trains all weights
        lora_alpha: factor of the updates, times their rank; the rank if none, hence a factor of 1
        lora_dropout: dropout rate of the inputs of the updates
        probe_every: every N epochs, fit a linear probe on frozen features and log its validation accuracy; labels never
            reach the weights
        validate_every: optimizer steps between two validations, which then count as an epoch; none means a pass over
            the training data
        patience: epochs without improvement after which training stops; none never stops early
        select_by: epoch whose weights are kept: score, the latest whose validation accuracy is within one standard
            error of the best (for another task, the one with the best main metric, such as the lowest error); loss, the
            lowest validation loss; last; auto, last for a classifier of few series and where there is no validation
            split, else score
        calibrate: temperature, after training divide the logits of a classifier by the number that is best on the
            validation split (Guo et al. 2017): probabilities change, predicted classes do not
        seed: random seed of weights, batches, masks and dropout
        device: device to train on; auto uses a GPU if there is one
        precision: precision of activations; weights stay float32
        threads: CPU threads; none leaves the number to torch
        deterministic: use only deterministic operations, and raise an error for others; slower on a GPU; not needed on
            a CPU, where seeded runs repeat without it
        callbacks: callbacks of plugins (tstk list callbacks), as NAME or NAME:OPTION=VALUE
        trackers: experiment trackers to log to: tensorboard, wandb, mlflow, or that of a plugin; each must be installed

    Raises:
        OptionError: a value has the wrong type or is out of range
    """

    epochs: PositiveInt | None = None
    steps: PositiveInt | None = None
    batch_size: PositiveInt | None = None
    lr: NonNegativeFloat = 1e-3
    lr_override: tuple[str, ...] = ()
    weight_decay: NonNegativeFloat = 0.05
    weight_decay_on: Literal["matrices", "all"] = "matrices"
    warmup_ratio: Fraction = 0.1
    warmup_steps: PositiveInt | None = None
    final_lr_ratio: Fraction = 0.0
    lr_schedule: Literal["cosine", "constant", "one-cycle"] = "cosine"
    layer_decay: Annotated[float, Gt(0), Le(1)] = 1.0
    grad_clip: NonNegativeFloat = 1.0
    ema_decay: Fraction = 0.998
    grad_accum_steps: PositiveInt = 1
    sampling: Literal["all", "balanced"] = "all"
    crop: PositiveInt | None = None
    augment: tuple[str, ...] = ("auto",)
    mixup: NonNegativeFloat = 0.0
    gradient_checkpointing: bool = False
    compile: bool = False
    lora: PositiveInt | None = None
    lora_alpha: PositiveFloat | None = None
    lora_dropout: Fraction = 0.0
    probe_every: PositiveInt | None = None
    validate_every: PositiveInt | None = None
    patience: PositiveInt | None = None
    select_by: Literal["auto", "score", "loss", "last"] = "auto"
    calibrate: Literal["none", "temperature"] = "none"
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    threads: Annotated[int, Ge(1), Le(1024)] | None = None
    deterministic: bool = False
    callbacks: tuple[str, ...] = ()
    trackers: tuple[Annotated[str, NameOf("tracker")], ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        if self.final_lr_ratio and self.lr_schedule != "cosine":
            raise OptionError(
                f"--final-lr-ratio {self.final_lr_ratio}: only a cosine ends at a chosen learning rate; "
                f"use --lr-schedule cosine, or --final-lr-ratio 0 with {self.lr_schedule}"
            )
        if self.lora is None and (self.lora_alpha is not None or self.lora_dropout):
            name, value = ("alpha", self.lora_alpha) if self.lora_alpha is not None else ("dropout", self.lora_dropout)
            raise OptionError(
                f"--lora-{name} {value}: there are no low-rank updates; add --lora RANK, such as --lora 8"
            )

    @classmethod
    def from_config(cls, config: Config) -> TrainConfig:
        """Return the options of training of a resolved config."""
        return cls(**config.options("train"))


def check_config(config: TrainConfig, data: DataModule) -> None:
    """Raise if there are no training series, or if an option cannot take effect with these data.

    Args:
        config: with defaults resolved
        data: to train on

    Raises:
        DataError: the training split is empty
        OptionError: an option requires validation data or classes that are missing, or does not apply to windows
    """
    if len(data.train) == 0:
        raise DataError(f"{data.name}: the training split is empty")
    requires_classes: dict[str, Any] = {
        "sampling": config.sampling, "probe-every": config.probe_every, "mixup": config.mixup,
        "calibrate": config.calibrate,
    }  # fmt: skip
    for name, value in requires_classes.items():
        if value and value not in ("all", "none") and not data.has_classes:
            raise OptionError(f"--{name} {value}: needs a class per series, which {data.name} lacks; leave it out")
    requires_validation: dict[str, Any] = {
        "select-by": config.select_by, "patience": config.patience, "probe-every": config.probe_every,
        "calibrate": config.calibrate,
    }  # fmt: skip
    for name, value in requires_validation.items():
        if not len(data.val) and value not in (None, "last", "none"):
            raise OptionError(
                f"--{name} {value}: {data.name} has no validation series; hold some out with "
                f"--val-fraction {DEFAULT_VAL_FRACTION}"
            )
    if data.spec.horizon is not None:
        if config.crop is not None:
            raise OptionError(
                f"--crop {config.crop}: {data.name} is already cut into windows; use --context and --horizon"
            )
        if config.augment:
            raise OptionError(
                f"--augment {','.join(config.augment)}: {data.name} is a forecasting task, whose targets would not be "
                "augmented"
            )
    _check_class_per_sample(config, data)
    if config.calibrate != "none" and data.val is data.test:
        raise OptionError(
            f"--calibrate {config.calibrate}: the validation split of {data.name} is its test split; hold validation "
            f"series out with --val-fraction {DEFAULT_VAL_FRACTION}"
        )


def _moves_samples(augmentation: str) -> bool:
    """Return whether the augmentation of this name is one of the core's that move samples in time."""
    from tstk.plugins.registry import get_registry

    entry = get_registry().find("augmentation", augmentation)
    return entry.dist == "tstk" and entry.name in ("permutation", "time-warp")


def _check_class_per_sample(config: TrainConfig, data: DataModule) -> None:
    """Refuse options that would move samples without their classes."""
    from tstk.core.task import get_task

    if data.task is None or get_task(data.task).target_type != "sample-class":
        return
    moving = [text for text in config.augment if _moves_samples(text.partition("=")[0])]
    remedies = {"crop": (config.crop, "cut windows with --length"), "augment": (",".join(moving), "leave it out")}
    for name, (value, remedy) in remedies.items():
        if value:
            raise OptionError(
                f"--{name} {value}: would move the samples of {data.name}, but not their classes; {remedy}"
            )
