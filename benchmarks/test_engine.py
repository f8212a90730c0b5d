"""What the training loop costs over the same steps in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks import harness
from benchmarks.harness import Case, Judge, Verdict
from tstk.checkpoint import launch
from tstk.config import resolve
from tstk.data.load import load
from tstk.engine import Batches, fit

STEPS = 25
DATA = load("har-demo")


def pipeline():
    torch.manual_seed(0)
    config = resolve(("here", {"encoder": {"use": "transformer", "depth": 1, "dim": 64}, "head": {"use": "linear"}}))
    return launch(config, DATA.spec)[0]


class Quiet:
    """A watcher that does what a progress bar must: receive every number."""

    loss = float("nan")

    def begin(self, steps, epochs):
        pass

    def step(self, step, epoch, terms, speed):
        self.loss = terms["loss"]

    def epoch(self, row, improved):
        pass


def plain() -> torch.Tensor:
    model = pipeline()
    torch.set_flush_denormal(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    batches, step = Batches(DATA.train, 32, 1, seed=0), 0
    while step < STEPS:
        for (series,) in batches.epoch(step, torch.device("cpu")):
            if step == STEPS:
                break
            flow = model(series)
            flow.total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            model.after_step([flow])
            step += 1
    torch.set_flush_denormal(False)
    return flow.total.detach()


def ours() -> torch.Tensor:
    watcher = Quiet()
    same = {"warmup": 0.0, "schedule": "constant", "weight_decay": 0.01, "average": 0.0}
    fit(pipeline(), DATA, watcher, steps=STEPS, batch_size=32, device="cpu", select="last", **same)
    return torch.tensor(watcher.loss)


def has_learnt() -> Judge:
    """Both went down to where chance (1.79 for six classes) is behind them."""

    def judge(answer: Sequence[torch.Tensor]) -> Verdict:
        loss = answer[0].item()
        return Verdict(loss, "" if loss < 1.6 else f"a loss of {loss:.2f} after {STEPS} steps")

    return judge


def cases(full: bool, device: str) -> list[Case]:
    """One, on one thread; the processor is what a loop costs."""
    contenders = {
        "tstk.engine": harness.plain(ours, "also validates at each of its epochs"),
        "loop": harness.plain(plain),
    }
    size = f"{STEPS} steps, batch 32"
    return [Case("engine", "one-layer transformer", size, lambda seed, device: (), contenders, has_learnt)]


def test_training_steps(duel, case, name):
    """The engine does not take three times as long as the same steps in plain torch."""
    ratios = duel(case, name)
    assert ratios["loop"] > 1 / 3
