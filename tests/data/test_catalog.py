import subprocess
import sys

import numpy as np
import pytest

from tstk.data import DataConfig, list_datasets, load_data
from tstk.data.catalog import get_reader, locate
from tstk.errors import DataError, UnknownNameError

ROW = "@classLabel true a b\n@data\n" + "1,2:a\n2,3:a\n3,4:b\n4,5:b\n"


@pytest.fixture
def root(tmp_path):
    """A root with a pair two folders deep, a pair of .npz one folder deep, and a table."""
    (tmp_path / "ucr" / "GunPoint").mkdir(parents=True)
    for part in ("TRAIN", "TEST"):
        (tmp_path / "ucr" / "GunPoint" / f"GunPoint_{part}.ts").write_text(ROW)
    (tmp_path / "har").mkdir()
    for part in ("train", "test"):
        np.savez(tmp_path / "har" / f"uci_har_{part}.npz", X=np.ones((4, 3)), y=[0, 0, 1, 1])
    (tmp_path / "national_illness.csv").write_text("date,u\n2020-01-01,1\n")
    (tmp_path / "notes.txt").write_text("not data")
    return tmp_path


def test_importing_the_package_loads_neither_torch_nor_numpy():
    code = "import sys, tstk.data; tstk.data.list_datasets(); print({'torch', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_everything_under_the_root_is_listed_after_the_embedded_set(root):
    rows = [(row.name, row.kind) for row in list_datasets(str(root))]
    assert rows == [
        ("har-demo", "embedded"),
        ("national_illness", "one file, .csv"),
        ("uci_har", "train+test, .npz"),
        ("GunPoint", "train+test, .ts"),
    ]


def test_every_listed_path_leads_to_the_same_data_set(root):
    for row in list_datasets(str(root)):
        assert locate(str(row.path)).files == locate(row.name, str(root)).files


@pytest.mark.parametrize("name", ["GunPoint", "gunpoint", "GUNPOINT"])
def test_a_name_is_found_in_any_case(root, name):
    assert list(locate(name, str(root)).files) == ["train", "test"]


@pytest.mark.parametrize(("alias", "name"), [("har", "uci_har"), ("illness", "national_illness")])
def test_short_names_stand_for_the_long_ones(root, alias, name):
    assert locate(alias, str(root)).name == name


def test_the_root_is_taken_from_the_environment_unless_it_is_given(root, tmp_path, monkeypatch):
    monkeypatch.setenv("TSTK_DATA", str(root))
    assert locate("GunPoint").name == "GunPoint"
    with pytest.raises(UnknownNameError):
        locate("GunPoint", str(root / "har"))


@pytest.mark.parametrize("end", ["", "/GunPoint_TRAIN.ts", "/GunPoint_TEST.ts"])
def test_a_pair_is_found_from_its_folder_and_from_either_file(root, end):
    found = locate(str(root / "ucr" / "GunPoint") + end)
    assert (found.name, list(found.files)) == ("GunPoint", ["train", "test"])


def test_an_unknown_name_says_what_was_meant_and_where_was_looked(root):
    with pytest.raises(UnknownNameError, match=r"'GunPiont'. Did you mean 'GunPoint'\?.*" + str(root)):
        load_data("GunPiont", DataConfig(data_root=str(root)))


def test_without_a_root_an_unknown_name_names_both_remedies():
    with pytest.raises(UnknownNameError, match="--data-root FOLDER or set TSTK_DATA"):
        load_data("GunPoint")


@pytest.mark.parametrize("given", ["option", "variable"])
def test_a_root_that_is_not_there_is_an_error(tmp_path, monkeypatch, given):
    if given == "variable":
        monkeypatch.setenv("TSTK_DATA", str(tmp_path / "no"))
    with pytest.raises(DataError, match="there is no such folder"):
        load_data("GunPoint", DataConfig(data_root=str(tmp_path / "no") if given == "option" else None))


def test_a_name_that_occurs_twice_is_never_chosen_in_silence(root):
    (root / "uea").mkdir()
    (root / "uea" / "GunPoint.csv").write_text("date,u\n2020-01-01,1\n")
    with pytest.raises(DataError, match="more than one"):
        locate("GunPoint", str(root))


def test_an_empty_folder_names_the_patterns_that_were_searched(tmp_path):
    with pytest.raises(DataError, match=r"looked for \*\.ts, \*\.tsv"):
        load_data(str(tmp_path))


def test_a_folder_with_several_data_sets_lists_them(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("date,u\n2020-01-01,1\n")
    with pytest.raises(DataError, match=r"several data sets.*a\.csv, .*b\.csv"):
        load_data(str(tmp_path))


def test_a_file_that_is_not_there_or_not_readable_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_data(str(tmp_path / "x.csv"))
    (tmp_path / "x.xyz").write_text("")
    with pytest.raises(DataError, match=r"no reader for \.xyz"):
        load_data(str(tmp_path / "x.xyz"))


def test_two_plugins_that_read_one_suffix_are_an_error_but_the_core_keeps_its_own(tmp_path, monkeypatch):
    from tstk.plugins.hooks import Entry
    from tstk.plugins.registry import get_registry

    for dist in ("a", "b"):
        for suffix in ("wave", "csv"):
            entry = Entry("reader", f"{dist}-{suffix}", "x:y", "Reads", frozenset({f".{suffix}"}), dist=dist)
            monkeypatch.setitem(get_registry()._table, ("reader", entry.name), [entry])
    with pytest.raises(DataError, match=r"a/a-wave and b/b-wave read \.wave"):
        get_reader(tmp_path / "x.wave")
    assert get_reader(tmp_path / "x.csv").__module__ == "tstk.data.readers.csv"
