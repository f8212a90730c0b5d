"""Small batches, specs and pipelines shared by the tests."""

import os
import signal
from pathlib import Path

import pytest
import torch

from tstk.config.resolve import resolve_config
from tstk.core.types import Series, Spec
from tstk.plugins.hooks import Entry
from tstk.plugins.registry import get_registry
from tstk.runs.build import build_pipeline

_DATA_ROOT = os.environ.get("TSTK_DATA")

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a job that a shell put into the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def empty_cache(tmp_path_factory, pytestconfig):
    """Return a folder with nothing but the kernels in C++ that earlier sessions compiled."""
    folder = tmp_path_factory.mktemp("cache")
    if cache := getattr(pytestconfig, "cache", None):  # not with -p no:cacheprovider
        (folder / "kernels").symlink_to(cache.mkdir("kernels"))
    return folder


@pytest.fixture(autouse=True)
def no_cache(empty_cache, monkeypatch):
    """Hide data sets that the user has downloaded."""
    monkeypatch.setenv("TSTK_CACHE", str(empty_cache))


@pytest.fixture(scope="session")
def archive():
    """Return the root of the benchmark data: TSTK_DATA, or shared/data next to the repository."""
    root = Path(_DATA_ROOT) if _DATA_ROOT else Path(__file__).parents[2] / "shared" / "data"
    if not (root / "ucr").is_dir():
        pytest.skip("no benchmark data: set TSTK_DATA to their folder")
    return root


def ragged_batch(batch=4, channels=2, length=24, classes=3, seed=0):
    """Return labelled series of several lengths, some with a gap."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, channels, length, generator=draw)
    observed = torch.ones_like(x, dtype=torch.bool)
    for i in range(batch):
        observed[i, :, length - (i * 5) % (length // 2) :] = i * 5 % (length // 2) == 0
        observed[i, i % channels, 3 : 3 + i] = False
    return Series(x * observed, observed, torch.arange(batch) % classes, torch.arange(batch))


def table_batch(batch=4, channels=2, length=24, horizon=8, seed=0):
    """Return windows of a table with their futures; one context has a gap."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, channels, length, generator=draw).cumsum(-1)
    y = torch.randn(batch, channels, horizon, generator=draw)
    observed = torch.ones_like(x, dtype=torch.bool)
    observed[0, 0, 5:9] = False
    y[1, 0, 2] = torch.nan
    return Series(x * observed, observed, y, torch.arange(batch))


LABELLED = Spec(channels=2, length=24, task="classification", num_outputs=3)
TABLE = Spec(channels=2, length=24, task="forecasting", horizon=8)
SMALL = {
    "tokenizer": {"use": "patch", "dim": 16, "window": 4},
    "encoder": {"use": "transformer", "dim": 16, "depth": 1, "heads": 2, "dropout": 0.0},
}


def small(spec, seed=0, wiring=None, **slots):
    """Return a bound pipeline of small components, from tables or names per slot."""
    tables = dict(SMALL)
    for slot, table in slots.items():
        table = {"use": table} if isinstance(table, str) else table
        base = tables.get(slot, {})
        tables[slot] = {**(base if table.get("use", base.get("use")) == base.get("use") else {}), **table}
    torch.manual_seed(seed)
    config = resolve_config(("test", {**tables, "data": {"horizon": spec.horizon}}))
    pipeline = build_pipeline(config, spec, **(wiring or {}))
    pipeline.bind()
    return pipeline


@pytest.fixture
def build():
    """Return `small`, which builds a bound pipeline of small components."""
    return small


@pytest.fixture
def labelled_spec():
    return LABELLED


@pytest.fixture
def table_spec():
    return TABLE


@pytest.fixture
def ragged():
    return ragged_batch


@pytest.fixture
def windows():
    return table_batch


@pytest.fixture
def syllables(monkeypatch):
    """Register a tokenizer with a codebook and return its name."""
    monkeypatch.syspath_prepend(Path(__file__).parent / "support")
    entry = Entry(
        "tokenizer", "syllables", "syllables:Syllables", "A codebook", frozenset({"vocab_size"}), dist="made-up"
    )
    monkeypatch.setitem(get_registry()._table, ("tokenizer", "syllables"), [entry])
    return "syllables"


@pytest.fixture(autouse=True)
def forget_components(monkeypatch):
    """Forget after every test, and when called, the components that it registered: others list what there is."""
    plugins = {k: list(v) for k, v in get_registry()._table.items()}

    def forget():
        monkeypatch.setattr(get_registry(), "_table", {k: list(v) for k, v in plugins.items()})

    forget()
    return forget


def write_npz(path, count=24, channels=2, length=20):
    """Write labelled series of several lengths to a file with training and test splits."""
    import numpy as np

    rng = np.random.default_rng(0)
    parts = {}
    for part, n in (("train", count), ("test", count // 2)):
        x = rng.normal(size=(n, channels, length)).astype(np.float32) + 3
        x[::3, :, length - 6 :] = np.nan
        parts |= {f"X_{part}": x, f"y_{part}": np.arange(n) % 3}
    np.savez(path, **parts)
    return str(path)


@pytest.fixture(scope="session")
def npz(tmp_path_factory):
    """Return the path of a small labelled data set."""
    return write_npz(tmp_path_factory.mktemp("data") / "toy.npz")


@pytest.fixture(scope="session")
def csv(tmp_path_factory):
    """Return the path of a small table to forecast."""
    path = tmp_path_factory.mktemp("data") / "table.csv"
    x = torch.randn(140, 2, generator=torch.Generator().manual_seed(0)).cumsum(0)
    rows = [f"2020-01-01 {i // 60:02}:{i % 60:02}:00,{a},{b}" for i, (a, b) in enumerate(x.tolist())]
    path.write_text("\n".join(["date,u,v", *rows]))
    return str(path)


@pytest.fixture(scope="session")
def run(npz, tmp_path_factory):
    """Return the run directory of a small classifier trained for two epochs."""
    from tstk.training.runs import train

    folder = tmp_path_factory.mktemp("runs") / "first"
    config = resolve_config(
        ("flag", {**SMALL, "head": "linear", "data": npz, "train": {"epochs": 2, "batch_size": 8, "device": "cpu"}})
    )
    train(config, folder)
    return folder


@pytest.fixture
def hangup():
    """Let SIGHUP be delivered in a test, also if the tests run under nohup, which ignores it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
