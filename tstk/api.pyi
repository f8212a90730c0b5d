"""The types of `tstk.api`. Made by `make docs` from the options; change them there."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, overload

from tstk.config.records import RunResult
from tstk.config.resolve import Config
from tstk.core.frames import DataFrame
from tstk.core.interfaces import Decoder, Encoder, Head, Loss, Tokenizer
from tstk.core.pipeline import Pipeline
from tstk.core.types import Spec
from tstk.inference.frames import load as load
from tstk.report.hub import push as push
from tstk.runs.build import build_component as build_component
from tstk.runs.importing import import_run as import_run
from tstk.training.callbacks import Callback
from tstk.tuning.algorithms import PrunerName
from tstk.tuning.results import TuneResult

@overload
def list_components(kind: str) -> tuple[str, ...]: ...
@overload
def list_components(kind: None = None) -> dict[str, tuple[str, ...]]: ...
def build(
    config: Config | Mapping[str, Any] | str | Path | None = None,
    spec: Spec | None = None,
    *,
    tokenizer: str | PathLike[str] | Mapping[str, Any] | type[Tokenizer] | None = None,
    encoder: str | PathLike[str] | Mapping[str, Any] | type[Encoder] | None = None,
    decoder: str | PathLike[str] | Mapping[str, Any] | type[Decoder] | None = None,
    head: str | PathLike[str] | Mapping[str, Any] | type[Head] | None = None,
    loss: str | PathLike[str] | Mapping[str, Any] | type[Loss] | None = None,
    data: str | PathLike[str] | DataFrame | Mapping[str, Any] | None = None,
    data_root: str | PathLike[str] | None = None,
    train_data: str | DataFrame | PathLike[str] | None = None,
    val_data: str | DataFrame | PathLike[str] | None = None,
    test_data: str | DataFrame | PathLike[str] | None = None,
    val_fraction: float | None = None,
    test_fraction: float | None = None,
    folds: int | None = None,
    fold: int | None = None,
    split_seed: int = 0,
    label_fraction: float = 1.0,
    label_column: str | None = None,
    label_separator: str | None = None,
    task: str | None = None,
    target_columns: Sequence[str] = (),
    group_column: str | None = None,
    id_column: str | None = None,
    time_column: str | None = None,
    channel_columns: Sequence[str] = (),
    drop_columns: Sequence[str] = (),
    reader: str | Mapping[str, Any] | None = None,
    context: int | None = None,
    horizon: int | None = None,
    stride: int | None = None,
    length: int | None = None,
    regularize: bool = False,
    resize: int | None = None,
    split_channels: bool = False,
    conditioning: Sequence[str] = (),
    standardize: Literal["standard", "none"] = "standard",
    synthetic_count: int | None = None,
    synthetic_channels: int | None = None,
    synthetic_kernels: int | None = None,
    synthetic_seed: int | None = None,
    channels: Literal["auto", "mixed", "independent"] = "auto",
    instance_norm: bool | None = None,
    unbiased_norm: bool = False,
    linear_map: Literal["none", "auto", "shared", "per-channel"] = "none",
    freeze: Sequence[str] = (),
    init_from: str | PathLike[str] | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float = 0.001,
    lr_override: Sequence[str] = (),
    weight_decay: float = 0.05,
    weight_decay_on: Literal["matrices", "all"] = "matrices",
    warmup_ratio: float = 0.1,
    warmup_steps: int | None = None,
    final_lr_ratio: float = 0.0,
    lr_schedule: Literal["cosine", "constant", "one-cycle"] = "cosine",
    layer_decay: float = 1.0,
    grad_clip: float = 1.0,
    ema_decay: float = 0.998,
    grad_accum_steps: int = 1,
    sampling: Literal["all", "balanced"] = "all",
    crop: int | None = None,
    augment: Sequence[str] = ("auto",),
    mixup: float = 0.0,
    gradient_checkpointing: bool = False,
    compile: bool = False,
    lora: int | None = None,
    lora_alpha: float | None = None,
    lora_dropout: float = 0.0,
    probe_every: int | None = None,
    validate_every: int | None = None,
    patience: int | None = None,
    select_by: Literal["auto", "score", "loss", "last"] = "auto",
    calibrate: Literal["none", "temperature"] = "none",
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    threads: int | None = None,
    deterministic: bool = False,
    callbacks: Sequence[str] = (),
    trackers: Sequence[str] = (),
    **component_options: Any,
) -> Pipeline:
    """Build an untrained pipeline.

    Args:
        config: tables as in a config file, a file, or the name of a config that a plugin ships
        spec: of the data; if None, the data set of the config is loaded, and its mean and deviation are stored
        component_options: the options of `fit`
    """

def fit(
    config: Config | Mapping[str, Any] | str | Path | None = None,
    *,
    out: str | Path | None = None,
    callbacks: Sequence[str | Callback] | None = None,
    verbose: bool | None = None,
    tokenizer: str | PathLike[str] | Mapping[str, Any] | type[Tokenizer] | None = None,
    encoder: str | PathLike[str] | Mapping[str, Any] | type[Encoder] | None = None,
    decoder: str | PathLike[str] | Mapping[str, Any] | type[Decoder] | None = None,
    head: str | PathLike[str] | Mapping[str, Any] | type[Head] | None = None,
    loss: str | PathLike[str] | Mapping[str, Any] | type[Loss] | None = None,
    data: str | PathLike[str] | DataFrame | Mapping[str, Any] | None = None,
    data_root: str | PathLike[str] | None = None,
    train_data: str | DataFrame | PathLike[str] | None = None,
    val_data: str | DataFrame | PathLike[str] | None = None,
    test_data: str | DataFrame | PathLike[str] | None = None,
    val_fraction: float | None = None,
    test_fraction: float | None = None,
    folds: int | None = None,
    fold: int | None = None,
    split_seed: int = 0,
    label_fraction: float = 1.0,
    label_column: str | None = None,
    label_separator: str | None = None,
    task: str | None = None,
    target_columns: Sequence[str] = (),
    group_column: str | None = None,
    id_column: str | None = None,
    time_column: str | None = None,
    channel_columns: Sequence[str] = (),
    drop_columns: Sequence[str] = (),
    reader: str | Mapping[str, Any] | None = None,
    context: int | None = None,
    horizon: int | None = None,
    stride: int | None = None,
    length: int | None = None,
    regularize: bool = False,
    resize: int | None = None,
    split_channels: bool = False,
    conditioning: Sequence[str] = (),
    standardize: Literal["standard", "none"] = "standard",
    synthetic_count: int | None = None,
    synthetic_channels: int | None = None,
    synthetic_kernels: int | None = None,
    synthetic_seed: int | None = None,
    channels: Literal["auto", "mixed", "independent"] = "auto",
    instance_norm: bool | None = None,
    unbiased_norm: bool = False,
    linear_map: Literal["none", "auto", "shared", "per-channel"] = "none",
    freeze: Sequence[str] = (),
    init_from: str | PathLike[str] | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float = 0.001,
    lr_override: Sequence[str] = (),
    weight_decay: float = 0.05,
    weight_decay_on: Literal["matrices", "all"] = "matrices",
    warmup_ratio: float = 0.1,
    warmup_steps: int | None = None,
    final_lr_ratio: float = 0.0,
    lr_schedule: Literal["cosine", "constant", "one-cycle"] = "cosine",
    layer_decay: float = 1.0,
    grad_clip: float = 1.0,
    ema_decay: float = 0.998,
    grad_accum_steps: int = 1,
    sampling: Literal["all", "balanced"] = "all",
    crop: int | None = None,
    augment: Sequence[str] = ("auto",),
    mixup: float = 0.0,
    gradient_checkpointing: bool = False,
    compile: bool = False,
    lora: int | None = None,
    lora_alpha: float | None = None,
    lora_dropout: float = 0.0,
    probe_every: int | None = None,
    validate_every: int | None = None,
    patience: int | None = None,
    select_by: Literal["auto", "score", "loss", "last"] = "auto",
    calibrate: Literal["none", "temperature"] = "none",
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    threads: int | None = None,
    deterministic: bool = False,
    trackers: Sequence[str] = (),
    **component_options: Any,
) -> RunResult:
    """Train a pipeline, as `tstk train` does, and return its scores and run directory.

    Notes on data and options are logged at level INFO by the logger "tstk". A component or data set that is None is
    left to `config`, or is the default for the task.

    A data frame is stored in the run directory, as `data.parquet`, from which the run is resumed and scored.

    Args:
        config: tables as in a config file, a file, or the name of a config that a plugin ships
        out: the run directory; if None, a new one under `runs/`
        callbacks: `Callback` instances, and names of those that plugins register
        verbose: show a progress bar and the notes on stderr; None does so on a terminal and in a notebook
        tokenizer: name of the tokenizer, a run directory to initialize it from, a table of options, or a class
        encoder: name of the encoder, a run directory to initialize it from, a table of options, or a class
        decoder: name of the decoder, a run directory to initialize it from, a table of options, or a class
        head: name of the head, a run directory to initialize it from, a table of options, or a class
        loss: name of the loss, a run directory to initialize it from, a table of options, or a class
        data: name of a data set, a file, a folder, or a data frame of pandas or polars; har-demo if None
        data_root: folder to search for data sets by name; the variable TSTK_DATA if not given
        train_data: name or path of the training data, if not the training split of the data set; "test" trains on
            the test split without its labels, as some papers pretrain, and validates on the training split
        val_data: name or path of the validation data; "test" validates on the test split, as some papers do
        test_data: name or path of the test data, if they are not beside the training data
        val_fraction: fraction of the training split held out for validation, unless there is a validation split; 0
            trains on all series. 0.2 if not given, or 0 for a classifier of few series
        test_fraction: fraction of the series held out for testing, if there is no test split: the same fraction of
            every class, and no group is divided; of a table, its last rows
        folds: number of folds into which the series are divided, if there is no test split: stratified by class,
            and no group is divided; a table is divided in time. Each fold is the test split once
        fold: which of them is the test split, from 1
        split_seed: random seed of the test and validation splits, and of the choice of labels
        label_fraction: fraction of the labelled training and validation series to keep, per class, to measure how
            well a model does with few labels
        label_column: column (.csv) or array (.npz) that holds the labels, if it has an unusual name
        label_separator: what separates the labels of a series in the label column, where it may have several, such
            as ;
        task: the task, if the targets allow several: classification, regression, multilabel, forecasting,
            segmentation for a class per sample, or that of a plugin (tstk list tasks)
        target_columns: columns of numbers to predict for each series; or of 0 and 1, one for each label
        group_column: column that names the person or device of each series; a group stays in one split
        id_column: column that names each series; rows that share a name are one series
        time_column: column that says when each sample was taken
        channel_columns: columns of samples; others are left out
        drop_columns: columns to leave out
        reader: reader of the files, if not that of their suffix; its options (tstk show reader csv) are
            --reader.OPTION
        context: rows of a table that the model sees before it forecasts; 96 if not given. Of series with or without
            ids, each is forecast as a table of its own
        horizon: rows of a table, or of each series, to forecast; 96 if not given
        stride: rows of a table from one window to the next in training and validation, 1 if not given, or --length
            where that cuts the table, or recordings with a class per sample; neighbouring windows are nearly equal,
            so a larger stride saves time at little cost. Testing uses every window
        length: samples per series that the model must accept, if more than the longest one here; a table or record
            is cut into unlabelled series of this length, one after the other or --stride rows apart; with --task
            segmentation, so are recordings with their class per sample
        regularize: insert rows without samples into a table where times are missing, so that steps are equal
        resize: samples to which each series is resampled by linear interpolation
        split_channels: make each channel of each series a series of its own, without labels; always so for several
            data sets together
        conditioning: additional inputs per sample, NAME=FILE, such as text=notes.npz (tstk text makes it)
        standardize: "standard" subtracts from each channel its mean over the training split and divides by its
            standard deviation; "none" keeps the values as they are
        synthetic_count: training series that --data synthetic generates; 1,000,000 if not given
        synthetic_channels: channels of each generated series, which are nodes of one causal graph; 1 if not given
        synthetic_kernels: maximum number of Gaussian process kernels that are composed; 4 if not given
        synthetic_seed: random seed of the generator; 0 if not given
        channels: mixed: a token sees all channels; independent: each channel is a separate series; auto:
            independent when forecasting, else mixed
        instance_norm: normalize each series by its own mean and standard deviation and undo it in forecasts; if not
            given, on when forecasting
        unbiased_norm: divide by the unbiased deviation in instance normalization, as VQShape does
        linear_map: forecast by a least-squares linear map of the context plus the output of the head, which starts
            at zero: shared by all channels, one per-channel, or auto, which selects on validation; training that
            does not improve on the map is discarded
        freeze: slots, or modules of them such as encoder.stack, that are not trained
        init_from: a run directory, to start from its trained weights for all slots that the new task keeps
        epochs: passes over the training data; none means enough for 1500 steps, between 10 and 100 passes
        steps: optimizer steps, instead of epochs
        batch_size: series per batch, over all processes together; none means 64, or 16 for a classifier of few
            series
        lr: peak learning rate of AdamW; components with pretrained weights may define their own
        lr_override: learning rates of single parts, as PART=RATE, such as tokenizer.decoder=1e-5
        weight_decay: weight decay of the weights of linear and convolutional layers
        weight_decay_on: what decays: matrices, the weights of linear and convolutional layers; all, also biases,
            norms, positions and codes, as in much published code
        warmup_ratio: fraction of the steps in which the learning rate rises
        warmup_steps: number of these steps, instead of their fraction; a shorter training ends within the warm-up
        final_lr_ratio: fraction of the peak learning rate at which the cosine ends
        lr_schedule: learning rate after the warm-up: cosine, decay to final_lr_ratio; constant; one-cycle, rise and
            decay along a cosine (Smith and Topin 2018; use a warm-up of about 0.3)
        layer_decay: factor of the learning rate from one encoder layer to the layer below it, the embeddings being
            lowest (BEiT: 0.65); heads and the last norm take the full rate
        grad_clip: largest norm of the gradient; 0 for no limit
        ema_decay: decay per step of an exponential moving average of the weights, which is validated and saved in
            their place; 0 for none
        grad_accum_steps: batches per optimizer step
        sampling: all, every series once per pass; balanced, all classes equally often
        crop: length of a random crop of each training series, drawn anew in each step; none keeps the series whole
        augment: augmentations of training series (tstk list augmentations), as NAME or NAME=STRENGTH: jitter
            (0.03), scaling (0.1), permutation (4), time-warp (0.2), with default strengths; off: none; auto:
            scaling, jitter=0.05 and time-warp for a classifier with at most 500 training series, else none
        mixup: mix each labelled series with another of its batch, with a weight drawn from Beta(mixup, mixup)
            (Zhang et al. 2018); 0 for none
        gradient_checkpointing: recompute the activations of Transformer blocks in the backward pass: less memory, a
            third more time
        compile: compile encoder, decoder and head with torch.compile: the first steps take long, later ones less
        lora: rank of low-rank updates (LoRA, Hu et al. 2021) of the linear layers in the encoder's blocks, trained
            in place of its pretrained weights; the weights that are saved have them added; none trains all weights
        lora_alpha: factor of the updates, times their rank; the rank if none, hence a factor of 1
        lora_dropout: dropout rate of the inputs of the updates
        probe_every: every N epochs, fit a linear probe on frozen features and log its validation accuracy; labels
            never reach the weights
        validate_every: optimizer steps between two validations, which then count as an epoch; none means a pass
            over the training data
        patience: epochs without improvement after which training stops; none never stops early
        select_by: epoch whose weights are kept: score, the latest whose validation accuracy is within one standard
            error of the best (for another task, the one with the best main metric, such as the lowest error); loss,
            the lowest validation loss; last; auto, last for a classifier of few series and where there is no
            validation split, else score
        calibrate: temperature, after training divide the logits of a classifier by the number that is best on the
            validation split (Guo et al. 2017): probabilities change, predicted classes do not
        seed: random seed of weights, batches, masks and dropout
        device: device to train on; auto uses a GPU if there is one
        precision: precision of activations; weights stay float32
        threads: CPU threads; none leaves the number to torch
        deterministic: use only deterministic operations, and raise an error for others; slower on a GPU; not needed
            on a CPU, where seeded runs repeat without it
        trackers: experiment trackers to log to: tensorboard, wandb, mlflow, or that of a plugin; each must be
            installed
        component_options: options of components, with two underscores for a dot: `encoder__depth=4`
    """

def resume(
    run_dir: str | Path,
    *,
    callbacks: Sequence[Callback] = (),
    verbose: bool | None = None,
    **components: type | str,
) -> RunResult:
    """Resume an interrupted run, as `tstk train --resume` does, and return what `fit` would have returned.

    Args:
        run_dir: of the run
        callbacks: instances that were passed to `fit`; those that have a name are recorded in the run
        verbose: as for `fit`
        components: the classes of components that belong to no plugin, as for `load`

    Raises:
        CheckpointError: the run is finished or damaged
    """

def tune(
    search: Mapping[str, Any] | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
    *,
    out: str | Path,
    trials: int = 30,
    time_limit: float | None = None,
    pruner: PrunerName = "median",
    metric: str | None = None,
    verbose: bool | None = None,
    tokenizer: str | PathLike[str] | Mapping[str, Any] | type[Tokenizer] | None = None,
    encoder: str | PathLike[str] | Mapping[str, Any] | type[Encoder] | None = None,
    decoder: str | PathLike[str] | Mapping[str, Any] | type[Decoder] | None = None,
    head: str | PathLike[str] | Mapping[str, Any] | type[Head] | None = None,
    loss: str | PathLike[str] | Mapping[str, Any] | type[Loss] | None = None,
    data: str | PathLike[str] | DataFrame | Mapping[str, Any] | None = None,
    data_root: str | PathLike[str] | None = None,
    train_data: str | DataFrame | PathLike[str] | None = None,
    val_data: str | DataFrame | PathLike[str] | None = None,
    test_data: str | DataFrame | PathLike[str] | None = None,
    val_fraction: float | None = None,
    test_fraction: float | None = None,
    folds: int | None = None,
    fold: int | None = None,
    split_seed: int = 0,
    label_fraction: float = 1.0,
    label_column: str | None = None,
    label_separator: str | None = None,
    task: str | None = None,
    target_columns: Sequence[str] = (),
    group_column: str | None = None,
    id_column: str | None = None,
    time_column: str | None = None,
    channel_columns: Sequence[str] = (),
    drop_columns: Sequence[str] = (),
    reader: str | Mapping[str, Any] | None = None,
    context: int | None = None,
    horizon: int | None = None,
    stride: int | None = None,
    length: int | None = None,
    regularize: bool = False,
    resize: int | None = None,
    split_channels: bool = False,
    conditioning: Sequence[str] = (),
    standardize: Literal["standard", "none"] = "standard",
    synthetic_count: int | None = None,
    synthetic_channels: int | None = None,
    synthetic_kernels: int | None = None,
    synthetic_seed: int | None = None,
    channels: Literal["auto", "mixed", "independent"] = "auto",
    instance_norm: bool | None = None,
    unbiased_norm: bool = False,
    linear_map: Literal["none", "auto", "shared", "per-channel"] = "none",
    freeze: Sequence[str] = (),
    init_from: str | PathLike[str] | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float = 0.001,
    lr_override: Sequence[str] = (),
    weight_decay: float = 0.05,
    weight_decay_on: Literal["matrices", "all"] = "matrices",
    warmup_ratio: float = 0.1,
    warmup_steps: int | None = None,
    final_lr_ratio: float = 0.0,
    lr_schedule: Literal["cosine", "constant", "one-cycle"] = "cosine",
    layer_decay: float = 1.0,
    grad_clip: float = 1.0,
    ema_decay: float = 0.998,
    grad_accum_steps: int = 1,
    sampling: Literal["all", "balanced"] = "all",
    crop: int | None = None,
    augment: Sequence[str] = ("auto",),
    mixup: float = 0.0,
    gradient_checkpointing: bool = False,
    compile: bool = False,
    lora: int | None = None,
    lora_alpha: float | None = None,
    lora_dropout: float = 0.0,
    probe_every: int | None = None,
    validate_every: int | None = None,
    patience: int | None = None,
    select_by: Literal["auto", "score", "loss", "last"] = "auto",
    calibrate: Literal["none", "temperature"] = "none",
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    threads: int | None = None,
    deterministic: bool = False,
    callbacks: Sequence[str] = (),
    trackers: Sequence[str] = (),
    **component_options: Any,
) -> TuneResult:
    """Search for the options with the best validation score, as `tstk tune` does; test is never scored.

    `tstk.tune({"lr": "1e-4..1e-2:log"}, head="linear", out="tuned")`. The same call continues a stopped search.

    Args:
        search: option -> values: a range as text, such as "1..4", "1e-4..1e-2:log" or "64..256:64", or a list of
            choices; options of components as "encoder.depth" or encoder__depth. Added to the table [search] of `config`
        config: tables as in a config file, a file, or the name of a config that a plugin ships
        out: folder of the search, new or to continue
        trials: number of trials, those that `out` has already included
        time_limit: longest time of this call in seconds
        pruner: stops trials early: median, those worse than the median of the others at an epoch; hyperband; none
        metric: of the validation split, by which trials are compared; None for the main metric of the task
        verbose: as for `fit`: a line per trial on stderr
        tokenizer: name of the tokenizer, a run directory to initialize it from, a table of options, or a class
        encoder: name of the encoder, a run directory to initialize it from, a table of options, or a class
        decoder: name of the decoder, a run directory to initialize it from, a table of options, or a class
        head: name of the head, a run directory to initialize it from, a table of options, or a class
        loss: name of the loss, a run directory to initialize it from, a table of options, or a class
        data: name of a data set, a file, a folder, or a data frame of pandas or polars; har-demo if None
        data_root: folder to search for data sets by name; the variable TSTK_DATA if not given
        train_data: name or path of the training data, if not the training split of the data set; "test" trains on
            the test split without its labels, as some papers pretrain, and validates on the training split
        val_data: name or path of the validation data; "test" validates on the test split, as some papers do
        test_data: name or path of the test data, if they are not beside the training data
        val_fraction: fraction of the training split held out for validation, unless there is a validation split; 0
            trains on all series. 0.2 if not given, or 0 for a classifier of few series
        test_fraction: fraction of the series held out for testing, if there is no test split: the same fraction of
            every class, and no group is divided; of a table, its last rows
        folds: number of folds into which the series are divided, if there is no test split: stratified by class,
            and no group is divided; a table is divided in time. Each fold is the test split once
        fold: which of them is the test split, from 1
        split_seed: random seed of the test and validation splits, and of the choice of labels
        label_fraction: fraction of the labelled training and validation series to keep, per class, to measure how
            well a model does with few labels
        label_column: column (.csv) or array (.npz) that holds the labels, if it has an unusual name
        label_separator: what separates the labels of a series in the label column, where it may have several, such
            as ;
        task: the task, if the targets allow several: classification, regression, multilabel, forecasting,
            segmentation for a class per sample, or that of a plugin (tstk list tasks)
        target_columns: columns of numbers to predict for each series; or of 0 and 1, one for each label
        group_column: column that names the person or device of each series; a group stays in one split
        id_column: column that names each series; rows that share a name are one series
        time_column: column that says when each sample was taken
        channel_columns: columns of samples; others are left out
        drop_columns: columns to leave out
        reader: reader of the files, if not that of their suffix; its options (tstk show reader csv) are
            --reader.OPTION
        context: rows of a table that the model sees before it forecasts; 96 if not given. Of series with or without
            ids, each is forecast as a table of its own
        horizon: rows of a table, or of each series, to forecast; 96 if not given
        stride: rows of a table from one window to the next in training and validation, 1 if not given, or --length
            where that cuts the table, or recordings with a class per sample; neighbouring windows are nearly equal,
            so a larger stride saves time at little cost. Testing uses every window
        length: samples per series that the model must accept, if more than the longest one here; a table or record
            is cut into unlabelled series of this length, one after the other or --stride rows apart; with --task
            segmentation, so are recordings with their class per sample
        regularize: insert rows without samples into a table where times are missing, so that steps are equal
        resize: samples to which each series is resampled by linear interpolation
        split_channels: make each channel of each series a series of its own, without labels; always so for several
            data sets together
        conditioning: additional inputs per sample, NAME=FILE, such as text=notes.npz (tstk text makes it)
        standardize: "standard" subtracts from each channel its mean over the training split and divides by its
            standard deviation; "none" keeps the values as they are
        synthetic_count: training series that --data synthetic generates; 1,000,000 if not given
        synthetic_channels: channels of each generated series, which are nodes of one causal graph; 1 if not given
        synthetic_kernels: maximum number of Gaussian process kernels that are composed; 4 if not given
        synthetic_seed: random seed of the generator; 0 if not given
        channels: mixed: a token sees all channels; independent: each channel is a separate series; auto:
            independent when forecasting, else mixed
        instance_norm: normalize each series by its own mean and standard deviation and undo it in forecasts; if not
            given, on when forecasting
        unbiased_norm: divide by the unbiased deviation in instance normalization, as VQShape does
        linear_map: forecast by a least-squares linear map of the context plus the output of the head, which starts
            at zero: shared by all channels, one per-channel, or auto, which selects on validation; training that
            does not improve on the map is discarded
        freeze: slots, or modules of them such as encoder.stack, that are not trained
        init_from: a run directory, to start from its trained weights for all slots that the new task keeps
        epochs: passes over the training data; none means enough for 1500 steps, between 10 and 100 passes
        steps: optimizer steps, instead of epochs
        batch_size: series per batch, over all processes together; none means 64, or 16 for a classifier of few
            series
        lr: peak learning rate of AdamW; components with pretrained weights may define their own
        lr_override: learning rates of single parts, as PART=RATE, such as tokenizer.decoder=1e-5
        weight_decay: weight decay of the weights of linear and convolutional layers
        weight_decay_on: what decays: matrices, the weights of linear and convolutional layers; all, also biases,
            norms, positions and codes, as in much published code
        warmup_ratio: fraction of the steps in which the learning rate rises
        warmup_steps: number of these steps, instead of their fraction; a shorter training ends within the warm-up
        final_lr_ratio: fraction of the peak learning rate at which the cosine ends
        lr_schedule: learning rate after the warm-up: cosine, decay to final_lr_ratio; constant; one-cycle, rise and
            decay along a cosine (Smith and Topin 2018; use a warm-up of about 0.3)
        layer_decay: factor of the learning rate from one encoder layer to the layer below it, the embeddings being
            lowest (BEiT: 0.65); heads and the last norm take the full rate
        grad_clip: largest norm of the gradient; 0 for no limit
        ema_decay: decay per step of an exponential moving average of the weights, which is validated and saved in
            their place; 0 for none
        grad_accum_steps: batches per optimizer step
        sampling: all, every series once per pass; balanced, all classes equally often
        crop: length of a random crop of each training series, drawn anew in each step; none keeps the series whole
        augment: augmentations of training series (tstk list augmentations), as NAME or NAME=STRENGTH: jitter
            (0.03), scaling (0.1), permutation (4), time-warp (0.2), with default strengths; off: none; auto:
            scaling, jitter=0.05 and time-warp for a classifier with at most 500 training series, else none
        mixup: mix each labelled series with another of its batch, with a weight drawn from Beta(mixup, mixup)
            (Zhang et al. 2018); 0 for none
        gradient_checkpointing: recompute the activations of Transformer blocks in the backward pass: less memory, a
            third more time
        compile: compile encoder, decoder and head with torch.compile: the first steps take long, later ones less
        lora: rank of low-rank updates (LoRA, Hu et al. 2021) of the linear layers in the encoder's blocks, trained
            in place of its pretrained weights; the weights that are saved have them added; none trains all weights
        lora_alpha: factor of the updates, times their rank; the rank if none, hence a factor of 1
        lora_dropout: dropout rate of the inputs of the updates
        probe_every: every N epochs, fit a linear probe on frozen features and log its validation accuracy; labels
            never reach the weights
        validate_every: optimizer steps between two validations, which then count as an epoch; none means a pass
            over the training data
        patience: epochs without improvement after which training stops; none never stops early
        select_by: epoch whose weights are kept: score, the latest whose validation accuracy is within one standard
            error of the best (for another task, the one with the best main metric, such as the lowest error); loss,
            the lowest validation loss; last; auto, last for a classifier of few series and where there is no
            validation split, else score
        calibrate: temperature, after training divide the logits of a classifier by the number that is best on the
            validation split (Guo et al. 2017): probabilities change, predicted classes do not
        seed: random seed of weights, batches, masks and dropout
        device: device to train on; auto uses a GPU if there is one
        precision: precision of activations; weights stay float32
        threads: CPU threads; none leaves the number to torch
        deterministic: use only deterministic operations, and raise an error for others; slower on a GPU; not needed
            on a CPU, where seeded runs repeat without it
        callbacks: callbacks of plugins (tstk list callbacks), as NAME or NAME:OPTION=VALUE
        trackers: experiment trackers to log to: tensorboard, wandb, mlflow, or that of a plugin; each must be
            installed
        component_options: the options of `fit`
    """
