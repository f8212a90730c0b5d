"""Several data sets at once, series of one length, and conditioning."""

import numpy as np
import pytest
import torch

from tstk.data import DataConfig, load_data, load_split
from tstk.data.load import read_splits
from tstk.errors import DataError, OptionError


@pytest.fixture
def sets(tmp_path):
    """Two sets: 20 series of 2 channels and 10 samples, and 8 of 3 channels and 7 samples with a hole."""
    rng = np.random.default_rng(0)
    paths = []
    for name, count, channels, length in (("big", 20, 2, 10), ("little", 8, 3, 7)):
        x = rng.normal(3, 2, size=(count, channels, length)).astype(np.float32)
        y = np.arange(count) % 2
        if name == "little":
            x[0, 1, 2:4] = np.nan
            x[1, :, 5:] = np.nan
        path = tmp_path / f"{name}.npz"
        np.savez(path, X_train=x, y_train=y, X_test=x[::2], y_test=y[::2])
        paths.append(str(path))
    return paths


def test_every_channel_of_every_set_is_a_series_and_sets_count_alike(sets):
    data = load_data(",".join(sets), DataConfig(resize=12))
    counts = [2 * 16, 3 * 6]
    assert data.spec.channels == 1
    assert data.spec.length == 12
    assert data.task is None
    assert len(data.train) == 2 * max(counts)
    series = data.train.batch(torch.arange(len(data.train)))
    assert series.x.shape == (64, 1, 12)
    assert series.sample_id.tolist() == list(range(64))
    assert series.y is None
    first, second = series.x[:32], series.x[32:]
    assert len(first.flatten(1).unique(dim=0)) == 32
    assert len(second.flatten(1).unique(dim=0)) == counts[1]
    assert any("each set counts as 32" in note for note in data.notes)


def test_each_set_is_scaled_by_its_own_training_split(sets):
    data, alone = load_data(",".join(sets)), load_data(sets[0])
    own = (alone.test.batch(torch.arange(10)).x - alone.mean[:, None]) / alone.std[:, None]
    torch.testing.assert_close(data.test.batch(torch.arange(20)).x[..., :10], own.flatten(0, 1)[:, None])
    assert data.mean.tolist() == [0]
    assert data.std.tolist() == [1]


def test_one_set_can_be_taken_apart_too(sets):
    data = load_data(sets[0], DataConfig(split_channels=True))
    assert len(data.train) == 2 * 16
    assert data.input_schema()["split_channels"]


def test_a_task_is_refused_where_each_channel_is_a_series_without_labels(sets):
    with pytest.raises(OptionError, match="--task classification has no meaning with --split-channels"):
        load_data(sets[0], DataConfig(split_channels=True, task="classification"))


def test_sets_are_not_joined_with_tables_or_themselves_or_more(sets, tmp_path):
    with pytest.raises(DataError, match="given twice"):
        load_data(f"{sets[0]},{sets[0]}")
    with pytest.raises(OptionError, match="--horizon 3 has no meaning"):
        load_data(",".join(sets), DataConfig(horizon=3))


def test_a_resized_series_is_read_between_its_own_samples(sets):
    raw = read_splits(sets[1])["train"]
    stretched = raw.resize(13)
    assert stretched.x.shape == (8, 3, 13)
    assert np.isfinite(stretched.x).all()
    np.testing.assert_allclose(stretched.x[2, 0, ::2], raw.x[2, 0], rtol=1e-5)
    np.testing.assert_allclose(stretched.x[0, 1, 4], raw.x[0, 1, 1] + (raw.x[0, 1, 4] - raw.x[0, 1, 1]) / 3, rtol=1e-4)
    np.testing.assert_allclose(stretched.x[1, 0, [0, 12]], raw.x[1, 0, [0, 4]])


def test_new_data_are_resized_as_those_of_training(sets):
    part = load_split(sets[1], input_schema=load_data(sets[1], DataConfig(resize=20)).input_schema())
    assert part.batch(torch.arange(2)).x.shape == (2, 3, 20)
    part = load_split(sets[1], input_schema=load_data(",".join(sets), DataConfig(resize=20)).input_schema())
    assert part.batch(torch.arange(2)).x.shape == (2, 3, 20)


def save_conditioning(path, **arrays):
    np.savez(path, **arrays)
    return (f"text={path}",)


def test_conditioning_follow_their_samples_through_splits(sets, tmp_path):
    states = np.random.default_rng(0).normal(size=(20, 2, 5)).astype(np.float32)
    valid = np.ones((20, 2), bool)
    valid[3, 1] = False
    given = save_conditioning(tmp_path / "e.npz", train=states, valid_train=valid, test=states[::2])
    data = load_data(sets[0], DataConfig(conditioning=given))
    assert data.spec.conditioning == {"text": 5}
    raw = load_data(sets[0], DataConfig(standardize="none")).train.batch(torch.arange(16)).x
    whole = torch.from_numpy(read_splits(sets[0])["train"].x)
    values, ok = data.train.batch(torch.arange(16)).conditioning["text"]
    for row, value, there in zip(raw, values, ok, strict=True):
        at = int((whole == row).all((1, 2)).nonzero()[0, 0])
        assert torch.equal(value, torch.from_numpy(states[at]))
        assert torch.equal(there, torch.from_numpy(valid[at]))


def test_equal_conditioning_is_stored_once_and_one_that_leaks_the_labels_is_noted(sets, tmp_path):
    states = np.eye(4, dtype=np.float32)
    y = np.arange(20) % 2
    telling = load_data(
        sets[0], DataConfig(conditioning=save_conditioning(tmp_path / "a.npz", states=states, train=y, test=y[::2]))
    )
    assert telling.train.conditioning["text"].states.shape == (4, 1, 4)
    assert any("leaks the labels" in note for note in telling.notes)
    fair = np.arange(20) // 2 % 4
    quiet = load_data(
        sets[0],
        DataConfig(conditioning=save_conditioning(tmp_path / "b.npz", states=states, train=fair, test=fair[::2])),
    )
    assert not any("leaks the labels" in note for note in quiet.notes)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"train": np.zeros((19, 2, 5), np.float32)}, "is for 19 series, and the split has 20"),
        ({"other": np.zeros(3)}, "no array called 'train'"),
        ({"train": np.full((20, 5), np.nan, np.float32), "test": np.zeros((10, 5), np.float32)}, "expected finite"),
        ({"train": np.arange(20), "test": np.arange(10)}, "'states', which is missing"),
        (
            {"states": np.zeros((3, 5), np.float32), "train": np.arange(20), "test": np.arange(10)},
            "indices from 0 to 19",
        ),
    ],
)
def test_conditioning_that_do_not_fit_are_refused(sets, tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        load_data(sets[0], DataConfig(conditioning=save_conditioning(tmp_path / "e.npz", **arrays)))


def test_conditioning_without_a_name_is_refused(sets):
    with pytest.raises(OptionError, match=r"expected NAME=FILE\.npz"):
        load_data(sets[0], DataConfig(conditioning=("notes.npz",)))


def test_sets_that_stay_in_their_files_and_records_can_be_joined(labelled, table, tmp_path, monkeypatch):
    from tstk.data import lazy_array

    use = f"{labelled()},{table(200)[0]}"
    near = load_data(use, DataConfig(length=8))
    monkeypatch.setattr(lazy_array, "MAX_IN_MEMORY_BYTES", 0)
    far = load_data(use, DataConfig(length=8))
    assert len(near.train) == len(far.train) > 0
    index = torch.arange(len(near.train))
    assert near.train.batch(index).x.equal(far.train.batch(index).x)
    assert load_data(labelled(), DataConfig(resize=5)).train.x.shape[2] == 5
