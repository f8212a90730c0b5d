"""Malicious files: each is refused in one line that names it, no code in it is run, and memory stays bounded."""

import io
import json
import os
import pickle
import resource
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import tstk
from tstk.cli import cli
from tstk.config.records import hash_record

MEMORY = 300 * 1024
"""KiB that refusing a file may take."""
TINY = {"encoder__dim": 8, "encoder__depth": 1, "encoder__heads": 2, "tokenizer__dim": 8}
X = np.arange(24.0, dtype=np.float32).reshape(4, 2, 3)


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return (Path.touch, (Path(self.canary),))


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def header(text, version=1):
    """An .npy file that consists of a header."""
    data = text.encode() + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(data)) + data


def make_zip(compression=zipfile.ZIP_DEFLATED, **members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/").replace("_npy", ".npy"), data)
    return file.getvalue()


def bomb(size):
    """An archive of a few bytes, whose one array says that it expands to `size` bytes."""
    head = npy(np.zeros((1, 1, 1), np.float32))[:-4].replace(b"(1, 1, 1)", f"(1, 1, {size // 4})".encode())
    data = bytearray(make_zip(X_npy=head + bytes(4096)))
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", size)
    at = data.index(b"PK\x03\x04")
    data[at + 22 : at + 26] = struct.pack("<I", size)
    return bytes(data)


def make_pt(value, **options):
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def safetensors(head, size=None):
    data = json.dumps(head).encode()
    return struct.pack("<Q", len(data) if size is None else size) + data


def make_nested(depth, opening="[", closing="]"):
    return opening * depth + closing * depth


DATA = {
    "a pickle in an npz": ("x.npz", lambda c: make_zip(X_npy=npy(np.array([Evil(c)], object))), "never loaded"),
    "a pickle in labels": (
        "x.npz",
        lambda c: make_zip(X_npy=npy(X), y_npy=npy(np.array([Evil(c)] * 4))),
        "never loaded",
    ),
    "a pickle in an npy": ("X.npy", lambda c: npy(np.array([Evil(c)], object)), "never loaded"),
    "objects inside a structure": (
        "X.npy",
        lambda c: npy(np.array([(1, Evil(c))], [("a", int), ("b", object)])),
        "X.npy",
    ),
    "code in an npy header": (
        "X.npy",
        lambda c: header(f"{{'descr': __import__('os').mkdir({str(c)!r}), 'fortran_order': False, 'shape': (1,)}}"),
        "not an npy array",
    ),
    "an npy header without end": ("X.npy", lambda c: header("(" * 100_000, 2), "not an npy array"),
    "an npy header of 4 GB": (
        "X.npy",
        lambda c: b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{}",
        "not an npy array",
    ),
    "a negative shape": (
        "X.npy",
        lambda c: header("{'descr': '<f4', 'fortran_order': False, 'shape': (-4, 2, 3)}"),
        "X.npy",
    ),
    "a shape beyond the file": (
        "X.npy",
        lambda c: header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000, 1000)}"),
        "not an npy array",
    ),
    "a zip bomb": ("x.npz", lambda c: bomb(3_600_000_000), "expand"),
    "a member that lies about its size": ("x.npz", lambda c: bomb(2**27), "cut short"),
    "a traversal in an npz": ("x.npz", lambda c: make_zip(**{"..__..__canary_npy": npy(X)}), "no array called X"),
    "a bare pickle as npz": ("x.npz", lambda c: pickle.dumps(Evil(c)), "not an npz archive"),
    "a pickle as tensors": ("x.pt", lambda c: make_pt({"samples": Evil(c)}), "never loaded"),
    "an old pickle as tensors": (
        "x.pt",
        lambda c: make_pt({"samples": Evil(c)}, _use_new_zipfile_serialization=False),
        "never loaded",
    ),
    "a bare pickle as tensors": ("x.pt", lambda c: pickle.dumps(Evil(c)), "not a file of torch.save"),
    "a tensor larger than its storage": (
        "x.pt",
        lambda c: make_pt({"samples": torch.zeros(1).expand(10_000, 10_000, 10_000), "labels": torch.zeros(10_000)}),
        "more samples than",
    ),
    "a sparse tensor of any shape": (
        "x.pt",
        lambda c: make_pt(
            {
                "samples": torch.sparse_coo_tensor(size=(10_000, 10_000, 10_000), check_invariants=False),
                "labels": torch.zeros(9),
            }
        ),
        "x.pt",
    ),
    "tensors in a list": ("x.pt", lambda c: make_pt([torch.zeros(3)]), "expected a dict of tensors"),
    "a checkpoint as data": ("x.pth", lambda c: make_pt({"samples": Evil(c)}), "no reader for .pth"),
    "a pickle by name": ("x.pkl", lambda c: pickle.dumps(Evil(c)), "no reader for .pkl"),
    "a script by name": ("x.py", lambda c: f"open({str(c)!r}, 'w')".encode(), "no reader for .py"),
    "a record of other people's files": (
        "x.hea",
        lambda c: b"x 1 360 100\n../../../../etc/passwd 16 200 16 0 0 0 0 u\n",
        "etc/passwd",
    ),
    "a record of a billion signals": ("x.hea", lambda c: b"x 999999999 360 999999999999\n", "x.hea"),
    "a record longer than its file": (
        "x.hea",
        lambda c: b"x 1 360 99999999999\nx.dat 16 200 16 0 0 0 0 u\n",
        "x.dat",
    ),
    "a table of one endless line": ("x.csv", lambda c: b"1," * 2_000_000, "x.csv"),
    "a series that is infinite": ("x.csv", lambda c: b"t0,t1,label\n1,1e999,a\n", "infinite"),
    "a header that promises channels": (
        "x.ts",
        lambda c: b"@dimension 999999999\n@classLabel true a b\n@data\n1,2:a\n",
        "x.ts",
    ),
}

CONFIGS = {
    "a path of code as a component": '[encoder]\nuse = "os:system"\n',
    "a module as a component": '[encoder]\nuse = "builtins/eval"\n',
    "a traversal as a component": '[encoder]\nuse = "../../canary"\n',
    "a list as a component": '[encoder]\nuse = ["bert"]\n',
    "a number as a table": "encoder = 5\n",
    "arrays without end": "a = " + make_nested(100_000),
    "tables without end": "[" + ".".join("a" * 50_000) + "]\nb = 1\n",
    "text for a number": '[encoder]\nuse = "bert"\n[train]\nlr = "__import__(\'os\')"\n',
    "a table for a number": "[train.lr]\na = 1\n",
    "a rate that is no number": "[train]\nlr = nan\n",
    "an infinite rate": "[train]\nlr = inf\n",
    "a share that is no number": "[data]\nval_fraction = nan\n",
    "dropout that is no number": '[encoder]\nuse = "transformer"\ndropout = nan\n',
    "a negative size": '[encoder]\nuse = "transformer"\ndim = -8\n',
    "an absurd width": '[encoder]\nuse = "transformer"\ndim = 1000000000000\n',
    "a width beyond all integers": f'[encoder]\nuse = "transformer"\ndim = {10**30}\n',
    "an absurd length": "[data]\nlength = 1000000000000000\n",
    "a key that is no option": "[train]\n__class__ = 1\n",
    "text that is no text": b"\xff\xfe[train]\n",
}

GOOD = {"encoder": {"use": "tstk/transformer"}, "loss": {"use": "tstk/cross-entropy"}}


RECORD = {"kind": "encoder", "name": "x", "class": "system", "module": "os", "file": "x.py", "sha256": ""}


def change_config(**changes):
    """config.json of a run with other values, named by a path of dots."""

    def change(config):
        del config["sha256"]
        for path, value in changes.items():
            *way, last = path.split("__")
            table = config
            for step in way:
                table = table[step]
            table[last] = value
        return json.dumps({**config, "sha256": hash_record(config)})

    return change


RUNS = {
    "config without end": ("config.json", lambda found: make_nested(100_000)),
    "config of another kind": ("config.json", lambda found: json.dumps([found])),
    "config tables of another kind": ("config.json", change_config(config=[1, 2])),
    "a slot of another kind": ("config.json", change_config(config__encoder="bert")),
    "a component that is no name": ("config.json", change_config(config__encoder__use=5)),
    "a component that is code": ("config.json", change_config(config__encoder__use="os:system")),
    "a component without a plugin that is code": (
        "config.json",
        change_config(config__encoder__use="local/x", local={"encoder": RECORD}),
    ),
    "components without a plugin of another kind": ("config.json", change_config(local=[RECORD])),
    "a component without a plugin of another kind": ("config.json", change_config(local={"encoder": {"kind": 5}})),
    "a component without a plugin on two lines": (
        "config.json",
        change_config(local={"encoder": RECORD | {"class": "x\nError: y"}}),
    ),
    "a component nobody has": ("config.json", change_config(config__encoder__use="evil-package/bert")),
    "an option nobody has": ("config.json", change_config(config__encoder__evil=1)),
    "an option of another kind": ("config.json", change_config(config__encoder__depth="many")),
    "a spec of another kind": ("config.json", change_config(spec=3)),
    "a spec with further fields": ("config.json", change_config(spec__evil=3)),
    "an absurd number of classes": ("config.json", change_config(spec__classes=10**15)),
    "a negative number of channels": ("config.json", change_config(spec__channels=-1)),
    "an absurd length": ("config.json", change_config(spec__length=10**18)),
    "versions of another kind": ("config.json", change_config(versions=None, format=99)),
    "weights that are a pickle": ("model.safetensors", lambda canary: pickle.dumps(Evil(canary))),
    "weights with an endless header": ("model.safetensors", lambda canary: safetensors({}, 2**60)),
    "weights with a header of lies": (
        "model.safetensors",
        lambda canary: safetensors({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
    ),
    "weights that overlap": (
        "model.safetensors",
        lambda canary: safetensors({n: {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]} for n in "ab"}) + b"1234",
    ),
    "weights of nothing": ("model.safetensors", lambda canary: safetensors({})),
}


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("TSTK_STRICT", "TSTK_DATA"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def good_run(npz, tmp_path_factory):
    """A valid run."""
    out = tmp_path_factory.mktemp("good") / "run"
    tstk.fit(data=npz, encoder="transformer", head="linear", steps=1, out=out, **TINY)
    return out


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "canary"


@pytest.fixture
def assert_refused(tmp_path, canary):
    """Run `tstk`, and check that it refuses in one line with a name, runs no code and takes little memory."""

    def call(*words, name=""):
        before = sorted(tmp_path.rglob("*"))
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result = CliRunner().invoke(cli, [str(w) for w in words], prog_name="tstk")
        errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        assert isinstance(result.exception, SystemExit), repr(result.exception)
        assert result.exit_code == 2, result.output
        assert len(errors) == 1, result.output
        assert name in errors[0]
        assert len(errors[0]) < 400 + 2 * len(str(tmp_path))
        assert not canary.exists()
        assert sorted(tmp_path.rglob("*")) == before
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < MEMORY
        return errors[0]

    return call


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.slow if "endless" in c else ()) for c in DATA])
def test_malicious_data_files_are_refused(case, tmp_path, canary, assert_refused):
    name, make, why = DATA[case]
    (tmp_path / name).write_bytes(make(canary))
    (tmp_path / "x.dat").write_bytes(bytes(64))
    assert why in assert_refused("data", "info", tmp_path / name, name=f"{name.partition('.')[0]}.")


@pytest.mark.slow
@pytest.mark.parametrize("case", CONFIGS)
def test_malicious_configs_are_refused(case, tmp_path, assert_refused):
    held = CONFIGS[case]
    (tmp_path / "c.toml").write_bytes(held if isinstance(held, bytes) else held.encode())
    assert_refused("train", "--config", "c.toml", "--out", "out")


@pytest.mark.parametrize("case", RUNS)
def test_malicious_runs_are_refused(case, tmp_path, canary, good_run, assert_refused):
    shutil.copytree(good_run, tmp_path / "run")
    file, make = RUNS[case]
    given = json.loads((good_run / "config.json").read_text()) if file == "config.json" else canary
    made = make(given)
    (tmp_path / "run" / file).write_bytes(made.encode() if isinstance(made, str) else made)
    assert_refused("predict", "run", "--out", "answers.npz", name="run")
    assert_refused("train", "--encoder", "./run", "--out", "out", name="run")


@pytest.mark.parametrize("stage", ["../../canary", "/tmp/canary", "..", "a/b", ""])
def test_a_recipe_writes_nowhere_but_in_its_folder(stage, tmp_path, assert_refused):
    (tmp_path / "r.toml").write_text(f'[[stage]]\nname = "{stage}"\n[stage.loss]\nuse = "masked"\n')
    assert_refused("run", "r.toml", "--out", "out", name="r.toml")


@pytest.mark.parametrize(
    "text", ["stage = 5", 'stage = ["a"]', "[[stage]]\nname = []", "stage = " + make_nested(50_000)]
)
def test_a_recipe_of_another_kind(text, tmp_path, assert_refused):
    (tmp_path / "r.toml").write_text(text)
    assert_refused("run", "r.toml", "--out", "out", name="r.toml")


@pytest.mark.parametrize("name", ["..", ".", "../x", "/tmp/x", "a b"])
def test_a_bench_writes_nowhere_but_in_its_folder(name, assert_refused):
    assert_refused("bench", "--method", f"{name}=--head linear", "--data", "har-demo", "--out", "out")


@pytest.mark.parametrize("make", ["pickle", "junk", "bomb"])
def test_malicious_conditioning_is_refused(make, tmp_path, canary, assert_refused):
    contents = {
        "pickle": make_zip(train_npy=npy(np.array([Evil(canary)] * 4, object))),
        "junk": b"PK\x03\x04" + bytes(500),
        "bomb": bomb(3_600_000_000).replace(b"X.npy", b"train.npy"[:5]),
    }[make]
    (tmp_path / "e.npz").write_bytes(contents)
    np.savez(tmp_path / "d.npz", X_train=X, y_train=[0, 1, 0, 1], X_test=X, y_test=[0, 1, 0, 1])
    assert_refused("data", "info", "d.npz", "--conditioning", "text=e.npz", name="e.npz")


@pytest.mark.parametrize(
    ("config", "weights"),
    [
        ({"auto_map": {"AutoModel": "evil.Evil"}, "model_type": "evil"}, None),
        (make_nested(100_000), None),
        ("[]", None),
        ({"model_type": "bert", "hidden_size": "wide"}, None),
        ({"model_type": "bert", "hidden_size": 10**12, "num_hidden_layers": 10**9, "num_attention_heads": 1}, "pickle"),
    ],
)
@pytest.mark.parametrize("encoder", ["bert", "hf"])
def test_malicious_pretrained_folders_are_refused(encoder, config, weights, tmp_path, canary, assert_refused):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w')\n")
    if weights:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(canary)))
    if encoder == "hf":
        pytest.importorskip("transformers", reason="pip install 'tstk-core[hf]'")
    assert_refused(
        "train",
        "--encoder",
        encoder,
        f"--encoder.{'pretrained' if encoder == 'bert' else 'model'}",
        folder,
        "--out",
        "o",
    )


def test_links_that_lead_nowhere_or_in_circles(tmp_path, assert_refused):
    (tmp_path / "gone.csv").symlink_to(tmp_path / "nothing")
    assert_refused("data", "info", tmp_path / "gone.csv", name="gone.csv")
    (tmp_path / "loop").symlink_to(tmp_path)
    result = CliRunner().invoke(cli, ["data", "list", "--data-root", str(tmp_path)])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("kind", ["device", "pipe", "folder"])
def test_what_is_no_file_is_not_read(kind, tmp_path, assert_refused):
    path = tmp_path / "x.csv"
    if kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert_refused("data", "info", path, name="x.csv")


@pytest.mark.parametrize("run", ["../../etc", "/etc", "run/../..", "\0", "https://example.org/run"])
def test_a_run_elsewhere_is_no_run(run, assert_refused):
    assert_refused("eval", run)
