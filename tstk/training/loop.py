"""The training loop: epochs of optimizer steps, validation after each epoch, and callbacks.

Accelerate handles devices, precision and distributed wrappers. What happens beside the steps is done by callbacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tstk.core.pipeline import Pipeline
from tstk.core.repr import ShortRepr
from tstk.errors import NotFiniteError, OptionError
from tstk.evaluation.evaluate import evaluate
from tstk.nn.blocks import enable_gradient_checkpointing
from tstk.training.augment import make_transform
from tstk.training.callbacks import Callback, create_callbacks
from tstk.training.checkpoint import TrainingCheckpoint
from tstk.training.config import TrainConfig, check_config
from tstk.training.devices import (
    compile_components,
    create_accelerator,
    flush_denormals,
    keep_freed_memory,
    limit_threads,
    unwrap_model,
    use_deterministic_algorithms,
)
from tstk.training.distributed import load_full_state_dict, max_over_processes, register_fsdp_methods
from tstk.training.ema import EMA
from tstk.training.interrupt import SavePoints
from tstk.training.loader import BatchLoader, resolve_duration
from tstk.training.lora import has_lora, remove_lora
from tstk.training.metric_tracker import MetricTracker, check_finite, create_training_error
from tstk.training.optim import lr_lambda
from tstk.training.resume_store import ResumeStore
from tstk.training.selection import BestEpoch, EarlyStopping, LinearProbe
from tstk.training.small_data import resolve_defaults
from tstk.training.state import TrainState
from tstk.training.step import TrainStep
from tstk.training.trackers import TrackerCallback

if TYPE_CHECKING:
    from tstk.data.data_module import DataModule


@dataclass(repr=False)
class FitResult(ShortRepr):
    """The result of training: metrics of all epochs, and the weights of the selected one.

    Args:
        history: metrics of each epoch
        best_metrics: metrics of the selected epoch; epoch 0 is a linear map on which training did not improve
        weights: state dict of that epoch with full tensors, which the pipeline has loaded
        seconds: wall time of training
        trainable: number of parameters that were trained
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    best_metrics: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    trainable: int = 0


def fit(
    pipeline: Pipeline,
    data: DataModule,
    config: TrainConfig,
    callbacks: Sequence[Callback] = (),
    resume_store: ResumeStore | None = None,
) -> FitResult:
    """Train a pipeline and load the weights that are best on validation into it; see `Trainer`."""
    return Trainer(pipeline, data, config, callbacks, resume_store).fit()


class Trainer:
    """Trains a pipeline.

    Args:
        pipeline: trained in place
        data: the data to train and validate on
        config: the options of training
        callbacks: in addition to those that the options select
        resume_store: saves the training state, from which training resumes if one was saved; None saves nothing

    Raises:
        OptionError: an option cannot take effect with these data
        DataError: the training split is empty
    """

    def __init__(
        self,
        pipeline: Pipeline,
        data: DataModule,
        config: TrainConfig,
        callbacks: Sequence[Callback] = (),
        resume_store: ResumeStore | None = None,
    ) -> None:
        config, _ = resolve_defaults(config, pipeline, data)
        check_config(config, data)
        if config.calibrate != "none" and pipeline.head is None:
            raise OptionError(f"--calibrate {config.calibrate}: only a classifier is calibrated; add --head linear")
        if config.lora and not has_lora(pipeline):
            raise OptionError(f"--lora {config.lora}: add the updates with tstk.training.lora.add_lora first")
        self.pipeline, self.data, self.config, self.resume_store = pipeline, data, config, resume_store
        self.accelerator = create_accelerator(config.device, config.precision)
        processes = self.accelerator.process_index, self.accelerator.num_processes
        self.loader = BatchLoader(data.train, config, processes)
        epochs, total_steps = resolve_duration(len(self.loader), config.epochs, config.steps)
        warmup_ratio = config.warmup_ratio if config.warmup_steps is None else config.warmup_steps / total_steps
        lr_factor = lr_lambda(total_steps, warmup_ratio, config.lr_schedule, config.final_lr_ratio)
        transform = make_transform(pipeline, data, config)
        self.train_step = TrainStep(self.accelerator, pipeline, config, lr_factor, transform)
        register_fsdp_methods(pipeline, "predict_step", "encode")  # which validation calls
        self.state = TrainState(pipeline, data, config, total_steps, epochs)
        self.metric_tracker = MetricTracker(self._log, data, flush_every_step=self.accelerator.device.type == "cpu")
        self.callbacks: dict[str, Callback] = {}
        self.checkpoint = TrainingCheckpoint(self.state, self.train_step, self.metric_tracker, self.callbacks)
        self._add_callbacks(callbacks)

    def _add_callbacks(self, callbacks: Sequence[Callback]) -> None:
        """Add all callbacks in the order in which they are called."""
        config, added = self.config, self.callbacks
        if config.probe_every is not None:
            added["probe"] = LinearProbe(config.probe_every, self.train_step.autocast)
        added["best_epoch"] = BestEpoch(config.select_by)
        if config.patience is not None:
            added["early_stopping"] = EarlyStopping(config.select_by, config.patience)
        if self.accelerator.is_main_process:
            if config.trackers:
                run_dir = Path() if self.resume_store is None else self.resume_store.run_dir
                added["trackers"] = TrackerCallback(config.trackers, run_dir)
            added |= create_callbacks(config.callbacks)
            added |= {f"{type(callback).__name__}-{i}": callback for i, callback in enumerate(callbacks)}
        added["ema"] = EMA(self.train_step.trainable, config.ema_decay)  # after all that read the averaged weights
        if self.resume_store is not None:  # last, since it saves the state of the others
            added["save_points"] = SavePoints(self.resume_store, self.checkpoint.state_dict)

    def fit(self) -> FitResult:
        """Train, or resume training, and load the weights that are best on validation.

        Raises:
            TrainingError: a loss term or a validation metric is not finite
            TrainingInterrupted: a signal was received, and the state is saved
        """
        try:
            if self.resume_store is not None and (snapshot := self.resume_store.read()) is not None:
                self.checkpoint.load_snapshot(snapshot)
            with self.execution_context() as run_uncompiled:
                for callback in self.callbacks.values():
                    callback.on_fit_start(self.state)
                self.train_step.set_lr(self.state.step)
                self._score_linear_map()
                while not self.state.is_done:
                    self._train_epoch()
                    try:
                        with run_uncompiled():
                            metrics = self._validate_epoch()
                    except NotFiniteError as e:
                        fault = f"{e.fault}, after step {self.state.step}"
                        raise create_training_error(fault, self.state.epoch, self.data) from None
                    self._end_epoch(metrics)
            return self._finish()
        finally:
            for callback in self.callbacks.values():
                callback.teardown()

    @contextmanager
    def execution_context(self) -> Iterator[Callable[[], AbstractContextManager[Any]]]:
        """Apply the options that hold for the whole process: determinism, threads, compilation.

        Yields:
            a function that returns a context in which compiled components run uncompiled
        """
        config = self.config
        with (
            use_deterministic_algorithms(config.deterministic),
            limit_threads(config.threads),
            flush_denormals(),
            keep_freed_memory(),
            enable_gradient_checkpointing(self.pipeline, config.gradient_checkpointing),
            compile_components(self.pipeline, config.compile) as run_uncompiled,
        ):
            yield run_uncompiled

    def _score_linear_map(self) -> None:
        """Validate the untrained pipeline as epoch 0 if it forecasts by a linear map, which is kept if it is best."""
        if self.pipeline.linear_map is not None and not self.state.step:
            metrics = {"epoch": 0, "val": self._evaluate()}
            for name in ("best_epoch", "early_stopping"):
                if name in self.callbacks:
                    self.callbacks[name].on_validation_end(self.state, metrics)

    def _train_epoch(self) -> None:
        """Train to the end of the current epoch."""
        state = self.state
        self.pipeline.train()
        if not state.step_in_epoch:
            self.metric_tracker.reset(state.epoch)
        stop = min(len(self.loader), state.step_in_epoch + state.total_steps - state.step)
        steps = self.loader.iterate_epoch(state.epoch, self.accelerator.device, state.step_in_epoch, stop)
        for batches in self.metric_tracker.time_loading(steps):
            state.step, state.step_in_epoch = state.step + 1, state.step_in_epoch + 1
            outputs = self.train_step(state.step, batches)
            self.metric_tracker.update(state.step, sum(len(series.x) for series in batches), outputs)
            for callback in self.callbacks.values():
                callback.on_step_end(state, outputs)

    def _validate_epoch(self) -> dict[str, Any]:
        """Return the metrics of the current epoch."""
        metrics = self.metric_tracker.compute()
        metrics["lr"] = max(group["lr"] for group in self.train_step.optimizer.param_groups)
        for callback in self.callbacks.values():
            callback.on_validation_start(self.state)
        metrics["val"] = self._evaluate() if len(self.data.val) else {}
        for name, value in metrics["val"].items():
            quantity, location = f"{name!r} of the validation split", f"after step {self.state.step}"
            check_finite(quantity, value, location, self.state.epoch, self.data)
        for name, callback in self.callbacks.items():
            if values := callback.on_validation_end(self.state, metrics):
                metrics.setdefault("callbacks", {})[name] = values
        metrics["seconds"] = round(self.state.seconds, 3)
        self.state.history.append(metrics)
        return metrics

    def _end_epoch(self, metrics: dict[str, Any]) -> None:
        """Go to the next epoch, or end training."""
        state = self.state
        is_last = state.step == state.total_steps or state.epoch == state.epochs
        state.is_done = is_last or bool(max_over_processes(state.should_stop)[0])
        state.epoch, state.step_in_epoch = state.epoch + 1, 0
        for callback in self.callbacks.values():
            callback.on_epoch_end(state, metrics)

    def _finish(self) -> FitResult:
        """Load the best weights into the unwrapped pipeline and return the result."""
        unwrap_model(self.accelerator, self.train_step.model)
        state, seconds = self.state, self.state.seconds
        trainable = sum(p.numel() for p in self.train_step.trainable.values())
        remove_lora(self.pipeline)
        load_full_state_dict(self.pipeline, state.best_weights)
        self.pipeline.eval()
        for callback in self.callbacks.values():
            callback.on_fit_end(self.state)
        return FitResult(state.history, state.best_metrics, state.best_weights, seconds, trainable)

    def _evaluate(self) -> dict[str, Any]:
        """Return the validation metrics of the current weights."""
        batch_size = max(self.loader.batch_size, 256)
        with self.train_step.autocast():
            source = f"{self.data.name}, validation split"
            return evaluate(self.pipeline, self.data.val, seed=self.config.seed, batch_size=batch_size, source=source)

    def _log(self, losses: dict[str, float], series_per_second: float) -> None:
        for callback in self.callbacks.values():
            callback.on_log(self.state, losses, series_per_second)
