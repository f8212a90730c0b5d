"""What a data set is for: classes, several labels or numbers, inferred or named, the same in every split."""

import numpy as np
import pytest
import torch

from tstk.data import DataConfig, load_data
from tstk.data.containers import SeriesSet
from tstk.data.convert import convert
from tstk.data.load import load_split
from tstk.data.targets import encode_targets, split_label_cells
from tstk.errors import DataError, DataNoteWarning, OptionError

RNG = np.random.default_rng(0)


def save(path, **arrays):
    """Save arrays with an X for each split that one of them names; return the path."""
    counts = {
        name.rpartition("_")[2]: len(a) for name, a in arrays.items() if name.endswith(("_train", "_test", "_new"))
    }
    x = {f"X_{split}": RNG.normal(size=(n, 1, 8)).astype(np.float32) for split, n in counts.items()}
    np.savez(path, **x, **arrays)
    return str(path)


@pytest.mark.parametrize("names", [("speed",), ("speed", "power")])
def test_labels_of_other_data_are_not_the_numbers_that_a_run_predicts(tmp_path, names):
    columns = ["t0,t1,t2,label," + ",".join(names)]
    rows = [",".join([f"{i},{i % 3},{i % 5},{i % 2}", *[f"{i / 2}"] * len(names)]) for i in range(12)]
    (tmp_path / "a.csv").write_text("\n".join(columns + rows))
    (tmp_path / "b.csv").write_text("\n".join(row.rsplit(",", len(names))[0] for row in columns + rows))
    config = DataConfig(target_columns=names)
    data = load_data(str(tmp_path / "a.csv"), config)
    with pytest.warns(DataNoteWarning, match=f"the labels are not used: the run predicts {', '.join(names)}"):
        split = load_split(
            str(tmp_path / "b.csv"), input_schema=data.input_schema(), roles=config.roles.for_other_data()
        )
    assert split.y is None
    arrays = {f"X_{s}": np.random.default_rng(0).normal(size=(9, 1, 8)) for s in ("train", "test")}
    np.savez(tmp_path / "c.npz", **arrays, targets_train=np.arange(9), y_test=np.arange(9) % 2)
    with pytest.raises(DataError, match="no targets in the test split"):
        load_data(str(tmp_path / "c.npz"))


def some_set(**fields):
    return SeriesSet(np.ones((2, 1, 4)), "a.csv", **fields)


SIZES = {"train": 20, "test": 6}
NUMBERS = {"targets_train": RNG.normal(5, 2, (20, 2)), "targets_test": RNG.normal(5, 2, (6, 2))}


def test_numbers_are_read_exactly_and_announced(tmp_path):
    targets = {**NUMBERS, "targets_train": NUMBERS["targets_train"] + 1e9}
    data = load_data(save(tmp_path / "a.npz", **targets, target_names=["load", "oil"]), DataConfig(val_data="test"))
    assert (data.task, data.spec.num_outputs, data.target_names, data.classes) == ("regression", 2, ("load", "oil"), ())
    assert data.train.y.numpy().tobytes() == targets["targets_train"].tobytes()
    assert "the task is regression of load, oil" in data.notes


def test_a_target_of_one_column_has_a_name_of_its_own(tmp_path):
    path = save(tmp_path / "a.npz", targets_train=np.arange(20), targets_test=np.arange(6))
    assert load_data(path).describe()["parts"]["test"]["targets"] == {
        "targets": {"min": 0.0, "mean": 2.5, "max": 5.0, "missing": 0}
    }


def test_named_arrays_are_targets_and_a_name_that_is_not_there_is_refused(tmp_path):
    arrays = {f"{name}_{split}": RNG.normal(size=n) for name in ("load", "oil") for split, n in SIZES.items()}
    path = save(tmp_path / "a.npz", **arrays)
    data = load_data(path, DataConfig(target_columns=("oil", "load"), val_data="test"))
    assert data.target_names == ("oil", "load")
    np.testing.assert_array_equal(data.train.y, np.stack([arrays["oil_train"], arrays["load_train"]], 1))
    with pytest.raises(DataError, match=r"no array called 'lod_train'; it holds: .* Did you mean 'load"):
        load_data(path, DataConfig(target_columns=("lod",)))


def test_unknown_targets_are_counted_in_a_note_and_infinite_ones_refused(tmp_path):
    targets = NUMBERS["targets_train"].copy()
    targets[3, 1] = np.nan
    data = load_data(save(tmp_path / "a.npz", **{**NUMBERS, "targets_train": targets}), DataConfig(val_data="test"))
    assert "1 of 40 targets are unknown in train; losses and metrics leave them out" in data.notes
    targets[3, 1] = np.inf
    with pytest.raises(DataError, match="targets_train of series 4 is infinite; write an unknown target as NaN"):
        load_data(save(tmp_path / "b.npz", **{**NUMBERS, "targets_train": targets}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"targets": np.ones((3, 1))}, "3 targets for 2 series"),
        ({"targets": np.ones(2)}, r"targets have shape \(2,\)"),
        ({"targets": np.ones((2, 2)), "target_names": ("a",)}, "1 target names for 2 targets"),
    ],
)
def test_targets_that_do_not_fit_their_series_are_refused(fields, message):
    with pytest.raises(DataError, match=message):
        some_set(**fields)


def test_targets_are_matched_by_name_whatever_their_order():
    targets = np.array([[1.0, 2.0], [3.0, 4.0]])
    y = encode_targets(some_set(targets=targets, target_names=("b", "a")), "numbers", ("a", "b"))
    assert y.tolist() == [[2, 1], [4, 3]]
    with pytest.raises(DataError, match=r"a\.csv: targets b, c; training has a, b"):
        encode_targets(some_set(targets=targets, target_names=("b", "c")), "numbers", ("a", "b"))


def test_labels_that_are_numbers_are_predicted_as_such_on_request_only(tmp_path):
    labels = {"y_train": np.linspace(0, 1, 20), "y_test": np.linspace(0, 1, 20)}
    path = save(tmp_path / "a.npz", **labels)
    data = load_data(path, DataConfig(val_data="test", label_column="y"))
    assert data.task == "classification"
    assert any("--task regression predicts them as numbers" in note for note in data.notes)
    data = load_data(path, DataConfig(task="regression", val_data="test", label_column="y"))
    np.testing.assert_array_equal(data.train.y[:, 0], labels["y_train"])
    assert data.target_names == ("label",)


def test_numbers_that_are_not_whole_are_targets_and_a_note_says_so(tmp_path):
    path = save(tmp_path / "a.npz", y_train=np.linspace(0, 1, 20), y_test=np.linspace(0, 1, 20))
    data = load_data(path, DataConfig(val_data="test"))
    assert (data.task, data.target_names) == ("regression", ("y",))
    assert any("--label-column y makes them classes" in note for note in data.notes)


def test_a_label_that_is_no_number_is_named_with_its_place(tmp_path):
    path = save(tmp_path / "a.npz", y_train=["1", "2", "big"], y_test=["1", "2"])
    with pytest.raises(DataError, match="label 'big' of series 3 is not a number"):
        load_data(path, DataConfig(task="regression"))


@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_a_task_without_its_targets_is_refused_with_the_option_that_names_them(tmp_path, task):
    path = str(tmp_path / "a.npz")
    np.savez(path, X=np.ones((20, 1, 8)) * RNG.normal(size=(20, 1, 1)))
    with pytest.raises(OptionError, match=f"--task {task}: needs .*, which .* lacks; name"):
        load_data(path, DataConfig(task=task))


def test_a_conversion_keeps_targets_and_their_names(tmp_path):
    path = save(tmp_path / "a.npz", **NUMBERS, target_names=["load", "oil"])
    convert(path, tmp_path / "b.npz")
    before, after = (load_data(str(tmp_path / name), DataConfig(val_data="test")) for name in ("a.npz", "b.npz"))
    assert after.target_names == ("load", "oil")
    assert torch.equal(before.train.y, after.train.y)


# ------------------------------------------------------------------ several labels

CELLS = {"y_train": ["walk;run", "run", ";", " run ; sit"] * 5, "y_test": ["sit", "walk;sit"] * 3}


def test_cells_with_a_separator_become_a_target_per_label_in_every_split(tmp_path):
    path = save(tmp_path / "a.npz", **CELLS)
    data = load_data(path, DataConfig(label_separator=";", val_data="test"))
    assert (data.task, data.classes, data.spec.num_outputs) == ("multilabel", ("run", "sit", "walk"), 3)
    assert data.train.y[:4].tolist() == [[1, 0, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0]]
    assert data.test.y[:2].tolist() == [[0, 1, 0], [0, 1, 1]]
    other = save(tmp_path / "b.npz", y_test=["walk"])
    assert load_split(other, input_schema=data.input_schema()).y.tolist() == [[0, 0, 1]]


def test_a_label_that_training_does_not_have_is_named():
    with pytest.raises(DataError, match=r"a\.csv: label 'fly' does not occur in training, whose labels are run, walk"):
        split_label_cells(some_set(y=["walk", "run;fly"]), ";", ("run", "walk"))


@pytest.mark.parametrize("name", ["y", "targets"])
def test_multi_hot_arrays_are_several_labels(tmp_path, name):
    y = RNG.integers(0, 2, (26, 3))
    names = {"classes": ["a", "b", "c"]} if name == "y" else {"target_names": ["a", "b", "c"]}
    path = save(tmp_path / "a.npz", **{f"{name}_train": y[:20], f"{name}_test": y[20:]}, **names)
    data = load_data(path, DataConfig(val_data="test"))
    assert (data.task, data.classes) == ("multilabel", ("a", "b", "c"))
    assert torch.equal(data.train.y, torch.from_numpy(y[:20]))
    assert any("the targets a, b, c are 0 or 1, so they are taken as several labels" in note for note in data.notes)
    assert load_data(path, DataConfig(task="regression")).task == "regression"


def test_a_single_label_may_be_absent_and_is_not_the_only_class(tmp_path):
    targets = {"targets_train": np.arange(20) % 2, "targets_test": np.arange(6) % 2}
    data = load_data(save(tmp_path / "a.npz", **targets), DataConfig(task="multilabel", val_data="test"))
    assert not any("all training series are of class" in note for note in data.notes)


def test_a_label_of_neither_0_nor_1_is_refused_and_an_unknown_one_kept():
    y = encode_targets(some_set(targets=np.array([[1, np.nan], [0, 1]])), "labels", ("0", "1"))
    assert y.tolist() == [[1, -1], [0, 1]]
    with pytest.raises(DataError, match=r"series 2 has the labels 0, 0\.5; expected 1 or 0 for each of 0, 1"):
        encode_targets(some_set(targets=np.array([[1, 0], [0, 0.5]])), "labels", ("0", "1"))
