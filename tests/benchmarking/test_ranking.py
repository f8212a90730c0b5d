"""Ranks against a loop, critical distances against the published table, groups of equal methods."""

import numpy as np
import pytest

from tstk.benchmarking.ranking import describe_ranking, draw_diagram, format_diagram, rank_methods

# Demsar 2006, table 5(a): q of Nemenyi's test at 0.05, for 2 to 10 methods
Q = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]


def draw_scores(rows, many, gap=0.0, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, many)) - gap * np.arange(many)


@pytest.mark.parametrize("many", range(2, 11))
def test_the_critical_distance_is_that_of_the_published_table(many):
    result = rank_methods([str(i) for i in range(many)], draw_scores(12, many))
    assert result.critical_distance == pytest.approx(Q[many - 2] * np.sqrt(many * (many + 1) / (6 * 12)), abs=2e-3)


def test_mean_ranks_are_those_of_a_loop_and_ties_share():
    scores = np.array([[0.9, 0.8, 0.8], [0.5, 0.7, 0.6], [0.4, 0.4, 0.4]])
    ranks = {"a": (1 + 3 + 2) / 3, "b": (2.5 + 1 + 2) / 3, "c": (2.5 + 2 + 2) / 3}
    result = rank_methods(["a", "b", "c"], scores)
    assert dict(zip(result.names, result.ranks, strict=True)) == pytest.approx(ranks)
    assert list(result.ranks) == sorted(result.ranks)
    assert result.wins_draws_losses["b", "a"] == (1, 1, 1)


def test_friedman_is_demsars_formula():
    scores = draw_scores(9, 4, 0.3)
    result = rank_methods(list("abcd"), scores)
    from scipy.stats import chi2

    means = np.array(result.ranks)
    value = 12 * 9 / (4 * 5) * ((means**2).sum() - 4 * 25 / 4)
    assert result.friedman_p == pytest.approx(chi2.sf(value, 3))


@pytest.mark.parametrize("test", ["nemenyi", "holm"])
def test_clear_differences_leave_no_group_and_none_leave_one(test):
    clear = rank_methods(list("abcd"), draw_scores(40, 4, 9), test)
    assert (clear.names, clear.groups) == (tuple("abcd"), ())
    equal = rank_methods(list("abcd"), np.ones((40, 4)), test)
    assert equal.groups == ((0, 3),)
    assert equal.friedman_p == 1


def test_groups_overlap_where_neighbours_are_alike_but_the_ends_are_not():
    scores = np.zeros((12, 3))
    scores[:, 0] = np.arange(12) % 3 > 0
    scores[:, 2] = -(np.arange(12) % 3 < 2).astype(float)
    assert rank_methods(list("abc"), scores).groups == ((0, 1), (1, 2))


def test_holm_notes_when_there_are_too_few_data_sets_for_any_significance():
    assert "too few" in describe_ranking(rank_methods(list("abc"), draw_scores(6, 3, 9), "holm"))
    assert "too few" not in describe_ranking(rank_methods(list("abc"), draw_scores(9, 3, 9), "holm"))


def test_holms_correction_is_that_of_a_loop():
    from scipy.stats import wilcoxon

    scores = draw_scores(14, 4, 0.6, seed=3)
    result = rank_methods(list("abcd"), scores, "holm")
    pairs = [(i, j) for i in range(4) for j in range(i)]
    values = sorted((wilcoxon(scores[:, i], scores[:, j]).pvalue, i, j) for i, j in pairs)
    significant = set()
    for at, (value, i, j) in enumerate(values):
        if value > 0.05 / (6 - at):
            break
        significant.add(frozenset("abcd"[k] for k in (i, j)))
    assert 0 < len(significant) < 6
    for first, last in result.groups:
        inside = result.names[first : last + 1]
        assert not any(pair <= set(inside) for pair in significant)
    for left, right in zip(result.names, result.names[1:], strict=False):
        place = result.names.index(left)
        together = any(a <= place and place + 1 <= b for a, b in result.groups)
        assert together == (frozenset((left, right)) not in significant)


def test_the_diagram_in_characters_has_each_method_at_its_rank():
    result = rank_methods(["first", "second", "third"], draw_scores(20, 3, 9))
    lines = format_diagram(result).splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["first", "second", "third"]
    marks = [line.index("●") for line in lines[1:4]]
    assert marks == [lines[0].index(n) for n in "123"]


def test_the_diagram_is_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="pip install 'tstk-core[plot]'")
    result = rank_methods(["a<b>", "c", "d", "e", "f"], draw_scores(8, 5, 0.4))
    draw_diagram(result, tmp_path / "x.svg", tmp_path / "x.png")
    assert "a&lt;b&gt;" in (tmp_path / "x.svg").read_text() or (tmp_path / "x.svg").stat().st_size > 5000
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"
