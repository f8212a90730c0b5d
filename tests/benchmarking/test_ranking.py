"""Ranks against a loop, critical distances against the published table, groups that nothing tells apart."""

import numpy as np
import pytest

from tstk.benchmarking.ranking import draw, ranking, said, text

# Demsar 2006, table 5(a): q of Nemenyi's test at 0.05, for 2 to 10 methods
Q = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]


def drawn(rows, many, gap=0.0, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, many)) - gap * np.arange(many)


@pytest.mark.parametrize("many", range(2, 11))
def test_the_critical_distance_is_that_of_the_published_table(many):
    found = ranking([str(i) for i in range(many)], drawn(12, many))
    assert found.distance == pytest.approx(Q[many - 2] * np.sqrt(many * (many + 1) / (6 * 12)), abs=2e-3)


def test_mean_ranks_are_those_of_a_loop_and_ties_share():
    scores = np.array([[0.9, 0.8, 0.8], [0.5, 0.7, 0.6], [0.4, 0.4, 0.4]])
    ranks = {"a": (1 + 3 + 2) / 3, "b": (2.5 + 1 + 2) / 3, "c": (2.5 + 2 + 2) / 3}
    found = ranking(["a", "b", "c"], scores)
    assert dict(zip(found.names, found.ranks, strict=True)) == pytest.approx(ranks)
    assert list(found.ranks) == sorted(found.ranks)
    assert found.versus["b", "a"] == (1, 1, 1)


def test_friedman_is_demsars_formula():
    scores = drawn(9, 4, 0.3)
    found = ranking(list("abcd"), scores)
    from scipy.stats import chi2

    means = np.array(found.ranks)
    value = 12 * 9 / (4 * 5) * ((means**2).sum() - 4 * 25 / 4)
    assert found.friedman == pytest.approx(chi2.sf(value, 3))


@pytest.mark.parametrize("test", ["nemenyi", "holm"])
def test_clear_differences_leave_no_group_and_none_leave_one(test):
    clear = ranking(list("abcd"), drawn(40, 4, 9), test)
    assert (clear.names, clear.groups) == (tuple("abcd"), ())
    equal = ranking(list("abcd"), np.ones((40, 4)), test)
    assert equal.groups == ((0, 3),)
    assert equal.friedman == 1


def test_groups_overlap_where_neighbours_are_alike_but_the_ends_are_not():
    scores = np.zeros((12, 3))
    scores[:, 0] = np.arange(12) % 3 > 0
    scores[:, 2] = -(np.arange(12) % 3 < 2).astype(float)
    assert ranking(list("abc"), scores).groups == ((0, 1), (1, 2))


def test_holm_says_when_there_are_too_few_data_sets_to_tell_anything():
    assert "too few" in said(ranking(list("abc"), drawn(6, 3, 9), "holm"))
    assert "too few" not in said(ranking(list("abc"), drawn(9, 3, 9), "holm"))


def test_holms_correction_is_that_of_a_loop():
    from scipy.stats import wilcoxon

    scores = drawn(14, 4, 0.6, seed=3)
    found = ranking(list("abcd"), scores, "holm")
    pairs = [(i, j) for i in range(4) for j in range(i)]
    values = sorted((wilcoxon(scores[:, i], scores[:, j]).pvalue, i, j) for i, j in pairs)
    told = set()
    for at, (value, i, j) in enumerate(values):
        if value > 0.05 / (6 - at):
            break
        told.add(frozenset("abcd"[k] for k in (i, j)))
    assert 0 < len(told) < 6
    for first, last in found.groups:
        inside = found.names[first : last + 1]
        assert not any(pair <= set(inside) for pair in told)
    for left, right in zip(found.names, found.names[1:], strict=False):
        place = found.names.index(left)
        together = any(a <= place and place + 1 <= b for a, b in found.groups)
        assert together == (frozenset((left, right)) not in told)


def test_the_diagram_in_characters_has_each_method_at_its_rank():
    found = ranking(["first", "second", "third"], drawn(20, 3, 9))
    lines = text(found).splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["first", "second", "third"]
    marks = [line.index("●") for line in lines[1:4]]
    assert marks == [lines[0].index(n) for n in "123"]


def test_the_diagram_is_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="pip install 'tstk-core[plot]'")
    found = ranking(["a<b>", "c", "d", "e", "f"], drawn(8, 5, 0.4))
    draw(found, tmp_path / "x.svg", tmp_path / "x.png")
    assert "a&lt;b&gt;" in (tmp_path / "x.svg").read_text() or (tmp_path / "x.svg").stat().st_size > 5000
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"
