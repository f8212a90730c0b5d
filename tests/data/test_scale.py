"""Values far from all others, and data far from those of a training, are said in a line; nothing is changed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.shell import call
from tstk.config.records import RunConfig
from tstk.data import DataConfig, load_data, scale
from tstk.data.scale import (
    compare_scales,
    describe_far_values,
    describe_other_data,
    describe_other_scale,
    describe_repeated_extremes,
)
from tstk.errors import DataChangedWarning
from tstk.evaluation.probe import probe
from tstk.inference.predict import embed, forecast, predict, score


def notes(path, **options):
    return [note for note in load_data(str(path), DataConfig(**options)).notes if "decide mean" in note]


@pytest.fixture
def x():
    return torch.from_numpy(np.random.default_rng(0).normal(size=(30, 2, 50)).astype(np.float32))


@pytest.mark.parametrize("value", [1e25, -1e25, -3e6])
def test_a_value_far_from_all_others_is_named_with_series_and_channel(tmp_path, x, value):
    x[7, 1, 20] = value
    save(tmp_path / "a.npz", x.numpy())
    (note,) = notes(tmp_path / "a.npz", val_fraction=0)
    assert note.startswith(f"channel v: series 8 holds {value:.6g}, while half of all values lie between -0.7")


@pytest.mark.parametrize("value", [-999.0, 9999.0])
@pytest.mark.parametrize("level", [0.0, 300.0])
def test_a_value_that_may_stand_for_missing_samples_is_noted_with_its_number(x, value, level):
    x += level
    x[::3, 1, 40:] = value
    (note,) = describe_repeated_extremes(x - level, ["u", "v"], np.array([level, level]))
    assert note.startswith(f"channel v: {value:g} occurs 100 times, and all other values lie between ")
    assert note.endswith(f"write NaN, or have it read so: --reader csv --reader.missing {value:g}")


def test_values_that_do_not_stand_for_missing_samples_are_not_noted(x):
    states, rests, spikes, even = x.round(), x.clone(), x.clone(), x.clip(-1, 1)
    states[3:6] = 20.0  # few levels
    rests[:, :, 10:] = -50.0  # more than half of all samples
    spikes[0, 0, :2] = 9999.0  # two alone
    for data in (x, states, rests, spikes, even):
        assert describe_repeated_extremes(data, ["u", "v"], None) == []


def test_ordinary_data_are_not_noted(x):
    assert describe_far_values(x, ["u", "v"], None) == []
    x[3, 0, 5] = 9999.0  # an outlier, which training may meet
    assert describe_far_values(x, ["u", "v"], None) == []


def test_rare_events_of_a_channel_at_rest_are_not_noted(x):
    x[:, 0] = 0.0
    x[::3, 0, 10:12] = 1e7 * (1 + torch.rand(10, 2))
    assert describe_far_values(x, ["u", "v"], None) == []
    x[4, 0, 4] = 1e20
    assert "series 5 holds 1e+20" in describe_far_values(x, ["u", "v"], None)[0]


def test_constant_and_missing_channels_are_not_noted(x):
    x[:, 0], x[:, 1] = 3.0, torch.nan
    assert describe_far_values(x, ["u", "v"], None) == []


def test_several_far_values_are_counted_and_an_offset_is_added(x):
    x[2, 0, 1], x[9, 0, 3], x[9, 0, 4] = 1e9, 3e9, 2e9
    (note,) = describe_far_values(x, ["u", "v"], np.array([1e12, 0.0]))
    assert "channel u: series 10 holds 1.003e+12 (and 2 more values are as far off)" in note
    assert "between 1e+12 and 1e+12" in note


def test_a_row_of_a_table_is_named(table):
    path, _ = table(400)
    lines = Path(path).read_text().splitlines()
    lines[57] = lines[57].rsplit(",", 1)[0] + ",1e25"
    Path(path).write_text("\n".join(lines))
    (note,) = notes(path, context=24, horizon=8)
    assert note.startswith("channel v: row 57 holds 1e+25")
    Path(path).write_text("\n".join([*lines[:20], *lines[24:]]))  # whose times are missing then
    (note,) = notes(path, context=24, horizon=8, regularize=True)
    assert note.startswith("channel v: row 53 holds 1e+25")


@pytest.mark.parametrize("has_times", [True, False])
def test_a_row_of_a_panel_is_named_by_its_series(tmp_path, has_times):
    rows = [
        f"{name},2024-01-{1 + t:02},{t % 7 if (name, t) != ('b', 12) else 1e12}" for name in "abc" for t in range(30)
    ]
    rows = rows if has_times else [row.replace(row.split(",")[1] + ",", "") for row in rows]
    header = "id,time,u" if has_times else "id,u"
    (tmp_path / "panel.csv").write_text("\n".join([header, *rows]))
    (note,) = notes(tmp_path / "panel.csv", context=4, horizon=2)
    assert note.startswith(f"channel u: series b, {'time 2024-01-13' if has_times else 'row 13'} holds 1e+12")


def test_series_in_their_file_are_searched_chunk_by_chunk(tmp_path, x, monkeypatch):
    monkeypatch.setattr("tstk.data.lazy_array.MAX_IN_MEMORY_BYTES", 0)
    monkeypatch.setattr("tstk.data.lazy_array.CHUNK_SAMPLES", 300)
    monkeypatch.setattr(scale, "_SAMPLE_SIZE", 700)
    x[25, 0, 49] = 1e12
    np.save(tmp_path / "X.npy", x.numpy())
    (note,) = notes(tmp_path / "X.npy")
    assert "channel 0: series 26 holds 1e+12" in note


def test_means_and_deviations_are_compared_per_channel(x):
    mean, std = x.mean((0, 2)), x.std((0, 2), correction=0)
    assert describe_other_scale(x[:5] * 2 + 1, ["u", "v"], mean, std) == ""
    changed = x.clone()
    changed[:, 1] *= 9.8
    text = describe_other_scale(changed, ["u", "v"], mean, std)
    assert text.startswith("channel v has mean ")
    assert "standard deviation 9.85" in text
    assert text.endswith("in training")
    text = describe_other_scale(x + 100, ["u", "v"], mean, std, np.array([1000.0, 0.0]))
    assert text.startswith("channel u (and 1 more channels) has mean 1100 and")
    changed[:, 1] = torch.nan
    assert describe_other_scale(changed, ["u", "v"], mean, std) == ""


def test_few_series_may_be_at_rest(x):
    mean, std = x.mean((0, 2)), x.std((0, 2), correction=0)
    assert describe_other_scale(x[:1] * 0.004, ["u", "v"], mean, std) == ""
    assert "standard deviation 0.000" in describe_other_scale(x[:1] * 0.0005, ["u", "v"], mean, std)
    assert "standard deviation 0.00" in describe_other_scale(x.repeat(10, 1, 1) * 0.004, ["u", "v"], mean, std)
    assert describe_other_scale(x[:1] * 20, ["u", "v"], mean, std)


@pytest.mark.slow
def test_no_single_series_of_an_embedded_or_known_set_is_far(archive):
    for data in (load_data("har-demo"), load_data("NATOPS", DataConfig(data_root=str(archive)))):
        for i in range(len(data.test)):
            series = data.test.select(torch.tensor([i])).x
            assert describe_other_scale(series, data.channels, data.mean, data.std, data.offset) == ""


def test_channels_that_are_constant_on_one_side_are_compared_by_their_level():
    here, there = (torch.tensor([5.0]), torch.tensor([1.0])), (torch.tensor([5.0]), torch.tensor([40.0]))
    assert compare_scales(["u"], here, there) == ""
    assert compare_scales(["u"], (torch.tensor([500.0]), torch.tensor([1.0])), there)


WORDS = [
    *("train", "--tokenizer", "patch", "--tokenizer.dim", "8", "--tokenizer.window", "4", "--encoder", "transformer"),
    *("--encoder.dim", "8", "--encoder.depth", "1", "--encoder.heads", "2", "--steps", "1", "--device", "cpu"),
    "--quiet",
]


def save(path, x, factor=1.0, channels=("u", "v")):
    y = np.arange(len(x)) % 2
    np.savez(path, X_train=x * factor, y_train=y, X_test=x * factor, y_test=y, channels=list(channels))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a folder with a trained classifier `run` and a set of another scale, `other.npz`."""
    folder = tmp_path_factory.mktemp("scale")
    x = np.random.default_rng(0).normal(size=(20, 2, 16)).astype(np.float32)
    call(*WORDS, "--head", "linear", "--data", save(folder / "d.npz", x), "--out", folder / "run")
    save(folder / "other.npz", x, 1000.0)
    save(folder / "named.npz", x, 1000.0, ("w", "v"))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("use", [score, predict, embed])
def test_data_of_another_scale_are_noted_by_every_function(trained, use, recwarn):
    use(trained / "run", str(trained / "d.npz"))
    use(trained / "run")
    assert not recwarn
    match = r"other.npz: channel u \(and 1 more channels\) has mean .* standard deviation [\d.]+, and .*run; if"
    with pytest.warns(DataChangedWarning, match=match):
        use(trained / "run", str(trained / "other.npz"))


def test_a_command_notes_another_scale_once(trained, tmp_path):
    result = call("predict", trained / "run", "--data", trained / "other.npz", "--out", tmp_path / "p.csv")
    assert result.stderr.count("if the units differ, convert the data") == 1


def test_a_table_of_another_scale_is_noted(tmp_path, csv):
    words = ["--head", "forecast", "--data", csv, "--context", "16", "--horizon", "4"]
    call(*WORDS, *words, "--out", tmp_path / "run")
    rows = Path(csv).read_text().splitlines()
    cells = [row.split(",") for row in rows[1:]]
    shifted = [",".join([date, *(str(float(value) + 500) for value in values)]) for date, *values in cells]
    (tmp_path / "other.csv").write_text("\n".join([rows[0], *shifted]))
    with pytest.warns(DataChangedWarning, match=r"other.csv: channel u \(and 1 more channels\) has mean"):
        forecast(tmp_path / "run", str(tmp_path / "other.csv"))


@pytest.mark.slow
def test_starting_from_a_run_of_other_channels_or_scale_is_noted(trained, tmp_path):
    words = [*(word for word in WORDS if word != "--quiet"), "--head", "linear", "--init-from", trained / "run"]

    def train(name):
        return call(*words, "--data", trained / name, "--out", tmp_path / name).stderr

    assert "trained on other data" not in train("d.npz")
    other, named = train("other.npz"), train("named.npz")
    assert "was trained on other data than other: channel u (and 1 more channels) has mean" in " ".join(other.split())
    assert "was trained on other data than named: channels u, v, and here are w, v" in " ".join(named.split())
    assert "each is standardized by its own" in " ".join(other.split())
    assert RunConfig.read(tmp_path / "named.npz").init_from


@pytest.mark.slow
def test_a_probe_on_data_of_other_channels_or_scale_is_noted(trained):
    def find_notes(data):
        notes = []
        probe(trained / "run", str(trained / data), param=1.0, print_fn=notes.append)
        return [note for note in notes if "trained on other data" in note]

    assert find_notes("d.npz") == []
    assert "channel u (and 1 more channels) has mean" in find_notes("other.npz")[0]
    assert "both are standardized by those of the run; if the units differ, convert" in find_notes("other.npz")[0]
    assert find_notes("named.npz")[0].endswith("than named: channels u, v, and here are w, v")


def test_starting_from_a_run_of_another_sampling_step_is_noted(trained, tmp_path):
    data, run_config = load_data(str(trained / "d.npz")), RunConfig.read(trained / "run")
    data.step = (1e6, "us")
    assert describe_other_data(run_config, data, "standard", "") == ""  # that of the run is unknown
    run_config.input_schema["step"] = [2e6, "us"]
    note = describe_other_data(run_config, data, "standard", "")
    assert note == "samples are 1 s apart, and 2 s in training"
