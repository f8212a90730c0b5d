import json

import numpy as np
import pytest
import torch

import tstk.data
from tstk.data import DataConfig, load_data, load_split
from tstk.data.splits import ETT_COLUMNS, group_split, stratified_split
from tstk.errors import DataError, OptionError


def everything(part):
    return part.batch(torch.arange(len(part)))


def rows(part):
    return {x.numpy().tobytes() for x in everything(part).x}


# Series


def test_the_embedded_set_loads_without_a_root():
    data = load_data()
    assert (data.task, data.spec.channels, data.spec.length, data.spec.num_outputs) == ("classification", 9, 128, 6)
    assert data.classes[0] == "WALKING"
    assert len(data.train) + len(data.val) == 252
    assert len(data.test) == 108
    assert set(data.val.y.tolist()) == set(data.train.y.tolist()) == set(range(6))


@pytest.mark.slow
def test_no_group_is_on_both_sides_of_the_split():
    for seed in range(5):
        data = load_data(config=DataConfig(split_seed=seed))
        assert not set(data.train.groups) & set(data.val.groups)
        assert 0.1 < len(data.val) / 252 < 0.3


def test_a_split_is_the_same_for_the_same_seed_and_another_for_another():
    groups = [load_data(config=DataConfig(split_seed=seed)).val.groups for seed in (3, 3, 4)]
    assert groups[0] == groups[1] != groups[2]


def test_learning_from_the_test_split_takes_no_labels_along(labelled):
    path = labelled()
    data, honest = load_data(path, DataConfig(train_data="test")), load_data(path)
    assert data.task is None
    assert [part.y for part in data.splits.values()] == [None] * 3
    assert rows(data.train) == rows(data.test) == rows(honest.test)
    assert rows(data.val) == rows(honest.train) | rows(honest.val)
    assert any("transductive" in note for note in data.notes)
    assert not any("transductive" in note for note in honest.notes)


def test_training_data_may_be_named_by_themselves(labelled):
    first, second = labelled(), labelled(name="second", seed=1)
    data = load_data(first, DataConfig(train_data=second))
    assert rows(data.train) | rows(data.val) == {x.tobytes() for x in np.load(second)["X_train"]}
    assert rows(data.test) == rows(load_data(first).test)


def test_few_labels_are_drawn_class_by_class_from_what_the_split_left(labelled):
    path = labelled(train=200)
    whole, fifth = load_data(path), load_data(path, DataConfig(label_fraction=0.2))
    for part, size in (("train", 32), ("val", 8)):
        assert rows(fifth.splits[part]) < rows(whole.splits[part])
        assert torch.bincount(fifth.splits[part].y).tolist() == [size // 2] * 2
    assert len(fifth.test) == len(whole.test)
    assert torch.equal(fifth.mean, whole.mean)  # series without their labels are still known
    assert rows(load_data(path, DataConfig(label_fraction=0.2)).train) == rows(fifth.train)


@pytest.mark.parametrize("labels", [0.0, -0.1, 1.5])
def test_a_share_of_labels_is_a_share(labelled, labels):
    with pytest.raises(OptionError, match=r"--label-fraction is .*expected float, more than 0 and 1 or less"):
        load_data(labelled(), DataConfig(label_fraction=labels))


def test_a_share_of_labels_needs_labels(labelled, table):
    with pytest.raises(OptionError, match=r"--label-fraction 0\.5: toy has no labels"):
        load_data(labelled(), DataConfig(label_fraction=0.5, train_data="test"))
    with pytest.raises(OptionError, match=r"--label-fraction 0\.5 has no meaning here"):
        load_data(table(300)[0], DataConfig(label_fraction=0.5, context=8, horizon=3))


def test_the_split_neither_loses_nor_repeats_a_series(labelled):
    path = labelled()
    data = load_data(path)
    given = {x.tobytes() for x in np.load(path)["X_train"]}
    assert rows(data.train) | rows(data.val) == given
    assert not rows(data.train) & rows(data.val)


def test_a_stratified_split_keeps_the_share_of_every_class():
    y = np.repeat([0, 1, 2, 3], [50, 10, 2, 1])
    train, val = stratified_split(y, 0.2, seed=0)
    assert np.bincount(y[val], minlength=4).tolist() == [10, 2, 1, 0]
    assert sorted([*train, *val]) == list(range(len(y)))
    _, most = stratified_split(y, 0.99, seed=0)
    assert np.bincount(y[most], minlength=4).tolist() == [49, 9, 1, 0]


def test_a_group_split_keeps_every_class_in_training():
    groups = [g for g in "abcdef" for _ in range(4)]
    y = np.array([2, 2, 2, 2] + [0, 0, 1, 1] * 5)  # class 2 occurs in group a alone
    for seed in range(20):
        train, val = group_split(y, groups, 0.6, seed)
        assert set(y[train]) == {0, 1, 2}
        assert set(y[val]) == {0, 1}


def test_a_group_split_brings_a_rare_class_to_validation_if_it_can():
    groups = [g for g in "abcdefghij" for _ in range(4)]
    y = np.array([1, 1, 0, 0] * 2 + [0, 0, 0, 0] * 8)  # class 1 occurs in groups a and b alone
    for seed in range(20):
        _, val = group_split(y, groups, 0.1, seed)
        assert set(y[val]) == {0, 1}


def test_validation_and_test_may_be_files_of_their_own(tmp_path):
    for i, name in enumerate("abc"):
        np.savez(tmp_path / f"{name}.npz", X=np.full((4, 1, 3), float(i)), y=[0, 1, 0, 1])
    data = load_data(
        str(tmp_path / "a.npz"), DataConfig(val_data=str(tmp_path / "b.npz"), test_data=str(tmp_path / "c.npz"))
    )
    assert [everything(part).x.unique().tolist() for part in data.splits.values()] == [[0], [1], [2]]
    assert len(data.source) == 3


def test_validating_on_the_test_split_is_opt_in_and_noted(labelled):
    data = load_data(labelled(), DataConfig(val_data="test"))
    assert rows(data.val) == rows(data.test)
    assert len(data.train) == 20
    assert any("test split itself" in note for note in data.notes)


def test_the_scale_is_measured_on_training_samples_only(labelled):
    path = labelled(X_test=np.full((10, 2, 6), 1e6, np.float32))
    data = load_data(path)
    x = everything(data.train).x.double()
    torch.testing.assert_close(data.mean.double(), x.mean((0, 2)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(data.std.double(), x.std((0, 2), correction=0), rtol=1e-5, atol=1e-6)


def test_splits_hold_raw_values_and_scaling_can_be_switched_off(labelled):
    path = labelled()
    data = load_data(path, DataConfig(standardize="none"))
    assert (data.mean.tolist(), data.std.tolist()) == ([0, 0], [1, 1])
    assert everything(load_data(path).train).x.equal(everything(data.train).x)


def test_number_labels_are_ordered_as_numbers_and_kept_as_text(pair):
    data = load_data(pair(["1,2:10", "1,3:10", "2,2:9", "2,3:9"]))
    assert data.classes == ("9", "10")


def test_the_length_is_that_of_the_longest_series_in_any_split(pair):
    path = pair(["1,2:a", "3:a", "1,2:b", "3:b"], ["1,2,3,4:a"])
    assert load_data(path).spec.length == 4
    assert load_data(path, DataConfig(length=9)).spec.length == 9
    with pytest.raises(DataError, match="--length 3: Toy has series of 4 samples"):
        load_data(path, DataConfig(length=3))


def test_missing_values_are_counted_and_noted_but_padding_is_not(pair):
    data = load_data(pair(["1,?,3:a", "3:a", "1,2:b", "3:b"], ["1,?,?,2:a"]))
    assert "2 missing values in test" in data.notes
    assert data.describe()["parts"]["test"]["missing"] == 2
    assert sum(data.describe()["parts"][part]["missing"] for part in ("train", "val")) == 1


def test_unlabelled_series_need_no_test_split(tmp_path):
    np.savez(tmp_path / "x.npz", X=np.random.default_rng(0).normal(size=(10, 2, 5)))
    data = load_data(str(tmp_path / "x.npz"))
    assert (data.task, data.spec.num_outputs, data.test, data.train.y) == (None, None, None, None)
    assert (len(data.train), len(data.val)) == (8, 2)


def test_the_description_is_json_and_count_what_is_there(labelled):
    path = labelled(train=21)
    arrays = dict(np.load(path))
    arrays["X_test"][0] = arrays["X_train"][3]
    np.savez(path, **arrays)
    facts = json.loads(json.dumps(load_data(path, DataConfig(val_data="test")).describe()))
    assert facts["parts"]["train"]["size"] == 21
    assert facts["parts"]["train"]["classes"] == {"0": 11, "1": 10}
    assert facts["parts"]["train"]["length"] == {"min": 6, "median": 6, "max": 6}
    assert facts["imbalance"] == 1.1
    assert facts["duplicates"] == 1
    assert facts["repeated"] == 0


def test_groups_that_are_both_in_training_and_in_test_are_noted(labelled):
    path = labelled(subject_train=np.arange(20) // 2, subject_test=np.arange(10))
    assert any("10 groups occur both" in note for note in load_data(path).notes)


def test_a_test_file_alone_says_that_training_data_are_missing(tmp_path):
    np.savez(tmp_path / "x_test.npz", X=np.ones((4, 3)), y=[0, 0, 1, 1])
    with pytest.raises(DataError, match="no training data"):
        load_data(str(tmp_path / "x_test.npz"))


def test_test_arrays_alone_are_never_taken_for_training_data(tmp_path):
    np.savez(tmp_path / "x.npz", X_test=np.ones((4, 3)), y_test=[0, 0, 1, 1])
    with pytest.raises(DataError, match="no training data"):
        load_data(str(tmp_path / "x.npz"))


def test_splits_that_do_not_fit_together_are_refused(pair, labelled, table):
    with pytest.raises(DataError, match=r"Toy_TEST.ts: class 'c' does not occur in training, whose classes are a, b"):
        load_data(pair(["1:a", "2:a", "1:b", "2:b"], ["1:c"]))
    with pytest.raises(DataError, match=r"Toy_TEST.ts: 2 channels; training has 1"):
        load_data(pair(["1:a", "2:a", "1:b", "2:b"], ["1:2:a"]))
    with pytest.raises(DataError, match="the splits do not match: train is a set of series, test is a table"):
        load_data(labelled(), DataConfig(test_data=table(300)[0]))


def test_a_split_without_labels_does_not_pass_for_a_labelled_one(labelled, tmp_path):
    np.savez(tmp_path / "bare.npz", X=np.ones((4, 2, 3)))
    with pytest.raises(DataError, match=r"bare\.npz: no labels in the test split"):
        load_data(labelled(), DataConfig(test_data=str(tmp_path / "bare.npz")))


def test_a_class_that_is_missing_from_a_split_is_noted(pair):
    data = load_data(pair(["1:a", "2:a", "1:b"], ["1:b"]))
    assert "no series of class b in val" in data.notes
    assert "no series of class a in test" in data.notes


def test_too_few_series_to_validate_on_is_an_error(pair):
    with pytest.raises(DataError, match=r"2 series are too few.*--val-data FILE"):
        load_data(pair(["1:a", "2:b"]))


def test_options_for_the_other_kind_of_data_are_refused_rather_than_ignored(labelled, table):
    with pytest.raises(OptionError, match="--stride 5 has no meaning here"):
        load_data(labelled(), DataConfig(stride=5))
    with pytest.raises(OptionError, match="--horizon 5 has no meaning here: table is a table cut by --length"):
        load_data(table(300)[0], DataConfig(length=5, horizon=5))
    with pytest.raises(OptionError, match=r"--val-fraction is 1\.5"):
        load_data(config=DataConfig(val_fraction=1.5))


# Tables


def test_a_table_is_split_70_10_20_and_no_future_crosses_a_border(table):
    path, values = table(100)
    data = load_data(path, DataConfig(context=8, horizon=3))
    assert (data.task, data.spec.length, data.spec.horizon) == ("forecasting", 8, 3)
    for part, start, stop in (("train", 8, 70), ("val", 70, 80), ("test", 80, 100)):
        futures = everything(data.splits[part]).y
        assert len(futures) == stop - start - 2
        np.testing.assert_array_equal(futures[0], values[start : start + 3].T)
        np.testing.assert_array_equal(futures[-1], values[stop - 3 : stop].T)
        np.testing.assert_array_equal(everything(data.splits[part]).x[0], values[start - 8 : start].T)


def test_the_scale_of_a_table_is_measured_on_its_training_rows(table):
    path, values = table(100)
    data = load_data(path, DataConfig(context=8, horizon=3))
    np.testing.assert_allclose(data.mean, values[:70].mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(data.std, values[:70].std(0), rtol=1e-4)


@pytest.mark.slow
def test_the_electricity_tables_get_months_of_thirty_days(table):
    data = load_data(table(14500, ETT_COLUMNS)[0])
    assert [len(part) for part in data.splits.values()] == [8640 - 191, 2880 - 95, 2880 - 95]
    assert any("100 rows at the end are not used" in note for note in data.notes)


def test_a_short_electricity_table_is_split_like_any_other(table):
    data = load_data(table(1000, ETT_COLUMNS)[0], DataConfig(context=8, horizon=3))
    assert len(data.train) == 700 - 10


def test_a_table_may_have_its_test_rows_in_another_file(table):
    path, values = table(100)
    other, later = table(30, name="later.csv", seed=1)
    data = load_data(path, DataConfig(test_data=other, context=8, horizon=3))
    np.testing.assert_array_equal(everything(data.val).y[0], values[80:83].T)
    np.testing.assert_array_equal(everything(data.val).y[-1], values[97:100].T)
    np.testing.assert_array_equal(everything(data.test).x[0], later[:8].T)
    assert len(data.test) == 20


def test_rows_that_another_file_validates_on_are_trained_on(table):
    path, values = table(100)
    data = load_data(path, DataConfig(val_data=table(30, name="later.csv")[0], context=8, horizon=3))
    np.testing.assert_array_equal(everything(data.train).y[-1], values[77:80].T)
    np.testing.assert_array_equal(everything(data.test).y[0], values[80:83].T)
    assert len(data.val) == 20


def test_a_table_too_short_for_its_windows_says_by_how_much(table):
    path, _ = table(100)
    with pytest.raises(
        DataError, match="train rows 1 to 70: --context 96 and --horizon 96 take 192 rows, and there are 70"
    ):
        load_data(path)
    with pytest.raises(DataError, match="val rows 71 to 80: --context 8 and --horizon 12"):
        load_data(path, DataConfig(context=8, horizon=12))
    with pytest.raises(OptionError, match="--horizon is 0"):
        load_data(path, DataConfig(horizon=0))


# Data for a model that is already trained


def test_a_trained_model_reads_one_file_with_or_without_labels(labelled, tmp_path):
    like = json.loads(json.dumps(load_data(labelled()).input_schema()))
    np.savez(tmp_path / "new.npz", X=np.ones((3, 2, 4)))
    part = load_split(str(tmp_path / "new.npz"), input_schema=like)
    assert (len(part), part.y) == (3, None)
    np.savez(tmp_path / "new.npz", X=np.ones((3, 2, 4)), y=[1, 0, 1])
    assert load_split(str(tmp_path / "new.npz"), input_schema=like).y.tolist() == [1, 0, 1]


def test_of_several_splits_a_trained_model_reads_the_test_split(labelled):
    data = load_data(labelled())
    assert rows(load_split(data.source[0], input_schema=data.input_schema())) == rows(data.test)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": np.ones((1, 3, 4))}, "3 channels; training has 2"),
        ({"X": np.ones((1, 2, 7))}, "series 1 has 7 samples; the model takes 6"),
        ({"X": np.ones((1, 2, 4)), "y": [7]}, "class '7' does not occur in training, whose classes are 0, 1"),
        ({"X": np.ones((1, 2, 4)), "channels": ["1", "0"]}, "another order"),
    ],
)
def test_data_unlike_those_of_training_are_refused(labelled, tmp_path, arrays, message):
    like = load_data(labelled()).input_schema()
    np.savez(tmp_path / "new.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load_split(str(tmp_path / "new.npz"), input_schema=like)


def test_a_trained_forecaster_may_look_to_the_last_row(table):
    path, values = table(100)
    like = load_data(path, DataConfig(context=8, horizon=3)).input_schema()
    assert len(load_split(path, input_schema=like)) == 90
    last = everything(load_split(path, input_schema=like, include_targets=False))
    np.testing.assert_array_equal(last.x[-1], values[-8:].T)
    with pytest.raises(DataError, match="columns u, w; expected u, v"):
        load_split(table(100, ("u", "w"), "other.csv")[0], input_schema=like)


def test_a_model_of_series_does_not_take_a_table(labelled, table):
    with pytest.raises(DataError, match="this is a table, but the model was trained on series"):
        load_split(table(100)[0], input_schema=load_data(labelled()).input_schema())


# What the command line relies on


def test_what_is_public_is_there():
    assert all(hasattr(tstk.data, name) for name in tstk.data.__all__)


def test_a_stride_thins_out_training_and_validation_and_not_the_test(table):
    path, _ = table(100)
    whole, some = (
        load_data(path, DataConfig(context=8, horizon=3)),
        load_data(path, DataConfig(context=8, horizon=3, stride=5)),
    )
    assert len(some.train) == -(-len(whole.train) // 5)
    assert len(some.val) == -(-len(whole.val) // 5)
    assert len(some.test) == len(whole.test)
    assert torch.equal(some.val.batch(torch.tensor([1])).x, whole.val.batch(torch.tensor([5])).x)


def test_ranges_are_those_of_numpy_and_series_that_repeat_are_counted(tmp_path):
    x = np.random.default_rng(0).normal(size=(12, 3, 9)).astype(np.float32)
    x[:, 1] = 4
    x[2, 0, 3], x[:, 2, 5] = np.nan, np.nan
    x[7] = x[6]
    np.savez(tmp_path / "x.npz", X_train=x[:8], X_val=x[8:10], X_test=x[[8, 6, 11]])
    facts = load_data(str(tmp_path / "x.npz")).describe()
    assert (facts["duplicates"], facts["repeated"]) == (2, 1)
    for channel, got in enumerate(facts["ranges"].values()):
        seen = x[:8, channel]
        want = {"min": np.nanmin(seen), "mean": np.nanmean(seen), "max": np.nanmax(seen)}
        assert got == pytest.approx(want, rel=1e-5)
