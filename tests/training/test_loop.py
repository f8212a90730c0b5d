"""The training loop: reproducible, independent of how batches are cut, and clear about why it stops."""

import copy
import json
import math

import numpy as np
import pytest
import torch

from tests.support.grids import slow_after
from tstk.config.resolve import resolve_config
from tstk.data.load import load_data
from tstk.errors import DataError, NotFiniteError, OptionError, TrainingError, UnknownNameError
from tstk.evaluation.classification import accuracy_standard_error
from tstk.evaluation.evaluate import evaluate
from tstk.runs import checkpoint
from tstk.training import loop
from tstk.training.callbacks import Callback
from tstk.training.config import TrainConfig
from tstk.training.loader import BatchLoader
from tstk.training.lr_finder import lr_range_test
from tstk.training.optim import param_groups
from tstk.training.runs import prepare_training, train

ENCODER = {"use": "transformer", "dim": 16, "depth": 1, "heads": 2, "dropout": 0.0}
TAIL = {"use": "masked", "policy": "tail"}


def fit(pipeline, data, callbacks=(), resume_store=None, **options):
    return loop.fit(pipeline, data, TrainConfig(**{"device": "cpu", **options}), callbacks, resume_store)


class RecordingCallback(Callback):
    """Records its calls, and may change the pipeline at the end of an epoch."""

    def __init__(self, after_epoch=None):
        self.steps, self.rows, self.after_epoch = [], [], after_epoch

    def on_fit_start(self, state):
        self.planned = (state.total_steps, state.epochs)

    def on_log(self, state, losses, series_per_second):
        self.steps.append((state.step, losses))

    def on_epoch_end(self, state, metrics):
        self.rows.append(metrics)
        if self.after_epoch:
            self.after_epoch(metrics["epoch"])


def prepare(data, seed=0, **tables):
    """Return a pipeline and its data as `tstk train` prepares them, with validation series."""
    data = {"use": data} if isinstance(data, str) else data
    data = data if "horizon" in data else {"val_fraction": 0.2, **data}  # a table is split by rows
    components = {"encoder": ENCODER, "tokenizer": {"use": "patch", "dim": 16, "window": 4}, "data": data}
    return prepare_training(resolve_config(("test", {**components, "train": {"seed": seed}, **tables})))


def table_data(csv, **more):
    return {"use": csv, "context": 24, "horizon": 8, **more}


def history_without_times(fit_result):
    return [{k: v for k, v in row.items() if "second" not in k} for row in fit_result.history]


@pytest.mark.parametrize("tables", slow_after(1, [{"head": "cot"}, {"decoder": "transformer"}]), ids=["head", "masked"])
def test_the_same_seed_gives_the_same_weights_and_history_bit_for_bit(npz, tables):
    runs = []
    for seed in (3, 3, 4):
        pipeline, data = prepare(npz, seed, **tables)
        fit_result = fit(pipeline, data, epochs=2, batch_size=8, seed=seed)
        runs.append((pipeline.state_dict(), history_without_times(fit_result)))
    (a, first), (b, second), (c, third) = runs
    assert first == second
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert first != third
    assert not all(torch.equal(a[k], c[k]) for k in a)


@pytest.mark.parametrize("select", slow_after(1, ["score", "loss", "last"]))
def test_the_selected_epochs_weights_are_the_ones_that_remain(npz, select):
    pipeline, data = prepare(npz, head="linear")
    fit_result = fit(pipeline, data, epochs=6, batch_size=4, lr=2e-2, select_by=select)
    rows = fit_result.history
    if select == "last":
        want = rows[-1]
    elif select == "loss":
        want = min(rows, key=lambda r: r["val"]["loss"])
    else:
        best = max(rows, key=lambda r: r["val"]["accuracy"])["val"]
        want = [r for r in rows if r["val"]["accuracy"] >= best["accuracy"] - best["accuracy_se"]][-1]
    assert fit_result.best_metrics is want
    assert evaluate(pipeline, data.val) == pytest.approx(want["val"], rel=1e-6)
    assert not pipeline.training


def test_a_forecaster_is_selected_by_its_error(csv):
    pipeline, data = prepare(table_data(csv), head="forecast")
    fit_result = fit(pipeline, data, epochs=4, batch_size=16, lr=3e-2)
    assert fit_result.best_metrics is min(fit_result.history, key=lambda r: r["val"]["mse"])


def test_the_standard_error_is_over_groups_where_there_are_any():
    truth = torch.tensor([0, 1, 0, 1, 1, -1])
    guess = torch.tensor([0, 1, 0, 0, 1, 1])
    assert accuracy_standard_error(truth, guess) == pytest.approx((0.8 * 0.2 / 5) ** 0.5)
    shares = [1.0, 2 / 3]  # of the groups a and b
    want = torch.tensor(shares).std() / 2**0.5
    assert accuracy_standard_error(truth, guess, ["a", "a", "b", "b", "b", "b"]) == pytest.approx(float(want))


# ------------------------------------------------------------------ how batches are cut


@pytest.mark.parametrize("kind", ["classify", "forecast", "mask"])
def test_scores_do_not_depend_on_the_batch_size_of_evaluation(npz, csv, kind):
    if kind == "classify":
        pipeline, data = prepare(npz, head="cot")
    elif kind == "forecast":
        pipeline, data = prepare(table_data(csv), head="forecast")
    else:
        pipeline, data = prepare(table_data(csv), decoder="transformer", loss=TAIL)
    want = evaluate(pipeline, data.val, batch_size=1000)
    assert {"classify": "accuracy", "forecast": "mse", "mask": "mse"}[kind] in want
    for size in (1, 3):
        assert evaluate(pipeline, data.val, batch_size=size) == pytest.approx(want, rel=1e-5)


def test_evaluation_changes_neither_weights_nor_mode_nor_later_masks(npz):
    pipeline, data = prepare(npz, decoder="transformer")
    before = copy.deepcopy(pipeline.state_dict())
    pipeline.train()
    first = evaluate(pipeline, data.val)
    torch.rand(5)
    assert evaluate(pipeline, data.val) == first
    assert pipeline.training
    assert all(torch.equal(v, before[k]) for k, v in pipeline.state_dict().items())


def test_balanced_batches_have_classes_alike_often_and_a_key_for_each_place(npz):
    part = load_data(npz).train
    part = part.select(torch.cat([torch.where(part.y == 0)[0], torch.where(part.y == 1)[0][:2]]))
    part.y = part.y.clone()
    part.y[0] = -1
    wide = [BatchLoader(part, TrainConfig(batch_size=4, sampling="balanced"))]
    wide += [BatchLoader(part, TrainConfig(batch_size=4, sampling="balanced"), (i, 2)) for i in (0, 1)]
    labels = {0: [], 1: []}
    for epoch in range(1, 60):
        whole, *halves = ([g[0] for g in b.iterate_epoch(epoch, torch.device("cpu"))] for b in wide)
        for series in whole:
            assert (series.y >= 0).all()
            for label in series.y.tolist():
                labels[label].append(label)
        ids = [k for series in whole for k in series.sample_id.tolist()]
        assert ids == list(range(len(part)))
        half_ids = sorted(k for half in halves for series in half for k in series.sample_id.tolist())
        assert half_ids == list(range(len(part) - len(part) % 2))
    assert len(labels[0]) / len(labels[1]) == pytest.approx(1, abs=0.25)


def test_balanced_batches_need_classes(csv):
    pipeline, data = prepare(table_data(csv), loss=TAIL)
    with pytest.raises(OptionError, match=r"--sampling balanced: needs a class per series"):
        fit(pipeline, data, steps=1, sampling="balanced")


@pytest.mark.slow
def test_two_small_batches_train_like_one_of_twice_the_size(npz):
    states, histories = [], []
    for options in ({"batch_size": 10}, {"batch_size": 5, "grad_accum_steps": 2}):
        pipeline, data = prepare(npz, head={"use": "cot", "dropout": 0.0})
        assert len(data.train) % 10 > 5  # the last two small batches are of different size
        histories.append(fit(pipeline, data, epochs=2, **options).history)
        states.append(pipeline.state_dict())
    for name, value in states[0].items():
        if not name.endswith("key.bias"):  # its gradient is rounding noise, since softmax ignores a common shift
            torch.testing.assert_close(states[1][name], value, rtol=0, atol=1e-4)
    assert histories[0][0]["val"]["loss"] == pytest.approx(histories[1][0]["val"]["loss"], rel=1e-4)


def test_every_series_is_seen_once_an_epoch_in_an_order_of_its_own(npz):
    data = load_data(npz)
    batches = BatchLoader(data.train, TrainConfig(batch_size=4, grad_accum_steps=2, seed=1))
    orders = []
    for epoch in (1, 2):
        groups = list(batches.iterate_epoch(epoch, torch.device("cpu")))
        assert len(groups) == len(batches)
        orders.append([int(k) for group in groups for series in group for k in series.sample_id])
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(len(data.train)))
    assert orders[0] != orders[1]


# ------------------------------------------------------------------ the optimizer


def test_only_matrices_decay(npz):
    pipeline, data = prepare(npz, head="linear", encoder={**ENCODER, "cls": True})
    for p in pipeline.head.parameters():
        torch.nn.init.zeros_(p)  # so that no gradient reaches what is before the head
    before = {n: p.detach().clone() + 0 for n, p in pipeline.named_parameters()}
    options = {"warmup_ratio": 0, "lr_schedule": "constant", "select_by": "last", "ema_decay": 0}
    fit(pipeline, data, steps=1, batch_size=8, lr=0.1, weight_decay=0.5, **options)
    matrices = [n for n in before if n.endswith(".weight") and before[n].ndim > 1 and not n.startswith("head")]
    others = [n for n in before if n not in matrices and not n.startswith("head")]
    assert len(matrices) >= 6
    assert {"encoder.table", "encoder.cls"} <= set(others)
    after = dict(pipeline.named_parameters())
    for name in matrices:
        torch.testing.assert_close(after[name], before[name] * 0.95)
    for name in others:
        assert torch.equal(after[name], before[name]), name


def test_a_part_may_have_a_rate_of_its_own(npz):
    pipeline, data = prepare(npz, head="linear")
    pipeline.encoder.lr_overrides = lambda: {"stack": 1e-12}
    before = {n: p.detach().clone() for n, p in pipeline.named_parameters()}
    fit(pipeline, data, steps=3, batch_size=8, lr=0.1, select_by="last")
    moved = {n: float((p.detach() - before[n]).abs().max()) for n, p in pipeline.named_parameters()}
    assert max(v for n, v in moved.items() if n.startswith("encoder.stack.")) < 1e-8
    assert moved["encoder.table"] > 1e-3
    assert moved["head.classify.weight"] > 1e-3


def test_a_part_can_be_given_its_rate_by_name_and_the_nearest_name_counts(npz):
    pipeline, data = prepare(npz, head="linear")
    before = {n: p.detach().clone() for n, p in pipeline.named_parameters()}
    fit(
        pipeline,
        data,
        steps=3,
        batch_size=8,
        lr=0.1,
        lr_override=("encoder=1e-12", "encoder.table=0.1"),
        select_by="last",
    )
    moved = {n: float((p.detach() - before[n]).abs().max()) for n, p in pipeline.named_parameters()}
    assert max(v for n, v in moved.items() if n.startswith("encoder.stack.")) < 1e-8
    assert moved["encoder.table"] > 1e-3
    assert moved["head.classify.weight"] > 1e-3


def test_a_rate_without_a_part_or_a_number_is_refused(npz):
    pipeline, data = prepare(npz, head="linear")
    with pytest.raises(OptionError, match=r"--lr-override encodr=1e-3: no trainable part.*encoder"):
        fit(pipeline, data, epochs=1, lr_override=("encodr=1e-3",))
    with pytest.raises(OptionError, match="PART=RATE"):
        fit(pipeline, data, epochs=1, lr_override=("encoder",))


@pytest.mark.slow
def test_the_rate_rises_then_falls_to_zero_or_stays(npz):
    pipeline, data = prepare(npz, head="linear")
    rates = [r["lr"] for r in fit(pipeline, data, epochs=8, lr=0.01, warmup_ratio=0.5, batch_size=8).history]
    assert rates[:4] == sorted(rates[:4])
    assert rates[0] < 0.005
    assert max(rates) == pytest.approx(0.01, rel=0.05)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-9)
    stays = fit(pipeline, data, epochs=3, lr=0.01, warmup_ratio=0, lr_schedule="constant", batch_size=8).history
    assert [r["lr"] for r in stays] == [0.01] * 3


@pytest.mark.slow
def test_the_warm_up_may_be_given_in_steps_and_the_cosine_may_end_above_zero(npz):
    pipeline, data = prepare(npz, head="linear")
    options = {"steps": 12, "validate_every": 1, "lr": 0.01, "batch_size": 8, "select_by": "last"}
    rows = fit(pipeline, data, **options, warmup_steps=3, final_lr_ratio=0.1).history
    rates = [row["lr"] for row in rows]  # after each step, that of the next one
    assert rates[:2] == pytest.approx([0.005, 0.0075])
    for step in range(3, 13):
        want = 0.001 + 0.009 * (1 + math.cos(math.pi * (step - 3) / 9)) / 2
        assert rates[step - 1] == pytest.approx(want)
    options["steps"], options["validate_every"] = 4, 1
    rates = [row["lr"] for row in fit(pipeline, data, **options, warmup_steps=99).history]
    assert rates == pytest.approx([0.01 * step / 100 for step in (2, 3, 4, 5)])
    with pytest.raises(
        OptionError, match=r"--final-lr-ratio 0\.1: only a cosine.* or --final-lr-ratio 0 with constant"
    ):
        fit(pipeline, data, **options, final_lr_ratio=0.1, lr_schedule="constant")


@pytest.mark.parametrize(("steps", "noted"), [(4, True), (8, False)])
def test_a_warm_up_longer_than_training_is_noted(npz, steps, noted):
    notes, train = [], {"steps": steps, "warmup_steps": 8, "lr": 0.01}
    prepare_training(
        resolve_config(("test", {"encoder": ENCODER, "data": npz, "head": "linear", "train": train})), notes.append
    )
    note = "--warmup-steps 8: training has 4 steps and ends at 0.5 times --lr 0.01; train longer, or set fewer"
    assert [line for line in notes if "--warmup-steps" in line] == [note] * noted


def test_weight_decay_reaches_everything_only_on_request(npz):
    pipeline, _ = prepare(npz, head="linear")
    trainable = {n: p for n, p in pipeline.named_parameters() if p.requires_grad}
    decayed = []
    for decay_all in (False, True):
        groups = param_groups(pipeline, 1.0, 0.05, decay_all=decay_all)
        ids = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
        decayed.append({n for n, p in trainable.items() if id(p) in ids})
    assert "encoder.table" not in decayed[0]
    assert decayed[0] < decayed[1] == set(trainable)
    # the option arrives at the optimizer: with no other force on it, a norm's weight shrinks by lr * weight_decay
    for choice, want in (("matrices", 1.0), ("all", 0.95)):
        pipeline, data = prepare(npz, head="linear")
        norm = pipeline.encoder.stack.norm.weight
        norm.register_hook(torch.zeros_like)
        fit(pipeline, data, steps=1, batch_size=8, lr=0.1, weight_decay=0.5, weight_decay_on=choice, warmup_ratio=0,
            select_by="last", ema_decay=0)  # fmt: skip
        assert norm.detach().tolist() == pytest.approx([want] * len(norm))


@pytest.mark.slow
def test_one_cycle_is_torchs(npz):
    from tstk.training.optim import lr_lambda

    factor = lr_lambda(10, 1.0, "one-cycle")
    assert [factor(9), factor(10)] == pytest.approx([1.0, 1 / 25e4])  # that of a step after the last is asked for
    for total, warmup in ((40, 0.3), (7, 0.5), (25, 0.1), (30, 0.0)):
        if warmup:
            optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
            reference = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, 0.2, total_steps=total, pct_start=warmup, cycle_momentum=False
            )
            want = []
            for _ in range(total):
                want.append(reference.get_last_lr()[0] / 0.2)
                optimizer.step()
                reference.step() if len(want) < total else None
        factor = lr_lambda(total, warmup, "one-cycle")
        ours = [factor(step) for step in range(total)]
        if warmup:
            assert ours == pytest.approx(want, rel=1e-9)
        assert max(ours) <= 1
        assert ours[-1] == pytest.approx(1 / 25e4)
    pipeline, data = prepare(npz, head="linear")
    rows = fit(pipeline, data, epochs=4, lr=0.01, warmup_ratio=0.3, lr_schedule="one-cycle", batch_size=8).history
    assert rows[-1]["lr"] < 1e-6 < rows[0]["lr"]


def test_gradients_are_clipped_by_default(npz):
    moved = {}
    for clip in (1e-14, 0.0):
        pipeline, data = prepare(npz, head="linear")
        before = pipeline.head.classify.weight.detach().clone()
        fit(pipeline, data, steps=2, batch_size=8, lr=0.1, weight_decay=0.0, grad_clip=clip, select_by="last")
        moved[clip] = (pipeline.head.classify.weight.detach() - before).abs().max()
    assert moved[1e-14] < 1e-4  # far below the epsilon of AdamW
    assert moved[0.0] > 1e-2


@pytest.mark.slow
def test_what_is_kept_is_the_running_average_of_the_weights(npz):
    states = []
    for average in (0.0, 0.15, 0.9):
        pipeline, data = prepare(npz, head="linear", encoder=ENCODER)
        start = {n: p.detach().clone() for n, p in pipeline.named_parameters()}
        fit(pipeline, data, steps=1, batch_size=8, lr=0.1, select_by="last", ema_decay=average)
        states.append(dict(pipeline.named_parameters()))
    for name, end in states[0].items():
        # after one step the decay is at most 2 / 11
        for kept, decay in ((states[1], 0.15), (states[2], 2 / 11)):
            torch.testing.assert_close(kept[name], decay * start[name] + (1 - decay) * end)


# ------------------------------------------------------------------ when to stop


@pytest.mark.slow
def test_steps_or_epochs_say_how_long(npz):
    for options, steps, epochs in (
        ({"epochs": 3}, 9, 3),
        ({"steps": 7}, 7, 3),
        ({"steps": 6}, 6, 2),
        ({"steps": 1}, 1, 1),
    ):
        pipeline, data = prepare(npz, head="linear")
        assert 16 < len(data.train) <= 24
        callback = RecordingCallback()
        fit_result = fit(pipeline, data, [callback], batch_size=8, **options)
        assert (len(callback.steps), len(fit_result.history)) == (steps, epochs)
        assert callback.planned == (steps, epochs)
        assert [s for s, _ in callback.steps] == list(range(1, steps + 1))


@pytest.mark.slow
@pytest.mark.parametrize("select", ["score", "loss"])
def test_training_stops_after_so_many_epochs_without_improvement(npz, select):
    pipeline, data = prepare(npz, head="linear")
    fit_result = fit(pipeline, data, epochs=10, batch_size=8, lr=0.0, patience=2, select_by=select)
    assert len(fit_result.history) == 3


@pytest.fixture
def poisoned(npz, monkeypatch, tmp_path):
    """Return a function that trains until weights become NaN, and returns the run directory and the error."""

    def train_poisoned(after, **options):
        def poisoned_fit(pipeline, data, config, callbacks, resume_store):
            def poison(epoch):
                if epoch == after:
                    pipeline.head.classify.weight.data.fill_(math.nan)

            if after == 0:
                poison(0)
            return loop.fit(pipeline, data, config, [RecordingCallback(poison)], resume_store)

        monkeypatch.setattr("tstk.training.runs.fit", poisoned_fit)
        config = resolve_config(
            (
                "test",
                {
                    "encoder": ENCODER,
                    "head": "linear",
                    "data": npz,
                    "train": {"epochs": 4, "batch_size": 8, "device": "cpu", "ema_decay": 0},
                },
            )
        )
        with pytest.raises(TrainingError) as caught:
            train(config, tmp_path / "run")
        return tmp_path / "run", str(caught.value)

    return train_poisoned


def test_a_loss_that_is_not_finite_is_named_with_its_step_and_the_best_weights_are_kept(poisoned):
    run, message = poisoned(after=2)
    assert "'cross_entropy' became nan at step 7 (epoch 3)" in message
    assert "kept" in message
    assert "\n" not in message
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    best = max(rows, key=lambda r: (r["val"]["accuracy"], r["epoch"]))
    pipeline = checkpoint.load(run)
    data = load_data(json.loads((run / "config.json").read_text())["config"]["data"]["use"])
    assert evaluate(pipeline, data.val) == pytest.approx(best["val"], rel=1e-6)


def test_a_loss_that_is_not_finite_from_the_start_does_not_mention_kept_weights(poisoned):
    run, message = poisoned(after=0)
    assert "at step 1 (epoch 1)" in message
    assert "kept" not in message
    assert not (run / "model.safetensors").exists()


@pytest.mark.parametrize("select", ["score", "loss", "last"])
def test_weights_that_broke_in_the_last_step_are_never_selected(npz, select):
    pipeline, data = prepare(npz, head="linear")
    with pytest.raises(TrainingError, match=r"validation split: .* not finite, .* after step 1 \(epoch 1\); training"):
        fit(pipeline, data, steps=1, lr=1e38, warmup_ratio=0, lr_schedule="constant", select_by=select)


@pytest.mark.parametrize("command", ["train", "find-lr"])
def test_large_values_that_are_not_standardized_are_named_with_the_remedy(tmp_path, command):
    x = np.random.default_rng(0).normal(size=(20, 2, 8)).astype("float32")
    x[:, 1] *= 1e25
    np.savez(tmp_path / "units.npz", x=x)
    pipeline, data = prepare({"use": str(tmp_path / "units.npz"), "standardize": "none"}, loss="masked")
    start = fit if command == "train" else lambda p, d, **options: lr_range_test(p, d, TrainConfig(**options))
    with pytest.raises(
        TrainingError, match=r"Channel 1 has values up to .*e\+25, .*remove --standardize none"
    ) as caught:
        start(pipeline, data, batch_size=8, device="cpu")
    assert "--lr " not in str(caught.value)


def test_a_forecast_that_is_not_a_number_does_not_go_unmarked(csv):
    pipeline, data = prepare(table_data(csv), head="forecast")
    pipeline.head.project.bias.data[0] = math.nan
    with pytest.raises(NotFiniteError, match=r"of \d+ of \d+ series are not finite, .*, as the weights"):
        evaluate(pipeline, data.val)


@pytest.mark.slow
def test_ema_weights_are_selected_and_training_continues_from_the_current_ones(npz):
    seen = []
    histories = []
    for average in (0.0, 0.5):
        pipeline, data = prepare(npz, head="linear")
        weight = pipeline.head.classify.weight
        seen = [weight.detach().clone()]
        callback = RecordingCallback()
        callback.on_step_end = lambda *_, w=weight, s=seen: s.append(w.detach().clone())
        histories.append(
            fit(
                pipeline, data, [callback], epochs=3, batch_size=8, lr=1e-2, ema_decay=average, select_by="last"
            ).history
        )
    assert [r["train"] for r in histories[0]] == [r["train"] for r in histories[1]]
    assert [r["val"] for r in histories[0]] != [r["val"] for r in histories[1]]
    mean = seen[0]
    for step, weights in enumerate(seen[1:], 1):
        decay = min(0.5, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * weights
    torch.testing.assert_close(pipeline.head.classify.weight.detach(), mean)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ema_decay": 1.0}, "--ema-decay is 1.0; expected"),
        ({"batch_size": 0}, "--batch-size is 0; expected"),
        ({"grad_accum_steps": 0}, "--grad-accum-steps is 0; expected"),
        ({"epochs": 0}, "--epochs is 0; expected"),
        ({"steps": 0}, "--steps is 0; expected"),
        ({"warmup_ratio": 1.0}, "--warmup-ratio is 1.0; expected"),
        ({"layer_decay": 0.0}, "--layer-decay is 0.0; expected"),
        ({"mixup": -1.0}, "--mixup is -1.0; expected"),
        ({"precision": "fp16"}, "--precision fp16 needs a GPU"),
    ],
)
def test_settings_that_cannot_work_are_refused(npz, options, message):
    pipeline, data = prepare(npz, head="linear")
    with pytest.raises(OptionError, match=message):
        fit(pipeline, data, **{"epochs": 1, **options})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_an_error(npz):
    pipeline, data = prepare(npz, head="linear")
    with pytest.raises(OptionError, match="torch sees no GPU"):
        fit(pipeline, data, epochs=1, device="cuda")


def test_sharding_strategies_that_save_partial_weights_are_refused(npz, monkeypatch):
    from accelerate import Accelerator, DistributedType

    pipeline, data = prepare(npz, head="linear")
    monkeypatch.setattr(Accelerator, "distributed_type", property(lambda self: DistributedType.DEEPSPEED))
    with pytest.raises(OptionError, match="configured to use DEEPSPEED, which tstk does not support"):
        fit(pipeline, data, steps=1)


def test_an_empty_training_part_is_refused(npz):
    pipeline, data = prepare(npz, head="linear")
    data.train = data.train.select(torch.arange(0))
    with pytest.raises(DataError, match="training split is empty"):
        fit(pipeline, data, epochs=1)


# ------------------------------------------------------------------ modules do not remember


@pytest.mark.parametrize("tables", [{"head": "cot"}, {"decoder": "cross"}, {"decoder": "transformer"}], ids=str)
def test_a_pass_leaves_nothing_behind_on_any_module(npz, tables):
    pipeline, data = prepare(npz, **tables)
    series = data.train.batch(torch.arange(6))

    def list_values():
        hidden = ("_parameters", "_buffers", "_modules")
        own = {(n, k): v for n, m in pipeline.named_modules() for k, v in vars(m).items() if k not in hidden}
        return {k: id(v) if not isinstance(v, int | float | str) else v for k, v in own.items()}

    before, state = list_values(), copy.deepcopy(pipeline.state_dict())
    pipeline(series).loss.backward()
    pipeline.embed_batch(series)
    assert list_values() == before
    assert all(torch.equal(v, state[k]) for k, v in pipeline.state_dict().items())


def test_training_series_are_cropped_and_validation_series_are_not(npz, monkeypatch):
    lengths = []
    pipeline, data = prepare(npz, head="linear")
    forward = type(pipeline).forward

    def recording_forward(self, series, *rng):
        lengths.append((self.training, series.x.shape[-1]))
        return forward(self, series, *rng)

    monkeypatch.setattr(type(pipeline), "forward", recording_forward)
    fit(pipeline, data, steps=2, crop=8)
    assert {size for training, size in lengths if training} == {8}
    assert {size for training, size in lengths if not training} == {int(data.val.lengths.max())}


def test_windows_of_a_table_are_not_cropped(csv):
    pipeline, data = prepare(table_data(csv), head="forecast")
    with pytest.raises(OptionError, match=r"--crop 8: .* already cut into windows; use --context"):
        fit(pipeline, data, steps=1, crop=8)


@pytest.mark.slow
def test_a_probe_during_training_changes_no_weights_and_logs_its_accuracy(npz):
    rows = {}
    for probe in (None, 2):
        pipeline, data = prepare(npz, decoder="transformer")
        rows[probe] = fit(pipeline, data, epochs=5, probe_every=probe).history
    assert [row["epoch"] for row in rows[2] if "probe" in row["val"]] == [2, 4, 5]
    assert all(0 <= row["val"].pop("probe", 0) <= 1 for row in rows[2])
    assert [row["train"] for row in rows[2]] == [row["train"] for row in rows[None]]


def test_a_probe_needs_classes(csv):
    pipeline, data = prepare(table_data(csv), loss=TAIL)
    with pytest.raises(OptionError, match=r"--probe-every 1: needs a class per series"):
        fit(pipeline, data, steps=1, probe_every=1)


def test_validation_may_come_more_or_less_often_than_a_pass_over_the_data(npz):
    pipeline, data = prepare(npz, head="linear")
    whole = BatchLoader(data.train, TrainConfig(batch_size=4))
    chunks = BatchLoader(data.train, TrainConfig(batch_size=4, validate_every=2))
    passes = [g[0].sample_id.tolist() for e in (1, 2) for g in whole.iterate_epoch(e, torch.device("cpu"))]
    epochs = range(1, len(passes) // 2 + 1)
    assert [g[0].sample_id.tolist() for e in epochs for g in chunks.iterate_epoch(e, torch.device("cpu"))] == passes
    fit_result = fit(pipeline, data, steps=5, batch_size=8, validate_every=2)
    assert [row["epoch"] for row in fit_result.history] == [1, 2, 3]


def test_lower_layers_take_smaller_rates_and_what_is_above_them_the_whole(npz):
    pipeline, data = prepare(npz, head="linear", encoder={**ENCODER, "depth": 2, "cls": True})
    before = {n: p.detach().clone() for n, p in pipeline.named_parameters()}
    options = {
        "warmup_ratio": 0,
        "lr_schedule": "constant",
        "select_by": "last",
        "ema_decay": 0,
        "grad_clip": 0,
        "weight_decay": 0,
    }
    fit(pipeline, data, steps=1, batch_size=8, lr=1e-2, layer_decay=0.5, **options)
    # Adam's first step moves every parameter that has a gradient by its rate
    moved = {n: float((p.detach() - before[n]).abs().max()) for n, p in pipeline.named_parameters()}
    shares = {"head.": 1, "encoder.stack.norm": 1, "encoder.stack.blocks.1": 0.5, "encoder.stack.blocks.0": 0.25}
    shares |= {"encoder.table": 0.125, "encoder.cls": 0.125, "tokenizer.project.weight": 0.125}
    for start, share in shares.items():
        deltas = [v for n, v in moved.items() if n.startswith(start) and v > 0]
        assert max(deltas) == pytest.approx(1e-2 * share, rel=1e-2), start


@pytest.mark.parametrize(
    "encoder",
    [
        {"use": "identity"},
        pytest.param({"use": "hf", "dim": 16, "depth": 2, "heads": 2}, marks=pytest.mark.slow),
        {"use": "bert"},
    ],
)
def test_every_encoder_has_lower_and_higher_layers_or_none(npz, encoder):
    small = {"dim": 16, "depth": 2, "heads": 2} if encoder["use"] == "bert" else {}
    pipeline, _ = prepare(npz, head="linear", encoder={**encoder, **small})
    groups = param_groups(pipeline, 1.0, 0.0, 0.5)
    rates = {group["lr"] for group in groups}
    assert sum(len(g["params"]) for g in groups) == len([p for p in pipeline.parameters() if p.requires_grad])
    depth = 0 if encoder["use"] == "identity" else 2
    assert rates == {1.0, *(0.5 ** (i + 1) for i in range(depth + 1))}


def test_mixed_labels_are_for_training_alone_and_change_what_is_learnt(npz, monkeypatch):
    shapes = []
    pipeline, data = prepare(npz, head="linear")
    forward = type(pipeline).forward

    def recording_forward(self, series, *rng):
        shapes.append((self.training, series.y.ndim))
        return forward(self, series, *rng)

    monkeypatch.setattr(type(pipeline), "forward", recording_forward)
    fit(pipeline, data, steps=2, mixup=0.2)
    assert {n for training, n in shapes if training} == {2}
    assert {n for training, n in shapes if not training} == {1}


def test_series_without_classes_cannot_be_mixed(csv):
    pipeline, data = prepare(table_data(csv), head="forecast")
    with pytest.raises(OptionError, match=r"--mixup 0\.2"):
        fit(pipeline, data, steps=1, mixup=0.2)


def test_changes_are_for_training_alone_and_are_drawn_anew(npz, monkeypatch):
    seen = {True: [], False: []}
    pipeline, data = prepare(npz, head="linear")
    forward = type(pipeline).forward

    def recording_forward(self, series, *rng):
        seen[self.training].append(series)
        return forward(self, series, *rng)

    monkeypatch.setattr(type(pipeline), "forward", recording_forward)
    fit(pipeline, data, steps=6, batch_size=24, augment=("jitter", "permutation=3"))
    plain = {
        int(k): x
        for s in [data.train.batch(torch.arange(len(data.train)))]
        for k, x in zip(s.sample_id, s.x, strict=True)
    }
    first, second = ({int(k): x for k, x in zip(s.sample_id, s.x, strict=True)} for s in seen[True][:2])
    assert all(not torch.equal(first[k], plain[k]) and not torch.equal(first[k], second[k]) for k in first)
    want = data.val.batch(seen[False][0].sample_id)
    assert torch.equal(seen[False][0].x, want.x)


def test_a_change_that_is_not_there_is_refused(npz, csv):
    pipeline, data = prepare(npz, head="linear")
    with pytest.raises(UnknownNameError, match=r"No augmentation is called 'jiter'\. Did you mean 'jitter'"):
        fit(pipeline, data, steps=1, augment=("jiter",))
    with pytest.raises(OptionError, match=r"--augment jitter is 'x'; expected float"):
        fit(pipeline, data, steps=1, augment=("jitter=x",))
    pipeline, data = prepare(table_data(csv), head="forecast")
    with pytest.raises(OptionError, match=r"--augment jitter: .* is a forecasting task"):
        fit(pipeline, data, steps=1, augment=("jitter",))


@pytest.mark.slow
def test_compiled_parts_train_alike_keep_their_names_and_validate_as_written(npz, monkeypatch):
    """Run torch's graphs uncompiled, since compiling them takes a minute."""
    plain, calls = torch.nn.Module.compile, []

    def graphs(self):
        def backend(graph, inputs):
            calls.append(self.training)
            return graph

        plain(self, backend=backend)

    monkeypatch.setattr(torch.nn.Module, "compile", graphs)
    histories = []
    for compile in (False, True):
        pipeline, data = prepare(npz, head="linear", encoder={**ENCODER, "dropout": 0.0})
        names = list(pipeline.state_dict())
        histories.append(fit(pipeline, data, steps=4, batch_size=8, compile=compile).history)
        assert list(pipeline.state_dict()) == names
        assert pipeline.encoder._compiled_call_impl is None
    assert calls
    assert all(calls)
    assert histories[1][-1]["train"] == pytest.approx(histories[0][-1]["train"], rel=1e-4)


@pytest.mark.slow
def test_what_cannot_be_compiled_is_reported_in_one_line(npz, monkeypatch):
    def raise_error(graph, inputs):
        raise RuntimeError("no compiler\nhere")

    plain = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: plain(self, backend=raise_error))
    pipeline, data = prepare(npz, head="linear")
    with pytest.raises(
        TrainingError, match=r"--compile: torch cannot compile .*no compiler.*; omit the option"
    ) as caught:
        fit(pipeline, data, steps=1, compile=True)
    assert "\n" not in str(caught.value)


def test_blocks_are_run_again_only_while_training_and_only_if_asked(npz):
    histories = []
    for again in (False, True):
        pipeline, data = prepare(npz, head="cot")
        runs = []
        block = pipeline.encoder.stack.blocks[0]
        block.register_forward_pre_hook(lambda m, *_, runs=runs: runs.append(m.training))
        fit_result = fit(pipeline, data, steps=2, batch_size=8, gradient_checkpointing=again)
        assert runs.count(True) == (4 if again else 2)
        assert not pipeline.encoder.stack.gradient_checkpointing
        histories.append(fit_result.history[-1]["val"]["loss"])
    assert histories[0] == pytest.approx(histories[1], rel=1e-5)
