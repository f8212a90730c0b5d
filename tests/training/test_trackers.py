"""Trackers receive what callbacks receive; fake packages replace the real ones."""

import json
import sys

import pytest

from tstk.config.resolve import resolve_config
from tstk.errors import OptionError, TrainingError, UnknownNameError
from tstk.training.runs import train
from tstk.training.trackers import TrackerCallback

FAKES = {
    "tensorboard/__init__.py": "",
    "wandb/__init__.py": """
import json, os
def init(project=None, name=None, dir=None, **_):
    os.makedirs(dir + "/wandb", exist_ok=True)  # as the real one
    return Run(dir + "/wandb/log.jsonl", name)
class Config(dict):
    def update(self, values, **_):
        dict.update(self, values)
config = Config()
class Run:
    def __init__(self, path, name):
        self.path, self.config, self.name = path, config, name
    def log(self, values, step=None, **_):
        with open(self.path, "a") as file:
            print(json.dumps([step, values, self.name]), file=file)
    def finish(self):
        self.log("finished")
""",
    "mlflow/__init__.py": """
import json, os
def search_experiments(filter_string=None):
    return []
def create_experiment(name=None, **_):
    return name
def start_run(run_name=None, **_):
    tell("run", run_name)
def log_metrics(values, step=None):
    tell(step, values)
def log_param(key, value):
    pass
def log_params(values, **_):
    tell("options", len(values))
def end_run():
    tell("finished", None)
class utils:
    class validation:
        MAX_PARAM_VAL_LENGTH, MAX_PARAMS_TAGS_PER_BATCH = 500, 100
def tell(*words):
    with open(os.environ["MLFLOW_FAKE"], "a") as file:
        print(json.dumps(words), file=file)
""",
}


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Install fake packages of these names that record their calls."""
    for name, text in FAKES.items():
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("MLFLOW_FAKE", str(tmp_path / "mlflow.jsonl"))
    names = ("tensorboard", "wandb", "mlflow")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield
    for name in names:
        sys.modules.pop(name, None)


def train_with_trackers(npz, out, *names):
    config = {"encoder": {"dim": 16, "depth": 1, "heads": 2}, "head": "linear", "data": npz}
    return train(
        resolve_config(
            ("test", {**config, "train": {"steps": 3, "batch_size": 8, "device": "cpu", "trackers": names}})
        ),
        out,
    )


@pytest.mark.slow
def test_wandb_and_mlflow_receive_every_step_and_epoch_and_the_end(npz, tmp_path, packages):
    result = train_with_trackers(npz, tmp_path / "run", "wandb", "mlflow")
    wandb = [json.loads(line) for line in (tmp_path / "run" / "wandb" / "log.jsonl").read_text().splitlines()]
    mlflow = [json.loads(line) for line in (tmp_path / "mlflow.jsonl").read_text().splitlines()]
    assert [step for step, *_ in wandb] == [1, 2, 3, 3, None]
    assert {name for *_, name in wandb} == {"run"}
    assert wandb[0][1].keys() == {"train/cross_entropy", "train/loss"}
    assert wandb[3][1]["val/accuracy"] == result.val["accuracy"]
    assert "lr" in wandb[3][1]
    assert wandb[-1][1] == "finished"
    assert mlflow[0] == ["run", "run"]
    assert [row for row in mlflow if isinstance(row[0], int)] == [row[:2] for row in wandb[:-1]]
    assert mlflow[-1] == ["finished", None]


@pytest.mark.slow
def test_tensorboard_writes_into_the_run(npz, tmp_path, packages, monkeypatch):
    from types import SimpleNamespace

    calls = []

    class SummaryWriter:
        def __init__(self, folder):
            calls.append(folder)

        def __getattr__(self, name):
            return lambda *values, **more: calls.append((name, *values, more))

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=SummaryWriter))
    monkeypatch.setattr("torch.utils.tensorboard", SimpleNamespace(SummaryWriter=SummaryWriter), raising=False)
    train_with_trackers(npz, tmp_path / "run", "tensorboard")
    assert calls[0] == str(tmp_path / "run" / "tensorboard")
    scalars = [row for row in calls[1:] if row[0] == "add_scalar"]
    assert {row[1] for row in scalars} >= {"train/loss", "val/accuracy", "lr"}
    assert calls[-1][0] == "close"


@pytest.mark.slow
def test_what_trackers_wrote_of_a_run_that_failed_stays_and_is_no_file_of_others(npz, tmp_path, packages, monkeypatch):
    def fail(self, state, losses, series_per_second):
        raise TrainingError("the loss is nan")

    log = tmp_path / "run" / "wandb" / "log.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(TrackerCallback, "on_log", fail)
        with pytest.raises(TrainingError):
            train_with_trackers(npz, tmp_path / "run", "wandb")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["wandb"]
    before = log.read_text()
    train_with_trackers(npz, tmp_path / "run", "wandb")
    assert log.read_text().startswith(before)
    assert (tmp_path / "run" / "result.json").is_file()


@pytest.mark.parametrize("name", ["wandb", "mlflow", "tensorboard"])
def test_a_tracker_that_is_not_installed_is_named_with_its_extra(npz, tmp_path, monkeypatch, name):
    monkeypatch.setattr("tstk.training.trackers.find_spec", lambda name: None)
    with pytest.raises(OptionError, match=rf"--trackers {name}: .* pip install 'tstk-core\[{name}\]'"):
        train_with_trackers(npz, tmp_path / "run", name)
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_does_not_exist_is_refused(npz, tmp_path):
    with pytest.raises(UnknownNameError, match=r"No tracker is called 'wanb'\. Did you mean 'wandb'"):
        train_with_trackers(npz, tmp_path / "run", "wanb")
