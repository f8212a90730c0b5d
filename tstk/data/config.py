"""The options of data sets. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Le

from tstk.config.resolve import resolve_component
from tstk.data.columns import ColumnRoles, Reader
from tstk.errors import OptionError
from tstk.plugins.ranges import Fraction, PositiveInt, Ratio
from tstk.plugins.registry import get_registry
from tstk.plugins.signature import check_fields, read_signature

if TYPE_CHECKING:
    from tstk.config.resolve import Config

CONVERT_OPTIONS = (
    *("data_root", "task", "label_column", "target_columns", "group_column", "id_column", "time_column"),
    *("channel_columns", "drop_columns", "reader", "length", "stride", "regularize"),
)
"""The options that apply to a conversion."""

SPLIT_OPTIONS = (
    *("data_root", "task", "label_column", "target_columns", "group_column", "id_column", "time_column"),
    *("channel_columns", "drop_columns", "reader", "test_fraction", "val_fraction", "split_seed", "length", "stride"),
    "regularize",
)
"""The options that apply to writing splits as files."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Options of a data set: where its splits are, and how series and windows are made of them.

    Args:
        data_root: folder to search for data sets by name; the variable TSTK_DATA if not given
        train_data: name or path of the training data, if not the training split of the data set; "test" trains on the
            test split without its labels, as some papers pretrain, and validates on the training split
        val_data: name or path of the validation data; "test" validates on the test split, as some papers do
        test_data: name or path of the test data, if they are not beside the training data
        val_fraction: fraction of the training split held out for validation, unless there is a validation split; 0
            trains on all series. 0.2 if not given, or 0 for a classifier of few series
        test_fraction: fraction of the series held out for testing, if there is no test split: the same fraction of
            every class, and no group is divided; of a table, its last rows
        folds: number of folds into which the series are divided, if there is no test split: stratified by class, and no
            group is divided; a table is divided in time. Each fold is the test split once
        fold: which of them is the test split, from 1
        split_seed: random seed of the test and validation splits, and of the choice of labels
        label_fraction: fraction of the labelled training and validation series to keep, per class, to measure how well
            a model does with few labels
        label_column: column (.csv) or array (.npz) that holds the labels, if it has an unusual name
        label_separator: what separates the labels of a series in the label column, where it may have several, such as ;
        task: the task, if the targets allow several: classification, regression, multilabel, forecasting,
            segmentation for a class per sample, or that of a plugin (tstk list tasks)
        target_columns: columns of numbers to predict for each series; or of 0 and 1, one for each label
        group_column: column that names the person or device of each series; a group stays in one split
        id_column: column that names each series; rows that share a name are one series
        time_column: column that says when each sample was taken
        channel_columns: columns of samples; others are left out
        drop_columns: columns to leave out
        reader: reader of the files, if not that of their suffix; its options (tstk show reader csv) are --reader.OPTION
        context: rows of a table that the model sees before it forecasts; 96 if not given. Of series with or without
            ids, each is forecast as a table of its own
        horizon: rows of a table, or of each series, to forecast; 96 if not given
        stride: rows of a table from one window to the next in training and validation, 1 if not given, or --length
            where that cuts the table, or recordings with a class per sample; neighbouring windows are nearly equal, so
            a larger stride saves time at little cost. Testing uses every window
        length: samples per series that the model must accept, if more than the longest one here; a table or record is
            cut into unlabelled series of this length, one after the other or --stride rows apart; with --task
            segmentation, so are recordings with their class per sample
        regularize: insert rows without samples into a table where times are missing, so that steps are equal
        resize: samples to which each series is resampled by linear interpolation
        split_channels: make each channel of each series a series of its own, without labels; always so for several
            data sets together
        conditioning: additional inputs per sample, NAME=FILE, such as text=notes.npz (tstk text makes it)
        standardize: "standard" subtracts from each channel its mean over the training split and divides by its standard
            deviation; "none" keeps the values as they are
        synthetic_count: training series that --data synthetic generates; 1,000,000 if not given
        synthetic_channels: channels of each generated series, which are nodes of one causal graph; 1 if not given
        synthetic_kernels: maximum number of Gaussian process kernels that are composed; 4 if not given
        synthetic_seed: random seed of the generator; 0 if not given

    Raises:
        OptionError: a value has the wrong type or is out of range
    """

    data_root: str | None = None
    train_data: str | None = None
    val_data: str | None = None
    test_data: str | None = None
    val_fraction: Fraction | None = None
    test_fraction: Ratio | None = None
    folds: Annotated[int, Ge(2)] | None = None
    fold: PositiveInt | None = None
    split_seed: int = 0
    label_fraction: Annotated[float, Gt(0), Le(1)] = 1.0
    label_column: str | None = None
    label_separator: str | None = None
    task: str | None = None
    target_columns: tuple[str, ...] = ()
    group_column: str | None = None
    id_column: str | None = None
    time_column: str | None = None
    channel_columns: tuple[str, ...] = ()
    drop_columns: tuple[str, ...] = ()
    reader: Reader | None = None
    context: PositiveInt | None = None
    horizon: PositiveInt | None = None
    stride: PositiveInt | None = None
    length: PositiveInt | None = None
    regularize: bool = False
    resize: Annotated[int, Ge(2)] | None = None
    split_channels: bool = False
    conditioning: tuple[str, ...] = ()
    standardize: Literal["standard", "none"] = "standard"
    synthetic_count: Annotated[int, Ge(1), Le(100_000_000)] | None = None
    synthetic_channels: PositiveInt | None = None
    synthetic_kernels: Annotated[int, Ge(1), Le(100)] | None = None
    synthetic_seed: int | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.reader is not None:
            object.__setattr__(self, "reader", resolve_component("reader", self.reader, "reader"))
        if self.folds is None and self.fold is not None:
            raise OptionError(f"--fold {self.fold}: of how many? Give their number with --folds 5")
        if self.folds is not None and (self.fold is None or self.fold > self.folds):
            given = "" if self.fold is None else f" --fold {self.fold}"
            raise OptionError(
                f"--folds {self.folds}{given}: say which of the {self.folds} folds is the test split, --fold 1 to "
                f"{self.folds}; tstk bench --folds {self.folds} trains on each in turn"
            )
        if self.folds is not None and self.test_fraction is not None:
            raise OptionError(
                f"--test-fraction {self.test_fraction} has no meaning with --folds {self.folds}, whose test split is a "
                "fold; give one of them"
            )

    @classmethod
    def from_config(cls, config: Config) -> DataConfig:
        """Return the options of data of a resolved config."""
        return cls(**config.options("data"))

    @property
    def roles(self) -> ColumnRoles:
        """The roles that these options give to columns."""
        return ColumnRoles(
            self.label_column,
            self.target_columns,
            self.group_column,
            self.id_column,
            self.time_column,
            self.channel_columns,
            self.drop_columns,
            label_per_sample=self.has_class_per_sample,
            reader=self.reader,  # type: ignore[arg-type]  # a table, after `__post_init__`
        )

    @property
    def has_class_per_sample(self) -> bool:
        """Whether the task that is given has a class per sample as its targets."""
        return self._get_target_type() == "sample-class"

    @property
    def is_forecasting(self) -> bool:
        """Whether the task, or without one the other options, say that series are forecast; a table is in any case."""
        return bool(self.context or self.horizon) if self.task is None else self._get_target_type() == "future"

    def _get_target_type(self) -> object:
        """Return the type of targets of the task that is given, or None."""
        if self.task is None:
            return None
        return read_signature(get_registry().find("task", self.task).target).class_attrs.get("target_type")

    def reject(self, reason: str, *names: str) -> None:
        """Refuse options that cannot take effect.

        Args:
            reason: the rest of the message, after "--NAME VALUE has no meaning"
            names: the options, by field

        Raises:
            OptionError: one of them differs from its default
        """
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in names and value != item.default:
                text = value["use"] if isinstance(value, dict) else value
                text = "" if value is True else f" {','.join(value) if isinstance(value, tuple) else text}"
                option = f"--{item.name.replace('_', '-')}"
                raise OptionError(f"{option}{text} has no meaning {reason}", option)

    def reject_except(self, reason: str, *names: str) -> None:
        """Refuse all options but those of these names, as `reject` does."""
        self.reject(reason, *(item.name for item in fields(self) if item.name not in names))

    def reject_for_writing(self, reason: str, *names: str) -> None:
        """Refuse options without effect on files of data: all but `names`, and tasks without a class per sample."""
        self.reject_except(reason, *names)
        if self.has_class_per_sample:
            self.reject("with a class per sample, as series have no other targets", "target_columns")
        else:
            self.reject(f"{reason}, which keeps all targets; --task segmentation keeps a class per sample", "task")
