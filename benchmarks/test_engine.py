"""What the training loop costs over the same steps in plain torch."""

from __future__ import annotations

import pytest
import torch

from tstk.checkpoint import launch
from tstk.config import resolve
from tstk.data.load import load
from tstk.engine import Batches, fit

STEPS = 40
DATA = load("har-demo")


def pipeline():
    torch.manual_seed(0)
    config = resolve(("here", {"encoder": {"use": "transformer", "depth": 1, "dim": 64}, "head": {"use": "linear"}}))
    return launch(config, DATA.spec)[0]


class Quiet:
    """A watcher that does what a progress bar must: receive every number."""

    def begin(self, steps, epochs):
        pass

    def step(self, step, epoch, terms, speed):
        pass

    def epoch(self, row, improved):
        pass


def plain() -> None:
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


def ours() -> None:
    fit(pipeline(), DATA, Quiet(), steps=STEPS, batch_size=32, device="cpu", select="last")


CONTENDERS = {"plain loop": plain, "tstk.engine": ours}


@pytest.mark.parametrize("name", CONTENDERS)
def test_training_steps(duel, name):
    """40 steps of a one-layer transformer, batch 32; ours also validates at each of its epochs."""
    median = duel(name, CONTENDERS, "engine: 40 steps")
    assert median["tstk.engine"] < 3 * median["plain loop"]
