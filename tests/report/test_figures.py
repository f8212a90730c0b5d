"""Figures of imputation and detection show what they are about."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from tstk.plot.anomalies import draw_detection
from tstk.plot.imputation import MAX_SAMPLES, choose_range, draw_imputation


def test_a_short_series_is_drawn_whole_and_a_long_one_around_its_longest_filled_stretch():
    filled = np.zeros((2, 500), dtype=bool)
    filled[0, 3] = True
    assert choose_range(filled) == (0, 500)
    filled = np.zeros((2, 10_000), dtype=bool)
    filled[0, 100:105] = filled[1, 9_000:9_050] = True
    first, stop = choose_range(filled)
    assert stop - first == pytest.approx(MAX_SAMPLES, abs=1)
    assert first < 9_000 < 9_050 < stop
    filled[0, 2_000:6_000] = True
    assert choose_range(filled) == (2_000, 6_000)
    filled = np.zeros((1, 10_000), dtype=bool)
    filled[0, :2] = True
    assert choose_range(filled) == (0, MAX_SAMPLES)


def test_filled_samples_are_drawn_on_their_rows_in_the_channels_with_the_most_of_them():
    x, filled = np.random.default_rng(0).normal(size=(6, 50)), np.zeros((6, 50), dtype=bool)
    filled[5, 10:20] = filled[1, 30] = True
    figure = Figure()
    draw_imputation(figure, x, filled, list("uvwxyz"), 100)
    panels = {axes.get_ylabel(): axes for axes in figure.axes}
    assert {"v", "z"} <= panels.keys()
    assert len(panels) == 4
    line = panels["z"].lines[1]
    shown = ~np.isnan(line.get_ydata())
    assert line.get_xdata()[shown].tolist() == list(range(110, 120))
    np.testing.assert_array_equal(line.get_ydata()[shown], x[5, 10:20])


def test_events_of_one_sample_in_a_long_series_are_marked_by_a_point():
    scores = np.zeros(100_000)
    scores[[500, 70_000]] = [3.0, 5.0]
    figure = Figure()
    labels = np.zeros(100_000, dtype=bool)
    labels[[600, 601]] = True
    draw_detection(figure, np.zeros((1, 100_000)), ["u"], scores, 1.0, labels, 1000)
    points, known = figure.axes[-1].lines[-2:]
    assert points.get_xdata().tolist() == [1500, 71_000]
    assert points.get_ydata().tolist() == [3.0, 5.0]
    assert known.get_xdata().tolist() == [1600]
    assert figure.axes[-1].get_xlabel() == "row"
