"""`load`: a name or a path becomes a data set. Its signature is read for the command line, so nothing heavy is here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tstk.data.catalog import SYNTHETIC, VAL_FRACTION, Found, locate, reader_for
from tstk.errors import DataError, OptionError

if TYPE_CHECKING:
    from tstk.data.containers import Raw, Table
    from tstk.data.data_module import Dataset
    from tstk.data.datasets import Part


def load(
    use: str = "har-demo",
    *,
    data_root: str | None = None,
    train_data: str | None = None,
    val_data: str | None = None,
    test_data: str | None = None,
    val_fraction: float | None = None,
    split_seed: int = 0,
    labels: float = 1.0,
    label: str | None = None,
    context: int | None = None,
    horizon: int | None = None,
    stride: int | None = None,
    length: int | None = None,
    resize: int | None = None,
    univariate: bool = False,
    extra: tuple[str, ...] = (),
    scale: Literal["standard", "none"] = "standard",
    synthetic_count: int | None = None,
    synthetic_channels: int | None = None,
    synthetic_kernels: int | None = None,
    synthetic_seed: int | None = None,
) -> Dataset:
    """Read a data set, split it and measure what scales it.

    Args:
        use: a name (`tstk data list` shows them), a file of any format that is read, or a folder; several with
            commas between them are learnt from together, each channel a series of its own, without labels
        data_root: folder with data sets to be found by name; without it the variable TSTK_DATA is asked
        train_data: name or path of the training data, if not those of the set; "test" learns from the test part without
            its labels, as some papers pretrain, and validates on the training part
        val_data: name or path of the validation data; "test" validates on the test part, as some papers do
        test_data: name or path of the test data, where they do not lie beside the training data
        val_fraction: share of the training part to validate on, unless there is a validation part; 0 learns from all
            series; none means 0.2, or 0 for a classifier of few series
        split_seed: seed of the choice of the validation part
        labels: share of the training and validation series to keep, class by class, to see what few labels are worth
        label: column (.csv) or array (.npz) that holds the labels, if it has an unusual name
        context: samples of a table that the model sees before it forecasts; 96 if not given
        horizon: samples of a table to forecast; 96 if not given
        stride: rows of a table from one window to the next in training and validation, 1 if not given; neighbours are
            all but equal, so a larger one saves time and costs little. Testing takes every window
        length: samples that a series may have, if more than the longest one here; a table or record is cut into series
            of so many, without labels, one after the other or --stride rows apart
        resize: samples to which each series is stretched or pressed, by linear interpolation
        univariate: make each channel of each series a series of its own, without labels
        extra: what else samples bring, NAME=FILE, such as text=notes.npz (tstk text makes it)
        scale: "standard" scales each channel by mean and deviation of the training part; "none" leaves it alone
        synthetic_count: series that --data synthetic generates to train on; 1,000,000 if not given
        synthetic_channels: channels of each, which are nodes of one causal graph; 1 if not given
        synthetic_kernels: most kernels of a Gaussian process that are composed; 4 if not given
        synthetic_seed: seed of the generator; 0 if not given

    Raises:
        NameUnknown: no data set has this name
        DataError: the data cannot be read, or a part is missing
        OptionError: an option cannot work with these data
    """
    from tstk.data.concat import joint
    from tstk.data.conditioning import extras
    from tstk.data.containers import Table
    from tstk.data.prepare import forecasting, series
    from tstk.data.windowing import cut

    generated = {
        "count": synthetic_count, "channels": synthetic_channels, "kernels": synthetic_kernels, "seed": synthetic_seed
    }  # fmt: skip
    if use == SYNTHETIC:
        return _generated(
            length,
            {name: value for name, value in generated.items() if value is not None},
            data_root=data_root,
            train_data=train_data,
            val_data=val_data,
            test_data=test_data,
            label=label,
            context=context,
            horizon=horizon,
            stride=stride,
            resize=resize,
            extra=extra or None,
            univariate=univariate or None,
            labels=None if labels == 1 else labels,
        )
    for name, value in generated.items():
        if value is not None:
            raise OptionError(f"--synthetic-{name} {value} is for --data {SYNTHETIC}, and the data are {use}")
    if "," in use:
        return _together(
            use,
            train_data=train_data,
            val_data=val_data,
            test_data=test_data,
            context=context,
            horizon=horizon,
            extra=extra,
            data_root=data_root,
            val_fraction=val_fraction,
            split_seed=split_seed,
            label=label,
            length=length,
            resize=resize,
            scale=scale,
        )
    val_fraction = VAL_FRACTION if val_fraction is None else val_fraction
    if not 0 <= val_fraction < 1:
        raise OptionError(f"--val-fraction {val_fraction}: expected a number from 0 to 1, such as 0.2")
    if not 0 < labels <= 1:
        raise OptionError(f"--labels {labels}: expected a share above 0 and up to 1, such as 0.1")
    found = locate(use, data_root)
    parts = _read(found, label)
    if train_data == "test":
        parts = _transductive(found, parts)
    elif train_data is not None:
        parts["train"] = _one(train_data, "train", data_root, label)
    borrow = val_data == "test"
    if val_data is not None and not borrow:
        parts["val"] = _one(val_data, "val", data_root, label)
    if test_data is not None:
        parts["test"] = _one(test_data, "test", data_root, label)
    if "train" not in parts:
        here = ", ".join(part.source for part in parts.values())
        raise DataError(f"{found.name}: no training data; there is {here}, but no file ending in _TRAIN beside it")
    tables = {part: one for part, one in parts.items() if isinstance(one, Table)}
    raws = {part: one for part, one in parts.items() if not isinstance(one, Table)}
    if tables and raws:
        kinds = ", ".join(f"{part} is {'a table' if part in tables else 'a set of series'}" for part in parts)
        raise DataError(f"{found.name}: the parts do not match: {kinds}")
    if tables and not val_fraction:
        raise OptionError(f"--val-fraction 0 is for sets of series: {found.name} is a table, and its rows validate")
    if tables and length is not None:
        _refuse(found, "a table cut by --length", context=context, horizon=horizon)
        raws, tables, stride = cut(tables, length, stride, val_fraction), {}, None
    if tables:
        _refuse(found, "a table", resize=resize, extra=extra or None, univariate=univariate or None)
        if labels < 1:
            raise OptionError(f"--labels {labels} has no meaning here: {found.name} is a table")
        return forecasting(found.name, tables, context, horizon, stride, val_fraction, borrow, scale)
    _refuse(found, "a set of series", context=context, horizon=horizon, stride=stride)
    if resize is not None:
        if resize < 2:
            raise OptionError(f"--resize {resize}: expected at least 2 samples")
        raws = {part: raw.resized(resize) for part, raw in raws.items()}
    data = series(
        found.name, raws, val_fraction, split_seed, labels, borrow, length, scale, extras(extra, raws) if extra else {}
    )
    data = replace(data, resize=resize)
    return joint([data]) if univariate else data


def _generated(length: int | None, options: dict[str, int], **others: Any) -> Dataset:
    """The generator's series; they have no files, so hardly any other option can take effect."""
    from tstk.data.synthetic import synthetic

    for name, value in others.items():
        if value is not None and name != "data_root":
            raise OptionError(f"--{name.replace('_', '-')} {value} has no meaning for --data {SYNTHETIC}")
    return synthetic(**options, **({} if length is None else {"length": length}))


def _together(
    use: str,
    *,
    train_data: str | None,
    val_data: str | None,
    test_data: str | None,
    context: int | None,
    horizon: int | None,
    extra: tuple[str, ...],
    **options: Any,
) -> Dataset:
    """Several data sets as one."""
    given = {"train_data": train_data, "val_data": val_data, "test_data": test_data, "context": context}
    for name, value in {**given, "horizon": horizon, "extra": extra or None}.items():
        if value is not None:
            raise OptionError(
                f"--{name.replace('_', '-')} {value} has no meaning for several data sets together: {use}"
            )
    from tstk.data.concat import joint

    if SYNTHETIC in (one.strip() for one in use.split(",")):
        raise OptionError(f"--data {use}: {SYNTHETIC} series are generated, and cannot be joined with other data")
    return joint([load(one.strip(), **options) for one in use.split(",") if one.strip()])


def load_part(
    use: str,
    *,
    like: dict[str, Any],
    data_root: str | None = None,
    label: str | None = None,
    future: bool = True,
) -> Part:
    """Read data for a model that is already trained; labels are optional.

    Of a data set in several parts the test part is taken; of a table all rows.

    Args:
        use: a name, file or folder, as for `load`
        like: what the model was trained on, from `Dataset.like`
        data_root: folder with data sets to be found by name
        label: column or array that holds the labels, if it has an unusual name
        future: of a table, keep the rows to forecast as truth; False gives every window of context rows, so that
            the last one ends where the table ends

    Raises:
        NameUnknown: no data set has this name
        DataError: the data cannot be read, or are not like those the model was trained on
    """
    from tstk.data.containers import Raw
    from tstk.data.prepare import part_like

    held = _one(use, "test", data_root, label)
    if like.get("resize") and isinstance(held, Raw):
        held = held.resized(like["resize"])
    return part_like(held, like, future)


def read_parts(use: str, data_root: str | None = None, label: str | None = None) -> dict[str, Raw | Table]:
    """What the files of a data set hold, part by part, before anything is split or scaled.

    Args:
        use: a name, file or folder, as for `load`
        data_root: folder with data sets to be found by name
        label: column or array that holds the labels, if it has an unusual name
    """
    return _read(locate(use, data_root), label)


def _read(found: Found, label: str | None) -> dict[str, Raw | Table]:
    """All parts of a data set."""
    from tstk.data.containers import Table

    parts: dict[str, Raw | Table] = {}
    for part, path in found.files.items():
        held = reader_for(path)(path, label=label)
        if isinstance(held, Table):
            parts[part] = held
        elif list(held) in (["train"], [part]):  # a reader cannot know which part its file is
            parts[part] = next(iter(held.values()))
        elif len(found.files) == 1:
            parts.update(held)
        else:
            raise DataError(f"{path}: holds {' and '.join(held)}, although its name says that it is the {part} part")
    return parts


def _transductive(found: Found, parts: dict[str, Raw | Table]) -> dict[str, Raw | Table]:
    """The test part to learn from and the training part to validate on, none with labels."""
    from tstk.data.containers import Raw

    bare = {part: replace(raw, y=None, classes=()) for part, raw in parts.items() if isinstance(raw, Raw)}
    if "test" not in bare:
        raise DataError(f"{found.name}: --train-data test, but there is no test part of series")
    return {"train": bare["test"], "val": bare.get("train", bare["test"]), "test": bare["test"]}


def _one(use: str, want: str, data_root: str | None, label: str | None) -> Raw | Table:
    """One part: of a single file what it holds, of several parts the wanted one."""
    path = Path(use).expanduser()
    if path.is_file():
        parts = _read(Found(path.stem, {want: path}), label)
    else:
        parts = _read(locate(use, data_root), label)
    if want in parts:
        return parts[want]
    if len(parts) == 1:
        return next(iter(parts.values()))
    raise DataError(f"{use}: holds {' and '.join(parts)}, but no {want} part; name the file to take")


def _refuse(found: Found, what: str, **options: Any) -> None:
    for name, value in options.items():
        if value is not None:
            raise OptionError(f"--{name} {value} has no meaning here: {found.name} is {what}")
