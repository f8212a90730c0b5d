"""The training loop, on Accelerate: optimizer steps, validation after each epoch, saving and callbacks.

Accelerate handles devices, precision and distributed wrappers. `TrainStep` is one optimizer step, `_Trainer` the epochs
around it, and `fit` turns options into both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from tstk.core.pipeline import Pipeline
from tstk.core.repr import ShortRepr
from tstk.core.rng import SampleRNG
from tstk.core.types import Series, StepOutput
from tstk.data.catalog import DEFAULT_VAL_FRACTION
from tstk.errors import DataError, OptionError
from tstk.evaluation.evaluate import evaluate
from tstk.evaluation.probe import linear_probe_accuracy
from tstk.nn.blocks import enable_gradient_checkpointing
from tstk.training.augment import apply_mixup, parse_augmentations, random_crop
from tstk.training.callbacks import Callback, ProgressCallback, create_callbacks
from tstk.training.devices import (
    compile_components,
    create_accelerator,
    flush_denormals,
    limit_threads,
    prepare_model,
    unwrap_model,
    use_deterministic_algorithms,
)
from tstk.training.distributed import load_full_state_dict, register_fsdp_methods
from tstk.training.ema import EMA
from tstk.training.interrupt import SavePoints, defer_signals
from tstk.training.loader import BatchLoader, resolve_duration
from tstk.training.metric_tracker import MetricTracker, check_finite
from tstk.training.optim import AdamW, lr_lambda, param_groups
from tstk.training.resume_store import ResumeStore
from tstk.training.selection import BestEpoch
from tstk.training.small_data import resolve_defaults
from tstk.training.state import TrainState
from tstk.training.trackers import TrackerCallback

if TYPE_CHECKING:
    from accelerate import Accelerator

    from tstk.data.data_module import DataModule


@dataclass(repr=False)
class FitResult(ShortRepr):
    """The result of training.

    Args:
        history: metrics of each epoch
        best_metrics: metrics of the selected epoch; epoch 0 is a linear map on which training did not improve
        weights: state dict of that epoch with full tensors, which the pipeline has loaded
        seconds: wall time of training
        first_step_time: `time.time()` after the first optimizer step
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    best_metrics: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    first_step_time: float = 0.0


def fit(
    pipeline: Pipeline,
    data: DataModule,
    progress_callback: ProgressCallback | None = None,
    resume_store: ResumeStore | None = None,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float = 1e-3,
    lr_override: tuple[str, ...] = (),
    weight_decay: float = 0.05,
    warmup_ratio: float = 0.1,
    lr_schedule: Literal["cosine", "constant", "one-cycle"] = "cosine",
    layer_decay: float = 1.0,
    grad_clip: float = 1.0,
    ema_decay: float = 0.998,
    grad_accum_steps: int = 1,
    sampling: Literal["all", "balanced"] = "all",
    crop: int | None = None,
    augment: tuple[str, ...] = ("auto",),
    mixup: float = 0.0,
    gradient_checkpointing: bool = False,
    compile: bool = False,
    probe_every: int | None = None,
    validate_every: int | None = None,
    patience: int | None = None,
    select_by: Literal["auto", "score", "loss", "last"] = "auto",
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    threads: int | None = None,
    deterministic: bool = False,
    callbacks: tuple[str, ...] = (),
    trackers: tuple[str, ...] = (),
) -> FitResult:
    """Train a pipeline and load the weights that are best on validation into it.

    For a classifier of at most 500 training series, the defaults are 1500 steps with 16 augmented series each and the
    weights of the last step, unless epochs or steps are given (`tstk.training.small_data`).

    Args:
        pipeline: trained in place
        data: the data to train and validate on
        progress_callback: reports steps and epochs
        resume_store: saves the training state, from which training resumes if one was saved; None saves nothing
        epochs: passes over the training data; none means enough for 1500 steps, between 10 and 100 passes
        steps: optimizer steps, instead of epochs
        batch_size: series per batch, over all processes together; none means 64, or 16 for a classifier of few series
        lr: peak learning rate of AdamW; components with pretrained weights may define their own
        lr_override: learning rates of single parts, as PART=RATE, such as tokenizer.decoder=1e-5
        weight_decay: weight decay of the weights of linear and convolutional layers
        warmup_ratio: fraction of the steps in which the learning rate rises
        lr_schedule: learning rate after the warm-up: cosine, decay to zero; constant; one-cycle, rise and decay along a
            cosine (Smith and Topin 2018; use a warm-up of about 0.3)
        layer_decay: factor of the learning rate from one encoder layer to the layer below it, the embeddings being
            lowest (BEiT: 0.65); heads and the last norm take the full rate
        grad_clip: largest norm of the gradient; 0 for no limit
        ema_decay: decay per step of an exponential moving average of the weights, which is validated and saved in their
            place; 0 for none
        grad_accum_steps: batches per optimizer step
        sampling: all, every series once per pass; balanced, all classes equally often
        crop: length of a random crop of each training series, drawn anew in each step; none keeps the series whole
        augment: augmentations of training series, as NAME or NAME=STRENGTH: jitter (0.03), scaling (0.1), permutation
            (4), time-warp (0.2); off, none; auto, scaling, jitter=0.05 and time-warp for a classifier of few series
        mixup: mix each labelled series with another of its batch, with a weight drawn from Beta(mixup, mixup) (Zhang et
            al. 2018); 0 for none
        gradient_checkpointing: recompute the activations of Transformer blocks in the backward pass: less memory, a
            third more time
        compile: compile encoder, decoder and head with torch.compile: the first steps take long, later ones less
        probe_every: every N epochs, fit a linear probe on frozen features and log its validation accuracy; labels never
            reach the weights
        validate_every: optimizer steps between two validations, which then count as an epoch; none means a pass over
            the training data
        patience: epochs without improvement after which training stops; none never stops early
        select_by: epoch whose weights are kept: score, the latest whose validation accuracy is within one standard
            error of the best (for a forecaster, the one with the lowest error); loss, the lowest validation loss; last;
            auto, last for a classifier of few series and where there is no validation split, else score
        seed: random seed of weights, batches, masks and dropout
        device: device to train on; auto uses a GPU if there is one
        precision: precision of activations; weights stay float32
        threads: CPU threads; none leaves the number to torch
        deterministic: use only deterministic operations, and raise an error for others; slower on a GPU; not needed on
            a CPU, where seeded runs repeat without it
        callbacks: callbacks of plugins, by name (tstk list callbacks)
        trackers: experiment trackers to log to: tensorboard, wandb, mlflow; each must be installed

    Raises:
        OptionError: an option is out of range, or cannot take effect with these data
        DataError: the training split is empty
        TrainingError: a loss term or a validation metric is not finite
        TrainingInterrupted: SIGINT or SIGTERM was received, and the state is saved
    """
    options: dict[str, Any] = {
        "epochs": epochs,
        "steps": steps,
        "batch_size": batch_size,
        "augment": augment,
        "select_by": select_by,
    }
    options, _ = resolve_defaults({**options, "validate_every": validate_every}, pipeline, data)
    steps, batch_size, validate_every = options["steps"], options["batch_size"], options["validate_every"]
    augment, select_by = options["augment"], options["select_by"]
    assert batch_size is not None
    _check_validation_options(data, {"select_by": select_by, "patience": patience, "probe_every": probe_every})
    _check_sampling_options(data, crop, augment, sampling, mixup)
    accelerator = create_accelerator(device, precision)
    processes = accelerator.process_index, accelerator.num_processes
    balanced = sampling == "balanced"
    loader = BatchLoader(data.train, batch_size, grad_accum_steps, seed, processes, validate_every, balanced)
    epochs, total_steps = resolve_duration(len(loader), epochs, steps)
    groups = param_groups(pipeline, lr, weight_decay, layer_decay, lr_override)
    train_step = TrainStep(
        accelerator,
        pipeline,
        AdamW(groups, lr=lr, fused=True),
        lr_lambda(total_steps, warmup_ratio, lr_schedule),
        grad_clip,
        grad_accum_steps,
        seed,
        precision,
        _make_transform(pipeline, data, crop, augment, mixup),
    )
    register_fsdp_methods(pipeline, "predict_step", "encode")  # which validation calls
    tracker_callback: TrackerCallback | None = None
    if trackers and accelerator.is_main_process:
        run_dir = Path() if resume_store is None else resume_store.run_dir
        progress_callback = tracker_callback = TrackerCallback(trackers, run_dir, progress_callback)
    state = TrainState(
        pipeline,
        train_step.optimizer,
        EMA(train_step.trainable, ema_decay),
        MetricTracker(progress_callback, flush_every_step=accelerator.device.type == "cpu"),
        BestEpoch(select_by, patience),
        accelerator.scaler,
    )
    history = []
    if resume_store is not None and (snapshot := resume_store.read()) is not None:
        history = snapshot.history
        state.load_state_dict(snapshot)
    trainer = _Trainer(
        data,
        loader,
        train_step,
        state,
        FitResult(history),
        total_steps,
        epochs,
        probe_every,
        create_callbacks(callbacks) if accelerator.is_main_process else {},
        progress_callback,
        resume_store,
    )
    trainer.start()
    with (
        nullcontext() if tracker_callback is None else closing(tracker_callback),
        use_deterministic_algorithms(deterministic),
        limit_threads(threads),
        flush_denormals(),
        enable_gradient_checkpointing(pipeline, gradient_checkpointing),
        compile_components(pipeline, compile) as run_uncompiled,
        defer_signals() if resume_store is not None else nullcontext(lambda: 0) as get_pending_signal,
    ):
        save_points = SavePoints(resume_store, state, get_pending_signal)
        trainer.score_linear_map()
        while not state.is_done:
            trainer.train_epoch(save_points)
            with state.ema.use_averages(), run_uncompiled():
                trainer.validate_epoch()
            trainer.advance_epoch()
            save_points.check_after_epoch()
    return trainer.finish()


class TrainStep:
    """One optimizer step: forward and backward passes of its micro-batches, gradient clipping, and the update.

    Args:
        accelerator: from `create_accelerator`
        pipeline: moved to the device, and wrapped where Accelerate requires it
        optimizer: with the parameters of the pipeline, at their peak learning rates
        lr_factor: function from a step, counted from 0, to its fraction of the peak learning rates
        grad_clip: largest norm of the gradient; 0 for no limit
        grad_accum_steps: micro-batches per step
        seed: of masks, dropout and augmentations
        precision: fp32, bf16 or fp16
        transform: augmentation of a micro-batch
    """

    def __init__(
        self,
        accelerator: Accelerator,
        pipeline: Pipeline,
        optimizer: torch.optim.Optimizer,
        lr_factor: Callable[[int], float],
        grad_clip: float,
        grad_accum_steps: int,
        seed: int,
        precision: str,
        transform: Callable[[Series, SampleRNG], Series],
    ) -> None:
        self.accelerator, self.pipeline, self.optimizer, self.transform = accelerator, pipeline, optimizer, transform
        self.lr_factor, self.grad_clip, self.grad_accum_steps, self.seed = lr_factor, grad_clip, grad_accum_steps, seed
        self.peak_lrs = [group["lr"] for group in optimizer.param_groups]
        self.model, self.prepared_optimizer = prepare_model(accelerator, pipeline, optimizer)
        self.trainable = [p for p in pipeline.parameters() if p.requires_grad]
        self.backward, self.clip_grad_norm = accelerator.backward, accelerator.clip_grad_norm_
        if accelerator.scaler is None:  # then Accelerate's versions only take more time
            self.backward, self.prepared_optimizer = Tensor.backward, optimizer
            if accelerator.num_processes == 1:
                self.clip_grad_norm = torch.nn.utils.clip_grad_norm_
        self.autocast: Callable[[], AbstractContextManager[Any]] = accelerator.autocast
        if precision == "fp32":
            self.autocast = nullcontext

    def set_lr(self, step: int) -> None:
        """Set the learning rates of a step, counted from 0."""
        factor = self.lr_factor(step)
        for group, peak_lr in zip(self.optimizer.param_groups, self.peak_lrs, strict=True):
            group["lr"] = peak_lr * factor

    def __call__(self, step: int, batches: list[Series]) -> list[StepOutput]:
        """Train on the micro-batches of a step, counted from 1, and return their outputs."""
        num_series = sum(len(series.x) for series in batches)
        outputs = []
        for i, series in enumerate(batches):
            is_last = i == len(batches) - 1
            index, sample_id = step * self.grad_accum_steps + i, series.sample_id
            assert sample_id is not None
            with nullcontext() if is_last else self.accelerator.no_sync(self.model), self.autocast():
                # negative numbers, so that augmentations and masks are drawn independently
                series = self.transform(series, SampleRNG(self.seed, -1 - index, sample_id))
                output = self.model(series, SampleRNG(self.seed, index, sample_id))
                weight = len(series.x) / num_series
                self.backward(output.loss if len(batches) == 1 else output.loss * weight)
            outputs.append(output)
        if self.grad_clip:
            self.clip_grad_norm(self.trainable, self.grad_clip)
        self.prepared_optimizer.step()
        self.prepared_optimizer.zero_grad()
        self.set_lr(step)
        self.pipeline.after_step(outputs)
        return outputs


@dataclass
class _Trainer:
    """The epochs of a training run."""

    data: DataModule
    loader: BatchLoader
    train_step: TrainStep
    state: TrainState
    result: FitResult
    total_steps: int
    epochs: int
    probe_every: int | None
    callbacks: dict[str, Callback]
    progress_callback: ProgressCallback | None
    resume_store: ResumeStore | None

    def start(self) -> None:
        """Notify the callbacks and set the learning rate of the first step."""
        if self.progress_callback:
            self.progress_callback.on_fit_start(self.total_steps, self.epochs)
        for callback in self.callbacks.values():
            callback.on_fit_start(self.state.pipeline, self.total_steps, self.epochs)
        self.train_step.set_lr(self.state.step)

    def score_linear_map(self) -> None:
        """Validate the untrained pipeline as epoch 0 if it forecasts by a linear map, which is kept if it is best."""
        if self.state.pipeline.linear_map is not None and not self.state.step:
            with self.train_step.autocast():
                val = self._evaluate()
            self.state.best_epoch.update({"epoch": 0, "val": val}, self.state.pipeline)

    def train_epoch(self, save_points: SavePoints) -> None:
        """Train to the end of the current epoch."""
        state = self.state
        state.pipeline.train()
        if not state.step_in_epoch:
            state.metric_tracker.reset(state.epoch)
        stop = min(len(self.loader), state.step_in_epoch + self.total_steps - state.step)
        steps = self.loader.iterate_epoch(state.epoch, self.train_step.accelerator.device, state.step_in_epoch, stop)
        for batches in state.metric_tracker.time_loading(steps):
            state.step, state.step_in_epoch = state.step + 1, state.step_in_epoch + 1
            outputs = self.train_step(state.step, batches)
            state.ema.update()
            state.metric_tracker.update(state.step, sum(len(series.x) for series in batches), outputs)
            for callback in self.callbacks.values():
                callback.on_step_end(state.step, outputs)
            self.result.first_step_time = self.result.first_step_time or time.time()
            save_points.check_after_step()

    def validate_epoch(self) -> None:
        """Compute and store the metrics of the current epoch, and its weights if they are the best so far."""
        state = self.state
        metrics = state.metric_tracker.compute()
        metrics["lr"] = max(group["lr"] for group in state.optimizer.param_groups)
        metrics["val"] = {}
        with self.train_step.autocast():
            if len(self.data.val):
                metrics["val"] = self._evaluate()
            if self.probe_every and (state.epoch % self.probe_every == 0 or state.epoch == self.epochs):
                metrics["val"]["probe"] = linear_probe_accuracy(state.pipeline, self.data.train, self.data.val)
        for name, value in metrics["val"].items():
            check_finite(f"{name!r} of the validation split", value, f"after step {state.step}", state.epoch)
        for name, callback in self.callbacks.items():
            if values := callback.on_validation_end(metrics, state.pipeline):
                metrics.setdefault("callbacks", {})[name] = values
        metrics["seconds"] = round(time.perf_counter() - state.start_time, 3)
        self.result.history.append(metrics)
        is_best = state.best_epoch.update(metrics, state.pipeline)
        if self.resume_store is not None:
            best_weights = state.best_epoch.best_weights if is_best else None
            self.resume_store.save_epoch(metrics, state.pipeline, best_weights)
        if self.progress_callback:
            self.progress_callback.on_validation_end(metrics, is_best)

    def advance_epoch(self) -> None:
        """Go to the next epoch, or end training."""
        state = self.state
        is_last = state.step == self.total_steps or state.epoch == self.epochs
        state.is_done = state.best_epoch.should_stop or is_last
        state.epoch, state.step_in_epoch = state.epoch + 1, 0

    def finish(self) -> FitResult:
        """Load the best weights into the unwrapped pipeline and return the result."""
        state, result = self.state, self.result
        unwrap_model(self.train_step.accelerator, self.train_step.model)
        result.best_metrics, result.weights = state.best_epoch.best_metrics, state.best_epoch.best_weights
        result.seconds = time.perf_counter() - state.start_time
        load_full_state_dict(state.pipeline, result.weights)
        state.pipeline.eval()
        for callback in self.callbacks.values():
            callback.on_fit_end(result.best_metrics)
        return result

    def _evaluate(self) -> dict[str, Any]:
        """Return the validation metrics of the current weights."""
        batch_size = max(self.loader.batch_size, 256)
        return evaluate(self.state.pipeline, self.data.val, seed=self.train_step.seed, batch_size=batch_size)


def _check_validation_options(data: DataModule, options: dict[str, Any]) -> None:
    """Raise if there are no training series, or if an option requires validation data or classes that are missing."""
    if len(data.train) == 0:
        raise DataError(f"{data.name}: the training split is empty")
    if not len(data.val):
        for name, value in options.items():
            if value and value != "last":
                raise OptionError(
                    f"--{name.replace('_', '-')} {value}: {data.name} has no validation series; hold some out with "
                    f"--val-fraction {DEFAULT_VAL_FRACTION}"
                )
    probe_every = options["probe_every"]
    if probe_every is not None and data.task != "classification":
        raise OptionError(f"--probe-every {probe_every}: {data.name} has no classes")


def _check_sampling_options(
    data: DataModule, crop: int | None, augment: tuple[str, ...], sampling: str, mixup: float
) -> None:
    """Raise if an option of sampling or augmentation cannot take effect with these data."""
    if crop is not None and data.task == "forecasting":
        raise OptionError(f"--crop {crop}: {data.name} is already cut into windows; use --context and --horizon")
    if augment and data.task == "forecasting":
        raise OptionError(
            f"--augment {','.join(augment)}: {data.name} is a forecasting task, whose targets would not be augmented"
        )
    if sampling == "balanced" and data.train.y is None:
        raise OptionError(f"--sampling balanced: {data.name} has no classes")
    if mixup < 0:
        raise OptionError(f"--mixup {mixup}: expected 0 or more")
    if mixup and data.task != "classification":
        raise OptionError(f"--mixup {mixup}: {data.name} has no classes")


def _make_transform(
    pipeline: Pipeline, data: DataModule, crop: int | None, augment: tuple[str, ...], mixup: float
) -> Callable[[Series, SampleRNG], Series]:
    """Return a function that augments a batch of training series."""
    apply_augmentations = parse_augmentations(augment)

    def transform(series: Series, rng: SampleRNG) -> Series:
        if crop is not None:
            series = random_crop(series, crop, rng)
        if augment:
            series = apply_augmentations(series, pipeline.mean, pipeline.std, rng)
        if mixup:
            series = apply_mixup(series, mixup, len(data.classes), rng)
        return series

    return transform
