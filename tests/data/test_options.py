"""Every option of every kind of data takes effect, or is refused by name."""

from dataclasses import fields
from functools import cache

import numpy as np
import pytest
import torch

from tests.data.conftest import write_labelled, write_table
from tests.support.grids import slow_after
from tstk.data import DataConfig, load_data
from tstk.errors import OptionError, TstkError

BASE = {
    "series": {},
    "table": {"context": 8, "horizon": 3},
    "recordings": {"task": "segmentation", "length": 16},
    "cut table": {"length": 8},
    "several": {"length": 20},
    "synthetic": {"length": 16, "synthetic_count": 30},
    "table of classes": {"task": "segmentation", "length": 16},
}
"""Kind of data -> the options that it is loaded with."""

VALUES = {
    "val_fraction": 0.4,
    "test_fraction": 0.3,
    "folds": 3,
    "fold": 2,
    "split_seed": 3,
    "label_fraction": 0.5,
    "label_column": "z",
    "label_separator": ";",
    "task": "regression",
    "target_columns": ("z",),
    "group_column": "z",
    "id_column": "z",
    "time_column": "z",
    "channel_columns": ("v",),
    "drop_columns": ("v",),
    "context": 6,
    "horizon": 2,
    "stride": 3,
    "length": 25,
    "regularize": True,
    "resize": 9,
    "split_channels": True,
    "standardize": "none",
    "synthetic_count": 20,
    "synthetic_channels": 2,
    "synthetic_kernels": 1,
    "synthetic_seed": 5,
}
"""Option -> a value that differs from its default and from `BASE`; those that are missing here name files."""

ALREADY_SO = {
    *(("several", "split_channels"), ("synthetic", "standardize")),
    *(("table", "regularize"), ("cut table", "regularize")),
}
"""Data that always are as the option demands, so that it is accepted and changes nothing."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return kind -> name of the data, and of other data that can replace one of its splits."""
    folder, labels = tmp_path_factory.mktemp("files"), {"z_train": np.arange(20) % 4, "z_test": np.arange(10) % 4}
    series, other = write_labelled(folder, **labels), str(folder / "one_split.npz")
    second = write_labelled(folder, name="second", seed=1, **labels)
    np.savez(other, X=np.random.default_rng(1).normal(size=(12, 2, 6)), y=np.arange(12) % 2)
    record, other_record = write_table(folder, 200)[0], write_table(folder, 150, name="other.csv", seed=1)[0]
    return {
        "series": (series, other),
        "table": (record, other_record),
        "cut table": (record, other_record),
        "several": (f"{series},{second}", other),
        "synthetic": ("synthetic", other),
        **write_classes_per_sample(folder),
    }


@pytest.fixture(scope="module")
def by_default(files):
    """Return a function of the kind of data that returns its fingerprint with the options of `BASE`."""
    return cache(lambda kind: fingerprint(load_data(files[kind][0], DataConfig(**BASE[kind]))))


def write_classes_per_sample(folder):
    rng, files = np.random.default_rng(0), {"recordings": (), "table of classes": ()}
    for name, count in (("a", 12), ("b", 6)):
        x, y = rng.normal(size=(count, 2, 48)), np.repeat(rng.integers(2, size=(count, 8)), 6, 1)
        z = np.arange(count) // 2
        np.savez(folder / f"{name}.npz", X=x, y=y, z=1 - y, groups=z, ids=z + 5, w=z % 3, channels=["u", "v"])
        times = np.arange(y.size)
        columns = [times, 2 * times, *x.transpose(1, 0, 2).reshape(2, -1), y.flatten(), 1 - y.flatten()]
        rows = [",".join(f"{cell:.4g}" for cell in cells) for cells in zip(*columns, strict=True)]
        (folder / f"{name}.csv").write_text("\n".join(["time,w,u,v,label,z", *rows]))
        files["recordings"] += (str(folder / f"{name}.npz"),)
        files["table of classes"] += (str(folder / f"{name}.csv"),)
    return files


def fingerprint(data):
    """Return everything of a data set that training can see, and what the user is told."""
    splits = {
        name: [t for t in (batch.x, batch.y) if t is not None] + [v for v, _ in batch.conditioning.values()]
        for name, split in data.splits.items()
        for batch in [split.batch(torch.arange(len(split)))]
    }
    tensors = {name: [(t.shape, t.numpy().tobytes()) for t in values] for name, values in splits.items()}
    return (
        tensors,
        data.notes,
        data.spec,
        data.task,
        data.classes,
        data.split_channels,
        data.mean.tolist(),
        data.std.tolist(),
    )


def value_of(option, kind, files, tmp_path):
    if option in ("train_data", "val_data", "test_data"):
        return files[kind][1]
    if option == "conditioning":
        data = load_data(files[kind][0], DataConfig(**BASE[kind]))
        counts = {"train": len(data.train), "test": 0 if data.test is None else len(data.test)}
        if data.val_from_train:
            counts["train"] += len(data.val)
        else:
            counts["val"] = len(data.val)
        np.savez(tmp_path / "c.npz", **{k: np.ones((n, 2, 4), np.float32) for k, n in counts.items()})
        return (f"text={tmp_path / 'c.npz'}",)
    if option == "reader":
        names = ("time", "w", "a", "b", "label", "z") if kind == "table of classes" else ("date", "a", "b")
        return {"use": "csv", "names": names} if "table" in kind else {"use": "npz", "axes": "channels-last"}
    if kind in ("recordings", "table of classes") and option in ("group_column", "id_column", "time_column"):
        return "w"
    if option == "label_column" and kind in ("table", "cut table"):
        return "v"
    return VALUES[option]


@pytest.mark.parametrize("kind", slow_after(3, list(BASE)))
@pytest.mark.parametrize("option", [item.name for item in fields(DataConfig) if item.name != "data_root"])
def test_an_option_takes_effect_or_is_refused_by_name(kind, option, files, by_default, tmp_path):
    if option == "task" and option in BASE[kind]:
        pytest.skip("the task decides what kind of data these are")
    before = by_default(kind)
    options = {**BASE[kind], option: value_of(option, kind, files, tmp_path)}
    if option == "folds":
        options["fold"] = 1  # which is refused alone
    after, refusal = None, f"--{option.replace('_', '-')}"
    try:
        config = DataConfig(**options)
        after = fingerprint(load_data(files[kind][0], config))
    except TstkError as error:
        refusal = str(error)
    assert f"--{option.replace('_', '-')}" in refusal
    assert (after == before) == ((kind, option) in ALREADY_SO)


def test_a_data_root_finds_data_by_name(labelled, tmp_path):
    labelled()
    assert load_data("toy", DataConfig(data_root=str(tmp_path))).name == "toy"


@pytest.mark.parametrize("option", [{"val_fraction": 0.3}, {"split_seed": 4}])
def test_options_of_the_validation_split_are_refused_where_nothing_is_held_out(labelled, option):
    path, (name, value) = labelled(), next(iter(option.items()))
    with pytest.raises(OptionError, match=f"--{name.replace('_', '-')} {value} has no meaning here: validation"):
        load_data(path, DataConfig(val_data="test", **option))
    with pytest.raises(OptionError, match=f"--{name.replace('_', '-')} {value} has no meaning here: validation"):
        load_data(path, DataConfig(train_data="test", **option))


def test_a_split_seed_is_refused_where_all_series_are_trained_on_unless_it_selects_the_labels(labelled):
    path = labelled(train=40)
    with pytest.raises(OptionError, match=r"--split-seed 4 .*--val-fraction 0\.2 holds some out"):
        load_data(path, DataConfig(val_fraction=0.0, split_seed=4))
    one, two = (load_data(path, DataConfig(val_fraction=0.0, label_fraction=0.2, split_seed=seed)) for seed in (4, 5))
    assert len(one.train) == len(two.train) == 8
    assert not torch.equal(one.train.x, two.train.x)


def test_nothing_held_out_is_what_a_set_with_a_validation_split_does(labelled):
    load_data(labelled(), DataConfig(val_data="test", val_fraction=0.0))


def test_the_rows_that_a_table_validates_on_follow_the_fraction_if_its_test_is_another_file(table):
    path, other = table(100)[0], table(40, name="later.csv")[0]
    for options in ({"context": 8, "horizon": 3}, {"length": 8}):
        small, large = (
            load_data(path, DataConfig(test_data=other, val_fraction=fraction, **options)) for fraction in (0.2, 0.4)
        )
        assert len(large.train) < len(small.train)
        with pytest.raises(OptionError, match=r"--val-fraction 0\.2 has no meaning here: .*70, 10 and 20 %"):
            load_data(path, DataConfig(val_fraction=0.2, **options))
