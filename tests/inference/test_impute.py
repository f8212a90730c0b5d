"""`tstk impute`: files keep their layout, observed cells their text, and what cannot be filled is said."""

import csv as csvfile
import json

import numpy as np
import pytest

from tests.support.hours import make_table, write_table
from tests.support.shell import call, refuse
from tstk.inference.impute import impute, score_run
from tstk.inference.predict import load_run
from tstk.inference.recordings import load_recordings

pytestmark = pytest.mark.slow
GAPS = {(r, c) for r in range(100, 130) for c in (0, 1)} | {(7, 0), (200, 1), (639, 0), (639, 1)}


def read(path):
    with open(path, newline="") as file:
        return list(csvfile.reader(file))


@pytest.fixture(scope="module")
def gaps(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("gaps") / "gaps.csv", make_table(), GAPS)


@pytest.mark.parametrize("kind", ["masked", "windows", "vqvae", "codes"])
def test_only_empty_cells_of_a_table_change(trained, gaps, tmp_path, kind):
    call("impute", trained(kind), "--data", gaps, "--out", tmp_path / "filled.csv")
    before, after = read(gaps), read(tmp_path / "filled.csv")
    assert len(before) == len(after)
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        for k, (a, b) in enumerate(zip(old, new, strict=True)):
            if (i - 1, k - 1) in GAPS:
                assert a == ""
                assert np.isfinite(float(b))
            else:
                assert a == b


def test_fills_are_in_the_units_of_the_column(trained, gaps):
    values = impute(trained("vqvae"), str(gaps)).values[0]
    assert 150 < values[0, 100:130].mean() < 450
    assert -6 < values[1, 100:130].mean() < 2


def test_the_table_of_the_run_is_the_default(trained, table):
    imputation = impute(trained("masked"))
    assert imputation.values.shape == (1, 2, 640)
    assert not imputation.filled.any()
    np.testing.assert_array_equal(imputation.values, imputation.recordings.values)


def test_an_archive_keeps_its_other_arrays_and_its_dtype(trained, tmp_path):
    x = make_table(96)[:96].T.reshape(2, 2, 48).transpose(1, 0, 2)
    x[0, 1, 5:20] = np.nan
    x[1, :, 40:] = np.nan  # the end of a shorter series
    np.savez(tmp_path / "in.npz", X=x, notes=np.array(["a", "b"]))
    call("impute", trained("masked"), "--data", tmp_path / "in.npz", "--out", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as out:
        assert sorted(out.files) == ["X", "notes"]
        assert out["notes"].tolist() == ["a", "b"]
        assert out["X"].dtype == x.dtype
        known = ~np.isnan(x)
        np.testing.assert_array_equal(out["X"][known], x[known])
        assert np.isfinite(out["X"][0, 1, 5:20]).all()
        assert np.isnan(out["X"][1, :, 40:]).all()


def test_a_parquet_table_keeps_its_columns(trained, gaps, tmp_path):
    from pyarrow import csv
    from pyarrow import parquet as pq

    frame = csv.read_csv(gaps)
    pq.write_table(frame, tmp_path / "gaps.parquet")
    frame = pq.read_table(tmp_path / "gaps.parquet")
    call("impute", trained("masked"), "--data", tmp_path / "gaps.parquet", "--out", tmp_path / "filled.parquet")
    filled = pq.read_table(tmp_path / "filled.parquet")
    assert filled.schema.names == frame.schema.names
    assert filled.column("date").equals(frame.column("date"))
    old, new = (t.column("load").to_pylist() for t in (frame, filled))
    assert [i for i, value in enumerate(old) if value is None] == sorted(r for r, c in GAPS if c == 0)
    assert all(a == b for a, b in zip(old, new, strict=True) if a is not None)
    assert None not in new


def test_a_series_that_a_window_never_observed_stays_missing_and_is_counted(trained, tmp_path):
    x = make_table()
    x[150:300, 1] = np.nan
    path = write_table(tmp_path / "outage.csv", x)
    result = call("impute", trained("masked"), "--data", path, "--out", tmp_path / "filled.csv")
    rows = read(tmp_path / "filled.csv")[1:]
    missing = [i for i, row in enumerate(rows) if row[2] == ""]
    assert missing
    assert set(missing) <= set(range(150, 300))
    assert f"{len(missing)} samples stay missing: no window of the run observes their channel" in result.stderr


@pytest.mark.parametrize("stride", [1, 7, 48])
def test_the_batch_size_changes_nothing_whatever_the_stride(trained, gaps, stride):
    one, many = (impute(trained("masked"), str(gaps), stride=stride, batch_size=n).values for n in (3, 256))
    np.testing.assert_allclose(one, many, rtol=1e-4)


def test_scores_are_of_hidden_samples_beside_simple_methods_and_repeat(trained):
    run = trained("masked")
    first, second = (json.loads(call("impute", run, "--score", "--json").stdout) for _ in range(2))
    assert first == second
    rows = first["scores"]
    assert {row["method"] for row in rows} == {"model", "mean", "last value", "linear interpolation"}
    assert {(row["pattern"], row["ratio"]) for row in rows} == {
        (pattern, ratio) for pattern in ("random", "block") for ratio in (0.1, 0.25, 0.5)
    }
    assert all(0 < row["mae"] <= row["rmse"] < 5 for row in rows)
    assert score_run(run, seed=1)["scores"] != rows
    text = call("impute", run, "--score").stdout
    assert "linear interpolation" in text
    assert "blocks of 6" in text


def test_the_score_of_a_model_is_that_of_its_imputation_of_the_hidden_samples(trained, table, monkeypatch):
    """An oracle that knows the hidden samples has no error, one that is off by a standard deviation has one of 1."""

    pipeline, run_config = load_run(trained("masked"))
    whole = load_recordings(pipeline, run_config, split="test").x.double().numpy()
    std = pipeline.std.double().numpy()
    for shift in (0.0, 1.0):
        monkeypatch.setattr("tstk.inference.impute.impute_samples", lambda *_, shift=shift, **__: whole + shift * std)
        rows = score_run(trained("masked"))["scores"]
        assert all(row["mae"] == pytest.approx(shift, abs=1e-5) for row in rows if row["method"] == "model")


def test_a_figure_shows_what_was_filled(trained, gaps, table, tmp_path):
    words = ["impute", trained("masked"), "--data", gaps, "--plot", tmp_path / "plot.png"]
    call(*words, "--out", tmp_path / "filled.csv")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    words = ["impute", trained("masked"), "--data", table, "--plot", tmp_path / "none.png", "--out", tmp_path / "a.csv"]
    assert "none.png was not written: nothing was filled" in call(*words).stderr
    assert not (tmp_path / "none.png").exists()
    message = refuse("impute", trained("masked"), "--score", "--plot", tmp_path / "b.png")
    assert "--plot" in message
    assert "has no effect with --score" in message


def test_a_text_table_of_any_layout_keeps_it(trained, gaps, tmp_path):
    """Also lines above the header, comments, an encoding, separators, ends of lines, quotes and other columns."""
    header, *rows = read(gaps)
    lines = ["Kläranlage", ";".join([*header, "wärter"])]
    for number, (date, load, temp) in enumerate(rows):
        lines.append(f'{date};{load.replace(".", ",")};{temp.replace(".", ",")};"{number}"')
    lines.insert(300, "# changed")
    (tmp_path / "in.csv").write_bytes("\r\n".join([*lines, ""]).encode("latin-1"))
    words = ["--reader", "csv", "--reader.encoding", "latin-1", "--reader.skip-lines", 1, "--reader.comment", "#"]
    call("impute", trained("masked"), "--data", tmp_path / "in.csv", *words, "--out", tmp_path / "out.csv")
    old, new = ((tmp_path / name).read_bytes().decode("latin-1").split("\r\n") for name in ("in.csv", "out.csv"))
    assert len(old) == len(new)
    for before, after in zip(old, new, strict=True):
        assert (before == after) == (";;" not in before)
        cells = after.split(";")
        if before != after:
            assert all(np.isfinite(float(cell.replace(",", "."))) for cell in cells[1:3])
            assert all(a in ("", b) for a, b in zip(before.replace('"', "").split(";"), cells, strict=True))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_with_inserted_rows_is_written_anew_and_no_observed_cell_changes(table, tmp_path, suffix):
    """Of a run with --regularize, also if its data are named."""
    from pyarrow import csv
    from pyarrow import parquet as pq

    lines = table.read_text().splitlines()
    data, out = tmp_path / f"holes{suffix}", tmp_path / f"filled{suffix}"
    (tmp_path / "holes.csv").write_text("\n".join([*lines[:301], *lines[311:]]) + "\n")
    if suffix == ".parquet":
        pq.write_table(csv.read_csv(tmp_path / "holes.csv"), data)
    words = ["--loss", "masked", "--length", 48, "--regularize", "--steps", 1, "--threads", 1, "--device", "cpu"]
    call("train", "--data", data, *words, "--encoder.depth", 1, "--out", tmp_path / "run", "--quiet")
    for number, given in enumerate([[], ["--data", data]]):
        result = call("impute", tmp_path / "run", *given, "--out", out, *["--force"][:number])
        assert "20 of 1,280 samples filled" in result.stdout
        assert "written anew, with times and channels alone" in result.stderr
        written = csv.read_csv(out) if suffix == ".csv" else pq.read_table(out)
        values = np.stack([written.column(name).to_numpy() for name in ("load", "temp")], 1)
        is_observed = np.delete(np.arange(640), range(300, 310))
        np.testing.assert_allclose(values[is_observed], make_table()[is_observed], atol=1e-4)
        assert np.isfinite(values).all()


def test_an_archive_with_channels_last_keeps_its_layout_and_lost_arrays_are_named(trained, tmp_path):
    x = make_table(96)[:96].reshape(2, 48, 2)
    x[0, 5:20, 1] = np.nan
    np.savez(tmp_path / "in.npz", X=x, channels=np.array(["load", "temp"]), notes=np.array(["a", "b"]))
    result = call("impute", trained("masked"), "--data", tmp_path / "in.npz", "--out", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as out:
        assert sorted(out.files) == ["X", "channels", "notes"]
        assert out["X"].shape == x.shape
        np.testing.assert_array_equal(out["X"][~np.isnan(x)], x[~np.isnan(x)])
        assert np.isfinite(out["X"]).all()
    assert "notes" not in result.stderr
    parts = {"X_train": x, "X_test": x[:1], "notes": np.array(["a"])}
    np.savez(tmp_path / "parts.npz", **parts, channels=np.array(["load", "temp"]), length=np.arange(3))
    result = call("impute", trained("masked"), "--data", tmp_path / "parts.npz", "--out", tmp_path / "p.npz")
    assert "note" not in result.stderr  # all of X_test


def test_the_figure_has_the_series_with_the_longest_filled_stretch(trained, tmp_path, monkeypatch):
    x = make_table(144).reshape(3, 48, 2).transpose(0, 2, 1).copy()
    x[0, :, ::2] = np.nan
    x[1, 0, 10:20] = np.nan
    np.savez(tmp_path / "in.npz", X=x)
    drawn = []
    monkeypatch.setattr("tstk.plot.imputation.render_imputation", lambda *args: drawn.append(args) or b"")
    words = ["--data", tmp_path / "in.npz", "--out", tmp_path / "out.npz", "--plot", tmp_path / "a.png"]
    call("impute", trained("masked"), *words)
    assert np.isnan(x[1])[drawn[0][1]].all()
    assert drawn[0][1].sum() == 10


def test_what_cannot_be_done_is_refused(trained, gaps, npz, run, tmp_path):
    masked = trained("masked")
    assert "either --out FILE, to write filled data, or --score" in refuse("impute", masked)
    assert "either --out FILE" in refuse("impute", masked, "--score", "--out", tmp_path / "a.csv")
    assert "must end in .csv or .npz or .parquet" in refuse("impute", masked, "--out", tmp_path / "a.txt")
    assert "a set of series is written as .npz" in refuse("impute", masked, "--data", npz, "--out", tmp_path / "a.csv")
    assert "this run predicts no samples" in refuse("impute", run, "--data", npz, "--out", tmp_path / "a.npz")
    other = tmp_path / "other.csv"
    other.write_text("date,load,wind\n2024-01-01,1,2\n2024-01-02,1,\n")
    assert "no column 'temp'; it has load, wind" in refuse(
        "impute", masked, "--data", other, "--out", tmp_path / "a.csv"
    )
