"""One labelled file is enough: a test split is held out of it, or is one of several folds."""

import numpy as np
import pytest
import torch

from tstk.data import DataConfig, load_data
from tstk.errors import DataError, OptionError


@pytest.fixture
def one_file(tmp_path):
    """Write labelled series without a test split, series i holding the value i, and return the path."""

    def write(count=40, classes=2, name="one.npz", **more):
        x = np.arange(count, dtype=np.float32)[:, None].repeat(6, 1) + np.linspace(0, 0.5, 6, dtype=np.float32)
        np.savez(tmp_path / name, X=x, y=np.arange(count) % classes, **more)
        return str(tmp_path / name)

    return write


def rows(split):
    return set(split.rows.tolist())


def test_a_labelled_file_without_a_test_split_loads_and_a_line_offers_one(one_file):
    data = load_data(one_file())
    assert data.test is None
    assert data.task == "classification"
    assert any("--test-fraction 0.2" in note and "--test-data FILE" in note for note in data.notes)
    held_out = load_data(one_file(), DataConfig(test_fraction=0.2))
    assert not any("no test split" in note for note in held_out.notes)


@pytest.mark.parametrize("labelled", [True, False])
def test_a_test_fraction_takes_the_same_share_of_every_class_and_no_series_twice(tmp_path, labelled):
    y = np.array([0] * 30 + [1] * 10)
    np.savez(tmp_path / "x.npz", X=np.random.default_rng(0).normal(size=(40, 6)), **({"y": y} if labelled else {}))
    data = load_data(str(tmp_path / "x.npz"), DataConfig(test_fraction=0.2))
    assert len(data.test) == 8
    if labelled:
        assert data.test.y.bincount().tolist() == [6, 2]
    assert sorted([*rows(data.train), *rows(data.val), *rows(data.test)]) == list(range(40))
    assert any("8 of 40 series held out" in note for note in data.notes)


def test_a_test_fraction_divides_no_group(one_file):
    for seed in range(3):
        data = load_data(one_file(subject=np.arange(40) // 4), DataConfig(test_fraction=0.3, split_seed=seed))
        people = [set(split.groups) for split in (data.train, data.val, data.test)]
        assert sum(map(len, people)) == len(set.union(*people)) == 10
    assert any("3 of 10 groups (12 of 40 series) held out" in note for note in data.notes)


def test_the_test_series_follow_the_seed_alone(one_file):
    path = one_file()
    first, again, other = (
        load_data(path, DataConfig(test_fraction=0.2, **more)).test.rows.tolist()
        for more in ({}, {"val_fraction": 0.4}, {"split_seed": 1})
    )
    assert first == again != other


def test_statistics_come_from_the_training_series_alone(one_file):
    data = load_data(one_file(), DataConfig(test_fraction=0.2))
    assert data.mean.tolist() == pytest.approx([float(data.train.x.mean())])


@pytest.mark.parametrize("options", [{"test_fraction": 0.2}, {"folds": 3, "fold": 1}])
def test_a_test_split_beside_another_is_refused_and_the_file_named(labelled, options):
    with pytest.raises(OptionError, match=r"has no meaning here: there is a test split, .*toy\.npz"):
        load_data(labelled(), DataConfig(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 5}, "--fold 1 to 5; tstk bench --folds 5"),
        ({"folds": 5, "fold": 6}, "--folds 5 --fold 6: say which of the 5"),
        ({"fold": 1}, "of how many"),
        ({"folds": 5, "fold": 1, "test_fraction": 0.2}, "whose test split is a fold"),
    ],
)
def test_folds_without_their_number_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        DataConfig(**options)


def test_every_series_is_tested_in_exactly_one_fold_and_every_fold_has_every_class(one_file):
    folds = [load_data(one_file(), DataConfig(folds=4, fold=i)) for i in (1, 2, 3, 4)]
    assert sorted(row for data in folds for row in rows(data.test)) == list(range(40))
    for data in folds:
        assert data.test.y.bincount().tolist() == [5, 5]
        assert not rows(data.test) & (rows(data.train) | rows(data.val))


def test_folds_divide_no_group(one_file):
    path = one_file(subject=np.arange(40) // 5)
    tested = [set(load_data(path, DataConfig(folds=4, fold=i)).test.groups) for i in (1, 2, 3, 4)]
    assert sorted(name for names in tested for name in names) == sorted(map(str, range(8)))


@pytest.mark.parametrize("groups", [True, False])
def test_more_folds_than_there_are_groups_or_series_are_refused(one_file, groups):
    path = one_file(**({"subject": np.arange(40) // 20} if groups else {}))
    kind = "2 groups" if groups else "20 series in the largest class"
    with pytest.raises(DataError, match=f"--folds 30, but there are {kind}; give fewer"):
        load_data(path, DataConfig(folds=30, fold=1))


def test_the_last_rows_of_a_table_are_its_test_fraction(table):
    path, values = table(200)
    data = load_data(path, DataConfig(context=8, horizon=3, test_fraction=0.1, val_fraction=0.5))
    assert len(data.test) == 20 - 3 + 1
    assert data.test.table[:, -1].tolist() == values[-1].tolist()
    assert len(data.train) == 90 - 8 - 3 + 1
    assert any("rows 181 to 200 of 200; the first 90 to train" in note for note in data.notes)


@pytest.mark.parametrize("options", [{"context": 4, "horizon": 2}, {"length": 4}])
def test_folds_of_a_table_follow_each_other_and_train_on_earlier_rows_alone(table, options):
    path, _ = table(200)
    width = sum(options.values()) if "horizon" in options else 4
    ends = []
    for fold in (1, 2, 3, 4):
        data = load_data(path, DataConfig(folds=4, fold=fold, **options))
        last_trained = int(torch.cat([data.train.rows, data.val.rows]).max()) + width
        first_tested = int(data.test.rows.min()) + options.get("context", 0)
        assert last_trained <= first_tested
        ends.append((first_tested, int(data.test.rows.max()) + width))
    assert ends == [(40, 80), (80, 120), (120, 160), (160, 200)]


# Identity


@pytest.mark.parametrize("options", [{}, {"resize": 4}, {"test_fraction": 0.25}, {"folds": 4, "fold": 2}])
def test_ids_and_rows_stay_with_their_series_through_every_split(one_file, options):
    path = one_file(ids=np.array([f"p{i:02}" for i in range(40)]))
    data = load_data(path, DataConfig(**options))
    for split in data.splits.values():
        first_samples = split.batch(torch.arange(len(split))).x[:, 0, 0].tolist()
        assert split.rows.tolist() == first_samples
        assert split.ids == [f"p{int(x):02}" for x in first_samples]


def test_windows_know_the_row_and_the_time_at_which_they_begin(table):
    path, values = table(60)
    data = load_data(path, DataConfig(context=4, horizon=2, test_fraction=0.2))
    for split in data.splits.values():
        for i in (0, len(split) - 1):
            row = int(split.rows[i])
            assert split.batch(torch.tensor([i])).x[0, :, 0].tolist() == values[row].tolist()
            assert split.ids[i] == str(np.datetime64("2020-01-01T00", "s") + 3600 * row).replace("T", " ")
    cut = load_data(path, DataConfig(length=5, test_fraction=0.2))
    for split in cut.splits.values():
        assert split.batch(torch.tensor([0])).x[0, :, 0].tolist() == values[int(split.rows[0])].tolist()
        assert split.ids[0] == str(np.datetime64("2020-01-01T00", "s") + 3600 * int(split.rows[0])).replace("T", " ")


def test_an_error_about_a_series_names_its_id(tmp_path):
    x = np.random.default_rng(0).normal(size=(6, 5))
    ids = np.array(list("abcdef"))
    for value, message in ((np.inf, "infinite"), (np.nan, "entirely missing"), (3e38, "too large")):
        bad = x.copy()
        bad[3] = value
        arrays = {"X_train": x, "ids_train": ids, "X_test": bad, "ids_test": ids, "y_train": [0, 1] * 3}
        np.savez(tmp_path / "x.npz", **arrays, y_test=[0, 1] * 3)
        with pytest.raises(DataError, match=rf"series 4 \(id d\).*{message}"):
            load_data(str(tmp_path / "x.npz"))
