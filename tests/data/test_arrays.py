"""Arrays of files: which is what, in which order of axes, and labels, names and targets read exactly by their type."""

import numpy as np
import pytest
import torch

from tstk.data import DataConfig, load_data
from tstk.data.arrays import to_names
from tstk.data.columns import ColumnRoles
from tstk.data.containers import SeriesSet
from tstk.data.convert import convert
from tstk.data.readers import npy, npz, pt
from tstk.errors import DataError

NAN = np.nan
LARGE = 2**53


@pytest.fixture(params=["npz", "npy", "pt"])
def save(request, tmp_path):
    """Return a function that saves arrays in a format, and reads them with some roles; text is not for .pt."""

    def save_and_read(roles=ColumnRoles(), **arrays):
        if request.param == "npz":
            np.savez(tmp_path / "set.npz", **arrays)
            return npz.read(tmp_path / "set.npz", roles)["train"]
        if request.param == "npy":
            for name, array in arrays.items():
                np.save(tmp_path / f"{name}.npy", array)
            return npy.read(tmp_path / "X.npy", roles)["train"]
        if any(np.asarray(array).dtype.kind in "SUM" for array in arrays.values()):
            pytest.skip("tensors hold no text")
        torch.save({k: torch.from_numpy(np.array(v)) for k, v in arrays.items()}, tmp_path / "set.pt")
        return pt.read(tmp_path / "set.pt", roles)["train"]

    return save_and_read


def x(num_series, channels=2, samples=5):
    return np.random.default_rng(0).normal(size=(num_series, channels, samples))


# names


@pytest.mark.parametrize(
    ("array", "names"),
    [
        (np.array([LARGE, LARGE + 1, LARGE]), [str(LARGE), str(LARGE + 1), str(LARGE)]),
        (np.array([12345678901234567, 12345678901234568]), ["12345678901234567", "12345678901234568"]),
        (np.array([2**64 - 1, 2**64 - 2], np.uint64), ["18446744073709551615", "18446744073709551614"]),
        (np.array([1.0, -2.0, 0.0]), ["1", "-2", "0"]),
        (np.array([1.0, 2.0], np.float16), ["1", "2"]),
        (np.array([3, 1], ">i4"), ["3", "1"]),
        (np.array([b"walk", b"run"]), ["walk", "run"]),
        (np.array(["Käse".encode(), b""]), ["Käse", ""]),
        (np.array(["01", "1", "1E1", "10"]), ["01", "1", "1E1", "10"]),
        (np.array([True, False]), ["True", "False"]),
    ],
)
def test_names_are_the_text_of_each_element_exactly(array, names):
    assert to_names(array, "labels", "here") == names


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([1j]), "labels hold complex128; expected numbers or text"),
        (np.array(["2020-01-01"], "M8[D]"), "labels hold datetime64"),
        (np.array([b"\xff"]), "labels hold characters that do not exist"),
        (np.array([(1, 2)], [("a", int), ("b", int)]), "labels hold "),
    ],
)
def test_names_of_other_types_are_refused(array, message):
    with pytest.raises(DataError, match=message):
        to_names(array, "labels", "here")


def test_labels_that_float_cannot_tell_apart_are_classes_of_their_own(tmp_path):
    labels = np.array([LARGE, LARGE + 1] * 6)
    np.savez(tmp_path / "x.npz", X_train=x(12), y_train=labels, X_test=x(12), y_test=labels)
    data = load_data(str(tmp_path / "x.npz"))
    assert data.classes == (str(LARGE), str(LARGE + 1))
    assert data.test.y.tolist() == [0, 1] * 6


def test_people_whose_numbers_float_merges_stay_apart(save):
    groups = np.array([12345678901234567 + i for i in range(6)])
    assert len(set(save(X=x(6), subject=groups).groups)) == 6


# classes


@pytest.mark.parametrize(
    "labels",
    [
        *(np.array([1, 0, 1], kind) for kind in ("i8", "u1", ">i4", "f4", "f8", "f2", "?")),
        *(np.array(["1", "0", "1"], kind) for kind in ("U", "S")),
        *(np.array(["run", "walk", "run"], kind) for kind in ("U", "S")),
        np.array([[1.0], [0.0], [1.0]]),
    ],
    ids=str,
)
def test_labels_of_any_type_are_names_or_indices_of_the_classes(tmp_path, labels):
    np.savez(tmp_path / "x.npz", X=x(3), y=labels, classes=["walk", "run"])
    series_set = npz.read(tmp_path / "x.npz")["train"]
    assert (series_set.y, series_set.classes) == (["run", "walk", "run"], ("walk", "run"))


def test_class_names_in_bytes_are_text(tmp_path):
    np.savez(tmp_path / "x.npz", X=x(2), y=[0, 1], classes=[b"walk", b"run"], channels=[b"u", b"v"])
    series_set = npz.read(tmp_path / "x.npz")["train"]
    assert (series_set.y, series_set.channels) == (["walk", "run"], ("u", "v"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 2], "label 2 of series 2 is not an index into its 2 classes"),
        ([1, 2], "indices begin at 0, so subtract 1"),
        ([0.5, 1.0], "label 0.5 of series 1 is not an index"),
        (["walk", "fly"], "label fly of series 2 is not the name or an index"),
        ([-1, 0], "label -1 of series 1"),
    ],
)
def test_a_label_that_is_no_class_is_refused_by_number(tmp_path, labels, message):
    np.savez(tmp_path / "x.npz", X=x(2), y=labels, classes=["walk", "run"])
    with pytest.raises(DataError, match=message):
        npz.read(tmp_path / "x.npz")


def test_indices_that_are_names_of_other_classes_are_said(tmp_path):
    np.savez(tmp_path / "x.npz", X=x(2), y=[1, 0], classes=["1", "0"])
    series_set = npz.read(tmp_path / "x.npz")["train"]
    assert series_set.y == ["0", "1"]
    assert "read as indices into classes" in series_set.note


def test_a_set_whose_labels_are_not_among_its_classes_is_refused_from_any_reader():
    with pytest.raises(DataError, match="label '0' is not among the classes walk, run"):
        SeriesSet(x(1), "here", y=["0"], classes=("walk", "run"))


# targets


@pytest.mark.parametrize("labels", [[0.5, 1.0, NAN], [[61.5], [70.0], [72.25]], [[1.5, 2], [3, 4], [5, 6.25]]])
def test_labels_that_are_not_whole_are_targets_and_a_note_says_so(save, labels):
    series_set = save(X=x(3), y=np.array(labels))
    assert series_set.y is None
    np.testing.assert_array_equal(series_set.targets, np.array(labels).reshape(3, -1))
    assert "y holds numbers that are not whole, so they are targets to predict" in series_set.note


def test_named_arrays_are_targets_whatever_their_numbers(save):
    series_set = save(ColumnRoles(targets=("y", "age")), X=x(3), y=np.array([1, 2, 3]), age=np.array([61.0, 70, 72]))
    assert (series_set.y, series_set.target_names) == (None, ("y", "age"))
    np.testing.assert_array_equal(series_set.targets, [[1, 61], [2, 70], [3, 72]])


def test_an_array_of_targets_is_recognised_beside_labels(save):
    series_set = save(X=x(3), y=np.array([0, 1, 0]), targets=np.arange(6).reshape(3, 2))
    assert (series_set.y, series_set.target_names) == (["0", "1", "0"], ("targets_0", "targets_1"))


def test_a_label_column_that_is_not_whole_is_classes_if_the_user_says_so(save):
    assert save(ColumnRoles("y"), X=x(2), y=np.array([0.5, 1.5])).y == ["0.5", "1.5"]


@pytest.mark.parametrize("dtype", ["i8", "?", "f4"])
def test_labels_of_zero_and_one_in_columns_are_a_target_for_each_label(save, dtype):
    labels = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 0]], dtype)
    series_set = save(X=x(3), y=labels)
    np.testing.assert_array_equal(series_set.targets, labels)
    assert (series_set.y, series_set.target_names) == (None, ("y_0", "y_1", "y_2"))
    assert "y holds 0 or 1 for each of 3 labels" in series_set.note


def test_several_labels_are_called_as_the_classes(tmp_path):
    np.savez(tmp_path / "x.npz", X=x(2), y=[[1, 0], [1, 1]], classes=["cough", "fever"])
    series_set = npz.read(tmp_path / "x.npz")["train"]
    assert (series_set.target_names, series_set.classes) == (("cough", "fever"), ())


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"targets": np.array([1.0, 2.0])}, "2 targets for 3 series"),
        ({"targets": np.ones((3, 2, 2))}, r"expected targets, \(series,\) or"),
        ({"targets": np.array([1.0, np.inf, 2.0])}, "targets of series 2 is infinite"),
        ({"y": np.full((3, 4), 2)}, "one per series; --target-columns y makes them targets"),
    ],
)
def test_targets_that_do_not_fit_are_refused(save, arrays, message):
    with pytest.raises(DataError, match=message):
        save(X=x(3), **arrays)


def test_whole_numbers_that_hardly_repeat_are_questioned(save):
    series_set = save(X=x(30), y=np.arange(30))
    assert "y holds 30 different numbers, read as classes; --target-columns y" in series_set.note
    assert save(X=x(30), y=np.arange(30) % 5).note.count("different numbers") == 0


# ids, groups, what is left out


def test_ids_and_groups_are_read_by_their_usual_names_and_by_those_given(save):
    series_set = save(X=x(3), ids=np.array([7, 8, 9]), groups=np.array([1, 1, 2]))
    assert (series_set.ids, series_set.groups) == (["7", "8", "9"], ["1", "1", "2"])
    assert "ids from ids" in series_set.note
    series_set = save(ColumnRoles(id="stay", group="ward"), X=x(3), stay=np.array([5, 5, 6]), ward=np.array([3, 3, 4]))
    assert (series_set.ids, series_set.groups) == (["5", "5", "6"], ["3", "3", "4"])
    assert "groups from ward, ids from stay; 1 of 3 ids occur more than once" in series_set.note


@pytest.mark.parametrize("name", ["patient", "patient_ids", "users", "device_id"])
def test_common_names_of_people_and_devices_are_groups_and_a_note_says_so(save, name):
    series_set = save(X=x(3), **{name: np.array([4, 4, 5])})
    assert series_set.groups == ["4", "4", "5"]
    assert f"groups from {name}" in series_set.note


def test_arrays_that_are_not_used_are_named(save):
    series_set = save(X=x(2), y=np.array([0, 1]), start=np.array([3, 4]), rate=np.array(50.0))
    assert series_set.note.endswith("not used: start")


def test_a_split_does_not_name_the_arrays_of_another(tmp_path):
    np.savez(tmp_path / "x.npz", X_train=x(4), start_train=[1] * 4, X_test=x(2), start_test=[1] * 2)
    splits = npz.read(tmp_path / "x.npz")
    assert [splits[split].note.rpartition(": ")[2] for split in ("train", "test")] == ["start", "start"]


def test_an_array_that_is_dropped_is_not_read(save):
    series_set = save(ColumnRoles(drop=("y",)), X=x(2), y=np.array([0, 1]))
    assert series_set.y is None


@pytest.mark.parametrize("role", ["label", "group", "id"])
def test_a_role_of_an_array_that_is_not_there_is_refused_with_the_nearest_name(save, role):
    with pytest.raises(DataError, match=r"moods: no array called 'moods'; it holds: .*Did you mean 'mood'"):
        save(ColumnRoles(**{role: "moods"}), X=x(2), mood=np.array([0, 1]))


# axes and channels


@pytest.mark.parametrize(
    ("shape", "read", "message"),
    [
        ((4, 3, 20), (4, 3, 20), "X [N, 3, 20] read as (series, channels, samples)"),
        ((4, 20, 3), (4, 3, 20), "X [N, 20, 3] read as (series, samples, channels); if not so, give"),
        ((4, 8, 8), (4, 8, 8), "X [N, 8, 8] read as (series, channels, samples); if not so, give"),
    ],
)
def test_the_shorter_axis_is_the_channels_in_every_format_and_a_note_says_so(save, shape, read, message):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    series_set = save(X=values)
    expected = values if shape == read else values.swapaxes(1, 2)
    np.testing.assert_array_equal(series_set.x, expected)
    assert message in series_set.note


@pytest.mark.parametrize("sizes", [(64, 32), (9, 8), (20, 6)])
def test_axes_that_could_be_either_are_refused_and_an_option_tells(tmp_path, sizes):
    values = np.random.default_rng(0).normal(size=(4, *sizes)).astype(np.float32)
    np.savez(tmp_path / "x.npz", X=values)
    np.save(tmp_path / "X.npy", values)
    torch.save({"samples": torch.from_numpy(values)}, tmp_path / "x.pt")
    for path, reader in ((tmp_path / "x.npz", npz), (tmp_path / "X.npy", npy), (tmp_path / "x.pt", pt)):
        with pytest.raises(DataError, match=rf"{sizes[0]} channels of {sizes[1]} samples, or .* --reader.axes"):
            reader.read(path)
        np.testing.assert_array_equal(reader.read(path, axes="channels-first")["train"].x, values)
        np.testing.assert_array_equal(reader.read(path, axes="channels-last")["train"].x, values.swapaxes(1, 2))


@pytest.mark.parametrize(("shape", "message"), [((4, 9), "has no meaning here"), ((4, 9, 2), "9 names of channels")])
def test_axes_that_cannot_take_effect_are_refused(tmp_path, shape, message):
    np.savez(tmp_path / "x.npz", X=np.ones(shape), channels=[str(i) for i in range(9)])
    with pytest.raises(DataError, match=f"--reader.axes channels-last.*{message}"):
        npz.read(tmp_path / "x.npz", axes="channels-last")


@pytest.mark.parametrize("shape", [(4, 2, 9), (4, 9, 2)])
def test_names_of_channels_settle_the_order_of_the_axes(tmp_path, shape):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.savez(tmp_path / "x.npz", X=values, channels=[f"lead {i}" for i in range(9)])
    series_set = npz.read(tmp_path / "x.npz")["train"]
    np.testing.assert_array_equal(series_set.x, values if shape[1] == 9 else values.swapaxes(1, 2))
    assert ("as there are 9 names of channels" in series_set.note) == (shape[2] == 9)


def test_a_converted_set_with_more_channels_than_samples_is_read_as_it_was(tmp_path):
    values = x(6, channels=9, samples=4).astype(np.float32)
    names = [f"lead {i}" for i in range(9)]
    np.savez(tmp_path / "x.npz", X_train=values, X_test=values, channels=names)
    np.savez(tmp_path / "wide.npz", X_train=values.swapaxes(1, 2), X_test=values.swapaxes(1, 2))
    for name in ("x", "wide"):
        convert(str(tmp_path / f"{name}.npz"), str(tmp_path / f"{name}-again.npz"))
        again = npz.read(tmp_path / f"{name}-again.npz")["train"]
        np.testing.assert_array_equal(again.x, npz.read(tmp_path / f"{name}.npz")["train"].x)


def test_a_conversion_keeps_ids_targets_groups_and_classes(tmp_path):
    arrays = {"X": x(4), "ids": ["p", "q", "r", "s"], "targets": [[1, 2.5]] * 4, "y": [0, 1, 0, 1]}
    np.savez(tmp_path / "x.npz", **arrays, groups=[1, 1, 2, 2], classes=["a", "b"], target_names=["u", "v"])
    convert(str(tmp_path / "x.npz"), str(tmp_path / "again.npz"))
    first, again = (npz.read(tmp_path / f"{name}.npz")["train"] for name in ("x", "again"))
    for name in ("ids", "y", "groups", "classes", "target_names"):
        assert getattr(first, name) == getattr(again, name)
    np.testing.assert_array_equal(first.targets, again.targets)


@pytest.mark.parametrize(
    ("roles", "chosen"),
    [
        (ColumnRoles(channels=("3", "1")), [3, 1]),
        (ColumnRoles(channels=("0", "2")), [0, 2]),
        (ColumnRoles(drop=("1",)), [0, 2, 3]),
        (ColumnRoles(channels=("1", "2"), drop=("1",)), [2]),
    ],
)
def test_channels_are_chosen_by_name_in_the_order_given(save, roles, chosen):
    values = x(3, channels=4, samples=6).astype(np.float32)
    series_set = save(roles, X=values)
    np.testing.assert_array_equal(series_set.x, values[:, chosen])
    assert series_set.channels == tuple(map(str, chosen))
    assert f"{len(chosen)} of 4 channels" in series_set.note


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (ColumnRoles(channels=("v2",)), "--channel-columns v2: no channel of this name; the channels are v1, w"),
        (ColumnRoles(drop=("v2",)), "--drop-columns v2: no channel or array of this name.*Did you mean 'v1'"),
        (ColumnRoles(drop=("v1", "w")), "no channel is left"),
        (ColumnRoles(time="t"), "--time-column t has no meaning for arrays"),
    ],
)
def test_a_choice_of_channels_that_cannot_be_made_is_refused(tmp_path, roles, message):
    np.savez(tmp_path / "x.npz", X=x(3), channels=["v1", "w"])
    with pytest.raises(DataError, match=message):
        npz.read(tmp_path / "x.npz", roles)


def test_channels_of_a_mapped_array_are_chosen_where_they_lie(tmp_path, monkeypatch):
    from tstk.data import lazy_array

    values = x(3, channels=4, samples=6).astype(np.float32)
    np.save(tmp_path / "X.npy", values)
    monkeypatch.setattr(lazy_array, "MAX_IN_MEMORY_BYTES", 0)
    chosen = npy.read(tmp_path / "X.npy", ColumnRoles(channels=("1", "3")))["train"].x
    assert isinstance(chosen, lazy_array.LazyArray)
    np.testing.assert_array_equal(chosen[:], values[:, [1, 3]])
    with pytest.raises(DataError, match="channels at equal distances"):
        npy.read(tmp_path / "X.npy", ColumnRoles(channels=("3", "0")))


# layouts and types of the samples


@pytest.mark.parametrize("dtype", ["f2", ">f4", ">f8", "?", "i1", ">i8", "u4", "g"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_samples_of_any_type_and_order_are_the_same_numbers(tmp_path, dtype, order):
    values = np.array(np.random.default_rng(0).integers(0, 2, (3, 2, 8)), dtype, order=order)
    np.savez(tmp_path / "x.npz", X=values)
    np.testing.assert_array_equal(npz.read(tmp_path / "x.npz")["train"].x, values.astype(np.float32))


@pytest.mark.parametrize("dtype", ["c8", "U3", "M8[s]", "S2"])
def test_samples_that_are_not_numbers_are_refused(tmp_path, dtype):
    np.savez(tmp_path / "x.npz", X=np.zeros((3, 2, 8), dtype))
    with pytest.raises(DataError, match=r"X holds .*; expected numbers"):
        npz.read(tmp_path / "x.npz")


@pytest.mark.parametrize(("largest", "is_rounded"), [(LARGE, False), (LARGE + 1, True), (-LARGE - 1, True)])
def test_whole_samples_that_float_rounds_are_said(save, largest, is_rounded):
    values = np.arange(12).reshape(2, 1, 6)
    values[1, 0, 3] = largest
    assert ("X holds whole numbers beyond 2**53, which are rounded" in save(X=values).note) == is_rounded


def test_half_precision_tensors_are_read(tmp_path):
    values = torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    torch.save({"samples": values}, tmp_path / "x.pt")
    np.testing.assert_array_equal(pt.read(tmp_path / "x.pt")["train"].x, values.float())


def test_masked_samples_of_a_reader_are_missing_and_reversed_ones_are_read(tmp_path):
    values = np.ma.masked_greater(np.arange(12, dtype=np.int64).reshape(2, 1, 6), 9)
    np.testing.assert_array_equal(SeriesSet(values, "here").x, values.astype(float).filled(NAN))


def test_options_reach_the_arrays_from_the_configuration(tmp_path):
    values = x(12, channels=3).astype(np.float32)
    np.savez(tmp_path / "x.npz", X_train=values, X_test=values, kind_train=[0, 1] * 6, kind_test=[0, 1] * 6)
    data = load_data(str(tmp_path / "x.npz"), DataConfig(label_column="kind", channel_columns=("2", "0")))
    assert (data.channels, data.classes) == (("2", "0"), ("0", "1"))
