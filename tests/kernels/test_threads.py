"""Rows are divided among the threads of torch."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from tstk.kernels import threads
from tstk.kernels.threads import MIN_PARALLEL_VALUES, call_in_each_thread, map_row_slices

CPU = torch.device("cpu")


@pytest.fixture(params=["torch's threads", "a pool"])
def two_threads(request, monkeypatch):
    """Divide rows between two threads, of each kind."""
    if request.param == "a pool":
        monkeypatch.setattr(threads, "_find_openmp", lambda: None)
    elif threads._find_openmp() is None:
        pytest.skip("torch has no GNU OpenMP here")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_slices_run_in_two_threads_and_results_are_in_their_order():
    meeting = threading.Barrier(2, timeout=30)  # both slices run at once, or this fails

    def compute(rows):
        meeting.wait()
        return rows, threading.get_ident()

    results = map_row_slices(compute, 5, MIN_PARALLEL_VALUES, CPU)
    assert [rows for rows, _ in results] == [slice(0, 3), slice(3, 5)]
    assert len({thread for _, thread in results}) == 2


@pytest.mark.usefixtures("two_threads")
def test_small_work_runs_where_it_is_called():
    compute = lambda rows: (rows, threading.get_ident())  # noqa: E731
    assert map_row_slices(compute, 5, MIN_PARALLEL_VALUES - 1, CPU) == [(slice(0, 5), threading.get_ident())]


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("row", [0, 4])
def test_an_exception_of_any_thread_reaches_the_caller(row):
    def compute(rows):
        if rows.start <= row < rows.stop:
            raise ValueError("this row")

    with pytest.raises(ValueError, match="this row"):
        map_row_slices(compute, 5, MIN_PARALLEL_VALUES, CPU)
    assert map_row_slices(lambda rows: rows.start, 4, MIN_PARALLEL_VALUES, CPU) == [0, 2]


@pytest.mark.usefixtures("two_threads")
def test_a_product_of_matrices_in_a_slice_is_that_of_one_thread():
    a, b = torch.randn(64, 300, generator=torch.Generator().manual_seed(0)), torch.ones(300, 40)
    parts = map_row_slices(lambda rows: a[rows] @ b, 64, MIN_PARALLEL_VALUES, CPU)
    torch.set_num_threads(1)
    expected = [a[:32] @ b, a[32:] @ b]
    assert all(torch.equal(part, whole) for part, whole in zip(parts, expected, strict=True))


@pytest.mark.usefixtures("two_threads")
def test_a_setting_is_made_in_each_thread_of_torch_that_can_be_reached():
    count = 1 if threads._find_openmp() is None else 2
    meeting, idents = threading.Barrier(count, timeout=30), []

    def note_thread():
        meeting.wait()
        idents.append(threading.get_ident())

    call_in_each_thread(note_thread)
    assert len(set(idents)) == count
    assert threading.get_ident() in idents


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_of_fork_computes_as_its_parent_did():
    program = (
        "import os, torch; from tstk.kernels.threads import map_row_slices\n"
        "torch.set_num_threads(2)\n"
        "run = lambda: map_row_slices(lambda rows: rows.stop, 6, 1 << 20, torch.device('cpu'))\n"
        "assert run() == [3, 6]\n"
        "child = os.fork()\n"
        "if child == 0: os._exit(0 if run() == [3, 6] else 1)\n"
        "assert os.waitpid(child, 0)[1] == 0"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120, cwd=Path(__file__).parents[2])
